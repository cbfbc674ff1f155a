# SPDX-License-Identifier: Apache-2.0
"""The Dag of a run that is disturbed, in any release of Airflow."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, Param

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator

PARAMS = ("inputs", "output", "skill", "conn_id")


def make(dag_id: str, **options: Any) -> DAG:
    """Make a Dag with one task."""
    with DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        params={name: Param(type="string", minLength=1) for name in PARAMS},
    ) as dag:
        VantageProcessDocumentsOperator(
            task_id="process",
            inputs="{{ params.inputs }}",
            output_path="{{ params.output }}",
            skill="{{ params.skill }}",
            abbyy_vantage_conn_id="{{ params.conn_id }}",
            retry_delay=pendulum.duration(seconds=1),
            poke_interval=1,
            max_poke_interval=2,
            **{"retries": 3, "deferrable": True, **options},
        )
    return dag
