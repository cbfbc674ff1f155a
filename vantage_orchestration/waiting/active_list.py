# SPDX-License-Identifier: Apache-2.0
"""Reads the list of running transactions where that saves requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.limits import LONGEST_PAGE
from vantage_orchestration.models import instant, items_of_page
from vantage_orchestration.paging import Chunk, Pages
from vantage_orchestration.text import utc_text

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.reply import Reply

#: Id, stage and creation time as the server writes it; empty if not reported.
_Item = tuple[str, str | None, str]

__all__ = ["NO_LISTING", "ActiveList", "Listing"]

_PATH: Final = "/transactions/active"
_SHORTEST_PAGE: Final = 50
#: Largest desired page in bytes. ``json`` blocks all other threads while it parses a page, about 8
#: ms per megabyte, and each listed transaction shows the parameters of up to 1000 files.
_PAGE_BYTES: Final = 1_000_000
#: Seconds after which the known length of a list expires.
_KNOWN_FOR: Final = 600.0
#: Seconds: transactions that were not listed yet are searched among those created since then.
_RECENT: Final = 600.0
#: This many missing transactions are read singly, once, before the whole list is read.
_FEW: Final = 16
#: Stands for the creation time of a transaction that the whole list does not contain.
_NOT_LISTED: Final = "?"


@dataclass(frozen=True, slots=True)
class Listing:
    """The part of the list that was read.

    Attributes:
        stages: Transaction id in lower case to its stage.
        complete: Whether the list was read to its end.
    """

    stages: Mapping[str, str | None]
    complete: bool


#: The list was not read.
NO_LISTING: Final = Listing({}, complete=False)


class ActiveList:
    """Reads ``GET /transactions/active``, 1000 items per page, and remembers the length of the
    list.

    Other people's transactions cost little: only transactions created since the oldest of ours are
    listed. Their creation times come from the list itself. Transactions that it has not shown yet
    are assumed to be a few minutes old.

    Args:
        client: Client. Nothing is retried here: the next round tries again.
        clock: Returns monotonic seconds.
    """

    def __init__(self, client: VantageClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._totals: dict[tuple[str | None, bool], tuple[int, float]] = {}
        self._names: Set[str] = frozenset()
        self._made: dict[str, str] = {}
        self._lost: Set[str] = frozenset()
        self._size = LONGEST_PAGE

    def read(
        self, wanted: Set[str], skill_id: str | None, others: Set[str] = frozenset()
    ) -> Listing:
        """Read the list if that takes fewer requests than reading each transaction.

        Args:
            wanted: Ids in lower case that are probably listed.
            skill_id: Only transactions of this skill.
            others: Further ids to search if the list is read.

        Returns:
            The part that was read. The list changes meanwhile: if it gets shorter between two
            pages, some items are skipped. So a missing id proves nothing; read that transaction
            itself.

        Raises:
            VantageError: A page could not be read.
        """
        if self._pages(skill_id, bounded=True) >= len(wanted):
            return NO_LISTING
        self._names = names = wanted | others
        self._made = {name: made for name, made in self._made.items() if name in names}
        new = names - self._made.keys()
        # Missing transactions may be older than assumed.
        recent = bool(new) and not self._lost & new
        start = None if new and not recent else self._start(recent=recent)
        self._lost = new & wanted
        listing = self._read(wanted, skill_id, start)
        lost = new - listing.stages.keys()
        if recent and listing.complete and len(lost & wanted) > self._dear(skill_id):
            recent, listing = False, self._read(wanted, skill_id, None)
        if listing.complete and not recent:
            self._made |= dict.fromkeys(lost - self._made.keys(), _NOT_LISTED)
        self._lost = (new & wanted) - self._made.keys()
        return listing

    def _dear(self, skill_id: str | None) -> int:
        """Return from how many single requests on reading the whole list is cheaper."""
        return max(_FEW, self._pages(skill_id, bounded=False))

    def _start(self, *, recent: bool) -> str | None:
        """Return the creation time from which on to read the list; None for all of it."""
        import pendulum

        if "" in (times := set(self._made.values()) - {_NOT_LISTED}):
            return None  # The server does not say.
        starts = [pendulum.now("UTC").subtract(seconds=_RECENT)] if recent else []
        if times:
            oldest = instant(min(times))
            if oldest is None:
                return None
            starts.append(oldest.subtract(seconds=1))
        return utc_text(min(starts)) if starts else None

    def _read(self, wanted: Set[str], skill_id: str | None, start: str | None) -> Listing:
        stages: dict[str, str | None] = {}
        missing, read = len(wanted), 0
        pages = Pages(lambda offset: self._read_page(skill_id, start, offset), lambda item: item[0])
        for page in pages:
            found = {name: stage for name, stage, _ in page.items}
            missing -= len(wanted & (found.keys() - stages.keys()))
            stages.update(found)
            self._made |= {name: made for name, _, made in page.items if name in self._names}
            read += len(page.items)
            total = read if page.total is None else page.total
            self._totals[skill_id, start is not None] = (total, self._clock())
            if page.total is not None and read >= total:
                break  # If that is a wrong number, the rest is asked for singly.
            # A further page may cost more than it saves: never read the list of a whole tenant for
            # three transactions.
            if read < total and math.ceil((total - read) / self._size) >= missing:
                return Listing(stages, complete=False)
        return Listing(stages, complete=True)

    def _pages(self, skill_id: str | None, *, bounded: bool) -> int:
        """Return how many requests a list takes; for an unknown list assume one page."""
        now = self._clock()
        self._totals = {
            key: (total, since)
            for key, (total, since) in self._totals.items()
            if now - since < _KNOWN_FOR
        }
        total, _ = self._totals.get((skill_id, bounded), (0, now))
        return max(1, math.ceil(total / self._size))

    def _read_page(self, skill_id: str | None, start: str | None, offset: int) -> Chunk[_Item]:
        limit = self._size
        params: dict[str, Any] = {"Limit": limit, "Offset": offset}
        if skill_id is not None:
            params["SkillId"] = skill_id
        if start is not None:
            params["StartDate"] = start

        def take(reply: Reply) -> Chunk[_Item]:
            items, total = reply.json(_read)
            self._fit(reply.size, len(items))
            return Chunk(items, total, limit)

        return self._client.send_once("GET", _PATH, take, params=params)

    def _fit(self, size: int, count: int) -> None:
        """Choose the length of the next page by the size of this one."""
        if count >= _SHORTEST_PAGE:
            fitting = int(_PAGE_BYTES * count / max(size, 1))
            self._size = min(LONGEST_PAGE, max(_SHORTEST_PAGE, fitting))


def _read(data: Any) -> tuple[Sequence[_Item], int | None]:
    """Return the needed values of each item of a page, and the length of the list if given."""

    # models.Page would parse dates and parameters of 1000 items, which costs more than all the
    # rest.
    def pick(item: Any) -> _Item:
        name = item.get("transactionId") or item["id"]
        stage, made = item.get("stage"), item.get("createTimeUtc")
        return (
            name.lower(),
            stage if isinstance(stage, str) else None,
            made if isinstance(made, str) else "",
        )

    return items_of_page(data, pick)
