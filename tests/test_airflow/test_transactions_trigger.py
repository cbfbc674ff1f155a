# SPDX-License-Identifier: Apache-2.0
"""The trigger: what is stored of it, its events, and that the event loop never waits."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pendulum
import pytest
from core.conftest import config_of
from leaks import find_leaks
from test_airflow.installation import Airflow, columns_of, logins

from vantage_orchestration.client import VantageClient
from vantage_orchestration.processing import TaskKey
from vantage_orchestration.processing.ledger import Ledger, LedgerEntry, in_output
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.machine import Observation, Outcome, PeopleNeeded, Wait
from vantage_orchestration.waiting.rules import WaitRules

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


def begun(ids: list[str], **rules: Any) -> dict[str, Any]:
    """Return the state of a wait that begins now."""
    return Wait(ids, WaitRules(**{**QUICK, **rules}), time.time()).to_json()


def run_in_loop(
    airflow: Airflow,
    sandbox: SandboxServer,
    *waits: dict[str, Any],
    quiet: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    conn_id = f"in_loop_{next(_numbers)}"
    return airflow(
        "inside_triggers.run_in_loop",
        environment(sandbox, conn_id, **changes),
        kwargs=[{"abbyy_vantage_conn_id": conn_id, "wait": each} for each in waits],
        quiet=quiet,
    )


def in_review(sandbox: SandboxServer) -> str:
    """Return a transaction that waits for a person."""
    sandbox.control.set(review=True, processing_seconds=0)
    (name,) = sandbox.control.receive_many(1, "Invoice")
    with VantageClient(config_of(sandbox)) as client:
        # Each look advances the processing.
        assert client.get_transaction(name).waits_for_review
    sandbox.control.set(review=False, processing_seconds=5000)
    return name


def only(found: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of the one event of the one trigger."""
    ((event,),) = found["events"]
    assert set(event) == {"status", "wait", "message", "retryable"}
    return event


def statuses(event: dict[str, Any]) -> dict[str, str]:
    return event["wait"]["statuses"]


def outcome(event: dict[str, Any]) -> Outcome:
    """Return what the worker makes of an event that it is over."""
    assert (event["status"], event["message"], event["retryable"]) == ("over", None, False)
    answer = Wait.from_json(event["wait"], time.time()).next(time.time())
    assert isinstance(answer, Outcome)
    return answer


# ------------------------------------------------------------- what is stored


def test_arguments_survive_being_stored(airflow: Airflow) -> None:
    seen_wait = Wait([ID, "another"], WaitRules(), time.time(), skill_id="s")
    seen = [Observation(ID, Status.PROCESSING, True), Observation("another", Status.GONE)]
    seen_wait.note(seen, time.time())
    minimal = {"wait": begun([ID]), "abbyy_vantage_conn_id": "c"}
    full = {
        "wait": seen_wait.to_json(),
        "abbyy_vantage_conn_id": "c",
        "delete_on_kill": True,
        "notes": ["/out", "name"],
    }
    for given in (minimal, full):
        found = airflow("inside_triggers.round_trip", kwargs=given)
        assert found["classpath"].endswith("triggers.transactions.VantageTransactionsTrigger")
        assert found["of_subclass"] == "inside_triggers.Own"
        assert set(found["kwargs"]) == set(full)
        assert given.items() <= found["kwargs"].items()
        assert found["again"] == [found["kwargs"]] * 2
        assert found["is_trigger"]
        assert ID in found["shown"]


# ------------------------------------------------------------------- its events


def test_all_have_ended(airflow: Airflow, sandbox: SandboxServer) -> None:
    sandbox.control.set(processing_polls=1)
    ids = sandbox.control.receive_many(3, "Invoice")
    found = run_in_loop(airflow, sandbox, begun(ids))
    assert outcome(only(found)) == Outcome(dict.fromkeys(ids, Status.PROCESSED))
    # The worker that goes on names the files in its log.
    assert outcome(only(found)).files.keys() == set(ids)
    assert found["by_loop"] == []
    assert found["threads"]["requests"] >= 1
    assert found["threads"]["connections"] == 1


