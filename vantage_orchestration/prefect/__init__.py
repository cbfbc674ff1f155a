# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage for Prefect: a credentials block and what a task needs besides.

Prefect imports this module by the entry point group ``prefect.collections``, which makes the block
type known. Importing it loads no HTTP library.
"""

from __future__ import annotations

from vantage_orchestration.prefect.context import task_key
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.prefect.retries import retry_if_it_helps

__all__ = ["VantageCredentials", "retry_if_it_helps", "task_key"]
