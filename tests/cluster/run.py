# SPDX-License-Identifier: Apache-2.0
"""Run the package on several hosts that share nothing, and break some of them.

Usage: ``python tests/cluster/run.py [airflow] [prefect] [short] [SCENARIO ...]``. Both are run
if none is named. ``short`` runs one scenario: a host that is killed while it sends files.
This program starts all it needs on this machine, listens on 127.0.0.1 alone, and ends what it has
started. What was seen goes into the table of ``docs/deployment.md``, row by row; what ``short`` saw
does not.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
PAGE = HERE.parents[1] / "docs" / "deployment.md"
ORCHESTRATORS = ("airflow", "prefect")


def main(words: list[str]) -> int:
    chosen = [each for each in ORCHESTRATORS if each in words] or list(ORCHESTRATORS)
    names = [each for each in words if each not in (*ORCHESTRATORS, "short")]
    passed, failed = 0, 0
    for orchestrator in chosen:
        good, bad = attempt(orchestrator, names, short="short" in words)
        passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0 or passed == 0)


def attempt(orchestrator: str, names: list[str], *, short: bool) -> tuple[int, int]:
    """Start the hosts of an orchestrator, and run scenarios on them one after the other.

    Returns:
        How many passed and how many failed.
    """
    module = importlib.import_module(f"{orchestrator}_scenarios")
    known: dict[str, Callable[[Any], str]] = {each.__name__: each for each in module.SCENARIOS}
    if short:
        known = {"short": functools.partial(module.host_killed, each=3)}
    if unknown := [each for each in names if each not in known]:
        raise SystemExit(f"{orchestrator} has no scenario {', '.join(unknown)}: {', '.join(known)}")
    results = []
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        cluster = module.CLUSTER(Path(folder))
        begin = time.monotonic()
        try:
            cluster.start()
            print(f"{orchestrator}: started in {time.monotonic() - begin:.0f} s", flush=True)
            for name in [each for each in known if each in names or not names]:
                seen = _one(f"{orchestrator} {name}", known[name], cluster)
                results.append(bool(seen))
                if seen and not short:
                    show(orchestrator, known[name], seen)
                if not seen:
                    revive(cluster)
        except Exception:
            traceback.print_exc()
            print(f"{orchestrator}: FAILED to start", flush=True)
            results.append(False)
        finally:
            cluster.stop()
    return results.count(True), results.count(False)


def _one(name: str, scenario: Callable[[Any], str], cluster: Any) -> str:
    """Run a scenario; return what was seen, or nothing if it failed."""
    begin = time.monotonic()
    try:
        seen = scenario(cluster)
    except Exception:
        traceback.print_exc()
        print(f"{name}: FAILED after {time.monotonic() - begin:.0f} s", flush=True)
        return ""
    print(f"{name}: {seen} ({time.monotonic() - begin:.0f} s)", flush=True)
    return seen


def revive(cluster: Any) -> None:
    """Start what a scenario has killed, and was not there to start again."""
    cluster.engine.go_on()
    for name in cluster.components:
        if not cluster.is_begun(name):
            cluster.begin(name)


def show(orchestrator: str, scenario: Callable[[Any], str], seen: str) -> None:
    """Write a row into the page, in the place of the one that was there."""
    begin, end = "<!-- cluster -->\n", "<!-- /cluster -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    table, _, after = rest.partition(end)
    done = f"| {orchestrator.capitalize()} | {str(scenario.__doc__).strip()} |"
    rows = {each for each in table.splitlines()[2:] if not each.startswith(done)}
    head = "| | what was done | what was seen |\n|---|---|---|\n"
    body = "\n".join(sorted({*rows, f"{done} {seen} |"}))
    PAGE.write_text(f"{before}{begin}{head}{body}\n{end}{after}", encoding="utf-8")


def _end(number: int, frame: FrameType | None) -> None:
    """End by the way that ends all processes, once."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _end)
    # What this program itself keeps of tokens belongs to nobody.
    os.environ.pop("XDG_RUNTIME_DIR", None)
    sys.exit(main(sys.argv[1:]))
