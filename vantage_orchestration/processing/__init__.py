# SPDX-License-Identifier: Apache-2.0
"""Documents through ABBYY Vantage, each once: plan, submit, wait, collect.

Data flows one way. :mod:`.plan` turns files into transactions to be, :mod:`.submit` starts each
once and notes it in a :mod:`.ledger`, :mod:`vantage_orchestration.waiting` waits,
:mod:`.collect` brings the results into a folder, and :mod:`.job` puts these together for
orchestrators. :mod:`.document` is the short way for one file whose fields are wanted.

The names below load what they need when they are first used.
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
