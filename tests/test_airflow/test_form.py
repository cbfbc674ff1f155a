# SPDX-License-Identifier: Apache-2.0
"""The connection form and its buttons, through the API server's own routes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from leaks import find_leaks
from test_airflow.installation import Airflow, columns_of, logins

from vantage_orchestration.airflow.connection import COLUMNS
from vantage_orchestration.config import FIELDS
from vantage_orchestration.sandbox import SandboxServer

#: What the extra holds besides, with the secrets masked as the page shows them.
ELSEWHERE: dict[str, dict[str, Any]] = {
    "nothing": {"read_timeout": 25},
    "proxy": {"proxy": "http://127.0.0.1:9"},
    "verify": {"verify": False},
    "ca_bundle": {"ca_bundle": "/"},
    "auth_path": {"auth_path": "/elsewhere"},
    "api_path": {"api_path": "/elsewhere"},
    "tenant_id": {"tenant_id": "t"},
    "client_auth": {"client_auth": "basic"},
    "store_path": {"store_path": "/tmp"},
}


@pytest.fixture(scope="module")
def server() -> Any:
    with SandboxServer() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def replies(airflow: Airflow, server: SandboxServer) -> dict[str, Any]:
    """The replies to what the pages for connections send."""
    good = {"connection_id": "from_the_form", **columns_of(server)}
    bad = {**good, "connection_id": "another", "password": "made-up-wrong-word"}
    extra = json.loads(good["extra"])
    shown = json.dumps({**extra, "client_secret": "***"})
    calls = {
        "meta": {"method": "GET", "path": "/ui/connections/hook_meta"},
        "create": {"method": "POST", "path": "/api/v2/connections", "json": good},
        "show": {"method": "GET", "path": "/api/v2/connections/from_the_form"},
        "test": {"method": "POST", "path": "/api/v2/connections/test", "json": good},
        # As the page does for a stored one: without what it was not shown.
        "test_stored": {
            "method": "POST",
            "path": "/api/v2/connections/test",
            "json": {"connection_id": "from_the_form", "conn_type": "abbyy_vantage"},
        },
        # As the page does for one in the list, which has no port.
        "test_listed": {
            "method": "POST",
            "path": "/api/v2/connections/test",
            "json": {**good, "description": "", "password": "***", "extra": shown, "port": 0},
        },
        "test_bad": {"method": "POST", "path": "/api/v2/connections/test", "json": bad},
    }
    for name, changes in ELSEWHERE.items():
        masked = {**good, "password": "***"}
        masked["extra"] = json.dumps({**extra, "client_secret": "***", **changes})
        calls[name] = {"method": "POST", "path": "/api/v2/connections/test", "json": masked}
    half = {**good, "extra": json.dumps({**extra, "client_secret": "***", "auth_path": "/x"})}
    calls["half"] = {"method": "POST", "path": "/api/v2/connections/test", "json": half}
    unset = {name: value for name, value in half.items() if name != "password"}
    calls["unset"] = {"method": "POST", "path": "/api/v2/connections/test", "json": unset}
    other = {**good, "connection_id": "another_kind", "conn_type": "http"}
    calls["create_other"] = {"method": "POST", "path": "/api/v2/connections", "json": other}
    kind = {**good, "connection_id": "another_kind", "password": "***"}
    calls["kind"] = {"method": "POST", "path": "/api/v2/connections/test", "json": kind}
    own = {**good, "extra": json.dumps({**extra, "read_timeout": 20, "verify": False})}
    calls["own"] = {"method": "POST", "path": "/api/v2/connections/test", "json": own}
    environment = {"_AIRFLOW_PROCESS_CONTEXT": "server"}
    found = airflow("call_api", environment, calls=list(calls.values()))
    return dict(zip(calls, found, strict=True))


def test_form(replies: dict[str, Any]) -> None:
    (form,) = [
        each for each in replies["meta"]["json"] if each["connection_type"] == "abbyy_vantage"
    ]
    assert form["hook_name"] == "ABBYY Vantage"
    assert form["hook_class_name"] == "vantage_orchestration.airflow.hooks.vantage.VantageHook"
    fields = form["extra_fields"]
    kept = [spec for spec in FIELDS if spec.name not in COLUMNS]
    assert list(fields) == [spec.name for spec in kept]
    for spec in kept:
        shown = fields[spec.name]
        assert shown["schema"]["title"] == spec.label
        assert shown["description"] == spec.description
        assert shown["value"] == (spec.default if spec.default != "" else None)
        assert (shown["schema"].get("format") == "password") == (spec.kind == "secret")
    assert fields["region"]["schema"]["enum"] == ["us", "eu", "au", "custom"]
    needed = [name for name, shown in fields.items() if "null" not in shown["schema"]["type"]]
    assert needed == ["region", "client_id", "client_secret"]
    assert fields["verify"]["schema"]["type"] == ["boolean", "null"]
    assert fields["read_timeout"]["schema"]["type"] == ["number", "null"]
    standard = form["standard_fields"]
    assert standard["login"]["title"] == "Username"
    assert standard["host"]["title"] == "Base URL"
    assert standard["url_schema"]["hidden"] is True
    assert standard["port"]["hidden"] is True
    assert standard["password"]["hidden"] is False


def test_secrets_are_not_shown(replies: dict[str, Any], server: SandboxServer) -> None:
    assert replies["create"]["status"] == 201
    shown = replies["show"]["json"]
    assert json.loads(shown["extra"])["client_secret"] == "***"
    assert json.loads(shown["extra"])["client_id"] == server.credentials["client_id"]
    account = server.credentials
    secrets = [account["password"], account["client_secret"], *server.control.issued_secrets()]
    assert find_leaks([*secrets, "made-up-wrong-word"], {"replies": json.dumps(replies)}) == []


def test_button_test_sends_no_stored_secret_elsewhere(
    replies: dict[str, Any], server: SandboxServer
) -> None:
    assert replies["create_other"]["status"] == 201
    for name in (*ELSEWHERE, "half", "unset", "kind"):
        assert replies[name]["status"] == 200, replies[name]
        answer = replies[name]["json"]
        if name == "nothing":
            assert answer["status"] is True, answer
            continue
        assert answer["status"] is False, (name, answer)
        assert "would send the stored" in answer["message"], (name, answer)
        assert "Nothing was sent" in answer["message"]
    assert "auth_path" in replies["half"]["json"]["message"]
    assert "password" not in replies["half"]["json"]["message"].partition(" to another")[0]
    assert replies["own"]["json"]["status"] is True, replies["own"]
    assert not server.control.journal(path_regex="elsewhere")


def test_button_test(replies: dict[str, Any], server: SandboxServer) -> None:
    for name in ("test", "test_stored", "test_listed"):
        assert replies[name]["status"] == 200, replies[name]
        assert replies[name]["json"]["status"] is True, replies[name]
        assert "Logged in to ABBYY Vantage" in replies[name]["json"]["message"]
    assert replies["test_bad"]["json"]["status"] is False
    assert "was refused" in replies["test_bad"]["json"]["message"]
    refused = [
        entry
        for entry in server.control.journal("POST", "/connect/token$")
        if entry["status"] == 400
    ]
    assert len(refused) == 1
    # The good one is kept and used for both good tests; other settings are other logins.
    assert logins(server) == 3
