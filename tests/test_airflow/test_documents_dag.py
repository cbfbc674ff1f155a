# SPDX-License-Identifier: Apache-2.0
"""The shipped Dag, task by task under the real supervisor, against the sandbox."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pdfs import make_invoice
from test_airflow.installation import Airflow, fixed, logins

from vantage_orchestration.sandbox import SandboxServer

DAG = "abbyy_vantage_documents"
Connect = Callable[..., str]
pytestmark = pytest.mark.slow
_runs = itertools.count()


class Job:
    """A folder with invoices, a sandbox, and a run of the Dag over them."""

    def __init__(
        self, airflow: Airflow, sandbox: SandboxServer, connect: Connect, folder: Path
    ) -> None:
        self.airflow, self.sandbox, self.folder = airflow, sandbox, folder / "in"
        self.folder.mkdir()
        self.run_id = f"manual__2026-01-0{next(_runs)}T00:00:00+00:00"
        self.output = folder / "out" / "result.jsonl"
        self.conf = {
            "skill": sandbox.control.skill_id("Invoice"),
            "output": self.output.name,
        }
        self.conn_id = connect(sandbox)

    @property
    def environment(self) -> dict[str, str]:
        return fixed(conn_id=self.conn_id, inputs=self.folder, outputs=self.output.parent)

    def add(self, name: str, **changes: Any) -> Path:
        return make_invoice(self.folder / name, number=f"INV-{name}", **changes)

    def run(self, **options: Any) -> dict[str, Any]:
        run = {"dag_id": DAG, "run_id": self.run_id, "conf": self.conf, **options}
        return self.airflow("run", self.environment, **run)

    def work(self, **options: Any) -> dict[str, Any]:
        return self.airflow("work", self.environment, dag_id=DAG, run_id=self.run_id, **options)

    def clear(self, *task_ids: str) -> None:
        self.airflow("clear", dag_id=DAG, run_id=self.run_id, task_ids=list(task_ids) or None)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text("utf-8").splitlines()]

    def started(self) -> list[str]:
        """Ids of the transactions that were started, so that their pages were charged."""
        return sorted(
            str(entry["transaction_id"])
            for entry in self.sandbox.control.journal("POST", "/start$")
            if entry["status"] and entry["status"] < 300
        )

    def log(self) -> str:
        return self.airflow.log_text(DAG, self.run_id)


@pytest.fixture
def job(airflow: Airflow, connect: Connect, sandbox_factory: Any, tmp_path: Path) -> Job:
    return Job(airflow, sandbox_factory(processing_polls=0), connect, tmp_path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_folder_to_json_lines(job: Job) -> None:
    files = [job.add(name) for name in ("b.pdf", "C.PDF", "a é.pdf")]
    (job.folder / "note.txt").write_text("no document")
    (job.folder / "folder.pdf").mkdir()
    told = job.run()
    assert told["state"] == "success"
    wanted = sorted(files)
    rows = job.rows()
    assert [row["file"] for row in rows] == [str(file) for file in wanted]
    assert [row["fields"]["Source SHA-256"] for row in rows] == [sha256(file) for file in wanted]
    assert [row["sha256"] for row in rows] == [sha256(file) for file in wanted]
    assert [row["fields"]["Invoice Number"] for row in rows] == [
        f"INV-{file.name}" for file in wanted
    ]
    assert sorted(row["transaction_id"] for row in rows) == job.started()
    assert told["names"] == sorted(file.name for file in wanted)
    assert [path.name for path in job.output.parent.iterdir()] == ["result.jsonl"]
    # What is passed between tasks is the rows, and nothing else.
    for number, row in enumerate(rows):
        passed = job.airflow(
            "xcom", dag_id=DAG, run_id=job.run_id, task_id="process", map_index=number
        )
        assert passed == [row]
    assert set(rows[0]) == {
        "file",
        "sha256",
        "transaction_id",
        "document_id",
        "class",
        "fields",
        "rule_errors",
    }


def test_cleared_run_sends_nothing_again(job: Job) -> None:
    job.conf["output"] = "of {run_id}.jsonl"
    job.add("b.pdf")
    job.add("c.pdf")
    first = job.run()
    (output,) = job.output.parent.iterdir()
    assert output.name == f"of {job.run_id.replace(':', '_').replace('+', '_')}.jsonl"
    before, started = output.read_bytes(), job.started()
    assert len(started) == 2
    # A file that comes first changes the map index of all others.
    job.add("a.pdf")
    job.clear()
    again = job.work()
    assert again["state"] == "success"
    assert again["start_date"] > first["start_date"]
    assert len(job.started()) == 3
    assert set(started) < set(job.started())
    lines = output.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[0])["fields"]["Invoice Number"] == "INV-a.pdf"
    assert b"".join(lines[1:]) == before
    assert "of an earlier try" in job.log()


def test_retry_goes_on_with_the_same_transaction(job: Job) -> None:
    file = job.add("a.pdf")
    # The wait that the server asks for is too long for the client's own retries, so the task's are
    # used.
    job.sandbox.control.add_fault(
        operation="downloadResultFile", status=503, retry_after=99999, times=0
    )
    told = job.run()
    assert told["tasks"]["process[0]"] == ["up_for_retry", 1]
    assert len(job.started()) == 1
    told = job.work()
    assert told["tasks"]["process[0]"] == ["up_for_retry", 1]  # The retry is not due yet.
    job.sandbox.control.clear_faults()
    told = job.work(retries=True)
    assert told["state"] == "success"
    assert told["tasks"]["process[0]"] == ["success", 2]
    assert len(job.started()) == 1
    assert [row["transaction_id"] for row in job.rows()] == job.started()
    assert [row["fields"]["Source SHA-256"] for row in job.rows()] == [sha256(file)]


def test_killed_worker(job: Job) -> None:
    """The process of a task is killed while it waits; the retry goes on with its transaction."""
    job.add("a.pdf")
    job.sandbox.control.set(processing_polls=1_000_000)
    killed: list[int] = []

    def kill() -> None:
        try:
            while job.sandbox.control.count("GET", "/transactions/[0-9a-f-]{36}$") < 2:
                time.sleep(0.05)
            with sqlite3.connect(f"file:{job.airflow.database}?mode=ro", uri=True) as database:
                (pid,) = database.execute(
                    "SELECT pid FROM task_instance WHERE state = 'running' AND run_id = ?"
                    " AND task_id = 'process'",
                    (job.run_id,),
                ).fetchone()
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        finally:
            job.sandbox.control.set(processing_polls=0)

    killing = threading.Thread(target=kill)
    killing.start()
    told = job.run()
    killing.join()
    assert killed
    assert told["tasks"]["process[0]"] == ["up_for_retry", 1]
    told = job.work(retries=True)
    assert told["tasks"]["process[0]"] == ["success", 2]
    assert len(job.started()) == 1


def test_failed_document_is_not_sent_again_by_itself(job: Job) -> None:
    job.add("a.pdf")
    job.sandbox.control.set(outcome="Failed")
    told = job.run(retries=True)
    assert told["state"] == "failed"
    assert told["tasks"]["process[0]"] == ["failed", 1]
    assert len(job.started()) == 1
    assert not job.output.exists()
    # Somebody has looked into it and clears the task: this is a new try.
    job.sandbox.control.set(outcome="Processed")
    job.clear("process", "collect")
    assert job.work()["state"] == "success"
    assert len(job.started()) == 2


def test_wrong_password_is_sent_once(job: Job, connect: Connect) -> None:
    job.add("a.pdf")
    job.conn_id = connect(job.sandbox, password="made-up-wrong")
    told = job.run(retries=True)
    assert told["tasks"]["process[0]"] == ["failed", 1]
    assert logins(job.sandbox) == 1
    told = job.airflow(
        "run",
        dag_id="count_skills",
        run_id=job.run_id,
        conf={"conn_id": job.conn_id},
        retries=True,
    )
    assert told["tasks"]["count[-1]"] == ["failed", 1]
    assert told["state"] == "failed"
    # A task in another process gets the refusal without sending the password again.
    assert logins(job.sandbox) == 1
    assert "CredentialsRejected" in job.log()
    clearing = f"vantage-orchestration token forget --of airflow:{job.conn_id}"
    assert clearing in job.log()
    remembered = job.airflow.log_text("count_skills", job.run_id)
    assert "remembered from an earlier try" in remembered
    assert clearing in remembered


def test_passing_trouble_is_retried(job: Job) -> None:
    job.sandbox.control.add_fault(path_regex="/skills$", status=503, retry_after=99999)
    options = {"dag_id": "count_skills", "run_id": job.run_id}
    told = job.airflow("run", **options, conf={"conn_id": job.conn_id})
    assert told["tasks"]["count[-1]"] == ["up_for_retry", 1]
    told = job.airflow("work", **options, retries=True)
    assert told["tasks"]["count[-1]"] == ["success", 2]
    assert job.airflow("xcom", **options, task_id="count") == 5


@pytest.mark.parametrize("folder", ["in", "nowhere"])
def test_nothing_to_do_is_an_error(job: Job, folder: str) -> None:
    job.folder = job.folder.with_name(folder)
    told = job.run(retries=True)
    assert told["tasks"]["list_files[-1]"] == ["failed", 1]
    assert folder in job.log()
    assert job.started() == []


def test_key_of_a_task(airflow: Airflow) -> None:
    options = {"dag_id": "show_key", "run_id": "keys"}
    first = airflow("run", **options, conf={})

    def keys() -> list[Any]:
        return [airflow("xcom", **options, task_id="key", map_index=index) for index in (0, 1)]

    before = keys()
    assert [key[2] for key in before] == [None, None]
    assert len({scope for key in before for scope in key[:2]}) == 4
    airflow("clear", **options)
    again = airflow("work", **options)
    assert again["tasks"] == {"key[0]": ["success", 2], "key[1]": ["success", 2]}
    after = keys()
    assert [key[:2] for key in after] == [key[:2] for key in before]
    assert again["start_date"] > first["start_date"]
    assert {key[2] for key in after} == {first["run_after"]}


def test_async_task_masks_its_token(airflow: Airflow, job: Job) -> None:
    opaque = "opaque-token-of-the-sandbox"  # Airflow masks what looks like a JWT by itself.
    job.sandbox.control.add_fault(
        path_regex="/connect/token$", merge_json={"access_token": opaque}, times=0
    )
    options = {"dag_id": "count_skills_async", "run_id": job.run_id}
    told = airflow("run", **options, conf={"conn_id": job.conn_id})
    assert told["state"] == "success"
    log = airflow.log_text("count_skills_async", job.run_id)
    assert "async token [***]" in log
    assert "async printed [***]" in log
    assert opaque not in log


def test_by_the_command_line(airflow: Airflow, job: Job) -> None:
    """What the README says: add a connection, test it, run the Dag."""
    file = job.add("a.pdf")
    account = job.sandbox.credentials
    extra = {
        "region": "custom",
        "client_id": account["client_id"],
        "client_secret": account["client_secret"],
    }

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env={
                **airflow.environment,
                **job.environment,
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    command(
        "connections",
        "add",
        "by_command_line",
        "--conn-type=abbyy_vantage",
        f"--conn-host={job.sandbox.url}",
        f"--conn-login={account['username']}",
        f"--conn-password={account['password']}",
        f"--conn-extra={json.dumps(extra)}",
    )
    assert "Connection success!" in command("connections", "test", "by_command_line")
    assert logins(job.sandbox) == 1
    job.conn_id = "by_command_line"
    told = command(
        "dags",
        "test",
        DAG,
        f"--dagfile-path={airflow.home / 'dags' / (DAG + '.py')}",
        f"--conf={json.dumps(job.conf)}",
    )
    assert [row["fields"]["Source SHA-256"] for row in job.rows()] == [sha256(file)]
    for secret in (account["password"], account["client_secret"]):
        assert secret not in told
