# SPDX-License-Identifier: Apache-2.0
"""Try the package in several releases of Airflow and Prefect, each in an environment of its own.

Usage: ``python tests/versions/run.py airflow-3.0.6 prefect-3.9.1 ...``; without arguments all of
them. What was seen goes into the README's tables, row by row. Needs ``uv``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = ROOT / "README.md"
ENVIRONMENTS = ROOT / ".venv-versions"
#: The last day whose uploads count: a release of Airflow does not pin what it needs, and breaks
#: with what came out long after it. Official images have what was there at the time.
RELEASES = {
    "airflow-3.0.6": ("2025-09-08", ("filelock==3.19.1", "cryptography==42.0.8", "wtforms")),
    "airflow-3.1.8": ("2026-04-10", ("wtforms",)),
    "airflow-3.2.2": ("2026-07-01", ()),
    "prefect-3.4.25": (None, ("fastapi==0.136.3", "importlib-metadata")),
    "prefect-3.9.1": (None, ()),
}
#: What the tests themselves need.
TOOLS = ("fpdf2", "psutil")


def build(name: str) -> Path:
    """Make the environment, unless it is there; return its Python."""
    day, more = RELEASES[name]
    orchestrator, _, version = name.partition("-")
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    if not stamp.exists():
        uv = shutil.which(
            "uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        if uv is None:
            raise SystemExit("uv is needed: pip install uv")
        base = "apache-airflow" if orchestrator == "airflow" else "prefect"
        package = f"{ROOT}[{orchestrator},sandbox]"
        wanted = [f"{base}=={version}", *more, *TOOLS, "--editable", package]
        before = ["--exclude-newer", day] if day else []
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder]
        subprocess.run(make, check=True)
        install = [uv, "pip", "install", "--quiet", "--python", python, *before, *wanted]
        subprocess.run(install, check=True)
        stamp.touch()
    return python


def attempt(name: str) -> dict[str, str]:
    """Return the cells of a release; ``no`` where something failed."""
    script = HERE / f"{name.partition('-')[0]}_slim.py"
    done = subprocess.run(
        [build(name), script],
        env={**os.environ, "TEST_PATIENCE": "90"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    try:
        cells: dict[str, str] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"install": "no"}
    return cells


def show(name: str, cells: dict[str, str]) -> None:
    """Write the row of a release into the README, in the place of the one that was there."""
    orchestrator, _, version = name.partition("-")
    begin, end = f"<!-- versions {orchestrator} -->\n", f"<!-- /versions {orchestrator} -->"
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    table, _, after = rest.partition(end)
    rows = [line for line in table.splitlines()[2:] if not line.startswith(f"| {version} |")]
    rows.append("| " + " | ".join([version, *cells.values()]) + " |")
    rows.sort(key=lambda row: [int(part) for part in re.findall(r"\d+", row)[:3]])
    head = " | ".join([f"| {orchestrator.capitalize()}", *cells]) + " |"
    lines = [head, "|---" * (len(cells) + 1) + "|", *rows]
    README.write_text(before + begin + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def main(names: list[str]) -> int:
    failed = []
    for name in names or list(RELEASES):
        cells = attempt(name)
        print(name, json.dumps(cells), flush=True)
        if "no" in cells.values():
            failed.append(name)
        else:
            show(name, cells)
    if failed:
        print("failed:", *failed, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
