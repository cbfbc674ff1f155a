# SPDX-License-Identifier: Apache-2.0
"""### When results of ABBYY Vantage have landed

Starts when `abbyy_vantage_process` has brought results into their folder, and takes the fields of
each document from there. Nothing is asked of ABBYY Vantage, so no connection to it is needed.

* The event of the asset holds `manifest`, the address of the run's manifest, and numbers:
  `transactions`, `documents`, `files`, `pages`, `rule_errors`, `duplicates`, `in_review`,
  `pending`, `failed`.
* Several events can share a run; each has a mapped task.
* The address names no connection of the store. Set `STORAGE_CONN_ID` if the store needs one.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Asset, ObjectStoragePath, dag, task

#: Connection of the object storage, as in `s3://CONNECTION@BUCKET`; None for none.
STORAGE_CONN_ID: str | None = None

results = Asset(name="abbyy_vantage_results", uri="x-abbyy-vantage://results")


@dag(
    dag_id="abbyy_vantage_consumer",
    doc_md=__doc__,
    schedule=[results],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
)
def abbyy_vantage_consumer() -> None:
    @task
    def received() -> list[dict[str, Any]]:
        """Return what the events say that started this run."""
        from airflow.sdk import get_current_context
        from airflow.sdk.exceptions import AirflowSkipException

        events = get_current_context()["triggering_asset_events"].get(results, ())
        if not events:
            raise AirflowSkipException("This run was not started by results")
        return [dict(event.extra) for event in events]

    @task(
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
        map_index_template="{{ manifest }}",
    )
    def take(event: dict[str, Any]) -> int:
        """Read the fields of all documents of a run. Return the number of documents."""
        import json
        import logging

        from airflow.sdk import get_current_context

        get_current_context()["manifest"] = event["manifest"]
        manifest = ObjectStoragePath(event["manifest"], conn_id=STORAGE_CONN_ID)
        documents = 0
        for transaction in json.loads(manifest.read_text())["transactions"]:
            folder = manifest.parent / transaction["folder"]
            for document in transaction["documents"]:
                for file in document["files"]:
                    if file["type"] == "FieldsJson":
                        fields = json.loads((folder / file["path"]).read_text())["Fields"]
                        # Put them where they belong, such as into a table, in place of this line.
                        logging.getLogger(__name__).info("%s: %d fields", file["name"], len(fields))
                documents += 1
        return documents

    take.expand(event=received())


abbyy_vantage_consumer()
