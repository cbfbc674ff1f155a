# SPDX-License-Identifier: Apache-2.0
"""Which transactions ended in ABBYY Vantage, and which consumer has fetched which of them.

A transaction is due for a consumer if the service lists it as ended, the consumer wants it, and its
notes do not name it. It needs no message, and no poll at the right time. Whenever a consumer is
started, it fetches all that is due.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.completed.listing import KEPT_DAYS, CompletedList, hour_of
from vantage_orchestration.completed.notes import Entry, Notes
from vantage_orchestration.options import Options
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.processing.names import safe_name
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.stored import Stored

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction
    from vantage_orchestration.status import Status
    from vantage_orchestration.storage import Location

#: Seconds after which the whole list is read again: deletions can hide transactions that ended
#: meanwhile.
FULL_EVERY: Final = 3600.0
#: Name of the folder for notes. Patterns for results, such as ``*/manifest.json``, do not match it.
STATE: Final = ".abbyy-vantage"
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class CompletedFilter(Stored):
    """Which ended transactions to fetch; see :class:`vantage_orchestration.options.Options`."""

    statuses: tuple[str, ...]
    include_api: bool
    since: DateTime | None = None

    @classmethod
    def of(cls, options: Options) -> CompletedFilter:
        """Return the filter that the options of a task ask for."""
        return cls(tuple(sorted(set(options.statuses))), options.include_api, options.since)

    def asks_for(self, status: Status | None) -> bool:
        """Return whether transactions of a status are wanted. One that is missing or unknown in
        this version always is: no document may vanish because the service has a new word."""
        return status is None or not status.is_known or status in self.statuses

    def fits(self, item: ListedTransaction) -> bool:
        """Return whether a transaction passes the filter."""
        if not self.asks_for(item.status):
            return False
        made = item.created_at
        if self.since is not None and made is not None and made < self.since:
            return False
        return self.include_api or not sent_through_api(item)


def sent_through_api(item: ListedTransaction) -> bool:
    """Return whether a program sent it through the API, and so probably waits for it."""
    return item.parameters.get("App") == "PublicAPI" or KEY_PARAMETER in item.parameters


class Inbox:
    """The ended transactions of a skill, or of all, and the consumers that share a folder for their
    notes."""

    def __init__(
        self,
        client: VantageClient,
        state: Location,
        skill_id: str | None,
        *,
        overlap: float = 3600.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        account = client.config.credentials
        scope = "\0".join((account.base_url, account.tenant_id or "", skill_id or ""))
        name = safe_name(f"{account.host}-{skill_id or 'all skills'}")
        self.folder = state.child(STATE, f"{name}-{_digest(scope)}")
        self.client = client
        self.skill_id = skill_id
        self.overlap = overlap
        self.clock = clock or now

    def listing(self) -> CompletedList:
        """Return the service's list of ended transactions."""
        return CompletedList(self.client, self.skill_id, overlap=self.overlap, clock=self.clock)

    def anything(self) -> bool:
        """Return whether any transaction is listed as ended."""
        return any(True for _ in self.listing().look(full=True))

    def consumer(self, name: str, wanted: CompletedFilter) -> Consumer:
        """Return the consumer of that name. It is registered when it polls first."""
        folder = self.folder.child(f"{safe_name(name)}-{_digest(name)}")
        return Consumer(self, name, wanted, Notes(folder, self.clock))

    def consumers(self) -> list[Consumer]:
        """Return all consumers that have polled within the days for which transactions are kept."""
        found = []
        for file in self.folder.files("*/consumer.json"):
            notes = Notes(file.parent, self.clock)
            about = notes.read("consumer")
            if about is not None and about["day"] >= int(self.clock()) // _DAY - KEPT_DAYS:
                wanted = CompletedFilter.read(about["wanted"])
                found.append(Consumer(self, str(about["name"]), wanted, notes))
        return found


class Consumer:
    """A task that fetches ended transactions, each once. Use it in one thread at a time."""

    def __init__(self, inbox: Inbox, name: str, wanted: CompletedFilter, notes: Notes) -> None:
        self._inbox = inbox
        self.name = name
        self.wanted = wanted
        self.notes = notes
        self._looked: dict[str, Any] | None = None

    def register(self) -> None:
        """Record that this consumer exists, and what it wants."""
        day = int(self._inbox.clock()) // _DAY
        about = {"name": self.name, "wanted": self.wanted.to_json(), "day": day}
        if self.notes.read("consumer") != about:
            self.notes.write("consumer", about)

    def due(self) -> Iterator[list[ListedTransaction]]:
        """Yield what is due, page by page, newest first. A transaction may come twice. If the list
        can't be read, the next poll catches up."""
        wanted, begin = self.wanted.to_json(), self._inbox.clock()
        listing = self._inbox.listing()
        before = self.notes.read("list")
        full = True
        if before is not None and before["wanted"] == wanted:
            listing.restore(before["list"])
            full = not 0 <= begin - before["full"] < FULL_EVERY
        self._looked = None
        for page in listing.look(full=full):
            items = {item.id.lower(): item for item in page if self.wanted.fits(item)}
            unknown = self.notes.unknown(map(entry_of, items.values()))
            if unknown:
                yield [items[name] for name in unknown]
        looked = {"wanted": wanted, "list": listing.numbers(), "full": begin}
        if not full and before is not None:
            looked["full"] = before["full"]
        self._looked = looked if looked != before else None
        if full:
            self.notes.prune()

    def settle(self) -> None:
        """Store how far the last poll came. Call it only when all that was due is noted."""
        if self._looked is not None:
            self.notes.write("list", self._looked)
            self._looked = None

    def waits(self) -> bool:
        """Return whether something is due. It stops reading at the first hit."""
        if any(True for _ in self.due()):
            return True
        self.settle()
        return False


def consumer_of(
    client: VantageClient, state: Location, skill: str | None, name: str, options: Options
) -> Consumer:
    """Return the consumer that a task of any orchestrator is, by its arguments."""
    skill_id = None if skill is None else skill_id_of(client, skill)
    inbox = Inbox(client, state, skill_id, overlap=options.overlap)
    return inbox.consumer(name, CompletedFilter.of(options))


def now() -> float:
    """Return the seconds since 1970."""
    return time.time()


def entry_of(item: ListedTransaction) -> Entry:
    """Return the id of a transaction, and the hour of its creation."""
    return item.id, hour_of(item.created_at)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
