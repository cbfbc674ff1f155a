# SPDX-License-Identifier: Apache-2.0
"""Refuses a Prefect that is too old. Imported first, before others miss a name."""

from __future__ import annotations

from vantage_orchestration.host import prefect_version

#: Version of the Prefect that is installed.
PREFECT = prefect_version()
