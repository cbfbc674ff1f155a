# SPDX-License-Identifier: Apache-2.0
"""The trigger: what is stored of it, what it tells, and that the event loop never waits."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from core.conftest import config_of
from leaks import find_leaks
from test_airflow.installation import Airflow, columns_of, logins

from vantage_orchestration.client import VantageClient
from vantage_orchestration.sandbox import SandboxServer

Connect = Callable[..., str]
QUICK = {"poke_interval": 1.0, "max_poke_interval": 1.0}
ID = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
SINGLE = r"/transactions/[0-9a-f-]{36}$"
_numbers = itertools.count()


@pytest.fixture
def waiting(sandbox: SandboxServer) -> SandboxServer:
    """A sandbox whose transactions run until its clock is pushed forward."""
    sandbox.control.set(processing_polls=0, processing_seconds=5000)
    return sandbox


def environment(sandbox: SandboxServer, conn_id: str, **changes: Any) -> dict[str, str]:
    """Return a connection as a variable of the environment."""
    columns = columns_of(sandbox, **changes)
    connection = {**columns, "extra": json.loads(columns["extra"])}
    return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection)}


def run_in_loop(
    airflow: Airflow, sandbox: SandboxServer, *triggers: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    conn_id = f"in_loop_{next(_numbers)}"
    return airflow(
        "inside_triggers.run_in_loop",
        environment(sandbox, conn_id, **changes),
        kwargs=[{"conn_id": conn_id, **QUICK, **each} for each in triggers],
    )


def in_review(sandbox: SandboxServer) -> str:
    """Return a transaction that waits for a person."""
    sandbox.control.set(review=True, processing_seconds=0)
    (name,) = sandbox.control.receive_many(1, "Invoice")
    with VantageClient(config_of(sandbox)) as client:
        # Processing goes on when somebody looks.
        assert client.get_transaction(name).waits_for_review
    sandbox.control.set(review=False, processing_seconds=5000)
    return name


def only(found: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of the one event of the one trigger."""
    ((event,),) = found["events"]
    assert set(event) == {"status", "transactions", "in_review", "message", "retryable"}
    return event


# ------------------------------------------------------------- what is stored


def test_arguments_survive_being_stored(airflow: Airflow) -> None:
    minimal = {"transaction_ids": [ID], "conn_id": "c"}
    full = {
        "transaction_ids": [ID, "another"],
        "conn_id": "c",
        "skill_id": "skill",
        "deadline": 1_800_000_000.5,
        "review_deadline": 1_900_000_000.0,
        "in_review": [ID],
        "report_review": True,
        "poke_interval": 3.0,
        "max_poke_interval": 30.0,
        "delete_on_kill": True,
    }
    for given in (minimal, full):
        found = airflow("inside_triggers.round_trip", kwargs=given)
        assert found["classpath"].endswith("triggers.transactions.VantageTransactionsTrigger")
        assert set(found["kwargs"]) == set(full)
        assert given.items() <= found["kwargs"].items()
        assert found["again"] == [found["kwargs"]] * 2
        assert found["is_trigger"]
        assert ID in found["shown"]


# --------------------------------------------------------------- what it tells


def test_all_have_ended(airflow: Airflow, sandbox: SandboxServer) -> None:
    sandbox.control.set(processing_polls=1)
    ids = sandbox.control.receive_many(3, "Invoice")
    found = run_in_loop(airflow, sandbox, {"transaction_ids": ids})
    assert only(found) == {
        "status": "ended",
        "transactions": dict.fromkeys(ids, "Processed"),
        "in_review": [],
        "message": None,
        "retryable": False,
    }
    assert found["by_loop"] == []
    assert found["threads"]["requests"] >= 1
    assert found["threads"]["connections"] == 1


