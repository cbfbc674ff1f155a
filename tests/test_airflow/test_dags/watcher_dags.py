# SPDX-License-Identifier: Apache-2.0
"""Dags that fetch what has ended, and take events of an asset. Tests say where to."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Asset, AssetAlias, dag, task

from vantage_orchestration.airflow.operators.vantage import VantageFetchCompletedOperator

EVENTS = Asset(name="taken_events", uri="x-abbyy-vantage://taken/events")
COMMON: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_runs": 1,
}


@dag(dag_id="fetch_completed", **COMMON)
def fetch_completed() -> None:
    VantageFetchCompletedOperator(
        task_id="fetch",
        output_path="{{ var.value.fetch_completed_output }}",
        state_path="{{ var.value.fetch_completed_output }}",
        skill="Receipt",
        abbyy_vantage_conn_id="vantage_fetched",
        tables="jsonl",
        required_fields=["Nothing"],
        on_low_quality="flag",
        retries=1,
    )


@dag(dag_id="take_events", **COMMON)
def take_events() -> None:
    def taken(asset: Any) -> list[dict[str, Any]]:
        from airflow.sdk import Variable

        from vantage_orchestration.airflow.assets import take_events

        return take_events(asset, state_path=Variable.get("take_events_state"))

    @task(inlets=[EVENTS])
    def take() -> list[dict[str, Any]]:
        return taken(EVENTS)

    by_name, by_uri = Asset.ref(name=EVENTS.name), Asset.ref(uri=EVENTS.uri)

    @task(inlets=[by_name, by_uri, AssetAlias("taken_alias")])
    def take_by_reference() -> list[int]:
        return [len(taken(each)) for each in (by_name, by_uri, AssetAlias("taken_alias"))]

    take()
    take_by_reference()


fetch_completed()
take_events()
