# SPDX-License-Identifier: Apache-2.0
"""Decides which ended transactions an orchestrator is told of, so that each is told once.

Whoever looks at the list gives a :class:`Teller` what was seen, piece by piece. It answers with
what is to be told, and at the next piece takes that for told. So ids are noted as dealt with once
their events are stored, which excludes that one is lost; and they are announced before, so that
after a crash between the two it is known which ones may come twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.completed.listing import hour_of
from vantage_orchestration.models import ENDED
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Collection

    from pendulum import DateTime

    from vantage_orchestration.completed.cursor import Cursor
    from vantage_orchestration.models import ListedTransaction

__all__ = ["FULL_EVERY", "Look", "Teller", "Wanted", "facts", "instant", "sent_through_api"]

#: Seconds after which everything is to be read again: deletions can hide what ended meanwhile.
FULL_EVERY: Final = 3600.0
#: Transactions without an event that are noted before they are stored.
_QUIETLY: Final = 5000
#: Limits of registration parameters (contract, section 5); what breaks them is left out.
_MOST_PARAMETERS, _LONGEST_KEY, _LONGEST_VALUE = 20, 128, 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transactions are told.

    Args:
        statuses: How they have ended: ``Processed``, ``Failed``, ``Canceled``.
        include_api: Also those that were sent through the API.
        since: Only those made since then.

    Raises:
        ValueError: There is no such status.
    """

    statuses: frozenset[str]
    include_api: bool
    since: DateTime | None = None

    @classmethod
    def of(cls, statuses: Collection[str], include_api: bool, since: str | None = None) -> Wanted:
        """Make it of arguments; ``since`` is ISO 8601 text.

        Raises:
            ValueError: One of them is not acceptable.
        """
        if isinstance(statuses, str) or not statuses or not set(statuses) <= ENDED:
            raise ValueError(f"statuses is {statuses!r}; give some of {', '.join(sorted(ENDED))}")
        return cls(frozenset(statuses), include_api, instant(since))

    def fits(self, item: ListedTransaction) -> bool:
        """Whether a transaction is one of them."""
        if item.status not in self.statuses:
            return False
        if self.since is not None and (item.created_at is None or item.created_at < self.since):
            return False
        return self.include_api or not sent_through_api(item)

    def saved(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "statuses": sorted(self.statuses),
            "include_api": self.include_api,
            "since": self.since.to_iso8601_string() if self.since else None,
        }

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Wanted:
        """Read what :meth:`saved` returned."""
        return cls(
            frozenset(state["statuses"]), bool(state["include_api"]), instant(state["since"])
        )


@dataclass(frozen=True, slots=True)
class Look:
    """Some of what was seen, and its place in the round that it belongs to.

    Attributes:
        items: What was seen.
        full: Whether the round reads everything.
        first: Whether the round begins with this.
        last: Whether the round ended with this, without an error.
    """

    items: tuple[ListedTransaction, ...] = ()
    full: bool = False
    first: bool = False
    last: bool = False


class Teller:
    """Decides for one watcher what of the looks is told, and keeps its cursor.

    Args:
        cursor: Its cursor.
        wanted: What it tells.
        goes_on: Whether the looks go on where those of an earlier copy of the watcher have ended.
            Else nothing is known to have been seen before a round has read everything.
    """

    def __init__(self, cursor: Cursor, wanted: Wanted, *, goes_on: bool = False) -> None:
        self._cursor = cursor
        self._wanted = wanted
        self._goes_on = goes_on
        self._before: Wanted | None = wanted
        self._told: list[tuple[str, int]] = []
        self._in_full_round = False
        self._caught_up = False

    @property
    def wants_all(self) -> bool:
        """Whether a round is needed that reads everything."""
        return not self._caught_up

    async def open(self) -> None:
        """Find out what an earlier copy of this watcher has told."""
        state = await self._cursor.open()
        if state is not None:
            self._before = Wanted.read(state)
            self._caught_up = self._goes_on and self._before == self._wanted
        elif self._wanted.since is None:
            self._before = None

    async def take(self, look: Look) -> list[tuple[ListedTransaction, bool]]:
        """Return what of a look is to be told, and whether it may have been told before a crash.

        When this is called, all that was returned before has been told for good.

        Raises:
            Overtaken: Another copy of this watcher has taken over.
        """
        await self._settle()
        if look.first:
            self._in_full_round = look.full
        new = await self._new(look.items)
        # What had ended before the first look, and what was not wanted before, is not told.
        quiet = [item for item in new if not self._was_wanted(item)]
        await self._cursor.add(_entry(item) for item in quiet)
        if self._cursor.unwritten >= _QUIETLY:
            await self._cursor.flush()
        if look.last:
            await self._end_round()
        known = {item.id for item in quiet}
        return await self._tell([item for item in new if item.id not in known])

    async def _settle(self) -> None:
        if self._told:
            await self._cursor.add(self._told)
            await self._cursor.flush()
            self._told = []

    async def _new(self, items: tuple[ListedTransaction, ...]) -> list[ListedTransaction]:
        wanted = {item.id: item for item in items if self._wanted.fits(item)}
        names = await self._cursor.unknown(_entry(item) for item in wanted.values())
        return [wanted[name] for name in names]

    def _was_wanted(self, item: ListedTransaction) -> bool:
        return self._caught_up or (self._before is not None and self._before.fits(item))

    async def _end_round(self) -> None:
        if self._in_full_round:
            await self._cursor.flush()
            if not self._caught_up:
                await self._cursor.save(self._wanted.saved())
                self._caught_up = True
            self._cursor.forget_doubts()
            await self._cursor.prune()
        self._in_full_round = False

    async def _tell(self, items: list[ListedTransaction]) -> list[tuple[ListedTransaction, bool]]:
        if not items:
            return []
        repeated = await self._cursor.announce([item.id for item in items])
        self._told = [_entry(item) for item in items]
        return [(item, item.id in repeated) for item in items]


def sent_through_api(item: ListedTransaction) -> bool:
    """Whether a program has sent it through the API, and so, as a rule, waits for it."""
    return item.parameters.get("App") == "PublicAPI" or KEY_PARAMETER in item.parameters


def facts(item: ListedTransaction) -> dict[str, Any]:
    """Return what is told of a transaction, as JSON."""
    parameters = {
        key: value
        for key, value in item.parameters.items()
        if len(key) <= _LONGEST_KEY and len(value) <= _LONGEST_VALUE
    }
    return {
        "transaction_id": item.id,
        "skill_id": item.skill_id,
        "status": item.status,
        "created_at": item.created_at.to_iso8601_string() if item.created_at else None,
        "pages": item.page_count,
        "documents": item.document_count,
        "parameters": dict(list(parameters.items())[:_MOST_PARAMETERS]),
    }


def instant(text: str | None) -> DateTime | None:
    """Read the argument ``since``.

    Raises:
        ValueError: It is no date and time.
    """
    if text is None:
        return None
    import pendulum

    try:
        found = pendulum.parse(text, tz="UTC")
    except ValueError:
        found = None
    if not isinstance(found, pendulum.DateTime):
        raise ValueError(f"since is {text!r}; give a date and time such as 2026-03-01T00:00:00Z")
    return found


def _entry(item: ListedTransaction) -> tuple[str, int]:
    return item.id, hour_of(item.created_at)