def test_triggers_of_one_connection_share_everything(
    airflow: Airflow, sandbox: SandboxServer
) -> None:
    sandbox.control.set(processing_polls=1)
    ids = sandbox.control.receive_many(60, "Invoice")
    # Waited for by two triggers at once, as it can happen for a moment.
    triggers = [{"transaction_ids": [each]} for each in [*ids, *ids[:5]]]
    found = run_in_loop(airflow, sandbox, *triggers)
    assert [event["status"] for (event,) in found["events"]] == ["ended"] * 65
    assert logins(sandbox) == 1
    assert sandbox.control.count("GET", "/active$") <= 4
    assert sandbox.control.count("GET", SINGLE) <= 60 + 4
    assert found["by_loop"] == []


def test_review_is_reported_once(airflow: Airflow, waiting: SandboxServer) -> None:
    reviewed = in_review(waiting)
    (running,) = waiting.control.receive_many(1, "Invoice")
    ids = {"transaction_ids": [reviewed, running], "report_review": True}
    event = only(run_in_loop(airflow, waiting, ids))
    assert event == {
        "status": "review",
        "transactions": {reviewed: "Processing", running: "Processing"},
        "in_review": [reviewed],
        "message": None,
        "retryable": False,
    }
    # Reported before, so that only its own deadline ends the wait.
    begin = time.time()
    known = {**ids, "in_review": [reviewed], "review_deadline": begin + 3}
    event = only(run_in_loop(airflow, waiting, known))
    assert event["status"] == "timeout"
    assert event["in_review"] == [reviewed]
    assert event["retryable"]
    assert time.time() >= begin + 3
    quiet = {**ids, "report_review": False, "review_deadline": time.time() - 1}
    assert only(run_in_loop(airflow, waiting, quiet))["status"] == "timeout"


def test_time_is_over(airflow: Airflow, waiting: SandboxServer) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    begin = time.time()
    event = only(run_in_loop(airflow, waiting, {"transaction_ids": ids, "deadline": begin + 3}))
    assert time.time() >= begin + 3
    assert event == {
        "status": "timeout",
        "transactions": dict.fromkeys(ids, "Processing"),
        "in_review": [],
        "message": "2 transactions have not ended, and time is over",
        "retryable": True,
    }
    # Before the first look: nothing is known, and nothing was asked.
    before = waiting.control.count("GET")
    event = only(run_in_loop(airflow, waiting, {"transaction_ids": ids, "deadline": begin}))
    assert event["status"] == "timeout"
    assert event["transactions"] == dict.fromkeys(ids, "Unknown")
    assert waiting.control.count("GET") == before


def test_processing_time_stands_still_during_a_review(
    airflow: Airflow, waiting: SandboxServer
) -> None:
    reviewed = in_review(waiting)
    begin = time.time()
    event = only(
        run_in_loop(
            airflow,
            waiting,
            {
                "transaction_ids": [reviewed],
                "deadline": begin + 2.5,
                "review_deadline": begin + 5,
            },
        )
    )
    assert event["status"] == "timeout"
    assert event["message"] == "1 transaction waits for manual review, and time is over"
    assert time.time() >= begin + 5


def test_a_triggerer_that_starts_anew_does_not_count_the_time_of_a_review(
    airflow: Airflow, waiting: SandboxServer
) -> None:
    """The time for processing was over long ago, but stood still: somebody reviews for days."""
    reviewed = in_review(waiting)
    begin = time.time()
    taken_over = {
        "transaction_ids": [reviewed],
        "deadline": begin - 1000,
        "review_deadline": begin + 4,
        "in_review": [reviewed],
        "report_review": True,
    }
    event = only(run_in_loop(airflow, waiting, taken_over))
    assert event["message"] == "1 transaction waits for manual review, and time is over"
    assert time.time() >= begin + 4


def test_refused_login(airflow: Airflow, waiting: SandboxServer) -> None:
    wrong = "not the password of it"
    ids = waiting.control.receive_many(3, "Invoice")
    triggers = [{"transaction_ids": [each]} for each in ids]
    found = run_in_loop(airflow, waiting, *triggers, password=wrong)
    for (event,) in found["events"]:
        assert event["status"] == "error"
        assert not event["retryable"]
        assert "invalid_grant" in event["message"] or "password" in event["message"]
    assert logins(waiting) == 1
    secrets = [wrong, waiting.credentials["client_secret"]]
    assert find_leaks(secrets, {"events": found}) == []


