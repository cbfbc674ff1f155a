# SPDX-License-Identifier: Apache-2.0
"""### Documents in, results out, in one task

Sends files to a skill of ABBYY Vantage and downloads the results into a folder of the run: one
subfolder for each transaction, and a `manifest.json` that lists all of them.

* Connection and folders are set at the top of the file. Anyone who may trigger the DAG can choose
  what is below these folders, but no other file and no other account. Folders are paths, or URLs of
  any store that Airflow's object storage supports, such as `s3://CONNECTION@BUCKET/in`.
* While ABBYY Vantage works, the task is deferred and takes no worker slot.
* Each file is sent, and charged, once, however often the task is retried, cleared or killed. Only
  documents that failed in ABBYY Vantage are sent again, and only when the task is cleared.
* When all results have landed, the asset `abbyy_vantage_results` gets an event with the counts and
  the address of the manifest. It can start other Dags; see `abbyy_vantage_consumer`.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import os
from functools import partial

import pendulum
from airflow.sdk import Asset, Param, dag

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator
from vantage_orchestration.airflow.storage import below

#: Anyone who may trigger this DAG chooses its params. So the connection and the folders are fixed
#: here, or in the environment of the workers, and the params only name what is below them.
CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")

results = Asset(name="abbyy_vantage_results", uri="x-abbyy-vantage://results")


@dag(
    dag_id="abbyy_vantage_process",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    user_defined_macros={"inputs": partial(below, INPUTS), "outputs": partial(below, OUTPUTS)},
    params={
        "folder": Param("", type="string", title="Folder with the documents, below INPUTS"),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
    },
)
def abbyy_vantage_process() -> None:
    VantageProcessDocumentsOperator(
        task_id="process",
        inputs="{{ inputs(params.folder, params.pattern) }}",
        output_path="{{ outputs(run_id) }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id=CONN_ID,
        outlets=[results],
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    )


abbyy_vantage_process()
