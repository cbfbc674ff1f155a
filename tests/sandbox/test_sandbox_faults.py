# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault, and the rules for when one applies."""

from __future__ import annotations

import email.utils
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from patience import wait_until

from vantage_orchestration.sandbox.control_client import SandboxControlError


def plain(api: Any, path: str = "/skills", method: str = "GET", **options: Any) -> Any:
    """A call whose answer is not checked: faults need not keep the contract."""
    return requests.request(
        method,
        api.base + path,
        headers={**api.headers, **options.pop("headers", {})},
        timeout=30,
        **options,
    )


def multipart(invoice: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("Files", ("a.pdf", invoice))]


@pytest.fixture(autouse=True)
def no_errors_in_the_log(caplog: pytest.LogCaptureFixture) -> Any:
    """No fault may leave a traceback or an error line behind."""
    caplog.set_level(logging.WARNING)
    yield
    assert [r for r in caplog.records if r.name.startswith(("uvicorn", "asyncio"))] == []


# ---- which requests ----


@pytest.mark.parametrize(
    "match",
    [
        {"operation": "getSkill"},
        {"path": "/api/publicapi/v1/skills/{skillId}"},
        {"path": "/api/publicapi/v1/skills/Receipt"},
        {"path": "/api/publicapi/v1/skills/Receipt/", "method": "get"},
        {"path_regex": "/skills/R.*t$"},
    ],
)
def test_matching(api: Any, match: dict[str, str]) -> None:
    api.control.add_fault(status=500, **match)
    assert plain(api, "/skills").status_code == 200
    assert plain(api, "/skills/Receipt").status_code == 500
    assert plain(api, "/skills/Receipt").status_code == 200


def test_method_must_match(api: Any) -> None:
    api.control.add_fault(status=500, path="/api/publicapi/v1/transactions", method="DELETE")
    assert plain(api, "/transactions", "POST", json={"skillId": "Receipt"}).status_code == 201


def test_times_and_after(api: Any) -> None:
    api.control.add_fault(operation="listSkills", status=500, times=2, after=1)
    assert [plain(api).status_code for _ in range(5)] == [200, 500, 500, 200, 200]


def test_first_fitting_rule_applies(api: Any) -> None:
    for status in (500, 429, 403):
        api.control.add_fault(operation="listSkills", status=status)
    assert [plain(api).status_code for _ in range(4)] == [500, 429, 403, 200]
    assert [rule["hits"] for rule in api.control.faults()] == [1, 1, 1]


def test_without_end_until_cleared(api: Any) -> None:
    api.control.add_fault(path_regex="skills", status=500, times=0)
    assert {plain(api).status_code for _ in range(7)} == {500}
    api.control.clear_faults()
    assert plain(api).status_code == 200


def test_control_routes_are_not_disturbed(api: Any) -> None:
    api.control.add_fault(path_regex=".", status=500, times=0)
    assert api.control.health()["status"] == "ok"


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"operation": "listSkills"},
        {"operation": "listSkill", "status": 500},
        {"status": 99},
        {"status": 500, "colour": "red"},
        {"status": 500, "times": -1},
        {"delay": "long"},
        {"status": 500, "when": "later"},
        {"status": 500, "path_regex": "("},
        {"revoke": "some"},
        {"chunk_delay": 1, "chunk_size": 0},
    ],
)
def test_bad_rules_are_refused(api: Any, rule: dict[str, Any]) -> None:
    with pytest.raises(SandboxControlError):
        api.control.add_fault(**rule)
    assert api.control.faults() == []


# ---- status codes ----


@pytest.mark.parametrize("status", [401, 403, 409, 413, 429, 500, 502, 503, 504])
def test_status_in_place_of_the_work(api: Any, status: int, invoice: bytes) -> None:
    key = api.create()
    api.control.add_fault(operation="addFiles", status=status)
    path = f"/transactions/{key}/files"
    reply = api.session.post(api.base + path, files=multipart(invoice), headers=api.headers)
    assert reply.status_code == status
    if status == 401:
        assert reply.content == b""
        assert "invalid_token" in reply.headers["WWW-Authenticate"]
    elif status == 503:
        assert reply.headers["Content-Type"].startswith("text/html")
        assert b"<html>" in reply.content
    else:
        assert reply.json()["status"] == status
    assert api.control.transaction(key)["files"] == []
    assert plain(api, path, "POST", files=multipart(invoice)).status_code == 200


def test_status_after_the_work(api: Any, invoice: bytes) -> None:
    api.control.add_fault(operation="launchTransaction", status=503, when="after")
    path = "/transactions/launch?skillId=Receipt"
    assert plain(api, path, "POST", files=multipart(invoice)).status_code == 503
    (made,) = api.control.transactions()
    assert (made["status"], made["started"]) == ("Processing", 1)


