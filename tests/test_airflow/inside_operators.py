# SPDX-License-Identifier: Apache-2.0
"""Scheduler, executor and triggerer in one, for Dags whose tasks defer.

Run by ``zygote``, like ``inside``. Tasks run under the real supervisor. What the database holds of
a trigger is run as it is; only the triggerer's own process, which other tests use, is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import inside
from airflow import settings
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.sdk.module_loading import import_string
from airflow.serialization.decoders import smart_decode_trigger_kwargs
from airflow.triggers.base import TriggerEvent
from foreign import foreign
from sqlalchemy import select

from vantage_orchestration.airflow.triggers import transactions
from vantage_orchestration.errors import WaitTimeout
from vantage_orchestration.sandbox import SandboxControl
from vantage_orchestration.status import Status
from vantage_orchestration.waiting.machine import Observation, Wait
from vantage_orchestration.waiting.rules import WaitRules


def run(dag_id: str, run_id: str, conf: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Make a run and work on it, see :func:`work`."""
    inside.start_run(dag_id, run_id, conf)
    return work(dag_id, run_id, **options)


def work(
    dag_id: str,
    run_id: str,
    retries: bool = False,
    people: str | None = None,
    late: bool = False,
) -> dict[str, Any]:
    """Run all tasks that can run, and the triggers of those that are deferred.

    Args:
        dag_id: Dag.
        run_id: Run.
        retries: As for :func:`inside.work`.
        people: Address of a sandbox: somebody does each review that a task waits for, in time.
        late: Nobody does a review in time: its deadline has passed when it is waited for.

    Returns:
        What :func:`inside.report` says, and in ``triggers`` the arguments of all triggers.
    """
    triggers: list[dict[str, Any]] = []
    # One for all rounds: Airflow takes seconds to close it.
    client = inside.execution_client()
    inside.execution_client = lambda refused: client
    while True:
        told = inside.work(dag_id, run_id, retries)
        states = {state for state, _ in told["tasks"].values()}
        if "deferred" in states:
            triggers += _fire(dag_id, run_id, people, late)
        elif "up_for_reschedule" in states:
            _pass_time(dag_id, run_id)
        else:
            return {**told, "triggers": triggers}


def _fire(dag_id: str, run_id: str, people: str | None, late: bool) -> list[dict[str, Any]]:
    session = settings.Session()
    tasks = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag_id,
            TaskInstance.run_id == run_id,
            TaskInstance.state == "deferred",
        )
    ).all()
    rows = [session.get_one(Trigger, task.trigger_id) for task in tasks]
    stored = [
        {
            "task_id": task.task_id,
            "classpath": row.classpath,
            "kwargs": {
                name: smart_decode_trigger_kwargs(value)
                for name, value in foreign(Trigger, "_decrypt_kwargs")(row.encrypted_kwargs).items()
            },
            # An event's payload is shown to nobody but the task, which gets it from this row.
            "next_kwargs": task.next_kwargs,
        }
        for task, row in zip(tasks, rows, strict=True)
    ]
    session.commit()
    for each in stored:
        wait, now = each["kwargs"]["wait"], time.time()
        for transaction_id, review in wait["reviews"].items():
            left = review["since"] + wait["rules"]["review_timeout"] - now
            if late:
                review["since"] -= left + 1
            elif people is not None and left > 0 and review["over"] is None:
                SandboxControl(people).finish_review(transaction_id)
    for row, each, event in zip(rows, stored, _events(stored), strict=True):
        each["event"] = event
        Trigger.submit_event(row.id, TriggerEvent(event), session=session)
    session.commit()
    return json.loads(json.dumps(stored, default=str))