def test_an_event_comes_a_second_after_the_last_look(
    airflow: Airflow, sandbox: SandboxServer
) -> None:
    """The worker that goes on reads the transaction again, and knows of no earlier read."""
    sandbox.control.set(processing_polls=1)
    (name,) = sandbox.control.receive_many(1, "Invoice")
    found = run_in_loop(airflow, sandbox, begun([name]))
    looks = sandbox.control.journal("GET", f"/(active|{name})$")
    last = max(pendulum.parse(look["time"]).timestamp() for look in looks)
    assert found["fired"][0] - last >= 1.0


def test_triggers_of_one_connection_share_everything(
    airflow: Airflow, sandbox: SandboxServer
) -> None:
    sandbox.control.set(processing_polls=1)
    ids = sandbox.control.receive_many(60, "Invoice")
    # Waited for by two triggers at once, as it can happen for a moment.
    found = run_in_loop(airflow, sandbox, *(begun([each]) for each in [*ids, *ids[:5]]))
    assert [event["status"] for (event,) in found["events"]] == ["over"] * 65
    assert logins(sandbox) == 1
    assert sandbox.control.count("GET", "/active$") <= 4
    assert sandbox.control.count("GET", SINGLE) <= 60 + 4
    assert found["by_loop"] == []


def test_review_is_reported_once(airflow: Airflow, waiting: SandboxServer) -> None:
    reviewed = in_review(waiting)
    (running,) = waiting.control.receive_many(1, "Invoice")
    reported = run_in_loop(airflow, waiting, begun([reviewed, running], review_timeout=4))
    event, (moment,) = only(reported), reported["fired"]
    assert (event["status"], event["message"], event["retryable"]) == ("review", None, False)
    assert statuses(event) == {reviewed: "Processing", running: "Processing"}
    # As of then: a busy machine may come to this line when the review's time is over.
    wait = Wait.from_json(event["wait"], moment)
    needed = wait.next(moment)
    assert isinstance(needed, PeopleNeeded)
    assert needed.transaction_ids == (reviewed,)
    # Reported before, so that only its own limit ends the wait.
    wait.notified(needed)
    found = outcome(only(run_in_loop(airflow, waiting, wait.to_json())))
    assert found.in_review == (reviewed,)
    assert found.timed_out is not None
    assert found.timed_out.endswith("for 4 s (review_timeout)")
    assert time.time() >= needed.until


def test_time_is_over(airflow: Airflow, waiting: SandboxServer) -> None:
    ids = waiting.control.receive_many(2, "Invoice")
    begin = time.time()
    found = outcome(only(run_in_loop(airflow, waiting, begun(ids, timeout=3))))
    assert time.time() >= begin + 3
    text = "2 transactions have not ended within 3 s (timeout)"
    assert found == Outcome(dict.fromkeys(ids, Status.PROCESSING), (), text)
    # It was over before the trigger could begin: one look, since they may have ended meanwhile.
    late = begun(ids, timeout=3) | {"deadline": begin}
    before = waiting.control.count("GET", "/transactions")
    assert outcome(only(run_in_loop(airflow, waiting, late))).timed_out == text
    assert waiting.control.count("GET", "/transactions") == before + 1
    waiting.control.advance(10_000)
    found = outcome(only(run_in_loop(airflow, waiting, late)))
    assert found == Outcome(dict.fromkeys(ids, Status.PROCESSED))


def test_processing_time_stands_still_during_a_review(
    airflow: Airflow, waiting: SandboxServer
) -> None:
    reviewed, begin = in_review(waiting), time.time()
    reported = run_in_loop(airflow, waiting, begun([reviewed], timeout=3, review_timeout=5))
    event, (moment,) = only(reported), reported["fired"]
    wait = Wait.from_json(event["wait"], moment)
    wait.notified(wait.next(moment))
    found = outcome(only(run_in_loop(airflow, waiting, wait.to_json())))
    text = "1 transaction has waited for manual review for 5 s (review_timeout)"
    assert found.timed_out == text
    assert time.time() >= begin + 5


