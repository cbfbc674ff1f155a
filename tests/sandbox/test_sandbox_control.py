# SPDX-License-Identifier: Apache-2.0
"""Journal, control routes, settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import requests

from vantage_orchestration.sandbox import SandboxControl, SandboxServer, SandboxSettings
from vantage_orchestration.sandbox.control_client import SandboxControlError
from vantage_orchestration.sandbox.settings import SettingsError


def test_journal_tells_everything(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)], model={})
    api.ask_token(api.form(password="wrong"))
    token, launch, refused = api.control.journal("POST")
    assert (token["operation"], token["grant"], token["outcome"]) == (
        "requestToken",
        "password",
        "issued",
    )
    name = api.account["username"]
    assert token["user_hash"] == hashlib.sha256(name.encode()).hexdigest()[:16]
    assert refused["outcome"] == "invalid_grant"
    assert launch["operation"] == "launchTransaction"
    assert launch["template"] == "/api/publicapi/v1/transactions/launch"
    assert launch["query"] == {"skillId": [api.skill("Invoice")]}
    assert launch["transaction_id"] == key
    assert launch["skill_id"] == api.skill("Invoice")
    assert launch["status"] == 201
    assert launch["content_type"].startswith("multipart/form-data")
    assert launch["request_bytes"] > len(invoice)
    assert launch["files"] == [
        {
            "name": "a.pdf",
            "size": len(invoice),
            "sha256": hashlib.sha256(invoice).hexdigest(),
        }
    ]


def test_journal_search(api: Any) -> None:
    key = api.create()
    seq = api.control.journal()[-1]["seq"]
    api.post(f"/transactions/{key}/start")
    api.get("/skills")
    assert api.control.count("POST", "/start$") == 1
    assert api.control.count("post") == 3
    assert api.control.count(path_regex="/skills") == 1
    assert [e["operation"] for e in api.control.journal(since=seq)] == [
        "startTransaction",
        "listSkills",
    ]
    assert api.control.journal(path_regex="/start$")[0]["status"] == 400


def test_journal_holds_no_secret(make_api: Any, invoice: bytes) -> None:
    api = make_api(review=True, processing_polls=0)
    key = api.launch([("a.pdf", invoice)])
    link = api.read(key)["manualReviewLink"]
    requests.get(link, timeout=30)
    mobile = api.post(
        "/transactions", json={"skillId": "Receipt", "generateMobileInputLink": True}
    ).json()["mobileInputLink"]
    requests.get(mobile, timeout=30)
    password, secret = api.account["password"], api.account["client_secret"]
    api.get(f"/skills/{api.token}")
    api.get("/skills", params={"password": password})
    requests.get(api.base + "/skills", params={secret: "x", "y": secret}, timeout=30)
    text = json.dumps(api.control.journal(), ensure_ascii=False)
    view = json.dumps(api.control.transactions())
    secrets = [*api.control.issued_secrets(), password, secret]
    assert len(secrets) >= 5
    assert any(s in link for s in secrets)
    assert any(s in mobile for s in secrets)
    for hidden in secrets:
        assert hidden not in text
        assert json.dumps(hidden)[1:-1] not in text
        assert hidden not in view
    assert api.account["username"] not in text
    assert text.count("***") >= 6


def test_secrets_are_not_in_texts_for_people(api: Any) -> None:
    shown = f"{api.server.settings!r} {api.server.state.accounts!r} {api.server!r}"
    shown += repr(list(api.server.state.tokens.tokens.values()))
    for hidden in (api.account["password"], api.account["client_secret"], api.token):
        assert hidden not in shown


def test_credentials_and_skills(api: Any) -> None:
    found = api.control.credentials()
    assert {k: found[k] for k in api.server.credentials} == api.server.credentials
    assert len(found["tenants"]) == 3
    assert sum(client["secret_expired"] for client in found["clients"]) == 1
    flags = {s["name"]: (s["published"], s["restricted"]) for s in api.control.skills()}
    assert flags["Draft invoice"] == (False, False)
    assert flags["Payroll"] == (True, True)


def test_other_account() -> None:
    given = {"username": "a@example.com", "password": "p", "client_id": "c", "client_secret": "s"}
    with SandboxServer(tenant_id="0D0F6B7E-58C0-4B3F-9A7A-1A2B3C4D5E6F", **given) as server:
        tenant = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
        assert server.credentials == {**given, "tenant_id": tenant}
        form = {**given, "grant_type": "password", "scope": "openid permissions global.wildcard"}
        url = f"{server.url}/auth2/{tenant}/connect/token"
        assert requests.post(url, data=form, timeout=30).status_code == 200


def test_change_settings(api: Any) -> None:
    before = api.control.settings()
    assert before["processing_polls"] == 2
    assert "password" not in before
    after = api.control.set(processing_polls=0, review_skills=["Receipt"], processing_seconds=1)
    assert after == {
        **before,
        "processing_polls": 0,
        "review_skills": ["Receipt"],
        "processing_seconds": 1.0,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"password": "x"},
        {"seed": 2},
        {"processing_polls": "2"},
        {"processing_polls": 1.5},
        {"processing_polls": -1},
        {"processing_polls": True},
        {"review": 1},
        {"outcome": "Done"},
        {"parameter_filter": "some"},
        {"list_lag": -1},
        {"list_new": 1},
        {"outcome_error": None},
        {"review_skills": "Receipt"},
        {"exports": {"Receipt": ["Docx"]}},
        {"exports": []},
        {"rule_errors": [{"customMessage": "x"}]},
        {"max_files": 0},
        {"token_lifetime": 0},
    ],
)
def test_wrong_settings_are_refused(api: Any, change: dict[str, Any]) -> None:
    before = api.control.settings()
    with pytest.raises(SandboxControlError):
        api.control.set(**change)
    assert api.control.settings() == before


def test_wrong_settings_at_the_start() -> None:
    with pytest.raises(SettingsError, match="must not be empty"):
        SandboxSettings(password="")
    with pytest.raises(TypeError):
        SandboxServer(colour="red")
    with pytest.raises(SettingsError, match="no setting"):
        SandboxServer(SandboxSettings(), colour="red")


def test_reset(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)])
    api.control.set(processing_polls=9)
    for _ in range(5):
        api.ask_token(api.form(password="wrong"))
    api.control.add_fault(path_regex=".", status=500, times=0)
    old = api.token
    api.control.reset()
    assert api.control.journal() == []
    assert api.control.faults() == []
    assert api.control.transactions() == []
    assert api.control.settings()["processing_polls"] == 2
    assert api.get("/skills").status_code == 401
    api.sign_in()
    assert api.token != old
    assert api.create() != key


def test_clock_goes_forward_only(api: Any) -> None:
    with pytest.raises(SandboxControlError, match="only goes forward"):
        api.control.advance(-1)


def test_control_errors_name_the_call(api: Any) -> None:
    with pytest.raises(SandboxControlError, match="status must be one of"):
        api.control.finish_review("x", "Done")
    with pytest.raises(KeyError):
        api.control.transaction("x")
    with pytest.raises(KeyError):
        api.control.skill_id("x")
    with pytest.raises(SandboxControlError, match="404"):
        SandboxControl(api.server.url + "/nowhere").health()


def test_control_is_for_this_machine_only() -> None:
    """Call the application as if from another machine; a real one can't be had here."""
    import asyncio

    from vantage_orchestration.sandbox.app import build_app
    from vantage_orchestration.sandbox.state import SandboxState

    state = SandboxState(SandboxSettings())
    app = build_app(state)

    def status(client: str) -> int:
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/sandbox/credentials",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": (client, 1234),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        return int(sent[0]["status"])

    assert status("127.0.0.1") == 200
    assert status("::1") == 200
    assert status("192.0.2.7") == 404
    assert status("") == 404
    state.close()


