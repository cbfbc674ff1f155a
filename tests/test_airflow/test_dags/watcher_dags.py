# SPDX-License-Identifier: Apache-2.0
"""A Dag that starts when a transaction of the skill Receipt has ended."""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, AssetWatcher, dag, task

from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger

RECEIPTS = Asset(
    name="watched_receipts",
    uri="x-abbyy-vantage://watched/receipts",
    watchers=[
        AssetWatcher(
            name="receipts",
            trigger=VantageTransactionCompletedTrigger(
                skill_id="Receipt", conn_id="vantage_watched", poke_interval=1.0
            ),
        )
    ],
)


@dag(
    dag_id="watched_receipts",
    # Airflow runs the watchers of Dags that are not paused.
    is_paused_upon_creation=False,
    schedule=[RECEIPTS],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
)
def watched_receipts() -> None:
    @task
    def handle() -> None:
        pass

    handle()


watched_receipts()