def test_foreign_transaction_fails_its_own_task_only(
    airflow: Airflow, waiting: SandboxServer
) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    waiting.control.add_fault(path_regex=ids[0], status=403, times=0)
    waiting.control.set(processing_polls=2, processing_seconds=0)
    waiting.control.add_fault(path_regex="/active$", status=404, times=0)
    found = run_in_loop(
        airflow, waiting, {"transaction_ids": [ids[0]]}, {"transaction_ids": [ids[1]]}
    )
    (refused,), (event,) = found["events"]
    assert (refused["status"], refused["retryable"]) == ("error", False)
    assert ids[0] in refused["message"]
    assert event["status"] == "ended"


def test_wrong_connections(airflow: Airflow, waiting: SandboxServer) -> None:
    ids = {"transaction_ids": waiting.control.receive_many(1, "Invoice")}
    event = only(run_in_loop(airflow, waiting, ids, client_id=""))
    assert (event["status"], event["retryable"]) == ("error", False)
    assert "client_id" in event["message"]


@pytest.mark.slow
def test_missing_connection(airflow: Airflow) -> None:
    found = airflow(
        "inside_triggers.run_in_loop",
        kwargs=[{"transaction_ids": [ID], "conn_id": "nobody_knows_it", **QUICK}],
    )
    event = only(found)
    # It may as well be that Airflow could not read it at the moment.
    assert (event["status"], event["retryable"]) == ("error", True)
    assert "'nobody_knows_it'" in event["message"]


