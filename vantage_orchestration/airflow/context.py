# SPDX-License-Identifier: Apache-2.0
"""What makes a running task the same task in each of its tries."""

from __future__ import annotations

import json

from vantage_orchestration.processing import TaskKey

__all__ = ["task_key"]


def task_key(part: str | None = None) -> TaskKey:
    """Return the key of the task that is running.

    Args:
        part: Names the piece of work within the task and takes the map index's place. Give it
            where the map index may come to mean another piece: if a file is added to a folder and
            the run is cleared, the indexes of all files behind it change. Needed as well where one
            task processes several documents.

    Returns:
        A key of Dag, run, task and map index (or ``part``), the same in each try: after a retry,
        after the task was cleared, and after the whole run was. The first try, in a run of which
        nothing was cleared, looks for no earlier transaction; any other one looks from the run's
        begin on.

    Raises:
        RuntimeError: No task is running.

    A run that was deleted and made again is a new run: its documents are sent, and charged, anew.
    """
    import pendulum
    from airflow.sdk import get_current_context

    context = get_current_context()
    task, run = context["ti"], context["dag_run"]
    piece = task.map_index if part is None else part
    scope = json.dumps(["airflow", task.dag_id, task.run_id, task.task_id, piece])
    # In a cleared run a task may be mapped over more files than before: its new instances are in
    # their first try, but may have got a file that another one has sent already.
    if task.try_number <= 1 and not run.clear_number:
        return TaskKey(scope)
    # Clearing a run renews its start date but not run_after; a run that was asked for ahead of its
    # time (``dags test``) has a run_after in the future. The earlier one is never too late.
    begin = min(time for time in (run.run_after, run.start_date) if time is not None)
    return TaskKey(scope, pendulum.instance(begin).in_timezone("UTC"))
