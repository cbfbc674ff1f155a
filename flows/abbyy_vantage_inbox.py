# SPDX-License-Identifier: Apache-2.0
"""Fetch the results of documents that came to ABBYY Vantage by mail, scanner or phone.

Two deployments: `watch_completed` looks every minute what ABBYY Vantage has finished, and emits one
event for each transaction. An automation runs `fetch_transaction` on each. Deploy both with
`prefect deploy --all` (see prefect.yaml), or serve both from one process with

    python flows/abbyy_vantage_inbox.py

They need a saved block of the type "ABBYY Vantage Credentials" with the name abbyy-vantage.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, serve
from prefect.events import DeploymentEventTrigger

from vantage_orchestration.prefect.completed import watch_completed
from vantage_orchestration.prefect.tasks import download_results


@flow(name="abbyy-vantage-fetch-transaction")
def fetch_transaction(
    transaction_id: str, output: str = "inbox", credentials: str = "abbyy-vantage"
) -> dict[str, Any]:
    """Bring the results of a transaction into a folder.

    Args:
        transaction_id: Transaction.
        output: Folder for the results of all transactions, a path or URL.
        credentials: Name of the credentials block.

    Returns:
        manifest (its URL) and numbers of documents, pages and so on.
    """
    return download_results(credentials, transaction_id, f"{output}/{transaction_id}")


if __name__ == "__main__":
    on_completion = DeploymentEventTrigger(
        match={
            "prefect.resource.id": "abbyy_vantage.transaction.*",
            "abbyy_vantage.origin": "input",
        },
        expect={"abbyy_vantage.transaction.processed"},
        parameters={
            "transaction_id": "{{ event.payload.transaction_id }}",
            "credentials": "{{ event.payload.credentials }}",
        },
    )
    serve(
        watch_completed.to_deployment("every-minute", interval=60, concurrency_limit=1),
        fetch_transaction.to_deployment("on-completion", triggers=[on_completion]),
    )