def test_without_a_triggerer(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    ids = sandbox.control.receive_many(2, "Invoice")
    kwargs = {"transaction_ids": ids, "conn_id": connect(sandbox), **QUICK}
    assert only(airflow("inside_triggers.run_inline", kwargs=kwargs))["status"] == "ended"


# ------------------------------------------------------- in the real triggerer


@pytest.mark.slow
def test_in_the_triggerer(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    sandbox.control.set(processing_polls=2)
    ids = sandbox.control.receive_many(25, "Invoice")
    conn_id = connect(sandbox)
    begin = airflow.output.stat().st_size
    found = airflow(
        "inside_triggers.run_in_triggerer",
        kwargs=[{"transaction_ids": [each], "conn_id": conn_id, **QUICK} for each in ids],
    )
    assert found["failures"] == []
    assert len(found["events"]) == 25
    assert [event["status"] for event in found["events"].values()] == ["ended"] * 25
    assert logins(sandbox) == 1
    output = airflow.output.read_bytes()[begin:]
    assert f"Transaction {ids[0]}: Processed".encode() in output
    account = sandbox.credentials
    secrets = [account["password"], account["client_secret"], *sandbox.control.issued_secrets()]
    assert find_leaks(secrets, {"events": found, "output": output}) == []


@pytest.mark.slow
def test_rotated_connection_in_the_triggerer(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(3, "Invoice")
    tenant = waiting.credentials["tenant_id"]
    conn_id = connect(waiting, login="both@example.com", tenant_id=tenant)
    found = airflow(
        "inside_triggers.run_in_triggerer",
        kwargs=[{"transaction_ids": [each], "conn_id": conn_id, **QUICK} for each in ids],
        rotate={"conn_id": conn_id, **columns_of(waiting)},
        sandbox=waiting.url,
    )
    assert found["failures"] == []
    assert [event["status"] for event in found["events"].values()] == ["ended"] * 3
    users = {entry["user_hash"] for entry in waiting.control.journal("POST", "/connect/token$")}
    assert len(users) == 2, "the first login was with the old user, the second with the new one"


@pytest.mark.slow
def test_stored_token_in_the_triggerer(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    for _ in range(2):
        ids = sandbox.control.receive_many(2, "Invoice")
        found = airflow(
            "inside_triggers.run_in_triggerer",
            kwargs=[{"transaction_ids": ids, "conn_id": conn_id, **QUICK}],
        )
        assert found["events"]["1"]["status"] == "ended"
    assert logins(sandbox) == 1, "the second triggerer has found the token of the first"


# ------------------------------------------------------------------------ kill


def kill(
    airflow: Airflow,
    sandbox: SandboxServer,
    conn_id: str,
    ids: list[str],
    state: str | None,
    *,
    dag_id: str = "count_skills",
    delete_on_kill: bool = True,
    **options: Any,
) -> list[str]:
    """Kill a trigger and return which transactions were deleted."""
    found = airflow(
        "inside_triggers.kill",
        kwargs={
            "transaction_ids": ids,
            "conn_id": conn_id,
            "delete_on_kill": delete_on_kill,
            **QUICK,
        },
        dag_id=dag_id,
        run_id=f"kill-{next(_numbers)}-{conn_id}",
        state=state,
        sandbox=sandbox.url,
        **options,
    )
    assert found == {"events": {}, "failures": []}
    return [
        each["id"]
        for each in sandbox.control.transactions()
        if each["id"] in ids and each["deleted"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("state", ["failed", "success"])
def test_ended_by_a_person(
    airflow: Airflow, waiting: SandboxServer, connect: Connect, state: str
) -> None:
    ids = waiting.control.receive_many(10, "Invoice")
    assert kill(airflow, waiting, connect(waiting), ids, state) == ids


@pytest.mark.slow
def test_what_has_ended_is_not_deleted(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ended = waiting.control.receive_many(2, "Invoice")
    waiting.control.advance(10_000)
    (running,) = waiting.control.receive_many(1, "Invoice")
    # The list, both that are not on it, and in the next round the one that is left.
    found = kill(airflow, waiting, connect(waiting), [*ended, running], "failed", requests=4)
    assert found == [running]


@pytest.mark.slow
@pytest.mark.parametrize("state", ["cleared", None, "queued", "deferred"])
def test_cleared_or_retried(
    airflow: Airflow, waiting: SandboxServer, connect: Connect, state: str | None
) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    assert kill(airflow, waiting, connect(waiting), ids, state) == []


@pytest.mark.slow
def test_deleting_was_not_asked_for(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    assert kill(airflow, waiting, connect(waiting), ids, "failed", delete_on_kill=False) == []


@pytest.mark.slow
def test_trigger_that_does_not_know_its_task(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    assert kill(airflow, waiting, connect(waiting), ids, "failed", with_task=False) == []


@pytest.mark.slow
@pytest.mark.parametrize(("state", "deleted"), [("failed", True), ("queued", False)])
def test_mapped_task(
    airflow: Airflow, waiting: SandboxServer, connect: Connect, state: str, deleted: bool
) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    found = kill(airflow, waiting, connect(waiting), ids, state, dag_id="show_key", map_index=1)
    assert found == (ids if deleted else [])


@pytest.mark.slow
def test_deletion_that_fails_is_told(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(3, "Invoice")
    waiting.control.add_fault(method="DELETE", path_regex=ids[1], status=403, times=0)
    begin = airflow.output.stat().st_size
    assert kill(airflow, waiting, connect(waiting), ids, "failed") == [ids[0], ids[2]]
    output = airflow.output.read_text()[begin:]
    assert f"Transaction {ids[1]} was not deleted" in output


@pytest.mark.slow
def test_triggerer_that_stops_deletes_nothing_and_does_not_linger(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(1, "Invoice")
    # The request that is under way gets no answer as long as the triggerer may take.
    waiting.control.add_fault(path_regex=SINGLE, delay=25, times=0)
    found = airflow(
        "inside_triggers.stop_triggerer",
        kwargs={
            "transaction_ids": ids,
            "conn_id": connect(waiting),
            "delete_on_kill": True,
            **QUICK,
        },
        sandbox=waiting.url,
    )
    assert found["events"] == {}
    assert found["code"] == 0
    assert not waiting.control.transaction(ids[0])["deleted"]
