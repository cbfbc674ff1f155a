# SPDX-License-Identifier: Apache-2.0
"""HTTP sessions that leak no secret and follow no redirect. Every request of the package uses one.

``requests`` has defaults that are unsafe for a password. All of these are off here:

* redirects that send the body again (307, 308);
* ``~/.netrc``, which replaces the authorisation;
* environment variables that override a setting;
* the debug output of ``http.client``, which prints headers and bodies.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    SSLError,
)

from vantage_orchestration import __version__
from vantage_orchestration.config import HttpSettings, Trust
from vantage_orchestration.errors import ConfigurationError, VantageError, bare, frameless
from vantage_orchestration.retrying import parse_retry_after
from vantage_orchestration.secret import MASK, Secret, refuse_pickling
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.throttle import Throttle
    from vantage_orchestration.upload import MultipartBody

#: Bytes per second below which a reply counts as stalled.
SLOWEST = 1024
#: Seconds by which headers may be late: changing a timeout takes a call of the system.
_INEXACT = 0.05
#: Bytes of a body that are sent at once; sending them may take the whole timeout.
_PIECE = 65536
#: Connections to a server that are kept for further requests; a task may have many at a time.
_MOST_CONNECTIONS = 100
#: ``requests`` itself repeats nothing: the caller decides what is safe to repeat.
_NO_RETRIES = 0


_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


class _BundleError(SSLError):
    """The CA bundle can't be read."""


class _HandshakeError(NewConnectionError):
    """The TLS handshake broke off. Nothing was sent yet."""

    def __init__(self, connection: HTTPConnection, reason: str) -> None:
        super().__init__(connection, reason)
        self.handshake = reason


class _Reader(io.RawIOBase):
    """Reads a reply within time limits. All headers must arrive within the timeout, and the body
    must make progress in each such period. A timeout for each single read would let a server drip
    for ever."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._timeout = self._set = sock.gettimeout()
        self._end = None if self._timeout is None else time.monotonic() + self._timeout
        self._waited, self._received = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        begun = time.monotonic()
        if self._end is not None:
            left = self._end - begun
            if left <= 0:
                raise TimeoutError("the headers did not come in time")
            if self._set - left > _INEXACT:
                self._limit(left)
        count: int | None = self._raw.readinto(buffer)
        self._received += count or 0
        self._waited += time.monotonic() - begun
        if self._timeout is not None and self._waited > self._timeout:
            if count and self._received < SLOWEST * self._timeout:
                raise TimeoutError("the body comes too slowly")
            self._waited, self._received = 0.0, 0
        return count

    def end_headers(self) -> None:
        """Begin the body: each read now has the whole timeout."""
        self._end = None
        if self._set != self._timeout:
            self._limit(self._timeout)

    def _limit(self, seconds: float) -> None:
        self._sock.settimeout(seconds)
        self._set = seconds

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._reader = _Reader(sock)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read the headers of the reply, and pass over interim ones (RFC 9110, section 15.2), which
        gateways send. http.client passes over 100 alone: after another one, the next request on
        this connection would get the reply of this one."""
        super().begin()
        while 101 < self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        self._reader.end_headers()


class _QuietConnection(HTTPConnection):
    debuglevel = 0  # http.client prints headers and bodies where somebody turned it on globally.
    response_class = _Response


class _QuietTLSConnection(HTTPSConnection):
    debuglevel = 0
    response_class = _Response

    def connect(self) -> None:
        """Connect. Only a failed verification counts as a bad certificate."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError:
            raise
        except SSLError as error:
            raise _BundleError(*error.args) from None
        except TimeoutError:
            raise ConnectTimeoutError(self, "the TLS handshake did not end in time") from None
        except (ssl.SSLError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise _HandshakeError(self, str(reason)) from None

    def send(self, data: Any) -> None:
        """Send data. If the server has closed the connection, urllib3 reads its reply all the same,
        as without TLS: front ends refuse a large body, or its token, before they have read it."""
        try:
            super().send(data)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None


class _QuietPool(HTTPConnectionPool):
    ConnectionCls = _QuietConnection


class _QuietTLSPool(HTTPSConnectionPool):
    ConnectionCls = _QuietTLSConnection


_POOLS = {"http": _QuietPool, "https": _QuietTLSPool}


class _Unseen:
    """Hides the proxy connection managers from an adapter's repr: their addresses may hold a
    password."""

    __slots__ = ("managers",)

    def __init__(self, managers: dict[str, ProxyManager]) -> None:
        self.managers = managers


class _Adapter(HTTPAdapter):
    @property
    def proxy_manager(self) -> dict[str, ProxyManager]:
        return self._unseen.managers

    @proxy_manager.setter
    def proxy_manager(self, managers: dict[str, ProxyManager]) -> None:
        self._unseen = _Unseen(managers)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, blocksize=_PIECE)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **kwargs, blocksize=_PIECE)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return super().send(*args, **kwargs)
        except requests.RequestException:
            raise
        except LocationValueError:
            # It comes from the environment: the connection's own address was checked before.
            raise requests.exceptions.InvalidProxyURL from None
        except (HTTPError, OSError) as error:  # For example a CA bundle that has vanished.
            kind = type(error).__name__
        raise requests.ConnectionError(kind)


class _Credential(Protocol):
    @property
    def secrets(self) -> tuple[Secret, ...]: ...


class NoAuth(AuthBase):
    """Sends no authorisation. Its presence keeps ``requests`` away from ``~/.netrc``."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return the request unchanged."""
        return request


