# SPDX-License-Identifier: Apache-2.0
"""Decides for Prefect which errors a retry can cure. It is light: the package imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import VantageError

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun


def retry_if_it_helps(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether to retry a failed task; for ``@task(retry_condition_fn=...)``.

    Args:
        task: The task.
        task_run: Its run.
        state: Its failed state.

    Returns:
        False for errors of this package that no retry can cure: a refused login, which would lock
        the account, a wrong setting, a document that could not be processed. True otherwise.
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


#: Task options for temporary failures, such as a server that is down or a reached limit.
RETRIES: Final[dict[str, Any]] = {
    "retries": 3,
    "retry_delay_seconds": [10, 60, 300],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": retry_if_it_helps,
}
