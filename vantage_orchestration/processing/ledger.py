# SPDX-License-Identifier: Apache-2.0
"""Records the transactions of a task before they are started.

A started transaction costs money, and the service's lists may show it minutes later. So the next
try of a task must find it in the task's own notes. They are stored under names that are the same in
each try, in all available places: the output folder, a state folder, the orchestrator's state of
the task. One place that still has them is enough.

Changes are appended, never overwritten. A kill leaves all earlier changes intact, and two
concurrent tries do not lose each other's. A transaction that one change drops is gone for good,
whatever the order in which the changes are read.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing.keys import TaskKey, digest_of
from vantage_orchestration.state import FolderStore, Values, read_value, write_value
from vantage_orchestration.stored import Member, Stored

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.storage import Location

#: Folder for ledgers in an output folder. Changing it loses running transactions.
FOLDER: Final = ".abbyy-vantage"
#: Characters of one change. Airflow warns above 65,535 bytes.
_LARGEST: Final = 48_000
#: Changes of a folder to read at the same time.
_READERS: Final = 8
#: Hex digits of a file's short digest.
_SHORT: Final = 16


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A recorded transaction.

    Attributes:
        transaction_id: Its id.
        created: When it was created, in seconds since the epoch, by the local clock.
        files: Short digests of its files (:attr:`.inputs.PlannedFile.short`), so that a later try
            groups the same files.
        origin: Short digest of the inputs as given to the task, globs not resolved. If none of the
            files exists any more, it shows whether the files disappeared or the task was given
            other work.
        others: Ids of transactions with the same key, created by another try at the same time.
    """

    transaction_id: str
    created: float
    files: tuple[str, ...] = ()
    origin: str = ""
    others: tuple[str, ...] = ()

    @property
    def transaction_ids(self) -> tuple[str, ...]:
        """All ids, newest first."""
        return (self.transaction_id, *self.others)

    def to_json(self) -> list[Any]:
        """Return it as compact JSON data: an orchestrator's state is not made for large values."""
        return [self.transaction_id, round(self.created), "".join(self.files), self.origin]

    @classmethod
    def read(cls, data: Any) -> LedgerEntry:
        """Read the result of :meth:`to_json`."""
        transaction_id, created, files, origin = data
        shorts = tuple(files[at : at + _SHORT] for at in range(0, len(files), _SHORT))
        return cls(str(transaction_id), float(created), shorts, str(origin))


_NEEDED = Member(needed=True)


def _entries(data: Any) -> dict[str, LedgerEntry]:
    return {key: LedgerEntry.read(entry) for key, entry in data.items()}


@dataclass(frozen=True, slots=True)
class Change(Stored):
    """A change that is appended to notes.

    Attributes:
        added: Entries by the keys of their transactions.
        dropped: Ids of transactions with which no try continues.
        undone: Whether they were deleted because the work was no longer wanted.
        ledgers: Names of further notes, for notes that list others.
    """

    version = 1

    added: Annotated[Mapping[str, LedgerEntry], Member(read=_entries, needed=True)] = field(
        default_factory=dict
    )
    dropped: Annotated[tuple[str, ...], _NEEDED] = ()
    undone: Annotated[bool, _NEEDED] = False
    ledgers: tuple[str, ...] = ()


class LedgerStore(Protocol):
    """A place for the changes of ledgers, by the names of the ledgers.

    Attributes:
        of_one_instance: Whether it belongs to one instance of one task.
    """

    of_one_instance: bool

    def changes(self, name: str) -> list[Change]:
        """Return all changes of a ledger; empty if no ledger has that name."""
        ...

    def append(self, name: str, change: Change) -> None:
        """Append a change; it is stored when this returns, and nothing may be started before."""
        ...


