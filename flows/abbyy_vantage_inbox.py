# SPDX-License-Identifier: Apache-2.0
"""Fetch the results of documents that came to ABBYY Vantage by mail, scanner or phone.

One deployment: every minute, `fetch_inbox` fetches the results of all ended transactions that it
has not fetched yet. If a run was missed or killed, the next one fetches what is missing. Deploy it
with
`prefect deploy --all` (see prefect.yaml), or serve it with

    python flows/abbyy_vantage_inbox.py

It needs a saved block of the type "ABBYY Vantage Credentials" with the name abbyy-vantage.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

from vantage_orchestration.prefect.completed import fetch_completed
from vantage_orchestration.prefect.reach import Reach

#: What the parameters of a deployment can reach, unless the environment of the worker says
#: otherwise: one block, and what is below this folder.
REACH = Reach.from_env(blocks="abbyy-vantage", outputs="inbox")


@flow(name="abbyy-vantage-inbox")
def fetch_inbox(
    output: str = "inbox", skill: str | None = None, credentials: str = "abbyy-vantage"
) -> dict[str, Any]:
    """Bring the results of all transactions that have ended since into a folder.

    Args:
        output: Folder for the results of all runs, a path or URL. What was fetched is noted there.
        skill: Id or exact name of a skill; all if it is left out.
        credentials: Name of the credentials block.

    Returns:
        manifest (the URL of what this run has fetched, None if there was nothing) and numbers of
        documents, pages and so on.
    """
    REACH.check(credentials, output=output)
    return fetch_completed(credentials, output, skill=skill)


if __name__ == "__main__":
    fetch_inbox.serve(
        "every-minute",
        interval=60,
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    )