class HttpSession(requests.Session):
    """A ``requests.Session`` with the settings of a connection.

    Args:
        settings: Certificates, proxy, timeouts. They win over the environment.
        base_url: Address below which relative paths are taken; ``session.get("/skills")`` works.
        auth: Authorises each request; by default none is authorised.
        throttle: Limits of requests; by default there are none.

    Redirects are never followed and cookies never kept. Requests without a timeout use the one in
    ``settings``. Thread-safe. Neither replies nor errors contain the authorisation or the proxy's
    address.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        base_url: str,
        auth: AuthBase | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        super().__init__()
        self._throttle = throttle
        self.settings = settings
        self.trust = Trust.of(settings, base_url)
        self.base_url = base_url
        self.auth = auth or NoAuth()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["User-Agent"] = f"vantage-orchestration/{__version__}"
        self.headers["Accept"] = "application/json"
        self.headers["Accept-Encoding"] = "gzip"
        # `trust` already holds what the environment adds; requests would let it override the
        # settings.
        self.trust_env = False
        self.verify = self.trust.verify
        self._open_pool()
        self._root = ""

    def _open_pool(self) -> None:
        self._pid = os.getpid()
        adapter = _Adapter(
            pool_connections=4,
            pool_maxsize=_MOST_CONNECTIONS,
            max_retries=_NO_RETRIES,
            pool_block=False,
        )
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    @frameless
    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json_body: Any = None,
        upload: MultipartBody | None = None,
        headers: Mapping[str, str],
    ) -> requests.Response:
        """Send a request below ``base_url`` and return its reply, whose body is not read.

        It does what :meth:`request` does for the arguments that the client has. That one merges
        settings of all kinds, which takes longer than all the rest.
        """
        request = requests.PreparedRequest()
        if not self._root:
            request.prepare_url(self.base_url, None)
            self._root = str(request.url).rstrip("/")
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request.method = method
        request.url = f"{self._root}{path}{'?' if given else ''}{urlencode(given, doseq=True)}"
        kept: Mapping[str, Any] = self.headers
        request.headers = CaseInsensitiveDict({**kept, **headers})
        request.hooks = {event: list(hooks) for event, hooks in self.hooks.items()}
        request.prepare_body(upload, None, json_body)
        assert isinstance(self.auth, AuthBase)
        return self.send(
            self.auth(request),
            stream=True,
            timeout=self.settings.timeouts,
            proxies=self.proxies,
        )

    @frameless
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

    def slot(self) -> AbstractContextManager[None]:
        """Return a context in which one request counts as running.

        A request that is not streamed takes its slot by itself. One that is streamed runs until its
        reply was read, which only its caller knows.
        """
        return nullcontext() if self._throttle is None else self._throttle.slot()

    @frameless
    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a prepared request."""
        if self._pid != os.getpid():
            # A forked child would share connections with its parent, and read its replies.
            self._open_pool()
        if self.trust.proxy:
            # Passed per request, because a session or adapter could show what it keeps.
            kwargs["proxies"] = dict.fromkeys(("http", "https"), self.trust.proxy.reveal())
        try:
            with nullcontext() if kwargs.get("stream") else self.slot():
                response = super().send(request, **kwargs)
        except requests.RequestException as error:
            raise _stripped(error) from None
        if response.status_code == 429 and self._throttle is not None:
            self._throttle.back_off(parse_retry_after(response.headers.get("Retry-After")))
        for each in (response, *response.history):
            # The request stays with the reply, which may become part of an error.
            each.request.hooks = {"response": []}
            if "Authorization" in each.request.headers:
                each.request.headers["Authorization"] = MASK
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no redirect is followed."""
        return

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling


def request_id_of(response: requests.Response, credential: _Credential) -> str | None:
    """Return the cleaned ``x-request-id`` header, which some installations send."""
    value = response.headers.get("x-request-id")
    return clean(value, credential.secrets) if value else None


def network_error(
    error: requests.RequestException,
    make: Callable[..., VantageError],
    trust: Trust,
    where: dict[str, Any],
) -> VantageError:
    """Return an error of the class ``make`` that describes a network failure in our own words, or a
    ConfigurationError if the certificate, the CA bundle, the address or the proxy's login is wrong.

    The exception of ``requests`` holds the prepared request with its headers and body, so neither
    it nor its text is passed on. Call this inside ``except`` and raise the result outside of it, so
    that the original does not become the new error's context.
    """
    causes = list(_causes(error))
    by_proxy = isinstance(error, requests.exceptions.ProxyError)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            whose = "proxy" if by_proxy else "server"
            return ConfigurationError(
                f"The certificate of the {whose} was not accepted: {clean(cause.verify_message)}",
                hint=_bundle_hint(trust),
                **where,
            )
        if isinstance(cause, _BundleError):
            return ConfigurationError(
                f"The CA bundle {trust.verify!r} can't be read", hint=_bundle_hint(trust), **where
            )
    if by_proxy:
        return _proxy_error(causes, make, trust, where)
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
            hint=f"Check the base URL and {_proxy_of(trust)}; a SOCKS proxy needs the package"
            " PySocks",
            **where,
        )
    for cause in causes:
        if isinstance(cause, _HandshakeError):
            return make(
                f"The TLS handshake failed ({clean(cause.handshake)})",
                hint="Check the port of the base URL; a proxy or firewall on the way may have cut"
                " the connection",
                **where,
            )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return make("The connection timed out", **where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return make("The server did not answer in time", doubtful=True, **where)
    if any(isinstance(cause, (NewConnectionError, ConnectTimeoutError)) for cause in causes):
        return make(
            "The connection could not be made",
            hint="Check the address, the name service and the network",
            **where,
        )
    return make("The connection broke before the reply was complete", doubtful=True, **where)


def proxy_wants_login(trust: Trust, where: dict[str, Any]) -> ConfigurationError:
    """Return the error for status 407. It is not retried: that could lock the proxy's account."""
    return ConfigurationError(
        "The HTTP proxy answered 407: it requires a login",
        hint=f"Put user and password into the address of {_proxy_of(trust)}:"
        " http://USER:PASSWORD@HOST:PORT with percent-encoded parts",
        **{**where, "status": 407},
    )


