# SPDX-License-Identifier: Apache-2.0
"""The watcher wakes its Dags as long as something is due, and their runs fetch each once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_airflow.installation import SERVER, Airflow, columns_of, logins

from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.sandbox import SandboxServer

Connect = Callable[..., str]
pytestmark = pytest.mark.slow
LIST = "/transactions/completed$"


class Watching:
    """A watcher of the skill Receipt of a sandbox."""

    def __init__(
        self, airflow: Airflow, sandbox: SandboxServer, connect: Connect, folder: Path
    ) -> None:
        self.airflow, self.sandbox, self.control = airflow, sandbox, sandbox.control
        self.conn_id = connect(sandbox)
        self.state = folder / "state"

    def kwargs(self, **changes: Any) -> dict[str, Any]:
        return {
            "state_path": str(self.state),
            "skill": "Receipt",
            "abbyy_vantage_conn_id": self.conn_id,
            **changes,
        }

    def receive(self, count: int = 1, **order: Any) -> list[str]:
        return self.control.receive_many(count, "Receipt", **order)

    def watch(
        self, looks: int, *actions: tuple[int, str, dict[str, Any]], **options: Any
    ) -> tuple[list[Any], dict[int, dict[str, Any]]]:
        """Return what each look has found, and the events by the number of their look."""
        by_look: dict[str, list[Any]] = {}
        for number, name, arguments in actions:
            by_look.setdefault(str(number), []).append([name, arguments])
        found = self.airflow(
            "inside_completed.watch",
            SERVER,
            kwargs=options.pop("kwargs", self.kwargs()),
            looks=looks,
            url=self.sandbox.url,
            actions=by_look,
            **options,
        )
        return found["looks"], {int(number): each for number, each in found["events"].items()}


@pytest.fixture
def watching(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, tmp_path: Path
) -> Watching:
    return Watching(airflow, sandbox, connect, tmp_path)


def test_wakes_until_all_is_fetched(watching: Watching) -> None:
    mail = {"skill": "Receipt"}
    looks, events = watching.watch(
        12,
        (2, "receive", mail),
        (5, "fetch", {"run": "1"}),
        (7, "receive", mail),
        (8, "receive", mail),
        (9, "fetch", {"run": "2"}),
    )
    task = ["dag.fetch"]
    assert looks == [[], [], [""], [""], [""], [], [], task, task, [], [], []]
    assert set(events) == {2, 3, 7, 8}
    assert events[2] == {"due": [""], "skill": "Receipt"}
    assert events[7] == {"due": ["dag.fetch"], "skill": "Receipt"}
    assert watching.watch(1) == ([[]], {}), "another one, later"


def test_each_consumer_gets_what_it_wants(watching: Watching) -> None:
    """Which of them are due is said by what the tasks want, not by the watcher."""
    failed = {"consumer": "failed", "statuses": ["Failed"]}
    watching.watch(1, (0, "fetch", {"run": "1"}), (0, "fetch", {"run": "1", **failed}))
    watching.control.receive("Receipt", parameters={"App": "PublicAPI"})
    assert watching.watch(1) == ([[]], {})
    watching.receive(parameters={"SandboxOutcome": "Failed"})
    assert watching.watch(1)[0] == [["failed"]]
    watching.receive()
    assert watching.watch(1)[0] == [["dag.fetch", "failed"]]
    watching.watch(1, (0, "fetch", {"run": "2"}))
    assert watching.watch(1)[0] == [["failed"]], "one that is paused is woken once it is not"


def test_while_the_run_is_at_work(watching: Watching) -> None:
    watching.watch(1, (0, "fetch", {"run": "1"}))
    (leases,) = (folder / "leases" for folder in watching.state.glob(".abbyy-vantage/*/*"))
    watching.receive()
    value = {"run": "2", "holder": "h", "until": 1e12}
    (leases / "x.json").write_text(json.dumps({"version": 1, "value": value}))
    assert watching.watch(2) == ([None, None], {})
    value["until"] = 1.0
    (leases / "x.json").write_text(json.dumps({"version": 1, "value": value}))
    looks, events = watching.watch(1)
    assert (looks, set(events)) == ([["dag.fetch"]], {0}), "it was killed"


def test_a_look_is_cheap(watching: Watching) -> None:
    watching.receive(30)
    watching.watch(1, (0, "fetch", {"run": "1"}))
    before = len(watching.control.journal())
    watching.watch(4)
    paths = [entry["path"] for entry in watching.control.journal()[before:]]
    lists = [path for path in paths if path.endswith("/completed")]
    assert len(lists) == 8, "one page of what is new, and one number of the rest"
    assert len(paths) - len(lists) <= 2, "the skill once, and perhaps a login"


def test_trouble_of_the_service_is_waited_for(watching: Watching) -> None:
    watching.receive(2)
    watching.control.add_fault(operation="listCompletedTransactions", status=503, times=4)
    looks, events = watching.watch(3)
    assert looks[0] is None
    assert looks[2] == [""]
    assert events


def test_a_refused_login_is_not_repeated(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, tmp_path: Path
) -> None:
    watching = Watching(airflow, sandbox, connect, tmp_path)
    watching.conn_id = connect(sandbox, password="wrong-one")
    assert watching.watch(2, seconds=3.0) == ([None], {})
    assert logins(sandbox) == 1
    text = airflow.output.read_text()
    assert "The next poll of ABBYY Vantage is in 60 s" in text
    assert "wrong-one" not in text


def test_a_missing_connection_is_waited_for(watching: Watching) -> None:
    watching.conn_id = "nobody_has_this"
    assert watching.watch(2, seconds=1.0) == ([None], {})
    assert "nobody_has_this" in watching.airflow.output.read_text()


def test_arguments(airflow: Airflow) -> None:
    found = airflow("inside_completed.arguments")
    assert found["refused"] == found["wrong"]
    assert found["same"]
    assert found["again"] == found["kwargs"]
    assert not found["client_loaded"], "a Dag file that holds a watcher loads no client"


# ---- the operator ----

DAG = "fetch_completed"


def test_the_operator_fetches_each_once(watching: Watching, tmp_path: Path) -> None:
    """A run that is tried again or cleared returns what it has fetched, and fetches nothing twice.

    One in which nothing is due is skipped.
    """
    airflow, control = watching.airflow, watching.control
    output = tmp_path / "out"
    airflow("add_connection", conn_id="vantage_fetched", **columns_of(watching.sandbox))
    airflow("set_variable", key="fetch_completed_output", value=str(output))

    def run(run_id: str, **options: Any) -> tuple[str, Any]:
        told = airflow("inside.run", dag_id=DAG, run_id=run_id, conf={}, **options)
        (state,) = {state for state, _ in told["tasks"].values()}
        return state, airflow("xcom", dag_id=DAG, run_id=run_id, task_id="fetch")

    ids = watching.receive(3)
    bad = {"path_regex": f"/transactions/{ids[0]}$", "status": 403}
    control.add_fault(**bad, times=1000)
    assert run("run_1", retries=True) == ("failed", None)
    assert control.count("GET", "/download$") == 4, "the others"
    control.clear_faults()
    assert run("run_2") == ("skipped", None)
    airflow("clear", dag_id=DAG, run_id="run_1")
    told = airflow("inside.work", dag_id=DAG, run_id="run_1")
    assert told["state"] == "success", told
    result = airflow("xcom", dag_id=DAG, run_id="run_1", task_id="fetch")
    assert result["transactions"] == 3
    manifest = json.loads(Path(result["manifest"]).read_text())
    assert sorted(each["folder"] for each in manifest["transactions"]) == sorted(ids)
    assert control.count("GET", "/download$") == 6
    more = watching.receive(2)
    state, result = run("run_3")
    assert (state, result["transactions"], result["low_quality"]) == ("success", 2, 2)
    assert len(list(Manifest.open(result["manifest"]).rows())) == 2
    assert len(list(output.glob("tables/*/Receipt/documents.jsonl"))) == 2, "of each run"
    assert {path.name for path in output.glob("*-*-*-*-*") if path.is_dir()} == {*ids, *more}
    assert run("run_4") == ("skipped", None)


# ---- events of tasks ----

TAKER = "take_events"


def test_events_that_come_together_are_each_taken_once(airflow: Airflow, tmp_path: Path) -> None:
    """Airflow hands the first to a run. Here a run takes all, and each is taken by one run."""
    airflow("set_variable", key="take_events_state", value=str(tmp_path))

    def taken(run_id: str) -> Any:
        told = airflow("inside.run", dag_id=TAKER, run_id=run_id, conf={})
        assert told["state"] == "success", told
        return airflow("xcom", dag_id=TAKER, run_id=run_id, task_id="take")

    def add(*numbers: int) -> None:
        extras = [{"number": number} for number in numbers]
        airflow("inside_completed.add_events", asset="taken_events", extras=extras)

    def extras(*numbers: int) -> list[dict[str, int]]:
        return [{"number": number} for number in numbers]

    add(*range(50))
    assert taken("take_1") == extras(*range(50))
    references = airflow("xcom", dag_id=TAKER, run_id="take_1", task_id="take_by_reference")
    assert references == [50, 50, 0]
    assert taken("take_2") == []
    add(50)
    airflow("clear", dag_id=TAKER, run_id="take_1")
    airflow("inside.work", dag_id=TAKER, run_id="take_1")
    again = airflow("xcom", dag_id=TAKER, run_id="take_1", task_id="take")
    assert again == extras(*range(51)), "its own, and what has come since"
    add(51, 52)
    assert taken("take_3") == extras(51, 52)
    assert taken("take_4") == []
