# SPDX-License-Identifier: Apache-2.0
"""Access tokens: the token request with all its refusals, and the check of a bearer token.

The service documents no token errors. The codes follow RFC 6749, section 5.2, and the texts the
contract's section 2.3. Decided here, as no source says it:

* A missing or doubled member is ``invalid_request``.
* The password grant in a tenant with an external identity provider is ``unauthorized_client``.
* A locked account answers ``invalid_grant`` with ``account_locked``, the right password or not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from .accounts import CLIENT_CREDENTIALS, PASSWORD, Accounts, ApiClient, Tenant, User
from .clock import Clock
from .ids import Ids
from .settings import SandboxSettings

SCOPE = frozenset({"openid", "permissions", "global.wildcard"})


class OAuthError(Exception):
    """A refused token request (RFC 6749, section 5.2)."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description

    def body(self) -> dict[str, str]:
        """Return the JSON object of the refusal."""
        return {"error": self.error, "error_description": self.description}


@dataclass
class Token:
    """An issued access token."""

    text: str = field(repr=False)
    tenant_id: str
    subject: str
    ends: float
    revoked: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 of the token as hex digits, to name it without showing it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def user_hash(name: str) -> str:
    """Return a short hash that stands for a user name in the journal."""
    return hashlib.sha256(name.lower().encode()).hexdigest()[:16]


class TokenService:
    """Issues, checks and revokes tokens."""

    def __init__(self, accounts: Accounts, ids: Ids, clock: Clock) -> None:
        self._accounts = accounts
        self._ids = ids
        self._clock = clock
        self.tokens: dict[str, Token] = {}
        self._wrong_passwords: Counter[str] = Counter()

    def issue(
        self,
        pairs: list[tuple[str, str]],
        authorization: str,
        tenant: Tenant | None,
        settings: SandboxSettings,
    ) -> dict[str, Any]:
        """Answer a token request.

        Args:
            pairs: Members of the form.
            authorization: Value of the Authorization header, or empty.
            tenant: Tenant of the path, if the path names one.
            settings: Present settings.

        Returns:
            The JSON object of the reply.

        Raises:
            OAuthError: The request is refused.
        """
        form = _form(pairs)
        client = self._client(form, authorization, tenant)
        grant = _needed(form, "grant_type")
        if grant not in (PASSWORD, CLIENT_CREDENTIALS):
            raise OAuthError("unsupported_grant_type", f"the grant {grant!r} is not offered")
        if grant not in client.grants:
            raise OAuthError("unauthorized_client", f"the client may not use the grant {grant}")
        scopes = set(_needed(form, "scope").split())
        if scopes != SCOPE:
            raise OAuthError("invalid_scope", f"expected: {' '.join(sorted(SCOPE))}")
        if grant == PASSWORD:
            user = self._user(form, client, tenant, settings.lockout)
            return self._new_token(client.tenant_id, user.name, settings)
        return self._new_token(client.tenant_id, client.id, settings)

    def check(self, authorization: str) -> Token | None:
        """Return the token of an Authorization header if it is good, else None."""
        scheme, _, text = authorization.partition(" ")
        token = self.tokens.get(text.strip())
        if scheme.lower() != "bearer" or token is None or token.revoked:
            return None
        return token if self._clock.monotonic() < token.ends else None

    def revoke(self, sha256: str | None = None) -> int:
        """Revoke all tokens, or the one with that SHA-256. Return how many were good before."""
        good = [
            token
            for token in self.tokens.values()
            if not token.revoked and (sha256 is None or token.sha256 == sha256.lower())
        ]
        for token in good:
            token.revoked = True
        return len(good)

    def revoke_bearer(self, authorization: str) -> int:
        """Revoke the token of an Authorization header."""
        token = self.tokens.get(authorization.partition(" ")[2].strip())
        return self.revoke(token.sha256) if token else 0

    def unlock(self) -> None:
        """Unlock all accounts."""
        self._wrong_passwords.clear()

    def issued(self) -> list[str]:
        """Return every token ever issued."""
        return list(self.tokens)

    def _client(self, form: dict[str, str], authorization: str, tenant: Tenant | None) -> ApiClient:
        secrets: tuple[str, ...]
        if authorization:
            if "client_secret" in form:
                raise OAuthError("invalid_request", "client given in the form and in the header")
            client_id, secrets = _basic(authorization)
            if form.get("client_id", client_id) != client_id:
                raise OAuthError("invalid_request", "two different clients are given")
        else:
            client_id, secrets = _needed(form, "client_id"), (_needed(form, "client_secret"),)
        client = self._accounts.client(client_id)
        if client is None or client.secret not in secrets:
            raise OAuthError("invalid_client", "the client or its secret is wrong")
        if client.secret_expired:
            raise OAuthError("invalid_client", "the secret of the client has expired")
        if tenant is not None and client.tenant_id != tenant.id:
            raise OAuthError("invalid_client", "the client does not belong to this tenant")
        return client

    def _user(
        self, form: dict[str, str], client: ApiClient, tenant: Tenant | None, lockout: int
    ) -> User:
        name, password = _needed(form, "username"), _needed(form, "password")
        home = self._accounts.tenant(client.tenant_id)
        if home is not None and home.external_identity_provider:
            raise OAuthError(
                "unauthorized_client",
                "the tenant signs in through an external identity provider; "
                "the password grant is not available",
            )
        user = self._accounts.user(name)
        key = name.lower()
        if lockout and self._wrong_passwords[key] >= lockout:
            raise OAuthError("invalid_grant", "account_locked")
        if user is None or user.password != password:
            if user is not None:
                self._wrong_passwords[key] += 1
            raise OAuthError("invalid_grant", "invalid_username_or_password")
        self._wrong_passwords[key] = 0
        if client.tenant_id not in user.tenant_ids:
            raise OAuthError("invalid_grant", "invalid_username_or_password")
        if tenant is None and len(user.tenant_ids) > 1:
            raise OAuthError(
                "invalid_grant",
                "the user belongs to several tenants; name the tenant in the path",
            )
        return user

    def _new_token(self, tenant_id: str, subject: str, settings: SandboxSettings) -> dict[str, Any]:
        lifetime = settings.token_lifetime
        claims = {"jti": self._ids.new("token"), "tenant_id": tenant_id, "exp_in": lifetime}
        text = ".".join(
            (_part({"alg": "RS256", "typ": "at+jwt"}), _part(claims), self._ids.secret("token"))
        )
        self.tokens[text] = Token(text, tenant_id, subject, self._clock.monotonic() + lifetime)
        return {
            "access_token": text,
            "expires_in": lifetime,
            "token_type": "Bearer",
            "scope": "openid permissions global.wildcard",
        }


def _form(pairs: list[tuple[str, str]]) -> dict[str, str]:
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form:
            raise OAuthError("invalid_request", f"{name} is given twice")
        # RFC 6749, 3.2: a member without a value counts as left out.
        if value:
            form[name] = value
    return form


def _needed(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"{name} is missing")
    return form[name]


def _basic(authorization: str) -> tuple[str, tuple[str, ...]]:
    """Read a Basic header. RFC 6749 wants both parts form-encoded; most clients don't do it."""
    scheme, _, text = authorization.partition(" ")
    try:
        decoded = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        decoded = ""
    if scheme.lower() != "basic" or ":" not in decoded:
        raise OAuthError("invalid_client", "the Authorization header is not usable")
    client_id, _, secret = decoded.partition(":")
    return unquote_plus(client_id), (secret, unquote_plus(secret))


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
