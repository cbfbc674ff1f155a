# SPDX-License-Identifier: Apache-2.0
"""### A task for each document in object storage

Finds files in a folder of any store that Airflow's object storage supports, and maps a task over
them: each has its own state, log and retries, and its own output folder, named by its map index.

* Connection and folders are set at the top of the file. Anyone who may trigger the DAG can choose
  what is below these folders, but no other file and no other account. Folders are paths, or URLs of
  any store that Airflow's object storage supports, such as `s3://CONNECTION@BUCKET/in`.
  Paths that one task passes to the next keep the connection of the store.
* While ABBYY Vantage works, a task is deferred and takes no worker slot, so many documents can be
  processed at the same time.
* A file whose task is retried or cleared is not sent (and not charged) a second time, even if files
  were added meanwhile and the map indexes of all others have changed. With `delete_after` only the
  output folder shows what was done: name it by `{{ task.inputs.name }}` then, instead of the map
  index.
* By default Airflow maps a task over 1024 files at most (`[core] max_map_length`). A single task
  with a glob, as in `abbyy_vantage_process`, takes many more files and makes fewer requests.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pendulum
from airflow.sdk import ObjectStoragePath, Param, dag, task

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator
from vantage_orchestration.airflow.storage import below

#: Anyone who may trigger this DAG chooses its params. So the connection and the folders are fixed
#: here, or in the environment of the workers, and the params only name what is below them.
CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")
#: Tasks that send or fetch at the same time in all runs. Those that are deferred do not count.
AT_THE_SAME_TIME = 4


@dag(
    dag_id="abbyy_vantage_mapped",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    user_defined_macros={"outputs": partial(below, OUTPUTS)},
    params={
        "folder": Param("", type="string", title="Folder with the documents, below INPUTS"),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
    },
)
def abbyy_vantage_mapped() -> None:
    @task
    def list_files(folder: str, pattern: str) -> list[ObjectStoragePath]:
        """Return the folder's files, sorted by name."""
        from fnmatch import fnmatch

        from airflow.sdk.exceptions import AirflowFailException

        place = ObjectStoragePath(below(INPUTS, folder))
        files = [
            path
            for path in place.iterdir()
            if fnmatch(path.name.lower(), pattern.lower()) and path.is_file()
        ]
        if not files:
            raise AirflowFailException(f"No file in {place} has a name like {pattern!r}")
        return sorted(files, key=str)

    @task
    def total(results: list[dict[str, Any]]) -> dict[str, int]:
        """Add up the numbers of all files."""
        names = ("transactions", "documents", "files", "rule_errors")
        return {name: sum(result[name] for result in results) for name in names}

    process = VantageProcessDocumentsOperator.partial(
        task_id="process",
        output_path="{{ outputs(run_id, ti.map_index) }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id=CONN_ID,
        map_index_template="{{ task.inputs.name }}",
        max_active_tis_per_dag=AT_THE_SAME_TIME,
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    ).expand(inputs=list_files("{{ params.folder }}", "{{ params.pattern }}"))
    total(process.output)


abbyy_vantage_mapped()
