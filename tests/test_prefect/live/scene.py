# SPDX-License-Identifier: Apache-2.0
"""One case of the crash matrix: a flow run on a sandbox of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scenes
from processes import kill
from test_prefect.live.running import BAD, LOST, NEXT, POOLS, STAYS, Run, Running

FLOWS = Path(__file__).parent / "flows"
#: The flow that users deploy.
PROCESS = "vantage_orchestration.prefect.flows.process_documents"


@dataclass(frozen=True)
class Case(scenes.Case):
    """A case, and the flow that is run.

    Attributes:
        flow: Entrypoint of the flow; a file of ``flows``, or a module.
        machine: Worker that executes it.
        options: Further arguments of the flow.
        block: Fields of the credentials block, besides those of the account.
    """

    flow: str = PROCESS
    machine: str = STAYS
    options: tuple[tuple[str, Any], ...] = ()
    block: tuple[tuple[str, Any], ...] = ()


class Scene(scenes.Scene):
    """A flow run and its sandbox.

    Args:
        prefect: Prefect.
        case: What is done; run, deployment and block have its name.
        folder: Empty folder for inputs and output.
        seed: Of the sandbox.
    """

    def __init__(self, prefect: Running, case: Case, folder: Path, seed: int) -> None:
        super().__init__(case, folder, seed)
        self.prefect = prefect
        self.case = case
        self.block = case.name.replace("_", "-")
        self.trail: list[Run] = []

    @property
    def run(self) -> Run:
        """The run; the first of them if there are several."""
        return self.trail[0]

    def log(self) -> str:
        return "\n".join(run.log() for run in self.trail)

    def check(self) -> None:
        for run in self.trail:
            if (state := run.state) in BAD:
                raise AssertionError(f"{self.name}: the run is {state}\n{self.log()}")

    # ---------------------------------------------------------------- steps

    def trigger(self, *, one_each: bool = False) -> None:
        """Start the run.

        Args:
            one_each: Start one for each input.
        """
        # What is caught must not be given up before the test has killed somebody.
        options = {"read_timeout": 600, **dict(self.case.block)}
        self.prefect.connect(self.block, self.sandbox, **options)
        flow = self.case.flow
        entrypoint = f"{FLOWS}/{flow}" if ":" in flow else flow
        deployment = self.prefect.deploy(self.name, entrypoint, POOLS[self.case.machine])
        patterns = [path.name for path in sorted(self.inputs.iterdir())] if one_each else ["*.pdf"]
        folder = "output_path" if flow == PROCESS else "output"
        sets = [
            {
                "inputs": str(self.inputs / pattern),
                folder: str(self.output / Path(pattern).stem if one_each else self.output),
                "skill": self.control.skill_id("Invoice"),
                "credentials": self.block,
                **dict(self.case.options),
            }
            for pattern in patterns
        ]
        self.trail = self.prefect.run(deployment, self.name, *sets)

    def kill(self) -> None:
        """Kill the process of the run with -9. Its worker notices, and reports it to Prefect."""
        kill(self.prefect.process_of(self.run.id))
        self.control.clear_faults()
        self.run.when("Crashed")

    def retry(self) -> None:
        """Let the run that ended run once more."""
        self.prefect.retry(self.run)

    def finish(self) -> None:
        """Let the service finish its work, and wait until the run has ended well."""
        self.release()
        self.end()

    def end(self) -> None:
        """Wait until the run has ended well."""
        for run in self.trail:
            run.completed()

    # -------------------------------------------------------------- outcome

    def logins(self) -> int:
        """Return how often somebody has logged in."""
        return self.control.count("POST", "connect/token")

    def check_rows(self) -> None:
        """Compare what came back of single documents with what was sent."""
        rows = [
            row
            for path in sorted(self.output.rglob("rows.json"))
            for row in json.loads(path.read_text())
        ]
        digests = self.digests()
        assert [(Path(row["file"]).name, row["sha256"]) for row in rows] == list(digests.items())
        ids = {each["files"][0]["name"]: each["id"] for each in self.control.transactions()}
        for row in rows:
            name = Path(row["file"]).name
            assert row["transaction_id"] == ids[name]
            assert digests[name] in json.dumps(row["fields"]["Source SHA-256"])
            assert row["fields"]["Invoice Number"] == f"INV-{Path(name).stem}"


class Machine:
    """The machine that is lost while several runs are in work on it.

    Args:
        prefect: Prefect.
        runs: How many runs have to get to their point before.
    """

    def __init__(self, prefect: Running, runs: int) -> None:
        self._prefect = prefect
        self._barrier = threading.Barrier(runs, self._change)

    @contextlib.contextmanager
    def losing(self, scene: Scene) -> Iterator[None]:
        """Bring a run to its point within; then the machine is gone, and another one there.

        Nobody notices by himself what became of the run. Somebody marks it as crashed, as an
        automation does when a run gives no sign of life.
        """
        try:
            yield
        except BaseException:
            self._barrier.abort()  # The others must not wait for this one.
            raise
        self._barrier.wait(300)
        scene.control.clear_faults()
        scene.run.when("Running")
        scene.run.set_state("CRASHED", "Crashed")

    def _change(self) -> None:
        self._prefect.kill(LOST)
        self._prefect.begin(NEXT)
