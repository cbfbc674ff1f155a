# SPDX-License-Identifier: Apache-2.0
"""Waits of tasks whose time passes at once. Run by ``zygote``, like ``inside``."""

from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace
from typing import Any

import pendulum
import waits
from airflow.sdk.bases import sensor as base
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    TaskDeferred,
)
from airflow.sdk.serde import deserialize, serialize

from vantage_orchestration import reads
from vantage_orchestration.airflow import waiting as airflow_waiting
from vantage_orchestration.airflow.operators import vantage as operators
from vantage_orchestration.airflow.sensors import vantage as sensors
from vantage_orchestration.airflow.triggers import transactions
from vantage_orchestration.sandbox import SandboxControl
from vantage_orchestration.waiting import blocking, poller, rules, watcher

DAY = waits.DAY


class Store:
    """A task state store."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.values[key] = json.dumps(value)


class Sensor(sensors.VantageTransactionsSensor):
    """A sensor that returns the outcome itself."""

    def _ended(self, context: Any, outcome: Any) -> Any:
        statuses = {name: str(status) for name, status in outcome.statuses.items()}
        return [statuses, list(outcome.in_review), outcome.timed_out]


def _fake_time(clock: waits.Clock) -> None:
    for module in (blocking, poller, watcher, airflow_waiting, transactions, sensors, base):
        module.time = clock
    poller.in_thread = waits.at_once
    for module in (sensors, operators, airflow_waiting):  # There is no API server to tell.
        module.record_transactions = lambda *_, **__: None
    reads.LEAST_PAUSE = 0.0
    rules.random_source = SimpleNamespace(uniform=lambda low, high: 1.0)


class Run:
    """A try of the sensor."""

    def __init__(self, way: str, clock: waits.Clock, ids: list[str], **options: Any) -> None:
        self.way, self.clock, self.ids, self.options = way, clock, ids, options
        self.told: list[list[Any]] = []
        self.store = Store()
        #: Seconds after which a triggerer is started anew, again and again.
        self.restarts: float | None = None

    def sensor(self) -> Sensor:
        return Sensor(
            task_id="sense",
            transaction_ids=self.ids,
            deferrable=self.way == "deferred",
            mode="reschedule" if self.way == "reschedule" else "poke",
            review_notifiers=[self._tell],
            **self.options,
        )

    def _tell(self, context: Any) -> None:
        ids = context["abbyy_vantage_review"]["transaction_ids"]
        self.told.append([self.clock.elapsed, ids])

    def context(self) -> dict[str, Any]:
        names = {"dag_id": "d", "run_id": "r", "task_id": "sense", "map_index": -1}
        ti = SimpleNamespace(
            **names,
            try_number=1,
            xcom_push=lambda *_, **__: None,
            get_first_reschedule_date=lambda context: None,
        )
        return {"ti": ti, "task_state_store": self.store}

    def run(self) -> Any:
        work: Any = lambda sensor: sensor.execute(self.context())  # noqa: E731
        while True:
            try:
                return work(self.sensor())
            except AirflowRescheduleException:
                self.clock.sleep(self.options["poke_interval"])
            except TaskDeferred as deferred:
                kwargs = deserialize(serialize(deferred.trigger.serialize()[1]))
                event = json.loads(json.dumps(self._fire(kwargs)))
                work = lambda sensor, event=event: sensor.execute_complete(  # noqa: E731
                    self.context(), event
                )

    def _fire(self, kwargs: dict[str, Any]) -> Any:
        async def one() -> Any:
            trigger = transactions.VantageTransactionsTrigger(**kwargs)
            async for event in trigger.run():
                return event.payload
            return None

        while True:
            try:
                return self.clock.run(asyncio.wait_for(one(), self.restarts))
            except (asyncio.TimeoutError, TimeoutError):
                continue


def review_clocks(
    way: str, conn_id: str, sandbox: str, ids: list[str], restarts: float | None = None
) -> dict[str, Any]:
    """Let A be reviewed for a day, and B wait for a person from the sixth day on."""
    control, clock = SandboxControl(sandbox), waits.Clock()
    _fake_time(clock)
    clock.passed = control.advance
    clock.at[DAY] = lambda: control.finish_review(ids[0])
    run = Run(
        way,
        clock,
        ids,
        abbyy_vantage_conn_id=conn_id,
        timeout=30 * DAY,
        review_timeout=7 * DAY,
        poke_interval=3 * 3600,
        max_poke_interval=6 * 3600,
    )
    run.restarts = restarts
    return {"outcome": run.run(), "told": run.told, "seconds": clock.elapsed}


def moved(conn_id: str, sandbox: str, ids: list[str], then: str) -> list[Any]:
    """Change the connection of a sensor in the mode ``reschedule`` between two polls; return the
    seconds of its wait and its error.

    Args:
        conn_id: Connection, in the environment.
        sandbox: Address of the sandbox with the transactions.
        ids: Transactions.
        then: The connection from then on.
    """
    clock = waits.Clock()
    _fake_time(clock)
    clock.passed = SandboxControl(sandbox).advance
    clock.at[2 * 3600] = lambda: os.environ.update({f"AIRFLOW_CONN_{conn_id.upper()}": then})
    run = Run("reschedule", clock, ids, abbyy_vantage_conn_id=conn_id, poke_interval=3600)
    try:
        run.run()
    except AirflowFailException as error:
        return [clock.elapsed, str(error)]
    return [clock.elapsed, None]


def downloads_in_pauses(conn_id: str, sandbox: str, inputs: str, output: str) -> dict[str, Any]:
    """Process documents in the worker; return how many result files came in which pause."""
    clock = waits.Clock()
    _fake_time(clock)
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # No supervisor runs here.
    downloads = waits.review_in_pauses(clock, SandboxControl(sandbox))
    operator: Any = operators.VantageProcessDocumentsOperator(
        task_id="t",
        inputs=inputs,
        output_path=output,
        skill="Invoice",
        abbyy_vantage_conn_id=conn_id,
        deferrable=False,
    )
    now = pendulum.now("UTC")
    names = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    context = {
        "ti": SimpleNamespace(**names, try_number=1),
        "dag_run": SimpleNamespace(run_after=now, start_date=now, clear_number=0),
        "task": operator,
        "outlet_events": {},
    }
    return {"result": operator.execute(context), "downloads": downloads}


def scripts(way: str, seeds: list[int]) -> list[Any]:
    """Play made-up scripts; return what came of each, and what the machine says to it."""
    found = []
    for seed in seeds:
        script, limits, clock = waits.Script.made_up(seed), waits.rules(seed), waits.Clock()
        _fake_time(clock)
        transactions.QUIET_SECONDS = 0.0
        scripted = waits.ScriptedWatcher(script, clock)
        poller.Watcher = lambda *_, scripted=scripted, **__: scripted
        Sensor.watcher = scripted
        client = SimpleNamespace(close=lambda: None)
        transactions.VantageTransactionsTrigger.connect = lambda self, client=client: client
        Sensor.skill_if_known = lambda self: None
        anywhere = SimpleNamespace(place=("https://vantage.example.com", ""), check_place=str)
        config = SimpleNamespace(config=SimpleNamespace(credentials=anywhere))
        Sensor.hook = SimpleNamespace(client=config, abbyy_vantage_conn_id="c")
        run = Run(
            way,
            clock,
            list(script.phases),
            timeout=30 * DAY if limits.timeout is None else limits.timeout,
            review_timeout=limits.review_timeout,
            on_review=limits.on_review,
            poke_interval=limits.poke_interval if way == "deferred" else 3600.0,
            max_poke_interval=limits.max_poke_interval,
        )
        outcome = run.run()
        told = [[round(at, 2), ids] for at, ids in run.told]
        found.append({"outcome": outcome, "told": told, "seconds": round(clock.elapsed, 2)})
    return found
