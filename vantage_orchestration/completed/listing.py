# SPDX-License-Identifier: Apache-2.0
"""Polls the list of completed transactions without reading all of it each time.

The list filters by creation time only, not by the time of ending (contract, section 3.2), and a
transaction in review ends days after its creation. So each poll must cover the 14 days that the
service keeps, in which a busy tenant has 100,000 transactions. Recent transactions are read at each
poll. For older ones only counts are requested: if the count of an interval is unchanged, the
interval is skipped; otherwise it is halved until little is left to read. A transaction that ends
while another is deleted escapes this, so the whole list is read from time to time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.limits import LONGEST_PAGE
from vantage_orchestration.paging import Chunk, Pages, fitted

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

log = logging.getLogger(__name__)

#: Seconds; creation times are counted in whole hours.
HOUR: Final = 3600
#: Days for which transactions are kept (contract, section 5), and one more because clocks differ.
KEPT_DAYS: Final = 15
#: Most file parameters desired on one page: a transaction may have 1000 files.
_MOST_PARAMETERS: Final = 20_000
#: How often an interval is read again if it changed while its pages were read.
_PASSES: Final = 3

Entries = tuple["ListedTransaction", ...]


def hour_of(moment: DateTime | None) -> int:
    """Return the hour of a moment, counted from 1970; 0 for None."""
    return 0 if moment is None else math.floor(moment.timestamp() / HOUR)


class CompletedList:
    """Polls ``GET /transactions/completed``, of one skill or of all.

    It blocks; use it in one thread at a time. Transactions created within the last ``overlap``
    seconds are read at each poll: the time that most take and by which the list lags behind.
    """

    def __init__(
        self,
        client: VantageClient,
        skill_id: str | None,
        *,
        overlap: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._skill_id = skill_id
        self._overlap = overlap
        self._clock = clock
        self._known: dict[int, int] = {}
        self.limit = LONGEST_PAGE

    def numbers(self) -> dict[str, Any]:
        """Return what is known of the list as small JSON, for :meth:`restore`. Store it once
        everything that was yielded is dealt with."""
        begin, end = min(self._known, default=0), max(self._known, default=-1) + 1
        return {"begin": begin, "numbers": [self._known.get(hour) for hour in range(begin, end)]}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Continue where another object ended, so that the next poll reads only what is new."""
        found = enumerate(numbers["numbers"], numbers["begin"])
        self._known = {hour: number for hour, number in found if number is not None}

    def look(self, *, full: bool) -> Iterator[Entries]:
        """Yield what may be new since the last poll, or everything, page by page, newest first.

        A transaction may come more than once, and most will have come before. If a page can't be
        read, the next poll catches up.
        """
        now = self._clock()
        recent = math.floor((now - self._overlap) / HOUR)
        oldest = math.floor(now / HOUR) - KEPT_DAYS * 24
        self._known = {hour: n for hour, n in self._known.items() if oldest <= hour < recent}
        yield from self._read(recent, None)
        if oldest < recent:
            yield from self._search(oldest, recent, self._count(oldest, recent), full)

    def _search(self, begin: int, end: int, count: int, full: bool) -> Iterator[Entries]:
        """Yield what may be new among transactions created from hour ``begin`` to before
        ``end``."""
        # None where a count is unknown.
        known = [self._known.get(hour) for hour in range(begin, end)]
        if not full and None not in known and count == sum(filter(None, known)):
            return
        if count == 0:
            self._known.update(dict.fromkeys(range(begin, end), 0))
            return
        if count <= LONGEST_PAGE or end - begin == 1:
            yield from self._read(begin, end)
            return
        middle = (begin + end) // 2
        later = self._count(middle, end)
        yield from self._search(middle, end, later, full)
        yield from self._search(begin, middle, count - later, full)

    def _count(self, begin: int, end: int) -> int:
        return self._client.list_completed_transactions(limit=1, **self._filters(begin, end)).total

    def _read(self, begin: int, end: int | None) -> Iterator[Entries]:
        """Yield all transactions created in an interval, and record their counts by hour."""
        seen: dict[str, ListedTransaction] = {}
        for _ in range(_PASSES):
            if whole := (yield from self._pages(begin, end, seen)):
                break
            log.debug("The list changed while it was read, %d entries so far", len(seen))
        if end is None:
            return
        for hour in range(begin, end):
            self._known.pop(hour, None)
        if whole:
            self._known.update(dict.fromkeys(range(begin, end), 0))
            for item in seen.values():
                hour = hour_of(item.created_at)
                if begin <= hour < end:
                    self._known[hour] += 1

    def _pages(
        self, begin: int, end: int | None, seen: dict[str, ListedTransaction]
    ) -> Generator[Entries, None, bool]:
        """Yield the pages; return whether the list stayed unchanged meanwhile.

        Each page begins with the last entry of the page before. If that entry is missing, an
        earlier one was deleted, and another may have been skipped between two pages.
        """
        filters = self._filters(begin, end)
        found: set[str] = set()

        def read(offset: int) -> Chunk[ListedTransaction]:
            limit = self.limit
            page = self._client.list_completed_transactions(limit=limit, offset=offset, **filters)
            weight = sum(len(item.file_parameters) for item in page.items)
            self.limit = fitted(limit, len(page.items), weight, _MOST_PARAMETERS)
            return Chunk(page.items, page.total, limit)

        pages = Pages(read, lambda item: item.id, overlap=1)
        for page in pages:
            found.update(item.id for item in page.items)
            if new := tuple(item for item in page.items if item.id not in seen):
                seen.update((item.id, item) for item in new)
                yield new
        if whole := pages.gapless and len(found) == pages.total:
            # Transactions deleted between two passes no longer count.
            for name in seen.keys() - found:
                del seen[name]
        return whole

    def _filters(self, begin: int, end: int | None) -> dict[str, Any]:
        import pendulum

        return {
            "skill_id": self._skill_id,
            "start_date": pendulum.from_timestamp(begin * HOUR),
            # The end is inclusive. A transaction created exactly then is read twice, which is
            # harmless.
            "end_date": None if end is None else pendulum.from_timestamp(end * HOUR),
        }
