# SPDX-License-Identifier: Apache-2.0
"""Send a folder of documents through an ABBYY Vantage skill and collect their fields in one file.

Copy this file and change what you like. It needs a saved block of the type "ABBYY Vantage
Credentials", which alone decides on the server. Run it with

    python flows/abbyy_vantage_documents.py FOLDER --skill SKILL --output fields.jsonl

A document is started once, however often a task, the flow or its process is retried.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import unmapped

from vantage_orchestration.prefect import VantageCredentials, retry_if_it_helps, task_key
from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.processing import process_document

#: What the parameters of a deployment can reach, unless the environment of the worker says
#: otherwise: one block, and what is below these folders.
REACH = Reach.from_env(blocks="abbyy-vantage", inputs="in", outputs="out")
#: Documents that are processed at the same time.
MAX_WORKERS = 4


@task(
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_if_it_helps,
    task_run_name="extract {file}",
)
def extract_fields(file: str, skill: str, credentials: str, timeout: float) -> list[dict[str, Any]]:
    """Send one file and return a row with the fields of each document in it.

    Args:
        file: Path of the file; also names the document when the task is tried again.
        skill: Skill that processes it.
        credentials: Name of the block. The block itself stays out of the task's inputs, and so do
            its secrets.
        timeout: Seconds to wait while ABBYY Vantage works.
    """
    with VantageCredentials.load(credentials).get_client() as client:
        return process_document(client, file, skill, task_key(file), timeout=timeout).rows()


@flow(name="abbyy-vantage-documents", task_runner=ThreadPoolTaskRunner(max_workers=MAX_WORKERS))
def abbyy_vantage_documents(
    folder: str,
    skill: str,
    output: str = "out/fields.jsonl",
    pattern: str = "*.pdf",
    credentials: str = "abbyy-vantage",
    timeout: float = 3600.0,
) -> dict[str, Any]:
    """Extract the fields of all documents in a folder.

    Args:
        folder: Folder with the documents.
        skill: Id or exact name of a published ABBYY Vantage skill.
        output: File to write: JSON Lines, one row for each extracted document, in the order of the
            file names. It appears when it is complete.
        pattern: Which files of the folder to take.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        timeout: Seconds to wait for each document.

    Returns:
        Number of files and of documents, and the file written.

    Raises:
        RuntimeError: Some documents failed; nothing was written. Another try of this flow run takes
            up the others where they are, without sending them again.
    """
    REACH.check(credentials, [folder, f"{folder}/{pattern}"], output)
    log = get_run_logger()
    files = sorted(str(path) for path in Path(folder).glob(pattern) if path.is_file())
    if not files:
        log.warning("No file in %s matches %s", folder, pattern)
    futures = extract_fields.map(
        files,
        skill=unmapped(skill),
        credentials=unmapped(credentials),
        timeout=unmapped(timeout),
    )
    rows: list[dict[str, Any]] = []
    failures: dict[str, object] = {}
    for file, future in zip(files, futures, strict=True):
        found = future.result(raise_on_failure=False)
        if future.state.is_completed():
            rows += found
        else:
            failures[file] = found
    if failures:
        file, error = next(iter(failures.items()))
        raise RuntimeError(
            f"{len(failures)} of {len(files)} documents failed and nothing was written;"
            f" the first is {file}: {error}"
        )
    write_json_lines(Path(output), rows)
    log.info("%d documents of %d files are in %s", len(rows), len(files), output)
    return {"files": len(files), "documents": len(rows), "output": output}


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a file that appears, or is replaced, when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Run the flow with the arguments of the command line, by somebody who may read it all."""
    global REACH
    REACH = Reach()
    parser = argparse.ArgumentParser(description="Extract fields with ABBYY Vantage.")
    parser.add_argument("folder", help="folder with the documents")
    parser.add_argument("--skill", required=True, help="id or exact name of a published skill")
    parser.add_argument("--output", default="fields.jsonl", help="JSON Lines file to write")
    parser.add_argument("--pattern", default="*.pdf", help="which files to take")
    parser.add_argument(
        "--credentials", default="abbyy-vantage", help="name of the credentials block"
    )
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for each document")
    summary = abbyy_vantage_documents(**vars(parser.parse_args()))
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
