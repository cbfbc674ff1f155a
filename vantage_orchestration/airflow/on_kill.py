# SPDX-License-Identifier: Apache-2.0
"""Finds out whether somebody ended a task, as opposed to a retry, for ``delete_on_kill``.

Airflow also calls ``on_kill`` for a task that is cleared or whose worker is shut down. Its next try
continues with the same transactions, so they must not be deleted.
"""

from __future__ import annotations

from typing import Any, Final

#: States that a task does not leave by itself. A cleared or retried task has another state, and its
#: new try continues with the same transactions.
KILLED: Final = frozenset({"failed", "removed", "skipped", "success", "upstream_failed"})


def state_of_task(task: Any) -> str | None:
    """Return the state of a task instance in Airflow's database; None if it has none.

    It calls the supervisor and waits for the answer: never call it in an event loop's thread.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id,
        run_ids=[task.run_id],
        task_ids=[task.task_id],
        map_index=task.map_index,
    )
    mapped = task.map_index is not None and task.map_index >= 0
    name = f"{task.task_id}_{task.map_index}" if mapped else task.task_id
    state = states.get(task.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))
