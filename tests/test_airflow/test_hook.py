# SPDX-License-Identifier: Apache-2.0
"""The hook against the sandbox."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from test_airflow.installation import AWKWARD, SERVER, Airflow, columns_of, logins

from vantage_orchestration.sandbox import SandboxServer

SKILLS = ["Invoice", "Receipt", "Document type", "Default process", "Text recognition"]
Connect = Callable[..., str]


def test_constructor_does_nothing(airflow: Airflow) -> None:
    assert airflow("make_hook_without_anything") == []


def test_token_session_and_client(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    used = airflow("use_hook", SERVER, conn_id=connect(sandbox))
    assert used["skills"] == SKILLS
    assert used["status"] == 200
    assert sandbox.control.issued_secrets() == [used["token"]]
    assert find_leaks([used["token"]], {"shown": used["shown"]}) == []
    assert logins(sandbox) == 1


def test_awkward_password(airflow: Airflow, sandbox_factory: Any, connect: Connect) -> None:
    sandbox = sandbox_factory(password=AWKWARD, client_secret=AWKWARD[::-1])
    assert airflow("use_hook", SERVER, conn_id=connect(sandbox))["skills"] == SKILLS
    environment = {"AIRFLOW_CONN_AWKWARD": json.dumps(columns_of(sandbox))}
    assert airflow("use_hook", environment, conn_id="awkward")["skills"] == SKILLS


def test_client_credentials(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    conn_id = connect(
        sandbox,
        login=None,
        password=None,
        client_id="service-client",
        grant_type="client_credentials",
    )
    assert airflow("use_hook", SERVER, conn_id=conn_id)["skills"] == SKILLS


def test_everything_is_masked(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    # A token without the look of a JWT: Airflow masks those by themselves.
    opaque = "opaque-token-of-the-sandbox"
    sandbox.control.add_fault(
        path_regex="/connect/token$", merge_json={"access_token": opaque}, times=0
    )
    sandbox.control.add_fault(path_regex="/skills$", status=200, json=[], times=0)
    masked = airflow("masked", SERVER, conn_id=connect(sandbox))
    assert masked["before_use"] == "[True]"
    assert {name: masked[name] for name in ("token", "password", "client_secret")} == {
        "token": "[***]",
        "password": "[***]",
        "client_secret": "[***]",
    }
    assert masked["nothing"] == "[an ordinary word]"


def test_proxy_is_masked(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    proxy = "http://someone:made-up-word@127.0.0.1:3128"
    masked = airflow("masked", SERVER, conn_id=connect(sandbox, proxy=proxy), ask=False)
    assert masked["proxy"] == "[***]"


def test_async_token(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    sandbox.control.add_fault(path_regex="/connect/token$", delay=0.3)
    told = airflow("async_token", SERVER, conn_id=connect(sandbox))
    assert told["tokens"] == sandbox.control.issued_secrets()
    assert told["masked"] == "***"
    assert told["beats"] > 5
    assert logins(sandbox) == 1


def test_async_token_refused(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    told = airflow("async_token", SERVER, conn_id=connect(sandbox, password="made-up-wrong"))
    assert told["error"]["final"]
    assert logins(sandbox) == 1
    missing = airflow("async_token", SERVER, conn_id="nobody_knows")["error"]
    assert not missing["final"]
    assert "nobody_knows" in missing["text"]


def test_copies_make_their_own_client(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    conn_id = connect(sandbox)
    told = airflow("copies_of_hook", SERVER, conn_id=conn_id)
    assert told["ids"] == [conn_id] * 3
    assert told["same"] == [True] * 3  # One token for the process, whoever asks.
    assert told["token_refused"]
    secrets = [told["token"], sandbox.credentials["password"]]
    assert find_leaks(secrets, {"pickle": bytes.fromhex(told["pickled"])}) == []


def test_changed_password_is_used(
    airflow: Airflow, sandbox_factory: Any, connect: Connect, tmp_path: Path
) -> None:
    old = sandbox_factory(password="old-made-up-password")
    conn_id = connect(old)
    port = int(old.url.rpartition(":")[2])
    first, go = tmp_path / "first", tmp_path / "go"
    new: list[SandboxServer] = []

    def change() -> None:
        """Restart the server with another password; it knows none of the old one's tokens."""
        while not first.exists():
            time.sleep(0.02)
        old.stop()
        new.append(SandboxServer(port=port, seed=2, password="new-made-up-password").start())
        go.touch()

    changing = threading.Thread(target=change)
    changing.start()
    try:
        told = airflow(
            "rotate",
            SERVER,
            conn_id=conn_id,
            columns={"conn_id": conn_id, **columns_of(old, password="new-made-up-password")},
            first=str(first),
            go=str(go),
        )
    finally:
        first.touch()
        changing.join()
        for server in new:
            server.stop()
    assert told["skills"] == [len(SKILLS)] * 2
    assert told["password"] == "new-made-up-password"
    assert len(set(told["tokens"])) == 2


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"password": "made-up-wrong"}, "CredentialsRejected"),
        ({"client_secret": "made-up-wrong"}, "ClientRejected"),
        ({"scope": "nonsense"}, "ScopeRejected"),
        (
            {"login": "external@example.com", "client_id": "external-client"},
            "GrantNotAllowed",
        ),
    ],
)
def test_refused_login_is_final(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect, changes: dict[str, str], kind: str
) -> None:
    error = airflow("use_hook", SERVER, conn_id=connect(sandbox, **changes))["error"]
    assert error["final"]
    assert kind in error["classes"]
    assert logins(sandbox) == 1
    secrets = ["made-up-wrong", sandbox.credentials["client_secret"]]
    assert find_leaks(secrets, {"error": error["text"] + error["shown"]}) == []


