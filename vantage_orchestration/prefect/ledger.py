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

from vantage_orchestration.processing.ledger import Ledger, MemoryLedger, Record

if TYPE_CHECKING:
    from prefect.results import ResultStore

__all__ = ["ResultLedger", "ledger_of_run", "transactions_of_run"]

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
        runs: Ids of task or flow runs to note the transactions for, see
            :func:`transactions_of_run`.
    """

    def __init__(self, store: ResultStore, names: Sequence[str], runs: Sequence[str] = ()) -> None:
        store = _plain(store)
        self._read = [_Notes(store, name) for name in names]
        self._written = [*self._read, *(_Notes(store, _name_of_run(run)) for run in runs)]

    def load(self) -> Mapping[str, Record]:
        """Return what this try and earlier ones have noted."""
        for notes in self._read:
            if found := notes.load():
                return found
        return {}

    def add(self, records: Mapping[str, Record]) -> None:
        """Note records; when this returns, they are stored."""
        self._append({"add": {key: record.to_json() for key, record in records.items()}})

    def drop(self, keys: Collection[str]) -> None:
        """Forget records."""
        self._append({"drop": sorted(keys)})

    def _append(self, change: dict[str, Any]) -> None:
        for notes in self._written:
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
        for change in self._changes():
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
            self._changes()
        self._store.write({"version": _VERSION, **change}, key=self._key(self._count or 0))
        self._count = (self._count or 0) + 1

    def _changes(self) -> list[dict[str, Any]]:
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


def ledger_of_run(names: Sequence[str]) -> Ledger:
    """Return the ledger of the running task or flow; one in memory where nothing runs.

    Args:
        names: See :class:`ResultLedger`.
    """
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.results import get_result_store

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task is not None:
        run = str(task.task_run.id)
    elif flow is not None and flow.flow_run is not None:
        run = str(flow.flow_run.id)
    else:
        return MemoryLedger()
    return ResultLedger(get_result_store(), [f"{PREFIX}-{name}" for name in names], [run])


def transactions_of_run(store: ResultStore, run_id: str) -> list[str]:
    """Return the transactions that a task run or flow run has made and not given up.

    Args:
        store: Where Prefect keeps its results.
        run_id: Id of the run itself; what it has called has runs of its own.
    """
    records = _Notes(_plain(store), _name_of_run(run_id)).load()
    return [record.transaction_id for record in records.values()]


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
