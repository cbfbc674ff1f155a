# SPDX-License-Identifier: Apache-2.0
"""Documents through ABBYY Vantage, each once: plan, submit, wait, collect.

Data flows one way. :mod:`.plan` turns files into transactions to be, :mod:`.submit` starts each
once and notes it in a :mod:`.ledger`, :mod:`vantage_orchestration.watching` waits,
:mod:`.collect` brings the results into a folder, and :mod:`.job` puts these together for
orchestrators. :mod:`.document` is the short way for one file whose fields are wanted.
"""

from __future__ import annotations

from vantage_orchestration.processing.document import (
    DocumentResult,
    process_document,
    submit_document,
    wait_for_transaction,
)
from vantage_orchestration.processing.keys import KEY_PARAMETER, TaskKey

__all__ = [
    "KEY_PARAMETER",
    "DocumentResult",
    "TaskKey",
    "process_document",
    "submit_document",
    "wait_for_transaction",
]
