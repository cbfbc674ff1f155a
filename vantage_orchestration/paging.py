# SPDX-License-Identifier: Apache-2.0
"""Reads lists that come in pages, so that reading ends whatever the server answers.

A list moves while it is read: what is put in pushes items to the next page, which shows them twice;
what is taken out lets items slip through between two pages. And a server, or what stands in its
place, can repeat a page, count wrongly, or never come to an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vantage_orchestration.errors import ProtocolError

__all__ = ["Chunk", "Pages"]

T = TypeVar("T")

#: Pages of one list, and items of all of them. A busy tenant has 100,000 transactions in 14 days.
_MOST_PAGES = 5000
_MOST_ITEMS = 1_000_000
#: Pages in a row that bring nothing new. A list that grows as fast as it is read can give a few.
_MOST_STALE = 3


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """One page of a list.

    Attributes:
        items: Its items.
        total: How many items there are altogether, None if the server does not say.
        limit: How many items were asked for.
    """

    items: Sequence[T]
    total: int | None
    limit: int


class Pages(Generic[T]):
    """The pages of a list, from the first to the last. To be iterated over once.

    Args:
        read: Reads the page that begins behind so many items.
        key: Returns what is the same if an item comes twice.
        overlap: How many items of a page the next one begins with. With one or more,
            :attr:`gapless` is known.

    Attributes:
        gapless: Whether each page has shown the last item of the one before, so that nothing can
            have slipped through between them.
        total: What the last page has said of the number of items.

    Raises:
        ProtocolError: While it is iterated over: the list repeats itself or does not end.
    """

    def __init__(
        self, read: Callable[[int], Chunk[T]], key: Callable[[T], Any], *, overlap: int = 0
    ) -> None:
        self._read = read
        self._key = key
        self._overlap = overlap
        self.gapless = True
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
            f"A list repeats itself, or does not end: {len(seen)} items on {offset} places, and"
            f" {self.total} were announced",
            hint="A proxy may drop or cache the query of the address",
        )
