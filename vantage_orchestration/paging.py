# SPDX-License-Identifier: Apache-2.0
"""Reads paged lists so that reading ends whatever the server answers.

A list changes while it is read: an inserted item pushes others to the next page, which shows them
again; a deleted item lets others slip through between two pages. A faulty server or proxy may also
repeat a page, count wrongly, or never end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vantage_orchestration.errors import ProtocolError
from vantage_orchestration.limits import LONGEST_PAGE

T = TypeVar("T")

#: Most pages of one list, and most items. A busy tenant has 100,000 transactions in 14 days.
_MOST_PAGES = 5000
_MOST_ITEMS = 1_000_000
#: Most pages in a row without new items. A list that grows as fast as it is read can have a few.
_MOST_STALE = 3


#: Shortest page that is chosen by the weight of its items.
_SHORTEST = 50


def fitted(length: int, items: int, weight: float, most: float) -> int:
    """Return the length of the next page, given that of this one, its number of items, their weight
    and the desired weight of a page."""
    if items < _SHORTEST:
        return length
    return min(LONGEST_PAGE, max(_SHORTEST, int(most * items / max(weight, 1))))


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """One page of a list."""

    items: Sequence[T]
    #: Total number of items; None if the server does not report it.
    total: int | None
    #: Number of requested items.
    limit: int


class Pages(Generic[T]):
    """The pages of a list, from first to last. Iterate over it once.

    ``read`` reads the page at an offset, ``key`` returns the identity of an item. A page begins
    with the last ``overlap`` items of the page before. A list that repeats itself or does not end
    is a ProtocolError during iteration.
    """

    def __init__(
        self, read: Callable[[int], Chunk[T]], key: Callable[[T], Any], *, overlap: int = 0
    ) -> None:
        self._read = read
        self._key = key
        self._overlap = overlap
        #: Whether each page contained the overlapping items, so that no item was skipped.
        self.gapless = True
        #: Total number of items according to the last page.
        self.total: int | None = None

    def __iter__(self) -> Iterator[Chunk[T]]:
        offset, stale = 0, 0
        seen: set[Any] = set()
        last: list[Any] = []
        for _ in range(_MOST_PAGES):
            chunk = self._read(offset)
            self.total = chunk.total
            keys = [self._key(item) for item in chunk.items]
            self.gapless = self.gapless and set(last) <= set(keys)
            stale = stale + 1 if keys and seen.issuperset(keys) else 0
            seen.update(keys)
            yield chunk
            end = offset + len(keys)
            # A full page may not be the last one, whatever the server counts.
            full = len(keys) >= chunk.limit
            if not keys or (not full and (chunk.total is None or end >= chunk.total)):
                return
            if stale >= _MOST_STALE or len(seen) > _MOST_ITEMS:
                break
            step = max(1, len(keys) - self._overlap)
            last = keys[step:]
            offset += step
        raise ProtocolError(
            f"A list repeats itself or does not end: {len(seen)} items on {offset} places,"
            f" {self.total} announced",
            hint="A proxy may remove the query of the address, or ignore it in its cache",
        )
