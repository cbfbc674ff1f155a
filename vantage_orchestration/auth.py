# SPDX-License-Identifier: Apache-2.0
"""Authorises requests, and renews the token once where the server rejects it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.utils import rewind_body

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import ConfigurationError, VantageError, translating
from vantage_orchestration.reply import drain
from vantage_orchestration.secret import Secret
from vantage_orchestration.token.access import AccessToken
from vantage_orchestration.token.source import TokenSource, token_source
from vantage_orchestration.token.stores import StoreFactory

__all__ = ["VantageAuth"]


class VantageAuth(AuthBase):
    """``requests`` authorisation with a token that is valid when it is used.

    On a 401 it drops exactly the token that was used, reads the credential again from where it is
    stored, and sends the request once more, once. If that is rejected as well, the new token is
    used on for a minute: another login would not help. A request whose body can't be sent again
    keeps its 401. A 403 renews nothing: rights come from roles, not from tokens.

    Args:
        load: Reads the stored credential afresh.
        on_token: Told each token before it is used for the first time, so that an orchestrator
            can mask it in its logs.
        translate: Turns an error into the exception to raise.
        orchestrator_store: Makes the orchestrator's own token store, for credentials that ask
            for it.
        patience: Seconds to wait for a login at the most, see :meth:`.TokenSource.get`.
    """

    def __init__(
        self,
        load: Callable[[], VantageConfig],
        *,
        on_token: Callable[[str], object] | None = None,
        translate: Callable[[VantageError], Exception] | None = None,
        orchestrator_store: StoreFactory | None = None,
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

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must not be shown, the last two tokens among it."""
        return (*self.config.secrets, *(Secret(token.reveal()) for token in self._used))

    @property
    def source(self) -> TokenSource:
        """The process's token source for the credential."""
        config = self.config
        # Finding it takes a digest of the whole credential, too much for each request.
        if self._found is None or self._found[0] is not config:
            self._found = config, token_source(config, self._orchestrator_store)
        return self._found[1]

    def token(self) -> AccessToken:
        """Return a valid token.

        A login that fails is not repeated, but the credential is read again: it may have been
        changed since, and a token that simply ended would otherwise fail a long task for good.

        Raises:
            AuthError: There is none to be had.
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
            # Reading the credential may block: an orchestrator's API is asked.
            if not await asyncio.to_thread(self._reload):
                raise
            token = await self.source.aget(self._patience)
        self._tell(token)
        return token

    def _reload(self) -> bool:
        """Read the stored credential again; tell whether it was changed."""
        new = self._load()
        changed, self.config = new != self.config, new
        return changed

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
        base = urlsplit(self.config.credentials.base_url)
        asked = urlsplit(url)
        if (asked.scheme, asked.netloc.lower()) != (base.scheme, base.netloc.lower()):
            raise ConfigurationError(
                "This session is authorised for ABBYY Vantage only, and the request goes elsewhere",
                hint="Use a session of your own for other addresses: the token must not reach them",
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
            return self._send_again(token, position, response, **kwargs)

    def _send_again(
        self,
        token: AccessToken,
        position: int | None,
        response: requests.Response,
        **kwargs: Any,
    ) -> requests.Response:
        self.source.invalidate(token)
        server = self.config.credentials.base_url
        if self._reload() and self.config.credentials.base_url != server:
            return response  # The request was made for another server.
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
            again._body_position = position  # type: ignore[attr-defined]
            rewind_body(again)
        second: requests.Response = response.connection.send(again, **kwargs)
        if second.status_code == 401:
            self.source.keep(renewed)
        second.history.append(response)
        second.request = again
        return second
