# SPDX-License-Identifier: Apache-2.0
"""Made-up tenants, users and API clients of a sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .ids import Ids
from .settings import SandboxSettings

PASSWORD = "password"  # noqa: S105 - name of a grant
CLIENT_CREDENTIALS = "client_credentials"


@dataclass(frozen=True)
class Tenant:
    """A tenant. With an external identity provider the password grant does not work (2.1)."""

    id: str
    name: str
    external_identity_provider: bool = False


@dataclass(frozen=True)
class ApiClient:
    """An API client. It belongs to the tenant whose administrator created it (2.6)."""

    id: str
    tenant_id: str
    secret: str = field(repr=False)
    grants: frozenset[str] = frozenset({PASSWORD, CLIENT_CREDENTIALS})
    secret_expired: bool = False


@dataclass(frozen=True)
class User:
    """A user, known by an address in one or more tenants."""

    name: str
    tenant_ids: tuple[str, ...]
    password: str = field(repr=False)


@dataclass(frozen=True)
class Accounts:
    """Everything that can sign in. The first of each kind is the main one."""

    tenants: tuple[Tenant, ...]
    clients: tuple[ApiClient, ...]
    users: tuple[User, ...]

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Find a tenant by its id."""
        return next((item for item in self.tenants if item.id == tenant_id.lower()), None)

    def client(self, client_id: str) -> ApiClient | None:
        """Find an API client by its id."""
        return next((item for item in self.clients if item.id == client_id), None)

    def user(self, name: str) -> User | None:
        """Find a user by address; case does not matter."""
        return next((item for item in self.users if item.name.lower() == name.lower()), None)

    def secrets(self) -> set[str]:
        """Return all passwords and client secrets."""
        return {item.password for item in self.users} | {item.secret for item in self.clients}

    def shown(self) -> dict[str, Any]:
        """Return everything as JSON data, with the made-up passwords and secrets."""
        main_client, main_user = self.clients[0], self.users[0]
        return {
            "tenant_id": self.tenants[0].id,
            "username": main_user.name,
            "password": main_user.password,
            "client_id": main_client.id,
            "client_secret": main_client.secret,
            "tenants": [
                {
                    "id": item.id,
                    "name": item.name,
                    "external_identity_provider": item.external_identity_provider,
                }
                for item in self.tenants
            ],
            "clients": [
                {
                    "client_id": item.id,
                    "client_secret": item.secret,
                    "tenant_id": item.tenant_id,
                    "grants": sorted(item.grants),
                    "secret_expired": item.secret_expired,
                }
                for item in self.clients
            ],
            "users": [
                {
                    "username": item.name,
                    "password": item.password,
                    "tenant_ids": list(item.tenant_ids),
                }
                for item in self.users
            ],
        }


def seeded_accounts(settings: SandboxSettings, ids: Ids) -> Accounts:
    """Make the accounts: a main tenant, a second one, and one with single sign-on."""
    main = Tenant((settings.tenant_id or ids.fixed("tenant", "main")).lower(), "Example Ltd")
    second = Tenant(ids.fixed("tenant", "second"), "Second Example Ltd")
    external = Tenant(ids.fixed("tenant", "external"), "Single Sign-on Example Ltd", True)
    secret = settings.client_secret
    clients = (
        ApiClient(settings.client_id, main.id, secret),
        ApiClient("second-client", second.id, secret),
        ApiClient("external-client", external.id, secret),
        ApiClient("service-client", main.id, secret, frozenset({CLIENT_CREDENTIALS})),
        ApiClient("expired-client", main.id, secret, secret_expired=True),
    )
    users = (
        User(settings.username, (main.id,), settings.password),
        User("second@example.com", (second.id,), settings.password),
        User("both@example.com", (main.id, second.id), settings.password),
        User("external@example.com", (external.id,), settings.password),
    )
    return Accounts((main, second, external), clients, users)
