# SPDX-License-Identifier: Apache-2.0
"""Try the package in several releases of Airflow and Prefect, each in an environment of its own.

Usage: ``python tests/versions/run.py [--short | --pin | --resolve] [airflow-3.0.6 ...]``; without
names, all of them. What was seen goes into the README's tables, row by row. ``--short`` leaves out
what takes long, and writes nothing. ``--pin`` chooses the packages of the environments anew.
``--resolve`` asks whether the package's requirements fit together on each Python.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = ROOT / "README.md"
PINS = HERE / "pins"
ENVIRONMENTS = ROOT / ".venv-versions"
sys.path.insert(0, str(HERE.parent))


@dataclass(frozen=True)
class Release:
    """How the environment of a release is made.

    Attributes:
        pythons: Lowest and highest Python that it runs on.
        until: Last day whose uploads count when its packages are chosen. A release of Airflow does
            not pin what it needs, and breaks with what came out long after it. Official images
            have what was there at the time.
        more: Further packages.
    """

    pythons: tuple[str, str]
    until: str | None = None
    more: tuple[str, ...] = ()


RELEASES: dict[str, Release | None] = {
    "airflow-3.0.6": Release(
        ("3.10", "3.12"), "2025-09-08", ("filelock==3.19.1", "cryptography==42.0.8", "wtforms")
    ),
    "airflow-3.1.8": Release(("3.10", "3.13"), "2026-04-10"),
    "airflow-3.2.2": Release(("3.10", "3.14"), "2026-07-01"),
    # The pair that all tests run with, in the environment of this process.
    "airflow-3.3.2": None,
    "prefect-3.4.25": Release(
        ("3.10", "3.13"), None, ("fastapi==0.136.3", "importlib-metadata", "sqlalchemy<2.1")
    ),
    "prefect-3.7.7": None,
    "prefect-3.9.1": Release(("3.11", "3.14"), None, ("sqlalchemy<2.1",)),
}
#: What the trials and the installation need.
TOOLS = ("fpdf2", "psutil", "pytest", "setuptools>=77")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: The cloud collections ask for a later Prefect than this package does.
RESOLVED = (
    ("airflow,tables,dlt",),
    ("prefect,tables,dlt",),
    ("prefect", "prefect-aws>=0.5"),
    ("prefect", "prefect-gcp>=0.6"),
    ("prefect", "prefect-azure>=0.4"),
)


class Failed(Exception):
    """Something could not be done; the message is one sentence."""


def call(*command: str | Path, what: str) -> str:
    """Run a command and return what it has printed.

    Raises:
        Failed: It ended badly.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-2000:], file=sys.stderr)
        raise Failed(f"{what}: {Path(command[0]).name} ended with {done.returncode}, see above")
    return done.stdout


def find_uv() -> str | None:
    beside = Path(sys.executable).parent
    return shutil.which("uv", path=f"{beside}{os.pathsep}{os.environ['PATH']}")


