# SPDX-License-Identifier: Apache-2.0
"""### Documents in, results out, in one task

Sends files to a skill of ABBYY Vantage and brings the results into a folder of the run: one
subfolder for each transaction, and a `manifest.json` that tells what is where.

* `inputs` is a path, a glob or a URL of any store that Airflow's object storage knows, such as
  `s3://CONNECTION@BUCKET/in/*.pdf`; so is `output`.
* While ABBYY Vantage works, the task is deferred and takes no worker slot.
* Each file is sent, and charged, once, however often the task is tried, cleared or killed. Only
  what failed in ABBYY Vantage is sent anew, and only when somebody clears the task.
* When all is there, the asset `abbyy_vantage_results` gets an event with the numbers and the
  address of the manifest. Other Dags can start by it; see `abbyy_vantage_consumer`.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, Param, dag

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator

results = Asset(name="abbyy_vantage_results", uri="x-abbyy-vantage://results")


@dag(
    dag_id="abbyy_vantage_process",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    params={
        "inputs": Param(type="string", minLength=1, title="Path, glob or URL of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(type="string", minLength=1, title="Folder for the results of all runs"),
        "conn_id": Param(
            "abbyy_vantage_default", type="string", minLength=1, title="Id of the connection"
        ),
    },
)
def abbyy_vantage_process() -> None:
    VantageProcessDocumentsOperator(
        task_id="process",
        inputs="{{ params.inputs }}",
        output_path="{{ params.output }}/{{ run_id }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
        outlets=[results],
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    )


abbyy_vantage_process()
