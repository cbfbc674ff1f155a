# SPDX-License-Identifier: Apache-2.0
"""### Sending, waiting and downloading as separate tasks

Does what `abbyy_vantage_process` does in three steps, for pipelines that do something between
them, or that send and wait in different places. The tasks pass on the ids of the transactions, and
nothing else.

* `submit` starts the transactions and ends. A retry finds those that were started.
* `wait` is a sensor. It is deferred and takes no worker slot. With `deferrable=False` it
  polls in a worker, in the mode `poke` or `reschedule` like every sensor.
* `download` writes the results into a folder of the run: one subfolder for each transaction, and a
  `manifest.json`. With `delete_after=True` it then deletes the transactions in ABBYY Vantage, which
  would be deleted after 14 days.
* If a transaction has failed, clear `submit` with its downstream tasks: only that transaction is
  sent again.
* Connection and folders are set at the top of the file. Anyone who may trigger the DAG can choose
  what is below these folders, but no other file and no other account. Folders are paths, or URLs of
  any store that Airflow's object storage supports, such as `s3://CONNECTION@BUCKET/in`.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import os
from functools import partial

import pendulum
from airflow.sdk import Param, dag

from vantage_orchestration.airflow.operators.vantage import (
    VantageDownloadResultsOperator,
    VantageSubmitOperator,
)
from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor
from vantage_orchestration.airflow.storage import below

#: Anyone who may trigger this DAG chooses its params. So the connection and the folders are fixed
#: here, or in the environment of the workers, and the params only name what is below them.
CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")


@dag(
    dag_id="abbyy_vantage_submit_and_wait",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    user_defined_macros={"inputs": partial(below, INPUTS), "outputs": partial(below, OUTPUTS)},
    default_args={
        "retries": 5,
        "retry_delay": pendulum.duration(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": pendulum.duration(minutes=10),
    },
    params={
        "folder": Param("", type="string", title="Folder with the documents, below INPUTS"),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
    },
)
def abbyy_vantage_submit_and_wait() -> None:
    submit = VantageSubmitOperator(
        task_id="submit",
        inputs="{{ inputs(params.folder, params.pattern) }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id=CONN_ID,
    )
    wait = VantageTransactionsSensor(
        task_id="wait",
        transaction_ids=submit.output,
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id=CONN_ID,
        timeout=3600.0,
    )
    download = VantageDownloadResultsOperator(
        task_id="download",
        transaction_ids=submit.output,
        output_path="{{ outputs(run_id) }}",
        abbyy_vantage_conn_id=CONN_ID,
    )
    wait >> download


abbyy_vantage_submit_and_wait()
