# SPDX-License-Identifier: Apache-2.0
"""What the tests of the trigger do with Airflow loaded. Run by ``zygote``, like ``inside``."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import inside
from airflow import settings
from airflow.executors.workloads import RunTrigger, TaskInstanceDTO
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk.api.client import Client
from foreign import foreign
from sqlalchemy import select

from vantage_orchestration.airflow.triggers import transactions
from vantage_orchestration.airflow.triggers.transactions import VantageTransactionsTrigger
from vantage_orchestration.sandbox import SandboxControl

#: Seconds in which a trigger does not fire, but in these tests.
QUIET_SECONDS = transactions.QUIET_SECONDS
transactions.QUIET_SECONDS = 0.0
CLASSPATH = "vantage_orchestration.airflow.triggers.transactions.VantageTransactionsTrigger"


class Own(VantageTransactionsTrigger):
    """What a user makes of the trigger."""


def round_trip(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Store a trigger as Airflow does, make it anew, and return what both say of themselves."""
    from airflow.sdk.serde import deserialize, serialize
    from airflow.serialization.decoders import smart_decode_trigger_kwargs
    from airflow.triggers.base import BaseTrigger

    first = VantageTransactionsTrigger(**kwargs)
    classpath, given = first.serialize()
    through_serde = deserialize(serialize(given))
    stored = Trigger.encrypt_kwargs(given)
    decrypted = {
        name: smart_decode_trigger_kwargs(value)
        for name, value in foreign(Trigger, "_decrypt_kwargs")(stored).items()
    }
    again = [VantageTransactionsTrigger(**each) for each in (through_serde, decrypted)]
    return {
        "classpath": classpath,
        "of_subclass": Own(**kwargs).serialize()[0],
        "kwargs": given,
        "again": [each.serialize()[1] for each in again],
        "is_trigger": isinstance(first, BaseTrigger),
        "shown": repr(first),
    }


def run_in_loop(kwargs: list[dict[str, Any]], quiet: bool = False) -> dict[str, Any]:
    """Run triggers in an event loop without any of Airflow's processes.

    Args:
        kwargs: Arguments of each trigger.
        quiet: Whether they wait until the worker that deferred is gone, as they do in production.

    Returns:
        Payloads of the events, when they came (seconds since the epoch), and whether a request was
        sent, or a connection read, by the event loop's thread.
    """
    from airflow.sdk import BaseHook
    from requests.adapters import HTTPAdapter

    transactions.QUIET_SECONDS = QUIET_SECONDS if quiet else 0.0
    threads: dict[str, set[int]] = {"requests": set(), "connections": set()}
    send, get_connection = HTTPAdapter.send, BaseHook.get_connection.__func__

    def noted_send(self: Any, request: Any, **options: Any) -> Any:
        threads["requests"].add(threading.get_ident())
        return send(self, request, **options)

    def noted_get(cls: Any, conn_id: str) -> Any:
        threads["connections"].add(threading.get_ident())
        return get_connection(cls, conn_id)

    HTTPAdapter.send = noted_send
    BaseHook.get_connection = classmethod(noted_get)

    fired: list[float] = []

    async def one(trigger: VantageTransactionsTrigger) -> list[Any]:
        events = [event.payload async for event in trigger.run()]
        fired.append(time.time())
        return events

    async def main() -> list[list[Any]]:
        triggers = [VantageTransactionsTrigger(**each) for each in kwargs]
        return await asyncio.wait_for(asyncio.gather(*(one(each) for each in triggers)), 60)

    events = asyncio.run(main())
    return {
        "events": events,
        "fired": fired,
        "threads": {name: len(found) for name, found in threads.items()},
        "by_loop": [name for name, found in threads.items() if threading.get_ident() in found],
    }


def run_moved(conn_id: str, waits: list[dict[str, Any]], then: str) -> list[dict[str, Any]]:
    """Run a trigger for each wait, the second one after the connection was changed.

    Args:
        conn_id: Connection.
        waits: Waits, the first of which begins before the change.
        then: The connection after that, as a variable of the environment.
    """
    from vantage_orchestration.waiting import poller

    async def one(wait: dict[str, Any]) -> dict[str, Any]:
        trigger = VantageTransactionsTrigger(abbyy_vantage_conn_id=conn_id, wait=wait)
        (event,) = [event.payload async for event in trigger.run()]
        return event

    async def main() -> list[dict[str, Any]]:
        first = asyncio.create_task(one(waits[0]))
        while not any(each.client is not None for each in poller.running.values()):
            await asyncio.sleep(0.01)
        os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = then
        return [*await asyncio.gather(*map(one, waits[1:])), await first]

    return asyncio.run(asyncio.wait_for(main(), 60))


