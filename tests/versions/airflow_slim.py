# SPDX-License-Identifier: Apache-2.0
"""Try the package in one release of Airflow, against the sandbox.

Run it with the Python of an environment that has the release, and an empty folder. It prints one
JSON line with a cell for each thing that was tried, and exits with 1 if one of them failed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from versions.cells import FILES, Trial, fill, import_all

DAGS = Path(__file__).resolve().parent / "airflow_dags"
KILLED = {"delete_on_kill": True, "deferrable": True}
#: Cases of the crash matrix; in each, the service's lists lag and the state store is emptied.
CRASHES = (
    "before_create",
    "after_create",
    "after_upload",
    "after_start",
    "triggerer_killed",
    "cleared_while_deferred",
    "waiting_in_the_worker",
    "during_download",
    "cleared_at_the_end",
)


# ------------------------------------------------------- inside of an Airflow that does not run


def install() -> None:
    """Import all modules, and let Airflow find the connection type."""
    from airflow.providers_manager import ProvidersManager

    import vantage_orchestration.airflow

    import_all(vantage_orchestration.airflow)
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
    """Log in, as the button *Test* does, and look at the token from outside."""
    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    hook = VantageHook("slim")
    good, message = hook.test_connection()
    assert good, message
    assert hook.get_token().reveal()
    command = [Path(sys.executable).parent / "vantage-orchestration", "token", "status"]
    subprocess.run([*command, "--of", "airflow:slim"], check=True)


def threads() -> None:
    """Let many threads ask the supervisor at the same time, as those of a client do."""
    import msgspec
    from airflow.sdk.execution_time import comms

    from vantage_orchestration.airflow.supervisor import let_threads_ask

    ours, theirs = socket.socketpair()

    def supervise() -> None:
        received = theirs.makefile("rb")
        while size := received.read(4):
            request = msgspec.msgpack.decode(received.read(int.from_bytes(size, "big")))
            body = {"type": "VariableResult", "key": request[1]["key"], "value": "x" * 5000}
            frame = msgspec.msgpack.encode([request[0], body, None])
            for part in (len(frame).to_bytes(4, "big"), frame[:100], frame[100:]):
                theirs.sendall(part)
                time.sleep(0.0005)

    def ask(number: int) -> bool:
        key = f"key-{number}"
        return bool(decoder.send(msg=comms.GetVariable(key=key)).key == key)

    let_threads_ask()
    threading.Thread(target=supervise, daemon=True).start()
    decoder = comms.CommsDecoder(socket=ours)
    pool = ThreadPoolExecutor(8)
    futures = [pool.submit(ask, number) for number in range(200)]
    if not all(future.result(60) for future in futures):
        raise AssertionError("a thread has got another one's reply")


def refusals() -> list[str]:
    """Make what only later releases can do; return what it was refused with."""
    from vantage_orchestration.airflow import (
        VantageProcessDocumentsOperator,
        VantageSubmitOperator,
        VantageTransactionsSensor,
    )

    sending = {"task_id": "a", "inputs": "/in/*.pdf", "skill": "Invoice"}
    sensing = {"task_id": "a", "transaction_ids": ["00000000-0000-4000-8000-000000000001"]}
    wants: list[tuple[Any, dict[str, Any]]] = [
        (VantageSubmitOperator, sending),
        (VantageProcessDocumentsOperator, {**sending, "output_path": "/out", **KILLED}),
        (VantageTransactionsSensor, {**sensing, **KILLED}),
        (
            VantageTransactionsSensor,
            {**sensing, "mode": "reschedule", "deferrable": False, "review_notifiers": [print]},
        ),
    ]
    told = []
    for kind, arguments in wants:
        try:
            kind(**arguments)
        except ValueError as error:
            told.append(str(error))
    return told


def refused() -> None:
    """Check that they are refused below 3.3, while a Dag is parsed, and made from there on."""
    from vantage_orchestration.airflow.compat import AIRFLOW

    told = refusals()
    assert len(told) == (0 if AIRFLOW >= (3, 3) else 4), told
    assert all("needs Airflow 3.3 or later; this is 3." in each for each in told), told


def dag_test() -> None:
    """Run the Dags in this process, as an author does."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Before 3.2.
        from airflow.models.dagbag import DagBag

    dags = DagBag(str(DAGS)).dags
    for name in ("documents", "steps", "deferred"):
        run = dags[name].test()
        assert run.state == "success", (name, run.state)


