# SPDX-License-Identifier: Apache-2.0
"""Gives a valid token at any time, with one login for all who ask.

Threads and coroutines that find no valid token share one flight: a login that runs in a thread of
its own. Whoever waits may be cancelled or run into a deadline without harm to the others. No lock
is held while the network is used, and a token that is valid is handed out without any lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import hmac
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import (
    AuthError,
    AuthUnavailable,
    ClientRejected,
    CredentialsRejected,
    GrantNotAllowed,
    ScopeRejected,
    VantageError,
)
from vantage_orchestration.retrying import TOKEN_RETRIES, RetryPolicy, call
from vantage_orchestration.secret import Secret, refuse_pickling
from vantage_orchestration.token.access import SYSTEM_CLOCK, AccessToken, Clock
from vantage_orchestration.token.request import Grant, renewal_margin

__all__ = ["REFUSALS", "REFUSAL_HOLD", "TokenSource", "token_source"]

log = logging.getLogger(__name__)

#: Seconds for which a refused login is not sent again; doubles with each further refusal.
REFUSAL_HOLD = 900.0
#: Longest such time, in seconds.
LONGEST_HOLD = 86400.0
#: Seconds a live token is used further after its renewal failed, before the next try.
RENEWAL_PAUSE = 30.0
#: Errors that mean: the same login will be refused again.
REFUSALS = (CredentialsRejected, ClientRejected, GrantNotAllowed, ScopeRejected)

LogIn = Callable[[VantageConfig], "Grant | VantageError"]
_Outcome = concurrent.futures.Future["AccessToken | VantageError"]


class _Verdict(NamedTuple):
    """A failure that is told to everybody until its time is over, without another request."""

    error: VantageError
    until: float
    hold: float


def _network_log_in(config: VantageConfig) -> Grant | VantageError:
    from vantage_orchestration.token.transport import log_in  # Loads requests.

    return log_in(config)


class TokenSource:
    """Tokens for one credential. Use :func:`token_source` to get the process's one for it.

    Args:
        config: Who logs in and how.
        log_in: Asks for a token once; returns the grant or an error.
        clock: Steady and wall time.
        retries: Tries and waits on passing trouble. A refusal is never repeated.
    """

    def __init__(
        self,
        config: VantageConfig,
        *,
        log_in: LogIn = _network_log_in,
        clock: Clock = SYSTEM_CLOCK,
        retries: RetryPolicy = TOKEN_RETRIES,
    ) -> None:
        self._config = config
        self._log_in = log_in
        self._clock = clock
        self._now = clock.steady
        self._retries = retries
        self._token: AccessToken | None = None
        self._verdict: _Verdict | None = None
        self._pause_until = 0.0
        self._start_afresh()
        _sources.add(self)

    def _start_afresh(self) -> None:
        """Forget what belongs to threads; a forked child has none of its parent's."""
        self._lock = threading.Lock()
        self._flight: _Outcome | None = None
        # SystemRandom, since a forked child would repeat its parent's numbers.
        self._jitter = random.SystemRandom().random()

    def get(self) -> AccessToken:
        """Return a valid token, logging in if there is none.

        Returns:
            The token. It was valid when this was called.

        Raises:
            AuthError: The login was refused (never repeated by itself) or did not succeed.
            ConfigurationError: The server's certificate was not accepted.
        """
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        flight, token = self._board()
        if flight is None:
            return self._present(token)
        try:
            outcome = flight.result(self._patience)
        except concurrent.futures.TimeoutError:
            outcome = self._too_slow()
        return self._settle(outcome)

    async def aget(self) -> AccessToken:
        """Return a valid token as :meth:`get` does, without blocking the event loop."""
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        flight, token = self._board()
        if flight is None:
            return self._present(token)
        # Shielded: a coroutine that is cancelled must not cancel the login of the others.
        waiter = asyncio.shield(asyncio.wrap_future(flight))
        try:
            outcome = await asyncio.wait_for(waiter, self._patience)
        except (asyncio.TimeoutError, TimeoutError):  # Two classes before Python 3.11.
            outcome = self._too_slow()
        return self._settle(outcome)

    def invalidate(self, rejected: AccessToken | str) -> bool:
        """Drop the token that the server rejected, and no other.

        Args:
            rejected: The very token that was used. If another one has replaced it, that one stays:
                64 late rejections of one token cause one login.

        Returns:
            Whether the token was dropped.
        """
        with self._lock:
            if self._token is None or not self._token.is_same(rejected):
                return False
            self._token = None
            return True

    # -- internals

    @property
    def _patience(self) -> float:
        """Seconds to wait for a flight: all its tries, and some more."""
        one_try = sum(self._config.http.timeouts) + self._config.http.read_timeout
        return self._retries.budget + one_try + 5.0

    def _board(self) -> tuple[_Outcome | None, AccessToken | None]:
        """Return the flight to wait for, or else the token to use."""
        now = self._now()
        with self._lock:
            token = self._token
            if token is not None and now < token.renew_at:
                return None, token
            alive = token is not None and now < token.ends_at
            if alive and (now < self._pause_until or self._flight is not None):
                # One renews; the others need not wait while the token lives.
                return None, token
            verdict = self._verdict
            if verdict is not None and now < verdict.until:
                error = verdict.error.copy()
                error.what += f" (not tried again for {verdict.until - now:.0f} s)"
                return _done(error), None
            flight = self._flight
            if flight is not None:
                return flight, None
            flight = self._flight = concurrent.futures.Future()
        try:
            threading.Thread(
                target=self._fly, args=(flight,), name="abbyy-vantage-login", daemon=True
            ).start()
        except RuntimeError:  # No new threads while the interpreter shuts down.
            self._fly(flight)
        return flight, token

    def _fly(self, flight: _Outcome) -> None:
        """Log in and tell the outcome to everybody who waits for ``flight``."""
        outcome: AccessToken | VantageError
        try:
            outcome = call(self._try_once, self._retries)
        except VantageError as error:
            outcome = error.copy()
        except BaseException as error:
            # Whatever it is, nobody may wait for ever; its text could hold anything.
            outcome = AuthUnavailable(f"The login failed with {type(error).__name__}")
        with self._lock:
            self._record(outcome)
            if self._flight is flight:
                self._flight = None
        flight.set_result(outcome)

    def _try_once(self) -> AccessToken:
        # The life of a token counts from before the request: the server's clock started then.
        begun, begun_wall = self._clock.steady(), self._clock.wall()
        reply = self._log_in(self._config)
        if isinstance(reply, VantageError):
            raise reply
        return AccessToken(
            reply.token,
            lifetime=reply.lifetime,
            margin=renewal_margin(reply.lifetime, self._jitter),
            begun=begun,
            begun_wall=begun_wall,
        )

    def _record(self, outcome: AccessToken | VantageError) -> None:
        if isinstance(outcome, AccessToken):
            self._token, self._verdict = outcome, None
            return
        now = self._now()
        self._pause_until = now + max(RENEWAL_PAUSE, outcome.retry_after or 0.0)
        if isinstance(outcome, REFUSALS):
            last = self._verdict.hold if self._verdict else 0.0
            hold = min(max(REFUSAL_HOLD, 2 * last), LONGEST_HOLD)
            self._verdict = _Verdict(outcome, now + hold, hold)
        elif outcome.retry_after and isinstance(outcome, AuthError):
            hold = min(outcome.retry_after, REFUSAL_HOLD)
            self._verdict = _Verdict(outcome, now + hold, 0.0)

    def _settle(self, outcome: AccessToken | VantageError) -> AccessToken:
        if isinstance(outcome, AccessToken):
            return outcome
        token = self._token
        if token is not None and self._now() < token.ends_at:
            log.warning("The token of ABBYY Vantage was not renewed and lives on: %s", outcome)
            return token
        raise outcome.copy()

    def _present(self, token: AccessToken | None) -> AccessToken:
        if token is None:  # pragma: no cover - _board gives one of the two
            raise AuthUnavailable("There is neither a token nor a login")
        return token

    def _too_slow(self) -> AuthUnavailable:
        return AuthUnavailable(
            f"The login did not end within {self._patience:.0f} s",
            host=self._config.credentials.host,
        )

    def __repr__(self) -> str:
        return f"TokenSource(host={self._config.credentials.host!r}, token={self._token!r})"

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling


def _done(outcome: AccessToken | VantageError) -> _Outcome:
    flight: _Outcome = concurrent.futures.Future()
    flight.set_result(outcome)
    return flight


# ------------------------------------------------------------ the registry

_sources: weakref.WeakSet[TokenSource] = weakref.WeakSet()
_registry: dict[bytes, TokenSource] = {}
_registry_lock = threading.Lock()
#: Without it, who sees a key could try passwords against it.
_process_key = Secret(os.urandom(32).hex())


def token_source(config: VantageConfig) -> TokenSource:
    """Return the process's one source for this credential.

    Args:
        config: Who logs in and how. Equal configurations share a source, so that every hook,
            trigger, block and session of the process shares its token and its login.
    """
    key = _key(config)
    with _registry_lock:
        source = _registry.get(key)
        if source is None:
            source = _registry[key] = TokenSource(config)
        return source


def _key(config: VantageConfig) -> bytes:
    settings = config.http
    parts = (
        *config.credentials.identity(),
        str(settings.verify),
        settings.ca_bundle,
        settings.proxy.reveal(),
        *map(str, settings.timeouts),
    )
    digest = hmac.new(_process_key.reveal().encode(), digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for source in list(_sources):
        source._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
