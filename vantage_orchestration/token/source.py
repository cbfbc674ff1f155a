# SPDX-License-Identifier: Apache-2.0
"""Provides a valid token at any time, with one login for all callers.

Threads and coroutines that find no valid token share one login, in a separate thread (a flight). A
waiter may be cancelled or time out without harm to the others. No lock of the process is held
during network access, and a valid token is returned without any lock.

Processes that share a store make one login in total: they hold the store's lock during the login
and read the store again inside it, so that the second process finds the first one's token.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hmac
import logging
import os
import random
import shlex
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TypeGuard

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import (
    AuthUnavailable,
    StateUnavailable,
    Throttled,
    VantageError,
)
from vantage_orchestration.forks import ModuleLock, after_fork
from vantage_orchestration.retrying import TOKEN_RETRIES, RetryPolicy, call
from vantage_orchestration.secret import Secret, refuse_pickling
from vantage_orchestration.state import FileStore, Store
from vantage_orchestration.token.access import SYSTEM_CLOCK, AccessToken, Clock, Refusal
from vantage_orchestration.token.cache import LOCK_PATIENCE, LONGEST_HOLD, TokenCache, packed
from vantage_orchestration.token.request import (
    REFUSAL_HOLD,
    Grant,
    hold_of,
    renewal_margin,
)
from vantage_orchestration.token.request import log_in as network_log_in

log = logging.getLogger(__name__)

#: Seconds for which a live token is used after a failed renewal, before the next try.
RENEWAL_PAUSE = 30.0
#: Seconds for which a new token is not replaced again although the server rejects it as well.
REJECTED_HOLD = 60.0

LogIn = Callable[[VantageConfig], "Grant | VantageError"]
_Outcome = concurrent.futures.Future["AccessToken | VantageError"]


class TokenSource:
    """Tokens for one credential. Use :func:`token_source` to get the process's shared source.

    Args:
        config: The configuration.
        store: Store of the token for other processes; by default only memory.
        locks: Files of this host to lock, for a store that several hosts share.
        log_in: Requests a token once; returns the grant or an error. Over the network by default.
        clock: Steady and wall time.
        retries: Tries and waits after temporary failures. A refusal is never retried.
    """

    def __init__(
        self,
        config: VantageConfig,
        *,
        store: Store | None = None,
        locks: FileStore | None = None,
        log_in: LogIn | None = None,
        clock: Clock = SYSTEM_CLOCK,
        retries: RetryPolicy = TOKEN_RETRIES,
    ) -> None:
        self._config = config
        self._log_in = log_in or network_log_in
        self._clock = clock
        self._now = clock.steady
        self._retries = retries
        self._trust = config.trust
        self._cache = TokenCache(store, config.credentials, clock, self._trust, locks)
        self._token: AccessToken | None = None
        self._rejected: AccessToken | None = None
        self._refusal: Refusal | None = None
        self._pause_until = 0.0
        self._logins = 0
        self.start_afresh()
        _sources.add(self)

    def start_afresh(self) -> None:
        """Reset thread state; a forked child has none of its parent's threads."""
        self.lock = threading.Lock()
        self._flight: _Outcome | None = None
        # SystemRandom, since a forked child would otherwise repeat its parent's numbers.
        self._jitter = random.SystemRandom().random()

    def get(self, patience: float | None = None) -> AccessToken:
        """Return a valid token, logging in if there is none.

        Args:
            patience: Longest wait for a login in seconds; by default as long as all its tries, and
                those of another process, can take. The login continues if a waiter gives up.

        Returns:
            The token. It was valid when this was called.

        Raises:
            AuthError: The login was refused (and is never retried automatically) or failed.
            ConfigurationError: The server's certificate was not accepted.
        """
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        limit = self._patience if patience is None else patience
        try:
            outcome = self._join().result(limit)
        except concurrent.futures.TimeoutError:
            outcome = self._too_slow(limit)
        return self._settle(outcome)

    async def aget(self, patience: float | None = None) -> AccessToken:
        """Return a valid token as :meth:`get` does, without blocking the event loop."""
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        flight = self._join()
        if flight.done():
            return self._settle(flight.result())
        limit = self._patience if patience is None else patience
        try:
            # Shielded: a coroutine that is cancelled must not cancel the login of the others.
            outcome = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(flight)), limit)
        except (asyncio.TimeoutError, TimeoutError):  # Two classes before Python 3.11.
            outcome = self._too_slow(limit)
        return self._settle(outcome)

    def invalidate(self, rejected: AccessToken | str) -> bool:
        """Drop the token that the server rejected, and no other; return whether it was dropped.

        If another token has replaced exactly that one, it stays: 64 late rejections of one token
        cause one login. A token that :meth:`keep` protects stays too.
        """
        with self.lock:
            token = self._token
            if token is None or not token.is_same(rejected) or self._now() < token.kept_until:
                return False
            # Remembered, so that the same token is not read from the store again.
            self._rejected, self._token = self._token, None
            return True

    def keep(self, rejected: AccessToken) -> None:
        """Keep using a token for REJECTED_HOLD seconds although the server rejects it.

        It replaced a rejected one, so another login would not help. All processes that share the
        store do the same: a server that rejects every token costs two logins, not two per task.
        """
        with self.lock:
            if self._token is None or not self._token.is_same(rejected):
                return
            token = replace(self._token, kept_until=self._now() + REJECTED_HOLD)
            self._token = token
        self._cache.save(token)

    def forget(self) -> None:
        """Forget the token and a remembered refusal, here and in the store.

        Raises:
            StateUnavailable: The store can't be used. It may still contain them.
        """
        with self.lock:
            self._token = self._refusal = self._rejected = None
            self._pause_until = 0.0
        self._cache.forget()

    # -- internals

    @property
    def _patience(self) -> float:
        """Seconds to wait for a flight: for another process, all its tries, and a margin."""
        one_try = sum(self._config.http.timeouts) + self._config.http.read_timeout
        wait = 0.0 if self._cache.keeps_nothing else LOCK_PATIENCE
        return wait + self._retries.budget + one_try + 5.0

    def _join(self) -> _Outcome:
        """Return the flight to wait for, or one that has ended."""
        now = self._now()
        with self.lock:
            token, refusal = self._token, self._refusal
            if token is not None and now < token.ends_at:
                busy = now < self._pause_until or self._flight is not None
                if busy or now < token.renew_at:
                    # One caller renews; the others need not wait while the token is valid.
                    return _ended(token)
            if refusal is not None and now < refusal.until and not refusal.stored:
                return _ended(self._held(refusal, fresh=False))
            if self._flight is not None:
                return self._flight
            flight = self._flight = _Outcome()
        try:
            threading.Thread(
                target=self._run, args=(flight,), name="abbyy-vantage-login", daemon=True
            ).start()
        except RuntimeError:  # No new threads while the interpreter shuts down.
            self._run(flight)
        return flight

    def _run(self, flight: _Outcome) -> None:
        """Get a token and give the outcome to all waiters of ``flight``."""
        outcome: AccessToken | Refusal | VantageError
        result: AccessToken | VantageError
        logins = self._logins
        try:
            outcome = found = self._fetch()
            fresh = self._logins != logins
            result = self._held(found, fresh=fresh) if isinstance(found, Refusal) else found
        except VantageError as error:
            outcome = result = error.copy()
        except BaseException as error:
            # No waiter may wait for ever, whatever the error is; its text could contain anything.
            outcome = result = AuthUnavailable(f"The login failed with {type(error).__name__}")
        with self.lock:
            if isinstance(outcome, AccessToken):
                self._token, self._refusal, self._rejected = outcome, None, None
            else:
                self._pause_until = self._now() + RENEWAL_PAUSE
            if isinstance(outcome, Refusal):
                self._refusal = outcome
                self._pause_until = max(self._pause_until, outcome.until)
            self._flight = None
        flight.set_result(result)

    def _fetch(self) -> AccessToken | Refusal:
        """Use the state that another process has stored, or log in.

        Raises:
            VantageError: The login failed and may be retried.
        """
        found = self._stored()
        if self._saves_login(found):
            return found
        with self._cache.locked(lambda: self._saves_login(self._stored())):
            # Again, since another process may have logged in while this one waited for the lock.
            found = self._stored()
            if self._saves_login(found):
                return found
            try:
                token = call(
                    self._try_once,
                    self._retries,
                    may_repeat=lambda error: error.retryable and not hold_of(error),
                )
            except VantageError as error:
                hold = self._hold(error, found.hold if isinstance(found, Refusal) else 0.0)
                if not hold:
                    raise
                refusal = Refusal(error.copy(), self._now() + hold, hold)
                return replace(refusal, stored=self._cache.save(refusal))
            self._cache.save(token)
            return token

    def _saves_login(self, found: AccessToken | Refusal | None) -> TypeGuard[AccessToken | Refusal]:
        """Return whether a stored token, or a refusal that is still held, saves a login."""
        if isinstance(found, Refusal):
            return self._now() < found.until
        return found is not None

    def _stored(self) -> AccessToken | Refusal | None:
        """Return a token to use or the last refusal from the store, or None.

        The store takes precedence over the memory of this process: somebody may have cleared it.
        """
        try:
            found = self._cache.load(self._jitter)
        except StateUnavailable:
            return self._refusal
        if found is None and self._refusal is not None and self._refusal.stored:
            self._refusal = None
        if isinstance(found, AccessToken):
            rejected, now = self._rejected, self._now()
            bad = rejected is not None and rejected.is_same(found) and now >= found.kept_until
            return None if bad or now >= found.renew_at else found
        return found

    def _hold(self, error: VantageError, last: float) -> float:
        """Return the seconds for which a failed login is not sent again; 0 if it may be.

        The last refusal, as another process saw it, was held for ``last`` seconds.
        """
        hold = hold_of(error)
        if not hold:
            asked = error.retry_after if isinstance(error, Throttled) else None
            return min(asked or 0.0, REFUSAL_HOLD)
        if self._refusal is not None:
            last = max(last, self._refusal.hold)
        return min(max(hold, 2 * last), REFUSAL_HOLD if error.retryable else LONGEST_HOLD)

    def _try_once(self) -> AccessToken:
        # A token's lifetime counts from before the request.
        begun, begun_wall = self._now(), self._clock.wall()
        self._logins += 1
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

    def _settle(self, outcome: AccessToken | VantageError) -> AccessToken:
        if isinstance(outcome, AccessToken):
            return outcome
        token = self._token
        if token is not None and self._now() < token.ends_at:
            log.warning("The token of ABBYY Vantage was not renewed and is still used: %s", outcome)
            return token
        raise outcome.copy()

    def _held(self, refusal: Refusal, *, fresh: bool) -> VantageError:
        """Return a held failure with a message that says so and how to clear it."""
        import pendulum

        error, seconds = refusal.error.copy(), refusal.until - self._now()
        end = pendulum.from_timestamp(self._clock.wall() + seconds).to_datetime_string()
        if not fresh:
            error.what += f" (remembered from an earlier try, not retried for {seconds:.0f} s)"
        if error.retry_after is not None:
            error.retry_after = seconds
        advice = f"It is not sent again before {end} UTC; {self._clearing()}"
        error.hint = f"{error.hint}. {advice}" if error.hint else advice
        return error

    def _clearing(self) -> str:
        origin = self._config.origin
        if self._cache.keeps_nothing:
            return "only this process remembers this"
        if origin is None:
            return "token_source(config).forget() clears this"
        of = f" --of {shlex.quote(origin)}" if origin else ""
        place = ", on this machine" if self._config.store == "file" else ""
        trust = self._trust
        if trust.bundle_from or trust.proxy_from:
            place += ", with proxy and CA bundle of the environment as in this process"
        return f"to clear this{place}: vantage-orchestration token forget{of}"

    def _too_slow(self, limit: float) -> AuthUnavailable:
        host = self._config.credentials.host
        return AuthUnavailable(f"The login did not end within {limit:.0f} s", host=host)

    def __repr__(self) -> str:
        return f"TokenSource(host={self._config.credentials.host!r}, token={self._token!r})"

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling


def _ended(outcome: AccessToken | VantageError) -> _Outcome:
    flight = _Outcome()
    flight.set_result(outcome)
    return flight


_sources: weakref.WeakSet[TokenSource] = weakref.WeakSet()
registry: dict[bytes, TokenSource] = {}
_registry_lock = ModuleLock()
#: Without it, guesses of passwords could be checked against a key.
_process_key = Secret(os.urandom(32).hex())


def token_source(config: VantageConfig, orchestrator: Store | None = None) -> TokenSource:
    """Return the process's shared source for this credential.

    Equal configurations share a source, so that all hooks, triggers, blocks and sessions of the
    process share its token and its login. ``orchestrator`` is the orchestrator's own store, for
    configurations that use it.
    """
    key = _key(config, "" if orchestrator is None else repr(orchestrator))
    with _registry_lock:
        source = registry.get(key)
        if source is None:
            source = TokenSource(
                config,
                store=config.open_store(orchestrator),
                locks=FileStore(config.store_path),
            )
            registry[key] = source
        return source


def _key(config: VantageConfig, orchestrator: str) -> bytes:
    parts = (
        *config.credentials.identity(),
        *config.trust.identity(),
        repr(config.http),
        repr((config.store, config.store_path)),
        orchestrator if config.store == "orchestrator" else "",
    )
    return hmac.digest(_process_key.reveal().encode(), packed(*parts), "sha256")


def _after_fork() -> None:
    for source in list(_sources):
        source.start_afresh()


after_fork(_after_fork)