def test_retry_after_in_seconds(api: Any) -> None:
    api.control.add_fault(operation="listSkills", status=429, retry_after=7)
    reply = plain(api)
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")


def test_retry_after_as_a_date(api: Any) -> None:
    api.control.add_fault(operation="listSkills", status=503, retry_after_date=3600)
    moment = email.utils.parsedate_to_datetime(plain(api).headers["Retry-After"])
    assert 3500 < moment.timestamp() - time.time() < 3700


def test_early_answer_without_reading_the_body(api: Any) -> None:
    key = api.create()
    api.control.add_fault(operation="addFiles", status=413, read_body=False)
    data = b"--x\r\n" + b"x" * 3_000_000
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = plain(api, f"/transactions/{key}/files", "POST", data=data, headers=headers)
    assert reply.status_code == 413


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(api: Any, status: int) -> None:
    target = "http://127.0.0.1:9/elsewhere"
    api.control.add_fault(operation="requestToken", status=status, headers={"Location": target})
    reply = requests.post(
        api.server.url + "/auth2/connect/token",
        data=api.form(),
        allow_redirects=False,
        timeout=30,
    )
    assert (reply.status_code, reply.headers["Location"]) == (status, target)


# ---- raw bodies ----


def token_reply(api: Any, **rule: Any) -> requests.Response:
    api.control.add_fault(operation="requestToken", **rule)
    return requests.post(
        api.server.url + "/auth2/connect/token", data=api.form(), timeout=30, stream=True
    )


def test_raw_token_replies(api: Any) -> None:
    html = token_reply(
        api, status=200, body="<html>Sign in</html>", headers={"Content-Type": "text/html"}
    )
    assert html.text == "<html>Sign in</html>"
    assert html.headers["Content-Type"] == "text/html"
    assert token_reply(api, status=200, json=["a", "list"]).json() == ["a", "list"]
    assert token_reply(api, status=200, body_base64="//79").content == b"\xff\xfe\xfd"
    assert token_reply(api, status=200).content == b""
    assert token_reply(api, status=204).status_code == 204
    assert len(token_reply(api, status=200, body_size=5_000_000).content) == 5_000_000
    body = token_reply(api, status=400, json={"error": "invalid_grant"}).json()
    assert body == {"error": "invalid_grant"}


def test_gzip_bomb(api: Any) -> None:
    reply = token_reply(api, status=200, gzip_size=50_000_000)
    assert reply.headers["Content-Encoding"] == "gzip"
    assert int(reply.headers["Content-Length"]) < 100_000
    assert len(reply.content) == 50_000_000


@pytest.mark.parametrize("value", ["3600", 0, -5, 1.5, None, [], 10**30])
def test_odd_members_in_a_good_reply(api: Any, value: Any) -> None:
    body = token_reply(api, merge_json={"expires_in": value}).json()
    assert body["expires_in"] == value
    api.headers = {"Authorization": "Bearer " + body["access_token"]}
    assert plain(api).status_code == 200, "the token itself is real"


def test_members_taken_away(api: Any) -> None:
    body = token_reply(api, remove_json=["expires_in", "scope"]).json()
    assert set(body) == {"access_token", "token_type"}


def test_unknown_status(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)])
    api.control.add_fault(operation="getTransaction", merge_json={"status": "Pondering"})
    assert plain(api, f"/transactions/{key}").json()["status"] == "Pondering"
    assert plain(api, f"/transactions/{key}").json()["status"] == "Processing"


def test_garbage(api: Any) -> None:
    api.control.add_fault(operation="createTransaction", garbage=True)
    reply = plain(api, "/transactions", "POST", json={"skillId": "Receipt"})
    assert reply.status_code == 201
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.content)
    assert len(api.control.transactions()) == 1


# ---- tokens ----


def test_revoke_before_and_after(api: Any) -> None:
    api.control.add_fault(operation="listSkills", revoke="this")
    assert plain(api).status_code == 401
    api.sign_in()
    api.control.add_fault(operation="listSkills", revoke="this", when="after")
    assert [plain(api).status_code for _ in range(2)] == [200, 401]


def test_revoke_all_in_the_middle(api: Any, other_api: Any, invoice: bytes) -> None:
    second = other_api(api.server).sign_in()
    key = api.create()
    api.control.add_fault(operation="addFiles", revoke="all", when="after")
    path = f"/transactions/{key}/files"
    assert plain(api, path, "POST", files=multipart(invoice)).status_code == 200
    assert plain(api, f"/transactions/{key}/start", "POST").status_code == 401
    assert plain(second).status_code == 401
    assert len(api.control.transaction(key)["files"]) == 1