def compiled(wanted: list[str], *options: str, what: str) -> str:
    """Return versions that fit this package and others.

    Args:
        wanted: The others.
        options: Of ``uv pip compile``.
        what: What they are for.

    Raises:
        Failed: There are none, or there is no uv.
    """
    uv = find_uv()
    if uv is None:
        raise Failed("uv is needed to choose packages: pip install uv")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wanted.in"
        source.write_text("\n".join(wanted), encoding="utf-8")
        command = (uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", *options)
        return call(*command, ROOT / "pyproject.toml", source, what=what)


def extras(names: str) -> tuple[str, ...]:
    return tuple(f"--extra={each}" for each in names.split(","))


def resolve() -> None:
    """Check that the requirements fit together on each Python.

    Raises:
        Failed: They don't.
    """
    for python in PYTHONS:
        for names, *others in RESOLVED:
            what = " ".join((f"[{names}]", *others, f"on Python {python}"))
            compiled(others, *extras(names), f"--python-version={python}", what=what)
            print(what, "resolves", flush=True)
        what = f"constraints.txt on Python {python}"
        options = (
            "--group=test",
            "--only-binary=:all:",
            f"--constraint={ROOT / 'constraints.txt'}",
        )
        everything = extras("airflow,prefect,sandbox,tables,dlt")
        compiled([], *everything, *options, f"--python-version={python}", what=what)
        print(what, "resolves", flush=True)


# --------------------------------------------------------------------------- environments


def pin(name: str, release: Release) -> None:
    """Choose the packages of an environment, for each Python, and write them down."""
    orchestrator, _, version = name.partition("-")
    base = "apache-airflow" if orchestrator == "airflow" else "prefect"
    wanted = [f"{base}=={version}", *release.more, *TOOLS]
    options = ["--universal", f"--python-version={release.pythons[0]}"]
    options += [f"--exclude-newer={release.until}"] if release.until else []
    chosen = compiled(wanted, *options, *extras(f"{orchestrator},sandbox"), what=name)
    PINS.mkdir(exist_ok=True)
    (PINS / f"{name}.txt").write_text(chosen, encoding="utf-8")


def build(name: str, release: Release | None) -> Path:
    """Make the environment, unless it is there; return its Python.

    Raises:
        Failed: It can't be made.
    """
    if release is None:
        return Path(sys.executable)
    lowest, highest = (tuple(map(int, each.split("."))) for each in release.pythons)
    if not lowest <= sys.version_info[:2] <= highest:
        raise Failed(f"{name} needs Python {' to '.join(release.pythons)}: set PYTHON")
    pins, folder = PINS / f"{name}.txt", ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    made_of = [pins.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), sys.version.encode()]
    state = hashlib.sha256(b"\0".join(made_of)).hexdigest()
    if not stamp.exists() or stamp.read_text() != state:
        what = f"{name} could not be installed (is the package index in reach?)"
        if (uv := find_uv()) is not None:
            call(uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder, what=what)
            # Else each of the many processes compiles all that it imports, each time.
            pip = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
        else:
            call(sys.executable, "-m", "venv", "--clear", folder, what=what)
            pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        call(*pip, "--no-deps", "--requirement", pins, what=what)
        call(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT, what=what)
        stamp.write_text(state)
    return python


# ----------------------------------------------------------------------------------- trials


def attempt(python: Path, name: str, *options: str) -> dict[str, str]:
    """Return the cells of a release; ``no`` where something failed."""
    from processes import kill_below

    script = HERE / f"{name.partition('-')[0]}_slim.py"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = subprocess.Popen(
            [python, script, folder, *options],
            env={"TEST_PATIENCE": "300", **os.environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            told, _ = trial.communicate()
        finally:
            # On Ctrl-C and SIGTERM too. What it has started are leaders of sessions of their own.
            trial.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                trial.wait(60)
            trial.kill()
            kill_below(Path(folder))
    try:
        cells: dict[str, str] = json.loads(told.splitlines()[-1])
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=", ".join(RELEASES))
    parser.add_argument("--short", action="store_true", help="leave out what takes long")
    parser.add_argument("--pin", action="store_true", help="choose packages anew, and end")
    parser.add_argument("--resolve", action="store_true", help="check each Python, and end")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.resolve:
        resolve()
        return 0
    names = options.releases or list(RELEASES)
    if unknown := [name for name in names if name not in RELEASES]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(RELEASES)}")
    failed = []
    for name in names:
        release = RELEASES[name]
        if options.pin:
            if release is not None:
                pin(name, release)
            continue
        cells = attempt(build(name, release), name, *(["--short"] if options.short else []))
        print(name, json.dumps(cells), flush=True)
        if "no" in cells.values():
            failed.append(name)
        elif not options.short and "SLIM_ONLY" not in os.environ:
            show(name, cells)
    if failed:
        print("failed:", *failed, file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(str(error))
