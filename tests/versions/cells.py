# SPDX-License-Identifier: Apache-2.0
"""What the trials of both orchestrators share: a table row, filled cell by cell."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pdfs import make_invoice
from processes import Processes
from scenes import Case, Matrix

from vantage_orchestration.sandbox import SandboxServer

__all__ = ["FILES", "Trial", "fill", "import_all"]

Trials = Mapping[str, Callable[[], str | None]]
#: Inputs of each run.
FILES = 2


def import_all(package: ModuleType) -> None:
    """Import all modules of a package."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


class Trial:
    """Inputs, a sandbox and a running orchestrator.

    Args:
        folder: Empty folder for everything.
        script: Module of the trial.
    """

    #: The orchestrator; set by the subclass.
    host: Processes

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        self._script = script
        for name in ("in", "home"):
            (folder / name).mkdir()
        for number in range(FILES):
            make_invoice(folder / "in" / f"{number}.pdf", f"INV-{number}")
        self.sandbox = SandboxServer(processing_polls=1).start()
        self.control = self.sandbox.control

    def call(self, name: str, environment: Mapping[str, str]) -> None:
        """Call a function of the script in a process of its own."""
        done = subprocess.run(
            [sys.executable, self._script, name],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-6000:]

    def started(self) -> int:
        """Return how many transactions have been started."""
        return sum(each["status"] != "New" for each in self.control.transactions())

    def disturb(self, scene: Callable[..., Any], cases: Mapping[str, Case], shared: Any) -> str:
        """Go through cases of the crash matrix, all at the same time.

        Args:
            scene: Makes the scene of a case.
            cases: Cases by name.
            shared: Given to the steps of each case.
        """
        with contextlib.ExitStack() as stack:
            scenes = {}
            for seed, (name, case) in enumerate(cases.items(), 100):
                scenes[name] = scene(self.host, case, self.folder / "crashes" / name, seed)
                stack.callback(scenes[name].stop)
                scenes[name].begin()
            matrix: Matrix[Any] = Matrix(scenes, cases, shared)
            stack.callback(matrix.close)
            return _check_all(matrix, cases)


def fill(trial: Trial, before: Trials, running: Trials) -> int:
    """Go through the trials and print one JSON line with what came of each.

    Args:
        trial: Its orchestrator is ended in any case, also by Ctrl-C and SIGTERM.
        before: What is tried before the orchestrator starts.
        running: What is tried while it runs.

    With ``SLIM_ONLY`` in the environment, only the trials that it names are done.

    Returns:
        The exit status: 1 if something failed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cells: dict[str, str] = {}
    only = os.environ.get("SLIM_ONLY", "").split()
    before, running = (
        {name: each for name, each in part.items() if not only or name in only}
        for part in (before, running)
    )
    try:
        for name, each in before.items():
            cells[name] = _attempt(name, each)
        trial.host.start()
        for name, each in running.items():
            cells[name] = _attempt(name, each)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        trial.host.stop()
        trial.sandbox.stop()
    print(json.dumps(cells))
    return int("no" in cells.values())


def _attempt(name: str, action: Callable[[], str | None]) -> str:
    try:
        return action() or "yes"
    except Exception:
        print(f"{name}:", file=sys.stderr)
        traceback.print_exc(limit=-1)
        return "no"


def _check_all(matrix: Matrix[Any], cases: Mapping[str, Case]) -> str:
    """Check all cases of a crash matrix, whatever came of the others.

    Returns:
        How many cases there were.

    Raises:
        AssertionError: A case failed; it names all that did.
    """
    failed = {}
    for name, case in cases.items():
        try:
            scene = matrix.done(name)
            scene.check_charges(case.starts)
            scene.check_results()
        except Exception:
            failed[name] = traceback.format_exc(limit=-1)
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
    return f"{len(cases)} of {len(cases)}"
