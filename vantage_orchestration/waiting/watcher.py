# SPDX-License-Identifier: Apache-2.0
"""Polls any number of transactions with as few requests as possible."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import (
    ApiError,
    AuthError,
    NotFound,
    ProtocolError,
    RateLimited,
    Unauthorized,
    VantageError,
    translated,
)
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.reads import LEAST_PAUSE
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.status import MANUAL_REVIEW, Status
from vantage_orchestration.text import named
from vantage_orchestration.waiting.active_list import NO_LISTING, ActiveList, Listing
from vantage_orchestration.waiting.machine import Observation

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction

log = logging.getLogger(__name__)

#: While the list fails, this many transactions are read singly instead.
_FEW: Final = 16
#: Failures in a row after which a round is given up.
_FAILURES: Final = 5
#: Seconds until a refused list is read again.
_LIST_PAUSE: Final = 600.0
#: Rounds after which a running transaction that is not listed is no longer looked for on the list.
_MISSES: Final = 3
#: Seconds after which a transaction that only the list shows as running is read singly.
_UNCONFIRMED: Final = 300.0
#: Most such checks in one round.
_MOST_CHECKS: Final = 1024
#: Seconds after which a transaction that is no longer polled is forgotten.
_FORGOTTEN: Final = 900.0
#: Seconds of pause after a failed round: the vendor's advice for overload of a sister product
#: (contract, section 5).
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
#: Longest respected ``Retry-After`` in seconds: deadlines keep running.
_LONGEST_REQUEST: Final = 900.0
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class WatchResult:
    """The result of one poll.

    Attributes:
        seen: Transaction id to its state. A transaction that could not be read is missing.
        failures: Transaction id to the final error of this transaction alone.
    """

    seen: dict[str, Observation] = field(default_factory=dict)
    failures: dict[str, VantageError] = field(default_factory=dict)


@dataclass(slots=True)
class _Watched:
    """State of a transaction that is kept between rounds."""

    name: str
    first: float
    wanted: float
    asked: float | None = None
    lost: float | None = None
    state: Observation | None = None
    misses: int = 0
    garbled: int = 0
    warned: bool = False

    @property
    def confirmed(self) -> float:
        """When it was last read singly."""
        return self.first if self.asked is None else self.asked

    @property
    def may_be_listed(self) -> bool:
        """Whether to look for it on the list; a new transaction is not listed yet."""
        is_new = self.state is not None and self.state.status is Status.NEW
        return not is_new and self.misses < _MISSES

    def see(self, status: Status, *, in_review: bool = False, files: str = "") -> Observation:
        """Record a state and return it."""
        found = Observation(self.name, status, in_review, files)
        if self.state is None or self.state != found:
            self.state = found
        return self.state


@dataclass(slots=True)
class _Round:
    """One poll: what to read, the results, and the trouble for which it was given up. Keys are ids
    in lower case."""

    now: float
    spellings: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, Observation] = field(default_factory=dict)
    failures: dict[str, VantageError] = field(default_factory=dict)
    trouble: VantageError | None = None
    failed_in_a_row: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def result(self) -> WatchResult:
        """Return the results under the ids as the caller spelled them."""
        result = WatchResult()
        for key, names in self.spellings.items():
            for name in names:
                if key in self.failures:
                    result.failures[name] = self.failures[key]
                elif key in self.seen:
                    state = self.seen[key]
                    same = state.transaction_id == name
                    result.seen[name] = state if same else replace(state, transaction_id=name)
        return result


class _Backoff:
    """Pauses 5 s growing to 60 s over failed rounds, or as long as the server asks."""

    def __init__(self) -> None:
        self._rounds = 0
        self._until = 0.0

    def left(self, now: float) -> float:
        """Return the seconds for which nothing should be sent."""
        return max(0.0, self._until - now)

    def trouble(self, error: VantageError, now: float) -> None:
        """Record a failed round, and why it failed."""
        self._rounds += 1
        grown = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._rounds - 1, 10))
        wait = grown * _random.uniform(0.75, 1.25)
        if error.retry_after:
            wait = min(error.retry_after, _LONGEST_REQUEST)
        self._until = now + wait

    def fine(self) -> None:
        """Record a round without failures."""
        self._rounds = 0
        self._until = 0.0


class Watcher:
    """Polls transactions: first the list of running ones, 1000 per request, then singly those that
    are not listed. Thread-safe.

    * If reading each takes fewer requests than the list, the list is not read.
    * The list may lag behind. A transaction that left it is read at once. Of those that stay listed
      for minutes, each round also reads one singly, the one longest unconfirmed. If that proves the
      list wrong, the next round reads twice as many, and so on.
    * Nothing is retried within a round. While the server has problems or asks to wait, rounds send
      nothing and return nothing; see :meth:`resume_in`.
    * No transaction is read singly more than once a second, the vendor's limit.

    Args:
        client: Client. Its own retries are not used.
        settle: Seconds of 404 answers before the status of a transaction becomes ``Gone``: right
            after creation it may be too new. 0 believes the first answer.
        threads: Concurrent requests.
        clock: Returns monotonic seconds; ``time.monotonic`` by default.
        on_processed: Called in some thread with the id, as the caller spelled it, and the full data
            of each processed transaction, so that fetching its results needs no further request.
    """

    def __init__(
        self,
        client: VantageClient,
        *,
        settle: float = 30.0,
        threads: int = 8,
        clock: Callable[[], float] | None = None,
        on_processed: Callable[[str, Transaction], object] | None = None,
    ) -> None:
        self._client = client
        self._on_processed = on_processed
        self._settle = settle
        self._threads = threads
        self._clock = clock or time.monotonic
        self._list = ActiveList(client, self._clock)
        self._list_refusals = 0
        self._list_off_until = 0.0
        self._backoff = _Backoff()
        self._rejections = 0
        self._checks = 1
        self.watched: dict[str, _Watched] = {}
        self._swept = self._clock()
        self._lock = threading.Lock()

    def observe(
        self, ids: Collection[str], *, skill_id: str | None = None
    ) -> dict[str, Observation]:
        """Poll transactions once; ``skill_id`` is their skill, if known and the same for all.

        Returns:
            Transaction id to its state. A transaction is missing if it could not be read because
            the server has problems or does not know it yet: poll again later.

        Raises:
            AuthError: The login was refused.
            VantageError: Another error that no retry can cure, for all or one of them.
        """
        result = self.look(ids, skill_id=skill_id)
        with self.translating():
            for error in result.failures.values():
                raise error
        return result.seen

    @translated
    def look(
        self, ids: Collection[str], *, also: Collection[str] = (), skill_id: str | None = None
    ) -> WatchResult:
        """Poll once as :meth:`observe` does, but return errors of single transactions separately.
        Only one that concerns all of them is raised. Those in ``also`` are included if the list is
        read anyway."""
        with self._lock:
            this = _Round(self._clock())
            self._sweep(this.now)
            if self._backoff.left(this.now):
                return this.result()
            due, also_there = self._take(this, ids), self._take(this, also)
            self._look(this, due, also_there, skill_id)
            return this.result()

    def resume_in(self) -> float:
        """Return the seconds for which polling is useless because the server has problems."""
        return self._backoff.left(self._clock())

    def translating(self) -> AbstractContextManager[None]:
        """Return a context that translates errors as the client does."""
        return self._client.translating()

    # -- internals: memory

    def _take(self, this: _Round, names: Iterable[str]) -> dict[str, _Watched]:
        """Return the transactions that are new to the round and have not ended."""
        found = {}
        for name in names:
            key = name.lower()
            spellings = this.spellings.setdefault(key, [])
            if name in spellings:
                continue
            spellings.append(name)
            one = self.watched.get(key)
            if one is None:
                one = self.watched[key] = _Watched(name, this.now, this.now)
            one.wanted = this.now
            if one.state is not None and one.state.ended:
                this.seen[key] = one.state  # Nothing changes any more.
            elif len(spellings) == 1:
                found[key] = one
        return found

    def _sweep(self, now: float) -> None:
        """Forget transactions that were not polled for a while."""
        if now - self._swept >= _FORGOTTEN:
            self._swept = now
            self.watched = {
                key: one for key, one in self.watched.items() if now - one.wanted < _FORGOTTEN
            }

    # -- internals: one round

    def _look(
        self,
        this: _Round,
        due: Mapping[str, _Watched],
        also: Mapping[str, _Watched],
        skill_id: str | None,
    ) -> None:
        wanted = {key for key, one in due.items() if one.may_be_listed}
        listing = self._read_list(this, wanted, skill_id, due.keys() | also.keys(), len(due))
        everything = {**due, **also}
        asked = {}
        for key, one in everything.items():
            if key in listing.stages:
                one.misses, one.lost = 0, None
                in_review = listing.stages[key] == MANUAL_REVIEW
                this.seen[key] = one.see(Status.PROCESSING, in_review=in_review)
            elif key in due or (listing.complete and one.may_be_listed):
                asked[key] = one
        doubted = self._doubted(this, everything)
        self._ask(this, {**asked, **doubted})
        if listing.complete:
            for key, one in asked.items():
                if key in this.seen and this.seen[key].status is Status.PROCESSING:
                    one.misses += 1
        if doubted:
            wrong = any(this.seen[key].ended for key in doubted if key in this.seen)
            self._checks = min(2 * self._checks, _MOST_CHECKS) if wrong else 1
        self._conclude(this)

    def _doubted(self, this: _Round, everything: Mapping[str, _Watched]) -> dict[str, _Watched]:
        """Return some transactions that only the list has shown as running for a while."""
        old = [
            (one.confirmed, key)
            for key, one in everything.items()
            if key in this.seen and this.now - one.confirmed >= _UNCONFIRMED
        ]
        return {key: everything[key] for _, key in nsmallest(self._checks, old)}

    def _conclude(self, this: _Round) -> None:
        error = this.trouble
        if error is None:
            self._backoff.fine()
            self._rejections = 0
            return
        self._rejections = self._rejections + 1 if isinstance(error, Unauthorized) else 0
        if self._rejections >= LOOKS:
            # Each of these rounds had a freshly issued token rejected.
            self._rejections = 0
            raise error
        self._backoff.trouble(error, self._clock())
        log.warning("Polling ABBYY Vantage pauses for %.0f s: %s", self.resume_in(), error)

    # -- internals: the list

    def _read_list(
        self,
        this: _Round,
        wanted: Set[str],
        skill_id: str | None,
        everything: Set[str],
        count: int,
    ) -> Listing:
        if not wanted or this.now < self._list_off_until:
            return NO_LISTING
        try:
            listing = self._list.read(wanted, skill_id, everything)
        except VantageError as error:
            if not isinstance(error, ApiError) and not error.retryable:
                raise
            self._judge_list(this, error, few=count <= _FEW)
            return NO_LISTING
        self._list_refusals = 0
        return listing

    def _judge_list(self, this: _Round, error: VantageError, *, few: bool) -> None:
        """Decide how to continue without the list: read a few singly, or try again later."""
        if isinstance(error, ProtocolError) or not error.retryable:
            # Perhaps a proxy's page, or an installation without this list or without access to it.
            self._list_refusals += 1
            if self._list_refusals >= LOOKS:
                self._list_refusals = 0
                self._list_off_until = this.now + _LIST_PAUSE
                log.warning(
                    "The list of running transactions can't be read, so each transaction is read"
                    " singly: %s",
                    error,
                )
                return
        if _stops_the_round(error) or not few:
            this.trouble = error

    # -- internals: single transactions

    def _ask(self, this: _Round, watched: Mapping[str, _Watched]) -> None:
        """Read transactions singly, several at a time."""
        ready = []
        for key, one in watched.items():
            if one.asked is None or this.now - one.asked >= LEAST_PAUSE:
                ready.append((key, one))
            elif one.state is not None:
                this.seen[key] = one.state
        in_parallel(lambda item: self._ask_one(this, *item), ready, self._threads)

    def _ask_one(self, this: _Round, key: str, one: _Watched) -> None:
        if this.trouble is not None:
            return
        one.asked = self._clock()
        try:
            found = self._client.get_transaction_once(one.name)
        except NotFound:
            this.failed_in_a_row = 0
            one.lost = this.now if one.lost is None else one.lost
            # Not all machines of the service learn of a change at the same moment.
            if this.now - one.lost >= self._settle:
                try:
                    self._client.confirm_missing_once()
                except VantageError as error:
                    if not error.retryable and not isinstance(error, Unauthorized):
                        raise
                    this.trouble = error
                else:
                    this.seen[key] = one.see(Status.GONE)
        except VantageError as error:
            self._judge(this, key, one, error)
        else:
            this.failed_in_a_row = one.garbled = 0
            one.lost = None
            if not found.status.is_known and not one.warned:
                one.warned = True
                log.warning(
                    "Transaction %s has the unknown status %r; it counts as not ended",
                    one.name,
                    found.status.value,
                )
            this.seen[key] = one.see(
                found.status,
                in_review=found.waits_for_review,
                files=named(found.source_files),
            )
            if found.status.is_success and self._on_processed is not None:
                self._on_processed(one.name, found)

    def _judge(self, this: _Round, key: str, one: _Watched, error: VantageError) -> None:
        """Decide whether an error concerns this moment, this transaction, or all of them."""
        if isinstance(error, ProtocolError):
            one.garbled += 1
            if one.garbled >= LOOKS:
                this.failures[key] = error
        elif error.retryable or isinstance(error, Unauthorized):
            with this.lock:
                this.failed_in_a_row += 1
                if _stops_the_round(error) or this.failed_in_a_row >= _FAILURES:
                    this.trouble = error
        elif isinstance(error, ApiError):
            this.failures[key] = error
        else:
            raise error


def _stops_the_round(error: VantageError) -> bool:
    """Return whether the next request would fail the same way, or the server asks to wait."""
    return error.retry_after is not None or isinstance(
        error, (RateLimited, Unauthorized, AuthError)
    )
