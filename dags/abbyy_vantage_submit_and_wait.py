# SPDX-License-Identifier: Apache-2.0
"""### Sending, waiting and fetching as tasks of their own

Does what `abbyy_vantage_process` does in three steps, for pipelines that have something to do
between them, or that wait in another place than they send. What is passed on is the ids of the
transactions, and nothing else.

* `submit` starts the transactions and ends. A further try finds those that it has started.
* `wait` is a sensor. It is deferred and takes no worker slot. With `deferrable=False` it looks from
  a worker, in the mode `poke` or `reschedule` as every sensor.
* `download` brings the results into a folder of the run: one subfolder for each transaction, and a
  `manifest.json`. With `delete_after=True` it deletes the transactions in ABBYY Vantage then; they
  are deleted after 14 days anyway.
* If a transaction has failed, clear `submit` with all that comes after it: only that one is sent
  anew.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag

from vantage_orchestration.airflow.operators.vantage import (
    VantageDownloadResultsOperator,
    VantageSubmitOperator,
)
from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor


@dag(
    dag_id="abbyy_vantage_submit_and_wait",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    default_args={
        "retries": 5,
        "retry_delay": pendulum.duration(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": pendulum.duration(minutes=10),
    },
    params={
        "inputs": Param(type="string", minLength=1, title="Path, glob or URL of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(type="string", minLength=1, title="Folder for the results of all runs"),
        "conn_id": Param(
            "abbyy_vantage_default", type="string", minLength=1, title="Id of the connection"
        ),
    },
)
def abbyy_vantage_submit_and_wait() -> None:
    submit = VantageSubmitOperator(
        task_id="submit",
        inputs="{{ params.inputs }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
    )
    wait = VantageTransactionsSensor(
        task_id="wait",
        transaction_ids=submit.output,
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
        timeout=3600.0,
    )
    download = VantageDownloadResultsOperator(
        task_id="download",
        transaction_ids=submit.output,
        output_path="{{ params.output }}/{{ run_id }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
    )
    wait >> download


abbyy_vantage_submit_and_wait()
