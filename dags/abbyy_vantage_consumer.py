# SPDX-License-Identifier: Apache-2.0
"""### When results of ABBYY Vantage have landed

Starts when `abbyy_vantage_process` or `abbyy_vantage_watcher` has downloaded results, and reads the
fields of each document from their folder. It sends nothing to ABBYY Vantage and needs no connection
to it.

* An event of the asset contains `manifest`, the address of the run's manifest, and numbers:
  `transactions`, `documents`, `files`, `pages`, `rule_errors`, `duplicates`, `in_review`,
  `pending`, `failed`.
* An event only starts the Dag: if there are several, Airflow starts one run and gives it the first.
  A run takes all events that no earlier run has taken, each in a mapped task, and records them in a
  folder below `STATE`. Events start no run while the Dag is paused, so it also runs every ten
  minutes.
* The address of a manifest contains no connection. Set `STORAGE_CONN_ID` if the store needs one.
"""

from __future__ import annotations

import os
from typing import Any

import pendulum
from airflow.sdk import Asset, ObjectStoragePath, dag, task

try:
    from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable
except ImportError:  # Older releases of Airflow 3 have them elsewhere.
    from airflow.timetables.assets import AssetOrTimeSchedule
    from airflow.timetables.trigger import CronTriggerTimetable

#: Folder for the records of what was taken: a path or URL that every worker can reach.
STATE = "/var/lib/abbyy-vantage/state"
#: Folder of all results. Events can be created by hand, and must not name other files.
RESULTS = os.environ.get("ABBYY_VANTAGE_DAGS_RESULTS", "/var/lib/abbyy-vantage")
#: Connection of the object storage, as in `s3://CONNECTION@BUCKET`; None for none.
STORAGE_CONN_ID: str | None = None

results = Asset(name="abbyy_vantage_results", uri="x-abbyy-vantage://results")


@dag(
    dag_id="abbyy_vantage_consumer",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("*/10 * * * *", timezone="UTC"), assets=[results]
    ),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["abbyy-vantage", "documents"],
)
def abbyy_vantage_consumer() -> None:
    retrying: dict[str, Any] = {
        "retries": 5,
        "retry_delay": pendulum.duration(seconds=30),
        "retry_exponential_backoff": 2,
        "max_retry_delay": pendulum.duration(minutes=10),
    }

    @task(inlets=[results], **retrying)
    def received() -> list[dict[str, Any]]:
        """Return what the events say that no earlier run has taken."""
        from airflow.sdk.exceptions import AirflowSkipException

        from vantage_orchestration.airflow.assets import take_events

        events = [each for each in take_events(results, state_path=STATE) if "manifest" in each]
        if not events:
            raise AirflowSkipException("No new results have landed")
        return events

    @task(map_index_template="{{ manifest }}", **retrying)
    def take(event: dict[str, Any]) -> int:
        """Read the fields of all documents of a run. Return the number of documents."""
        import json
        import logging

        from airflow.sdk import get_current_context
        from airflow.sdk.exceptions import AirflowFailException

        from vantage_orchestration.airflow.storage import below

        get_current_context()["manifest"] = event["manifest"]
        root = RESULTS.rstrip("/") + "/"
        if not str(event["manifest"]).startswith(root):
            raise AirflowFailException(f"{event['manifest']!r} is not below {RESULTS}")

        def read(*parts: str) -> Any:
            """Read JSON below the folder of results."""
            return json.loads(
                ObjectStoragePath(below(RESULTS, *parts), conn_id=STORAGE_CONN_ID).read_text()
            )

        manifest = event["manifest"].removeprefix(root)
        run = manifest.rpartition("/")[0]
        documents = 0
        for transaction in read(manifest)["transactions"]:
            for document in transaction["documents"]:
                for file in document["files"]:
                    if file["type"] == "FieldsJson":
                        fields = read(run, transaction["folder"], file["path"])["Fields"]
                        # Put them where they belong, such as into a table, instead of this line.
                        logging.getLogger(__name__).info("%s: %d fields", file["name"], len(fields))
                documents += 1
        return documents

    take.expand(event=received())


abbyy_vantage_consumer()
