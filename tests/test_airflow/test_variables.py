# SPDX-License-Identifier: Apache-2.0
"""The token store in Airflow Variables: tasks and servers share one login."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from test_airflow.installation import SERVER, Airflow, logins

from vantage_orchestration.airflow import variables
from vantage_orchestration.airflow.variables import KEY_PREFIX, AirflowVariables
from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.sandbox import SandboxServer

Connect = Callable[..., str]
NAME = "0123456789abcdef" * 4


def run(airflow: Airflow, dag_id: str, run_id: str, conn_id: str, **options: Any) -> dict[str, Any]:
    """Run a Dag, whose one task gets a process of its own."""
    return airflow("run", dag_id=dag_id, run_id=run_id, conf={"conn_id": conn_id}, **options)


def new_variables(airflow: Airflow, before: dict[str, Any]) -> dict[str, Any]:
    after = airflow("stored_variables")
    return {key: value for key, value in after.items() if key not in before}


def test_two_tasks_make_one_login(
    airflow: Airflow, sandbox_factory: Callable[..., SandboxServer], connect: Connect
) -> None:
    # Secrets of its own: other tests leave some in the database on purpose.
    sandbox = sandbox_factory(
        seed=4711, password="password of this test", client_secret="client secret of this test"
    )
    conn_id = connect(sandbox, store="orchestrator")
    before = airflow("stored_variables")
    for number in range(2):
        report = run(airflow, "count_skills", f"store-{number}", conn_id)
        assert report["state"] == "success", airflow.log_text("count_skills", f"store-{number}")
    assert logins(sandbox) == 1
    assert sandbox.control.count("GET", "/skills$") == 2

    ((key, row),) = new_variables(airflow, before).items()
    assert key.startswith(KEY_PREFIX)
    assert "ABBYY Vantage" in row["description"]
    # The server takes the same token, without a supervisor; here it also tells it.
    found = airflow("use_hook", SERVER, conn_id=conn_id)
    assert found["status"] == 200
    assert logins(sandbox) == 1
    account = sandbox.credentials
    secrets = [found["token"], account["username"], account["password"], account["client_secret"]]
    assert find_leaks(secrets, {"variable": key + repr(row)}) == []
    logs = airflow.log_text("count_skills", "store-0") + airflow.log_text("count_skills", "store-1")
    assert find_leaks([found["token"], account["password"]], {"logs": logs}) == []
    # The user name is an ordinary column of the connection, so that this column is left out.
    sealed = [found["token"], account["password"], account["client_secret"]]
    assert find_leaks(sealed, {"database": airflow.database}) == []


def test_task_coroutine_and_server_share_a_token(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    # The server is the one that writes here.
    ok, text = airflow("try_connection", SERVER, conn_id=conn_id)
    assert ok, text
    report = run(airflow, "count_skills_async", "store-async", conn_id)
    assert report["state"] == "success", airflow.log_text("count_skills_async", "store-async")
    report = run(airflow, "count_skills", "store-after-async", conn_id)
    assert report["state"] == "success"
    assert logins(sandbox) == 1


def test_coroutine_writes_the_variable(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    for number in range(2):
        report = run(airflow, "count_skills_async", f"store-async-{number}", conn_id)
        assert report["state"] == "success"
    assert logins(sandbox) == 1


def test_triggers_share_a_token(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    before = airflow("stored_variables")
    for _ in range(2):
        found = airflow("run_trigger", conn_id=conn_id)
        assert found["failures"] == []
        assert found["events"][0].startswith("AccessToken(")
    assert run(airflow, "count_skills", "store-after-trigger", conn_id)["state"] == "success"
    assert logins(sandbox) == 1
    assert len(new_variables(airflow, before)) == 1


def test_trigger_that_blocks_its_event_loop_gets_a_token(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    found = airflow(
        "run_trigger",
        conn_id=connect(sandbox, store="orchestrator"),
        blocking=True,
        patience=0.2,
    )
    assert found["failures"] == []
    assert found["events"][0].startswith("AccessToken(")
    assert logins(sandbox) == 1


def test_processes_at_the_same_moment(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, tmp_path: Path
) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    found = airflow("race", SERVER, conn_id=conn_id, folder=str(tmp_path), processes=5)
    assert len(found) == 5
    assert len(set(found)) == 1
    assert logins(sandbox) == 1


@pytest.mark.parametrize("changes", [{}, {"password": "not the password of it"}])
def test_hosts_at_the_same_moment(
    airflow: Airflow,
    sandbox: SandboxServer,
    connect: Connect,
    tmp_path: Path,
    changes: dict[str, str],
) -> None:
    conn_id = connect(sandbox, store="orchestrator", **changes)
    folder = tmp_path / "outcomes"
    folder.mkdir()
    found = airflow("race", SERVER, conn_id=conn_id, folder=str(folder), processes=6, hosts=True)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert (found[0] == "CredentialsRejected") == bool(changes)
    assert logins(sandbox) == 1


def test_refused_login_is_sent_once(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    conn_id = connect(sandbox, store="orchestrator", password="not the password of it")
    before = airflow("stored_variables")
    for number in range(2):
        report = run(airflow, "count_skills", f"store-refused-{number}", conn_id)
        # Failed for good: no retry is waited for.
        assert report["tasks"] == {"count[-1]": ["failed", 1]}
    assert logins(sandbox) == 1
    found = new_variables(airflow, before)
    assert len(found) == 1
    secrets = ["not the password of it", sandbox.credentials["username"]]
    assert find_leaks(secrets, {"variables": repr(found)}) == []
    assert airflow("loaded_credential", name=conn_id)["found"] == "Refusal"


@pytest.mark.parametrize(("refused", "times"), [(3, 1), (100, 2)], ids=["a while", "for good"])
def test_execution_api_that_gives_no_answer(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, refused: int, times: int
) -> None:
    # Airflow's own client repeats requests. If that is in vain, tasks work without the store.
    conn_id = connect(sandbox, store="orchestrator")
    for number in range(2):
        name = f"store-{conn_id}-{number}"
        report = run(airflow, "count_skills", name, conn_id, refused=refused)
        assert report["tasks"] == {"count[-1]": ["success", 1]}, airflow.log_text(
            "count_skills", name
        )
    assert logins(sandbox) == times


@pytest.mark.parametrize("broken", ["no base64: ä", "bm8gZW50cnk=", "{}"])
def test_broken_variable_is_replaced(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, broken: str
) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    before = airflow("stored_variables")
    first = airflow("use_hook", SERVER, conn_id=conn_id)
    ((key, _),) = new_variables(airflow, before).items()
    airflow("set_variable", key=key, value=broken)
    number = f"store-broken-{conn_id}"
    assert run(airflow, "count_skills", number, conn_id)["state"] == "success"
    assert logins(sandbox) == 2
    assert airflow("stored_variables")[key]["value"] != broken
    again = airflow("use_hook", SERVER, conn_id=conn_id)
    assert logins(sandbox) == 2
    assert again["token"] != first["token"]


def test_other_stores_make_no_variable(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    before = airflow("stored_variables")
    for store in ("file", "memory"):
        assert airflow("use_hook", SERVER, conn_id=connect(sandbox, store=store))["status"] == 200
    assert airflow("stored_variables") == before


@pytest.mark.parametrize("environment", [{}, SERVER], ids=["command", "server"])
def test_in_a_process_with_a_database(airflow: Airflow, environment: dict[str, str]) -> None:
    found = airflow("use_store", environment, name=NAME)
    assert found == {
        "before": None,
        "one": b"\0one".hex(),
        "created": [False, True, False],
        "two": b"\0two".hex(),
        "after": None,
    }


def test_credential_by_name(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    conn_id = connect(sandbox, store="orchestrator")
    shown = {"username": sandbox.credentials["username"], "label": "Airflow Variable"}
    assert airflow("loaded_credential", name=conn_id) == {**shown, "found": "NoneType"}
    assert run(airflow, "count_skills", "store-by-name", conn_id)["state"] == "success"
    assert airflow("loaded_credential", name=conn_id) == {**shown, "found": "AccessToken"}
    failed = airflow("loaded_credential", name=conn_id, forget=True, kept=True)
    assert "Airflow Variable store of tokens did not remove the entry" in failed["error"]
    assert "made-up text" not in failed["error"]
    assert airflow("loaded_credential", name=conn_id) == {**shown, "found": "AccessToken"}
    found = airflow("loaded_credential", name=conn_id, forget=True)
    assert found == {**shown, "found": "NoneType"}
    missing = airflow("loaded_credential", name="nobody")
    assert "'nobody'" in missing["error"]
    assert missing["context"] == "None"


@pytest.mark.parametrize("trouble", ["api", "table"])
def test_a_refusal_is_remembered_while_airflow_can_not_read_it(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, trouble: str
) -> None:
    """Each login with a wrong password brings the account nearer to its lock."""
    conn_id = connect(sandbox, store="orchestrator", password=f"wrong by {trouble}")
    first, second = airflow("refused_twice", conn_id=conn_id, trouble=trouble)
    assert "remembered" not in first
    assert "remembered from an earlier try" in second
    assert logins(sandbox) == 1


def test_patience_is_longer_than_a_supervisor_tries(airflow: Airflow) -> None:
    assert airflow("longest_request") <= variables.PATIENCE


def test_airflow_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    asked: list[str] = []

    def get(key: str) -> str | None:
        asked.append(key)
        answer.wait()
        return None

    monkeypatch.setattr(variables, "_get", get)
    monkeypatch.setattr(variables, "PATIENCE", 0.05)
    store = AirflowVariables()
    try:
        for _ in range(2):
            with pytest.raises(StateUnavailable, match="no answer"):
                store.read(NAME)
        assert asked == [KEY_PREFIX + NAME]
    finally:
        answer.set()


def test_errors_of_airflow_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        @staticmethod
        def set(key: str, value: str, description: str) -> None:
            raise TimeoutError(key)

    monkeypatch.setattr(variables, "_variable", lambda: Failing)
    store = AirflowVariables()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            store.write(NAME, b"entry")
