# SPDX-License-Identifier: Apache-2.0
"""Send each document to ABBYY Vantage in a separate task, and return the fields of all.

This is for a few documents, each of which may fail and be retried without the others. Run it with

    python flows/abbyy_vantage_mapped.py SKILL FILE...

It needs a saved block of the type "ABBYY Vantage Credentials" with the name abbyy-vantage.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.prefect.tasks import process_document

#: What the parameters of a deployment can reach, unless the environment of the worker says
#: otherwise: one block, and what is below this folder.
REACH = Reach.from_env(blocks="abbyy-vantage", inputs="in")


@flow(name="abbyy-vantage-mapped", task_runner=ThreadPoolTaskRunner(max_workers=8))
def abbyy_vantage_mapped(
    inputs: list[str], skill: str, credentials: str = "abbyy-vantage"
) -> list[dict[str, Any]]:
    """Extract the fields of documents.

    Args:
        inputs: Paths or URLs of the documents.
        skill: Id or exact name of the skill.
        credentials: Name of the credentials block.

    Returns:
        One row for each document found, in the order of the inputs.
    """
    REACH.check(credentials, inputs)
    found = process_document.map(unmapped(credentials), inputs, unmapped(skill)).result()
    return [row for rows in found for row in rows]


if __name__ == "__main__":
    for row in abbyy_vantage_mapped(sys.argv[2:], sys.argv[1]):
        sys.stdout.write(f"{row['file']}: {row['fields']}\n")
