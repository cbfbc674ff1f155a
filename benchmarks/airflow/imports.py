# SPDX-License-Identifier: Apache-2.0
"""Measures what importing this package's operators adds to importing ``airflow.sdk``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from place import airflow_environment, table

PACKAGE = "vantage_orchestration.airflow"
CONTESTANTS = {
    "nothing": ("nothing", []),
    "operators": ("the operators", [f"{PACKAGE}.operators.vantage"]),
    "all": (
        "operators, sensor, hook and trigger",
        [
            f"{PACKAGE}.{name}"
            for name in (
                "operators.vantage",
                "sensors.vantage",
                "hooks.vantage",
                "triggers.transactions",
            )
        ],
    ),
    "requests": ("_`requests`, which the operators load when they first use it_", ["requests"]),
}


def _measure(modules: list[str]) -> None:
    """Be one new interpreter: import what every Dag file does, then what is measured."""
    from importlib import import_module

    from airflow.sdk import DAG, BaseOperator  # noqa: F401 - what is not measured

    begin = time.perf_counter(), time.process_time()
    for name in modules:
        import_module(name)
    end = time.perf_counter(), time.process_time()
    sys.stdout.write(json.dumps([1000 * (end[0] - begin[0]), 1000 * (end[1] - begin[1])]) + "\n")


def report(rounds: int = 15) -> str:
    """Measure and return the result in Markdown.

    Args:
        rounds: New interpreters for each row.
    """
    took: dict[str, list[tuple[float, float, float]]] = {key: [] for key in CONTESTANTS}
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **airflow_environment(home)}
        # The first round writes what Airflow and Python keep for the next, and does not count.
        for number in range(rounds + 1):
            for key, (_, modules) in CONTESTANTS.items():
                begin = time.perf_counter()
                done = subprocess.run(  # noqa: S603 - this very script
                    [sys.executable, __file__, json.dumps(modules)],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    check=True,
                )
                whole = 1000 * (time.perf_counter() - begin)
                wall, cpu = json.loads(done.stdout.splitlines()[-1])
                if number:
                    took[key].append((wall, cpu, whole))
    rows = []
    for key, (title, _) in CONTESTANTS.items():
        walls, cpus, wholes = (sorted(column) for column in zip(*took[key], strict=True))
        rows.append(
            [
                title,
                f"{median(walls):.0f} ms",
                f"{walls[0]:.0f} to {walls[-1]:.0f}",
                f"{median(cpus):.0f} ms",
                f"{median(wholes):.0f} ms",
            ]
        )
    head = [
        "imported after `airflow.sdk`",
        "wall, median",
        "spread",
        "CPU, median",
        "whole process",
    ]
    return f"""## Import of the operators

In a new interpreter each, after `from airflow.sdk import DAG, BaseOperator`, as in every Dag file.
Medians of {rounds} interleaved rounds; the whole process is the interpreter's start, `airflow.sdk`\
 and the row.

{table(head, rows)}
"""


if __name__ == "__main__":
    _measure(json.loads(sys.argv[1]))
