# SPDX-License-Identifier: Apache-2.0
"""### A task for each document in object storage

Finds files in a folder of any store that Airflow's object storage knows, and maps a task over
them: each has its own state, log and retries, and its own output folder, named by its map index.

* Folders are paths or URLs such as `s3://CONNECTION@BUCKET/in`. The connection of the store stays
  with the paths that one task hands to the next.
* While ABBYY Vantage works, a task is deferred and takes no worker slot, so many documents can be
  in work at the same time.
* A file whose task is tried again, or cleared, is not sent (and not charged) a second time, also if
  files came in meanwhile and the map indexes of all others have changed. With `delete_after` only
  the output folder remembers what was done: name it by `{{ task.inputs.name }}` then, in place of
  the map index.
* Airflow maps a task over 1024 files at the most by default (`[core] max_map_length`). A single
  task that gets a glob, as in `abbyy_vantage_process`, takes many more and makes fewer requests.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import ObjectStoragePath, Param, dag, task

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator

#: Tasks that send or fetch at the same time in all runs. Those that are deferred do not count.
AT_THE_SAME_TIME = 4


@dag(
    dag_id="abbyy_vantage_mapped",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    params={
        "folder": Param(type="string", minLength=1, title="Folder with the documents"),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(type="string", minLength=1, title="Folder for the results of all runs"),
        "conn_id": Param(
            "abbyy_vantage_default", type="string", minLength=1, title="Id of the connection"
        ),
    },
)
def abbyy_vantage_mapped() -> None:
    @task
    def list_files(folder: str, pattern: str) -> list[ObjectStoragePath]:
        """Return the folder's files, sorted by name."""
        from fnmatch import fnmatch

        from airflow.sdk.exceptions import AirflowFailException

        files = [
            path
            for path in ObjectStoragePath(folder).iterdir()
            if fnmatch(path.name.lower(), pattern.lower()) and path.is_file()
        ]
        if not files:
            raise AirflowFailException(f"No file in {folder!r} has a name like {pattern!r}")
        return sorted(files, key=str)

    @task
    def total(results: list[dict[str, Any]]) -> dict[str, int]:
        """Add up the numbers of all files."""
        names = ("transactions", "documents", "files", "rule_errors")
        return {name: sum(result[name] for result in results) for name in names}

    process = VantageProcessDocumentsOperator.partial(
        task_id="process",
        output_path="{{ params.output }}/{{ run_id }}/{{ ti.map_index }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
        map_index_template="{{ task.inputs.name }}",
        max_active_tis_per_dag=AT_THE_SAME_TIME,
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    ).expand(inputs=list_files("{{ params.folder }}", "{{ params.pattern }}"))
    total(process.output)


abbyy_vantage_mapped()
