# SPDX-License-Identifier: Apache-2.0
"""Releases of the orchestrators below the lowest, as they look when they are installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

AIRFLOW = "vantage-orchestration needs Airflow 3.0 or later; this is 2.11.2."
PREFECT = "vantage-orchestration needs Prefect 3.4.25 or later; this is 3.4.24."


def run(folder: Path, code: str) -> str:
    """Run code where these old releases are found before any other."""
    for name, version in {
        "apache-airflow-core": "2.11.2",
        "apache-airflow": "2.11.2",
        "prefect": "3.4.24",
    }.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("airflow.hooks.vantage", AIRFLOW),
        ("airflow.operators.vantage", AIRFLOW),
        ("airflow.sensors.vantage", AIRFLOW),
        ("airflow.triggers.transactions", AIRFLOW),
        ("airflow.triggers.completed", AIRFLOW),
        ("prefect", PREFECT),
        ("prefect.tasks", PREFECT),
        ("prefect.flows", PREFECT),
    ],
)
def test_importing_says_what_is_needed(tmp_path: Path, module: str, expected: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip("it is not installed")
    assert f"ImportError: {expected}" in run(tmp_path, f"import vantage_orchestration.{module}")


def test_the_list_of_hooks_says_what_is_needed(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        "import importlib\n"
        "from vantage_orchestration.airflow.provider import get_provider_info\n"
        "[kind] = get_provider_info()['connection-types']\n"
        "module, _, name = kind['hook-class-name'].rpartition('.')\n"
        "hook = getattr(importlib.import_module(module), name)\n"
        "print(hook.conn_type, hook.hook_name)\n"
        "hook()\n",
    )
    assert f"abbyy_vantage ABBYY Vantage: {AIRFLOW}" in told
    assert f"ImportError: {AIRFLOW}" in told
