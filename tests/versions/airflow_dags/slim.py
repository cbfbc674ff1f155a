# SPDX-License-Identifier: Apache-2.0
"""Dags that each supported release of Airflow has to parse and to run."""

from __future__ import annotations

import os
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher
from test_airflow.live.one_task import make

from vantage_orchestration.airflow import (
    VantageDownloadResultsOperator,
    VantageFetchCompletedOperator,
    VantageProcessDocumentsOperator,
    VantageSubmitOperator,
    VantageTransactionCompletedTrigger,
    VantageTransactionsSensor,
)
from vantage_orchestration.airflow.compat import AIRFLOW

FOLDER = os.environ["SLIM_FOLDER"]
OUT = f"{FOLDER}/{{{{ dag.dag_id }}}}/{{{{ run_id }}}}"
CONN_ID = "slim"
SKILL = "Invoice"
SENDING: dict[str, Any] = {
    "inputs": f"{FOLDER}/in/*.pdf",
    "skill": SKILL,
    "abbyy_vantage_conn_id": CONN_ID,
}
COMMON: dict[str, Any] = {
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 5, "retry_delay": pendulum.duration(seconds=1)},
}
MAIL = Asset(
    name="mail",
    uri="x-slim://mail",
    watchers=[
        AssetWatcher(
            name="mail",
            trigger=VantageTransactionCompletedTrigger(
                state_path=f"{FOLDER}/mail",
                skill="Receipt",
                abbyy_vantage_conn_id=CONN_ID,
                poke_interval=1.0,
            ),
        )
    ],
)

for name, deferrable in (("documents", False), ("deferred", True)):
    with DAG(name, schedule=None, **COMMON) as dag:
        VantageProcessDocumentsOperator(
            task_id="process",
            output_path=OUT,
            deferrable=deferrable,
            poke_interval=1,
            **SENDING,
        )
    globals()[name] = dag

crash = make("crash", retries=5)
crash_in_worker = make("crash_in_worker", retries=5, deferrable=False)

with DAG("steps", schedule=None, **COMMON) as steps:
    submit = VantageSubmitOperator(task_id="submit", state_path=f"{FOLDER}/state", **SENDING)
    wait = VantageTransactionsSensor(
        task_id="wait",
        transaction_ids=submit.output,
        abbyy_vantage_conn_id=CONN_ID,
        deferrable=False,
        poke_interval=1,
    )
    download = VantageDownloadResultsOperator(
        task_id="process",
        transaction_ids=submit.output,
        output_path=OUT,
        abbyy_vantage_conn_id=CONN_ID,
    )
    wait >> download

if AIRFLOW >= (3, 3):  # Older ones refuse it.
    with DAG("unplaced", schedule=None, **COMMON) as unplaced:
        VantageSubmitOperator(task_id="process", **SENDING)

with DAG("watcher", schedule=[MAIL], max_active_runs=1, **COMMON) as watcher:
    VantageFetchCompletedOperator(
        task_id="process",
        output_path=f"{FOLDER}/mail",
        skill="Receipt",
        abbyy_vantage_conn_id=CONN_ID,
    )
