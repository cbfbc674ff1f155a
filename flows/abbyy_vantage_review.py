# SPDX-License-Identifier: Apache-2.0
"""Process documents that people review, without a worker that waits for the review.

Two deployments: `process_documents` with `on_review="suspend"` releases its worker when a person
is needed, and `resume_reviewed` resumes the runs that can continue, every few minutes. Deploy them
with
`prefect deploy --all` (see prefect.yaml), or serve both from one process with

    python flows/abbyy_vantage_review.py

and start runs with `prefect deployment run abbyy-vantage-process-documents/review`. They need a
saved block of the type "ABBYY Vantage Credentials".

Anyone who may run the first one chooses block and folders. Set ABBYY_VANTAGE_FLOWS_BLOCKS,
ABBYY_VANTAGE_FLOWS_INPUTS and ABBYY_VANTAGE_FLOWS_OUTPUTS in the environment of the worker, so that
they reach nothing else.
"""

from __future__ import annotations

from prefect import serve

from vantage_orchestration.prefect.flows import process_documents
from vantage_orchestration.prefect.reviews import resume_reviewed

if __name__ == "__main__":
    serve(
        process_documents.to_deployment("review", parameters={"on_review": "suspend"}),
        resume_reviewed.to_deployment("every-five-minutes", interval=300, concurrency_limit=1),
    )
