# SPDX-License-Identifier: Apache-2.0
"""Each transaction that ABBYY Vantage has finished makes one event, whatever is killed when."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_airflow.installation import SERVER, Airflow, columns_of, logins

from vantage_orchestration.sandbox import SandboxServer

Connect = Callable[..., str]
pytestmark = pytest.mark.slow
LIST = "/transactions/completed$"
REVIEW = {"SandboxReview": "yes"}


class Watching:
    """A watcher of the skill Receipt of a sandbox. Each look is made by a process of its own."""

    def __init__(
        self, airflow: Airflow, sandbox: SandboxServer, connect: Connect, folder: Path
    ) -> None:
        self.airflow, self.sandbox, self.control = airflow, sandbox, sandbox.control
        self.control.set(processing_polls=0)
        self.conn_id = connect(sandbox)
        self.state = folder / "state.json"
        self.told: list[dict[str, Any]] = []

    def kwargs(self, **changes: Any) -> dict[str, Any]:
        return {"skill_id": "Receipt", "conn_id": self.conn_id, "poke_interval": 1.0, **changes}

    def receive(self, count: int = 1, **order: Any) -> list[str]:
        return self.control.receive_many(count, "Receipt", **order)

    def life(self, watchers: list[dict[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
        """Start watchers anew, with what they have stored, and return what they have told."""
        found = self.airflow(
            "inside_completed.watch",
            SERVER,
            watchers=watchers or [{"name": "asset", "kwargs": self.kwargs()}],
            state=str(self.state),
            url=self.sandbox.url,
            **options,
        )
        self.told += [payload for _, payload in found["events"]]
        return found

    def look(self, changes: dict[str, Any] | None = None, **options: Any) -> list[str]:
        """Return the transactions told by a new process in its first round."""
        kwargs = self.kwargs(**(changes or {}))
        found = self.life([{"name": "asset", "kwargs": kwargs}], **options)
        assert found["errors"] == {}
        return [payload["transaction_id"] for _, payload in found["events"]]


@pytest.fixture
def watching(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, tmp_path: Path
) -> Watching:
    return Watching(airflow, sandbox, connect, tmp_path)


def test_each_once_across_restarts(watching: Watching) -> None:
    before = watching.receive(3)
    assert watching.look() == [], "what had ended before the first look is not told"
    first = watching.receive(2)
    assert watching.look() == first
    second = watching.receive(1)
    assert watching.look() == second
    assert watching.look() == []
    assert {payload["transaction_id"] for payload in watching.told}.isdisjoint(before)
    assert {payload["repeated"] for payload in watching.told} == {False}


def test_what_an_event_tells(watching: Watching) -> None:
    watching.look()
    key = watching.control.receive(
        "Receipt", source="Scanner", parameters={"Mailbox": "in", "Order": "A-1"}
    )
    watching.look()
    (payload,) = watching.told
    created = payload.pop("created_at")
    assert created.endswith("Z")
    assert payload == {
        "transaction_id": key,
        "skill_id": "Receipt",
        "status": "Processed",
        "pages": 1,
        "documents": 1,
        "parameters": {"Mailbox": "in", "Order": "A-1"},
        "repeated": False,
    }


def test_three_pages_of_backlog(watching: Watching) -> None:
    watching.look()
    ids = watching.receive(2500)
    found = watching.look()
    assert Counter(found) == Counter(ids)
    assert watching.look() == []


def test_an_old_transaction_ends_late(watching: Watching) -> None:
    (late,) = watching.receive(parameters=REVIEW)
    others = watching.receive(2)
    assert watching.look() == []
    watching.control.advance(4 * 86400)
    others = watching.receive(2)
    assert sorted(watching.look()) == sorted(others)
    watching.control.finish_review(late)
    assert watching.look() == [late]
    assert watching.look() == []


def test_while_it_runs(watching: Watching) -> None:
    """A watcher that goes on reads little, and still finds what ends between its rounds."""
    (late,) = watching.receive(parameters=REVIEW)
    found = watching.life(
        rounds=4,
        actions={
            "1": [["receive", {"skill": "Receipt", "source": "Mail"}]],
            "2": [["finish_review", {"transaction_id": late}]],
        },
    )
    told = [payload["transaction_id"] for _, payload in found["events"]]
    assert len(told) == len(set(told)) == 2
    assert told[1] == late
    assert found["rounds"]["asset"] == 4


def test_lists_that_lag(watching: Watching) -> None:
    watching.control.set(list_lag=600.0)
    watching.look()
    ids = watching.receive(3)
    assert watching.look() == []
    watching.control.advance(599)
    assert watching.look() == []
    watching.control.advance(1)
    assert sorted(watching.look()) == sorted(ids)
    assert watching.look() == []


def test_those_of_the_api_are_left_out(watching: Watching) -> None:
    own = {"orchestration.key": "x" * 64}
    watching.look()
    mail = watching.receive(1)
    through_api = watching.receive(1, parameters={"App": "PublicAPI"})
    ours = watching.receive(1, parameters=own)
    assert watching.look() == mail
    assert watching.look({"include_api": True}) == [], "the change holds from now on"
    assert watching.look({"include_api": True}) == []
    later = watching.receive(1, parameters=own)
    assert watching.look({"include_api": True}) == later
    told = {payload["transaction_id"] for payload in watching.told}
    assert told.isdisjoint({*through_api, *ours})


def test_statuses(watching: Watching) -> None:
    both = {"statuses": ["Processed", "Failed", "Canceled"]}
    watching.look()
    failed = watching.receive(1, parameters={"SandboxOutcome": "Failed"})
    done = watching.receive(1)
    assert watching.look() == done
    assert watching.look(both) == []
    canceled = watching.receive(1, parameters={"SandboxOutcome": "Canceled"})
    assert watching.look(both) == canceled
    assert watching.told[-1]["status"] == "Canceled"
    assert failed[0] not in {payload["transaction_id"] for payload in watching.told}


def test_nothing_is_lost_while_the_arguments_change(watching: Watching) -> None:
    """What ends between the last look of the old arguments and the first of the new."""
    watching.look()
    done = watching.receive(1)
    failed = watching.receive(1, parameters={"SandboxOutcome": "Failed"})
    assert watching.look({"statuses": ["Processed", "Failed"]}) == done
    assert failed[0] not in {payload["transaction_id"] for payload in watching.told}


def test_since_a_moment_before_the_first_look(watching: Watching) -> None:
    import pendulum

    old = watching.receive(2)
    watching.control.advance(2 * 86400)
    new = watching.receive(2)
    since = pendulum.now("UTC").add(days=1).to_iso8601_string()
    assert sorted(watching.look({"since": since})) == sorted(new)
    assert watching.look({"since": since}) == []
    assert watching.look({"since": "2001-01-01"}) == [], "a change holds from now on"
    assert watching.look() == []
    assert old[0] not in {payload["transaction_id"] for payload in watching.told}


def test_two_watchers_share_their_looks(watching: Watching) -> None:
    def watchers(*, late: int = 0) -> list[dict[str, Any]]:
        done = {"name": "done", "kwargs": watching.kwargs()}
        failed = {"name": "failed", "kwargs": watching.kwargs(statuses=["Failed"])}
        return [done, {**failed, "join_after": late}]

    watching.life(watchers())
    done = watching.receive(2)
    bad = watching.receive(1, parameters={"SandboxOutcome": "Failed"})
    before = watching.control.count("GET", LIST)
    found = watching.life(watchers())
    assert watching.control.count("GET", LIST) - before <= 3
    told = [(name, payload["transaction_id"]) for name, payload in found["events"]]
    assert sorted(told) == sorted([("done", key) for key in done] + [("failed", bad[0])])
    worse = watching.receive(1, parameters={"SandboxOutcome": "Failed"})
    watching.control.advance(2 * 86400)
    found = watching.life(watchers(late=1), rounds=3, ahead=2 * 86400.0)
    assert [payload["transaction_id"] for _, payload in found["events"]] == worse, (
        "one that comes later than the other asks for everything"
    )


def test_a_second_copy_takes_over(watching: Watching) -> None:
    """Two triggerers may run the same trigger for a while. The older one stops telling."""
    watching.look()
    found = watching.life(
        rounds=5,
        actions={"1": [["usurp", {}], ["receive", {"skill": "Receipt"}]]},
    )
    assert found["events"] == []
    assert found["errors"] == {"asset": "Overtaken"}
    assert len(watching.look()) == 1


@pytest.mark.parametrize("first_look", [False, True])
def test_killed_at_every_step(watching: Watching, first_look: bool) -> None:
    watching.control.set(token_lifetime=86400)
    found = watching.airflow(
        "inside_completed.kill_everywhere",
        SERVER,
        kwargs=watching.kwargs(),
        url=watching.sandbox.url,
        count=8,
        first_look=first_look,
        together=3,
    )
    ids = {item["id"] for item in watching.control.transactions()}
    assert len(ids) == 8
    assert found["steps"] > (5 if first_look else 30)
    repeated = 0
    for life in found["lives"]:
        told = Counter(life["told"])
        if first_look:
            assert not told, life
            continue
        assert set(told) == ids, ("lost", life)
        again = {key for key, number in told.items() if number > 1}
        assert max(told.values()) <= 2, life
        assert again <= set(life["marked"]), ("not marked", life)
        assert len(again) <= 3, ("more than was handed over together", life)
        assert life["after_third"] == 0, life
        repeated += bool(again)
    if not first_look:
        assert 0 < repeated < found["steps"] / 2, "most kills repeat nothing"
        assert found["lives"][-1]["marked"] == []


def test_trouble_of_the_service_is_waited_for(watching: Watching) -> None:
    watching.look()
    ids = watching.receive(2)
    watching.control.add_fault(operation="listCompletedTransactions", status=503, times=4)
    assert watching.look() == ids
    watching.control.add_fault(
        operation="listCompletedTransactions", status=429, retry_after=2, times=1
    )
    assert watching.look() == []


def test_a_refused_login_is_not_repeated(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, tmp_path: Path
) -> None:
    watching = Watching(airflow, sandbox, connect, tmp_path)
    watching.conn_id = connect(sandbox, password="wrong-one")
    found = watching.life(seconds=3.0)
    assert found == {"events": [], "rounds": {"asset": 0}, "errors": {}}
    assert logins(sandbox) == 1
    text = airflow.output.read_text()
    assert "The next look at ABBYY Vantage is in 60 s" in text
    assert "wrong-one" not in text


def test_a_missing_connection_is_waited_for(watching: Watching) -> None:
    watching.conn_id = "nobody_has_this"
    assert watching.life(seconds=1.0)["errors"] == {}
    assert "nobody_has_this" in watching.airflow.output.read_text()


def test_arguments(airflow: Airflow) -> None:
    found = airflow("inside_completed.arguments")
    assert found["refused"] == found["wrong"]
    assert found["same"]
    one, two = found["stores"]
    assert len(one) == 1
    assert two == [f"<AssetStateStoreAccessor name={name!r}>" for name in "ab"]
    assert found["again"] == found["kwargs"]
    assert not found["client_loaded"], "a Dag file that holds a watcher loads no client"


# ---- the shipped Dag ----

DAG, ASSET = "abbyy_vantage_watcher", "abbyy_vantage_completed_transactions"


def test_the_shipped_dag_brings_the_results(watching: Watching, tmp_path: Path) -> None:
    airflow, sandbox = watching.airflow, watching.sandbox
    airflow("add_connection", conn_id="abbyy_vantage_default", **columns_of(sandbox))
    watching.look()
    ids = watching.receive(3)
    watching.look()
    # The first comes twice, as after a crash.
    payloads = [*watching.told, {**watching.told[0], "repeated": True}]
    extras = [{"from_trigger": True, "payload": payload} for payload in payloads]

    def run(run_id: str, events: list[dict[str, Any]]) -> dict[str, Any]:
        return airflow(
            "inside_completed.run_for_events",
            dag_id=DAG,
            asset=ASSET,
            run_id=run_id,
            extras=events,
            conf={"output": str(tmp_path / "out")},
        )

    found = run("with_events__1", extras)
    assert found["state"] == "success", found
    for key in ids:
        manifest = json.loads((tmp_path / "out" / key / "manifest.json").read_text())
        assert manifest["transaction_id"] == key
    downloads = sandbox.control.count("GET", "/download$")
    assert downloads == 6, "two result files of each"
    assert run("with_events__2", extras[:1])["state"] == "success"
    assert sandbox.control.count("GET", "/download$") == downloads, "they are there already"
    by_hand = run("manual__1", [])
    assert {state for state, _ in by_hand["tasks"].values()} == {"skipped"}


# ---- a real triggerer ----


class RealTriggerer:
    """``airflow triggerer``, in a session of its own."""

    def __init__(self, airflow: Airflow, output: Path) -> None:
        self.database = airflow.database
        settings = {
            "TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            # A dead triggerer's triggers are taken over by another one after this time.
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "3",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow.database}?timeout=60",
        }
        environment = {f"AIRFLOW__{name}": value for name, value in settings.items()}
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
                env={**airflow.environment, **airflow.cache(), **environment},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)


def events_of(database: Path, asset: str) -> list[dict[str, Any]]:
    """Return what the stored events of an asset hold."""
    query = (
        "SELECT e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id"
        " WHERE a.name = ? ORDER BY e.id"
    )
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        return [json.loads(row[0]) for row in connection.execute(query, [asset])]


def state_of(database: Path, asset: str) -> dict[str, Any]:
    """Return the values of an asset's state store by the last parts of their keys."""
    query = (
        "SELECT s.key, s.value FROM asset_state_store s JOIN asset a ON a.id = s.asset_id"
        " WHERE a.name = ?"
    )
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        rows = connection.execute(query, [asset]).fetchall()
    return {key.split("/", 3)[3]: json.loads(value) for key, value in rows}


