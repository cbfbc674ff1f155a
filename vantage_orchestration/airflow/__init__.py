# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage in Apache Airflow.

Import the names below from here. Each is loaded on first use, so importing one does not load the
others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.lazy import on_first_use

if TYPE_CHECKING:
    from vantage_orchestration.airflow.context import task_key
    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.airflow.operators.vantage import (
        VantageDeleteTransactionsOperator,
        VantageDownloadResultsOperator,
        VantageFetchCompletedOperator,
        VantageProcessDocumentsOperator,
        VantageSubmitOperator,
    )
    from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor
    from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger

__all__ = [
    "VantageDeleteTransactionsOperator",
    "VantageDownloadResultsOperator",
    "VantageFetchCompletedOperator",
    "VantageHook",
    "VantageProcessDocumentsOperator",
    "VantageSubmitOperator",
    "VantageTransactionCompletedTrigger",
    "VantageTransactionsSensor",
    "task_key",
]

__getattr__ = on_first_use(
    __name__,
    {
        "VantageDeleteTransactionsOperator": "operators.vantage",
        "VantageDownloadResultsOperator": "operators.vantage",
        "VantageFetchCompletedOperator": "operators.vantage",
        "VantageHook": "hooks.vantage",
        "VantageProcessDocumentsOperator": "operators.vantage",
        "VantageSubmitOperator": "operators.vantage",
        "VantageTransactionCompletedTrigger": "triggers.completed",
        "VantageTransactionsSensor": "sensors.vantage",
        "task_key": "context",
    },
)
