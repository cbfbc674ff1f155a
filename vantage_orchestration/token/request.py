# SPDX-License-Identifier: Apache-2.0
"""Requests a token once: the form, the request, and what the reply means.

Errors are returned instead of raised, so that no traceback has a frame in which the password is a
local variable.
"""

from __future__ import annotations

import base64
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.credentials import DEFAULT_SCOPE, REGIONS, Credentials
from vantage_orchestration.errors import (
    AuthError,
    AuthProtocolError,
    AuthUnavailable,
    ClientRejected,
    ConfigurationError,
    CredentialsRejected,
    GrantNotAllowed,
    ScopeRejected,
    Throttled,
    VantageError,
)
from vantage_orchestration.secret import Secret
from vantage_orchestration.text import clean, message_of, read_json

#: Assumed lifetime in seconds if the reply has no ``expires_in`` (contract, section 9).
ASSUMED_LIFETIME = 3600.0
#: Longest accepted lifetime in seconds. The documented lifetime is 30 days.
LONGEST_LIFETIME = 31 * 86400.0
#: Largest token reply in bytes.
LONGEST_REPLY = 1024 * 1024

#: Seconds for which a refused login is not sent again; doubles with each further refusal.
REFUSAL_HOLD = 900.0
#: The same for a login blocked by a firewall, which may open again, and shortest time for which a
#: refusal with a ``Retry-After`` is held.
BLOCKED_HOLD = 60.0
#: Errors that mean that the server has checked the login and will refuse it again.
REFUSALS = (CredentialsRejected, ClientRejected, GrantNotAllowed, ScopeRejected)

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_DIGITS = re.compile(r"\s*\d{1,15}(\.\d{0,9})?\s*")
_LOCKED = re.compile(
    r"(?<![a-z])b?lock|disabled|suspended|deactivated|too.many|attempts|\brate\b|limit|throttl",
    re.IGNORECASE,
)
_FOREIGN = re.compile(
    r"external|identity.?provider|\bidp\b|federat|single.sign|\bsso\b|saml", re.IGNORECASE
)
_TENANT = re.compile(r"tenant", re.IGNORECASE)

