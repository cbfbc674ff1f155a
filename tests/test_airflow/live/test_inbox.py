# SPDX-License-Identifier: Apache-2.0
"""A real Airflow fetches what came by mail: each transaction once for each Dag, none is left.

Many end in the same second, some while a run is at work, one Dag is paused meanwhile, and the
triggerer is killed. The database is PostgreSQL, as in production. With SQLite, Airflow's scheduler
queues events in a different way; the trials of other releases (``tests/versions``) use that.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from postgres import Postgres
from test_airflow.installation import columns_of
from test_airflow.live.running import Running

from vantage_orchestration.sandbox import SandboxServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
DAGS = Path(__file__).parent / "inbox_dags"
LIST = "/transactions/completed$"
FILES = 2  # Result files of a receipt.


class Inbox:
    """An Airflow, and a sandbox to which mail comes."""

    def __init__(self, folder: Path, postgres: str) -> None:
        self.out = folder / "out"
        self.sandbox = SandboxServer(seed=700).start()
        self.control = self.sandbox.control
        columns = columns_of(self.sandbox)
        connection = json.dumps({**columns, "extra": json.loads(columns["extra"])})
        environment = {
            "INBOX_OUT": str(self.out),
            "AIRFLOW_CONN_INBOX": connection,
            # Airflow's default. Two runs of a Dag with ``max_active_runs=1`` that the scheduler
            # ends in one go count as active until its file is parsed again.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            # Nothing is searched in the logs.
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        }
        (folder / "home").mkdir()
        self.airflow = Running(folder / "home", DAGS, postgres, environment)
        self.ids: list[str] = []

    def stop(self) -> None:
        self.airflow.stop()
        self.sandbox.stop()

    def receive(self, count: int) -> None:
        self.ids += self.control.receive_many(count, "Receipt")

    def fetched(self, dag_id: str) -> Counter[str]:
        """Return how often each transaction is named by the runs of a Dag."""
        found: Counter[str] = Counter()
        for path in (self.out / dag_id).glob("manifest-*.json"):
            found.update(
                each["transaction_id"] for each in json.loads(path.read_text())["transactions"]
            )
        return found

    def until_fetched(self, dag_id: str) -> None:
        def told() -> str:
            return f"{dag_id} has {len(self.fetched(dag_id))} of {len(self.ids)}"

        wait_until(
            lambda: len(self.fetched(dag_id)) == len(self.ids),
            lambda: f"{told()}\n{self.airflow.told()}",
            120,
        )

    def looks(self, more: int) -> None:
        """Wait until the list was asked for some times more."""
        before = self.control.count("GET", LIST)
        wait_until(lambda: self.control.count("GET", LIST) >= before + more, "looks at the list")

    def pause(self, dag_id: str, paused: bool) -> None:
        self.airflow.api("PATCH", f"dags/{dag_id}", is_paused=paused)

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return self.airflow.api("GET", f"dags/{dag_id}/dagRuns", limit=100)["dag_runs"]

    def taken(self) -> Counter[str]:
        """Return how often the runs of ``take`` have taken each event."""
        found: Counter[str] = Counter()
        for run in self.runs("take"):
            path = f"dags/take/dagRuns/{run['dag_run_id']}/taskInstances/process/xcomEntries"
            with contextlib.suppress(RuntimeError):  # It has not ended yet.
                value = self.airflow.api("GET", f"{path}/return_value", deserialize=True)["value"]
                found.update(str(each.get("number", each.get("manifest"))) for each in value)
        return found

    def live(self) -> None:
        """Let all of it happen."""
        self.airflow.start()
        self.looks(2)
        # Slowly, so that more can come while a run is at work.
        self.control.add_fault(operation="downloadResultFile", delay=0.3)
        self.receive(50)
        wait_until(lambda: self.control.count("GET", "/download$") > 8, "the first downloads")
        self.receive(5)
        self.until_fetched("second")
        self.control.clear_faults()
        self.pause("second", True)
        self.pause("take", True)
        self.airflow.kill("triggerer")
        self.receive(3)
        self.airflow.begin("triggerer")
        self.until_fetched("first")
        assert len(self.fetched("second")) == 55
        self.pause("second", False)
        self.until_fetched("second")
        self.airflow.trigger("produce", "produced", {})
        wait_until(lambda: self.runs("produce")[0]["state"] == "success", "the run to end")
        self.pause("take", False)
        wait_until(
            lambda: len(self.taken()) == len(self.events()),
            lambda: f"taken are {self.taken()} of {self.events()}\n{self.airflow.told()}",
            120,
        )
        self.looks(4)

    def events(self) -> set[str]:
        """Return what the events of the results are known by."""
        manifests = {str(path) for dag_id in ("first", "second") for path in self.manifests(dag_id)}
        return {*map(str, range(6)), *manifests}

    def manifests(self, dag_id: str) -> list[Path]:
        return sorted((self.out / dag_id).glob("manifest-*.json"))


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    with contextlib.ExitStack() as stack:
        postgres = Postgres()
        stack.callback(postgres.stop)
        postgres.start()
        inbox = Inbox(tmp_path, postgres.url)
        stack.callback(inbox.stop)
        yield inbox


def test_each_is_fetched_once_and_none_is_left(inbox: Inbox) -> None:
    inbox.live()
    for dag_id in ("first", "second"):
        assert inbox.fetched(dag_id) == Counter(inbox.ids), dag_id
        states = Counter(run["state"] for run in inbox.runs(dag_id))
        assert set(states) <= {"success", "queued", "running"}, states
    assert inbox.control.count("GET", "/download$") == 2 * FILES * len(inbox.ids)
    assert inbox.taken() == Counter(inbox.events()), "each event of results is taken once"
