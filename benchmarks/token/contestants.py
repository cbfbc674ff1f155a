# SPDX-License-Identifier: Apache-2.0
"""Each library as its documentation wants it used: one shared object per process.

Importing this module loads no library; :meth:`Contestant.load` does. No heavy module of the
standard library either, since the time to import each library is measured.

Where a library has no lock around its login, it stays without one here; :class:`Locked` adds the
lock that a careful user would write.
"""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SCOPE = "openid permissions global.wildcard"


class Setting:
    """Where and as whom to log in.

    Args:
        base_url: Address of the token server.
        client_id: Id of the API client.
        client_secret: Its secret.
        password: Password of the user.
        store: Folder for what is kept between processes.
    """

    def __init__(
        self, base_url: str, client_id: str, client_secret: str, password: str, store: str
    ) -> None:
        self.base_url = base_url
        self.token_url = f"{base_url}/auth2/connect/token"
        self.client_id = client_id
        self.client_secret = client_secret
        self.username = "user@example.com"
        self.password = password
        self.store = store


class Contestant:
    """One way to have a token.

    ``statement`` is what a user writes to get a valid token as text; it runs where ``it`` is the
    library's own object and ``self`` the contestant.
    """

    key = ""
    title = ""
    #: Distribution names whose versions are reported.
    packages: tuple[str, ...] = ()
    grant = "password"
    #: Keeps tokens between processes.
    stores = False
    #: A caller's own lock could add something.
    lockable = True
    #: What it can't do, for the report.
    cannot = ""
    statement = "self.get()"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.it: Any = self.make()

    @classmethod
    def load(cls) -> None:
        """Import what is needed to make the object."""

    def make(self) -> Any:
        """Return the library's own object."""

    def get(self) -> str:
        """Return a valid token, logging in if there is none."""
        raise NotImplementedError

    def reject(self, token: str) -> None:
        """Take note that the server does not accept ``token`` any more."""
        raise NotImplementedError


class Ours(Contestant):
    """This package, with the store in a file."""

    key = "ours"
    title = "**vantage-orchestration**, store `file`"
    packages = ("vantage-orchestration",)
    stores = True
    lockable = False
    cannot = "Only what ABBYY Vantage's token endpoint offers: no browser login, no refresh token"
    store = "file"
    statement = "it.get().reveal()"

    @classmethod
    def load(cls) -> None:
        import vantage_orchestration.config
        import vantage_orchestration.token  # noqa: F401

    def make(self) -> Any:
        from vantage_orchestration.config import VantageConfig
        from vantage_orchestration.token import token_source

        setting = self.setting
        return token_source(
            VantageConfig.from_fields(
                {
                    "region": "custom",
                    "base_url": setting.base_url,
                    "username": setting.username,
                    "password": setting.password,
                    "client_id": setting.client_id,
                    "client_secret": setting.client_secret,
                    "store": self.store,
                    "store_path": setting.store,
                }
            )
        )

    def get(self) -> str:
        return self.it.get().reveal()

    def reject(self, token: str) -> None:
        self.it.invalidate(token)


class OursInMemory(Ours):
    """This package without a store."""

    key = "ours_memory"
    title = "**vantage-orchestration**, store `memory`"
    stores = False
    store = "memory"
    cannot = "Nothing is shared between processes"


class RequestsOAuthlib(Contestant):
    """The client of oauthlib looks at the expiry when a token is put into a request."""

    key = "requests_oauthlib"
    title = "requests-oauthlib"
    packages = ("requests-oauthlib", "oauthlib")
    cannot = (
        "No renewal without a refresh token: the caller catches TokenExpiredError and logs in; no"
        " store; no lock, and a login empties the token that other threads use"
    )
    statement = 'self.client.add_token(self.url, headers={})[1]["Authorization"]'

    @classmethod
    def load(cls) -> None:
        import oauthlib.oauth2  # noqa: F401
        import requests_oauthlib  # noqa: F401

    def make(self) -> Any:
        from oauthlib.oauth2 import LegacyApplicationClient
        from requests_oauthlib import OAuth2Session

        self.url = f"{self.setting.base_url}/api"
        self.client = LegacyApplicationClient(client_id=self.setting.client_id)
        return OAuth2Session(client=self.client, scope=SCOPE)

    def get(self) -> str:
        from oauthlib.oauth2 import TokenExpiredError

        if self.it.token:
            try:
                headers = self.client.add_token(self.url, headers={})[1]
            except TokenExpiredError:
                pass
            else:
                return headers["Authorization"].removeprefix("Bearer ")
        token = self.it.fetch_token(
            self.setting.token_url,
            username=self.setting.username,
            password=self.setting.password,
            client_secret=self.setting.client_secret,
            include_client_id=True,
        )
        return token["access_token"]

    def reject(self, token: str) -> None:
        self.it.token = {}