def test_control_is_for_programs_and_not_for_pages_of_other_sites(api: Any) -> None:
    """A browser runs on this machine too, and so do the pages that it has opened."""
    url, own = f"{api.server.url}/sandbox/settings", api.server.url
    port = own.rpartition(":")[2]
    json_type = {"Content-Type": "application/json"}

    def status(headers: dict[str, str], data: str = '{"processing_polls": 7}') -> int:
        reply = requests.post(url, data=data, headers=headers, timeout=30)
        if reply.status_code == 403:
            assert reply.json()["error"]
        return reply.status_code

    refused = [
        # A name that was rebound to this machine.
        {**json_type, "Host": f"rebound.example.com:{port}"},
        {**json_type, "Host": f"127.0.0.1.example.com:{port}"},
        {**json_type, "Host": f"localhost.example.com:{port}"},
        {**json_type, "Host": f"127.0.0.1:{port}@example.com"},
        {**json_type, "Host": "[::1"},
        {**json_type, "Host": ""},
        # A page of another site or port.
        {**json_type, "Origin": "https://example.com"},
        {**json_type, "Origin": "http://127.0.0.1:1"},
        {**json_type, "Origin": "null"},
        {**json_type, "Origin": ""},
        {**json_type, "Origin": own, "Sec-Fetch-Site": "cross-site"},
        {**json_type, "Sec-Fetch-Site": "same-site"},
        # What a form can send.
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=application/json"},
        {},
    ]
    assert [status(headers) for headers in refused] == [403] * len(refused)
    # The body has no length here.
    pieces = requests.post(url, data=iter([b'{"processing_polls": 7}']), timeout=30)
    assert pieces.status_code == 403
    for method, path in (("GET", "secrets"), ("GET", "health"), ("POST", "reset")):
        call = f"{own}/sandbox/{path}"
        for headers in ({"Host": "example.com"}, {"Origin": "null"}):
            reply = requests.request(method, call, headers=headers, timeout=30)
            assert reply.status_code == 403, (path, headers)
    assert api.control.settings()["processing_polls"] == 2
    accepted = [
        {**json_type},
        {**json_type, "Host": f"localhost:{port}"},
        {**json_type, "Host": "LOCALHOST"},
        {**json_type, "Host": f"[::1]:{port}"},
        {**json_type, "Host": "127.8.9.1"},
        {**json_type, "Origin": own, "Sec-Fetch-Site": "same-origin"},
        {**json_type, "Sec-Fetch-Site": "none"},
        {"Content-Type": "application/json; charset=utf-8"},
    ]
    assert [status(headers) for headers in accepted] == [200] * len(accepted)


