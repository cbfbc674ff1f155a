# SPDX-License-Identifier: Apache-2.0
"""The session layer. It sends requests with a valid token and repeats them where that is safe, and
turns replies into values or errors. It knows no operation of the API, but one list that always
exists."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import unquote, urlsplit

import requests
from requests.auth import AuthBase

from vantage_orchestration import errors
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.content import check_content, is_markup
from vantage_orchestration.errors import ConfigurationError, VantageError, frameless, translating
from vantage_orchestration.http import (
    HttpSession,
    network_error,
    proxy_wants_login,
    request_id_of,
)
from vantage_orchestration.models import Page, ResultFile
from vantage_orchestration.parallel import turn
from vantage_orchestration.reply import PAGE_HINT, Reply, drain, page_error, read_start
from vantage_orchestration.retrying import API_RETRIES, LOOKS, RetryPolicy, call, parse_retry_after
from vantage_orchestration.secret import Secret, refuse_pickling
from vantage_orchestration.state import Store
from vantage_orchestration.text import clean, message_of
from vantage_orchestration.throttle import throttle_of
from vantage_orchestration.token.access import AccessToken
from vantage_orchestration.token.source import TokenSource, token_source
from vantage_orchestration.upload import MultipartBody

log = logging.getLogger(__name__)

T = TypeVar("T")

_BY_STATUS: dict[int, type[errors.ApiError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.PayloadTooLarge,
    429: errors.RateLimited,
}
_HINTS = {
    401: "The server rejects a token that it has just issued: check region or base URL and tenant"
    " id of the connection",
    403: "The transaction belongs to another tenant, or the user or API client lacks a right;"
    " rights come from roles in the tenant, not from the scope",
    404: "It is unknown, deleted (transactions are deleted 14 days after they are made) or, for a"
    " skill, not published",
    409: "The transaction already has a file of that name, or too many files",
    413: "The upload is larger than a front end of the server allows",
    429: "Run fewer tasks at a time, for example with an Airflow pool or a Prefect concurrency"
    " limit",
}
_GATEWAY_HINT = (
    "A gateway may have answered in its place; nothing counts as deleted. Try later. If it stays,"
    " check base URL and API path of the connection"
)
_ANY_FILE = "application/octet-stream"
#: Path of what belongs to a transaction; the rest of these paths are lists, and the launch.
_OF_TRANSACTION = re.compile(r"/transactions/(?!(?:active|completed|launch)$)([^/]+)")


def may_repeat(error: VantageError) -> bool:
    # A failed login was already tried several times. A file that has changed is no longer the one
    # whose size and digest are known: the caller's next try reads it anew.
    return error.retryable and not isinstance(error, (errors.AuthError, errors.FileChanged))


def may_repeat_unsent(error: VantageError) -> bool:
    return may_repeat(error) and not error.doubtful


class ApiSession:
    """Sends authorised requests to one ABBYY Vantage tenant. Thread-safe.

    Args:
        config: The credential, or a function that loads it. With a function, a changed credential
            is used as soon as the server rejects a token.
        on_token: Called with each token before its first use, to mask it in logs.
        translate: Returns the exception to raise for an error, so that an orchestrator can mark
            those that no retry can cure.
        retries: Tries and waits after temporary failures, for calls that are safe to repeat.
        orchestrator_store: The orchestrator's own token store, for credentials that use it.
        patience: Longest wait for a login in seconds, for interactive callers; by default as long
            as all tries can take.

    Attributes:
        session: An authorised ``requests.Session``; relative paths are resolved below the API's
            address. It sends the token only to the configured server, follows no redirect, and
            renews a rejected token once. It repeats nothing else and raises no error for a status.

    Raises:
        ConfigurationError: The stored credential can't be used. Nothing was sent.
    """

    def __init__(
        self,
        config: VantageConfig | Callable[[], VantageConfig],
        *,
        on_token: Callable[[str], object] | None = None,
        translate: Callable[[VantageError], Exception] | None = None,
        retries: RetryPolicy = API_RETRIES,
        orchestrator_store: Store | None = None,
        patience: float | None = None,
    ) -> None:
        load = (lambda: config) if isinstance(config, VantageConfig) else config
        self._translate = translate
        self._retries = retries
        with translating(translate):
            self._auth = VantageAuth(
                load,
                on_token=on_token,
                translate=translate,
                orchestrator_store=orchestrator_store,
                patience=patience,
            )
            self.session: Final = HttpSession(
                self.config.http,
                base_url=self.config.credentials.api_url,
                auth=self._auth,
                throttle=throttle_of(self.config),
            )

    @classmethod
    def from_env(cls, **options: Any) -> ApiSession:
        """Return a client configured by environment variables (``ABBYY_VANTAGE_REGION`` and so on).

        Args:
            options: Further arguments of the constructor.
        """
        return cls(VantageConfig.from_env, **options)

    # -- the connection

    @property
    def config(self) -> VantageConfig:
        """The credential in use."""
        return self._auth.config

    def get_token(self) -> AccessToken:
        """Return a valid token. Do not store, log or return it.

        Raises:
            AuthError: No token could be obtained.
        """
        with self.translating():
            return self._auth.token()

    async def aget_token(self) -> AccessToken:
        """Return a valid token as :meth:`get_token` does, without blocking the event loop."""
        with self.translating():
            return await self._auth.atoken()

    def close(self) -> None:
        """Close the connections. A later request opens new ones."""
        self.session.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VantageClient({self.config.credentials.api_url!r})"

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling

    def translating(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which errors become those that the orchestrator wants."""
        return translating(self._translate)

    def _read(
        self,
        path: str,
        read: Callable[[Any], T],
        *,
        method: str = "GET",
        repeat: bool = True,
        **options: Any,
    ) -> T:
        """Send a request and read its JSON reply; ``options`` are those of :meth:`send_once`."""
        return self._repeat(
            lambda: self.send_once(method, path, lambda reply: reply.json(read), **options),
            may_repeat if repeat else may_repeat_unsent,
        )

    def _download(
        self,
        path: str,
        stream: BinaryIO,
        expected: ResultFile | None = None,
        most: float = math.inf,
    ) -> int:
        """Write a file into a stream at its current position. The content must be of the type of
        the expected file, if there is one, and have at most ``most`` bytes, besides the limit of
        the connection."""
        kind = expected.type if expected is not None else None
        begin = stream.tell()
        most = int(min(most, self.config.http.result_limit * 1024**2))

        def attempt() -> int:
            stream.seek(begin)
            stream.truncate()
            size, headers = self.send_once(
                "GET",
                path,
                lambda reply: (reply.copy_to(stream.write, most), reply.headers),
                accept=_ANY_FILE,
            )
            stream.seek(begin)
            try:
                check_content(
                    stream,
                    kind,
                    may_be_empty=headers.get("Content-Length") == "0",
                    may_be_page=headers.get("Content-Type") == _ANY_FILE,
                )
            except ValueError as error:
                reason = str(error)
            else:
                stream.seek(begin + size)
                return size
            raise errors.ProtocolError(
                f"What was downloaded is not {f'{expected.name!r} ({kind})' if expected else 'it'}:"
                f" {reason}",
                hint=PAGE_HINT,
                **self._where("GET", path),
            )

        return self._repeat(attempt)

    def _repeat(
        self,
        attempt: Callable[[], T],
        check: Callable[[VantageError], bool] = may_repeat,
        looks: int = LOOKS,
    ) -> T:
        with self.translating():
            return call(
                attempt,
                self._retries,
                may_repeat=check,
                looks=looks,
                before_last_look=self.confirm_missing_once,
            )

    def confirm_missing_once(self) -> None:
        """Check that a 404 about a transaction comes from the service: while that is being
        deployed, a gateway in front of it may answer 404 to everything. One request.

        Raises:
            ServiceUnavailable: The lists of transactions, which always exist, are missing as well.
        """
        with contextlib.suppress(errors.BadRequest, errors.Forbidden):
            self.send_once(
                "GET",
                "/transactions/active",
                lambda reply: reply.json(Page.read),
                params={"Limit": 1},
                always_there=True,
            )

    @frameless
    def send_once(
        self,
        method: str,
        path: str,
        take: Callable[[Reply], T],
        *,
        params: Mapping[str, Any] | None = None,
        json_body: Any = None,
        upload: MultipartBody | None = None,
        accept: str | None = None,
        always_there: bool = False,
    ) -> T:
        """Send one request once, for callers that have their own rules for retries.

        Args:
            method: HTTP method.
            path: Path below the API's address.
            take: Reads a 2xx reply.
            params: Query.
            json_body: Body as JSON data.
            upload: Body of files.
            accept: Media type of a file to download; JSON by default.
            always_there: Whether a 404 can't come from the service: it counts as unavailable.

        Returns:
            The result of ``take``.

        Raises:
            VantageError: No reply came, or it reports a failure.
        """
        headers = {"Content-Type": upload.content_type} if upload is not None else {}
        if accept is not None:
            headers["Accept"] = accept
        where = self._where(method, path)
        failure: VantageError
        session = self.session
        try:
            with (
                turn(),
                session.slot(),
                session.ask(
                    method,
                    path,
                    params=params,
                    json_body=json_body,
                    upload=upload,
                    headers=headers,
                ) as response,
            ):
                told = {
                    **where,
                    "status": response.status_code,
                    "request_id": request_id_of(response, self._auth),
                }
                # A part (206) was not requested: a cache on the way has only that. To a GET, some
                # others say that the content is not there, or not yet.
                unfit = (202, 204, 205, 206) if method == "GET" else (206,)
                if 200 <= response.status_code < 300 and response.status_code not in unfit:
                    return take(Reply(response, self.config.http.read_timeout, told))
                failure = self._error_of(response, told, always_there)
        except requests.RequestException as error:
            failure = network_error(error, errors.ConnectionFailed, session.trust, where)
        raise failure

    # -- internals

    def _error_of(
        self, response: requests.Response, where: dict[str, Any], always_there: bool
    ) -> VantageError:
        status = response.status_code
        if status == 407:
            return proxy_wants_login(self.session.trust, where)
        body = read_start(response, self.config.http.read_timeout)
        secrets = self._auth.secrets
        kind = _BY_STATUS.get(status)
        if kind is None:
            kind = (
                errors.ServiceUnavailable
                if status >= 500 or status == 408
                else errors.BadRequest
                if status >= 400
                else errors.Redirected
                if status >= 300
                else errors.ProtocolError
            )
        if is_markup(body) and kind in (
            errors.BadRequest,
            errors.Conflict,
            errors.Forbidden,
            errors.NotFound,
        ):
            # A page is not an answer of the service.
            return page_error(response, where)
        hint = _HINTS.get(status)
        what = f"ABBYY Vantage answered {status} {clean(response.reason or '', secrets)}".rstrip()
        if status == 404 and always_there:
            kind, hint = errors.ServiceUnavailable, _GATEWAY_HINT
            what = "ABBYY Vantage answered 404 to what always exists"
        elif status < 300:
            hint = PAGE_HINT
        elif status < 400:
            hint = "Redirects are not followed; check the base URL of the connection"
        return kind(
            what,
            hint=hint,
            server_message=message_of(body, secrets),
            retry_after=parse_retry_after(response.headers.get("Retry-After")),
            doubtful=status >= 500 or status in (206, 408),
            **where,
        )

    def _where(self, method: str, path: str) -> dict[str, Any]:
        credentials, about = self.config.credentials, _OF_TRANSACTION.match(path)
        return {
            "method": method,
            "path": credentials.api_path + path,
            "host": credentials.host,
            "transaction_id": unquote(about[1]) if about else None,
        }


