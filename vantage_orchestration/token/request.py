# SPDX-License-Identifier: Apache-2.0
"""Builds a token request and reads its reply. Pure: no network, no clock, no state."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import (
    AuthError,
    AuthProtocolError,
    AuthUnavailable,
    ClientRejected,
    CredentialsRejected,
    GrantNotAllowed,
    ScopeRejected,
    Throttled,
)
from vantage_orchestration.secret import Secret
from vantage_orchestration.text import clean, message_of

__all__ = [
    "ASSUMED_LIFETIME",
    "LONGEST_LIFETIME",
    "LONGEST_REPLY",
    "Grant",
    "read_reply",
    "renewal_margin",
    "token_form",
]

#: Seconds assumed where the reply has no ``expires_in`` (contract, section 9).
ASSUMED_LIFETIME = 3600.0
#: Seconds believed at the most. The documented lifetime is 30 days.
LONGEST_LIFETIME = 31 * 86400.0
#: Bytes of a token reply that are read at the most.
LONGEST_REPLY = 1024 * 1024

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_DIGITS = re.compile(r"\s*\d{1,15}(\.\d{0,9})?\s*")
_LOCKED = re.compile(r"lock|disabled|suspended|blocked", re.IGNORECASE)
_LIMIT = re.compile(r"\brate\b|limit|too.many|throttl|exceeded|slow.down|try.again", re.IGNORECASE)
_FOREIGN = re.compile(
    r"external|identity.?provider|\bidp\b|federat|single.sign|\bsso\b|saml", re.IGNORECASE
)
_TENANT = re.compile(r"tenant", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good token reply says.

    Args:
        token: The access token.
        lifetime: Seconds of its life, counted from before the request.
    """

    token: Secret
    lifetime: float


def token_form(credentials: Credentials) -> bytes:
    """Return the body of the token request, form-encoded (contract, section 2.1).

    Every value is percent-encoded as UTF-8. Client id and secret go into the form, as the vendor
    documents it; HTTP Basic can't carry all characters.

    Args:
        credentials: Who logs in. A grant type other than ``password`` and ``client_credentials``
            sends whatever is set.
    """
    form = {"grant_type": credentials.grant_type, "scope": credentials.scope}
    if credentials.grant_type != "client_credentials" and credentials.username:
        form["username"] = credentials.username
        form["password"] = credentials.password.reveal()
    form["client_id"] = credentials.client_id
    form["client_secret"] = credentials.client_secret.reveal()
    return urlencode(form, encoding="utf-8", errors="strict").encode("ascii")


def renewal_margin(lifetime: float, jitter: float = 0.0) -> float:
    """Return how many seconds before its end a token is renewed.

    Args:
        lifetime: Seconds of the token's life.
        jitter: 0 to 1: spreads the processes that share a credential, so that they do not renew
            at the same moment. Up to half of the margin is added.
    """
    return min(300.0, lifetime / 10) * (1 + jitter / 2)


def read_reply(
    status: int,
    body: bytes,
    credentials: Credentials,
    *,
    retry_after: float | None = None,
    request_id: str | None = None,
) -> Grant | AuthError:
    """Read the reply to a token request.

    Args:
        status: HTTP status.
        body: Body, :data:`LONGEST_REPLY` bytes at the most.
        credentials: Who asked, for messages and to mask echoed secrets.
        retry_after: Seconds that the reply asks to wait.
        request_id: The reply's request id.

    Returns:
        The grant, or the error to raise. The caller raises it, so that no frame with the body in
        it is part of the traceback.

    ``expires_in`` may be a number or a text of digits; missing or null means
    :data:`ASSUMED_LIFETIME`; what is above :data:`LONGEST_LIFETIME` is cut to it; zero, negative
    and everything else is an AuthProtocolError, since a token that is never valid would be asked
    for again and again.
    """
    where: dict[str, Any] = {
        "method": "POST",
        "path": credentials.token_path,
        "host": credentials.host,
        "status": status,
        "request_id": request_id,
    }
    if status == 200:
        return _read_grant(body, where)
    said = message_of(body, credentials.secrets)
    where["server_message"] = said
    if status == 429:
        return Throttled("The token endpoint asks to slow down", retry_after=retry_after, **where)
    if status == 408 or status >= 500:
        return AuthUnavailable(
            "The token endpoint is out of order",
            hint="Try later; the service's state is shown at status.abbyy.com",
            retry_after=retry_after,
            **where,
        )
    if status in (404, 405):
        return AuthProtocolError(
            "There is no token endpoint at this address",
            hint="Check region or base URL, tenant id and authentication path of the connection",
            **where,
        )
    if status < 400:
        return AuthProtocolError(
            "The token endpoint answered with a redirect or an unexpected status"
            if status >= 300
            else "The token endpoint answered with an unexpected status",
            hint="Redirects are not followed, since they would send the password on. Check the"
            " base URL",
            **where,
        )
    return _read_refusal(body, said, credentials, retry_after, where)