def wait_for(condition: Callable[[], bool], what: str, patience: float = 120.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def start(airflow: Airflow, tmp_path: Path) -> Iterator[Callable[[], RealTriggerer]]:
    """Start triggerers, which end with the test."""
    started: list[RealTriggerer] = []

    def begin() -> RealTriggerer:
        started.append(RealTriggerer(airflow, tmp_path / "triggerer.txt"))
        return started[-1]

    yield begin
    for triggerer in started:
        triggerer.kill()


def test_a_real_triggerer_that_is_killed(
    airflow: Airflow,
    sandbox: SandboxServer,
    start: Callable[[], RealTriggerer],
    tmp_path: Path,
) -> None:
    """From the list of ABBYY Vantage to the row in Airflow's table of asset events."""
    asset, control = "watched_receipts", sandbox.control
    control.set(processing_polls=0)
    airflow("add_connection", conn_id="vantage_watched", **columns_of(sandbox))
    control.receive_many(3, "Receipt")
    first = start()
    wait_for(lambda: "state" in state_of(airflow.database, asset), "no first look")
    assert events_of(airflow.database, asset) == []

    ids = control.receive_many(250, "Receipt")
    wait_for(lambda: len(events_of(airflow.database, asset)) >= 40, "no events")
    first.kill()
    at_the_kill = len(events_of(airflow.database, asset))
    assert at_the_kill < 250
    ids += control.receive_many(5, "Receipt")
    start()

    def told() -> Counter[str]:
        found = events_of(airflow.database, asset)
        return Counter(event["payload"]["transaction_id"] for event in found)

    wait_for(lambda: len(told()) == 255, "not all came")
    ids += control.receive_many(1, "Receipt")
    wait_for(lambda: len(told()) == 256, "not the last one")
    assert set(told()) == set(ids)
    events = events_of(airflow.database, asset)
    assert all(event["from_trigger"] for event in events)
    again = {key for key, number in told().items() if number > 1}
    marked = {e["payload"]["transaction_id"] for e in events if e["payload"]["repeated"]}
    assert again <= marked
    assert len(events) - 256 <= 100, "no more than was handed over together"
    secrets = [sandbox.credentials["password"], *control.issued_secrets()]
    text = (tmp_path / "triggerer.txt").read_text() + airflow.database.read_bytes().decode(
        "latin-1"
    )
    assert "Trigger fired event" in text
    assert [secret for secret in secrets if secret in text] == []
