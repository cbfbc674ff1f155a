# SPDX-License-Identifier: Apache-2.0
"""What one consumer has taken, as small JSON files in a folder of any store.

A consumer is a task that takes each item once: an ended transaction or an event. Its folder holds::

    noted/<hour>.json           ids that are done with, and by which run; a file for each hour in
                                which items were made
    runs/<hour>-<run>.json      what a run has taken, so that a later try of it gets the same
    leases/<run>.json           the run that is at work now, until it ends or gives no sign of life
    consumer.json, list.json    small values

They are read by the rule of :mod:`vantage_orchestration.state`.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.completed.listing import HOUR, KEPT_DAYS
from vantage_orchestration.errors import Overtaken, VantageError
from vantage_orchestration.state import FolderStore, checked, read_value, write_value

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

__all__ = ["Entry", "Lease", "Notes"]

#: Hours after which nothing of that age can be listed.
_FORGET_AFTER: Final = (KEPT_DAYS + 1) * 24
#: Seconds after which a lease that was not renewed expires.
_LEASE: Final = 60.0
#: How often a run tries to get the lease.
_ATTEMPTS: Final = 4
_random = random.SystemRandom()
_VERSION: Final = 1

Entry = tuple[str, int]
"""Id of an item, and the number of the hour in which it was made."""


class Notes:
    """The notes of one consumer. Use an object in one thread at a time.

    Args:
        folder: Folder of this consumer alone.
        clock: Returns seconds since 1970.

    All methods raise :class:`StateDamaged` if a file holds something else than notes,
    :class:`StateUnavailable` if the store can't be read, and ``OSError`` if it can't be written. A
    retry can help with the last two.
    """

    def __init__(self, folder: Location, clock: Callable[[], float] = time.time) -> None:
        self._store = FolderStore(folder)
        self._clock = clock

    def read(self, name: str) -> Any | None:
        """Return a small value, None if there is none."""
        return _read(self._store, f"{name}.json")

    def write(self, name: str, value: Any) -> None:
        """Store a small value."""
        _write(self._store, f"{name}.json", value)

    # -- what is done with

    def unknown(self, entries: Iterable[Entry]) -> list[str]:
        """Return the ids that are not noted, each once, in their order."""
        return [name for name, by in self._by(entries).items() if by is None]

    def add(self, run: str, entries: Iterable[Entry]) -> None:
        """Note items as done by a run. They are stored when this returns."""
        by_hour: dict[int, dict[str, str]] = {}
        for name, hour in entries:
            by_hour.setdefault(hour, {})[name.lower()] = _digest(run)
        for hour, names in by_hour.items():
            before = self._noted(hour)
            if names.keys() - before.keys():
                self.write(f"noted/{hour}", {**names, **before})

    def _noted(self, hour: int) -> dict[str, str]:
        return self.read(f"noted/{hour}") or {}

    def _by(self, entries: Iterable[Entry]) -> dict[str, str | None]:
        """Return which run has done each item."""
        wanted = {name.lower(): hour for name, hour in entries}
        noted = {hour: self._noted(hour) for hour in set(wanted.values())}
        return {name: noted[hour].get(name) for name, hour in wanted.items()}

    def prune(self) -> None:
        """Remove notes that are older than anything the service can list."""
        limit = int(self._clock()) // HOUR - _FORGET_AFTER
        for kind in ("noted", "runs"):
            for name in self._store.names(kind):
                # Hour 0 stands for items without a time.
                hour = name.partition("/")[2].partition(".")[0].partition("-")[0]
                if hour.isdecimal() and 0 < int(hour) < limit:
                    self._store.delete(name)

    # -- runs

    def taken(self, run: str) -> list[Entry]:
        """Return what earlier tries of a run have taken, and no other run is done with."""
        own = [each for each in self._store.names("runs") if each.endswith(f"-{_digest(run)}.json")]
        found = [
            (str(name), int(hour)) for each in own for name, hour in _read(self._store, each) or ()
        ]
        by = self._by(found)
        return [entry for entry in found if by[entry[0]] in (None, _digest(run))]

    def take(self, run: str, entries: Iterable[Entry]) -> None:
        """Record what a run takes, in addition to what its earlier tries have taken."""
        hour = int(self._clock()) // HOUR
        name = f"runs/{hour}-{_digest(run)}"
        both = [*(self.read(name) or ()), *([name.lower(), hour] for name, hour in entries)]
        self.write(name, list(dict.fromkeys(map(tuple, both))))

    @contextlib.contextmanager
    def lease(self, run: str) -> Iterator[Lease | None]:
        """Take the lease of the consumer, so that two runs do not work at the same time.

        Stores have no common lock. Each run writes its own file and then looks for others. Of two
        runs that begin at the same moment at least one sees the other, steps back, and tries again
        after a random time.

        Args:
            run: Identifies the run; each of its tries takes over from the one before.

        Yields:
            The lease, or None if another run holds it.
        """
        lease = Lease(self._store, run, self._clock)
        has_it = False
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_random.uniform(0.05, 0.5))
            lease.renew()
            if has_it := not lease.others():
                break
            lease.end()
        try:
            with lease.kept() if has_it else contextlib.nullcontext():
                yield lease if has_it else None
        finally:
            with contextlib.suppress(OSError, VantageError):
                lease.end()

    def busy(self) -> bool:
        """Return whether a run is at work now."""
        return any(each.until > self._clock() for each in _leases(self._store))


@dataclass(frozen=True)
class _LeaseEntry:
    """A stored lease."""

    run: str
    holder: str
    until: float


class Lease:
    """The lease of a run, see :meth:`Notes.lease`."""

    def __init__(self, store: FolderStore, run: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._name = f"leases/{_digest(run)}.json"
        self._clock = clock
        self._run = run
        self._holder = uuid.uuid4().hex

    def renew(self) -> None:
        """Renew the lease."""
        lease = _LeaseEntry(self._run, self._holder, self._clock() + _LEASE)
        _write(self._store, self._name, vars(lease))

    def check(self) -> None:
        """Renew the lease, or raise if it was lost.

        Raises:
            Overtaken: A later try of this run, or another run, is at work.
        """
        own = _read_lease(self._store, self._name)
        lost = own is None or own.holder != self._holder
        # No other run begins while the lease is renewed.
        if lost or (own is not None and own.until <= self._clock() and self.others()):
            raise Overtaken(
                "Another run or try has taken over from this one",
                hint="It continues the work. Allow one active run at a time (max_active_runs=1)",
            )
        self.renew()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the lease renewed within the context, even during a long download."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_LEASE / 4):
                # If the lease was lost, the worker's own check raises it.
                with contextlib.suppress(Exception):
                    self.check()

        thread = threading.Thread(target=beat, name="abbyy-vantage-lease", daemon=True)
        # Connections of some stores can be used in one thread only.
        if self._store.folder.concurrent:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.is_alive():
                thread.join()

    def others(self) -> bool:
        """Return whether another run is at work."""
        now = self._clock()
        return any(each.run != self._run and each.until > now for each in _leases(self._store))

    def end(self) -> None:
        """Give the lease back."""
        own = _read_lease(self._store, self._name)
        if own is not None and own.holder == self._holder:
            self._store.delete(self._name)


def _leases(store: FolderStore) -> Iterator[_LeaseEntry]:
    for name in store.names("leases"):
        lease = _read_lease(store, name)
        if lease is not None:
            yield lease


def _read_lease(store: FolderStore, name: str) -> _LeaseEntry | None:
    value = _read(store, name)
    return None if value is None else _LeaseEntry(**value)


def _digest(run: str) -> str:
    return hashlib.sha256(run.encode()).hexdigest()[:16]


def _read(store: FolderStore, name: str) -> Any | None:
    return read_value(store, name, lambda data: checked(data, _VERSION)["value"])


def _write(store: FolderStore, name: str, value: Any) -> None:
    write_value(store, name, {"version": _VERSION, "value": value})
