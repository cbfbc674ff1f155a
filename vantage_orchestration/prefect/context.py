# SPDX-License-Identifier: Apache-2.0
"""Identifies the running task, so that a second try finds the first one's transaction.

Prefect 3.7 keeps the following: a flow run keeps its id and its first start time when it is retried
in its process, retried by hand, or restarted after a crash. A task run does not: each try of the
flow gives it a new id, and only retries of the task itself keep it. A failed subflow becomes
another flow run with the next try of its parent.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pendulum
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_logger, get_run_logger
from prefect.results import get_result_store

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.prefect.ledger import RunStore
from vantage_orchestration.processing import TaskKey

if TYPE_CHECKING:
    import datetime
    from uuid import UUID

    from pendulum import DateTime
    from prefect.client.schemas.objects import FlowRun, TaskRun


_walking = ModuleLock()


def task_key(label: str | os.PathLike[str] = "") -> TaskKey:
    """Return the key of the running task, the same each time it is tried.

    Args:
        label: What the task works on, such as the path of the file. Within one flow run it must
            differ between all calls of tasks with the same name: Prefect's numbers of mapped tasks
            do not survive a retry.

    Returns:
        A key whose ``scope`` consists of the flow run's id, the task's name and the label. Its
        ``since`` is None if this is certainly the first try, otherwise the time when the flow run
        first began. Nested tasks and subflows always look for an earlier try, since Prefect does
        not report whether their caller was retried. Notes are stored where Prefect stores the
        results of the task or flow.

    Raises:
        ConfigurationError: No flow or task is running.

    In a subflow this calls the Prefect API for the parent flow runs.
    """
    flow_run, task_run = running()
    run: FlowRun | TaskRun | None = task_run or flow_run
    # Not Prefect's task key, which changes with each line of the task's code.
    task = TaskRunContext.get()
    name = task.task.name if task is not None else ""

    if run is None:
        raise ConfigurationError(
            "No Prefect flow or task is running",
            hint="Call task_key() in a flow or task, or create a TaskKey yourself",
        )
    if flow_run is not None:
        path, flow_runs = _path(flow_run)
        root: FlowRun | TaskRun = flow_runs[-1]
        again = (
            root is not flow_run
            or _began_again(flow_run)
            or (task_run is not None and _may_be_a_later_try(task_run))
        )
        begin = _earliest(root.start_time) or _earliest(root.created, root.expected_start_time)
    elif task_run is not None:
        root, path = task_run, [str(task_run.id)]
        again = _may_be_a_later_try(task_run)
        begin = _earliest(task_run.created, task_run.expected_start_time, task_run.start_time)
    if again and begin is None:  # Better to search for long than to charge twice.
        begin = pendulum.now("UTC").subtract(years=1)
    parts = ["prefect", *path, name, os.fspath(label)]
    scope = "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
    store = RunStore(get_result_store(), str(run.id), max(1, root.run_count))
    return TaskKey(scope, begin if again else None, (store,))


def root_of(flow_run: FlowRun) -> tuple[str, int]:
    """Return the id of the run that called a flow run, at whatever distance, and how often it has
    begun. In a subflow this calls the Prefect API."""
    path, flow_runs = _path(flow_run)
    return path[0], max(1, flow_runs[-1].run_count)


def running() -> tuple[FlowRun | None, TaskRun | None]:
    """Return the running flow run and task run, as far as something runs."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    return flow.flow_run if flow is not None else None, task.task_run if task is not None else None


def in_run() -> bool:
    """Return whether a Prefect flow or task is running here."""
    return running() != (None, None)


def run_logger() -> Any:
    """Return the logger of what is running here, or an ordinary one if nothing is."""
    return get_run_logger() if in_run() else get_logger(__name__)


def run_ids() -> tuple[UUID | None, UUID | None]:
    """Return the ids of the running flow run and task run. A task knows that of its flow."""
    flow_run, task_run = running()
    above = task_run.flow_run_id if task_run is not None else None
    return flow_run.id if flow_run is not None else above, task_run.id if task_run else None


def retried_by_itself() -> bool:
    """Return whether Prefect began this try because of ``retries``, and not a person.

    In that case no person has seen the failed documents, whose pages may have been charged.
    """
    flow_run, task_run = running()
    if task_run is not None and task_run.run_count > 1:
        return True
    flow_runs = [] if flow_run is None else _path(flow_run)[1]
    return any(each.empirical_policy.retry_type == "in_process" for each in flow_runs)


def _began_again(flow_run: FlowRun) -> bool:
    """Return whether the flow run was started before."""
    if flow_run.run_count > 1:
        return True
    # A resumed run begins again after a suspension, but Prefect does not count that.
    state, start = flow_run.state, flow_run.start_time
    return state is None or start is None or state.timestamp > start


def _may_be_a_later_try(task_run: TaskRun) -> bool:
    return task_run.run_count > 1 or bool(task_run.task_inputs.get("__parents__"))


def _path(flow_run: FlowRun) -> tuple[list[str], list[FlowRun]]:
    """Return the root's id with the calls from it to ``flow_run``, and all flow runs on the way."""
    if flow_run.parent_task_run_id is None:
        return [str(flow_run.id)], [flow_run]
    with _walking:  # Tasks that run at the same time need the same.
        path, flow_runs = _above(flow_run.parent_task_run_id)
    return [*path], [flow_run, *flow_runs]


@lru_cache(maxsize=64)
def _above(call_id: UUID) -> tuple[list[str], list[FlowRun]]:
    """Return the same for a call of a subflow. It stays the same while the subflow runs: a later
    try of its caller makes another call."""
    with get_client(sync_client=True) as client:
        call = client.read_task_run(call_id)
        # A number counts the calls, in the same order each time; any other key is random.
        stable = call.dynamic_key.isdecimal()
        name = call.name if stable else call.name.removesuffix(f"-{call.dynamic_key}")
        if call.flow_run_id is None:  # A flow that a task calls which has no flow itself.
            return [str(call.id), name], []
        path, flow_runs = _path(client.read_flow_run(call.flow_run_id))
    return [*path, name], flow_runs


def _earliest(*times: datetime.datetime | None) -> DateTime | None:
    return min((pendulum.instance(time) for time in times if time is not None), default=None)
