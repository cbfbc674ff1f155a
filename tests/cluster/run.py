# SPDX-License-Identifier: Apache-2.0
"""Run the package on several hosts that share nothing, and break some of them.

Usage: ``python tests/cluster/run.py [airflow] [prefect] [short] [SCENARIO ...]``. Both are run
if none is named. ``short`` runs one scenario: a host that is killed while it sends files.
This program starts all it needs on this machine, listens on 127.0.0.1 alone, and ends what it has
started.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
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
    known = {"short": module.short} if short else module.SCENARIOS
    if unknown := [each for each in names if each not in known]:
        raise SystemExit(f"{orchestrator} has no scenario {', '.join(unknown)}: {', '.join(known)}")
    results = []
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        cluster = module.make(Path(folder))
        begin = time.monotonic()
        try:
            cluster.start()
            print(f"{orchestrator}: started in {time.monotonic() - begin:.0f} s", flush=True)
            for name in names or known:
                results.append(
                    _one(f"{orchestrator} {name}", lambda name=name: known[name](cluster))
                )
        except Exception:
            traceback.print_exc()
            print(f"{orchestrator}: FAILED to start", flush=True)
            results.append(False)
        finally:
            cluster.stop()
    return results.count(True), results.count(False)


def _one(name: str, scenario) -> bool:
    begin = time.monotonic()
    try:
        seen = scenario()
    except Exception:
        traceback.print_exc()
        print(f"{name}: FAILED after {time.monotonic() - begin:.0f} s", flush=True)
        return False
    print(f"{name}: {seen} ({time.monotonic() - begin:.0f} s)", flush=True)
    return True


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
