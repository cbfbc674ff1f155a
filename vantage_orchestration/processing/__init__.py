# SPDX-License-Identifier: Apache-2.0
"""Processes documents with ABBYY Vantage, each once: plan, submit, wait, collect.

Data flows one way. :mod:`.plan` groups files into transactions, :mod:`.submit` starts each once and
records it in a :mod:`.ledger`, :mod:`vantage_orchestration.waiting` waits, :mod:`.collect`
downloads the results into a folder, and :mod:`.job` combines these for orchestrators.
:mod:`.document` is the short way to the fields of one file.

The names below are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.lazy import on_first_use

if TYPE_CHECKING:
    from vantage_orchestration.processing.document import (
        DocumentResult,
        process_document,
        wait_for_transaction,
    )
    from vantage_orchestration.processing.keys import KEY_PARAMETER, TaskKey

__all__ = [
    "KEY_PARAMETER",
    "DocumentResult",
    "TaskKey",
    "process_document",
    "wait_for_transaction",
]

__getattr__ = on_first_use(
    __name__,
    {**dict.fromkeys(__all__, "document"), "KEY_PARAMETER": "keys", "TaskKey": "keys"},
)
