# SPDX-License-Identifier: Apache-2.0
"""A refused login is sent once, however a server words it, and what is no answer is named so."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import textwrap
from urllib.parse import unquote_plus

import pytest
import requests
from endpoints import Answer, Endpoint, serving

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.token import TokenSource, source
from vantage_orchestration.token.request import hold_of, read_reply

QUICK = RetryPolicy(attempts=3, first_wait=0.001, max_wait=0.002, budget=30)
FIELDS = {
    "username": "user@example.com",
    "password": "a password of length",
    "client_id": "client",
    "client_secret": "a client secret of sufficient length",
}


def oauth(code, text="", **more):
    return {"error": code, **({"error_description": text} if text else {}), **more}


PAGE = b"<!DOCTYPE html><html><body>Access denied</body></html>"
C, K, G, S = (
    errors.CredentialsRejected,
    errors.ClientRejected,
    errors.GrantNotAllowed,
    errors.ScopeRejected,
)
P, U, T = errors.AuthProtocolError, errors.AuthUnavailable, errors.Throttled

#: Refusals as servers word them: status, body, kind.
REFUSALS = [
    # IdentityServer, which ABBYY Vantage is by its paths
    (400, oauth("invalid_grant", "invalid_username_or_password"), C),
    (400, oauth("invalid_grant", "invalid_username_or_password. Please try again"), C),
    (400, oauth("invalid_grant", "login rate exceeded"), C),
    (400, oauth("invalid_grant"), C),
    (400, oauth("invalid_client"), K),
    (400, oauth("invalid_scope"), S),
    (400, oauth("unauthorized_client"), G),
    (400, oauth("unsupported_grant_type"), G),
    (400, oauth("invalid_request"), P),
    # django-oauth-toolkit, and lockouts of what is put before it
    (400, oauth("invalid_grant", "Invalid credentials given."), C),
    (401, oauth("invalid_client"), K),
    (403, oauth("access_denied", "Account locked: too many login attempts"), C),
    # Authlib
    (400, oauth("invalid_grant", 'Invalid "username" or "password" in request.'), C),
    (400, oauth("invalid_request", 'Invalid "username" or "password" in request.'), P),
    # node-oauth2-server
    (400, oauth("invalid_grant", "Invalid grant: user credentials are invalid"), C),
    (400, oauth("invalid_client", "Invalid client: client is invalid"), K),
    # Keycloak
    (401, oauth("invalid_grant", "Invalid user credentials"), C),
    (400, oauth("invalid_grant", "Account is not fully set up"), C),
    (401, oauth("unauthorized_client", "Invalid client or Invalid client credentials"), K),
    (400, oauth("unauthorized_client", "Client not allowed for direct access grants"), G),
    # Auth0
    (403, oauth("invalid_grant", "Wrong email or password."), C),
    (401, oauth("access_denied", "Unauthorized"), C),
    (403, oauth("unauthorized_client", "Grant type 'password' not allowed for the client."), G),
    (401, oauth("unauthorized", "user is blocked"), C),
    (403, oauth("mfa_required", "Multifactor authentication required"), G),
    # Okta
    (400, oauth("invalid_grant", "The credentials provided were invalid."), C),
    (401, {"errorCode": "E0000004", "errorSummary": "Authentication failed"}, C),
    (401, oauth("invalid_client", "The client secret supplied for a confidential client"), K),
    # Microsoft Entra ID
    (400, oauth("invalid_grant", "AADSTS50126: Error validating credentials"), C),
    (400, oauth("invalid_grant", "AADSTS50053: You've tried to sign in too many times"), C),
    (401, oauth("invalid_client", "AADSTS7000215: Invalid client secret provided."), K),
    (400, oauth("interaction_required", "AADSTS50076: multi-factor authentication"), G),
    (400, oauth("invalid_resource", "AADSTS500011: The resource principal was not found"), C),
    # ADFS
    (400, oauth("invalid_grant", "MSIS9659: Invalid 'username' or 'password'."), C),
    # Ping
    (400, oauth("invalid_grant", "We didn't recognize the password. Please try again."), C),
    (401, {"code": "INVALID_DATA", "message": "2 attempts left until the account is locked"}, C),
    # UAA, Spring, ForgeRock, Laravel, OneLogin, Google's kin
    (401, oauth("unauthorized", "Bad credentials"), C),
    (401, {"status": 401, "error": "Unauthorized", "path": "/connect/token"}, C),
    (401, {"code": 401, "reason": "Unauthorized", "message": "Authentication Failed"}, C),
    (400, oauth("invalid_credentials", "The user credentials were incorrect."), C),
    (401, {"status": {"error": True, "code": 401, "message": "Authentication Failure"}}, C),
    (400, {"error": {"code": 400, "status": "INVALID_PASSWORD"}}, C),
    # Other habits
    (200, oauth("invalid_auth", ok=False), C),
    (400, oauth("password_expired", "The password has expired; limit reached"), C),
    (401, b"", C),
    (400, b"Bad Request", C),
    (400, {"title": "Bad Request", "status": 400, "detail": "wrong password"}, C),
    (409, oauth("session_limit", "Too many sessions"), C),
    (422, oauth("invalid_login"), C),
    (423, oauth("locked"), C),
]
#: What no token endpoint says: status, body, kind, seconds held.
FOREIGN = [
    (400, PAGE, P, 900),
    (401, PAGE, P, 900),
    (402, b"", P, 900),
    (403, PAGE, U, 60),
    (403, b"RBAC: access denied", U, 60),
    (403, {"message": "Forbidden"}, U, 60),
    (404, PAGE, P, 0),
    (404, {"status": 404, "error": "Not Found", "path": "/connect/token"}, P, 0),
    (405, b"", P, 0),
    (410, b"", P, 0),
    (413, PAGE, P, 0),
    (414, PAGE, P, 0),
    (418, b"", P, 900),
    (421, b"", U, 0),
    (426, b"", P, 0),
    (431, PAGE, P, 0),
    (451, PAGE, P, 0),
    (302, b"", P, 0),
    (201, b"", P, 0),
    (200, PAGE, P, 0),
    (200, b"\xef\xbb\xbf<html>", P, 0),
]
PASSING = [
    (429, PAGE, T, None),
    (429, oauth("too_many_attempts", "Your account has been blocked"), T, None),
    (400, oauth("slow_down"), T, None),
    (429, oauth("invalid_grant", "wrong"), T, 7.0),
    (408, b"", U, None),
    (425, b"", U, None),
    (400, oauth("temporarily_unavailable"), U, None),
    (400, oauth("server_error", "wrong password"), U, None),
    (500, oauth("invalid_grant"), U, None),
    (503, PAGE, U, 7.0),
    (511, PAGE, U, None),
    (530, PAGE, U, None),
]


#: What may be a refusal, although it asks to come again: status, body, seconds asked for, held.
COME_AGAIN = [
    (400, oauth("invalid_grant", "wrong"), 0.0, 60),
    (400, oauth("invalid_grant", "wrong"), 7.0, 60),
    (400, oauth("invalid_grant", "wrong"), 300.0, 300),
    (401, b"", 7.0, 60),
    (403, PAGE, 7.0, 60),
    (423, oauth("locked"), 86400.0, 900),
]


def credentials(**changes) -> Credentials:
    return Credentials(**{"region": "eu", **FIELDS, **changes})


def reply(status, body, retry_after=None, **changes):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, data, credentials(**changes), retry_after=retry_after)


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS)
def test_a_refusal_is_final_and_held_whatever_its_words(status, body, kind):
    error = reply(status, body)
    assert type(error) is kind
    assert not error.retryable
    assert hold_of(error) == 900


@pytest.mark.parametrize(("status", "body", "kind", "held"), FOREIGN)
def test_what_no_token_endpoint_says_is_a_fault_of_network_or_address(status, body, kind, held):
    error = reply(status, body)
    assert type(error) is kind
    assert hold_of(error) == held
    text = str(error)
    assert "password" not in text.replace("forward the password", "")
    assert re.search("address|base URL|firewall|proxy|network", text)
    assert ("redirect" in text) is (300 <= status < 400)


@pytest.mark.parametrize(("status", "body", "kind", "after"), PASSING)
def test_what_is_plainly_passing_is_retried_and_not_held(status, body, kind, after):
    error = reply(status, body, retry_after=after)
    assert type(error) is kind
    assert error.retryable
    assert error.retry_after == after
    assert hold_of(error) == 0


@pytest.mark.parametrize(("status", "body", "after", "held"), COME_AGAIN)
def test_a_refusal_that_asks_to_come_again_is_held(status, body, after, held):
    error = reply(status, body, retry_after=after)
    assert type(error) is T
    assert error.retryable
    assert error.retry_after == after
    assert hold_of(error) == held


WORKER = """
    import json, sys
    from vantage_orchestration import errors
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.token import token_source

    base_url, folder, count, fields = json.loads(sys.argv[1])
    fields |= {"region": "custom", "base_url": base_url, "store_path": folder}
    told = []
    for number in range(count):
        config = VantageConfig.from_fields({**fields, "username": str(number)}, "airflow:vantage")
        for _ in range(2):
            try:
                token_source(config).get()
                told.append("token")
            except errors.VantageError as error:
                told.append(type(error).__name__)
    print(json.dumps(told))