def _proxy_error(
    causes: list[BaseException],
    make: Callable[..., VantageError],
    trust: Trust,
    where: dict[str, Any],
) -> VantageError:
    found = [found for cause in causes if (found := _TUNNEL.search(str(cause)))]
    if not found:
        what = "The HTTP proxy could not be reached"
    elif found[-1][1] == "407":
        return proxy_wants_login(trust, where)
    else:
        what = f"The HTTP proxy answered {found[-1][1]} and did not connect to the server"
    return make(what, hint=f"Check {_proxy_of(trust)}, and whether it may reach the host", **where)


def _proxy_of(trust: Trust) -> str:
    return f"the proxy of {trust.proxy_from or 'the connection'}"


def _bundle_hint(trust: Trust) -> str:
    if isinstance(trust.verify, str):
        owner = f"{trust.bundle_from} of the environment" if trust.bundle_from else "the connection"
        return (
            f"Nothing but the CA bundle of {owner} is trusted: it must be a PEM file with the"
            " authority that signed the certificate"
        )
    return "If a company's own authority signed it, set the CA bundle of the connection"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; the libraries keep them in several places."""
    inner: object = error
    for _ in range(8):
        if not isinstance(inner, BaseException):
            return
        yield inner
        reasons = (getattr(inner, name, None) for name in ("reason", "original_error"))
        inner = next(
            (each for each in (*reasons, *inner.args[::-1]) if isinstance(each, BaseException)),
            None,
        )


def _stripped(error: requests.RequestException) -> requests.RequestException:
    """Remove headers and proxy from an error and its causes."""
    for cause in list(_causes(error)):
        bare(cause)
        for name in vars(cause).keys() & {"request", "response", "pool", "conn"}:
            setattr(cause, name, None)
    return error
