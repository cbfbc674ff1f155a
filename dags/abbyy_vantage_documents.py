# SPDX-License-Identifier: Apache-2.0
"""### Documents through ABBYY Vantage

Sends every file of a folder to a skill of ABBYY Vantage and writes the extracted fields to one
JSON Lines file: a line for each document, in the order of the files' names.

* The account is in an Airflow Connection of the type `abbyy_vantage`. Another tenant, region or
  private cloud needs another connection and no change here.
* Connection and folders are set at the top of the file. Anyone who may trigger the DAG can choose
  what is below these folders, but no other file and no other account.
* A file whose task is retried or cleared is not sent (and not charged) a second time: the task
  finds the transaction of the earlier try in the records below the folder
  `[abbyy_vantage] state_path` of airflow.cfg. A refused login fails the task at once, so that
  retries can't lock the account.
* A document that waits for a manual review fails its task when the retries are used up. Clear the
  task when the review is done; it continues.
* Every worker must be able to reach the folders. By default Airflow maps a task over 1024 files at
  most (`[core] max_map_length`).
"""

from __future__ import annotations

import os
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

#: Anyone who may trigger this DAG chooses its params. So the connection and the folders are fixed
#: here, or in the environment of the workers, and the params only name what is below them.
CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")
#: Documents that are processed at the same time in all runs. A tenant has a limit of requests.
AT_THE_SAME_TIME = 4
#: Seconds that a try waits for one document.
TIMEOUT = 3600.0


@dag(
    dag_id="abbyy_vantage_documents",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    params={
        "folder": Param("", type="string", title="Folder with the documents, below INPUTS"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(
            "{run_id}.jsonl",
            type="string",
            minLength=1,
            title="JSON Lines file to write, below OUTPUTS",
            description="{run_id} in it stands for the run.",
        ),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
    },
)
def abbyy_vantage_documents() -> None:
    @task
    def list_files(folder: str, pattern: str) -> list[str]:
        """Return the folder's files, sorted by name."""
        from fnmatch import fnmatch
        from pathlib import Path

        from airflow.sdk.exceptions import AirflowFailException

        from vantage_orchestration.airflow.storage import below

        place = Path(below(INPUTS, folder))
        if not place.is_dir():
            raise AirflowFailException(f"There is no folder {str(place)!r} on this worker")
        files = sorted(
            str(path.absolute())
            for path in place.iterdir()
            if path.is_file() and fnmatch(path.name.lower(), pattern.lower())
        )
        if not files:
            raise AirflowFailException(f"No file in {str(place)!r} has a name like {pattern!r}")
        return files

    @task(
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
        max_active_tis_per_dag=AT_THE_SAME_TIME,
        map_index_template="{{ file_name }}",
    )
    def process(file: str, skill: str) -> list[dict[str, Any]]:
        """Send one file and return a row for each document in it."""
        from pathlib import Path

        from airflow.sdk import get_current_context

        from vantage_orchestration.airflow.context import task_key
        from vantage_orchestration.airflow.hooks.vantage import VantageHook
        from vantage_orchestration.processing import process_document

        get_current_context()["file_name"] = Path(file).name  # Shown in place of the map index.
        client = VantageHook(CONN_ID).client
        # Known by its path: files that come or go meanwhile change the others' map indexes.
        result = process_document(client, file, skill, task_key(file), timeout=TIMEOUT)
        return result.rows()

    @task
    def collect(rows_of_files: list[list[dict[str, Any]]], output: str, run: str) -> str:
        """Write all rows to one file, which appears when it is complete."""
        import json
        import re

        from vantage_orchestration.storage import Location

        run = re.sub(r"[^A-Za-z0-9._-]+", "_", run)
        # Refuses what is not below, and writes through no link.
        target = Location.of(OUTPUTS).child(output.replace("{run_id}", run))
        lines = [
            json.dumps(row, ensure_ascii=False) + "\n" for rows in rows_of_files for row in rows
        ]
        target.write_text("".join(lines))
        return target.url

    files = list_files("{{ params.folder }}", "{{ params.pattern }}")
    rows = process.partial(skill="{{ params.skill }}").expand(file=files)
    collect(rows, "{{ params.output }}", "{{ run_id }}")


abbyy_vantage_documents()