class Ledger:
    """The transactions of one task, which its next try reads.

    Args:
        places: Places with the names of the ledger, all with the same content. Without any, the
            next try finds nothing.
    """

    def __init__(self, *places: tuple[LedgerStore, str]) -> None:
        self._places = places
        #: Its name in the first place, which is the output folder if there is one.
        self.name = places[0][1] if places else None
        self._seen: dict[str, LedgerEntry] = {}
        self._undone: int | None = None if places else 0

    def load(self) -> dict[str, LedgerEntry]:
        """Return the entries of this try and earlier ones, by the transactions' keys."""
        if not self._places:
            return dict(self._seen)
        changes = [store.changes(name) for store, name in self._places]
        self._undone = max((sum(each.undone for each in those) for those in changes), default=0)
        self._seen = _merged(list(itertools.chain.from_iterable(changes)))
        return dict(self._seen)

    def add(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Record transactions; they are stored when this returns, and not started before."""
        for change in _pieces(entries):
            self._append(change)
        self._seen |= entries

    def drop(self, keys: Collection[str]) -> None:
        """Forget transactions, so that the next try creates them again."""
        if any(key not in self._seen for key in keys):
            self.load()
        self._drop([key for key in keys if key in self._seen], undone=False)

    def undo(self, transaction_ids: Collection[str]) -> None:
        """Forget transactions that were deleted because the work is no longer wanted.

        The service still lists them for minutes. So their task gets another scope, whose keys find
        none of them; see :meth:`scopes`.
        """
        wanted = {each.lower() for each in transaction_ids}
        keys = [
            key
            for key, entry in self.load().items()
            if not wanted.isdisjoint(each.lower() for each in entry.transaction_ids)
        ]
        self._drop(keys, undone=True)
        self._undone = (self._undone or 0) + bool(keys)

    def scopes(self, key: TaskKey) -> list[str]:
        """Return the scopes of the task, newest first: it gets another each time it is undone."""
        if self._undone is None:
            self.load()
        return [*(f"{key.scope}/{each}" for each in range(self._undone or 0, 0, -1)), key.scope]

    def _drop(self, keys: Collection[str], *, undone: bool) -> None:
        ids = [each for key in keys for each in self._seen[key].transaction_ids]
        if ids:
            self._append(Change(dropped=tuple(ids), undone=undone))
        for key in keys:
            del self._seen[key]

    def _append(self, change: Change) -> None:
        for store, name in self._places:
            store.append(name, change)


def _merged(changes: Sequence[Change]) -> dict[str, LedgerEntry]:
    dropped = {each for change in changes for each in change.dropped}
    found: dict[str, dict[str, LedgerEntry]] = {}
    for change in changes:
        for key, entry in change.added.items():
            if entry.transaction_id not in dropped:
                found.setdefault(key, {})[entry.transaction_id] = entry
    merged = {}
    for key, entries in found.items():
        newest, *others = sorted(entries.values(), key=lambda each: -each.created)
        merged[key] = replace(newest, others=tuple(each.transaction_id for each in others))
    return merged


def _pieces(entries: Mapping[str, LedgerEntry]) -> Iterator[Change]:
    """Yield entries in pieces small enough for every store."""
    piece: dict[str, LedgerEntry] = {}
    size = 0
    for key, entry in entries.items():
        needed = len(json.dumps({key: entry.to_json()}))
        if piece and size + needed > _LARGEST:
            yield Change(piece)
            piece, size = {}, 0
        piece[key] = entry
        size += needed
    if piece:
        yield Change(piece)


def open_ledger(
    key: TaskKey,
    client: VantageClient,
    skill_id: str,
    skill_parameters: Mapping[str, str] | None = None,
    *,
    inputs: str = "",
    position: str = "",
    output: Location | None = None,
) -> Ledger:
    """Return the ledger of a task, for its inputs as given (a digest) and its position.

    Another account may belong to another tenant, which has no access to the recorded transactions,
    so it has another ledger. Notes are found by the inputs or the position: a later try may have
    other inputs or another position, but hardly both. The output folder gets notes too, for
    whatever task writes into it.
    """
    base: list[Any] = [
        key.scope,
        client.config.credentials.account,
        skill_id,
        dict(skill_parameters or {}),
    ]
    names = [digest_of([*base, "inputs", inputs])]
    if position:
        names.append(digest_of([*base, "position", position]))
    own = [digest_of(base)]
    places: list[tuple[LedgerStore, str]] = []
    if output is not None:
        places.append((in_output(output), own[0]))
    for store in key.stores:
        places += [(store, name) for name in (own if store.of_one_instance else names)]
    return Ledger(*places)


def in_output(output: Location) -> LedgerStore:
    """Return the place for ledgers in an output folder."""
    return FolderLedgers(output.child(FOLDER))


class FolderLedgers:
    """Stores changes as small files, a folder for each ledger, in any store that fsspec supports.

    Args:
        folder: The folder; created when first needed.

    Nothing in it is ever removed. Files older than 15 days are useless, since the service deletes
    transactions after 14.
    """

    of_one_instance = False

    def __init__(self, folder: Location) -> None:
        self._values = FolderStore(folder)
        self._threads = _READERS if folder.concurrent else 1
        self._seen: dict[str, Change] = {}

    def changes(self, name: str) -> list[Change]:
        """See :class:`LedgerStore`."""
        names = self._values.names(name)
        new = [each for each in names if each not in self._seen]
        self._seen |= zip(new, in_parallel(self._change, new, self._threads), strict=True)
        return [self._seen[each] for each in names]

    def _change(self, name: str) -> Change:
        change = read_value(self._values, name, Change.read)
        if change is None:
            raise StateUnavailable(
                f"{name} is listed but can't be found; the next try reads it again"
            )
        return change

    def append(self, name: str, change: Change) -> None:
        """See :class:`LedgerStore`."""
        # A unique name that sorts by time for people who read the folder.
        own = f"{name}/{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        write_value(self._values, own, change.to_json())


class NumberedLedgers:
    """Stores changes as numbered values, for places that can't list their content.

    Args:
        values: The place.
        attempt: Number of this try, from 1. Each try counts separately, so that an abandoned try
            that still runs does not overwrite the notes of the next.
        of_one_instance: See :class:`LedgerStore`.
    """

    def __init__(self, values: Values, attempt: int, *, of_one_instance: bool = False) -> None:
        self._values = values
        self._attempt = attempt
        self.of_one_instance = of_one_instance
        self._seen: dict[tuple[str, int], list[Change]] = {}

    def changes(self, name: str) -> list[Change]:
        """See :class:`LedgerStore`."""
        attempts = range(1, self._attempt + 1)
        return [change for attempt in attempts for change in self._of(name, attempt)]

    def append(self, name: str, change: Change) -> None:
        """See :class:`LedgerStore`."""
        earlier = self._seen.get((name, self._attempt)) or self._of(name, self._attempt)
        write_value(self._values, f"{name}.{self._attempt}.{len(earlier)}", change.to_json())
        earlier.append(change)

    def _of(self, name: str, attempt: int) -> list[Change]:
        changes = self._seen.setdefault((name, attempt), [])
        while change := read_value(self._values, f"{name}.{attempt}.{len(changes)}", Change.read):
            changes.append(change)
        return changes
