# SPDX-License-Identifier: Apache-2.0
"""The extra link, its page and the way to a review, through the API server's own application."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from leaks import find_leaks
from patience import wait_until, wait_while_running
from processes import free_port
from test_airflow.installation import SERVER, Airflow, columns_of

from vantage_orchestration.airflow.provider import get_provider_info
from vantage_orchestration.sandbox import SandboxServer

DAG = "links"
LINK = "ABBYY Vantage transactions"
#: Users have roles here; else everybody is an administrator.
ROLES = {**SERVER, "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False"}
_runs = itertools.count()
Deleted = "Deleted (ABBYY Vantage keeps transactions for 14 days)"


def page_of(dag_id: str, run_id: str, map_index: int = -1) -> str:
    return f"/abbyy-vantage/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/watch/{map_index}"


class Server:
    """A real API server, and users of it."""

    def __init__(self, airflow: Airflow, cache: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.output = cache / "output.txt"
        self._tokens = airflow("inside_links.tokens", ROLES, roles=["ADMIN", "USER", "VIEWER", ""])
        command = ["api-server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        with self.output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command],
                env={**airflow.environment, **ROLES, "XDG_CACHE_HOME": str(cache)},
                stdout=output,
                stderr=output,
            )
        try:
            wait_while_running(
                self._process,
                self._answers,
                lambda: f"no API server:\n{self.output.read_text()[-5000:]}",
                pause=0.2,
            )
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/api/v2/version", timeout=10).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)

    def send(
        self,
        method: str,
        path: str,
        role: str | None = None,
        cookie: bool = False,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send a request as a user with a role ("": a user without one; None: no user)."""
        sent = dict(headers or {})
        if role is not None:
            token = self._tokens[role]
            if cookie:
                sent["Cookie"] = f"_token={token}"
            else:
                sent["Authorization"] = f"Bearer {token}"
        return requests.request(
            method, self.url + path, headers=sent, allow_redirects=False, timeout=60
        )


