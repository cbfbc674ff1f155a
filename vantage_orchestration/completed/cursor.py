# SPDX-License-Identifier: Apache-2.0
"""Remembers which ended transactions were dealt with, in a store of small values.

The ids of a busy tenant's transactions, 140,000 in 14 days, do not fit into one value. Of each, 8
bytes of a hash are kept, in one value for each hour in which transactions were made: for 10,000 a
day that is 4 kB, and only hours with changes are written. (A store of smaller values may have more
of them for an hour, or one for several.) Two of 140,000 ids share their 8 bytes with a probability
of 1 to 2 thousand millions; in one hour it is a hundred thousandth of that.

What is going to be told is announced in the store before it is told, and noted as dealt with after
it has arrived. Whoever starts again after a crash sees what was announced and not noted: that may
have been told, and will be told again with a mark. So nothing is lost, and what is told twice is
known to be.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vantage_orchestration.completed.listing import HOUR, KEPT_DAYS

__all__ = ["Cursor", "Overtaken", "Store"]

_DIGEST: Final = 8
#: Digests in one value: 43 kB as text. Airflow advises against values of more than 64 kB.
_DIGESTS: Final = 4000
#: Hours after which nothing of that age can be listed any more.
_FORGET_AFTER: Final = (KEPT_DAYS + 1) * 24

Entry = tuple[str, int]
"""Id of a transaction, and the number of the hour in which it was made."""


class Store(Protocol):
    """A store of JSON values, such as the asset state store of Airflow."""

    async def aget(self, key: str, default: Any = None) -> Any:
        """Return the value of a key."""

    async def aset(self, key: str, value: Any) -> None:
        """Set the value of a key; it has been stored when this returns."""

    async def adelete(self, key: str) -> None:
        """Remove a key, if there is one."""


class Overtaken(RuntimeError):
    """Somebody else has taken over this cursor."""


@dataclass
class _Hour:
    """What was dealt with of one hour: digests in the order in which they came."""

    digests: list[bytes] = field(default_factory=list)
    members: set[bytes] = field(default_factory=set)
    unwritten: int | None = None
    """Place of the first digest that is not stored."""

    def add(self, digest: bytes) -> None:
        if digest not in self.members:
            if self.unwritten is None:
                self.unwritten = len(self.digests)
            self.members.add(digest)
            self.digests.append(digest)


class Cursor:
    """What was dealt with by one watcher. Used by one coroutine at a time.

    Args:
        stores: Where it is kept: the same in each of them, so that one may go.
        scope: Names the watcher within its stores.
        clock: Seconds since 1970.
        digests: How many transactions one value may hold; each takes 11 characters.
        hours: Of how many hours one value may hold transactions, where they are few.

    What was stored with one number of digests or hours can't be read with another.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        scope: str,
        clock: Callable[[], float] = time.time,
        *,
        digests: int = _DIGESTS,
        hours: int = 1,
    ) -> None:
        if not stores:
            raise ValueError("a cursor needs a store")
        self._stores = tuple(stores)
        self._prefix = f"abbyy_vantage/completed/{hashlib.sha256(scope.encode()).hexdigest()[:16]}"
        self._clock = clock
        self._part = digests
        self._span = hours
        self._me = uuid.uuid4().hex
        self._hours: dict[int, _Hour] = {}
        self._index: dict[int, int] = {}
        self._index_stored = True
        self._announced: set[bytes] = set()
        self._doubtful: set[bytes] = set()

    async def open(self) -> Mapping[str, Any] | None:
        """Take over from whoever had it before.

        Returns:
            What was saved by :meth:`save`, None if nothing ever was.
        """
        await self._set("owner", self._me)
        indexes = await self._get_all("index")
        for index in indexes:
            for hour, parts in index.items():
                self._index[int(hour)] = max(parts, self._index.get(int(hour), 0))
        everywhere = len(indexes) in (0, len(self._stores))
        self._index_stored = everywhere and all(index == indexes[0] for index in indexes)
        for announced in await self._get_all("announced"):
            self._doubtful |= set(_unpacked(announced))
        self._announced = set(self._doubtful)
        return await self.saved("state")

    async def save(self, state: Mapping[str, Any], name: str = "state") -> None:
        """Save a few settings along with the cursor.

        Args:
            state: JSON.
            name: Names them, if there are others than those that :meth:`open` returns.
        """
        await self._set(name, dict(state))

    async def saved(self, name: str) -> Mapping[str, Any] | None:
        """Return what was saved under a name, None if nothing ever was."""
        states = await self._get_all(name)
        return states[0] if states else None

    async def unknown(self, entries: Iterable[Entry]) -> list[str]:
        """Return the ids that were not dealt with, in their order, each once."""
        found: dict[str, None] = {}
        for name, hour in entries:
            if _digest(name) not in (await self._loaded(hour)).members:
                found[name] = None
        return list(found)

    async def announce(self, names: Collection[str]) -> frozenset[str]:
        """Store that these are going to be told.

        Returns:
            Those of them that may have been told before, by somebody who was then killed.

        Raises:
            Overtaken: Somebody else has opened this cursor since; tell nothing any more.
        """
        if any(owner != self._me for owner in await self._get_all("owner")):
            raise Overtaken("another copy of this watcher has taken over")
        digests = {_digest(name): name for name in names}
        # Doubts that were not cleared up stay announced.
        announced = self._doubtful | digests.keys()
        if announced != self._announced:
            await self._set("announced", _packed(sorted(announced)))
            self._announced = announced
        return frozenset(digests[each] for each in self._doubtful & digests.keys())

    async def add(self, entries: Iterable[Entry]) -> None:
        """Note transactions as dealt with. That is stored by :meth:`flush`."""
        for name, hour in entries:
            digest = _digest(name)
            (await self._loaded(hour)).add(digest)
            self._doubtful.discard(digest)

    def forget_doubts(self) -> None:
        """Drop announcements of what is not listed any more: it has been deleted."""
        self._doubtful.clear()

    @property
    def unwritten(self) -> int:
        """Number of transactions that were noted and not stored yet."""
        return sum(
            len(hour.digests) - hour.unwritten
            for hour in self._hours.values()
            if hour.unwritten is not None
        )

    async def flush(self) -> None:
        """Store what was noted."""
        changed = {n: hour for n, hour in self._hours.items() if hour.unwritten is not None}
        index = dict(self._index)
        for number, hour in changed.items():
            parts = math.ceil(len(hour.digests) / self._part)
            index[number] = max(index.get(number, 0), parts)
        # The index first: a value that is in no index would never be removed.
        await self._write_index(index)
        for number, hour in changed.items():
            for part in range((hour.unwritten or 0) // self._part, index[number]):
                digests = hour.digests[part * self._part : (part + 1) * self._part]
                await self._set(_hour_key(number, part), _packed(digests))
            hour.unwritten = None

    async def prune(self) -> None:
        """Remove what is older than anything that can be listed."""
        limit = int(self._clock()) // HOUR - _FORGET_AFTER
        # Hour 0 stands for transactions without a time.
        old = {n: parts for n, parts in self._index.items() if 0 < n <= limit - self._span}
        for number, parts in old.items():
            for part in range(parts):
                for store in self._stores:
                    await store.adelete(f"{self._prefix}/{_hour_key(number, part)}")
            self._hours.pop(number, None)
        await self._write_index({n: parts for n, parts in self._index.items() if n not in old})

    async def _write_index(self, index: dict[int, int]) -> None:
        if index != self._index or not self._index_stored:
            await self._set("index", {str(number): parts for number, parts in index.items()})
            self._index, self._index_stored = index, True

    async def _loaded(self, number: int) -> _Hour:
        number -= number % self._span
        hour = self._hours.get(number)
        if hour is None:
            hour = _Hour()
            stored = [await self._stored(store, number) for store in self._stores]
            for digests in stored:
                for digest in digests:
                    hour.add(digest)
            # Stores that differ are made alike with the next change.
            hour.unwritten = 0 if any(digests != hour.digests for digests in stored) else None
            self._hours[number] = hour
        return hour

    async def _stored(self, store: Store, number: int) -> list[bytes]:
        digests: list[bytes] = []
        for part in range(self._index.get(number, 0)):
            value = await store.aget(f"{self._prefix}/{_hour_key(number, part)}")
            digests += _unpacked(value or "")
        return digests

    async def _get_all(self, name: str) -> list[Any]:
        values = [await store.aget(f"{self._prefix}/{name}") for store in self._stores]
        return [value for value in values if value is not None]

    async def _set(self, name: str, value: Any) -> None:
        for store in self._stores:
            await store.aset(f"{self._prefix}/{name}", value)


def _hour_key(number: int, part: int) -> str:
    return f"hour/{number}/{part}"


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.lower().encode()).digest()[:_DIGEST]


def _packed(digests: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(digests)).decode("ascii")


def _unpacked(text: str) -> list[bytes]:
    data = base64.b64decode(text)
    return [data[place : place + _DIGEST] for place in range(0, len(data), _DIGEST)]
