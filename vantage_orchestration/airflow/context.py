# SPDX-License-Identifier: Apache-2.0
"""Identifies a running task across its tries, and finds where it keeps notes of its transactions.

Those are first files below ``[abbyy_vantage] state_path``, then Airflow's task state store if it
exists (3.3 and later). That store survives retries, deferral, and currently *Clear*.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any, Final

import pendulum

from vantage_orchestration.airflow.compat import conf, require
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.storage import location_of
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing import TaskKey
from vantage_orchestration.processing.ledger import FolderLedgers, LedgerStore, NumberedLedgers

#: Section of airflow.cfg.
SECTION: Final = "abbyy_vantage"
#: Prefix of the keys in the task state store. Changing it loses running transactions.
_PREFIX: Final = "abbyy_vantage."
#: The service keeps a transaction for 14 days; one more because clocks differ.
_RETENTION: Final = datetime.timedelta(days=15)


def task_key(part: str | None = None, *, state_path: Any = None) -> TaskKey:
    """Return the key of the running task, with the places for its notes.

    Args:
        part: Identifies the piece of work within the task, in place of the map index. Give it if
            the map index may change its meaning: if a file is added to a folder and the run is
            cleared, the indexes of all following files change. It is also needed if one task
            processes several documents.
        state_path: Path or URL of a folder for the notes. By default that of
            ``[abbyy_vantage] state_path`` in airflow.cfg; the task state store of Airflow 3.3 and
            later is used as well.

    Returns:
        A key of Dag, run, task and map index (or ``part``). It is the same in each try: after a
        retry, after the task was cleared, and after the whole run was cleared. The first try, in a
        run that was never cleared, does not search the service's lists for earlier transactions;
        any other try searches from the start of the run.

    Raises:
        RuntimeError: No task is running.
        ConfigurationError: There is no place for notes.

    A run that was deleted and created again under the same id finds notes that are left in files.
    """
    from airflow.sdk import get_current_context

    key = key_of(get_current_context(), part, state_path)
    check_stores(key.stores)
    return key


def key_of(context: Mapping[str, Any], part: str | None = None, state_path: Any = None) -> TaskKey:
    """Return the key of a task as :func:`task_key` does, even without a place for notes."""
    task, run = context["ti"], context["dag_run"]
    scope = scope_of(task, part)
    stores = ledger_stores(context, state_path)
    # In a cleared run a task may be mapped over more files than before: its new instances are in
    # their first try, but may have a file that another instance has already sent.
    if task.try_number <= 1 and not run.clear_number:
        return TaskKey(scope, stores=stores)
    # Clearing a run renews its start date but not run_after; a run that was started ahead of its
    # time (``dags test``) has a run_after in the future. The earlier of both is never too late.
    begin = min(time for time in (run.run_after, run.start_date) if time is not None)
    return TaskKey(scope, pendulum.instance(begin).in_timezone("UTC"), stores)


def scope_of(task: Any, part: str | None = None) -> str:
    """Return what identifies a task instance, or a part of its work, in each of its tries."""
    piece = task.map_index if part is None else part
    return json.dumps(["airflow", task.dag_id, task.run_id, task.task_id, piece])


def ledger_stores(context: Mapping[str, Any], state_path: Any = None) -> tuple[LedgerStore, ...]:
    """Return the places for a task's notes, besides its output folder."""
    stores: list[LedgerStore] = []
    path = state_path or conf.get(SECTION, "state_path", fallback="")
    if path:
        stores.append(FolderLedgers(location_of(path)))
    state = context.get("task_state_store")
    if state is not None:
        attempt = context["ti"].try_number
        stores.append(NumberedLedgers(TaskState(state), attempt, of_one_instance=True))
    return tuple(stores)


def check_place(state_path: Any) -> None:
    """Refuse a task that will have no place for notes, while its DAG is parsed."""
    if not (state_path or conf.get(SECTION, "state_path", fallback="")):
        require(
            (3, 3),
            "A durable VantageSubmitOperator without a state_path, of its own or in the section"
            f" [{SECTION}] of airflow.cfg,",
        )


def check_stores(stores: tuple[LedgerStore, ...]) -> None:
    """Refuse a running task that has no place for notes."""
    if not stores:
        error = ConfigurationError(
            "This task has no place where a later try finds the transactions that it starts",
            hint=f"Set state_path in the section [{SECTION}] of airflow.cfg, or"
            f" AIRFLOW__{SECTION.upper()}__STATE_PATH, to a folder that all workers can access: a"
            " path, or a URL such as s3://conn_id@bucket/folder",
        )
        raise translate(error)


class TaskState:
    """``context["task_state_store"]`` as :class:`vantage_orchestration.state.Values`.

    Airflow keeps it by run, task and map index.
    """

    label = "Airflow's task state store"

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, name: str) -> bytes | None:
        """See :class:`.Values`."""
        value = self._store.get(_PREFIX + name)
        return None if value is None else json.dumps(value).encode()

    def write(self, name: str, value: bytes) -> None:
        """See :class:`.Values`."""
        # As JSON data, which people can read in Airflow's web interface.
        self._store.set(_PREFIX + name, json.loads(value), retention=_RETENTION)
