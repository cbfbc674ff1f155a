# SPDX-License-Identifier: Apache-2.0
"""Documents in mapped tasks: some tasks with several documents each, or many with one."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Param

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator

BUCKET = "s3://aws_default@cluster/{{ params.order }}"


def make(dag_id: str, parts: int, executor: str = "CeleryExecutor") -> DAG:
    """Make a Dag with a task for each folder of an order."""
    with DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        params={name: Param(type="string", minLength=1) for name in ("order", "conn_id")},
    ) as dag:
        VantageProcessDocumentsOperator.partial(
            task_id="process",
            output_path=BUCKET + "/out/{{ ti.map_index }}",
            skill="Invoice",
            abbyy_vantage_conn_id="{{ params.conn_id }}",
            # Says which task a transaction belongs to.
            registration_parameters={"part": "{{ ti.map_index }}"},
            retries=8,
            retry_delay=pendulum.duration(seconds=2),
            poke_interval=2,
            max_poke_interval=4,
            executor=executor,
        ).expand(inputs=[f"{BUCKET}/in/{part}/*.pdf" for part in range(parts)])
    return dag


eight = make("eight", 8)
sixty = make("sixty", 60)
edge = make("edge", 8, "EdgeExecutor")
