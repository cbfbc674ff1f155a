# SPDX-License-Identifier: Apache-2.0
"""### Every night, from a folder of invoices to rows in a database

Processes the documents of a folder and loads number, date, total, vendor and line items into
tables. Documents that fail, or lack a number or a total, are copied to a folder of their own, each
with a file that says why. Reviewers get a mail when ABBYY Vantage needs a person.

* Folders, the connection and the reviewers' address are set at the top of the file, or in the
  environment of the workers. Paths and URLs such as `s3://CONNECTION@BUCKET/in` work.
* Tables are typed as the skill declares its fields; `docs/results.md` describes them.
* dlt loads them. Choose another `destination` and set its credentials as dlt describes it. Loading
  the same night twice changes nothing.
* Each run sends all files of the folder, and ABBYY Vantage charges their pages. Move them away
  before the next night, or let each night have a folder of its own: `INPUTS + "/{{ ds }}/*.pdf"`.
* A night without documents is skipped.
"""

from __future__ import annotations

import os

import pendulum
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import dag, task

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator

CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")
ASIDE = os.environ.get("ABBYY_VANTAGE_DAGS_ASIDE", "/var/lib/abbyy-vantage/aside")
REVIEWERS = os.environ.get("ABBYY_VANTAGE_DAGS_REVIEWERS", "reviewers@example.com")


@dag(
    dag_id="abbyy_vantage_nightly",
    doc_md=__doc__,
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "tables"],
)
def abbyy_vantage_nightly() -> None:
    page = "{{ abbyy_vantage_review.page }}"
    gate = {"required_fields": ["Invoice Number", "Total"], "on_low_quality": "quarantine"}
    files = {"inputs": f"{INPUTS}/*.pdf", "output_path": OUTPUTS + "/{{ run_id }}"}
    mail = SmtpNotifier(to=REVIEWERS, subject="Documents to review", html_content=page)
    rest = {"on_failed": "return", "quarantine_path": ASIDE, "review_notifiers": [mail]}
    options = {"tables": "parquet", "on_empty": "skip", "retries": 5, **files, **gate, **rest}
    process = VantageProcessDocumentsOperator(
        task_id="process", abbyy_vantage_conn_id=CONN_ID, skill="Invoice", **options
    )

    @task
    def load(folder: str) -> None:
        import dlt
        from airflow.sdk import ObjectStoragePath

        from vantage_orchestration.dlt import documents

        pipeline = dlt.pipeline("invoices", destination="duckdb")
        pipeline.run()  # What a killed load has left: with it, dlt would pass over new data.
        pipeline.run(documents(ObjectStoragePath(folder), skill="Invoice"))

    process >> load(files["output_path"])


abbyy_vantage_nightly()
