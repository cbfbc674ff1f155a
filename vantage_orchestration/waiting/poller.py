# SPDX-License-Identifier: Apache-2.0
"""Polls for any number of coroutines at once: one client, one connection pool, shared rounds.

All requests run in separate threads, and so does everything that may call an orchestrator for a
credential. The event loop only distributes changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import ConnectionFailed, VantageError
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.parallel import in_thread, starts
from vantage_orchestration.reads import LEAST_PAUSE
from vantage_orchestration.waiting.machine import (
    LookAgain,
    Observation,
    Outcome,
    PeopleNeeded,
    Wait,
)
from vantage_orchestration.waiting.watcher import Watcher, WatchResult

if TYPE_CHECKING:
    from types import TracebackType

    from vantage_orchestration.client import VantageClient

log = logging.getLogger(__name__)

#: Watches that are served before other coroutines may run.
_TURN: Final = 100
#: Rounds in a row that may fail with an unexpected error before it is raised to the waiters.
_SURPRISES: Final = 3
#: Seconds after such a round.
_SURPRISE_PAUSE: Final = 10.0


#: Longest sleep in seconds; then the clock is read again.
_LONGEST_SLEEP: Final = 3600.0


class Watch:
    """The part of one wait in a poller's rounds. It joins rounds of others that poll more often.

    It is a context manager. Leaving it ends the watch at once.
    """

    def __init__(self, poller: SharedPoller, wait: Wait) -> None:
        self.wait = wait
        self.due = 0.0
        self._poller = poller
        self.unread: list[Observation] = []
        self.failure: BaseException | None = None
        self._news = asyncio.Event()

    def __enter__(self) -> Watch:
        if self._plan():
            self._poller.join(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._poller.leave(self)
        self.failure = None

    async def changes(self, timeout: float) -> list[Observation]:
        """Wait until something changes, or the wait has another answer than to poll again; return
        the changes, none when the seconds are up. Then raise what ended the polling, if it did."""
        if not self.unread and self.failure is None:
            timer = asyncio.get_running_loop().call_later(timeout, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
        self._news.clear()
        if self.failure is not None and not self.unread:
            raise self.failure
        changes, self.unread = self.unread, []
        return changes

    def _plan(self, not_before: float = 0.0) -> bool:
        """Plan the next poll; return whether there is one."""
        answer = self.wait.next(time.time(), not_before=not_before)
        if isinstance(answer, LookAgain):
            self.due = asyncio.get_running_loop().time() + answer.seconds
            return True
        self._poller.leave(self)
        self._news.set()
        return False

    def serve(self, result: WatchResult, now: float, resume: float) -> None:
        """Take the result of a round."""
        for name in self.wait.open:
            if name in result.failures:
                self.fail(result.failures[name])
                return
        seen = [result.seen[name] for name in self.wait.open if name in result.seen]
        if not seen and self.due > now:
            return  # It was not due, and the round has not polled its transactions.
        changes = self.wait.note(seen, time.time())
        self.unread += changes
        if self._plan(resume) and changes:
            self._news.set()

    def fail(self, error: BaseException) -> None:
        # A copy for each waiter: a shared exception would collect the frames of all of them.
        self.failure = error.copy() if isinstance(error, VantageError) else error
        self._poller.leave(self)
        _ring(self._news)


class SharedPoller:
    """Polls the transactions of all its watches in common rounds.

    A round starts when the first watch is due, and all others join it: 1000 watches of one
    transaction each cost one or two requests per round (see :class:`.Watcher`). A new watch is due
    after its first pause. ``connect`` creates the client, in a thread, for the first round; it is
    closed after the last watch.
    """

    def __init__(self, connect: Callable[[], VantageClient], *, settle: float = 30.0) -> None:
        self._connect = connect
        self._settle = settle
        self._key: tuple[asyncio.AbstractEventLoop, Hashable] | None = None
        self.watches: dict[Watch, None] = {}
        self.task: asyncio.Task[None] | None = None
        self.client: VantageClient | None = None
        self._watcher: Watcher | None = None
        self._wake = asyncio.Event()
        self._next = math.inf
        self._surprises = 0

    @classmethod
    def of(cls, key: Hashable, connect: Callable[[], VantageClient]) -> SharedPoller:
        """Return the poller of the running event loop for the credential that the key
        identifies."""
        full = (asyncio.get_running_loop(), key)
        with _lock:
            for other in [each for each in running if each[0].is_closed()]:
                del running[other]  # Its loop ended without letting it end.
            found = running.get(full)
        if found is None:
            found = cls(connect)
            found._key = full
        return found

    # -- for watches

    def join(self, watch: Watch) -> None:
        """Add a watch."""
        self.watches[watch] = None
        if self.task is None:
            if self._key is not None:
                with _lock:
                    running.setdefault(self._key, self)
            loop = asyncio.get_running_loop()
            # In an empty context: one task's logging context must not apply to all rounds.
            self.task = contextvars.Context().run(loop.create_task, self._run())
            self.task.add_done_callback(self._cut_off)
        elif watch.due < self._next:
            self._wake.set()

    def leave(self, watch: Watch) -> None:
        """Remove a watch."""
        self.watches.pop(watch, None)
        if not self.watches:
            _ring(self._wake)

    # -- internals: rounds

    async def _run(self) -> None:
        failure: BaseException = _broken_off()
        try:
            while await self._until_due():
                await self._round()
        except Exception as error:
            log.exception("Polling transactions failed")
            failure = error
        finally:
            self._end(failure)

    def _cut_off(self, task: asyncio.Task[None]) -> None:
        if self.task is task:  # It was cancelled before it could begin.
            self._end(_broken_off())

    def _end(self, failure: BaseException) -> None:
        """Forget everything. It awaits nothing, so that nobody can join meanwhile."""
        self.task = None
        with _lock:
            if self._key is not None and running.get(self._key) is self:
                del running[self._key]
        for watch in list(self.watches):
            watch.fail(failure)
        client, self.client, self._watcher = self.client, None, None
        if client is not None:
            # Not while the interpreter is ending.
            starts(threading.Thread(target=client.close, name="abbyy-vantage-close", daemon=True))

    async def _until_due(self) -> bool:
        """Wait for the time of the next round; return whether anybody still waits."""
        loop = asyncio.get_running_loop()
        earliest = loop.time() + LEAST_PAUSE if self._watcher is not None else 0.0
        while self.watches:
            self._wake.clear()
            resume = self._watcher.resume_in() if self._watcher is not None else 0.0
            due = min(watch.due for watch in self.watches)
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
        watches = list(self.watches)
        due: set[str] = set()
        also: set[str] = set()
        for watch in watches:
            # A watch that is due a moment later would only cause another round.
            (due if watch.due <= now + LEAST_PAUSE else also).update(watch.wait.open)
        skills = {watch.wait.skill_id for watch in watches}
        skill_id = skills.pop() if len(skills) == 1 else None
        try:
            result = await in_thread(
                lambda: self._look(due, also - due, skill_id), "abbyy-vantage-watch"
            )
        except Exception as error:
            self._failed(error, watches)
            return
        self._surprises = 0
        now = asyncio.get_running_loop().time()
        resume = self._watcher.resume_in() if self._watcher is not None else 0.0
        for number, watch in enumerate(watches, 1):
            if watch in self.watches:
                watch.serve(result, now, resume)
            if number % _TURN == 0:
                await asyncio.sleep(0)

    def _look(
        self, due: Collection[str], also: Collection[str], skill_id: str | None
    ) -> WatchResult:
        """Poll once. It runs in a thread, one at a time."""
        if self._watcher is None:
            self.client = self._connect()
            self._watcher = Watcher(self.client, settle=self._settle)
        return self._watcher.look(due, also=also, skill_id=skill_id)

    def _failed(self, error: Exception, watches: Collection[Watch]) -> None:
        """Decide whether a failed round ends the waits."""
        final = isinstance(error, VantageError) and not error.retryable
        self._surprises += 1
        if final or self._surprises >= _SURPRISES:
            for watch in watches:
                if watch in self.watches:
                    watch.fail(error)
            return
        # For example a secrets backend that does not answer for a moment.
        log.warning("Polling transactions failed and is retried: %s", type(error).__name__)
        again = asyncio.get_running_loop().time() + _SURPRISE_PAUSE
        for watch in watches:
            watch.due = max(watch.due, again)


async def wait_in_loop(
    poller: SharedPoller,
    wait: Wait,
    *,
    tell: Callable[[str], object] = lambda line: log.info("%s", line),
    on_change: Callable[[Observation], object] = lambda seen: None,
) -> PeopleNeeded | Outcome:
    """Wait as :func:`.blocking.wait_here` does, without blocking the event loop.

    It returns the first answer other than to poll again. After people were notified, call
    :meth:`Wait.notified` and this function again. The callbacks run on the event loop.
    """
    with Watch(poller, wait) as watch:
        while isinstance(answer := wait.next(time.time()), LookAgain):
            changes = await watch.changes(min(answer.at_most, _LONGEST_SLEEP))
            for line in wait.lines(changes):
                tell(line)
            for each in changes:
                on_change(each)
        return answer


def _ring(event: asyncio.Event) -> None:
    """Set an event, even while a closed event loop is being discarded."""
    with contextlib.suppress(RuntimeError):
        event.set()


def _broken_off() -> VantageError:
    return ConnectionFailed("Polling was interrupted")


running: dict[tuple[asyncio.AbstractEventLoop, Hashable], SharedPoller] = {}
_lock = ModuleLock()
