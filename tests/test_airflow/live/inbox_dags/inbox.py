# SPDX-License-Identifier: Apache-2.0
"""Dags that fetch what came by mail, both scheduled by one asset, and one that takes results."""

from __future__ import annotations

import os
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable, task

from vantage_orchestration.airflow.assets import take_events
from vantage_orchestration.airflow.operators.vantage import VantageFetchCompletedOperator
from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger

OUT = os.environ["INBOX_OUT"]
MAIL = Asset(
    name="mail",
    uri="x-inbox://mail",
    watchers=[
        AssetWatcher(
            name="mail",
            trigger=VantageTransactionCompletedTrigger(
                state_path=f"{OUT}/state",
                skill="Receipt",
                abbyy_vantage_conn_id="inbox",
                poke_interval=1.0,
            ),
        )
    ],
)
LANDED = Asset(name="landed", uri="x-inbox://landed")
COMMON: dict[str, Any] = {
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_runs": 1,
}


def fetching(dag_id: str) -> DAG:
    with DAG(dag_id, schedule=[MAIL], **COMMON) as dag:
        VantageFetchCompletedOperator(
            task_id="process",
            output_path=f"{OUT}/{dag_id}",
            state_path=f"{OUT}/state",
            skill="Receipt",
            abbyy_vantage_conn_id="inbox",
            outlets=[LANDED],
            retries=3,
            retry_delay=pendulum.duration(seconds=1),
        )
    return dag


first = fetching("first")
second = fetching("second")

with DAG("produce", schedule=None, **COMMON) as produce:

    @task(outlets=[LANDED])
    def work(number: int) -> None:
        from airflow.sdk import get_current_context

        get_current_context()["outlet_events"][LANDED].extra = {"number": number}

    work.expand(number=list(range(6)))

with DAG(
    "take",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=[LANDED]
    ),
    **COMMON,
) as take:

    @task(task_id="process", inlets=[LANDED], retries=3, retry_delay=1)
    def receive() -> list[dict[str, Any]]:
        return take_events(LANDED, state_path=f"{OUT}/state")

    receive()