def pages() -> None:
    """Load the application of the pages in the API server."""
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    from vantage_orchestration.airflow.links import URL_PREFIX

    with TestClient(create_app(), base_url="http://testserver") as client:
        user = SimpleAuthManagerUser(username="slim", role="ADMIN")
        client.headers["Authorization"] = f"Bearer {get_auth_manager().generate_jwt(user)}"
        (run_id,) = os.environ["SLIM_RUNS"].split()
        path = f"{URL_PREFIX}/dags/deferred/runs/{run_id}/tasks/process/-1"
        reply = client.get(path)
        assert reply.status_code == 200, (reply.status_code, reply.text[:500])
        assert os.environ["SLIM_TRANSACTION"] in reply.text
        assert "Processed" in reply.text
        del client.headers["Authorization"]
        client.cookies.clear()
        reply = client.get(path)
        assert reply.status_code in (401, 403), reply.status_code


# ------------------------------------------------------------------------ with one that runs


class AirflowTrial(Trial):
    """An Airflow that runs, and a sandbox."""

    def __init__(self, folder: Path) -> None:
        from test_airflow.installation import columns_of
        from test_airflow.live.running import Running

        from vantage_orchestration.airflow.compat import AIRFLOW

        super().__init__(folder, __file__)
        columns = columns_of(self.sandbox)
        connection = json.dumps({**columns, "extra": json.loads(columns["extra"])})
        # A fault of Airflow 3.0 costs tasks a try now and then; that would hide faults of ours.
        fixed = {"AIRFLOW__CORE__EXECUTOR": "versions.executor.CommittedLocalExecutor"}
        self.host = self.airflow = Running(
            folder / "home",
            DAGS,
            environment={
                "SLIM_FOLDER": str(folder),
                "AIRFLOW_CONN_SLIM": connection,
                # Airflow 3.0 stores the trigger of an asset when it reads the file once more.
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
                **(fixed if AIRFLOW < (3, 1) else {}),
            },
        )

    def inside(self, name: str, **environment: str) -> None:
        """Call a function of this module in a process of its own."""
        quiet = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}
        self.call(name, {**self.airflow.environment, **quiet, **environment})

    def run(self, dag_id: str, run_id: str = "one") -> Any:
        return self.airflow.trigger(dag_id, run_id, {})

    def token(self) -> None:
        self.inside("token")
        self.inside("threads")

    def deferred(self) -> None:
        """Process documents by the triggerer."""
        before = self.started()
        self.run("deferred").when("success")
        assert self.started() == before + FILES

    def crashes(self) -> str:
        """Disturb runs as the crash matrix does, all at the same time."""
        from test_airflow.live import test_crash_matrix as full
        from test_airflow.live.scene import Scene

        from vantage_orchestration.airflow.compat import AIRFLOW

        class SlimScene(Scene):
            def kill(self, *, whole: bool) -> None:
                # Airflow 3.0 does not try again what has told of its own death by a signal.
                super().kill(whole=whole or AIRFLOW < (3, 1))

        cases = {
            name: dataclasses.replace(
                full.CASES[name],
                # A transaction that was only made, and is free, is found by the lists alone.
                settings=full.CASES[name].settings if name == "after_create" else full.LAG,
                # Older releases refuse to delete what waits in the triggerer.
                dag_id="crash_in_worker" if name == "waiting_in_the_worker" else "crash",
            )
            for name in CRASHES
        }
        told = self.disturb(SlimScene, cases, full.Gate())
        # The triggerer has looked up connections that are in the database.
        assert "(type: abbyy_vantage)" not in (self.airflow.outputs / "triggerer.txt").read_text(
            errors="replace"
        )
        return told

    def submit(self) -> str:
        """Submit without a folder for notes: refused where Airflow has no other place."""
        from vantage_orchestration.airflow.compat import AIRFLOW

        self.inside("refused")
        if AIRFLOW < (3, 3):
            return "needs a `state_path`"
        before = self.started()
        self.run("unplaced").when("success")
        assert self.started() == before + FILES
        return "yes"

    def watcher(self) -> None:
        """Let mail come in, and see it fetched."""
        from patience import wait_until

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
        self.inside(
            "pages",
            SLIM_RUNS="one",
            SLIM_TRANSACTION=first,
            # Else everybody is an administrator.
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="False",
        )


def main(folder: Path, *, short: bool) -> int:
    trial = AirflowTrial(folder)
    trial.airflow.migrate()
    before = {
        "install": lambda: trial.inside("install"),
        "form": lambda: trial.inside("form"),
        "token": trial.token,
        # While no other process uses the database, which is a file.
        "documents": lambda: trial.inside("dag_test"),
    }
    running = {
        "deferred": trial.deferred,
        "submit": trial.submit,
        "crashes": trial.crashes,
        "watcher": trial.watcher,
        **({} if short else {"pages": trial.pages}),
    }
    return fill(trial, before, running)


if __name__ == "__main__":
    if (FUNCTION := sys.argv[1]) in globals():
        globals()[FUNCTION]()
    else:
        sys.exit(main(Path(FUNCTION), short="--short" in sys.argv))
