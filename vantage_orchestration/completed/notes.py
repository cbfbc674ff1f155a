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
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.completed.listing import HOUR, KEPT_DAYS
from vantage_orchestration.errors import Overtaken, VantageError
from vantage_orchestration.parallel import starts
from vantage_orchestration.state import FolderStore, checked, read_value, write_value

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

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

    They are in a folder of this consumer alone. ``clock`` returns seconds since 1970. All methods
    raise :class:`StateDamaged` if a file holds something else than notes, :class:`StateUnavailable`
    if the store can't be read, and ``OSError`` if it can't be written.
    """

    def __init__(self, folder: Location, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.clock = clock
        self.store = FolderStore(folder)

    def read(self, name: str) -> Any | None:
        """Return a small value, None if there is none."""
        return read_value(self.store, f"{name}.json", lambda data: checked(data, _VERSION)["value"])

    def write(self, name: str, value: Any) -> None:
        """Store a small value."""
        write_value(self.store, f"{name}.json", {"version": _VERSION, "value": value})

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
            before = self.read(f"noted/{hour}") or {}
            if names.keys() - before.keys():
                self.write(f"noted/{hour}", {**names, **before})

    def _by(self, entries: Iterable[Entry]) -> dict[str, str | None]:
        """Return which run has done each item.

        Another list may have given an item a time, or none: those without are in hour 0.
        """
        wanted = {name.lower(): hour for name, hour in entries}
        files = {f"noted/{hour}" for hour in (0, *wanted.values())}
        if 0 in wanted.values():
            files.update(each.removesuffix(".json") for each in self.store.names("noted"))
        noted = ChainMap(*(self.read(each) or {} for each in sorted(files)))
        return {name: noted.get(name) for name in wanted}

    def prune(self) -> None:
        """Remove notes that are older than anything the service can list."""
        limit = int(self.clock()) // HOUR - _FORGET_AFTER
        for kind in ("noted", "runs"):
            for name in self.store.names(kind):
                # Hour 0 stands for items without a time.
                hour = name.partition("/")[2].partition(".")[0].partition("-")[0]
                if hour.isdecimal() and 0 < int(hour) < limit:
                    self.store.delete(name)

    # -- runs

    def taken(self, run: str) -> list[Entry]:
        """Return what earlier tries of a run have taken, and no other run is done with."""
        files = [each.removesuffix(".json") for each in self.store.names("runs")]
        own = [each for each in files if each.endswith(f"-{_digest(run)}")]
        found = [(str(name), int(hour)) for each in own for name, hour in self.read(each) or ()]
        by = self._by(found)
        return [entry for entry in found if by[entry[0]] in (None, _digest(run))]

    def take(self, run: str, entries: Iterable[Entry]) -> None:
        """Record what a run takes, in addition to what its earlier tries have taken."""
        hour = int(self.clock()) // HOUR
        name = f"runs/{hour}-{_digest(run)}"
        both = [*(self.read(name) or ()), *([name.lower(), hour] for name, hour in entries)]
        self.write(name, list(dict.fromkeys(map(tuple, both))))

    @contextlib.contextmanager
    def lease(self, run: str) -> Iterator[Lease | None]:
        """Take the lease of the consumer for a run; yield None if another run holds it.

        So two runs do not work at the same time; each try of a run takes over from the one before.
        Stores have no common lock. Each run writes its own file and then looks for others. Of two
        runs that begin at the same moment at least one sees the other, steps back, and tries again
        after a random time.
        """
        lease = Lease(self, run)
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

    def busy(self, other_than: str | None = None) -> bool:
        """Return whether a run, other than the given one, is at work now."""
        now, names = self.clock(), self.store.names("leases")
        leases = [each for name in names if (each := self.read(name.removesuffix(".json")))]
        return any(each["until"] > now and each["run"] != other_than for each in leases)


class Lease:
    """The lease of a run, see :meth:`Notes.lease`."""

    def __init__(self, notes: Notes, run: str) -> None:
        self._notes = notes
        self._name = f"leases/{_digest(run)}"
        self._run = run
        self._holder = uuid.uuid4().hex

    def renew(self) -> None:
        """Renew the lease."""
        until = self._notes.clock() + _LEASE
        self._notes.write(self._name, {"run": self._run, "holder": self._holder, "until": until})

    def _until(self) -> float | None:
        """Return when the lease ends; None if it was lost."""
        stored = self._notes.read(self._name)
        if stored is None or stored["holder"] != self._holder:
            return None
        return float(stored["until"])

    def check(self) -> None:
        """Renew the lease, or raise if a later try of this run, or another run, is at work."""
        until = self._until()
        # No other run begins while the lease is renewed.
        if until is None or (until <= self._notes.clock() and self.others()):
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
        beats = self._notes.folder.concurrent and starts(thread)
        try:
            yield
        finally:
            over.set()
            if beats:
                thread.join()

    def others(self) -> bool:
        """Return whether another run is at work."""
        return self._notes.busy(other_than=self._run)

    def end(self) -> None:
        """Give the lease back."""
        if self._until() is not None:
            self._notes.store.delete(f"{self._name}.json")


def _digest(run: str) -> str:
    return hashlib.sha256(run.encode()).hexdigest()[:16]
