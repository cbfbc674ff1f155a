# SPDX-License-Identifier: Apache-2.0
"""Tasks are killed when they have started something, and Airflow forgets what it has kept of them.

The service's lists lag behind by ten minutes. Only notes of our own can tell the next try what was
started: after a retry, and after *Clear*.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pdfs import make_invoice
from test_airflow.installation import Airflow

from vantage_orchestration.sandbox import SandboxServer

pytestmark = pytest.mark.slow


class Case:
    """Files named by tasks, a sandbox whose lists lag, and a run."""

    def __init__(
        self, airflow: Airflow, sandbox: SandboxServer, conn: str, folder: Path, dag_id: str
    ) -> None:
        self.airflow, self.sandbox, self.folder = airflow, sandbox, folder
        self.run = {"dag_id": dag_id, "run_id": f"{dag_id}__1"}
        self.conf = {
            "folder": str(folder),
            "output": str(folder / "out"),
            "skill": sandbox.control.skill_id("Invoice"),
            "conn_id": conn,
        }
        self.environment = {"AIRFLOW__ABBYY_VANTAGE__STATE_PATH": ""}

    def call(self, function: str, **options: Any) -> dict[str, list[Any]]:
        """Call a function of ``inside``; return state and number of the try of each task."""
        told = self.airflow(function, self.environment, **self.run, **options)
        return told["tasks"] if told else {}

    def starts(self) -> Counter[str]:
        """Return how often each file was started, and so charged."""
        counts: Counter[str] = Counter()
        for each in self.sandbox.control.transactions():
            for file in each["files"]:
                counts[file["name"]] += each["started"]
        return counts

    def forget(self) -> int:
        """Empty Airflow's task state store; return how much was in it."""
        with closing(sqlite3.connect(self.airflow.database, timeout=60)) as database, database:
            return database.execute("DELETE FROM task_state_store").rowcount

    @contextmanager
    def killing(self, tasks: int) -> Iterator[None]:
        """Kill each task with -9 when the service has started its transaction."""
        control = self.sandbox.control
        control.add_fault(operation="startTransaction", when="after", delay=3600, times=tasks)
        stopped = threading.Event()
        killed: set[int] = set()

        def kill() -> None:
            while len(killed) < tasks and not stopped.wait(0.05):
                if sum(self.starts().values()) <= len(killed):
                    continue
                path = f"file:{self.airflow.database}?mode=ro"
                with closing(sqlite3.connect(path, uri=True)) as database:
                    rows = database.execute(
                        "SELECT pid FROM task_instance WHERE state = 'running' AND dag_id = ?",
                        (self.run["dag_id"],),
                    ).fetchall()
                for pid in {pid for (pid,) in rows} - killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            control.clear_faults()
        assert len(killed) == tasks


@pytest.fixture
def make(
    airflow: Airflow,
    connect: Callable[..., str],
    sandbox_factory: Callable[..., SandboxServer],
    tmp_path: Path,
) -> Callable[[str], Case]:
    def make_case(dag_id: str, *files: str) -> Case:
        for name in files:
            make_invoice(tmp_path / f"{name}.pdf", f"INV-{name}")
        sandbox = sandbox_factory(processing_polls=0, list_lag=600.0)
        return Case(airflow, sandbox, connect(sandbox), tmp_path, dag_id)

    return make_case


def test_killed_after_the_start_and_nothing_is_paid_for_twice(make: Callable[..., Case]) -> None:
    files = ("process", "submit-1", "submit-2", "own")
    case = make("killed", *files)
    case.environment = {"AIRFLOW__ABBYY_VANTAGE__STATE_PATH": str(case.folder / "state")}
    once = Counter({f"{name}.pdf": 1 for name in files})
    with case.killing(len(files)):
        tasks = case.call("run", conf=case.conf)
    assert {state for state, _ in tasks.values()} == {"up_for_retry"}
    assert case.starts() == once
    assert case.forget() >= len(files), "the state store is the second line"
    tasks = case.call("work", retries=True)
    assert tasks == {
        "process[-1]": ["success", 2],
        "submit[0]": ["success", 2],
        "submit[1]": ["success", 2],
        "own[-1]": ["success", 2],
    }
    assert case.starts() == once
    # Clear, with results that are gone as well.
    case.call("clear")
    case.forget()
    (case.folder / "out" / "process" / "manifest.json").unlink()
    assert {state for state, _ in case.call("work").values()} == {"success"}
    assert case.starts() == once
    assert len(case.sandbox.control.transactions()) == len(files)


def test_the_state_store_is_enough_where_no_folder_is_named(make: Callable[..., Case]) -> None:
    files = ("process", "submit-1", "submit-2", "own")
    case = make("killed", *files)
    case.run["run_id"] = "killed__2"
    with case.killing(len(files)):
        case.call("run", conf=case.conf)
    assert {state for state, _ in case.call("work", retries=True).values()} == {"success"}
    assert set(case.starts().values()) == {1}


def test_without_any_place_for_notes_nothing_is_sent(make: Callable[..., Case]) -> None:
    names = ("submit", "submit_to", "submit_once", "process", "own", "own_to")
    case = make("without_state", *names)
    tasks = case.call("run", conf=case.conf)
    assert {name.partition("[")[0]: state for name, (state, _) in tasks.items()} == {
        "submit": "failed",
        "own": "failed",
        "submit_to": "success",
        "submit_once": "success",
        "process": "success",
        "own_to": "success",
    }
    assert set(case.starts()) == {f"{name}.pdf" for name in names} - {"submit.pdf", "own.pdf"}
    log = case.airflow.log_text(**case.run)
    assert log.count("AIRFLOW__ABBYY_VANTAGE__STATE_PATH") == 2
    case.call("clear")
    case.call("work")
    # A task with notes resumes; one without them pays again.
    counts = {name: 1 for name in names if name not in ("submit", "own")}
    assert case.starts() == Counter(
        {f"{name}.pdf": number for name, number in {**counts, "submit_once": 2}.items()}
    )
