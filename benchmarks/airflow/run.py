# SPDX-License-Identifier: Apache-2.0
"""Measures the Airflow side and writes RESULTS.md.

``python benchmarks/airflow/run.py``, in an environment with ``.[airflow,sandbox]``. See the README
beside it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

import documents
import imports
import triggers

HERE = Path(__file__).resolve().parent
PARTS = ("imports", "triggers", "documents")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts")
    parser.add_argument("--rounds", type=int, default=5, help="goes of each (%(default)s)")
    parser.add_argument("--files", type=int, default=documents.FILES, help="%(default)s")
    parser.add_argument("--scenes", nargs="+", choices=documents.SCENES, default=documents.SCENES)
    parser.add_argument("--triggers", type=int, default=triggers.COUNT, help="%(default)s")
    parser.add_argument("--note", default="", help="what else is to be known of the machine")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="%(default)s")
    arguments = parser.parse_args()
    measured = {
        "imports": lambda: imports.report(2 * arguments.rounds + 1),
        "triggers": lambda: triggers.report(arguments.triggers),
        "documents": lambda: documents.report(
            arguments.files, arguments.rounds, tuple(arguments.scenes)
        ),
    }
    begin = time.monotonic()
    parts = [measured[part]() for part in PARTS if part in arguments.only]
    text = "\n".join([_head(time.monotonic() - begin, arguments.note), *parts])
    arguments.output.write_text(text.rstrip() + "\n")
    sys.stdout.write(f"{arguments.output}\n")


def _head(seconds: float, note: str) -> str:
    names = ("apache-airflow", "requests", "httpx")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return f"""# The Airflow side, measured

Made by `run.py` in {seconds:.0f} s on {os.cpu_count()} cores, with Python\
 {platform.python_version()} on {platform.system()}. The service is the
sandbox on 127.0.0.1. Compare the ratios; the times themselves belong to one machine.
{note}

Versions: {", ".join(versions)}.
"""


if __name__ == "__main__":
    main()