# ------------------------------------------------------------- the authorisation


class VantageAuth(AuthBase):
    """``requests`` authorisation with a token that is valid when used.

    After a 401 it discards exactly the token that was used, loads the credential again, and sends
    the request once more. If the new token is rejected as well, it stays in use for a minute:
    another login would not help. A request whose body can't be sent again keeps its 401. A 403
    renews nothing: rights come from roles, not from tokens. ``load`` loads the stored credential;
    the other arguments are those of :class:`ApiSession`.
    """

    def __init__(
        self,
        load: Callable[[], VantageConfig],
        *,
        on_token: Callable[[str], object] | None = None,
        translate: Callable[[VantageError], Exception] | None = None,
        orchestrator_store: Store | None = None,
        patience: float | None = None,
    ) -> None:
        self._load = load
        self._patience = patience
        self._orchestrator_store = orchestrator_store
        self._on_token = on_token
        self._translate = translate
        self.config = load()
        self._used: tuple[AccessToken, ...] = ()
        self._found: tuple[VantageConfig, TokenSource] | None = None
        self._masked: tuple[Any, Any, tuple[Secret, ...]] = None, None, ()

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Values to mask, including the last two tokens."""
        config, used = self.config, self._used
        if self._masked[0] is not config or self._masked[1] is not used:
            tokens = (Secret(token.reveal()) for token in used)
            self._masked = config, used, (*config.secrets, *tokens)
        return self._masked[2]

    @functools.cached_property
    def _home(self) -> tuple[str, str]:
        """Scheme and host that the token may reach, as requests writes them: for example, it
        encodes a host with letters that are not ASCII."""
        request = requests.PreparedRequest()
        request.prepare_url(self.config.credentials.base_url, None)
        home = urlsplit(request.url)
        return str(home.scheme), str(home.netloc).lower()

    @property
    def source(self) -> TokenSource:
        """The process's token source for the credential."""
        config = self.config
        # Finding it takes a digest of the whole credential, which is too slow for each request.
        if self._found is None or self._found[0] is not config:
            self._found = config, token_source(config, self._orchestrator_store)
        return self._found[1]

    def token(self) -> AccessToken:
        """Return a valid token.

        A failed login is not repeated, but the credential is loaded again, since it may have
        changed: an expired token would otherwise end a long task.
        """
        try:
            token = self.source.get(self._patience)
        except VantageError:
            if not self._reload():
                raise
            token = self.source.get(self._patience)
        self._tell(token)
        return token

    async def atoken(self) -> AccessToken:
        """Return a valid token as :meth:`token` does, without blocking the event loop."""
        try:
            token = await self.source.aget(self._patience)
        except VantageError:
            # Loading the credential may block: it may call an orchestrator's API.
            if not await asyncio.to_thread(self._reload):
                raise
            token = await self.source.aget(self._patience)
        self._tell(token)
        return token

    def _reload(self) -> bool:
        """Load the stored credential again; return whether it changed."""
        old, new = self.config, self._load()
        new.credentials.check_place(old.credentials.place)
        self.config = new
        return new != old

    def _tell(self, token: AccessToken) -> None:
        if token not in self._used:
            if self._on_token is not None:
                self._on_token(token.reveal())
            self._used = (*self._used[-1:], token)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the ``Authorization`` header to a request to the configured server."""
        with translating(self._translate):
            self._check_address(request.url or "")
            token = self.token()
        request.headers["Authorization"] = f"Bearer {token.reveal()}"
        tell = getattr(request.body, "tell", None)
        position = tell() if tell is not None else None
        request.hooks["response"].append(functools.partial(self._renew, token, position))
        return request

    def _check_address(self, url: str) -> None:
        asked = urlsplit(url)
        if (asked.scheme, asked.netloc.lower()) != self._home:
            raise ConfigurationError(
                "This session is authorised for ABBYY Vantage only, and the request goes to"
                " another server",
                hint="Use another session for other addresses: the token must not reach them",
                host=asked.hostname,
            )

    def _renew(
        self,
        token: AccessToken,
        position: int | None,
        response: requests.Response,
        **kwargs: Any,
    ) -> requests.Response:
        """Answer a 401 with a new token, once."""
        if response.status_code != 401:
            return response
        with translating(self._translate):
            self.source.invalidate(token)
            self._reload()
            body = response.request.body
            if body is not None and not isinstance(body, (bytes, str)) and position is None:
                return response
            renewed = self.token()
            if renewed.is_same(token):
                return response
            drain(response, sum(self.config.http.timeouts))
            again = response.request.copy()
            again.hooks = {"response": []}
            again.headers["Authorization"] = f"Bearer {renewed.reveal()}"
            if position is not None:
                again.body.seek(position)  # type: ignore[union-attr]
            second: requests.Response = response.connection.send(again, **kwargs)
            if second.status_code == 401:
                self.source.keep(renewed)
            second.history.append(response)
            second.request = again
            return second
