# SPDX-License-Identifier: Apache-2.0
"""Every night, from a folder of invoices to rows in a database.

Processes the documents of a folder with the skill Invoice, and loads number, date, total, vendor
and line items into tables by dlt. Documents that fail, or lack a number or a total, are copied to a
folder of their own, each with a file that says why. While a person has to review a document, the
run shows a link and emits the event `abbyy_vantage.transaction.review`: an automation on it can
notify the reviewers. Run it now, or serve it every night, with

    python flows/abbyy_vantage_nightly.py FOLDER OUTPUT ASIDE [serve]

Anyone who may run a deployment of it chooses these folders, below those of the worker's
environment: ABBYY_VANTAGE_FLOWS_INPUTS, and ABBYY_VANTAGE_FLOWS_OUTPUTS for OUTPUT and ASIDE.

Each night sends all files of FOLDER, and ABBYY Vantage charges their pages. Move them away before
the next night, or read a folder of the night, such as f"{folder}/{night}/*.pdf".

Choose another `destination` and set its credentials as dlt describes it. Loading the same night
twice changes nothing. It needs a saved block of the type "ABBYY Vantage Credentials" with the name
abbyy-vantage.
"""

from __future__ import annotations

import sys

import dlt
from prefect import flow, task
from prefect.runtime import flow_run

from vantage_orchestration.dlt import documents
from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.prefect.tasks import process_documents

REACH = Reach.from_env(blocks="abbyy-vantage", inputs="in", outputs="out")


@task(retries=3)
def load(manifest: str) -> None:
    pipeline = dlt.pipeline("invoices", destination="duckdb")
    pipeline.run()  # What a killed load has left: with it, dlt would pass over new data.
    pipeline.run(documents(manifest, skill="Invoice"))


@flow(name="abbyy-vantage-nightly")
def abbyy_vantage_nightly(folder: str, output: str, aside: str) -> None:
    REACH.check("abbyy-vantage", folder, [output, aside])
    night = flow_run.get_scheduled_start_time().date()
    gate = {"required_fields": ["Invoice Number", "Total"], "on_low_quality": "quarantine"}
    rest = {"tables": "parquet", "on_failed": "return", "quarantine_path": aside}
    result = process_documents(
        "abbyy-vantage", f"{folder}/*.pdf", f"{output}/{night}", "Invoice", **gate, **rest
    )
    load(result["manifest"])


if __name__ == "__main__":
    if sys.argv[4:] == ["serve"]:
        names = ("folder", "output", "aside")
        given = dict(zip(names, sys.argv[1:4], strict=True))
        abbyy_vantage_nightly.serve(cron="0 2 * * *", parameters=given)
    else:
        REACH = Reach()
        abbyy_vantage_nightly(*sys.argv[1:4])