def _events(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run triggers together in a process of their own, which is gone with all of its threads."""

    async def one(each: dict[str, Any]) -> dict[str, Any]:
        # Nobody has to wait for ten seconds until the first look, or for a worker to be gone.
        transactions.QUIET_SECONDS = 0.0
        kwargs = copy.deepcopy(each["kwargs"])
        kwargs["wait"]["rules"]["poke_interval"] = 1.0
        trigger = import_string(each["classpath"])(**kwargs)
        (event,) = [event.payload async for event in trigger.run()]
        return event

    async def main() -> list[dict[str, Any]]:
        return await asyncio.wait_for(asyncio.gather(*map(one, stored)), 60)

    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "events.json")
        child = os.fork()
        if child == 0:
            try:
                inside.after_fork()
                # A process without a supervisor reads connections from the database itself.
                os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
                answer.write_text(json.dumps(asyncio.run(main())))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return json.loads(answer.read_text())


def _pass_time(dag_id: str, run_id: str) -> None:
    """Let the pause of sensors that are to be looked at again pass at once."""
    session = settings.Session()
    rows = session.scalars(
        select(TaskReschedule)
        .join(TaskInstance, TaskReschedule.ti_id == TaskInstance.id)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    )
    for row in rows:
        row.reschedule_date -= timedelta(days=1)
    session.commit()


def xcoms(dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
    """Return all XComs of a run: task and map index to key to value."""
    rows = settings.Session().scalars(
        select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id == run_id)
    )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        value = row.value
        if row.key == "return_value" and isinstance(value, str):
            value = json.loads(value)
        found.setdefault(f"{row.task_id}[{row.map_index}]", {})[row.key] = value
    return found


def construct() -> dict[str, Any]:
    """Make operators of good and of wrong arguments.

    Returns:
        What the good ones did outside of the process, the wrong arguments that were refused, and
        which tasks wait in the triggerer by which environment.
    """
    import inspect

    from vantage_orchestration.airflow.operators import vantage as operators
    from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor
    from vantage_orchestration.options import Processing, names_of

    name = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
    touched: list[str] = []
    watching = [True]

    def audit(event: str, arguments: Any) -> None:
        if watching[0] and event.startswith(("open", "socket.", "sqlite3.", "subprocess.", "os.")):
            touched.append(f"{event} {arguments}")

    sending = {"inputs": "/nowhere/*.pdf", "skill": "s", "abbyy_vantage_conn_id": "nobody"}
    process = {**sending, "output_path": "/nowhere/out"}
    sys.addaudithook(audit)
    task = operators.VantageProcessDocumentsOperator(task_id="a", **process)
    operators.VantageSubmitOperator(task_id="b", **sending)
    operators.VantageDownloadResultsOperator(task_id="c", transaction_ids=name, output_path="/no")
    operators.VantageDeleteTransactionsOperator(task_id="d", transaction_ids=[name])
    VantageTransactionsSensor(task_id="e", transaction_ids=[name])
    watching[0] = False

    shared: list[dict[str, Any]] = [
        {"on_review": "ignore"},
        {"review_timeout": -1},
        {"review_timeout": float("inf")},
        {"review_timeout": None},
        {"poke_interval": 0.5},
        {"poke_interval": "10"},
        {"max_poke_interval": float("nan")},
        {"abbyy_vantage_conn_id": None},
        {"abbyy_vantage_conn_id": " "},
        {"skill": 4.5},
        {"delete_on_kill": "false"},
        {"deferrable": "{{ params.wait }}"},
        {"poke_interval": "{{ params.pause }}"},
    ]
    wrong: list[dict[str, Any]] = [
        *shared,
        {"timeout": None},
        {"timeout": "3600"},
        {"timeout": True},
        {"timeout": timedelta(seconds=-1)},
        {"duplicates": "Skip"},
        {"on_empty": "ignore"},
        {"parallel": 0},
        {"parallel": 2.0},
        {"delete_after": "no"},
        {"durable": 0},
        {"fail_on_rule_errors": None},
        {"result_types": ["FieldJson"]},
        {"result_types": 5},
        {"registration_parameters": {"a": None}},
        {"skill_parameters": ["a"]},
        {"inputs": {"a": "b"}},
        {"inputs": 5},
        {"output_path": None},
        {"output_path": ""},
        {"skill": ""},
    ]
    wrong_of_sensor: list[dict[str, Any]] = [
        {"transaction_ids": "t"},
        {"delete_on_kill": True, "deferrable": False},
    ]
    refused = []
    completed = operators.VantageFetchCompletedOperator
    for each in (
        {"skill": "{{ params.skill }}"},
        {"consumer": "{{ dag.dag_id }}"},
        {"consumer": ""},
    ):
        for make in (completed, completed.partial):
            try:
                make(task_id="f", **{"output_path": "/nowhere", **each})
            except ValueError as error:
                refused.append(["completed", repr(each), str(error)])
            else:
                refused.append(["completed", repr(each), None])
    try:
        type("Started", (operators.VantageSubmitOperator,), {"start_from_trigger": True})
    except ValueError as error:
        refused.append(["subclass", "start_from_trigger", str(error)])
    process_kind, sensor_kind = operators.VantageProcessDocumentsOperator, VantageTransactionsSensor
    for kind, arguments, cases in (
        (process_kind, process, wrong),
        (sensor_kind, {"transaction_ids": name}, [*shared, *wrong_of_sensor]),
        (process_kind.partial, {}, [each for each in wrong if "inputs" not in each]),
    ):
        for each in cases:
            try:
                kind(task_id="f", **{**arguments, **each})
            except ValueError as error:
                refused.append([getattr(kind, "__name__", "partial"), repr(each), str(error)])
            else:
                refused.append([str(kind), repr(each), None])
    taken = process_kind(
        task_id="g",
        **{**process, "inputs": (each for each in ["a", "b"])},
        timeout=timedelta(minutes=5),
        review_timeout=timedelta(days=1),
        poke_interval=timedelta(seconds=2),
        result_types="fieldsjson",
        registration_parameters={"Batch": "{{ run_id }}", "Number": 5},
        default_args={"on_review": "fail", "parallel": 3},
        quarantine_path="file:///aside",
    )
    mapped = process_kind.partial(task_id="h", skill="{{ params.skill }}", timeout=timedelta(1))
    name = "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"
    defers: dict[str, bool] = {}
    for value in ("", "True", "False", "0"):
        os.environ[name] = value
        defers[value] = task.defers()
    from airflow.sdk.exceptions import AirflowFailException

    unread = []
    rules = {"timeout": 60.0, "a rule of another version": 1}
    for event in (None, {}, {"wait": {}}, {"wait": {"statuses": {}, "rules": rules}}):
        try:
            task.execute_complete({}, event)
        except Exception as error:
            unread.append([type(error).__name__, isinstance(error, AirflowFailException)])
    return {
        "touched": touched,
        "refused": refused,
        "taken": {
            "inputs": taken.inputs,
            "timeout": taken.timeout,
            "parameters": taken.registration_parameters,
            **{
                each: getattr(taken.options, each)
                for each in ("review_timeout", "poke_interval", "result_types")
            },
            "on_review": taken.options.on_review,
            "parallel": taken.options.parallel,
            "mapped": type(mapped).__name__,
            "aside": repr(taken.options.quarantine_path),
        },
        "signature": sorted(inspect.signature(process_kind.__init__).parameters),
        "documented": [
            each for each in names_of(Processing) if f"    {each}: " in str(process_kind.__doc__)
        ]
        == names_of(Processing),
        "defers": defers,
        "unread": unread,
    }


def no_thread(thread: threading.Thread) -> None:
    """Stands in for the start of a thread in a container that has no more of them."""
    raise RuntimeError("can't start new thread")


def killed(
    conn_id: str,
    inputs: str,
    output: str,
    durable: bool = True,
    resumed: bool = False,
    threads: bool = True,
) -> list[list[str]]:
    """End a task that deletes what it has started; return what both of its tries work on.

    Args:
        conn_id: Connection.
        inputs: Files.
        output: Folder for results.
        durable: As for the operator.
        resumed: The task was deferred, and is ended by the time it goes on.
        threads: Whether the system allows another thread when it is ended.
    """
    import pendulum

    from vantage_orchestration.airflow.operators import vantage
    from vantage_orchestration.processing import submit

    # No supervisor runs here.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    module: Any = vantage
    module.record_transactions = lambda *_: None
    module.state_of_task = lambda task: "failed"
    open_ledger = submit.open_ledger
    opened: list[Any] = []
    triggers: list[Any] = []

    def opening(key: Any, *args: Any, **options: Any) -> Any:
        opened.append(key)
        return open_ledger(key, *args, **options)

    def defer(*, trigger: Any, **options: Any) -> None:
        triggers.append(trigger)
        raise InterruptedError

    cast(Any, submit).open_ledger = opening

    def deferred(task: Any, *args: Any) -> list[str]:
        opened.clear()
        with contextlib.suppress(InterruptedError):
            task(*args)
        assert len(opened) == int(durable)
        assert triggers[-1].notes == triggers[0].notes
        return list(Wait.from_json(triggers[-1].wait, time.time()).open)

    def made(try_number: int) -> tuple[Any, dict[str, Any]]:
        operator: Any = vantage.VantageProcessDocumentsOperator(
            task_id="t",
            inputs=inputs,
            output_path=output,
            skill="Invoice",
            abbyy_vantage_conn_id=conn_id,
            delete_on_kill=True,
            durable=durable,
        )
        vars(operator)["defer"] = defer
        names = {"dag_id": "killed", "run_id": "r", "task_id": "t", "map_index": -1}
        now = pendulum.now("UTC")
        run = SimpleNamespace(run_after=now, start_date=now, clear_number=0)
        return operator, {"ti": SimpleNamespace(**names, try_number=try_number), "dag_run": run}

    first, context = made(1)
    ids = deferred(first.execute, context)
    if resumed:
        event = {"status": "review", "wait": triggers[0].wait}
        assert deferred(made(1)[0].execute_complete, context, event) == ids
        first, _ = made(1)
        wait = Wait(ids, WaitRules(timeout=1.0), 0.0)
        wait.note([Observation(each, Status.PROCESSING) for each in ids], time.time())
        wait.next(time.time())
        with contextlib.suppress(WaitTimeout):
            first.execute_complete(context, {"status": "over", "wait": wait.to_json()})
    start = threading.Thread.start
    if not threads:
        limited: Any = threading.Thread
        limited.start = no_thread
    first.on_kill()
    threading.Thread.start = start  # type: ignore[method-assign]
    second, context = made(2)
    return [ids, deferred(second.execute, context)]


def moved(conn_id: str, place: list[str]) -> list[list[Any]]:
    """Go on with waits that began at another server; return the errors.

    Args:
        conn_id: Connection.
        place: Where they began.
    """
    from airflow.sdk.exceptions import AirflowFailException

    from vantage_orchestration.airflow.operators import vantage as operators
    from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor

    name = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
    wait = Wait([name], WaitRules(), time.time(), place=(place[0], place[1]))
    sensing = {"task_id": "a", "transaction_ids": [name], "abbyy_vantage_conn_id": conn_id}
    sensor = VantageTransactionsSensor(**sensing, deferrable=False, mode="reschedule")
    stored = {**wait.to_json(), "try": 1}
    context: Any = {
        "ti": SimpleNamespace(try_number=1),
        "task_state_store": SimpleNamespace(get=lambda key: stored),
    }
    process = operators.VantageProcessDocumentsOperator(
        task_id="b", inputs="a", output_path="o", skill="s", abbyy_vantage_conn_id=conn_id
    )
    event = {"status": "over", "wait": wait.to_json()}
    goes: list[Any] = [
        lambda: sensor.poke(context),
        lambda: process.execute_complete({}, event),  # type: ignore[typeddict-item]
    ]
    found = []
    for go in goes:
        try:
            go()
        except Exception as error:
            found.append([isinstance(error, AirflowFailException), str(error)])
    return found


def refused_below(version: list[int]) -> list[str]:
    """Make what only later releases can do, as if this one were older; return the refusals."""
    from versions.airflow_slim import refusals

    from vantage_orchestration.airflow import compat

    compat.AIRFLOW = tuple(version)
    return refusals()
