# SPDX-License-Identifier: Apache-2.0
"""Measures what importing this package's Prefect side adds to importing ``prefect``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from statistics import median

from place import table
from server import environment_of

PACKAGE = "vantage_orchestration.prefect"
CONTESTANTS = {
    "nothing": ("nothing", []),
    "package": (f"`{PACKAGE}`", [PACKAGE]),
    "flows": ("that, its tasks and its flows", [PACKAGE, f"{PACKAGE}.tasks", f"{PACKAGE}.flows"]),
    "requests": ("_`requests`, which `prefect` has loaded already_", ["requests"]),
}


def _measure(modules: list[str]) -> None:
    """Be one new interpreter: import what every flow's file does, then what is measured."""
    from importlib import import_module

    from prefect import flow, task  # noqa: F401 - what is not measured

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
        # The first round writes what Python keeps for the next, and does not count.
        for number in range(rounds + 1):
            for key, (_, modules) in CONTESTANTS.items():
                begin = time.perf_counter()
                done = subprocess.run(  # noqa: S603 - this very script
                    [sys.executable, __file__, json.dumps(modules)],
                    env={**environment_of(home), "PYTHONPATH": ":".join(sys.path[:2])},
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
                f"{median(walls):.0f} ms ({walls[0]:.0f} to {walls[-1]:.0f})",
                f"{median(cpus):.0f} ms ({cpus[0]:.0f} to {cpus[-1]:.0f})",
                f"{median(wholes):.0f} ms",
            ]
        )
    head = ["imported after `prefect`", "wall time", "CPU", "whole process"]
    return f"""## Import

In a new interpreter each, after `from prefect import flow, task`, as in every flow's file. Medians
of {rounds} interleaved rounds, the spread in brackets; the whole process is the interpreter's\
 start, `prefect`
and the row.

{table(head, rows)}
"""


if __name__ == "__main__":
    _measure(json.loads(sys.argv[1]))