class Authlib(Contestant):
    """The requests session of Authlib."""

    key = "authlib"
    title = "Authlib (requests)"
    packages = ("Authlib",)
    cannot = (
        "Renews by itself with a refresh token or client_credentials only; no store (a callback"
        " for the caller's own); no lock in the session for requests"
    )
    statement = 'it.ensure_active_token(); it.token["access_token"]'

    @classmethod
    def load(cls) -> None:
        import authlib.integrations.requests_client  # noqa: F401

    def make(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        return OAuth2Session(
            self.setting.client_id,
            self.setting.client_secret,
            scope=SCOPE,
            token_endpoint=self.setting.token_url,
            token_endpoint_auth_method="client_secret_post",  # noqa: S106 - a method's name
        )

    def get(self) -> str:
        token = self.it.token
        if not token or not self.it.ensure_active_token(token):
            token = self.it.fetch_token(
                username=self.setting.username, password=self.setting.password
            )
        return token["access_token"]

    def reject(self, token: str) -> None:
        self.it.token = None


class HandWritten(Contestant):
    """An auth class as the documentation of httpx draws it up, with its lock, done with care."""

    key = "httpx"
    title = "httpx, auth class by hand"
    packages = ("httpx",)
    lockable = False
    cannot = "All of it is the caller's own code; no store"
    statement = "it.token()"

    @classmethod
    def load(cls) -> None:
        import httpx  # noqa: F401

    def make(self) -> Any:
        import httpx

        setting = self.setting

        class PasswordAuth(httpx.Auth):
            """Logs in once for all threads of this process."""

            requires_response_body = True

            def __init__(self) -> None:
                self._lock = threading.RLock()
                self._client = httpx.Client(trust_env=False)
                self._token: str | None = None
                self._end = 0.0

            def token(self) -> str:
                with self._lock:
                    if self._token is None or time.monotonic() >= self._end:
                        self._token, self._end = self._log_in()
                    return self._token

            def reject(self, token: str) -> None:
                with self._lock:
                    if self._token == token:
                        self._token = None

            def _log_in(self) -> tuple[str, float]:
                begun = time.monotonic()
                response = self._client.post(
                    setting.token_url,
                    data={
                        "grant_type": "password",
                        "scope": SCOPE,
                        "username": setting.username,
                        "password": setting.password,
                        "client_id": setting.client_id,
                        "client_secret": setting.client_secret,
                    },
                )
                response.raise_for_status()
                reply = response.json()
                return reply["access_token"], begun + reply["expires_in"] - 60

            def sync_auth_flow(self, request: httpx.Request) -> Any:
                token = self.token()
                request.headers["Authorization"] = f"Bearer {token}"
                response = yield request
                if response.status_code == 401:
                    self.reject(token)
                    request.headers["Authorization"] = f"Bearer {self.token()}"
                    yield request

        return PasswordAuth()

    def get(self) -> str:
        return self.it.token()

    def reject(self, token: str) -> None:
        self.it.reject(token)


class GoogleAuth(Contestant):
    """The credentials class with a refresh handler, the way in for a foreign token endpoint."""

    key = "google_auth"
    title = "google-auth"
    packages = ("google-auth",)
    cannot = (
        "No password grant and no client_credentials grant: the request is the caller's own code"
        " behind `refresh_handler`; no store; no lock"
    )
    statement = "it.token if it.valid else it.refresh(self.request)"

    @classmethod
    def load(cls) -> None:
        import google.auth.transport.requests
        import google.oauth2.credentials  # noqa: F401

    def make(self) -> Any:
        from google.auth.transport.requests import Request
        from google.oauth2.credentials import Credentials

        self.request = Request()
        return Credentials(token=None, refresh_handler=self._log_in, scopes=SCOPE.split())

    def _log_in(self, request: Callable[..., Any], scopes: list[str]) -> tuple[str, Any]:
        import datetime
        import json
        from urllib.parse import urlencode

        from google.auth.exceptions import RefreshError

        begun = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        response = request(
            url=self.setting.token_url,
            method="POST",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(
                {
                    "grant_type": "password",
                    "scope": " ".join(scopes),
                    "username": self.setting.username,
                    "password": self.setting.password,
                    "client_id": self.setting.client_id,
                    "client_secret": self.setting.client_secret,
                }
            ).encode(),
        )
        reply = json.loads(response.data)
        if response.status != 200:
            raise RefreshError(reply.get("error"))
        return reply["access_token"], begun + datetime.timedelta(seconds=reply["expires_in"])

    def get(self) -> str:
        if not self.it.valid:
            self.it.refresh(self.request)
        return self.it.token

    def reject(self, token: str) -> None:
        # As its own AuthorizedSession does after a 401.
        self.it.refresh(self.request)


class Msal(Contestant):
    """The confidential client, whose cache is asked before each login."""

    key = "msal"
    title = "msal"
    packages = ("msal",)
    grant = "client_credentials"
    cannot = (
        "https only (here through a client of the caller's own that speaks http); the endpoint"
        " must come from a discovery document; no lock around the login; only the process itself"
        " remembers a refusal, for a minute; a password login asks for the user's realm first and"
        " looks into no cache"
    )
    statement = 'it.acquire_token_for_client(self.scopes)["access_token"]'

    @classmethod
    def load(cls) -> None:
        import msal  # noqa: F401
        import requests  # noqa: F401

    def cache(self) -> Any:
        """Return the token cache; None for the one in memory."""
        return None

    def make(self) -> Any:
        import msal
        import requests

        class PlainHttp:
            """The library accepts https addresses only; the benchmark's server speaks http."""

            def __init__(self) -> None:
                self._session = requests.Session()

            def get(self, url: str, **rest: Any) -> requests.Response:
                return self._session.get(url.replace("https://", "http://", 1), **rest)

            def post(self, url: str, **rest: Any) -> requests.Response:
                return self._session.post(url.replace("https://", "http://", 1), **rest)

            def close(self) -> None:
                self._session.close()

        self.scopes = ["global.wildcard"]
        address = self.setting.base_url.replace("http://", "https://", 1)
        return msal.ConfidentialClientApplication(
            self.setting.client_id,
            client_credential=self.setting.client_secret,
            oidc_authority=f"{address}/tenant",
            http_client=PlainHttp(),
            token_cache=self.cache(),
        )

    def get(self) -> str:
        reply = self.it.acquire_token_for_client(self.scopes)
        if "access_token" not in reply:
            raise PermissionError(reply.get("error"))
        return reply["access_token"]

    def reject(self, token: str) -> None:
        self.it.remove_tokens_for_client()


class MsalExtensions(Msal):
    """With the cache in a file that msal-extensions keeps between processes."""

    key = "msal_extensions"
    title = "msal with msal-extensions"
    packages = ("msal-extensions",)
    stores = True
    cannot = (
        "As msal; the lock covers the writing of the file, not the login, and gives up after 5 s;"
        " the file is plain text (encryption needs a key ring)"
    )

    @classmethod
    def load(cls) -> None:
        super().load()
        import msal_extensions  # noqa: F401

    def cache(self) -> Any:
        import os

        from msal_extensions import FilePersistence, PersistedTokenCache

        return PersistedTokenCache(FilePersistence(os.path.join(self.setting.store, "msal.json")))


class Databricks(Contestant):
    """The token source for client credentials."""

    key = "databricks_sdk"
    title = "databricks-sdk"
    packages = ("databricks-sdk",)
    grant = "client_credentials"
    cannot = (
        "No password grant (but by overwriting `grant_type`); its file cache is for logins by"
        " browser; nothing to drop a revoked token, so a new object takes its place"
    )
    statement = "it.token().access_token"

    @classmethod
    def load(cls) -> None:
        import databricks.sdk.oauth  # noqa: F401

    def make(self) -> Any:
        from databricks.sdk.oauth import ClientCredentials

        return ClientCredentials(
            client_id=self.setting.client_id,
            client_secret=self.setting.client_secret,
            token_url=self.setting.token_url,
            scopes=SCOPE,
            use_params=True,
        )

    def get(self) -> str:
        return self.it.token().access_token

    def reject(self, token: str) -> None:
        self.it = self.make()


class OursObject(OursInMemory):
    """This package without taking the text out of the token."""

    key = "ours_object"
    title = "_vantage-orchestration, `get()` without `reveal()`_"
    statement = "it.get()"


class Floor(Contestant):
    """No library: a variable and one look at the clock. Nothing in Python is much faster."""

    key = "floor"
    title = "_a bare variable and a look at the clock: the floor_"
    statement = "self.value if self.now() < self.end else None"

    def make(self) -> Any:
        self.value, self.now, self.end = "x", time.monotonic, time.monotonic() + 3600

    def get(self) -> str:
        return self.value


class Locked(Contestant):
    """A contestant behind the lock that a careful caller writes around it."""

    def __init__(self, inner: Contestant) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._latest: str | None = None

    def get(self) -> str:
        with self._lock:
            self._latest = self.inner.get()
            return self._latest

    def reject(self, token: str) -> None:
        with self._lock:
            if self._latest == token:
                self._latest = None
                self.inner.reject(token)


CONTESTANTS: dict[str, type[Contestant]] = {
    kind.key: kind
    for kind in (
        Ours,
        OursInMemory,
        RequestsOAuthlib,
        Authlib,
        HandWritten,
        GoogleAuth,
        Msal,
        MsalExtensions,
        Databricks,
    )
}
#: Timed for comparison; they have no part in the rest.
TIMED_TOO: dict[str, type[Contestant]] = {kind.key: kind for kind in (OursObject, Floor)}
