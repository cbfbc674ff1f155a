# SPDX-License-Identifier: Apache-2.0
"""The one way to the network: sessions that leak nothing and follow nowhere.

What ``requests`` does by default and a password must not meet: redirects that send the body again
(307, 308), ``~/.netrc`` replacing the authorisation, and ``http.client``'s debug output, which
prints headers and bodies. All are off here, for every session of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from vantage_orchestration import __version__
from vantage_orchestration.config import HttpSettings
from vantage_orchestration.credentials import is_loopback
from vantage_orchestration.errors import ConfigurationError, VantageError
from vantage_orchestration.text import clean

__all__ = ["HttpSession", "NoAuth", "network_error", "request_id_of"]

#: ``requests`` repeats nothing by itself: what is safe to repeat is decided by the caller.
_NO_RETRIES = 0


class _QuietConnection(HTTPConnection):
    debuglevel = 0  # http.client prints headers and bodies where somebody turned it on globally.


class _QuietTLSConnection(HTTPSConnection):
    debuglevel = 0


class _QuietPool(HTTPConnectionPool):
    ConnectionCls = _QuietConnection


class _QuietTLSPool(HTTPSConnectionPool):
    ConnectionCls = _QuietTLSConnection


_POOLS = {"http": _QuietPool, "https": _QuietTLSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class NoAuth(AuthBase):
    """Sends no authorisation. Its presence keeps ``requests`` away from ``~/.netrc``."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return the request unchanged."""
        return request


class HttpSession(requests.Session):
    """A ``requests.Session`` with the settings of a connection.

    Args:
        settings: Certificates, proxy, timeouts.
        base_url: Address below which relative paths are taken; ``session.get("/skills")`` works.
        auth: Authorises each request; nobody by default.
        pool_size: Connections kept open at the same time.

    Redirects are never followed and cookies never kept. Requests without a timeout get the
    settings'. Usable from several threads.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        base_url: str,
        auth: AuthBase | None = None,
        pool_size: int = 10,
    ) -> None:
        from http.cookiejar import DefaultCookiePolicy

        super().__init__()
        self.settings = settings
        self.base_url = base_url
        self.auth = auth or NoAuth()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["User-Agent"] = f"vantage-orchestration/{__version__}"
        self.headers["Accept"] = "application/json"
        self.verify = (settings.ca_bundle or True) if settings.verify else False
        if settings.proxy:
            self.proxies = {"http": settings.proxy.reveal(), "https": settings.proxy.reveal()}
        elif is_loopback(urlsplit(base_url).hostname):
            # http in the clear is for this machine alone; a proxy of the environment is not it.
            self.trust_env = False
        adapter = _Adapter(
            pool_connections=4, pool_maxsize=pool_size, max_retries=_NO_RETRIES, pool_block=False
        )
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def request(
        self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send a request; a path is taken below ``base_url``."""
        address = url.decode() if isinstance(url, bytes) else url
        if "://" not in address:
            address = f"{self.base_url}/{address.lstrip('/')}"
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.settings.timeouts
        return super().request(method, address, *args, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no redirect is followed."""
        return

    def __reduce__(self) -> Any:
        raise TypeError("A session of ABBYY Vantage holds a token and can't be pickled")


def request_id_of(response: requests.Response) -> str | None:
    """Return the reply's ``x-request-id``, which some installations send, cleaned."""
    value = response.headers.get("x-request-id")
    return clean(value) if value else None


def network_error(
    error: requests.RequestException,
    make: Callable[..., VantageError],
    *,
    method: str,
    path: str,
    host: str,
    transaction_id: str | None = None,
) -> VantageError:
    """Say in own words what went wrong on the network.

    The exception of ``requests`` holds the prepared request with its headers and body, so neither
    it nor its text may travel on. Call this inside ``except`` and raise the result outside of it,
    so that it does not become the context of what is raised.

    Args:
        error: What ``requests`` raised.
        make: Class of the error to make of passing trouble.
        method: HTTP method.
        path: Path of the request.
        host: Host that was asked.
        transaction_id: Transaction concerned.

    Returns:
        An error of ``make``; ConfigurationError if the certificate or the address is at fault.
    """
    where: dict[str, Any] = {
        "method": method,
        "path": path,
        "host": host,
        "transaction_id": transaction_id,
    }
    if isinstance(error, requests.exceptions.SSLError):
        return ConfigurationError(
            f"The certificate of the server was not accepted: {clean(str(error))}",
            hint="If a company's own authority signed it, set the CA bundle of the connection",
            **where,
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return make(
            "The HTTP proxy could not be reached or refused the connection",
            hint="Check the proxy of the connection or of the environment",
            **where,
        )
    if isinstance(
        error,
        (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.InvalidProxyURL,
        ),
    ):
        return ConfigurationError(
            "The address or the proxy of the connection is not valid",
            hint="Check the base URL and the proxy",
            **where,
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return make("The connection could not be made in time", **where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return make("The server did not answer in time", doubtful=True, **where)
    if _never_connected(error):
        return make(
            "The connection could not be made",
            hint="Check the address, the name service and the network",
            **where,
        )
    return make("The connection broke before the reply was complete", doubtful=True, **where)


def _never_connected(error: BaseException) -> bool:
    """Tell whether the request can't have arrived, since there was no connection."""
    seen: list[object] = [error]
    for _ in range(6):
        last = seen[-1]
        if isinstance(last, (NewConnectionError, ConnectTimeoutError)):
            return True
        arguments = getattr(last, "args", ())
        inner = getattr(last, "reason", None) or (arguments[0] if arguments else None)
        if inner is None:
            return False
        seen.append(inner)
    return False