@pytest.fixture(scope="module")
def server(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(airflow, tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


class Case:
    """A run of a Dag whose task has noted transactions of a sandbox, and users who look at it."""

    def __init__(
        self, airflow: Airflow, server: Server, sandbox: SandboxServer, conn_id: str
    ) -> None:
        self.airflow, self.server, self.sandbox = airflow, server, sandbox
        self.conn_id = conn_id
        self.run_id = f"manual__2026-02-01T00:00:00+00:00_{next(_runs)}"
        self.page = page_of(DAG, self.run_id)

    def receive(self, count: int = 1, review: bool = False) -> list[str]:
        """Return ids of transactions that end by themselves, or wait for a person."""
        return self.sandbox.control.receive_many(count, "Receipt" if review else "Invoice")

    def run(self, ids: list[str], dag_id: str = DAG, **conf: Any) -> dict[str, Any]:
        conf = {"conn_id": self.conn_id, "transaction_ids": ids, **conf}
        return self.airflow("run", dag_id=dag_id, run_id=self.run_id, conf=conf)

    def get(self, role: str | None = "USER", query: str = "", **call: Any) -> requests.Response:
        return self.server.send("GET", self.page + query, role, **call)

    def review(self, transaction_id: str) -> str:
        return f"{self.page}/transactions/{transaction_id}/review"

    def post(
        self, transaction_id: str, role: str | None = "USER", **call: Any
    ) -> requests.Response:
        return self.server.send("POST", self.review(transaction_id), role, **call)

    def link(self, dag_id: str = DAG, map_index: int = -1) -> dict[str, Any]:
        """Return what Airflow's own page gets to know about the extra links."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(self.run_id)}/taskInstances/watch/links"
        reply = self.server.send("GET", f"{path}?map_index={map_index}", "VIEWER")
        return reply.json()["extra_links"]

    def stored(self) -> dict[str, Any]:
        return self.airflow("inside_links.xcoms", dag_id=DAG, run_id=self.run_id)

    def until(self, wanted: Callable[[requests.Response], object], query: str = "") -> None:
        """Reload the page until it shows what is wanted: answers count as new for a moment."""
        wait_until(
            lambda: wanted(self.get(query=query)), lambda: self.get(query=query).text, pause=0.2
        )

    def asked(self) -> int:
        """Return the number of requests about transactions so far."""
        return self.sandbox.control.count("GET", "/transactions")


@pytest.fixture
def case(
    airflow: Airflow, server: Server, sandbox_factory: Any, connect: Callable[..., str]
) -> Case:
    sandbox = sandbox_factory(processing_polls=0)
    sandbox.control.set(review_skills=[sandbox.control.skill_id("Receipt")])
    return Case(airflow, server, sandbox, connect(sandbox))


def rows_of(page: requests.Response) -> list[tuple[str, str, bool]]:
    """Return id, status and whether there is a button, of each row."""
    row = r"<tr><td>(?:[^<]*<br>)?<code>([^<]*)</code></td><td>([^<]*).*<td>(.*?)</td></tr>"
    found = re.findall(row, page.text)
    return [(each, status, "<button>" in review) for each, status, review in found]


def login_of(page: str) -> tuple[str, str]:
    """Return path and next page of the link to the login."""
    (link,) = re.findall(r'href="([^"]*/auth/login[^"]*)"', page)
    parts = urlsplit(unescape(link))
    return parts.path, parse_qs(parts.query)["next"][0]


# ------------------------------------------------------------------ the link


def test_link_while_deferred_and_after(case: Case) -> None:
    ids = case.receive(2)
    told = case.run(ids, defer=True)
    assert told["tasks"] == {"watch[-1]": ["deferred", 1]}
    assert case.link() == {LINK: case.page}
    assert [row[0] for row in rows_of(case.get("VIEWER"))] == ids
    case.airflow("inside_links.fire", dag_id=DAG, run_id=case.run_id)
    told = case.airflow("work", dag_id=DAG, run_id=case.run_id)
    assert told["tasks"] == {"watch[-1]": ["success", 1]}
    assert case.link() == {LINK: case.page}
    assert case.get("VIEWER").status_code == 200
    assert case.stored() == {
        "-1:abbyy_vantage": {"transaction_ids": ids},
        "-1:_link_VantageTransactionLink": case.page,
        "-1:return_value": "done",
    }


def test_link_of_a_killed_worker(case: Case) -> None:
    """Somebody may want to know what became of its transactions, and the next try comes later."""
    ids = case.receive()
    told = case.run(ids, crash=True)
    assert told["tasks"] == {"watch[-1]": ["failed", 1]}
    assert case.link() == {LINK: case.page}
    assert rows_of(case.get()) == [(ids[0], "Processed", False)]


def test_no_link_without_transactions(case: Case) -> None:
    assert case.run([])["state"] == "success"
    assert case.link() == {LINK: None}
    assert case.get("ADMIN").status_code == 404
    assert case.post("t-1", "ADMIN").status_code == 404


def test_mapped_tasks_have_a_page_each(case: Case) -> None:
    ids = case.receive(2, review=True)
    assert case.run(ids, dag_id="mapped_links")["state"] == "success"
    pages = [page_of("mapped_links", case.run_id, index) for index in (0, 1)]
    assert [case.link("mapped_links", index)[LINK] for index in (0, 1)] == pages
    shown = [case.server.send("GET", page, "USER") for page in pages]
    assert [rows_of(each) for each in shown] == [
        [(each, "Waits for a person", True)] for each in ids
    ]
    back = f"/dags/mapped_links/runs/{quote(case.run_id, safe='')}/tasks/watch/mapped/1"
    assert f'href="{back}"' in shown[1].text
    # The transaction of one is not to be had by way of the other.
    reviews = [
        case.server.send("POST", f"{pages[0]}/transactions/{each}/review", "USER") for each in ids
    ]
    assert [each.status_code for each in reviews] == [303, 404]


def test_other_xcom_backend(case: Case, tmp_path: Path) -> None:
    (waiting,) = case.receive(review=True)
    case.airflow(
        "inside_links.run_with_backend",
        folder=str(tmp_path),
        dag_id=DAG,
        run_id=case.run_id,
        conf={"conn_id": case.conn_id, "transaction_ids": [waiting]},
    )
    assert str(tmp_path) in case.stored()["-1:return_value"]  # So the other backend is in use.
    assert case.link() == {LINK: case.page}
    assert rows_of(case.get()) == [(waiting, "Waits for a person", True)]


def test_address_below_a_path(case: Case) -> None:
    (waiting,) = case.receive(review=True)
    environment = {**ROLES, "AIRFLOW__API__BASE_URL": "http://example.com/air-flow/"}
    conf = {"conn_id": case.conn_id, "transaction_ids": [waiting]}
    case.airflow("run", environment, dag_id=DAG, run_id=case.run_id, conf=conf)
    link = case.stored()["-1:_link_VantageTransactionLink"]
    assert link == f"http://example.com/air-flow{case.page}"
    path = urlsplit(link).path
    calls = [
        {"method": "GET", "path": path, "role": "USER"},
        {"method": "GET", "path": path},
        {
            "method": "POST",
            "path": f"{path}/transactions/{waiting}/review",
            "role": "USER",
            "headers": {"Origin": "http://example.com", "Host": "inner:8080"},
        },
    ]
    seen, anonymous, review = case.airflow("inside_links.serve", environment, calls=calls)
    assert f'action="{path}/transactions/{waiting}/review"' in seen["text"]
    assert f'href="/air-flow/dags/{DAG}/runs/' in seen["text"]
    assert login_of(anonymous["text"]) == ("/air-flow/api/v2/auth/login", path)
    assert review["status"] == 303


# ------------------------------------------------------------------ the page


def test_page(case: Case) -> None:
    done, waiting = case.receive() + case.receive(review=True)
    case.run([done, waiting])
    before = case.asked()
    page = case.get()
    assert page.status_code == 200
    assert rows_of(page) == [(done, "Processed", False), (waiting, "Waits for a person", True)]
    assert case.asked() - before == 2
    assert f'action="{case.review(waiting)}"' in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "same-origin"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    # A review leads to the connection's server and nowhere else.
    assert policy.endswith(f"form-action 'self' {case.sandbox.url}")
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "accessToken" not in page.text
    # It loads itself again until nothing changes any more.
    assert '<meta http-equiv="refresh" content="20">' in page.text
    (name,) = [f["name"] for f in case.sandbox.control.transaction(waiting)["files"]]
    assert f"<td>&#39;{name}&#39;<br><code>{waiting}</code></td>" in page.text
    case.sandbox.control.finish_review(waiting)
    case.until(lambda page: rows_of(page)[1] == (waiting, "Processed", False))
    assert "http-equiv" not in case.get().text


def test_review(case: Case) -> None:
    (waiting,) = case.receive(review=True)
    case.run([waiting], defer=True)
    replies = [case.post(waiting), case.post(waiting)]
    links = [reply.headers["Location"] for reply in replies]
    assert links[0] != links[1]
    for reply, link in zip(replies, links, strict=True):
        assert reply.status_code == 303
        assert reply.content == b""
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        # It leads to the review of this transaction.
        assert link.startswith(f"{case.sandbox.url}/manual-review?transactionId={waiting}&")
        assert "<form" in requests.get(link, timeout=30).text
    told = case.airflow("inside_links.audit", event="abbyy_vantage_open_review", run_id=case.run_id)
    assert [(each["owner"], each["dag_id"], each["task_id"]) for each in told] == [
        ("somebody", DAG, "watch")
    ] * 2
    assert json.loads(told[0]["extra"])["transaction_id"] == waiting
    case.sandbox.control.finish_review(waiting)
    late = case.post(waiting)
    assert late.status_code == 409
    assert "Location" not in late.headers
    # No link is in the database, in a log or in the server's output, which shows the requests.
    output = case.server.output.read_text()
    assert output.count(f"/transactions/{waiting}/review") >= 3
    assert "303" in output
    assert "Starting new HTTP connection" in output  # It is at DEBUG.
    tokens = [parse_qs(urlsplit(link).query)["accessToken"][0] for link in links]
    secrets = {*tokens, *case.sandbox.control.issued_secrets()}
    places = {
        "home": case.airflow.home,
        "database": case.airflow.database,
        "server": case.server.output,
        "page": late.text,
    }
    assert find_leaks(secrets, places) == []
    assert find_leaks(secrets, {"reply": repr(replies[0].headers)}) == ["reply"]


def test_many_transactions(case: Case) -> None:
    done, waiting = case.receive(60), case.receive(3, review=True)
    ids = [*done[:40], *waiting, *done[40:]]
    case.run(ids)
    before = case.asked()
    first = case.get()
    assert case.asked() - before == 1 + 25
    rows = rows_of(first)
    assert [row[0] for row in rows if row[2]] == waiting
    assert "Page 1 of 3" in first.text
    assert f'href="{case.page}?page=2"' in first.text
    pages = [rows_of(case.get(query=f"?page={number}")) for number in (2, 3, 99)]
    assert [len(page) for page in (rows, *pages)] == [25, 25, 13, 13]
    assert [row[0] for page in (rows, *pages[:2]) for row in page] == [*waiting, *done]
    # Without the list everything is still shown, in the order in which it was noted.
    case.sandbox.control.add_fault(path_regex="/transactions/active", status=403, times=0)
    case.until(lambda page: [row[0] for row in rows_of(page)] == ids[:25])
    assert {row[1] for row in rows_of(case.get())} == {"Processed"}
    case.sandbox.control.clear_faults()
    case.sandbox.control.add_fault(path_regex="/transactions/active", status=503, times=0)
    case.until(lambda page: "status 503" in page.text)
    broken = rows_of(case.get())
    assert [row[0] for row in broken] == ids[:25]
    assert {row[1] for row in broken} == {"Unknown"}


def test_trouble_is_told(case: Case) -> None:
    gone, waiting = case.receive(2, review=True)
    case.run([gone, waiting])
    case.sandbox.control.add_fault(
        path_regex=f"/transactions/{gone}$", status=404, json={}, times=0
    )
    assert rows_of(case.get()) == [
        (gone, "Deleted (ABBYY Vantage keeps transactions for 14 days)", False),
        (waiting, "Waits for a person", True),
    ]
    case.sandbox.control.clear_faults()
    case.sandbox.control.add_fault(path_regex="/transactions/", status=503, times=0)
    case.until(lambda page: "status 503" in page.text)
    page, review = case.get(), case.post(waiting)
    assert page.status_code == 200
    assert {row[1] for row in rows_of(page)} == {"Unknown"}
    assert review.status_code == 502
    assert "status 503" in review.text
    assert_tells_no_more(case, page, review)
    case.sandbox.control.clear_faults()
    case.until(lambda page: rows_of(page)[1] == (waiting, "Waits for a person", True))


def test_one_transaction_in_trouble_leaves_the_others_alone(case: Case) -> None:
    ids = case.receive(3)
    case.run(ids)
    case.sandbox.control.add_fault(path_regex=f"/transactions/{ids[1]}$", status=403, times=0)
    page = case.get()
    assert [row[1] for row in rows_of(page)] == ["Processed", "Unknown", "Processed"]
    assert "status 403" in page.text
    assert_tells_no_more(case, page)


def assert_tells_no_more(case: Case, *pages: requests.Response) -> None:
    """Readers see no host, user or path; the log has all of it, under a reference."""
    account = case.sandbox.credentials
    own = case.sandbox.url.partition("://")[2]
    for page in pages:
        text = unescape(page.text).partition("Connection</dt>")[2] or unescape(page.text)
        (reference,) = re.findall(r"The log of the API server says more: ([0-9a-f]{8})", text)
        for hidden in (account["username"], account["client_id"], own, "127.0.0.1", "publicapi"):
            assert hidden not in text
        (line,) = (
            line for line in case.server.output.read_text().splitlines() if reference in line
        )
        assert case.conn_id in line


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)//accessToken=made-up-token",
        "ftp://127.0.0.1/manual-review?accessToken=made-up-token",
        "/manual-review?accessToken=made-up-token",
        "//example.com/?accessToken=made-up-token",
        "http://[::1/?accessToken=made-up-token",
        "http://127.0.0.1/?accessToken=made-up-token\r\nSet-Cookie: a=b",
        "http://127.0.0.1/ /?accessToken=made-up-token",
        "http://127.0.0.1/é?accessToken=made-up-token",
        # Another server, or another door of the same.
        "https://example.com/manual-review?accessToken=made-up-token",
        "HOST.example.com/manual-review?accessToken=made-up-token",
        "http://HOST@example.com/?accessToken=made-up-token",
        "http://example.com\\@HOST/?accessToken=made-up-token",
        "http://127.0.0.1:1/manual-review?accessToken=made-up-token",
        "https://HOST/manual-review?accessToken=made-up-token",
        "http://user@HOST/manual-review?accessToken=made-up-token",
    ],
)
def test_link_that_no_browser_should_follow(case: Case, link: str) -> None:
    (waiting,) = case.receive(review=True)
    case.run([waiting])
    path = f"/transactions/{waiting}$"
    link = link.replace("HOST", case.sandbox.url.partition("://")[2])
    case.sandbox.control.add_fault(path_regex=path, merge_json={"manualReviewLink": link})
    reply = case.post(waiting)
    assert reply.status_code == 502
    assert "not a web address" in reply.text
    assert not {"Location", "Set-Cookie"} & set(reply.headers)
    assert find_leaks(["made-up-token"], {"reply": reply.text, "log": case.server.output}) == []


def test_connection_is_gone(case: Case) -> None:
    case.conn_id = "<b>nobody</b>"
    case.run(["t-1"])
    page, review = case.get(), case.post("t-1")
    assert page.status_code == 200
    assert "The connection of this task can&#39;t be used" in page.text
    assert "<b>" not in page.text
    assert "<dd>&lt;b&gt;nobody&lt;/b&gt;</dd>" in page.text
    assert rows_of(page) == [("t-1", "Unknown", False)]
    assert review.status_code == 502
    assert_tells_no_more(case, page, review)


def test_what_others_have_written_is_shown_as_text(case: Case) -> None:
    markup = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    case.run([markup])
    answer = {"id": markup, "status": markup, "manualReviewLink": "x"}
    case.sandbox.control.add_fault(path_regex="/transactions/", status=200, json=answer, times=0)
    page = case.get()
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert page.text.count("<form") == page.text.count("</form>") <= 1


# -------------------------------------------------------------------- access


def test_who_may(case: Case) -> None:
    (waiting,) = case.receive(review=True)
    case.run([waiting])
    before = case.asked()
    nobody: list[dict[str, Any]] = [{"role": None}, {"role": ""}, {"role": "", "cookie": True}]
    refused = [reply for user in nobody for reply in (case.get(**user), case.post(waiting, **user))]
    assert [each.status_code for each in refused] == [401, 401, 403, 403, 403, 403]
    assert login_of(refused[0].text) == ("/api/v2/auth/login", case.page)
    for cookie in (False, True):
        refused.append(case.post(waiting, "VIEWER", cookie=cookie))
        assert refused[-1].status_code == 403
    assert case.asked() == before  # None of these requests made the server ask.
    assert waiting not in "".join(each.text for each in refused)
    assert all("Location" not in each.headers for each in refused)
    # Who may only look sees the status, and no button.
    seen = case.get("VIEWER", cookie=True)
    assert rows_of(seen) == [(waiting, "Waits for a person", False)]
    assert "the right to answer required actions" in seen.text
    for cookie in (False, True):
        assert case.post(waiting, "USER", cookie=cookie).status_code == 303
    told = case.airflow("inside_links.audit", event="abbyy_vantage_open_review", run_id=case.run_id)
    assert len(told) == 2


def test_forged_login(case: Case) -> None:
    (waiting,) = case.receive(review=True)
    case.run([waiting])
    for headers in ({"Authorization": "Bearer x.y.z"}, {"Cookie": "_token=x.y.z"}):
        reply = case.post(waiting, None, headers=headers)
        assert reply.status_code in (401, 403)
        assert "Location" not in reply.headers


def test_forms_of_other_sites(case: Case) -> None:
    (waiting,) = case.receive(review=True)
    case.run([waiting])
    own = case.server.url
    good = [{"Sec-Fetch-Site": "same-origin", "Origin": own}, {"Origin": own}, {}]
    bad = [
        {"Sec-Fetch-Site": "cross-site", "Origin": own},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example.com"},
        {"Origin": own.replace("127.0.0.1", "127.0.0.1.example.com")},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
    ]
    for headers in good:
        assert case.post(waiting, cookie=True, headers=headers).status_code == 303, headers
    before = case.asked()
    for headers in bad:
        assert case.post(waiting, cookie=True, headers=headers).status_code == 403, headers
    assert case.asked() == before


def test_login_cookie_stays_on_its_site(case: Case) -> None:
    """What the second line behind the check of the form's origin rests on."""
    reply = case.server.send("GET", "/api/v2/version", None, headers={"Cookie": "_token=x.y.z"})
    assert "samesite=lax" in reply.headers["Set-Cookie"].lower()


def test_only_what_the_task_has_noted(case: Case) -> None:
    own, other = case.receive(2, review=True)
    case.run([own])
    before = case.asked()
    review = case.review(own)
    paths = [
        case.review(other),
        review.replace("/-1/", "/0/"),
        review.replace("/watch/", "/watcher/"),
        review.replace(f"/{DAG}/", "/~/"),
        review.replace(f"/{DAG}/", "/mapped_links/"),
        review.replace("/-1/", "/x/"),
        case.review(quote(f"{own}/../{other}", safe="")),
        case.review(own.upper()),
        f"{case.page}/nothing",
    ]
    for path in paths:
        assert case.server.send("POST", path, "ADMIN").status_code == 404, path
    assert case.server.send("GET", review, "ADMIN").status_code == 405
    # Whatever is stored under the key, nothing breaks.
    for value in ("x", [own], {"conn_id": case.conn_id}, {"transaction_ids": own}, "[" * 60_000):
        case.airflow(
            "inside_links.set_xcom",
            dag_id=DAG,
            run_id=case.run_id,
            key="abbyy_vantage",
            value=value,
        )
        assert case.post(own).status_code == 404
        assert case.get().status_code == 404
    assert case.asked() == before


def test_the_connection_is_what_the_task_declares(
    case: Case, sandbox_factory: Any, connect: Callable[..., str]
) -> None:
    """Users may write XComs: none of them may choose the account that is asked."""
    (own,) = case.receive(review=True)
    case.run([own])
    other = sandbox_factory(processing_polls=0, seed=2)
    other.control.set(review_skills=[other.control.skill_id("Receipt")])
    (theirs,) = other.control.receive_many(1, "Receipt")
    value = {"conn_id": connect(other), "transaction_ids": [theirs]}
    case.airflow(
        "inside_links.set_xcom", dag_id=DAG, run_id=case.run_id, key="abbyy_vantage", value=value
    )
    assert rows_of(case.get()) == [(theirs, Deleted, False)]
    assert case.post(theirs).status_code == 502
    assert other.control.count(path_regex="/transactions/") == 0


def test_rendered_fields_that_airflow_has_not_kept(
    case: Case, airflow: Airflow, sandbox_factory: Any
) -> None:
    """It keeps those of some runs. What the DAG file says without a template is still known."""
    (waiting,) = case.receive(review=True)
    case.run([waiting])
    airflow("add_connection", conn_id="vantage_static", **columns_of(case.sandbox))
    case.run([waiting], dag_id="static_links")
    pages = {dag_id: page_of(dag_id, case.run_id) for dag_id in (DAG, "static_links")}
    pages["mapped"] = page_of("static_links", case.run_id, 0).replace("/watch/", "/mapped/")
    airflow("inside_links.forget_rendered", run_id=case.run_id)
    case.page = pages[DAG]
    page = case.get()
    assert "The connection of this task is unknown" in page.text
    assert rows_of(page) == [(waiting, "Unknown", False)]
    assert case.post(waiting).status_code == 502
    for name in ("static_links", "mapped"):
        case.page = pages[name]
        assert rows_of(case.get()) == [(waiting, "Waits for a person", True)]
        assert case.post(waiting).status_code == 303


# ------------------------------------------------------------------ all others


class Hanging:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        self.first = threading.Event()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self._listener.accept()[0])
                self.first.set()

    def stop(self) -> None:
        for each in (self._listener, *self.taken):
            each.close()


@pytest.mark.parametrize("where", ["token", "status", "list"])
def test_a_service_that_hangs_stalls_nobody_else(case: Case, airflow: Airflow, where: str) -> None:
    ids = case.receive(40 if where == "list" else 20)
    viewers, begun = 45, threading.Event()
    control = case.sandbox.control
    if where == "token":
        hanging = Hanging()
        case.conn_id = f"hanging_{case.conn_id}"
        columns = columns_of(case.sandbox, host=hanging.url, client_id=case.conn_id)
        airflow("add_connection", conn_id=case.conn_id, **columns)
        begun = hanging.first
        asked = lambda: len(hanging.taken)  # noqa: E731
    else:
        path = "/transactions/active" if where == "list" else "/transactions/[0-9a-f-]+$"
        control.add_fault(path_regex=path, delay=600, status=503, times=0)
        asked = lambda: control.count("GET", path)  # noqa: E731
    case.run(ids)

    with ThreadPoolExecutor(viewers) as pool:
        pages = [pool.submit(case.get, "VIEWER") for _ in range(viewers)]
        wait_until(
            lambda: begun.is_set() or (where != "token" and asked()),
            "the first request",
            pause=0.01,
        )
        # This one runs in the API server's own threads.
        other = case.server.send("GET", f"/api/v2/dags/{DAG}/dagRuns?limit=1", "VIEWER")
        assert other.status_code == 200
        assert not any(page.done() for page in pages), "it did not wait for them"
        shown = [page.result() for page in pages]
    assert {page.status_code for page in shown} == {200}
    for page in shown:
        assert "did not answer in time" in page.text or "says more" in page.text
        assert {row[1] for row in rows_of(page)} == {"Unknown"}
    # Four threads, each of which has tried once, and not 45 readers.
    assert asked() <= 4
    if where == "token":
        hanging.stop()
    control.clear_faults()


def test_too_many_at_once_are_told_so(case: Case) -> None:
    ids = case.receive(3)
    case.run(ids)
    calls = [
        {"method": "GET", "path": case.page, "role": "USER"},
        {"method": "POST", "path": case.review(ids[0]), "role": "USER"},
    ]
    for reply in case.airflow("inside_links.serve", ROLES, calls=calls, most=0):
        assert reply["status"] == 503
        assert "Try again in a few seconds" in reply["text"]
        assert reply["headers"]["retry-after"] == "5"
    assert case.asked() == 0


# -------------------------------------------------------------------- plugin


def test_plugin_is_loaded_once(airflow: Airflow) -> None:
    told = airflow("inside_links.plugins")
    assert told["names"].count("abbyy_vantage") == 1
    assert told["problems"] == {}
    assert told["prefixes"].count("/abbyy-vantage") == 1


def test_provider_lists_the_link(airflow: Airflow) -> None:
    (listed,) = get_provider_info()["extra-links"]
    assert listed in airflow("inside_links.known_links")


def test_plugin_loads_no_pages() -> None:
    """Every worker loads the plugin."""
    code = (
        "import sys, airflow.sdk; import vantage_orchestration.airflow.plugin;"
        "print(sorted({'fastapi', 'requests', 'vantage_orchestration.client',"
        "'vantage_orchestration.airflow.pages'} & set(sys.modules)))"
    )
    assert output_of(code) == "[]"


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]
