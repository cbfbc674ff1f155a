# SPDX-License-Identifier: Apache-2.0
"""Identifies a running task across its tries, and finds where it keeps notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pendulum

from vantage_orchestration.airflow.ledger import check_stores, ledger_stores
from vantage_orchestration.processing import TaskKey


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
    piece = task.map_index if part is None else part
    scope = json.dumps(["airflow", task.dag_id, task.run_id, task.task_id, piece])
    stores = ledger_stores(context, state_path)
    # In a cleared run a task may be mapped over more files than before: its new instances are in
    # their first try, but may have a file that another instance has already sent.
    if task.try_number <= 1 and not run.clear_number:
        return TaskKey(scope, stores=stores)
    # Clearing a run renews its start date but not run_after; a run that was started ahead of its
    # time (``dags test``) has a run_after in the future. The earlier of both is never too late.
    begin = min(time for time in (run.run_after, run.start_date) if time is not None)
    return TaskKey(scope, pendulum.instance(begin).in_timezone("UTC"), stores)
