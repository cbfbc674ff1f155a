# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from vantage_orchestration.airflow import compat  # noqa: F401 - refuses an Airflow that is too old


def serialized(trigger: Any, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Return what Airflow stores of a trigger: its class, and arguments of the same names."""
    place = f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return place, {name: getattr(trigger, name) for name in arguments}