def test_no_trigger_fires_before_the_worker_that_deferred_is_gone(
    airflow: Airflow, sandbox: SandboxServer
) -> None:
    """Else the scheduler may take the resumed task for one that was killed."""
    (name,) = sandbox.control.receive_many(1, "Invoice")
    sandbox.control.set(processing_polls=0)
    waits, begin = [begun([]), begun([name])], time.monotonic()
    found = run_in_loop(airflow, sandbox, *waits, quiet=True)
    assert time.monotonic() - begin >= 10
    assert [event["status"] for (event,) in found["events"]] == ["over", "over"]


def test_refused_login(airflow: Airflow, waiting: SandboxServer) -> None:
    wrong = "not the password of it"
    ids = waiting.control.receive_many(3, "Invoice")
    found = run_in_loop(airflow, waiting, *(begun([each]) for each in ids), password=wrong)
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
    found = run_in_loop(airflow, waiting, begun(ids[:1]), begun(ids[1:]))
    (refused,), (event,) = found["events"]
    assert (refused["status"], refused["retryable"]) == ("error", False)
    assert ids[0] in refused["message"]
    assert event["status"] == "over"


def test_wrong_connections(airflow: Airflow, waiting: SandboxServer) -> None:
    ids = waiting.control.receive_many(1, "Invoice")
    event = only(run_in_loop(airflow, waiting, begun(ids), client_id=""))
    assert (event["status"], event["retryable"]) == ("error", False)
    assert "client_id" in event["message"]


def test_a_connection_that_leads_elsewhere_by_now(
    airflow: Airflow, sandbox_factory: Callable[..., SandboxServer]
) -> None:
    """Transactions of one server would look deleted at the other."""
    old, new = sandbox_factory(seed=1), sandbox_factory(seed=2)
    here = [config_of(each).credentials.place for each in (old, new)]
    ids = [each.control.receive_many(1, "Invoice") for each in (old, new)]
    old.control.set(processing_polls=3)
    first, second = ({**begun(each), "place": place} for each, place in zip(ids, here, strict=True))
    before, after = environment(old, "moved"), environment(new, "moved")
    found = airflow(
        "inside_triggers.run_moved",
        before,
        conn_id="moved",
        waits=[first, second, first],
        then=after["AIRFLOW_CONN_MOVED"],
    )
    assert [each["status"] for each in found] == ["over"] * 3
    assert [list(statuses(each).values()) for each in found] == [["Processed"]] * 3
    event = only(
        airflow(
            "inside_triggers.run_in_loop",
            after,
            kwargs=[{"abbyy_vantage_conn_id": "moved", "wait": first}],
        )
    )
    assert (event["status"], event["retryable"]) == ("error", False)
    assert "was changed to another server while it was in use" in event["message"]
    assert not new.control.count("GET", ids[0][0])


@pytest.mark.slow
def test_missing_connection(airflow: Airflow) -> None:
    found = airflow(
        "inside_triggers.run_in_loop",
        kwargs=[{"wait": begun([ID]), "abbyy_vantage_conn_id": "nobody_knows_it"}],
    )
    event = only(found)
    # It may as well be that Airflow could not read it at the moment.
    assert (event["status"], event["retryable"]) == ("error", True)
    assert "'nobody_knows_it'" in event["message"]


