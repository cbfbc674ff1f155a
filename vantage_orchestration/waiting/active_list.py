# SPDX-License-Identifier: Apache-2.0
"""Reads the list of running transactions where that saves requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.limits import LONGEST_PAGE
from vantage_orchestration.models import items_of_page
from vantage_orchestration.paging import Chunk, Pages

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.reply import Reply

_Stage = tuple[str, str | None]

__all__ = ["NO_LISTING", "ActiveList", "Listing"]

_PATH: Final = "/transactions/active"
_SHORTEST_PAGE: Final = 50
#: Largest desired page in bytes. ``json`` blocks all other threads while it parses a page, about 8
#: ms per megabyte, and each listed transaction shows the parameters of up to 1000 files.
_PAGE_BYTES: Final = 1_000_000
#: Seconds after which the known length of a list expires.
_KNOWN_FOR: Final = 600.0


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

    Args:
        client: Client. Nothing is retried here: the next round tries again.
        clock: Returns monotonic seconds.
    """

    def __init__(self, client: VantageClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._totals: dict[str | None, tuple[int, float]] = {}
        self._size = LONGEST_PAGE

    def read(self, wanted: Set[str], skill_id: str | None) -> Listing:
        """Read the list if that takes fewer requests than reading each transaction.

        Args:
            wanted: Ids in lower case that are probably listed.
            skill_id: Only transactions of this skill.

        Returns:
            The part that was read. The list changes meanwhile: if it gets shorter between two
            pages, some items are skipped. So a missing id proves nothing; read that transaction
            itself.

        Raises:
            VantageError: A page could not be read.
        """
        if self._pages(skill_id) >= len(wanted):
            return NO_LISTING
        stages: dict[str, str | None] = {}
        missing, read = len(wanted), 0
        for page in Pages(lambda offset: self._read_page(skill_id, offset), lambda item: item[0]):
            missing -= len(wanted & (dict(page.items).keys() - stages.keys()))
            stages.update(page.items)
            read += len(page.items)
            total = read if page.total is None else page.total
            self._totals[skill_id] = (total, self._clock())
            if page.total is not None and read >= total:
                break  # If that is a wrong number, the rest is asked for singly.
            # A further page may cost more than it saves: never read the list of a whole tenant for
            # three transactions.
            if read < total and math.ceil((total - read) / self._size) >= missing:
                return Listing(stages, complete=False)
        return Listing(stages, complete=True)

    def _pages(self, skill_id: str | None) -> int:
        """Return how many requests the whole list takes. For an unknown list assume one page."""
        now = self._clock()
        self._totals = {
            key: (total, since)
            for key, (total, since) in self._totals.items()
            if now - since < _KNOWN_FOR
        }
        total, _ = self._totals.get(skill_id, (0, now))
        return max(1, math.ceil(total / self._size))

    def _read_page(self, skill_id: str | None, offset: int) -> Chunk[_Stage]:
        limit = self._size
        params: dict[str, Any] = {"Limit": limit, "Offset": offset}
        if skill_id is not None:
            params["SkillId"] = skill_id

        def take(reply: Reply) -> Chunk[_Stage]:
            items, total = reply.json(_read)
            self._fit(reply.size, len(items))
            return Chunk(items, total, limit)

        return self._client.send_once("GET", _PATH, take, params=params)

    def _fit(self, size: int, count: int) -> None:
        """Choose the length of the next page by the size of this one."""
        if count >= _SHORTEST_PAGE:
            fitting = int(_PAGE_BYTES * count / max(size, 1))
            self._size = min(LONGEST_PAGE, max(_SHORTEST_PAGE, fitting))


def _read(data: Any) -> tuple[Sequence[_Stage], int | None]:
    """Return id and stage of each item of a page, and the length of the list if given."""

    # models.Page would parse dates and parameters of 1000 items, which costs more than all the
    # rest.
    def pair(item: Any) -> _Stage:
        name = item.get("transactionId") or item["id"]
        stage = item.get("stage")
        return name.lower(), stage if isinstance(stage, str) else None

    return items_of_page(data, pair)
