# SPDX-License-Identifier: Apache-2.0
"""What the trials of both orchestrators share: a table row, filled cell by cell."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from processes import Processes
from scenes import Case, Matrix

from vantage_orchestration.sandbox import SandboxServer

__all__ = ["check_all", "fill"]

Trials = Mapping[str, Callable[[], str | None]]


def fill(before: Trials, running: Trials, host: Processes, sandbox: SandboxServer) -> int:
    """Go through the trials and print one JSON line with what came of each.

    Args:
        before: What is tried before the orchestrator starts.
        running: What is tried while it runs.
        host: The orchestrator. It is ended in any case, also by Ctrl-C and SIGTERM.
        sandbox: A sandbox that runs.

    With ``SLIM_ONLY`` in the environment, only the trials that it names are done.

    Returns:
        The exit status: 1 if something failed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cells: dict[str, str] = {}
    only = os.environ.get("SLIM_ONLY", "").split()
    before, running = (
        {name: trial for name, trial in part.items() if not only or name in only}
        for part in (before, running)
    )
    try:
        for name, trial in before.items():
            cells[name] = _attempt(name, trial)
        host.start()
        for name, trial in running.items():
            cells[name] = _attempt(name, trial)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        host.stop()
        sandbox.stop()
    print(json.dumps(cells))
    return int("no" in cells.values())


def _attempt(name: str, trial: Callable[[], str | None]) -> str:
    try:
        return trial() or "yes"
    except Exception:
        print(f"{name}:", file=sys.stderr)
        traceback.print_exc(limit=-1)
        return "no"


def check_all(matrix: Matrix[Any], cases: Mapping[str, Case]) -> str:
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