def test_control_answers_under_the_name_that_was_given(api: Any) -> None:
    import asyncio

    from vantage_orchestration.sandbox.control import control_routes

    async def call(host: str) -> int:
        route = next(r for r in control_routes(api.server.state, "sandbox.local") if r.name)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", host.encode())]
        scope = {"type": "http", "method": "GET", "path": "/sandbox/health", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "query_string": b"", "path_params": {}}
        await route.handle(scope, None, send)  # type: ignore[arg-type, attr-defined]
        return int(sent[0]["status"])

    assert asyncio.run(call("Sandbox.local:80")) == 200
    assert asyncio.run(call("other.local")) == 403


def test_package_exports_are_lazy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, vantage_orchestration.sandbox, vantage_orchestration.sandbox.command;"
        "print([m for m in ('starlette', 'uvicorn', 'requests', 'pypdf', 'pendulum')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_export() -> None:
    import vantage_orchestration.sandbox as package

    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


def test_sandbox_stands_alone() -> None:
    """The sandbox imports nothing from the rest of the package."""
    import ast
    from pathlib import Path

    import vantage_orchestration.sandbox as package

    folder = Path(str(package.__file__)).parent
    checked = 0
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                checked += 1
                assert node.level < 2, path
                assert not (node.module or "").startswith("vantage_orchestration"), path
            elif isinstance(node, ast.Import):
                assert not any(n.name.startswith("vantage_orchestration") for n in node.names)
    assert checked > 50


def test_factory(sandbox_factory: Any) -> None:
    first, second = sandbox_factory(), sandbox_factory(seed=2)
    assert first.url != second.url
    assert second.control.health()["status"] == "ok"


def test_every_operation_of_the_contract_is_served(api: Any) -> None:
    """Sections 3.1 to 3.3 and the token endpoints; browser sign-in, catalogs, invites are not."""
    import openapi
    from starlette.routing import Route

    from vantage_orchestration.sandbox.app import ApiRoutes, TokenRoutes

    state = api.server.state
    served = {
        (method, route.path, route.name)
        for route in [*ApiRoutes(state).routes(), *TokenRoutes(state).routes()]
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    tags = {"Skills", "Transactions", "TransactionDocuments", "Authentication"}
    declared = {
        (method.upper(), path, item[method]["operationId"])
        for path, item in openapi.loaded().document["paths"].items()
        for method in ("get", "post", "delete")
        if method in item and set(item[method]["tags"]) <= tags
    }
    assert served == {entry for entry in declared if entry[2] != "authorize"}
    assert len(served) == 23