def test_without_a_triggerer(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    ids = sandbox.control.receive_many(2, "Invoice")
    kwargs = {"wait": begun(ids), "abbyy_vantage_conn_id": connect(sandbox)}
    assert only(airflow("inside_triggers.run_inline", kwargs=kwargs))["status"] == "over"


# ------------------------------------------------------- in the real triggerer


@pytest.mark.slow
def test_in_the_triggerer(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    sandbox.control.set(processing_polls=2)
    ids = sandbox.control.receive_many(25, "Invoice")
    conn_id = connect(sandbox)
    begin = airflow.output.stat().st_size
    found = airflow(
        "inside_triggers.run_in_triggerer",
        kwargs=[{"wait": begun([each]), "abbyy_vantage_conn_id": conn_id} for each in ids],
    )
    assert found["failures"] == []
    assert len(found["events"]) == 25
    assert [event["status"] for event in found["events"].values()] == ["over"] * 25
    assert logins(sandbox) == 1
    output = airflow.output.read_bytes()[begin:]
    assert re.search(rf"Transaction {ids[0]} \('.*?'\): Processed", output.decode())
    account = sandbox.credentials
    secrets = [account["password"], account["client_secret"], *sandbox.control.issued_secrets()]
    assert find_leaks(secrets, {"events": found, "output": output}) == []


@pytest.mark.slow
def test_a_trigger_of_another_version_leaves_the_triggerer_and_its_other_triggers_alone(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    (ours,) = sandbox.control.receive_many(1, "Invoice")
    newer = begun([ours])
    newer["rules"] = {**newer["rules"], "a rule of another version": 1}
    found = airflow(
        "inside_triggers.run_in_triggerer",
        kwargs=[
            {"wait": wait, "abbyy_vantage_conn_id": connect(sandbox)}
            for wait in ({}, "no mapping", newer, begun([ours]))
        ],
    )
    assert found["failures"] == []
    events = [found["events"][number] for number in sorted(found["events"])]
    assert [(each["status"], each["retryable"]) for each in events] == [
        *[("error", True)] * 3,
        ("over", False),
    ]


@pytest.mark.slow
def test_rotated_connection_in_the_triggerer(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    ids = waiting.control.receive_many(3, "Invoice")
    tenant = waiting.credentials["tenant_id"]
    conn_id = connect(waiting, login="both@example.com", tenant_id=tenant)
    found = airflow(
        "inside_triggers.run_in_triggerer",
        kwargs=[{"wait": begun([each]), "abbyy_vantage_conn_id": conn_id} for each in ids],
        rotate={"conn_id": conn_id, **columns_of(waiting)},
        sandbox=waiting.url,
    )
    assert found["failures"] == []
    assert [event["status"] for event in found["events"].values()] == ["over"] * 3
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
            kwargs=[{"wait": begun(ids), "abbyy_vantage_conn_id": conn_id}],
        )
        assert found["events"]["1"]["status"] == "over"
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
    notes: list[str] | None = None,
    **options: Any,
) -> list[str]:
    """Kill a trigger and return which transactions were deleted."""
    found = airflow(
        "inside_triggers.kill",
        kwargs={
            "wait": begun(ids),
            "abbyy_vantage_conn_id": conn_id,
            "delete_on_kill": delete_on_kill,
            "notes": notes,
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


def test_ended_before_the_state_of_the_wait_was_read(
    airflow: Airflow, waiting: SandboxServer, connect: Connect
) -> None:
    """It does not know yet what it may delete."""
    (name,) = waiting.control.receive_many(1, "Invoice")
    kwargs = {"wait": begun([name]), "abbyy_vantage_conn_id": connect(waiting)}
    airflow("inside_triggers.kill_before_run", kwargs={**kwargs, "delete_on_kill": True})
    assert not waiting.control.transaction(name)["deleted"]


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
    airflow: Airflow, waiting: SandboxServer, connect: Connect, tmp_path: Path
) -> None:
    ids = waiting.control.receive_many(3, "Invoice")
    waiting.control.add_fault(method="DELETE", path_regex=ids[1], status=403, times=0)
    begin = airflow.output.stat().st_size

    def ledger() -> Ledger:
        return Ledger((in_output(Location.of(tmp_path)), "name"))

    ledger().add({f"key of {each}": LedgerEntry(each, time.time()) for each in ids})
    notes = [str(tmp_path / "{class}"), "name"]
    found = kill(airflow, waiting, connect(waiting), ids, "failed", notes=notes)
    assert found == [ids[0], ids[2]]
    output = airflow.output.read_text()[begin:]
    assert f"Transaction {ids[1]} was not deleted" in output
    # The next try continues with this one alone, and gives others new keys.
    assert list(ledger().load()) == [f"key of {ids[1]}"]
    assert ledger().scopes(TaskKey("scope")) == ["scope/1", "scope"]


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
            "wait": begun(ids),
            "abbyy_vantage_conn_id": connect(waiting),
            "delete_on_kill": True,
        },
        sandbox=waiting.url,
    )
    assert found["events"] == {}
    assert found["code"] == 0
    assert not waiting.control.transaction(ids[0])["deleted"]
