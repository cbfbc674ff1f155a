# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage for Prefect: blocks, tasks and flows.

Prefect imports this module through the entry point group ``prefect.collections``, which registers
the block types. Importing it loads no HTTP library. Tasks are in :mod:`.tasks`, flows in
:mod:`.flows`, and hooks that delete transactions of cancelled runs in :mod:`.undo`.
"""

from __future__ import annotations

from vantage_orchestration.prefect import lowest  # noqa: F401 - refuses what is too old
from vantage_orchestration.prefect.context import task_key
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.prefect.retries import retry_if_it_helps
from vantage_orchestration.prefect.skill import VantageSkill, VantageTransaction

__all__ = [
    "VantageCredentials",
    "VantageSkill",
    "VantageTransaction",
    "retry_if_it_helps",
    "task_key",
]