#: Statuses below 500, and error codes, of temporary failures.
_PASSING = frozenset({408, 425})
_PASSING_CODES = frozenset({"temporarily_unavailable", "server_error"})
#: Codes of RFC 6749, section 5.2, and related ones. They mean a refusal with any status.
_OAUTH_CODES = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
    }
)
#: Codes that mean that a person must sign in with a browser.
_BY_HAND = frozenset({"interaction_required", "login_required", "consent_required", "mfa_required"})
#: Statuses about the request's address or form. The login was not checked.
_UNJUDGED = frozenset({404, 405, 406, 410, 411, 412, 413, 414, 415, 416, 417, 426, 428, 431, 451})
_NO_ENDPOINT = (
    "There is no token endpoint at this address",
    "Check region or base URL, tenant id and authentication path of the connection",
)
_TOO_LARGE = (
    "A front end of the token endpoint rejects the request as too large",
    "Check the base URL, and the limits of a proxy or gateway on the way",
)
#: Meaning of answers that do not come from a token endpoint: what failed, and a hint.
_FOREIGN_ANSWERS = {
    403: (
        "A firewall, proxy or filter in front of the token endpoint blocks the request",
        "Ask the network's administrators to allow this machine to connect to the host",
    ),
    404: _NO_ENDPOINT,
    405: _NO_ENDPOINT,
    410: _NO_ENDPOINT,
    413: _TOO_LARGE,
    414: _TOO_LARGE,
    421: (
        "The request reached a server that is not responsible for this address",
        "Try later; if this persists, check the base URL and the proxy",
    ),
    431: _TOO_LARGE,
    451: (
        "The network blocks the token endpoint for legal reasons",
        "Ask the network's administrators",
    ),
}
_FOREIGN_ANSWER = (
    "Something other than a token endpoint answered",
    "Check the base URL; a proxy, firewall or gateway on the way may have answered in its place",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """The content of a successful token reply."""

    token: Secret
    #: Lifetime in seconds, counted from before the request.
    lifetime: float


def log_in(config: VantageConfig) -> Grant | VantageError:
    """Request a token once (contract, section 2.1); return the grant or the error."""
    import requests

    from vantage_orchestration.http import network_error
    from vantage_orchestration.reply import Broken, Damaged, Packed, TooLong, TooSlow

    where: dict[str, Any] = {
        "method": "POST",
        "path": config.credentials.token_path,
        "host": config.credentials.host,
    }
    try:
        return _sent(config, where)
    except VantageError as error:
        return error.copy()
    except requests.RequestException as error:
        return network_error(error, AuthUnavailable, config.trust, where)
    except TooLong:
        what = f"The token endpoint's reply has more than {LONGEST_REPLY} bytes"
        return AuthProtocolError(what, hint="Check the base URL", **where)
    except Packed as error:
        what = f"The token endpoint's reply is compressed with {clean(str(error))}"
        hint = "That was not requested. Check the base URL, and a gateway in front of it"
        return AuthProtocolError(what, hint=hint, **where)
    except Damaged:
        hint = "A proxy or gateway may have damaged it"
        return AuthProtocolError("The token endpoint's reply can't be unpacked", hint=hint, **where)
    except TooSlow:
        return AuthUnavailable("The token endpoint's reply did not arrive in time", **where)
    except Broken:
        return AuthUnavailable("The connection broke before the reply was complete", **where)


def _sent(config: VantageConfig, where: dict[str, Any]) -> Grant | VantageError:
    from vantage_orchestration.http import HttpSession, NoAuth, proxy_wants_login, request_id_of
    from vantage_orchestration.reply import read_chunks
    from vantage_orchestration.retrying import parse_retry_after

    credentials = config.credentials
    with (
        HttpSession(config.http, base_url=credentials.base_url, auth=NoAuth()) as session,
        session.post(
            credentials.token_url,
            data=token_form(credentials),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept-Encoding": "identity",
                **client_header(credentials),
            },
            stream=True,
        ) as response,
    ):
        where["status"] = response.status_code
        if response.status_code == 407:
            return proxy_wants_login(session.trust, where)
        chunks = read_chunks(response, LONGEST_REPLY, config.http.read_timeout)
        return read_reply(
            response.status_code,
            b"".join(chunks),
            credentials,
            retry_after=parse_retry_after(response.headers.get("Retry-After")),
            request_id=request_id_of(response, config),
        )


def token_form(credentials: Credentials) -> bytes:
    """Return the body of the token request, form-encoded as UTF-8 (contract, section 2.1).

    Client id and secret are form values, as the vendor documents, unless the credential requires
    HTTP Basic. A grant type other than ``password`` and ``client_credentials`` sends all values
    that are set.
    """
    form = {"grant_type": credentials.grant_type, "scope": credentials.scope}
    if credentials.grant_type != "client_credentials" and credentials.username:
        form["username"] = credentials.username
        form["password"] = credentials.password.reveal()
    if credentials.client_auth == "form":
        form["client_id"] = credentials.client_id
        form["client_secret"] = credentials.client_secret.reveal()
    return urlencode(form, encoding="utf-8", errors="strict").encode("ascii")


def client_header(credentials: Credentials) -> dict[str, str]:
    """Return the header with the API client, if the credential requires HTTP Basic.

    Id and secret are form-encoded first (RFC 6749, section 2.3.1), so that colons and non-ASCII
    characters arrive.
    """
    if credentials.client_auth != "basic":
        return {}
    parts = (credentials.client_id, credentials.client_secret.reveal())
    joined = ":".join(quote_plus(part, encoding="utf-8") for part in parts)
    return {"Authorization": f"Basic {base64.b64encode(joined.encode('ascii')).decode('ascii')}"}


def renewal_margin(lifetime: float, jitter: float = 0.0) -> float:
    """Return how many seconds before its expiry a token is renewed. A jitter of 0 to 1, which adds
    up to half of that, spreads the renewals of processes that share a credential."""
    return min(300.0, lifetime / 10) * (1 + jitter / 2)