"""


def test_each_refusal_makes_one_login_for_all_processes(tmp_path):
    cases = [(status, body) for status, body, _ in REFUSALS]
    cases += [(status, body) for status, body, _, held in FOREIGN if held]
    kinds = [kind.__name__ for _, _, kind in REFUSALS]
    kinds += [kind.__name__ for _, _, kind, held in FOREIGN if held]
    answers = [Answer(status, body) for status, body in cases]
    with serving(Endpoint(lambda name: answers[int(name)])) as server:
        arguments = json.dumps([server.url, str(tmp_path / "tokens"), len(cases), FIELDS])
        command = [sys.executable, "-c", textwrap.dedent(WORKER), arguments]
        workers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
            for _ in range(6)
        ]
        told = [json.loads(worker.communicate(timeout=200)[0]) for worker in workers]
    assert told == [[kind for kind in kinds for _ in range(2)]] * 6
    assert server.logins == {str(number): 1 for number in range(len(cases))}


def config_for(server, origin=None, **changes) -> VantageConfig:
    fields = {"region": "custom", "base_url": server.url, **FIELDS, **changes}
    return VantageConfig.from_fields(fields, origin)


def source_of(server, **changes) -> TokenSource:
    return TokenSource(config_for(server, store="memory", **changes), retries=QUICK)


def test_a_firewall_that_opens_again_is_asked_again_after_its_hold_and_not_before():
    answers = [Answer(403, PAGE), Answer()]
    with serving(Endpoint(lambda name: answers.pop(0))) as server:
        source = source_of(server)
        for _ in range(2):
            with pytest.raises(errors.AuthUnavailable, match="firewall"):
                source.get()
        assert server.logins.total() == 1
        source.forget()
        assert source.get()


def test_a_remembered_refusal_says_so_and_how_to_clear_it():
    with serving(Endpoint(lambda name: Answer(400, oauth("invalid_grant")))) as server:
        for origin, command in (
            ("airflow:my vantage", "vantage-orchestration token forget --of 'airflow:my vantage'"),
            ("prefect:block", "vantage-orchestration token forget --of prefect:block"),
            ("", "vantage-orchestration token forget."),
            (None, "token_source(config).forget()"),
        ):
            config = config_for(server, origin, username=f"of {origin}")
            source = TokenSource(config, store=Store())
            until = r"not sent again before \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
            with pytest.raises(errors.CredentialsRejected, match=until) as fresh:
                source.get()
            assert command in str(fresh.value)
            assert "remembered" not in str(fresh.value)
            with pytest.raises(errors.CredentialsRejected, match=until) as remembered:
                source.get()
            assert command in str(remembered.value)
            assert "remembered from an earlier try, not retried for" in str(remembered.value)
        config = config_for(server, "airflow:vantage", store="memory")
        with pytest.raises(errors.CredentialsRejected, match="only this process remembers"):
            TokenSource(config).get()


class Store:
    """A store in memory that can be out of order."""

    label = "test"

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.trouble: Exception | None = None
        self.read_only = False

    def read(self, name):
        if self.trouble:
            raise self.trouble
        return self.entries.get(name)

    def write(self, name, entry):
        if self.trouble or self.read_only:
            raise self.trouble or OSError("read-only")
        self.entries[name] = entry

    def delete(self, name):
        self.entries.pop(name, None)


@pytest.fixture
def refusing(request):
    """A server that refuses until it is told otherwise, and two sources that share a store."""
    state = {"answer": Answer(400, oauth("invalid_grant", "wrong"))}
    with serving(Endpoint(lambda name: state["answer"])) as server:
        store = Store()
        one, other = (TokenSource(config_for(server), store=store) for _ in range(2))
        with pytest.raises(errors.CredentialsRejected):
            one.get()
        if "unsaved" not in request.node.name:
            state["answer"] = Answer()
        yield server, store, one, other


def test_a_cleared_store_reaches_a_process_that_remembers_a_refusal(refusing):
    server, store, one, other = refusing
    with pytest.raises(errors.CredentialsRejected, match="remembered"):
        other.get()
    store.entries.clear()
    assert one.get()
    assert other.get().is_same(one.get())
    assert server.logins.total() == 2


def test_a_good_token_in_the_store_wins_over_a_remembered_refusal(refusing):
    server, _, one, other = refusing
    other.forget()
    token = other.get()
    assert one.get().is_same(token)
    assert server.logins.total() == 2


@pytest.mark.parametrize("harm", ["trouble", "damage", "unsaved"])
def test_only_an_entry_that_is_gone_clears_a_remembered_refusal(refusing, harm):
    server, store, one, _ = refusing
    if harm == "trouble":
        store.trouble = OSError("out of order")
    elif harm == "damage":
        store.entries = dict.fromkeys(store.entries, b"damaged")
    else:
        store.entries, store.read_only = {}, True
        one = TokenSource(config_for(server), store=store)
        with pytest.raises(errors.CredentialsRejected):
            one.get()
    for _ in range(2):
        with pytest.raises(errors.CredentialsRejected, match="remembered"):
            one.get()
    assert server.logins.total() == (2 if harm == "unsaved" else 1)
    if harm == "trouble":
        store.trouble = None
        store.entries.clear()
        assert one.get()


# ------------------------------------------------------------------- the hints


def settings_of(hint):
    """Return the settings that a hint advises: name to value."""
    advised = re.findall(r"set (?:the )?(grant type|client_auth|scope) to (\w+)", hint)
    return {name.replace(" ", "_"): value for name, value in advised}


@pytest.mark.parametrize("region", ["eu", "custom"])
@pytest.mark.parametrize("grant", ["password", "client_credentials", "device_code"])
@pytest.mark.parametrize("auth", ["form", "basic"])
def test_no_hint_leads_in_a_circle(region, grant, auth):
    place = {"region": region, "base_url": "https://x.example" if region == "custom" else ""}
    for status, body, _ in REFUSALS:
        seen = {"grant_type": grant, "client_auth": auth}
        been = [dict(seen)]
        for _ in range(5):
            error = reply(status, body, **place, **seen)
            advice = settings_of(error.hint or "")
            for name, value in advice.items():
                assert seen[name] != value, (status, body, seen, error.hint)
            if not advice:
                break
            seen |= advice
            assert seen not in been, (status, body, been, error.hint)
            been.append(dict(seen))
        assert not advice


def test_a_scope_or_tenant_that_is_set_as_documented_is_not_advised_again():
    refused = reply(400, oauth("invalid_scope"))
    assert "set the scope" not in str(refused)
    assert "set the scope" in str(reply(400, oauth("invalid_scope"), scope="openid"))
    several = oauth("invalid_grant", "the user belongs to several tenants")
    assert "Set the tenant id" in str(reply(400, several))
    for body in (several, oauth("invalid_grant")):
        assert "set the tenant id" not in str(reply(400, body, tenant_id="t")).lower()


# ------------------------------------------------------------- the API client


@pytest.mark.parametrize(
    ("client", "secret"),
    [("client", "plain-secret-of-length"), ("cl:ient", "p+a s%&=:e"), ("ümläut", "日本-😀:")],
)
def test_basic_carries_every_character_and_the_form_no_client(client, secret):
    with serving(Endpoint()) as server:
        source = source_of(server, client_id=client, client_secret=secret, client_auth="basic")
        assert source.get()
        ((headers, form),) = server.seen
    kind, _, encoded = headers["Authorization"].partition(" ")
    assert kind == "Basic"
    parts = base64.b64decode(encoded).decode("ascii").split(":")
    assert [unquote_plus(part) for part in parts] == [client, secret]
    assert set(form) == {"grant_type", "scope", "username", "password"}


def test_a_real_server_takes_the_client_both_ways(sandbox, configure):
    for auth in ("form", "basic", " Basic "):
        for grant in ("password", "client_credentials"):
            config = configure(client_auth=auth, grant_type=grant)
            assert TokenSource(config).get().lifetime == 3600
    with pytest.raises(errors.ConfigurationError, match="form or basic"):
        configure(client_auth="digest")


# ------------------------------------------------------ an API that answers 401


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, invoice: client.list_skills(),
        lambda client, invoice: client.get_transaction("t"),
        lambda client, invoice: client.add_files("t", [invoice]),
        lambda client, invoice: client.start_transaction("t"),
        lambda client, invoice: client.delete_transaction("t"),
        lambda client, invoice: client.read_result("t", "f"),
        lambda client, invoice: client.download_result("t", "f", invoice.with_name("result")),
        lambda client, invoice: client.create_transaction("s"),
        lambda client, invoice: client.session.get("/skills").raise_for_status(),
        lambda client, invoice: client.session.post("/x", data=b"x").raise_for_status(),
    ],
)
def test_an_api_that_rejects_every_token_costs_two_logins_and_two_requests(
    sandbox, configure, tmp_path, ask
):
    invoice = tmp_path / "invoice.pdf"
    invoice.write_bytes(b"%PDF-1.4 made up")
    sandbox.control.add_fault(path_regex="/publicapi/", status=401, times=0)
    with VantageClient(configure()) as client:
        with pytest.raises((errors.Unauthorized, requests.HTTPError)) as caught:
            ask(client, invoice)
        assert getattr(caught.value, "retryable", False) is False
        assert sandbox.control.count(path_regex="/publicapi/") == 2
        assert sandbox.control.count(path_regex="connect/token") == 2
        # Neither does anybody else log in again for a while.
        for _ in range(3):
            with pytest.raises(errors.Unauthorized):
                client.list_skills()
        assert sandbox.control.count(path_regex="connect/token") == 2
        sandbox.control.clear_faults()
        assert client.list_skills()


def test_processes_that_meet_an_api_that_rejects_every_token_share_two_logins(
    sandbox, configure, tmp_path
):
    store = Store()
    sandbox.control.add_fault(path_regex="/publicapi/", status=401, times=0)
    for _ in range(5):
        config = configure(store="orchestrator")
        client = VantageClient(config, orchestrator_store=store)
        with client, pytest.raises(errors.Unauthorized):
            client.list_skills()
        source.registry.clear()  # As another process.
    assert sandbox.control.count(path_regex="connect/token") == 2
    assert sandbox.control.count(path_regex="/publicapi/") == 2 + 4
