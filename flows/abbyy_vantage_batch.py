# SPDX-License-Identifier: Apache-2.0
"""Send a folder of documents to an ABBYY Vantage skill; results land in a folder of the run.

The run shows a table of the documents, the progress, and a link while a person has to review one.
The folder of all results is an asset: flows can be started when it changes. A document is started
once, however often the run is retried. Run it with

    python flows/abbyy_vantage_batch.py in SKILL out

It needs a saved block of the type "ABBYY Vantage Credentials" with the name abbyy-vantage.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from vantage_orchestration.prefect.assets import materializing
from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.prefect.tasks import process_documents
from vantage_orchestration.processing.files import Folder

#: What the parameters of a deployment can reach, unless the environment of the worker says
#: otherwise: one block, and what is below these folders.
REACH = Reach.from_env(blocks="abbyy-vantage", inputs="in", outputs="out")


@flow(name="abbyy-vantage-batch")
def abbyy_vantage_batch(
    folder: str,
    skill: str,
    output: str,
    pattern: str = "*.pdf",
    credentials: str = "abbyy-vantage",
) -> dict[str, Any]:
    """Process all documents of a folder.

    Args:
        folder: Folder with the documents, a path or URL.
        skill: Id or exact name of the skill.
        output: Folder for the results of all runs, a path or URL.
        pattern: Which files of the folder to take.
        credentials: Name of the credentials block.

    Returns:
        manifest (its URL) and numbers of transactions, documents, pages and so on.
    """
    REACH.check(credentials, folder, output)
    inputs = Folder(folder, pattern)
    process = materializing(process_documents, output, inputs)
    return process(credentials, inputs, f"{output}/{flow_run.get_id()}", skill)


if __name__ == "__main__":
    abbyy_vantage_batch(*sys.argv[1:])
