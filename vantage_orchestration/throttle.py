# SPDX-License-Identifier: Apache-2.0
"""Keeps the requests of one credential on one host within limits set by its owner.

The service publishes no limits (contract, section 5), so by default there are none. If set, all
processes of the host share them through files beside the token store: a lock for each concurrent
request, and the time of the next one. When the server answers 429, all of them pause.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.state import FileStore
from vantage_orchestration.text import MISFIT, read_json
from vantage_orchestration.token.access import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from vantage_orchestration.config import VantageConfig

log = logging.getLogger(__name__)

#: Pause in seconds if the server does not give one.
_PAUSE: Final = 5.0
#: Seconds of a pause from which on it is logged.
_LONG: Final = 20.0
#: Longest pause in seconds, whatever the server asks.
_LONGEST: Final = 3600.0
#: Seconds that no request waits: a longer time is damaged.
_NEVER: Final = 1e7
#: Seconds between two tries to take a slot, shortest and longest.
_LOOKS: Final = (0.01, 0.05)
#: Seconds to wait for the lock of the next time, which is never held for long.
_PATIENCE: Final = 60.0
_random = random.SystemRandom()


class Throttle:
    """The limits of one credential, in a store that the processes of the host share: requests at
    once and per second, 0 for any number."""

    def __init__(
        self,
        place: FileStore,
        identity: str,
        at_once: int,
        per_second: float,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._place = place
        self._clock = clock
        self._at_once = at_once
        self._interval = 1 / per_second if per_second else 0.0
        self._slots = [_name(identity, "slot", str(number)) for number in range(at_once)]
        self._next = _name(identity, "next")
        self.pause_name = _name(identity, "pause")
        self._warned = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._own = threading.BoundedSemaphore(self._at_once or 1)

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until a request may be sent, and count it until the context ends."""
        if self._pid != os.getpid():
            self._start_afresh()  # Other threads of the parent may have held it at the fork.
        with contextlib.ExitStack() as stack:
            if self._slots:
                # Threads wait here, so that only as many as may send access the files.
                stack.enter_context(self._own)
                try:
                    self._take(stack)
                except StateUnavailable as error:
                    self._warn(error)
            try:
                self._wait()
            except StateUnavailable as error:
                self._warn(error)
            yield

    def back_off(self, seconds: float | None) -> None:
        """Let all requests of the host wait, as long as the server asks if it does."""
        seconds = min(seconds or _PAUSE, _LONGEST)
        try:
            with self._place.lock(self.pause_name, _PATIENCE):
                if seconds > self._left(self.pause_name):
                    self._let_wait(self.pause_name, seconds)
        except StateUnavailable as error:
            self._warn(error)

    # -- internals

    def _take(self, stack: contextlib.ExitStack) -> None:
        """Take one of the slots."""
        while True:
            for name in _random.sample(self._slots, len(self._slots)):
                attempt = contextlib.ExitStack()
                if attempt.enter_context(self._place.lock(name, 0)):
                    stack.enter_context(attempt)
                    return
                attempt.close()
            time.sleep(_random.uniform(*_LOOKS))

    def _wait(self) -> None:
        """Wait for the next time, and for the end of a pause."""
        if self._interval:
            with self._place.lock(self._next, _PATIENCE):
                left = self._left(self._next)
                self._let_wait(self._next, left + self._interval)
            time.sleep(left)
        while left := self._left(self.pause_name):
            if left > _LONG:
                log.warning("Requests to ABBYY Vantage pause for %.0f s, as the server asks", left)
            time.sleep(left)

    def _let_wait(self, name: str, seconds: float) -> None:
        at = self._clock.stamp(self._clock.steady())
        self._place.write(name, json.dumps({"at": at, "wait": seconds}).encode())

    def _left(self, name: str) -> float:
        """Return the seconds until a time; 0 for none, and if it can't be read."""
        try:
            kept = read_json(self._place.read(name) or b"")
            age = self._clock.age(kept["at"])
            wait = float(kept["wait"])
            return 0.0 if age is None or wait > _NEVER else max(0.0, wait - age)
        except MISFIT:
            return 0.0

    def _warn(self, error: StateUnavailable) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "The limits of requests to ABBYY Vantage hold for each process by itself: %s",
                error.what,
            )


_throttles: dict[tuple[str, str, int, float], Throttle] = {}
_lock = ModuleLock()


def throttle_of(config: VantageConfig) -> Throttle | None:
    """Return the limits of a credential; None if there are none."""
    http = config.http
    at_once, per_second = int(http.max_concurrent_requests), http.max_requests_per_second
    if not at_once and not per_second:
        return None
    place = config.store_path
    # One account has the same slots and times, even if another connection sets other limits.
    identity = json.dumps(config.credentials.account)
    key = (identity, place, at_once, per_second)
    with _lock:
        if key not in _throttles:
            _throttles[key] = Throttle(FileStore(place), identity, at_once, per_second)
        return _throttles[key]


def _name(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
