# SPDX-License-Identifier: Apache-2.0
"""Processes documents with ABBYY Vantage, each once: plan, submit, wait, collect.

Data flows one way. :mod:`.plan` groups files into transactions, :mod:`.submit` starts each once and
records it in a :mod:`.ledger`, :mod:`vantage_orchestration.waiting` waits, :mod:`.collect`
downloads the results into a folder, and :mod:`.job` combines these for orchestrators.
:mod:`.document` is the short way to the fields of one file.

The names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_OF_KEYS = frozenset({"KEY_PARAMETER", "TaskKey"})


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "keys" if name in _OF_KEYS else "document"
        return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
