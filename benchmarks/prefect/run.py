# SPDX-License-Identifier: Apache-2.0
"""Measures the Prefect side and writes RESULTS.md.

``python benchmarks/prefect/run.py``, in an environment with ``.[prefect,sandbox]``. See the README
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

HERE = Path(__file__).resolve().parent
# The bare loop and the sandbox's process are those of the Airflow side.
sys.path.insert(1, str(HERE.parent / "airflow"))
sys.path.append(str(HERE.parents[1] / "tests"))

import imports  # noqa: E402

import flows  # noqa: E402

PARTS = ("imports", "flows")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts")
    parser.add_argument("--rounds", type=int, default=5, help="goes of each (%(default)s)")
    parser.add_argument("--files", type=int, default=flows.FILES, help="%(default)s")
    parser.add_argument("--scenes", nargs="+", choices=flows.SCENES, default=flows.SCENES)
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="%(default)s")
    parser.add_argument("--note", default="", help="a sentence about the machine, for the report")
    arguments = parser.parse_args()
    begin = time.monotonic()
    parts = []
    if "imports" in arguments.only:
        parts.append(imports.report(3 * arguments.rounds))
    if "flows" in arguments.only:
        scenes = tuple(arguments.scenes)
        parts.append(flows.report(arguments.files, arguments.rounds, scenes))
    text = "\n".join([_head(time.monotonic() - begin, arguments.note), *parts])
    arguments.output.write_text(text.rstrip() + "\n")
    sys.stdout.write(f"{arguments.output}\n")


def _head(seconds: float, note: str) -> str:
    names = ("prefect", "requests", "httpx")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return f"""# The Prefect side, measured

Made by `run.py` in {seconds:.0f} s on {os.cpu_count()} cores, with Python\
 {platform.python_version()} on {platform.system()}. The service is the
sandbox on 127.0.0.1. Compare the differences and ratios; the times themselves belong to one
machine.{
        note
        and f'''
{note}'''
    }

Versions: {", ".join(versions)}.
"""


if __name__ == "__main__":
    main()
