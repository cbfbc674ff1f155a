# SPDX-License-Identifier: Apache-2.0
"""### Documents through ABBYY Vantage

Sends every file of a folder to a skill of ABBYY Vantage and writes what was extracted to one
JSON Lines file: a line for each document, in the order of the files' names.

* The account is in an Airflow Connection of the type `abbyy_vantage`. Another tenant, region or
  private cloud needs another connection and no change here.
* A file whose task is tried again, or cleared, is not sent (and not charged) a second time: the
  task finds the transaction that an earlier try has started. A refused login fails the task at
  once, so that retries can't lock the account.
* A document that waits for a manual review fails its task when the retries are used up. Clear the
  task when the review is done; it goes on from there.
* The folder and the output must be in reach of every worker. Airflow maps a task over 1024 files
  at the most by default (`[core] max_map_length`).
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

#: Documents that are in work at the same time in all runs. A tenant has a limit of requests.
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
        "folder": Param(type="string", minLength=1, title="Folder with the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(
            type="string",
            minLength=1,
            title="JSON Lines file to write",
            description="{run_id} in it stands for the run.",
        ),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "conn_id": Param(
            "abbyy_vantage_default", type="string", minLength=1, title="Id of the connection"
        ),
    },
)
def abbyy_vantage_documents() -> None:
    @task
    def list_files(folder: str, pattern: str) -> list[str]:
        """Return the folder's files, sorted by name."""
        from fnmatch import fnmatch
        from pathlib import Path

        from airflow.sdk.exceptions import AirflowFailException

        place = Path(folder)
        if not place.is_dir():
            raise AirflowFailException(f"There is no folder {folder!r} on this worker")
        files = sorted(
            str(path.absolute())
            for path in place.iterdir()
            if path.is_file() and fnmatch(path.name.lower(), pattern.lower())
        )
        if not files:
            raise AirflowFailException(f"No file in {folder!r} has a name like {pattern!r}")
        return files

    @task(
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
        max_active_tis_per_dag=AT_THE_SAME_TIME,
        map_index_template="{{ file_name }}",
    )
    def process(file: str, skill: str, conn_id: str) -> list[dict[str, Any]]:
        """Send one file and return a row for each document in it."""
        from pathlib import Path

        from airflow.sdk import get_current_context

        from vantage_orchestration.airflow.context import task_key
        from vantage_orchestration.airflow.hooks.vantage import VantageHook
        from vantage_orchestration.processing import process_document

        get_current_context()["file_name"] = Path(file).name  # Shown in place of the map index.
        client = VantageHook(conn_id).client
        # Known by its path: files that come or go meanwhile change the others' map indexes.
        result = process_document(client, file, skill, task_key(file), timeout=TIMEOUT)
        return result.rows()

    @task
    def collect(rows_of_files: list[list[dict[str, Any]]], output: str, run: str) -> str:
        """Write all rows to one file, which appears when it is complete."""
        import json
        import os
        import re
        from pathlib import Path

        run = re.sub(r"[^A-Za-z0-9._-]+", "_", run)
        target = Path(output.replace("{run_id}", run))
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{run}.part")
        with unfinished.open("w", encoding="utf-8", newline="\n") as lines:
            for rows in rows_of_files:
                for row in rows:
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        unfinished.replace(target)
        return str(target)

    files = list_files("{{ params.folder }}", "{{ params.pattern }}")
    rows = process.partial(skill="{{ params.skill }}", conn_id="{{ params.conn_id }}").expand(
        file=files
    )
    collect(rows, "{{ params.output }}", "{{ run_id }}")


abbyy_vantage_documents()