def read_reply(
    status: int,
    body: bytes,
    credentials: Credentials,
    *,
    retry_after: float | None = None,
    request_id: str | None = None,
) -> Grant | VantageError:
    """Return the grant, or the error to raise, for the reply to a token request.

    ``expires_in`` may be a number or a text of digits; missing or null means
    :data:`ASSUMED_LIFETIME`; a higher value than :data:`LONGEST_LIFETIME` is reduced to it. Zero,
    negative and other values are an AuthProtocolError, since a token that is never valid would be
    requested again and again.

    Status, error code and ``Retry-After`` (in seconds) determine the meaning of an error, never the
    server's text. That only selects a hint.
    """
    where: dict[str, Any] = {
        "method": "POST",
        "path": credentials.token_path,
        "host": credentials.host,
        "status": status,
        "request_id": request_id,
    }
    reply: Any = None
    with suppress(ValueError):
        reply = read_json(body)
    is_object = isinstance(reply, dict)
    code = _error_code(reply, credentials) if is_object else None
    if status == 200 and (code is None or reply.get("access_token")):
        grant = _read_grant(reply) if is_object else "without a JSON object"
        if isinstance(grant, Grant):
            return grant
        return AuthProtocolError(
            f"The token endpoint answered, but {grant}",
            hint="Check the base URL; a proxy or login page may have answered in its place",
            **where,
        )
    said = message_of(body, credentials.secrets)
    shown = f"{code}: {said}" if code and said and code not in said else said
    where["server_message"] = shown or code
    if 300 <= status < 400:
        hint = (
            "Redirects are not followed, since they would forward the password. Check the base URL"
        )
        return AuthProtocolError("The token endpoint answered with a redirect", hint=hint, **where)
    if status < 300 and status != 200:
        what = "The token endpoint answered with an unexpected status"
        return AuthProtocolError(what, hint="Check the base URL", **where)
    if status in _PASSING or status >= 500 or code in _PASSING_CODES:
        return AuthUnavailable(
            "The token endpoint is out of order",
            hint="Try later; the service's state is shown at status.abbyy.com",
            retry_after=retry_after,
            **where,
        )
    if status == 429 or code == "slow_down" or retry_after is not None:
        return Throttled("The token endpoint asks to slow down", retry_after=retry_after, **where)
    if _is_refusal(status, body, code):
        refusal, what, hint = _refusal(status, code, said, credentials)
        return refusal(what, hint=hint, **where)
    what, hint = _FOREIGN_ANSWERS.get(status, _FOREIGN_ANSWER)
    if status in (403, 421):
        return AuthUnavailable(what, hint=hint, **where)
    if status not in _UNJUDGED:
        hint += ". The cause may be a refused login, so the login is not retried"
    return AuthProtocolError(what, hint=hint, **where)


def hold_of(error: VantageError) -> float:
    """Return the seconds for which the same login is not sent again after this failure; 0 for none.

    Every possible refusal counts as one: servers and gateways report it in many ways, and a wrong
    password that is sent repeatedly locks the account.
    """
    if isinstance(error, REFUSALS):
        return REFUSAL_HOLD
    status = error.status or 0
    if isinstance(error, AuthUnavailable) and status == 403:
        return BLOCKED_HOLD
    if isinstance(error, Throttled) and error.retry_after is not None and status not in (0, 429):
        # Such as 400 with Retry-After: the login may still have been checked.
        return max(BLOCKED_HOLD, min(error.retry_after, REFUSAL_HOLD))
    if isinstance(error, (AuthProtocolError, ConfigurationError)) and 400 <= status < 500:
        return 0.0 if status in _UNJUDGED else REFUSAL_HOLD
    return 0.0


def _error_code(reply: dict[str, Any], credentials: Credentials) -> str | None:
    for name in ("error", "errorCode", "error_code"):
        code = reply.get(name)
        if isinstance(code, dict):  # As the APIs of large vendors have it.
            code = code.get("type") or code.get("status") or code.get("code")
        if code and isinstance(code, (str, int)) and not isinstance(code, bool):
            return clean(str(code), credentials.secrets)[:60]
    return None


def _is_refusal(status: int, body: bytes, code: str | None) -> bool:
    """Return whether a token endpoint refuses the login, as opposed to an answer from elsewhere."""
    if code is not None:
        return code in _OAUTH_CODES or status not in _UNJUDGED
    # Some servers send only the status. A web page comes from something in front of them.
    return status in (400, 401) and not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _read_grant(reply: dict[str, Any]) -> Grant | str:
    """Return the grant, or what is wrong with the reply."""
    token = reply.get("access_token")
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        # Other characters would end the header that contains it.
        return "without a usable access_token"
    kind = reply.get("token_type")
    if kind is not None and not (isinstance(kind, str) and kind.lower() == "bearer"):
        return "with a token_type other than Bearer"
    lifetime = _lifetime(reply.get("expires_in"))
    if lifetime is None:
        return "with an expires_in that is not a positive number of seconds"
    return Grant(Secret(token), lifetime)