def test_unusable_connection_is_final(
    airflow: Airflow, sandbox: SandboxServer, connect: Connect
) -> None:
    error = airflow("use_hook", SERVER, conn_id=connect(sandbox, conn_type="http"))["error"]
    assert error["final"]
    assert "ConfigurationError" in error["classes"]
    assert "abbyy_vantage" in error["text"]


def test_a_connection_that_is_not_found_is_retried(airflow: Airflow) -> None:
    """Airflow reports a secrets backend or API server that does not answer by the same error."""
    missing = airflow("use_hook", SERVER, conn_id="nobody_knows")["error"]
    assert "AirflowNotFoundException" in missing["classes"]
    assert not missing["final"]
    assert "nobody_knows" in missing["text"]


def test_errors_that_a_retry_can_cure_stay(airflow: Airflow) -> None:
    told = airflow("final_errors")
    assert {entry["name"] for entry in told if entry["retryable"]} >= {"WaitTimeout", "Throttled"}
    for entry in told:
        name = entry["name"]
        assert entry["same"] == entry["retryable"], name
        assert entry["final"] == entry["airflow"] == (not entry["retryable"]), name
        always = ("kind", "again", "text", "details", "one_class")
        assert all(entry[key] for key in always), entry
        assert entry["copies"] == entry["copied"] == [True] * 3, entry
        assert entry["name_shown"] == f"vantage_orchestration.errors.{name}"


def test_dag_test_is_not_sent_what_it_is_to_mask(airflow: Airflow) -> None:
    found = airflow("mask_in_process", text="a made-up token to mask")
    assert found["redacted"] == ["***", "***"]
    assert "a made-up token to mask" not in found["logs"]
    assert "another made-up text" in found["logs"]  # It would have been there.


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("connection", [f"user-of-vantage_{number}" for number in range(12)]),
        ("variable", [f"of-{number}" for number in range(12)]),
        ("state", [f"of-{number}" for number in range(12)]),
        ("xcom", [True] * 12),
        # Stores that load their connections when they are first used, in any thread.
        ("store", [len(f"user-of-vantage_{number}") for number in range(12)]),
        ("store_with_loop", [len(f"user-of-vantage_{number}") for number in range(12)]),
    ],
)
def test_threads_take_turns_with_the_supervisor_of_dag_test(
    airflow: Airflow, kind: str, answers: list[Any]
) -> None:
    found = airflow("ask_in_process", kind=kind, threads=12)
    assert found == {"found": answers, "there": True, "left": False}


# --------------------------------------------------------- test_connection


def test_test_connection(airflow: Airflow, sandbox: SandboxServer, connect: Connect) -> None:
    good, text = airflow("try_connection", SERVER, conn_id=connect(sandbox))
    assert good
    assert sandbox.url.rpartition("/")[2] in text
    assert "may use 5 skills" in text
    assert "UTC" in text
    assert find_leaks([*sandbox.control.issued_secrets()], {"text": text}) == []


@pytest.mark.parametrize(
    ("changes", "fault", "good", "part"),
    [
        ({"password": "made-up-wrong"}, {}, False, "was refused"),
        ({"conn_type": "abbyy_vantage", "region": "eu"}, {}, False, "both region"),
        ({}, {"path_regex": "/skills$", "status": 403}, True, "may not list skills"),
        ({}, {"path_regex": "/skills$", "status": 500}, False, "the API does not work"),
        ({}, {"path_regex": "/skills$", "garbage": True}, False, "the API does not work"),
        (
            {},
            {"path_regex": "/connect/token$", "status": 400, "body": "echo {password}"},
            False,
            "refused",
        ),
        ({}, {"path_regex": "/connect/token$", "status": 302}, False, "redirect"),
        ({"host": "http://127.0.0.1:9"}, {}, False, "127.0.0.1:9"),
    ],
)
def test_test_connection_that_fails(
    airflow: Airflow,
    sandbox: SandboxServer,
    connect: Connect,
    changes: dict[str, str],
    fault: dict[str, Any],
    good: bool,
    part: str,
) -> None:
    account = sandbox.credentials
    if fault:
        body = fault.get("body")
        told = {"body": body.format(**account)} if body else {}
        sandbox.control.add_fault(**{**fault, **told}, times=0)
    found, text = airflow("try_connection", SERVER, conn_id=connect(sandbox, **changes))
    assert (found, part in text) == (good, True), text
    secrets = [account["password"], account["client_secret"], "made-up-wrong"]
    assert find_leaks([*secrets, *sandbox.control.issued_secrets()], {"text": text}) == []
