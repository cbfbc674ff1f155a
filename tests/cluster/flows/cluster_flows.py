# SPDX-License-Identifier: Apache-2.0
"""Documents in flows on several hosts: a folder in one run, or a task for each on Dask."""

from __future__ import annotations

import os

from prefect import flow, unmapped
from prefect_dask import DaskTaskRunner

from vantage_orchestration.prefect.tasks import process_documents

PACE = {"poke_interval": 2.0, "max_poke_interval": 4.0}


def place(order: str, *parts: str) -> str:
    """Return the URL of what belongs to an order."""
    return "/".join(("s3://cluster", order, *parts))


@flow
def folder(order: str, part: int) -> None:
    process_documents(
        order,
        place(order, "in", str(part), "*.pdf"),
        place(order, "out", str(part)),
        "Invoice",
        registration_parameters={"part": str(part)},
        # One file after the other, so that there is time to kill somebody meanwhile.
        parallel=1,
        **PACE,
    )


@flow
def on_dask(order: str, parts: int) -> None:
    """Process each folder in a task on a scheduler that runs elsewhere."""
    numbers = [str(part) for part in range(parts)]
    runner = DaskTaskRunner(address=os.environ["CLUSTER_DASK"])
    spread.with_options(task_runner=runner)(order, numbers)


@flow
def spread(order: str, numbers: list[str]) -> None:
    process_documents.map(
        unmapped(order),
        [place(order, "in", number, "*.pdf") for number in numbers],
        [place(order, "out", number) for number in numbers],
        unmapped("Invoice"),
        registration_parameters=[{"part": number} for number in numbers],
        **{name: unmapped(value) for name, value in PACE.items()},
    ).result()
