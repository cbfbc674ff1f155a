# SPDX-License-Identifier: Apache-2.0
"""Try the package in one release of Prefect, against the sandbox.

Run it with the Python of an environment that has the release. It prints one JSON line with a cell
for each thing that was tried, and exits with 1 if one of them failed.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
PROCESS = "vantage_orchestration.prefect.flows.process_documents"
FILES = 2


def install() -> None:
    """Import all modules."""
    import vantage_orchestration.prefect as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def token() -> None:
    """Load the block and log in."""
    from vantage_orchestration.prefect import VantageCredentials

    assert VantageCredentials.load("slim").get_token().reveal()


def job() -> None:
    """Process a document with the job block, inside of a flow."""
    from prefect import flow

    from vantage_orchestration.prefect import VantageCredentials, VantageSkill

    @flow
    def one() -> int:
        credentials = VantageCredentials.load("slim")
        skill = VantageSkill(
            credentials=credentials, skill="Invoice", poke_interval=1.0, max_poke_interval=1.0
        )
        transaction = skill.trigger(os.environ["SLIM_FILE"])
        transaction.wait_for_completion()
        return len(transaction.fetch_result())

    assert one() > 0


class Trial:
    """A Prefect that runs, and a sandbox."""

    def __init__(self, folder: Path) -> None:
        from pdfs import make_invoice
        from test_prefect.live.running import Running

        from vantage_orchestration.sandbox import SandboxServer

        self.folder = folder
        for name in ("in", "home"):
            (folder / name).mkdir()
        for number in range(FILES):
            make_invoice(folder / "in" / f"{number}.pdf", f"INV-{number}")
        self.sandbox = SandboxServer(processing_polls=1).start()
        self.control = self.sandbox.control
        self.prefect = Running(folder / "home")

    def inside(self, name: str) -> None:
        """Call a function of this module in a process of its own."""
        from test_prefect.live.running import STAYS

        done = subprocess.run(
            [sys.executable, __file__, name],
            env={
                **self.prefect.components[STAYS].environment,
                "PREFECT_LOGGING_LEVEL": "INFO",
                "SLIM_FILE": str(self.folder / "in" / "0.pdf"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-4000:]

    def started(self) -> int:
        return sum(each["status"] != "New" for each in self.control.transactions())

    def _run(self, name: str) -> object:
        from test_prefect.live.running import POOLS, STAYS

        deployment = self.prefect.deploy(name, PROCESS, POOLS[STAYS])
        parameters = {
            "inputs": str(self.folder / "in" / "*.pdf"),
            "output_path": str(self.folder / name),
            "skill": "Invoice",
            "credentials": "slim",
        }
        [run] = self.prefect.run(deployment, name, parameters)
        return run

    def block(self) -> None:
        """Save the block, then log in with it."""
        self.prefect.save_block("slim", self.sandbox)
        self.inside("token")

    def documents(self) -> None:
        """Run the flow in a worker."""
        before = self.started()
        self._run("documents").when("Completed")
        assert self.started() == before + FILES

    def retry(self) -> None:
        """Kill a run whose transactions have started, with lists that lag, and retry it."""
        from processes import kill, wait_until

        before = self.started()
        self.control.set(processing_seconds=3600.0, list_lag=600.0)
        run = self._run("retry")
        wait_until(lambda: self.started() == before + FILES, run.log)
        kill(self.prefect.process_of(run.id))
        run.when("Crashed")
        self.control.set(processing_seconds=0.0)
        self.prefect.retry(run)
        run.when("Completed")
        assert self.started() == before + FILES, "a retry has paid twice"


def main() -> int:
    cells: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = Trial(Path(folder))
        trials: dict[str, Callable[[], None]] = {
            "install": lambda: trial.inside("install"),
            "block, token": trial.block,
            "documents": trial.documents,
            "job block": lambda: trial.inside("job"),
            "retry": trial.retry,
        }
        try:
            trial.prefect.start()
            for name, attempt in trials.items():
                try:
                    attempt()
                    cells[name] = "yes"
                except Exception:
                    traceback.print_exc(limit=-1)
                    cells[name] = "no"
        finally:
            trial.prefect.stop()
            trial.sandbox.stop()
    print(json.dumps(cells))
    return int("no" in cells.values())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    globals()[sys.argv[1]]()
