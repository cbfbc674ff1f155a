# SPDX-License-Identifier: Apache-2.0
"""Typed tables of extracted fields. They need the extra ``tables`` (pyarrow).

The names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vantage_orchestration.tables.build import AppliedSkills, ResultTables
    from vantage_orchestration.tables.quality import QualityRules
    from vantage_orchestration.tables.values import ValueFormat
    from vantage_orchestration.tables.writing import write_tables

__all__ = ["AppliedSkills", "QualityRules", "ResultTables", "ValueFormat", "write_tables"]

_HOMES = {
    "AppliedSkills": "build",
    "QualityRules": "quality",
    "ResultTables": "build",
    "ValueFormat": "values",
    "write_tables": "writing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
