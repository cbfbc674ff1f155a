# SPDX-License-Identifier: Apache-2.0
"""Tells Prefect which errors a retry can cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import VantageError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

__all__ = ["RETRIES", "retry_if_it_helps"]


def retry_if_it_helps(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Tell whether to try a failed task again; for ``@task(retry_condition_fn=...)``.

    Args:
        task: The task.
        task_run: Its run.
        state: The state it failed with.

    Returns:
        False for errors of this package that stay as they are however often one tries: a refused
        login, which would lock the account, a wrong setting, a document that could not be
        processed. True for all else.
    """
    failure: Any = state
    while hasattr(failure, "data") and not isinstance(failure, BaseException):
        failure = failure.data  # A task may also return a failed state.
    # An error that was raised "from" one of ours is as final as ours.
    for _ in range(20):
        if isinstance(failure, VantageError):
            return failure.retryable
        failure = getattr(failure, "__cause__", None)
        if failure is None:
            break
    return True


#: Options of tasks, for what can pass: a server out of order, a limit that was reached.
RETRIES: Final[dict[str, Any]] = {
    "retries": 3,
    "retry_delay_seconds": [10, 60, 300],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": retry_if_it_helps,
}
