# SPDX-License-Identifier: Apache-2.0
"""Typed tables of the fields that ABBYY Vantage has found. Needs the extra ``tables`` (pyarrow)."""

from vantage_orchestration.tables.build import AppliedSkills, ResultTables
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import write_tables

__all__ = ["AppliedSkills", "ResultTables", "ValueFormat", "write_tables"]