def _read_grant(body: bytes, where: dict[str, Any]) -> Grant | AuthError:
    def wrong(what: str) -> AuthError:
        return AuthProtocolError(
            f"The token endpoint answered, but {what}",
            hint="Check the base URL; a proxy or login page may have answered in its place",
            **where,
        )

    try:
        reply: Any = json.loads(body)
    except (ValueError, RecursionError):
        return wrong("not with JSON")
    if not isinstance(reply, dict):
        return wrong("not with a JSON object")
    token = reply.get("access_token")
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        # Other characters would end the header that carries it.
        return wrong("without a usable access_token")
    kind = reply.get("token_type")
    if kind is not None and not (isinstance(kind, str) and kind.lower() == "bearer"):
        return wrong("with a token_type other than Bearer")
    lifetime = _lifetime(reply.get("expires_in"))
    if lifetime is None:
        return wrong("with an expires_in that is no number of seconds above 0")
    return Grant(Secret(token), lifetime)


def _lifetime(value: Any) -> float | None:
    if value is None:
        return ASSUMED_LIFETIME
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return min(float(min(value, LONGEST_LIFETIME)), LONGEST_LIFETIME) if value > 0 else None


def _read_refusal(
    body: bytes,
    said: str | None,
    credentials: Credentials,
    retry_after: float | None,
    where: dict[str, Any],
) -> AuthError:
    code = _error_code(body, credentials)
    text = f"{code or ''} {said or ''}"
    if code and not said:
        where["server_message"] = code
    elif code and said and code not in said:
        where["server_message"] = f"{code}: {said}"

    if code == "invalid_client":
        return ClientRejected(
            f"The API client {credentials.client_id!r} was refused",
            hint="Check client id and client secret. Secrets expire, by default six months after"
            " they are made: a Tenant Administrator can make a new one",
            **where,
        )
    if code == "invalid_scope":
        return ScopeRejected(
            f"The scope {credentials.scope!r} was refused",
            hint="The documented scope is 'openid permissions global.wildcard'; set the scope of"
            " the connection, and check the scopes that the API client may ask for",
            **where,
        )
    foreign = bool(_FOREIGN.search(said or ""))
    if foreign or code in ("unauthorized_client", "unsupported_grant_type"):
        return GrantNotAllowed(
            f"The grant type {credentials.grant_type!r} is not allowed here",
            hint="A tenant with an external identity provider (single sign-on) can't log in with"
            " user name and password: set the grant type to client_credentials, and let a Tenant"
            " Administrator allow it for the API client",
            **where,
        )
    if _LOCKED.search(text):
        return CredentialsRejected(
            f"The account of {_who(credentials)} is locked or disabled",
            hint="Let a Tenant Administrator unlock it, and correct the password before the next"
            " try",
            **where,
        )
    if _LIMIT.search(said or ""):
        # A rate limit can come as 400 invalid_grant; it says nothing about the password.
        return Throttled("The token endpoint asks to slow down", retry_after=retry_after, **where)
    if code == "invalid_request":
        return AuthProtocolError(
            "The token endpoint does not understand the request",
            hint="Check grant type, scope and authentication path of the connection",
            **where,
        )
    if _TENANT.search(said or "") and not credentials.tenant_id:
        return CredentialsRejected(
            f"The login of {_who(credentials)} was refused: it belongs to several tenants",
            hint="Set the tenant id of the connection",
            **where,
        )
    return CredentialsRejected(
        f"The login of {_who(credentials)} was refused",
        hint="Check user name, password and region (a tenant exists in one region only). If the"
        " user belongs to several tenants, set the tenant id; if the tenant uses single sign-on,"
        " set the grant type to client_credentials. This login is not tried again by itself, so"
        " that the account is not locked",
        **where,
    )


def _who(credentials: Credentials) -> str:
    if credentials.grant_type == "client_credentials":
        return f"API client {credentials.client_id!r}"
    return f"user {credentials.username!r}"


def _error_code(body: bytes, credentials: Credentials) -> str | None:
    try:
        reply: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    code = reply.get("error") if isinstance(reply, dict) else None
    return clean(code, credentials.secrets)[:60] if isinstance(code, str) else None