class Triggerer:
    """A real triggerer's process under its real supervisor, with triggers as its job gives them."""

    def __init__(self, capacity: int) -> None:
        class Supervisor(TriggerRunnerSupervisor):
            def make_client(self) -> Client:
                return inside.execution_client()

        self.supervisor = Supervisor.start(capacity=capacity)

    def add(self, number: int, kwargs: dict[str, Any], task: TaskInstance | None = None) -> None:
        ti = None
        if task is not None:
            ti = TaskInstanceDTO.model_validate(task, from_attributes=True)
        encrypted = Trigger.encrypt_kwargs(kwargs)
        self.supervisor.creating_triggers.append(
            RunTrigger(id=number, classpath=CLASSPATH, encrypted_kwargs=encrypted, ti=ti)
        )

    def serve_until(self, check: Callable[[], Any], seconds: float = 300.0) -> None:
        end = time.monotonic() + seconds
        while not check():
            if not self.supervisor.is_alive() or time.monotonic() > end:
                raise RuntimeError("it did not happen")
            foreign(self.supervisor, "_service_subprocess")(0.2)

    def outcome(self) -> dict[str, Any]:
        return {
            "events": {entry.trigger_id: entry.event.payload for entry in self.supervisor.events},
            "failures": [error for _, error in self.supervisor.failed_triggers],
        }


@contextmanager
def triggerer(capacity: int) -> Iterator[Triggerer]:
    found = Triggerer(capacity)
    try:
        yield found
    finally:
        found.supervisor.kill(escalation_delay=2.0, force=True)


def run_in_triggerer(
    kwargs: list[dict[str, Any]],
    rotate: dict[str, Any] | None = None,
    sandbox: str = "",
) -> dict[str, Any]:
    """Run triggers in a real triggerer until all have ended.

    Args:
        kwargs: Arguments of each trigger.
        rotate: Columns of a connection that is changed when the first requests were made; then all
            tokens are revoked, and all transactions end.
        sandbox: Address of the sandbox, for that.
    """
    with triggerer(len(kwargs)) as process:
        for number, each in enumerate(kwargs, 1):
            process.add(number, each)
        if rotate is not None:
            control = SandboxControl(sandbox)
            process.serve_until(lambda: control.count("GET", "/transactions"))
            inside.add_connection(**rotate)
            control.revoke_tokens()
            control.advance(10_000)
        supervisor = process.supervisor
        process.serve_until(
            lambda: len(supervisor.events) + len(supervisor.failed_triggers) == len(kwargs)
        )
        return process.outcome()


def kill(
    kwargs: dict[str, Any],
    dag_id: str,
    run_id: str,
    state: str | None,
    map_index: int = -1,
    with_task: bool = True,
    sandbox: str = "",
    requests: int = 1,
) -> dict[str, Any]:
    """Take a trigger away from a real triggerer, as it is done when somebody acts on its task.

    Args:
        kwargs: Arguments of the trigger.
        dag_id: Dag whose task waits.
        run_id: New run.
        state: The state in which the task is then; ``cleared`` clears it as *Clear* does.
        map_index: Map index of the task.
        with_task: Tell the trigger its task.
        sandbox: Address of the sandbox.
        requests: How many requests the trigger has made by then.
    """
    inside.start_run(dag_id, run_id, {})
    session = settings.Session()
    task = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag_id,
            TaskInstance.run_id == run_id,
            TaskInstance.map_index == map_index,
        )
    ).one()
    task.state = "deferred"
    session.commit()
    control = SandboxControl(sandbox)
    with triggerer(1) as process:
        process.add(1, kwargs, task if with_task else None)
        process.serve_until(lambda: control.count("GET", "/transactions/") >= requests)
        if state == "cleared":
            inside.clear(dag_id, run_id)
        else:
            task = session.merge(task)
            task.state = state
            session.commit()
        process.supervisor.cancelling_triggers.add(1)
        process.serve_until(lambda: not process.supervisor.running_triggers)
        return process.outcome()


def kill_before_run(kwargs: dict[str, Any]) -> None:
    """End the task of triggers that have not begun, or could not read their state."""

    async def main() -> None:
        for wait, begins in ((kwargs["wait"], False), ("of another version", True)):
            trigger = VantageTransactionsTrigger(**{**kwargs, "wait": wait})
            trigger.task_instance = SimpleNamespace(task_id="t")
            if begins:
                async for _ in trigger.run():
                    pass
            await trigger.on_kill()

    transactions.state_of_task = lambda task: "failed"
    asyncio.run(main())


def run_inline(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Run a trigger as ``dag.test()`` does: in this process, without a triggerer."""
    from uuid import uuid4

    from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor

    event = InProcessTestSupervisor.run_trigger_in_process(
        trigger=VantageTransactionsTrigger(**kwargs), ti=SimpleNamespace(id=uuid4())
    )
    return {"events": [[event.payload]]}


def stop_triggerer(kwargs: dict[str, Any], sandbox: str) -> dict[str, Any]:
    """Stop a triggerer as its job does, while a trigger waits."""
    import signal

    control = SandboxControl(sandbox)
    with triggerer(1) as process:
        process.add(1, kwargs)
        process.serve_until(lambda: control.count("GET", "/transactions/"))
        begin = time.monotonic()
        process.supervisor.kill(signal.SIGTERM, escalation_delay=30.0, force=False)
        return {
            "code": foreign(process.supervisor, "_exit_code"),
            "seconds": time.monotonic() - begin,
            **process.outcome(),
        }
