# SPDX-License-Identifier: Apache-2.0
"""Typed tables of extracted fields. They need the extra ``tables`` (pyarrow).

The names below are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.lazy import on_first_use

if TYPE_CHECKING:
    from vantage_orchestration.tables.build import ResultTables
    from vantage_orchestration.tables.quality import QualityRules
    from vantage_orchestration.tables.values import ValueFormat
    from vantage_orchestration.tables.writing import write_tables

__all__ = ["QualityRules", "ResultTables", "ValueFormat", "write_tables"]

__getattr__ = on_first_use(
    __name__,
    {
        "QualityRules": "quality",
        "ResultTables": "build",
        "ValueFormat": "values",
        "write_tables": "writing",
    },
)
