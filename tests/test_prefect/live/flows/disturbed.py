# SPDX-License-Identifier: Apache-2.0
"""Flows that are disturbed, made of the package's tasks as users make theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow, task, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from vantage_orchestration.prefect import VantageCredentials, task_key
from vantage_orchestration.prefect.tasks import (
    download_results,
    process_document,
    process_documents,
    submit_documents,
    wait_for_transactions,
)
from vantage_orchestration.prefect.undo import delete_on_cancellation
from vantage_orchestration.processing import process_document as process_one

PACE = {"poke_interval": 1.0, "max_poke_interval": 2.0}


def files(inputs: str) -> list[str]:
    """Return the files of a glob."""
    pattern = Path(inputs)
    return [str(path) for path in sorted(pattern.parent.glob(pattern.name))]


def mapped(credentials: Any, inputs: str, output: str, skill: str) -> None:
    """Process each file in a task of its own, and write the fields."""
    futures = process_document.map(unmapped(credentials), files(inputs), skill, **PACE)
    write(futures.result(), output)


def write(found: list[list[dict[str, Any]]], output: str) -> None:
    """Write the rows of all documents into one file."""
    rows = [row for those in found for row in those]
    Path(output).mkdir(parents=True, exist_ok=True)
    (Path(output) / "rows.json").write_text(json.dumps(rows))


@flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
def in_threads(inputs: str, output: str, skill: str, credentials: str) -> None:
    mapped(VantageCredentials.load(credentials), inputs, output, skill)


@task(retries=3, retry_delay_seconds=1)
def own(file: str, skill: str, credentials: str) -> list[dict[str, Any]]:
    """Process a file as a task of one's own does."""
    with VantageCredentials.load(credentials).get_client() as client:
        return process_one(client, file, skill, task_key(file)).rows()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
def in_own_tasks(inputs: str, output: str, skill: str, credentials: str) -> None:
    futures = own.map(files(inputs), unmapped(skill), unmapped(credentials))
    write(futures.result(), output)


@flow
def in_steps(inputs: str, output: str, skill: str, credentials: str) -> dict[str, Any]:
    names = submit_documents(credentials, inputs, skill)
    wait_for_transactions(credentials, names, **PACE)
    return download_results(credentials, names, output)


@flow
def short(inputs: str, output: str, skill: str, credentials: str) -> dict[str, Any]:
    """Wait for a moment only, and fail."""
    impatient = process_documents.with_options(retries=0)
    return impatient(credentials, inputs, output, skill, timeout=5.0, **PACE)


@flow
def undone(inputs: str, output: str, skill: str, credentials: str) -> dict[str, Any]:
    """Delete what was started when it is cancelled."""
    return process_documents(credentials, inputs, output, skill, **PACE)


@undone.on_cancellation
def delete_started(flow: Any, flow_run: Any, state: Any) -> None:
    # Each run of the tests has a block of its own, which users need not have.
    delete_on_cancellation(flow_run.parameters["credentials"])(flow, flow_run, state)
