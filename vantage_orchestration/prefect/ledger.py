# SPDX-License-Identifier: Apache-2.0
"""Notes a task's transactions where Prefect keeps results, before they are started.

A result that Prefect persists is written when its task has ended: a task that is killed before has
none. These notes are written between the making of a transaction and its start, so the next try
finds what a killed one has started. They lie in the result storage of the task, or of its flow.
Workers that do not share a disk need a result storage that they share, as for results; without it
the look-up by registration parameter is what finds the transactions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.ledger import Record

if TYPE_CHECKING:
    from prefect.results import ResultStore

__all__ = ["ResultLedger", "ledgers_of", "own_ledger"]

log = logging.getLogger(__name__)

#: What the names of the notes begin with. Renaming it loses what runs.
PREFIX: Final = "abbyy-vantage"
_VERSION: Final = 1


class ResultLedger:
    """A :class:`vantage_orchestration.processing.ledger.Ledger` of one task.

    Args:
        store: Where Prefect keeps the results of the task.
        names: What the task is known by in a later try, the most certain first. Notes are written
            under all names, and read under the first that has any: a later try may have another
            list of files, or another folder for the results, but hardly both.
        run: Id of the task run or flow run whose ledger it is, see :func:`ledgers_of`.
    """

    def __init__(self, store: ResultStore, names: Sequence[str], run: str | None = None) -> None:
        store = _plain(store)
        self._names = list(names)
        self._read = [_Notes(store, name) for name in names]
        self._of_run = None if run is None else _Notes(store, _name_of_run(run))

    def __deepcopy__(self, memo: dict[int, Any]) -> ResultLedger:
        return self  # Two that count the pieces would write over each other's.

    def load(self) -> Mapping[str, Record]:
        """Return what this try and earlier ones have noted."""
        for notes in self._read:
            if found := notes.load():
                return found
        return {}

    def add(self, records: Mapping[str, Record]) -> None:
        """Note records; when this returns, they are stored."""
        if self._of_run is not None:
            self._of_run.append({"names": self._names})
            self._of_run = None
        self._append({"add": {key: record.to_json() for key, record in records.items()}})

    def drop(self, keys: Collection[str]) -> None:
        """Forget records."""
        self._append({"drop": sorted(keys)})

    def undo(self, transaction_ids: Collection[str]) -> None:
        """Forget transactions that were deleted on purpose; see :attr:`undone`."""
        records = self.load().items()
        keys = [key for key, record in records if record.transaction_id in transaction_ids]
        if keys:
            self._append({"drop": keys, "undone": True})

    @property
    def undone(self) -> int:
        """How often the work was undone. Each time it becomes another order.

        What was deleted is still listed for minutes, and must not be found by its key.
        """
        return max(sum("undone" in each for each in notes.changes()) for notes in self._read)

    def _append(self, change: dict[str, Any]) -> None:
        for notes in self._read:
            notes.append(change)


class _Notes:
    """Changes in numbered pieces. None is ever written again, so a kill can spoil the last alone.

    Args:
        store: Where they are kept.
        name: What the names of the pieces begin with.
    """

    def __init__(self, store: ResultStore, name: str) -> None:
        self._store = store
        self._name = name
        self._count: int | None = None

    def load(self) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for change in self.changes():
            for key, data in change.get("add", {}).items():
                try:
                    found[key] = Record.from_json(data)
                except ValueError:
                    log.warning("A note about an earlier transaction can't be read; passed over")
            for key in change.get("drop", ()):
                found.pop(key, None)
        return found

    def append(self, change: dict[str, Any]) -> None:
        if self._count is None:
            self.changes()
        self._store.write({"version": _VERSION, **change}, key=self._key(self._count or 0))
        self._count = (self._count or 0) + 1

    def changes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while (change := self._piece(len(found))) is not None:
            found.append(change)
        self._count = len(found)
        return found

    def _piece(self, number: int) -> dict[str, Any] | None:
        """Return a piece; None if there is none, or one whose writing was cut short."""
        try:
            change = self._store.read(key=self._key(number)).result
        except Exception:
            # Each storage says in its own way that there is nothing. Where it could not be
            # reached, the look-up comes next, and the writing that follows fails.
            return None
        ours = isinstance(change, dict) and change.get("version") == _VERSION
        return change if ours else None

    def _key(self, number: int) -> str:
        return f"{self._name}-{number}"


def own_ledger(names: Sequence[str]) -> ResultLedger:
    """Return the ledger of the running task, or of the running flow outside of tasks.

    Args:
        names: See :class:`ResultLedger`.

    Raises:
        ConfigurationError: No flow or task is running.
    """
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.results import get_result_store

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task is not None:
        run = task.task_run.id
    elif flow is not None and flow.flow_run is not None:
        run = flow.flow_run.id
    else:
        raise ConfigurationError("There is no running Prefect flow or task")
    return ResultLedger(get_result_store(), [f"{PREFIX}-{name}" for name in names], str(run))


def ledgers_of(store: ResultStore, run_id: str) -> list[ResultLedger]:
    """Return the ledgers into which a task run or flow run has written.

    Args:
        store: Where Prefect keeps its results.
        run_id: Id of the run itself; what it has called has runs of its own.
    """
    pieces = _Notes(_plain(store), _name_of_run(run_id)).changes()
    names = dict.fromkeys(tuple(map(str, piece.get("names", ()))) for piece in pieces)
    return [ResultLedger(store, each) for each in names if each]


def _name_of_run(run_id: str) -> str:
    return f"{PREFIX}-run-{run_id}"


def _plain(store: ResultStore) -> ResultStore:
    """Return a store of JSON without a memory of its own, whatever the task's results are."""
    from prefect.results import default_cache
    from prefect.serializers import JSONSerializer

    return store.model_copy(
        update={
            "serializer": JSONSerializer(),
            "metadata_storage": None,
            "lock_manager": None,
            "cache_result_in_memory": False,
            "cache": default_cache(),
        }
    )