# ---- connections ----


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("read_body", [True, False])
def test_dropped_connection(api: Any, when: str, read_body: bool, invoice: bytes) -> None:
    api.control.add_fault(operation="launchTransaction", drop=True, when=when, read_body=read_body)
    path = "/transactions/launch?skillId=Receipt"
    with pytest.raises(requests.ConnectionError):
        plain(api, path, "POST", files=multipart(invoice))
    made = [item["status"] for item in api.control.transactions()]
    assert made == (["Processing"] if when == "after" else [])
    entry = api.control.journal(path_regex="launch")[-1]
    assert (entry["status"], entry["outcome"]) == (None, "dropped")
    assert plain(api).status_code == 200


def test_drop_in_the_middle_of_an_upload(api: Any) -> None:
    key = api.create()
    api.control.add_fault(operation="addFiles", drop=True, read_body=False)
    data = b"--x\r\n" + b"x" * 30_000_000
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(requests.ConnectionError):
        plain(api, f"/transactions/{key}/files", "POST", data=data, headers=headers)
    assert api.control.journal(path_regex="files")[-1]["request_bytes"] < len(data)


def test_client_that_goes_away_leaves_nothing(api: Any) -> None:
    import socket

    key = api.create()
    host, port = api.server.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/publicapi/v1/transactions/{key}/files HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: {api.headers['Authorization']}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="Files"; filename="a.pdf"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"x" * 200_000)
    wait_until(
        lambda: api.control.journal(path_regex="files")[0]["finished"], "its end", pause=0.01
    )
    (entry,) = api.control.journal(path_regex="files")
    assert entry["outcome"] == "the client went away"
    assert list(api.server.state.folder.iterdir()) == []


def download_path(api: Any, data: bytes) -> str:
    key = api.launch([("a.pdf", data)])
    file = api.finish(key)["documents"][0]["resultFiles"][0]["fileId"]
    return f"/transactions/{key}/files/{file}/download"


def kept(reply: requests.Response, got: bytearray) -> Iterator[bytes]:
    """Read a body to its end, and keep what came even if the end does not come."""
    for piece in reply.iter_content(1):
        got += piece
        yield b""


@pytest.mark.parametrize("size", [0, 1, 100])
def test_truncated_download(api: Any, size: int, invoice: bytes) -> None:
    path = download_path(api, invoice)
    whole = plain(api, path).content
    api.control.add_fault(operation="downloadResultFile", truncate=size)
    with requests.get(api.base + path, headers=api.headers, stream=True, timeout=30) as reply:
        assert int(reply.headers["Content-Length"]) == len(whole)
        got = bytearray()
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            got.extend(b"".join(kept(reply, got)))
    assert got == whole[:size]
    assert plain(api, path).content == whole


def test_truncation_beyond_the_end_changes_nothing(api: Any, invoice: bytes) -> None:
    path = download_path(api, invoice)
    api.control.add_fault(operation="downloadResultFile", truncate=10_000_000)
    assert plain(api, path).content == plain(api, path).content


def test_slow_download_arrives_whole(api: Any, invoice: bytes) -> None:
    path = download_path(api, invoice)
    whole = plain(api, path).content
    api.control.add_fault(
        operation="downloadResultFile", chunk_delay=0.001, chunk_size=len(whole) // 10
    )
    assert plain(api, path).content == whole


def test_slow_download_stalls(api: Any, invoice: bytes) -> None:
    path = download_path(api, invoice)
    api.control.add_fault(operation="downloadResultFile", chunk_delay=60, chunk_size=10)
    with requests.get(api.base + path, headers=api.headers, stream=True, timeout=2) as reply:
        assert reply.status_code == 200
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            _ = reply.content


@pytest.mark.parametrize("when", ["before", "after"])
def test_slow_reply(api: Any, when: str) -> None:
    api.control.add_fault(operation="createTransaction", delay=60, when=when)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            api.base + "/transactions",
            json={"skillId": "Receipt"},
            headers=api.headers,
            timeout=0.2,
        )
    if when == "after":
        wait_until(api.control.transactions, "the work to be done", pause=0.01)
    assert len(api.control.transactions()) == (1 if when == "after" else 0)


def test_delay_and_status_together(api: Any) -> None:
    api.control.add_fault(operation="listSkills", delay=0.001, status=503, retry_after=1)
    assert plain(api).headers["Retry-After"] == "1"


def test_stop_does_not_wait_for_delayed_replies(make_api: Any) -> None:
    from threading import Thread

    api = make_api()
    api.control.add_fault(operation="listSkills", delay=3600)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            plain(api)
        except requests.ConnectionError as error:
            failed.append(error)

    caller = Thread(target=ask)
    caller.start()
    wait_until(lambda: api.control.journal(path_regex="skills"), "the request", pause=0.005)
    thread = api.server.thread
    api.server.stop()
    assert not thread.is_alive()
    caller.join(10)
    assert failed
