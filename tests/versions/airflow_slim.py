# SPDX-License-Identifier: Apache-2.0
"""Try the package in one release of Airflow, against the sandbox.

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
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
DAGS = HERE / "airflow_dags"
FILES = 2


# ------------------------------------------------------- inside of an Airflow that does not run


def install() -> None:
    """Import all modules, and let Airflow find the connection type."""
    import vantage_orchestration.airflow as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    from airflow.providers_manager import ProvidersManager

    assert ProvidersManager().hooks["abbyy_vantage"] is not None


def form() -> None:
    """Ask for the fields of the connection form as the page does."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (kind,) = (
        each for each in HookMetaService.hook_meta_data() if each.connection_type == "abbyy_vantage"
    )
    fields = kind.extra_fields or {}
    assert len(fields) >= 17, sorted(fields)
    assert fields["client_secret"]["schema"]["format"] == "password"


def token() -> None:
    """Log in, as the button *Test* does."""
    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    hook = VantageHook("slim")
    good, message = hook.test_connection()
    assert good, message
    assert hook.get_token().reveal()


def dag_test() -> None:
    """Run the Dags in this process, as an author does."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Before 3.2.
        from airflow.models.dagbag import DagBag

    from vantage_orchestration.airflow.compat import AIRFLOW

    dags = DagBag(str(DAGS), include_examples=False).dags
    # In 3.0 a deferred task finds no supervisor when it goes on in "dag.test()".
    for name in ("documents", "steps", *(("deferred",) if AIRFLOW >= (3, 1) else ())):
        run = dags[name].test()
        assert run.state == "success", (name, run.state)


def pages() -> None:
    """Load the application of the pages in the API server."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    from vantage_orchestration.airflow.links import URL_PREFIX

    with TestClient(create_app(), base_url="http://testserver") as client:
        token = client.get("/auth/token").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        (run_id,) = os.environ["SLIM_RUNS"].split()
        path = f"{URL_PREFIX}/dags/deferred/runs/{run_id}/tasks/process/-1"
        reply = client.get(path)
        assert reply.status_code == 200, (reply.status_code, reply.text[:500])
        assert os.environ["SLIM_TRANSACTION"] in reply.text
        del client.headers["Authorization"]
        client.cookies.clear()
        assert client.get(path).status_code in (401, 403)


# ------------------------------------------------------------------------ with one that runs


class Trial:
    """An Airflow that runs, and a sandbox."""

    def __init__(self, folder: Path) -> None:
        from pdfs import make_invoice
        from test_airflow.installation import columns_of
        from test_airflow.live.running import Running

        from vantage_orchestration.sandbox import SandboxServer

        self.folder = folder
        (folder / "in").mkdir()
        (folder / "home").mkdir()
        for number in range(FILES):
            make_invoice(folder / "in" / f"{number}.pdf", f"INV-{number}")
        self.sandbox = SandboxServer(processing_polls=1).start()
        self.control = self.sandbox.control
        columns = columns_of(self.sandbox)
        connection = json.dumps({**columns, "extra": json.loads(columns["extra"])})
        self.airflow = Running(
            folder / "home",
            DAGS,
            environment={
                "SLIM_FOLDER": str(folder),
                "AIRFLOW_CONN_SLIM": connection,
                # Airflow 3.0 stores the trigger of an asset when it reads the file once more.
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            },
        )

    def inside(self, name: str, **environment: str) -> None:
        """Call a function of this module in a process of its own."""
        done = subprocess.run(
            [sys.executable, __file__, name],
            env={
                **self.airflow.environment,
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-6000:]

    def run(self, dag_id: str, run_id: str = "one") -> Any:
        return self.airflow.trigger(dag_id, run_id, {})

    def started(self) -> int:
        return sum(each["status"] != "New" for each in self.control.transactions())

    def deferred(self) -> None:
        """Process documents by the triggerer."""
        before = self.started()
        self.run("deferred").when("success")
        assert self.started() == before + FILES

    def retry(self) -> None:
        """Kill a worker whose transactions have started, with lists that lag, then *Clear*."""
        from processes import wait_until

        before = self.started()
        self.control.set(processing_seconds=3600.0, list_lag=600.0)
        run = self.run("documents", "killed")
        wait_until(lambda: self.started() == before + FILES, run.log)
        runner, supervisor = self.airflow.worker_of(run.when("running"))
        supervisor.kill()
        runner.kill()
        self._forget()
        run.when("running", "up_for_retry", try_number=2)
        self.control.set(processing_seconds=0.0)
        run.when("success", try_number=2)
        assert self.started() == before + FILES, "a retry has paid twice"
        self._forget()
        self.airflow.api(
            "POST",
            "dags/documents/clearTaskInstances",
            dag_run_id="killed",
            task_ids=["process"],
            dry_run=False,
            only_failed=False,
            reset_dag_runs=True,
        )
        run.when("success", try_number=3)
        assert self.started() == before + FILES, "a cleared task has paid twice"
        self.control.set(list_lag=0.0)

    def _forget(self) -> None:
        """Empty Airflow's state store, where there is one."""
        import sqlite3

        with sqlite3.connect(self.airflow.database, timeout=60) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if "task_state_store" in tables:
                connection.execute("DELETE FROM task_state_store")

    def submit(self) -> str:
        """Submit without a place for notes: refused where Airflow has none."""
        from vantage_orchestration.airflow.compat import AIRFLOW

        before, run = self.started(), self.run("unplaced")
        if AIRFLOW >= (3, 3):
            run.when("success")
            assert self.started() == before + FILES
            return "state store"
        run.when("failed")
        assert "has no place where a later try finds" in run.log()
        assert self.started() == before
        return "needs a `state_path`"

    def watcher(self) -> None:
        """Let mail come in, and see it fetched."""
        from processes import wait_until

        transactions = set(self.control.receive_many(3, "Receipt"))
        wait_until(
            lambda: transactions <= {path.name for path in (self.folder / "mail").glob("*")},
            self.airflow.told,
        )

    def pages(self) -> None:
        """Look at the page of a task's transactions."""
        (first, *_) = self.airflow.api(
            "GET", "dags/deferred/dagRuns/one/taskInstances/process/xcomEntries/abbyy_vantage"
        )["value"]["transaction_ids"]
        self.inside("pages", SLIM_RUNS="one", SLIM_TRANSACTION=first)


def main() -> int:
    cells: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        trials: dict[str, Callable[[], str | None]] = {
            "install": lambda: trial.inside("install"),
            "form": lambda: trial.inside("form"),
            "token": lambda: trial.inside("token"),
            "documents": lambda: trial.inside("dag_test"),
            "deferred": trial.deferred,
            "retry": trial.retry,
            "submit": trial.submit,
            "watcher": trial.watcher,
            "pages": trial.pages,
        }
        try:
            trial.airflow.start()
            for name, attempt in trials.items():
                try:
                    cells[name] = attempt() or "yes"
                except Exception:
                    traceback.print_exc(limit=-1)
                    cells[name] = "no"
        finally:
            trial.airflow.stop()
            trial.sandbox.stop()
    print(json.dumps(cells))
    return int("no" in cells.values())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    globals()[sys.argv[1]]()
