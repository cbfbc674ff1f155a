# SPDX-License-Identifier: Apache-2.0
"""One case of the crash matrix: a run of a Dag on a sandbox of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scenes
from processes import kill
from test_airflow.live.running import Run, Running


@dataclass(frozen=True)
class Case(scenes.Case):
    """A case, and the Dag that is run.

    Attributes:
        dag_id: Dag.
    """

    dag_id: str = "crash"


class Scene(scenes.Scene):
    """A run of a Dag and its sandbox.

    Args:
        airflow: Airflow.
        case: What is done; run and connection have its name.
        folder: Empty folder for inputs and output.
        seed: Of the sandbox.
    """

    def __init__(self, airflow: Running, case: Case, folder: Path, seed: int) -> None:
        super().__init__(case, folder, seed)
        self.airflow = airflow
        self.dag_id = case.dag_id
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def log(self) -> str:
        return self.run.log()

    def check(self) -> None:
        if self.run.task(0.0).get("state") == "failed":
            raise AssertionError(f"{self.name}: the task has failed\n{self.log()}")

    # ---------------------------------------------------------------- steps

    def trigger(self) -> None:
        """Start the run."""
        # What is caught must not be given up before the test has killed somebody.
        self.airflow.connect(self.name, self.sandbox, read_timeout=600)
        conf = {
            "inputs": str(self.inputs / "*.pdf"),
            "output": str(self.output),
            "skill": self.control.skill_id("Invoice"),
            "conn_id": self.name,
        }
        self._run = self.airflow.trigger(self.dag_id, self.name, conf)

    def kill(self, *, whole: bool) -> None:
        """Kill the worker with -9, and let the next try's requests pass.

        What Airflow has kept of the task's state is gone, too.

        Args:
            whole: Kill the executor's process as well, which would tell of the task's end. The
                scheduler then learns of it by the missing signs of life.
        """
        runner, supervisor = self.airflow.worker_of(self.run.when("running"))
        self.run.forget_state()
        kill(*([supervisor, runner] if whole else [runner]))
        self.control.clear_faults()

    def deferred(self, try_number: int = 0) -> None:
        """Wait until the task is deferred, and its trigger has asked about the transactions."""
        self.run.when("deferred", try_number=try_number)
        self.asked()

    def finish(self, try_number: int = 0) -> dict[str, Any]:
        """Let the service finish its work, and wait until the run has ended."""
        self.release()
        return self.end(try_number)

    def end(self, try_number: int = 0) -> dict[str, Any]:
        """Wait until the task has ended well, and its run with it."""
        task = self.run.when("success", "failed", try_number=try_number)
        assert task["state"] == "success", f"{self.name}\n{self.run.log()}"
        self.until(lambda: self.run.state == "success", "the run to end")
        return task
