# SPDX-License-Identifier: Apache-2.0
"""Try the package in one release of Prefect, against the sandbox.

Run it with the Python of an environment that has the release, and an empty folder. It prints one
JSON line with a cell for each thing that was tried, and exits with 1 if one of them failed.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from versions.cells import FILES, Trial, fill, import_all

PROCESS = "vantage_orchestration.prefect.flows.process_documents"
#: Cases of the crash matrix; in each, the service's lists lag.
CRASHES = (
    "before_create",
    "after_create",
    "after_upload",
    "after_start",
    "while_waiting",
    "during_download",
    "cancelled",
)


def install() -> None:
    """Import all modules."""
    import vantage_orchestration.prefect

    import_all(vantage_orchestration.prefect)


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


class PrefectTrial(Trial):
    """A Prefect that runs, and a sandbox."""

    def __init__(self, folder: Path) -> None:
        from test_prefect.live.running import Running

        super().__init__(folder, __file__)
        self.host = self.prefect = Running(folder / "home")

    def inside(self, name: str) -> None:
        """Call a function of this module in a process of its own."""
        from test_prefect.live.running import STAYS

        more = {"PREFECT_LOGGING_LEVEL": "INFO", "SLIM_FILE": str(self.folder / "in" / "0.pdf")}
        self.call(name, {**self.prefect.components[STAYS].environment, **more})

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
        self.prefect.connect("slim", self.sandbox)
        self.inside("token")

    def documents(self) -> None:
        """Run the flow in a worker."""
        before = self.started()
        self._run("documents").completed()
        assert self.started() == before + FILES

    def crashes(self) -> str:
        """Disturb runs as the crash matrix does, all at the same time."""
        from test_prefect.live import test_crash_matrix as full
        from test_prefect.live.scene import Machine, Scene

        from vantage_orchestration.prefect.lowest import PREFECT

        cases = {
            name: dataclasses.replace(
                full.CASES[name],
                # A transaction that was only made, and is free, is found by the lists alone.
                settings=full.CASES[name].settings if name == "after_create" else full.LAG,
            )
            for name in CRASHES
            # Prefect 3.4 retries no run that was cancelled.
            if name != "cancelled" or PREFECT >= (3, 7)
        }
        lost = sum(case.machine == full.LOST for case in cases.values())
        return self.disturb(Scene, cases, Machine(self.prefect, lost))


def main(folder: Path, *, short: bool) -> int:
    trial = PrefectTrial(folder)
    running = {
        "install": lambda: trial.inside("install"),
        "block, token": trial.block,
        "documents": trial.documents,
        "job block": lambda: trial.inside("job"),
        "crashes": trial.crashes,
    }
    return fill(trial, {}, running)


if __name__ == "__main__":
    if (FUNCTION := sys.argv[1]) in globals():
        globals()[FUNCTION]()
    else:
        sys.exit(main(Path(FUNCTION), short="--short" in sys.argv))
