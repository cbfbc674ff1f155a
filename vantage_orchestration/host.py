# SPDX-License-Identifier: Apache-2.0
"""The lowest supported releases of the orchestrators; older ones are refused with a clear
message."""

from __future__ import annotations

import importlib.metadata
import re


def airflow_version() -> tuple[int, ...]:
    """Return the version of Airflow as :func:`prefect_version` does."""
    return _version("Airflow", (3, 0), "apache-airflow-core", "apache-airflow")


def prefect_version() -> tuple[int, ...]:
    """Return the version of Prefect, without importing it.

    Raises:
        ModuleNotFoundError: Prefect is not installed.
        ImportError: It is too old for this package.
    """
    return _version("Prefect", (3, 4, 25), "prefect")


def _version(host: str, lowest: tuple[int, ...], *distributions: str) -> tuple[int, ...]:
    for name in distributions:
        try:
            text = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
        if version < lowest:
            raise ImportError(
                f"vantage-orchestration needs {host} {'.'.join(map(str, lowest))} or later; this is"
                f" {text}. Install it beside a later {host}, or remove it from this environment"
            )
        return version
    raise ModuleNotFoundError(
        f"{host} is not installed: pip install 'vantage-orchestration[{host.lower()}]'"
    )
