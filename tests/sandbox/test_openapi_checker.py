# SPDX-License-Identifier: Apache-2.0
"""Positive controls: the checker of messages refuses wrong ones and lets right ones pass."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import openapi
import pytest
import requests
from openapi import ContractError, check_request, check_response, check_value, operation_of

KEY = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
BASE = "/api/publicapi/v1"
ONE = f"{BASE}/transactions/{KEY}"
JSON = {"Content-Type": "application/json; charset=utf-8"}
AUTH = {"Authorization": "Bearer made-up"}
SCOPE = "openid permissions global.wildcard"


def test_every_operation_is_found() -> None:
    document = openapi.loaded().document
    found = 0
    for path, item in document["paths"].items():
        url = path.replace("{", "").replace("}", "")
        for method in ("get", "post", "delete"):
            if method in item:
                assert (
                    operation_of(method, f"http://127.0.0.1{url}/") == item[method]["operationId"]
                )
                found += 1
    assert found == 44


@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "/nowhere"), ("DELETE", f"{BASE}/skills"), ("POST", "/auth/connect/token")],
)
def test_unknown_operations(method: str, url: str) -> None:
    with pytest.raises(ContractError, match="the contract has no such"):
        check_response(method, url, 200, {}, b"")


def test_examples_of_the_description_are_valid() -> None:
    """The description keeps its own schemas, and the checker knows it."""
    checks = openapi.loaded()
    seen = 0
    for pattern, method, _, operation in checks.operations:
        for code, response in operation["responses"].items():
            content = checks.resolve(response).get("content", {})
            for label, media in content.items():
                for example in media.get("examples", {}).values():
                    url = pattern.pattern.replace("\\", "")
                    for name in ("tenantId", "skillId", "catalogId", "recordId", "requestId"):
                        url = url.replace(f"(?P<{name}>[^/]+)", "x")
                    url = openapi.re.sub(r"\(\?P<\w+>\[\^/\]\+\)", KEY, url)
                    body = json.dumps(example["value"]).encode()
                    check_response(method, url, int(code), {"Content-Type": label}, body)
                    seen += 1
    assert seen > 100


GOOD_RESPONSES: list[tuple[str, str, int, dict[str, str], bytes]] = [
    ("GET", f"{BASE}/skills", 200, JSON, b'[{"id": "a", "name": "b", "type": "Ocr"}]'),
    ("GET", f"{BASE}/skills", 200, {"content-type": "text/plain"}, b"[]"),
    ("GET", f"{BASE}/skills", 401, {}, b""),
    ("GET", f"{BASE}/skills", 503, {"Content-Type": "text/html"}, b"<html>"),
    ("GET", f"{BASE}/skills", 502, {"Content-Type": "text/html"}, b"<html>"),
    ("POST", f"{ONE}/start", 200, {}, b""),
    (
        "GET",
        f"{ONE}/files/.blob.{KEY}/download",
        200,
        {"Content-Type": "application/octet-stream"},
        b"\xff",
    ),
    ("GET", f"{ONE}/files/x/download", 404, JSON, b'{"status": 404}'),
    ("POST", "/auth2/connect/token", 400, JSON, b'{"error": "invalid_grant"}'),
]
BAD_RESPONSES: list[tuple[str, str, int, dict[str, str], bytes]] = [
    ("GET", f"{BASE}/skills", 200, JSON, b'[{"id": "a", "type": "Ocr"}]'),
    ("GET", f"{BASE}/skills", 200, JSON, b'[{"id": "a", "name": "b", "type": "Scan"}]'),
    ("GET", f"{BASE}/skills", 200, JSON, b"{}"),
    ("GET", f"{BASE}/skills", 200, JSON, b""),
    ("GET", f"{BASE}/skills", 200, JSON, b"[{"),
    ("GET", f"{BASE}/skills", 200, {"Content-Type": "text/html"}, b"[]"),
    ("GET", f"{BASE}/skills", 200, {}, b"[]"),
    ("GET", f"{BASE}/skills", 418, JSON, b"{}"),
    ("GET", f"{BASE}/skills", 201, JSON, b"[]"),
    ("GET", f"{BASE}/skills", 503, JSON, b'{"status": "503"}'),
    ("POST", f"{ONE}/start", 200, JSON, b"{}"),
    ("POST", f"{ONE}/start", 409, JSON, b'{"status": 409}'),
    ("GET", f"{ONE}/files/x/download", 200, JSON, b"{}"),
    ("GET", f"{ONE}/files/x/download", 404, {"Content-Type": "application/octet-stream"}, b"no"),
    ("GET", ONE, 200, JSON, b'{"id": "no-uuid", "status": "New"}'),
    ("GET", ONE, 200, JSON, json.dumps({"id": KEY, "status": "Cancelled"}).encode()),
    ("GET", ONE, 200, JSON, json.dumps({"id": KEY}).encode()),
    ("POST", f"{BASE}/transactions", 200, JSON, json.dumps({"transactionId": KEY}).encode()),
    ("POST", "/auth2/connect/token", 200, JSON, b'{"access_token": "", "token_type": "Bearer"}'),
    ("POST", "/auth2/connect/token", 400, JSON, b'{"message": "no"}'),
    (
        "GET",
        f"{BASE}/transactions/active?Limit=1",
        200,
        JSON,
        json.dumps(
            {
                "items": [{"transactionId": KEY, "createTimeUtc": "2026-03-02 10:15"}],
                "totalItemCount": 1,
            }
        ).encode(),
    ),
    (
        "GET",
        f"{BASE}/transactions/completed?Limit=1",
        200,
        JSON,
        json.dumps({"items": [], "totalItemCount": 2**31}).encode(),
    ),
]


@pytest.mark.parametrize("case", GOOD_RESPONSES)
def test_good_responses(case: Any) -> None:
    check_response(*case)


@pytest.mark.parametrize("case", BAD_RESPONSES)
def test_bad_responses(case: Any) -> None:
    with pytest.raises(ContractError):
        check_response(*case)


def prepared(method: str, url: str, **options: Any) -> tuple[str, str, dict[str, str], bytes]:
    """A request as the HTTP library would send it."""
    headers = {**AUTH, **options.pop("headers", {})}
    made = requests.Request(method, "http://127.0.0.1" + url, headers=headers, **options).prepare()
    body = made.body or b""
    return (
        method,
        str(made.url),
        dict(made.headers),
        body if isinstance(body, bytes) else body.encode(),
    )


def model(value: Any, label: str | None = "application/json") -> tuple[str, Any]:
    part: tuple[Any, ...] = (None, json.dumps(value))
    return ("Model", (*part, label) if label else part)


def file(name: str = "a.pdf", part: str = "Files", label: str | None = None) -> tuple[str, Any]:
    return (part, (name, b"x", label) if label else (name, b"x"))


FORM = {
    "grant_type": "password",
    "scope": SCOPE,
    "username": "user@example.com",
    "password": "made&up",
    "client_id": "c",
    "client_secret": "s",
}
TOKEN = "/auth2/connect/token"
LAUNCH = f"{BASE}/transactions/launch?skillId=x"
ACTIVE = f"{BASE}/transactions/active"
PAIR = quote('{"key":"a","value":"b"}')

GOOD_REQUESTS = [
    prepared("POST", TOKEN, data=FORM),
    prepared("GET", f"{BASE}/skills"),
    prepared("POST", f"{BASE}/transactions", json={"skillId": "x"}),
    prepared("POST", LAUNCH, files=[model({"files": [{"index": 0}]}), file()]),
    prepared(
        "POST", LAUNCH, files=[file(label="application/pdf"), file("b.png", label="image/png")]
    ),
    prepared("POST", f"{ONE}/files", files=[model({}, None), file("ä ö.pdf")]),
    prepared("POST", f"{ONE}/start"),
    prepared("POST", f"{ONE}/start", headers={"Content-Type": "application/json"}),
    prepared("POST", f"{ONE}/documents"),
    prepared("POST", f"{ONE}/documents", json={"index": 1}),
    prepared("GET", f"{ACTIVE}?Limit=1000&Offset=0&StageType=ManualReview&SkillVersion=2"),
    prepared(
        "GET", f"{ACTIVE}?Limit=1&StartDate=2026-01-01T00:00:00Z&EndDate=2026-01-01T00:00:00.5Z"
    ),
    prepared("GET", f"{ACTIVE}?Limit=1&TransactionParameters={PAIR}&TransactionParameters={PAIR}"),
    (
        "POST",
        TOKEN,
        {"authorization": "Basic Yzpz", "content-type": "application/x-www-form-urlencoded"},
        b"grant_type=client_credentials&scope=openid+permissions+global.wildcard",
    ),
]
BAD_REQUESTS = {
    "no token": ("GET", f"{BASE}/skills", {}, b""),
    "basic": prepared("GET", f"{BASE}/skills", headers={"Authorization": "Basic eDp5"}),
    "body on get": prepared("GET", f"{BASE}/skills", json={}),
    "body on start": prepared("POST", f"{ONE}/start", json={}),
    "no uuid": prepared("GET", f"{BASE}/transactions/7"),
    "no body": prepared("POST", f"{BASE}/transactions"),
    "no skill": prepared("POST", f"{BASE}/transactions", json={}),
    "unknown member": prepared("POST", f"{BASE}/transactions", json={"skillId": "x", "a": 1}),
    "wrong case": prepared("POST", f"{BASE}/transactions", json={"SkillId": "x"}),
    "long value": prepared(
        "POST",
        f"{BASE}/transactions",
        json={"skillId": "x", "registrationParameters": [{"key": "k", "value": "v" * 257}]},
    ),
    "eleven": prepared(
        "POST",
        f"{BASE}/transactions",
        json={"skillId": "x", "skillParameters": [{"key": "k", "value": "v"}] * 11},
    ),
    "json label": prepared(
        "POST",
        f"{BASE}/transactions",
        data='{"skillId":"x"}',
        headers={"Content-Type": "text/plain"},
    ),
    "no skill id": prepared("POST", f"{BASE}/transactions/launch", files=[file()]),
    "no files": prepared("POST", LAUNCH, files=[model({})]),
    "part name": prepared("POST", LAUNCH, files=[file(part="file")]),
    "model case": prepared("POST", LAUNCH, files=[("model", (None, "{}")), file()]),
    "model as file": prepared("POST", LAUNCH, files=[("Model", ("m.json", "{}")), file()]),
    "model label": prepared("POST", LAUNCH, files=[model({}, "text/plain"), file()]),
    "model twice": prepared("POST", LAUNCH, files=[model({}), model({}), file()]),
    "model members": prepared("POST", LAUNCH, files=[model({"skillId": "x"}), file()]),
    "model no json": prepared("POST", LAUNCH, files=[("Model", (None, "{")), file()]),
    "more entries": prepared("POST", LAUNCH, files=[model({"files": [{}, {}]}), file()]),
    "equal names": prepared("POST", LAUNCH, files=[file(), file()]),
    "no file name": prepared("POST", LAUNCH, files=[("Files", ("", b"x"))]),
    "file label": prepared("POST", LAUNCH, files=[file(label="text/html")]),
    "boundary lost": (*prepared("POST", LAUNCH, files=[file()])[:2],
                      {**AUTH, "Content-Type": "multipart/form-data"}, b"--x--"),
    "cut": (*prepared("POST", LAUNCH, files=[file()])[:3],
            prepared("POST", LAUNCH, files=[file()])[3][:60]),
    "launch parameters on files": prepared(
        "POST", f"{ONE}/files", files=[model({"registrationParameters": []}), file()]
    ),
    "no limit": prepared("GET", ACTIVE),
    "limit 0": prepared("GET", f"{ACTIVE}?Limit=0"),
    "limit 1001": prepared("GET", f"{ACTIVE}?Limit=1001"),
    "limit text": prepared("GET", f"{ACTIVE}?Limit=x"),
    "limit twice": prepared("GET", f"{ACTIVE}?Limit=1&Limit=1"),
    "query name": prepared("GET", f"{ACTIVE}?limit=1"),
    "stage": prepared("GET", f"{ACTIVE}?Limit=1&StageType=ManuaReview"),
    "active status": prepared("GET", f"{ACTIVE}?Limit=1&TransactionStatus=Failed"),
    "one l": prepared("GET", f"{BASE}/transactions/completed?Limit=1&TransactionStatus=Canceled"),
    "date": prepared("GET", f"{ACTIVE}?Limit=1&StartDate=2026-01-01"),
    "pair": prepared("GET", f"{ACTIVE}?Limit=1&TransactionParameters=a"),
    "pair member": prepared("GET", f"{ACTIVE}?Limit=1&TransactionParameters=%7B%22k%22%3A1%7D"),
    "token json": prepared("POST", TOKEN, json=FORM),
    "token without secret": prepared(
        "POST", TOKEN, data={k: v for k, v in FORM.items() if k != "client_secret"}
    ),
    "token empty": prepared("POST", TOKEN, data={**FORM, "password": ""}),
    "token member": prepared("POST", TOKEN, data={**FORM, "tenant": "x"}),
    "token scope": prepared("POST", TOKEN, data={**FORM, "scope": "openid"}),
    "token grant": prepared("POST", TOKEN, data={**FORM, "grant_type": "implicit"}),
    "token twice": prepared("POST", TOKEN, data=[*FORM.items(), ("scope", SCOPE)]),
    "token client twice": prepared(
        "POST", TOKEN, data=FORM, headers={"Authorization": "Basic Yzpz"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD_REQUESTS)
def test_good_requests(case: Any) -> None:
    method, url, headers, body = case
    if method == "POST" and TOKEN in url and headers.get("Authorization") == "Bearer made-up":
        headers = {k: v for k, v in headers.items() if k != "Authorization"}
    check_request(method, url, headers, body)


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
def test_bad_requests(name: str) -> None:
    method, url, headers, body = BAD_REQUESTS[name]
    if TOKEN in url and headers.get("Authorization") == "Bearer made-up":
        headers = {k: v for k, v in headers.items() if k != "Authorization"}
    with pytest.raises(ContractError):
        check_request(method, url, headers, body)


def test_unescaped_password_is_found() -> None:
    """Values pasted into the form (contract, section 8, point 7) split a member in two."""
    body = "&".join(f"{name}={value}" for name, value in FORM.items()).replace(" ", "+")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with pytest.raises(ContractError):
        check_request("POST", TOKEN, headers, body)


def test_contents_of_result_files() -> None:
    check_value({"Version": "3.0", "Fields": {"a": ["b", {"c": None}]}}, "FieldsJsonFile")
    with pytest.raises(ContractError):
        check_value({"Version": "3.0"}, "FieldsJsonFile")
    with pytest.raises(ContractError):
        check_value({"Transaction": {}}, "JsonFile")
