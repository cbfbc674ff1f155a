# SPDX-License-Identifier: Apache-2.0
"""Deletes transactions of a run that are no longer wanted, if the flow's author chose so.

Charged pages stay charged. By default nothing is deleted: a later try of the run continues with its
transactions, which is cheaper than sending documents again.

Two ways::

    @flow(on_cancellation=[delete_on_cancellation("abbyy-vantage")])
    def invoices(): ...

    with prefect.transactions.transaction():
        ids = undoable(submit_documents)("abbyy-vantage", "in/*.pdf", "Invoice")
        ...  # Whatever fails here deletes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentTaskRunId,
)
from prefect.exceptions import Pause, TerminationSignal
from prefect.logging.loggers import flow_run_logger
from prefect.results import ResultStore
from prefect.transactions import get_transaction

from vantage_orchestration.prefect.context import root_of
from vantage_orchestration.prefect.credentials import load_credentials
from vantage_orchestration.prefect.ledger import RunStore
from vantage_orchestration.prefect.paging import listed_of
from vantage_orchestration.processing.deleting import undo_transactions

if TYPE_CHECKING:
    from prefect import Flow, Task
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.transactions import Transaction

    from vantage_orchestration.prefect.credentials import VantageCredentials
    from vantage_orchestration.processing.ledger import Ledger

P = ParamSpec("P")
R = TypeVar("R")

#: Key under which a Prefect transaction stores what undoes a task.
_UNDO = "abbyy_vantage"


def delete_on_rollback(transaction: Transaction) -> None:
    """Delete what a task has started: a rollback hook for tasks that send documents.

    Prefect calls it if the task succeeded and the ``transaction()`` around it fails. A failed task
    is not rolled back: its retry continues with what it has started. Nothing is deleted if only the
    task's result can't be stored, or if the run is suspended or its process is ended from outside:
    it may continue. For a cancelled run see :func:`delete_on_cancellation`.

    Args:
        transaction: Prefect's transaction of the task.
    """
    cause, undo = get_transaction(), transaction.get(_UNDO, None)
    # Prefect also calls it if it can't store the task's result, and continues with the result.
    failed = cause is not None and cause.is_rolled_back()
    # Prefect raises errors of its own for a run that may continue.
    may_continue = isinstance(sys.exc_info()[1], (Pause, TerminationSignal))
    if undo is not None and failed and not may_continue:
        undo(transaction.logger)


def note_for_rollback(
    credentials: VantageCredentials | str, ledger: Ledger, transaction_ids: Collection[str]
) -> None:
    """Note in the running Prefect transaction what its rollback deletes. It is never stored."""
    transaction = get_transaction()
    if transaction is not None:
        # Prefect copies what it gives out, but not a function.
        transaction.set(_UNDO, lambda log: _delete(credentials, [(ledger, transaction_ids)], log))


def undoable(task: Task[P, R]) -> Task[P, R]:
    """Return a copy of a task of this package that a rollback undoes.

    Args:
        task: ``submit_documents``, ``process_document`` or ``process_documents``, with all its
            options: a copy that ``with_options`` makes has no hooks.
    """
    copy = task.with_options()
    copy.on_rollback(delete_on_rollback)
    return copy


def delete_on_cancellation(
    credentials: VantageCredentials | str,
) -> Callable[[Flow[..., Any], FlowRun, State[Any]], None]:
    """Return a flow hook that deletes what a run has started if somebody cancels the run.

    It finds the transactions, including those of subflows, in the notes that the tasks keep in the
    result storage. Prefect calls such hooks where the flow's process was started. That host must
    have access to the storage.

    Args:
        credentials: The credentials block, or the name of a saved one.
    """

    def delete_started(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        store = cast(
            ResultStore,
            ResultStore().update_for_flow(flow, _sync=True),  # type: ignore[call-arg]
        )
        root, attempt = root_of(flow_run)
        # First, so that no later try takes ids from the cache.
        RunStore(store, root, attempt).note_undone()
        ledgers = [
            each
            for run in runs_of(flow_run.id)
            for each in RunStore(store, str(run), attempt).used()
        ]
        _delete(
            credentials,
            [
                (each, [one for entry in each.load().values() for one in entry.transaction_ids])
                for each in ledgers
            ],
            flow_run_logger(flow_run, flow),
        )

    return delete_started


def _delete(
    credentials: VantageCredentials | str,
    noted: Sequence[tuple[Ledger, Collection[str]]],
    log: Any,
) -> None:
    """Delete transactions and remove them from their ledgers, so that no try continues with
    them."""
    ids = dict.fromkeys(each for _, those in noted for each in those)
    if not ids:
        return
    with load_credentials(credentials).get_client() as client:
        failures = undo_transactions(client, ids, [each for each, _ in noted])
    for name, error in failures.items():
        log.warning("Transaction %s was not deleted: %s", name, error)
    log.info("Deleted %d transactions in ABBYY Vantage", len(ids) - len(failures))


def runs_of(flow_run_id: UUID) -> Iterator[UUID]:
    """Yield the ids of a flow run, of its task runs, and of all runs they have called."""

    def tasks_of(ids: list[UUID]) -> dict[str, Any]:
        return {"flow_run_filter": FlowRunFilter(id=FlowRunFilterId(any_=ids))}

    def called_by(ids: list[UUID]) -> dict[str, Any]:
        parents = FlowRunFilterParentTaskRunId(any_=ids)
        return {"flow_run_filter": FlowRunFilter(parent_task_run_id=parents)}

    flow_runs = [flow_run_id]
    with get_client(sync_client=True) as client:
        while flow_runs:
            yield from flow_runs
            calls = [run.id for run in listed_of(client.read_task_runs, flow_runs, tasks_of)]
            yield from calls
            flow_runs = [run.id for run in listed_of(client.read_flow_runs, calls, called_by)]
