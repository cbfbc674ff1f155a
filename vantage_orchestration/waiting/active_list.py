# SPDX-License-Identifier: Apache-2.0
"""Reads the list of running transactions where that saves requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import BadRequest
from vantage_orchestration.limits import LONGEST_PAGE
from vantage_orchestration.models import instant, items_of_page
from vantage_orchestration.paging import Chunk, Pages, fitted
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.processing.lookup import GUESS, key_filter
from vantage_orchestration.text import utc_text

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.reply import Reply

#: Id, stage, creation time as the server writes it (empty if not reported), and whether it carries
#: a key of this package.
_Item = tuple[str, str | None, str, bool]

_PATH: Final = "/transactions/active"
#: Largest desired page in bytes. ``json`` blocks all other threads while it parses a page, about 8
#: ms per megabyte, and each listed transaction shows the parameters of up to 1000 files.
_PAGE_BYTES: Final = 1_000_000
#: Seconds after which the known cost of a list expires.
_KNOWN_FOR: Final = 600.0
#: Seconds: transactions that were not listed yet are searched among those created since then.
_RECENT: Final = 600.0
#: Requests that a filter must save before it is tried: it may be misread, once in ten minutes.
_WORTH: Final = 2
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
        pages: Number of pages that were read.
    """

    stages: Mapping[str, str | None]
    complete: bool
    pages: int = 0


#: The list was not read.
NO_LISTING: Final = Listing({}, complete=False)


class ActiveList:
    """Reads ``GET /transactions/active``, 1000 items per page, and remembers what it takes.

    Other people's transactions cost little: only transactions created since the oldest of these are
    listed. Their creation times come from the list itself. Transactions that it has not shown yet
    are assumed to be a few minutes old. If these are many, only those of this package are listed,
    by the name of our key: what they show is true, however well the server filters. Nothing is
    retried here: the next round tries again.
    """

    def __init__(self, client: VantageClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._costs: dict[tuple[str | None, bool, bool], tuple[int, float]] = {}
        self._no_filter_until = -math.inf
        self._filtered: Set[str] = frozenset()
        self._names: Set[str] = frozenset()
        self._made: dict[str, str] = {}
        self._lost: Set[str] = frozenset()
        self.size = LONGEST_PAGE

    def read(
        self, wanted: Set[str], skill_id: str | None, others: Set[str] = frozenset()
    ) -> Listing:
        """Read the list if that takes fewer requests than reading each transaction.

        Ids are in lower case; ``others`` are searched if the list is read. It changes meanwhile: if
        it gets shorter between two pages, some items are skipped. So a missing id proves nothing;
        read that transaction itself.
        """
        if self._pages(skill_id, bounded=True) >= len(wanted):
            return NO_LISTING
        self._names = names = wanted | others
        self._made = {name: made for name, made in self._made.items() if name in names}
        self._filtered &= names
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

    def _read(
        self, wanted: Set[str], skill_id: str | None, start: str | None, *, ours: bool = False
    ) -> Listing:
        """Read the list, or with ``ours`` only transactions of this package."""
        stages: dict[str, str | None] = {}
        missing, read, count, keyed = len(wanted), 0, 0, not ours
        params: dict[str, Any] = {"SkillId": skill_id, "StartDate": start}
        if ours and (encoding := (key_filter(self._client) or GUESS).encoding):
            from vantage_orchestration.client import parameter_filter  # Triggers load no client.

            params |= parameter_filter("TransactionParameters", {KEY_PARAMETER: None}, encoding)
        pages = Pages(lambda offset: self._read_page(params, offset), lambda item: item[0])
        for count, page in enumerate(pages, 1):
            found = {name: stage for name, stage, *_ in page.items}
            keyed = keyed and all(key for name, *_, key in page.items if name in wanted)
            missing -= len(wanted & (found.keys() - stages.keys()))
            stages.update(found)
            self._made |= {name: made for name, _, made, _ in page.items if name in self._names}
            read += len(page.items)
            total = read if page.total is None else page.total
            # A further page may cost more than it saves: never read the list of a whole tenant for
            # three transactions.
            rest = min(math.ceil(max(0, total - read) / self.size), missing)
            self._costs[skill_id, start is not None, ours] = (count + rest, self._clock())
            if page.total is not None and read >= total:
                break  # If that number is wrong, the rest is read one by one.
            if keyed and rest - math.ceil(missing / self.size) >= _WORTH:
                listing = self._read_ours(wanted, skill_id, start, rest)
                if listing is not None:
                    return replace(listing, stages={**stages, **listing.stages})
            if read < total and rest == missing:
                return Listing(stages, complete=False, pages=count)
        return Listing(stages, complete=True, pages=count)

    def _read_ours(
        self, wanted: Set[str], skill_id: str | None, start: str | None, most: int
    ) -> Listing | None:
        """Read the list of this package's transactions; None if that saves nothing of so many
        requests."""
        known = key_filter(self._client) or GUESS
        if self._clock() < self._no_filter_until or not known.any_value:
            return None
        try:
            listing = self._read(wanted, skill_id, start, ours=True)
        except BadRequest:
            listing = NO_LISTING
        # It still shows what it has shown before. The rest was created elsewhere, or is misread.
        lost = wanted - listing.stages.keys() - self._filtered
        if listing.stages and listing.pages + len(lost) <= most:
            self._filtered |= wanted & listing.stages.keys()
            return listing
        self._no_filter_until = self._clock() + _KNOWN_FOR
        return None

    def _pages(self, skill_id: str | None, *, bounded: bool) -> int:
        """Return how many requests a list takes; for an unknown list assume one page."""
        now = self._clock()
        self._costs = {
            key: known for key, known in self._costs.items() if now - known[1] < _KNOWN_FOR
        }
        cost, _ = self._costs.get((skill_id, bounded, False), (1, now))
        filtered = self._costs.get((skill_id, bounded, True))
        if filtered is not None and now >= self._no_filter_until:
            cost = min(cost, 1 + filtered[0])
        return max(1, cost)

    def _read_page(self, params: Mapping[str, Any], offset: int) -> Chunk[_Item]:
        limit = self.size

        def take(reply: Reply) -> Chunk[_Item]:
            items, total = reply.json(_read)
            self.size = fitted(limit, len(items), reply.size, _PAGE_BYTES)
            return Chunk(items, total, limit)

        given = {name: value for name, value in params.items() if value is not None}
        return self._client.send_once(
            "GET", _PATH, take, params={"Limit": limit, "Offset": offset, **given}
        )


def _read(data: Any) -> tuple[Sequence[_Item], int | None]:
    """Return the needed values of each item of a page, and the length of the list if given."""

    # models.Page would parse dates and parameters of 1000 items, which costs more than all the
    # rest.
    def pick(item: Any) -> _Item:
        name = item.get("transactionId") or item["id"]
        stage, made = item.get("stage"), item.get("createTimeUtc")
        given = item.get("transactionParameters")
        return (
            name.lower(),
            stage if isinstance(stage, str) else None,
            made if isinstance(made, str) else "",
            isinstance(given, list) and any(each.get("key") == KEY_PARAMETER for each in given),
        )

    return items_of_page(data, pick)
