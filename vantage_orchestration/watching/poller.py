# SPDX-License-Identifier: Apache-2.0
"""Watches for any number of coroutines at once: one client, one connection pool, shared rounds.

All requests run in threads of their own, and so does everything that may ask an orchestrator for
a credential. The event loop only hands out what has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import ConnectionFailed, VantageError
from vantage_orchestration.watching.observation import Observation
from vantage_orchestration.watching.pace import LEAST_PAUSE, Pace
from vantage_orchestration.watching.parallel import in_thread
from vantage_orchestration.watching.watcher import Sighting, Watcher

if TYPE_CHECKING:
    from types import TracebackType

    from vantage_orchestration.client import VantageClient

__all__ = ["SharedPoller", "Watch"]

log = logging.getLogger(__name__)

#: Watches that are served before other coroutines get their turn.
_TURN: Final = 100
#: Rounds in a row that may fail in a way that is not known before those who wait are told.
_SURPRISES: Final = 3
#: Seconds after such a round.
_SURPRISE_PAUSE: Final = 10.0


class Watch:
    """Waits for some transactions; made by :meth:`SharedPoller.watch`. A context manager: leaving
    it ends the wait at once.

    Attributes:
        open: Transactions that have not ended, and what was last seen of them.
    """

    def __init__(
        self, poller: SharedPoller, ids: Collection[str], pace: Pace, skill_id: str | None
    ) -> None:
        self.open: dict[str, Observation | None] = dict.fromkeys(ids)
        self.skill_id = skill_id
        self.due = 0.0
        self._poller = poller
        self._pace = pace
        self._looks = 0
        self._changes: list[Observation] = []
        self._failure: BaseException | None = None
        self._news = asyncio.Event()

    def __enter__(self) -> Watch:
        self.due = asyncio.get_running_loop().time() + self._pace.pause(0)
        self._poller._join(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._poller._leave(self)
        self._failure = None

    async def changes(self, timeout: float | None = None) -> tuple[Observation, ...]:
        """Wait until something has changed.

        Args:
            timeout: Seconds; None for ever.

        Returns:
            What has changed since the last call, the first state of each transaction included;
            nothing if time is over, or if all have ended and were returned before.

        Raises:
            VantageError: An error that waiting does not cure, after all changes were returned.
            Exception: What connecting to the service has raised.
        """
        if self.open and not self._changes and self._failure is None:
            self._news.clear()
            timer = None
            if timeout is not None:
                timer = asyncio.get_running_loop().call_later(timeout, self._news.set)
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        if self._changes:
            changes, self._changes = self._changes, []
            return tuple(changes)
        if self._failure is not None:
            raise self._failure
        return ()

    def _serve(self, sighting: Sighting, now: float) -> None:
        """Take what a round has shown."""
        answered = changed = False
        for name, last in list(self.open.items()):
            failure = sighting.failures.get(name)
            if failure is not None:
                self._fail(failure)
                return
            found = sighting.seen.get(name)
            if found is None:
                continue
            answered = True
            if found.tells_the_same_as(last):
                continue
            changed = True
            self._changes.append(found)
            if found.ended:
                del self.open[name]
            else:
                self.open[name] = found
        if changed:
            self._news.set()
        if answered:
            self._looks = 0 if changed else self._looks + 1
        if answered or self.due <= now:
            reviewing = all(each is not None and each.in_review for each in self.open.values())
            self.due = now + self._pace.pause(self._looks, in_review=reviewing)

    def _fail(self, error: BaseException) -> None:
        # A copy for each: an exception that many raise collects the frames of all of them.
        self._failure = error.copy() if isinstance(error, VantageError) else error
        self._poller._leave(self)
        _ring(self._news)


class SharedPoller:
    """Looks at the transactions of all its watches in common rounds.

    A round takes place when the first watch is due, and all others join it: 1000 watches of one
    transaction each cost one or two requests a round (see
    :class:`vantage_orchestration.watching.Watcher`). Whoever comes new is due after its first
    pause. The poller runs while there are watches, and closes its client after the last one.

    Args:
        connect: Makes the client. Called in a thread, when the first round takes place.
        settle: See :class:`vantage_orchestration.watching.Watcher`.
    """

    def __init__(self, connect: Callable[[], VantageClient], *, settle: float = 30.0) -> None:
        self._connect = connect
        self._settle = settle
        self._key: tuple[asyncio.AbstractEventLoop, Hashable] | None = None
        self._watches: dict[Watch, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._client: VantageClient | None = None
        self._watcher: Watcher | None = None
        self._wake = asyncio.Event()
        self._next = math.inf
        self._surprises = 0

    @classmethod
    def of(cls, key: Hashable, connect: Callable[[], VantageClient]) -> SharedPoller:
        """Return the poller of the running event loop for a credential.

        Args:
            key: Names the credential.
            connect: Makes the client, if there is no poller yet.
        """
        full = (asyncio.get_running_loop(), key)
        with _lock:
            for other in [each for each in _running if each[0].is_closed()]:
                del _running[other]  # Its loop ended without letting it end.
            found = _running.get(full)
        if found is None:
            found = cls(connect)
            found._key = full
        return found

    def watch(
        self, ids: Collection[str], pace: Pace | None = None, *, skill_id: str | None = None
    ) -> Watch:
        """Return what waits for some transactions, to be used as a context manager.

        Args:
            ids: Transactions.
            pace: How often to look; others that look more often are joined.
            skill_id: Skill of all of them, if it is known.
        """
        return Watch(self, ids, pace or Pace(), skill_id)

    # -- internals: who waits

    def _join(self, watch: Watch) -> None:
        if not watch.open:
            return
        self._watches[watch] = None
        if self._task is None:
            if self._key is not None:
                with _lock:
                    _running.setdefault(self._key, self)
            loop = asyncio.get_running_loop()
            # In an empty context: what a task's logging is bound to must not stick to all rounds.
            self._task = contextvars.Context().run(loop.create_task, self._run())
            self._task.add_done_callback(self._cut_off)
        elif watch.due < self._next:
            self._wake.set()

    def _leave(self, watch: Watch) -> None:
        self._watches.pop(watch, None)
        if not self._watches:
            _ring(self._wake)

    # -- internals: rounds

    async def _run(self) -> None:
        failure: BaseException = _broken_off()
        try:
            while await self._until_due():
                await self._round()
        except Exception as error:
            log.exception("Watching transactions has failed")
            failure = error
        finally:
            self._end(failure)

    def _cut_off(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # It was cancelled before it could begin.
            self._end(_broken_off())

    def _end(self, failure: BaseException) -> None:
        """Forget everything. Nothing is awaited here, so nobody can join meanwhile."""
        self._task = None
        with _lock:
            if self._key is not None and _running.get(self._key) is self:
                del _running[self._key]
        for watch in list(self._watches):
            watch._fail(failure)
        client, self._client, self._watcher = self._client, None, None
        if client is not None:
            with contextlib.suppress(RuntimeError):  # The interpreter is ending.
                threading.Thread(
                    target=client.close, name="abbyy-vantage-close", daemon=True
                ).start()

    async def _until_due(self) -> bool:
        """Wait for the time of the next round; tell whether anybody still waits."""
        loop = asyncio.get_running_loop()
        earliest = loop.time() + LEAST_PAUSE if self._watcher is not None else 0.0
        while self._watches:
            self._wake.clear()
            resume = self._watcher.resume_in() if self._watcher is not None else 0.0
            due = min(watch.due for watch in self._watches)
            now = loop.time()
            self._next = max(due, earliest, now + resume)
            if self._next <= now:
                return True
            timer = loop.call_later(self._next - now, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
        return False

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        watches = list(self._watches)
        due: set[str] = set()
        also: set[str] = set()
        for watch in watches:
            # Who is due a moment later would only cause another round.
            (due if watch.due <= now + LEAST_PAUSE else also).update(watch.open)
        skills = {watch.skill_id for watch in watches}
        skill_id = skills.pop() if len(skills) == 1 else None
        try:
            sighting = await in_thread(
                lambda: self._look(due, also - due, skill_id), "abbyy-vantage-watch"
            )
        except Exception as error:
            self._failed(error, watches)
            return
        self._surprises = 0
        now = asyncio.get_running_loop().time()
        for number, watch in enumerate(watches, 1):
            if watch in self._watches:
                watch._serve(sighting, now)
                if not watch.open:
                    self._leave(watch)
            if number % _TURN == 0:
                await asyncio.sleep(0)

    def _look(self, due: Collection[str], also: Collection[str], skill_id: str | None) -> Sighting:
        """Look once; runs in a thread, and only one at a time does."""
        if self._watcher is None:
            self._client = self._connect()
            self._watcher = Watcher(self._client, settle=self._settle)
        return self._watcher.look(due, also=also, skill_id=skill_id)

    def _failed(self, error: Exception, watches: Collection[Watch]) -> None:
        """Decide whether a round that has failed is the end for those who wait."""
        final = isinstance(error, VantageError) and not error.retryable
        self._surprises += 1
        if final or self._surprises >= _SURPRISES:
            for watch in watches:
                if watch in self._watches:
                    watch._fail(error)
            return
        # A store of credentials that gives no answer for a moment, for one.
        log.warning("Looking at transactions has failed, and is repeated: %s", type(error).__name__)
        again = asyncio.get_running_loop().time() + _SURPRISE_PAUSE
        for watch in watches:
            watch.due = max(watch.due, again)


def _ring(event: asyncio.Event) -> None:
    """Set an event, also where what is left of a closed loop is being thrown away."""
    with contextlib.suppress(RuntimeError):
        event.set()


def _broken_off() -> VantageError:
    return ConnectionFailed("Watching was broken off")


_running: dict[tuple[asyncio.AbstractEventLoop, Hashable], SharedPoller] = {}
_lock = threading.Lock()
