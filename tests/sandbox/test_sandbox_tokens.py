# SPDX-License-Identifier: Apache-2.0
"""Tokens: every grant, every refusal, locking, tenants, expiry."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
import requests
from openapi import check_request


def refusal(reply: requests.Response) -> tuple[int, str, str]:
    body = reply.json()
    assert reply.headers["Cache-Control"] == "no-store"
    return reply.status_code, body["error"], body["error_description"]


def test_password_grant_keeps_the_contract(api: Any) -> None:
    form = api.form()
    check_request("POST", "/auth2/connect/token", *encoded(form))
    reply = api.ask_token(form)
    assert reply.status_code == 200
    assert reply.headers["Cache-Control"] == "no-store"
    body = reply.json()
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 3600
    assert set(body["scope"].split()) == {"openid", "permissions", "global.wildcard"}
    assert body["access_token"].count(".") == 2
    assert api.get("/skills", headers={"Authorization": f"bearer {body['access_token']}"}).ok


def encoded(form: dict[str, str]) -> tuple[dict[str, str], bytes]:
    prepared = requests.Request("POST", "http://127.0.0.1/", data=form).prepare()
    body = prepared.body
    return dict(prepared.headers), body.encode() if isinstance(body, str) else bytes(body or b"")


def test_client_credentials_grant(api: Any) -> None:
    api.sign_in(api.service_form())
    assert api.get("/skills").status_code == 200


def test_tenant_path(api: Any) -> None:
    tenant = api.account["tenant_id"]
    assert api.ask_token(api.form(), tenant).status_code == 200
    assert api.ask_token(api.form(), tenant.upper()).status_code == 200


def test_unknown_tenant_is_404(api: Any) -> None:
    url = f"{api.server.url}/auth2/00000000-0000-4000-8000-000000000000/connect/token"
    # 404 of the token path is not in the description: a decision of the sandbox.
    assert requests.post(url, data=api.form(), timeout=30).status_code == 404


@pytest.mark.parametrize("style", ["raw", "encoded"])
def test_client_in_basic_header(api: Any, style: str) -> None:
    from urllib.parse import quote_plus

    secret = api.account["client_secret"]
    text = f"{api.account['client_id']}:{secret if style == 'raw' else quote_plus(secret)}"
    headers = {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
    form = api.form(client_id=None, client_secret=None)
    assert api.ask_token(form, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", ["Basic ???", "Basic " + base64.b64encode(b"no colon").decode(), "Bearer x"]
)
def test_unusable_authorization_header(api: Any, header: str) -> None:
    form = api.form(client_id=None, client_secret=None)
    reply = api.ask_token(form, headers={"Authorization": header})
    assert refusal(reply)[:2] == (400, "invalid_client")


def test_client_given_twice(api: Any) -> None:
    header = "Basic " + base64.b64encode(b"example-client:x").decode()
    reply = api.ask_token(api.form(), headers={"Authorization": header})
    assert refusal(reply)[:2] == (400, "invalid_request")


@pytest.mark.parametrize(
    "member", ["grant_type", "scope", "username", "password", "client_id", "client_secret"]
)
@pytest.mark.parametrize("value", [None, ""])
def test_missing_member(api: Any, member: str, value: str | None) -> None:
    code, error, text = refusal(api.ask_token(api.form(**{member: value})))
    assert (code, error) == (400, "invalid_request")
    assert member in text


def test_doubled_member(api: Any) -> None:
    form = [*api.form().items(), ("username", "other@example.com")]
    assert refusal(api.ask_token(form))[:2] == (400, "invalid_request")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"password": "wrong"}, ("invalid_grant", "invalid_username_or_password")),
        ({"username": "nobody@example.com"}, ("invalid_grant", "invalid_username_or_password")),
        ({"username": "second@example.com"}, ("invalid_grant", "invalid_username_or_password")),
        ({"client_secret": "wrong"}, ("invalid_client", "the client or its secret is wrong")),
        ({"client_id": "nobody"}, ("invalid_client", "the client or its secret is wrong")),
        ({"client_id": "expired-client"}, ("invalid_client", "the secret of the client has")),
        ({"client_id": "service-client"}, ("unauthorized_client", "the client may not use")),
        ({"scope": "openid permissions"}, ("invalid_scope", "expected:")),
        ({"scope": "openid permissions global.wildcard offline_access"}, ("invalid_scope", "exp")),
        ({"grant_type": "refresh_token"}, ("unsupported_grant_type", "the grant")),
        ({"grant_type": "authorization_code"}, ("unsupported_grant_type", "the grant")),
        (
            {"username": "both@example.com"},
            ("invalid_grant", "the user belongs to several tenants"),
        ),
        (
            {"username": "external@example.com", "client_id": "external-client"},
            ("unauthorized_client", "the tenant signs in through an external identity provider"),
        ),
    ],
)
def test_refusals(api: Any, changes: dict[str, str], expected: tuple[str, str]) -> None:
    code, error, text = refusal(api.ask_token(api.form(**changes)))
    assert (code, error) == (400, expected[0])
    assert text.startswith(expected[1])


def test_scope_in_any_order(api: Any) -> None:
    form = api.form(scope="global.wildcard openid permissions")
    assert api.ask_token(form).status_code == 200


def test_user_of_two_tenants_needs_the_tenant_path(api: Any) -> None:
    tenants = {item["name"]: item["id"] for item in api.control.credentials()["tenants"]}
    form = api.form(username="both@example.com")
    assert api.ask_token(form, tenants["Example Ltd"]).status_code == 200
    form = api.form(username="both@example.com", client_id="second-client")
    assert api.ask_token(form, tenants["Second Example Ltd"]).status_code == 200
    reply = api.ask_token(form, tenants["Example Ltd"])
    assert refusal(reply)[:2] == (400, "invalid_client")


def test_external_tenant_takes_client_credentials(api: Any) -> None:
    reply = api.ask_token(api.service_form(client_id="external-client"))
    assert reply.status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_body_must_be_a_form(api: Any, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    reply = api.session.post(
        api.server.url + "/auth2/connect/token", data=b'{"grant_type": "x"}', headers=headers
    )
    assert refusal(reply)[:2] == (400, "invalid_request")


def test_huge_form_is_refused(api: Any) -> None:
    reply = api.ask_token(api.form(password="x" * 100_000))
    assert refusal(reply)[:2] == (400, "invalid_request")


def test_account_locks_after_wrong_passwords_in_a_row(api: Any) -> None:
    for _ in range(4):
        assert refusal(api.ask_token(api.form(password="wrong")))[2] != "account_locked"
    assert api.ask_token(api.form()).status_code == 200, "the count starts anew"
    for _ in range(5):
        assert refusal(api.ask_token(api.form(password="wrong")))[2] != "account_locked"
    assert refusal(api.ask_token(api.form()))[1:] == ("invalid_grant", "account_locked")
    assert refusal(api.ask_token(api.form(username="USER@example.com")))[2] == "account_locked"
    assert api.get("/skills").status_code == 200, "tokens issued before stay good"
    api.control.unlock_accounts()
    assert api.ask_token(api.form()).status_code == 200


def test_lockout_can_be_set_and_switched_off(make_api: Any) -> None:
    api = make_api(lockout=1)
    api.ask_token(api.form(password="wrong"))
    assert refusal(api.ask_token(api.form()))[2] == "account_locked"
    api = make_api(lockout=0)
    for _ in range(20):
        api.ask_token(api.form(password="wrong"))
    assert api.ask_token(api.form()).status_code == 200


def test_lifetime_and_expiry(make_api: Any) -> None:
    api = make_api(token_lifetime=90)
    assert api.ask_token(api.form()).json()["expires_in"] == 90
    api.control.advance(60)
    assert api.get("/skills").status_code == 200
    api.control.advance(31)
    assert api.get("/skills").status_code == 401
    assert api.sign_in().get("/skills").status_code == 200


@pytest.mark.parametrize("header", [None, "Bearer unknown", "Bearer ", "Basic {token}", "{token}"])
def test_unauthorized(api: Any, header: str | None) -> None:
    token = api.token
    api.headers = {"Authorization": header.format(token=token)} if header else {}
    for method, path in (("GET", "/skills"), ("POST", "/transactions"), ("DELETE", f"/{'t' * 3}")):
        if method == "DELETE":
            path = "/transactions/0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
        reply = api.call(method, path)
        assert reply.status_code == 401
        assert reply.content == b""
        assert reply.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_revoke_one_or_all(api: Any, other_api: Any) -> None:
    second = other_api(api.server).sign_in()
    assert api.control.revoke_tokens(hashlib.sha256(api.token.encode()).hexdigest()) == 1
    assert api.get("/skills").status_code == 401
    assert second.get("/skills").status_code == 200
    assert api.control.revoke_tokens() == 1
    assert second.get("/skills").status_code == 401


def test_discovery(api: Any) -> None:
    url = f"{api.server.url}/auth2/{api.account['tenant_id']}"
    body = api.session.get(url + "/.well-known/openid-configuration").json()
    assert body["token_endpoint"] == url + "/connect/token"
    reply = api.session.get(api.server.url + "/auth2/nobody/.well-known/openid-configuration")
    assert reply.status_code == 404


@pytest.mark.parametrize(
    "path", ["/auth/connect/token", "/auth2/.well-known/openid-configuration", "/api/nothing"]
)
def test_paths_that_do_not_exist(api: Any, path: str) -> None:
    assert requests.post(api.server.url + path, timeout=30).status_code in (404, 405)
    assert requests.get(api.server.url + path, timeout=30).status_code == 404


def test_trailing_slash(api: Any) -> None:
    reply = requests.post(api.server.url + "/auth2/connect/token/", data=api.form(), timeout=30)
    assert reply.status_code == 200


def test_ids_follow_from_the_seed_and_tokens_are_never_given_twice(make_api: Any) -> None:
    first, again, other = make_api(seed=7), make_api(seed=7), make_api(seed=8)
    assert len({first.token, again.token, other.token}) == 3
    assert first.skill("Invoice") == again.skill("Invoice") != other.skill("Invoice")
    assert first.account["tenant_id"] == again.account["tenant_id"]