def _lifetime(value: Any) -> float | None:
    if value is None:
        return ASSUMED_LIFETIME
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(min(value, LONGEST_LIFETIME)) if 0 < value < math.inf else None


def _refusal(
    status: int, code: str | None, said: str | None, credentials: Credentials
) -> tuple[type[AuthError], str, str]:
    """Return class, text and hint of a refused login."""
    by_password = credentials.grant_type == "password"
    if code == "invalid_client" or (code == "unauthorized_client" and status == 401):
        what = f"The API client {credentials.client_id!r} was refused"
        return ClientRejected, what, _client_hint(credentials)
    if code == "invalid_scope":
        hint = "Check the scopes that the API client may request"
        if credentials.scope != DEFAULT_SCOPE:
            hint = (
                f"The documented scope is {DEFAULT_SCOPE!r}; set the scope of the connection, and"
                " check the scopes that the API client may request"
            )
        return ScopeRejected, f"The scope {credentials.scope!r} was refused", hint
    foreign = by_password and bool(_FOREIGN.search(said or "") or code in _BY_HAND)
    if foreign or code in ("unauthorized_client", "unsupported_grant_type"):
        what = f"The grant type {credentials.grant_type!r} is not allowed here"
        return GrantNotAllowed, what, _grant_hint(credentials)
    if code == "invalid_request" and status != 200:
        hint = "Check grant type, scope and authentication path of the connection"
        return AuthProtocolError, "The token endpoint does not understand the request", hint
    who = f"user {credentials.username!r}"
    if credentials.grant_type == "client_credentials":
        who = f"API client {credentials.client_id!r}"
    what, hint = f"The login of {who} was refused", _login_hint(credentials)
    if _LOCKED.search(f"{code or ''} {said or ''}"):
        what += "; the account is locked, or about to be"
        hint = (
            "Ask a Tenant Administrator to unlock it, and correct the password before the next try"
        )
    elif _TENANT.search(said or "") and not credentials.tenant_id and by_password:
        what, hint = f"{what}: it belongs to several tenants", "Set the tenant id of the connection"
    return CredentialsRejected, what, hint


# Hints name only settings that differ from the advice, so that two hints never form a circle.


def _client_hint(credentials: Credentials) -> str:
    hint = (
        "Check client id and client secret. Secrets expire, by default six months after their"
        " creation: a Tenant Administrator can create a new one"
    )
    documented = credentials.region in REGIONS
    if documented and credentials.client_auth == "basic":
        hint += ". ABBYY's cloud accepts the client in the form: set client_auth to form"
    elif not documented and credentials.client_auth == "form":
        hint += ". If both are right, the server may require HTTP Basic: set client_auth to basic"
    return hint


def _grant_hint(credentials: Credentials) -> str:
    if credentials.grant_type == "client_credentials":
        return (
            "Ask a Tenant Administrator to allow the grant type client_credentials for the API"
            " client, and check the client id"
        )
    if credentials.grant_type != "password":
        return "Set the grant type to password or client_credentials, which ABBYY documents"
    return (
        "A tenant with an external identity provider (single sign-on) can't log in with user name"
        " and password: set the grant type to client_credentials, and ask a Tenant Administrator"
        " to allow it for the API client"
    )


def _login_hint(credentials: Credentials) -> str:
    place = "region or base URL (a tenant exists in one region only)"
    if credentials.grant_type == "client_credentials":
        return f"Check client id, client secret and {place}"
    tenant = (
        "Check that the user belongs to the tenant of the tenant id"
        if credentials.tenant_id
        else "If the user belongs to several tenants, set the tenant id"
    )
    hint = f"Check user name, password and {place}. {tenant}"
    if credentials.grant_type == "password":
        hint += "; if the tenant uses single sign-on, set the grant type to client_credentials"
    return f"{hint}. This login is not retried automatically, so that the account is not locked"
