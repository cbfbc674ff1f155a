# SPDX-License-Identifier: Apache-2.0
"""How little is asked for the pages, and how long anybody waits for an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_airflow.installation import columns_of

from vantage_orchestration.airflow.connection import config_of
from vantage_orchestration.airflow.links import Details, Record, record_of_job, record_of_wait
from vantage_orchestration.airflow.pages import html, service
from vantage_orchestration.airflow.pages.service import (
    Busy,
    ConnectionKey,
    Overview,
    PageError,
    Row,
    TransactionService,
)
from vantage_orchestration.client import VantageClient
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    Manifest,
    SourceEntry,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.token import source
from vantage_orchestration.waiting.machine import Observation, Wait
from vantage_orchestration.waiting.rules import WaitRules

LINE = ConnectionKey("vantage")


@pytest.fixture(autouse=True)
def _long_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers stay new, and servers are left alone, for longer than a test takes."""
    source.registry.clear()
    monkeypatch.setattr(service, "FRESH", 3600.0)
    monkeypatch.setattr(service, "PAUSE", 3600.0)


@pytest.fixture
def opened() -> list[ConnectionKey]:
    """Connections that a desk has opened."""
    return []


@pytest.fixture
def desk(
    sandbox: SandboxServer, opened: list[ConnectionKey], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TransactionService]:
    """Make desks whose clients are those of the pages, on a sandbox."""
    monkeypatch.setattr(service, "load_config", lambda *line: (_config(sandbox), None))

    def open_client(line: ConnectionKey) -> VantageClient:
        opened.append(line)
        return service.client_of(line)

    def make(**options: Any) -> TransactionService:
        return TransactionService(open_client, **{"limit": 60.0, **options})

    return make


def _config(sandbox: SandboxServer, **changes: Any) -> Any:
    class Connection:
        conn_id, conn_type, schema, port = "vantage", "abbyy_vantage", None, None

    for name, value in columns_of(sandbox, store="memory", **changes).items():
        setattr(Connection, name, value)
    return config_of(Connection())


def received(sandbox: SandboxServer, count: int) -> list[str]:
    sandbox.control.set(processing_polls=0)
    return sandbox.control.receive_many(count, "Invoice")


def test_all_readers_share_each_answer(
    desk: Callable[..., TransactionService], sandbox: SandboxServer, opened: list[ConnectionKey]
) -> None:
    ids = received(sandbox, 12)

    async def read() -> list[Overview]:
        one = desk()
        # Other tasks of the run are about the same transactions, or about some of them.
        pages = [one.look(LINE, ids), one.look(LINE, ids[:5]), one.look(LINE, ids[::-1])]
        first = await asyncio.gather(*pages * 15)
        return [*first, await one.look(LINE, ids[3:])]

    found = asyncio.run(read())
    assert [(row.transaction_id, row.status) for row in found[0].rows] == [
        (each, "Processed") for each in ids
    ]
    assert {len(each.rows) for each in found} == {12, 5, 9}
    assert sandbox.control.count("GET", "/transactions/") == 12
    assert sandbox.control.count("POST", "/connect/token") == 1
    assert opened == [LINE]


def test_teams_and_connections_are_kept_apart(
    desk: Callable[..., TransactionService], sandbox: SandboxServer, opened: list[ConnectionKey]
) -> None:
    ids = received(sandbox, 1)
    lines = [
        LINE,
        ConnectionKey("vantage", "a"),
        ConnectionKey("vantage", "b"),
        ConnectionKey("other"),
    ]

    async def read() -> None:
        one = desk()
        await asyncio.gather(*(one.look(line, ids) for line in lines * 2))

    asyncio.run(read())
    assert opened == lines
    assert sandbox.control.count("GET", "/transactions/") == 4


def test_ids_are_no_names_of_other_answers(
    desk: Callable[..., TransactionService], sandbox: SandboxServer
) -> None:
    """They come from an XCom, and could be anything."""
    received(sandbox, 1)
    ids = ["client", "reviews", "row", *map(str, range(30))]

    async def read() -> Overview:
        return await desk().look(LINE, ids)

    assert {row.status for row in asyncio.run(read()).rows} == {"Gone"}


def test_too_much_at_once(desk: Callable[..., TransactionService], sandbox: SandboxServer) -> None:
    ids = received(sandbox, 30)

    async def read() -> None:
        one = desk(most=11)
        assert len((await one.look(LINE, ids[:10])).rows) == 10
        # What is there or under way costs nothing.
        with pytest.raises(Busy):
            await one.look(LINE, ids[10:22])
        first = asyncio.ensure_future(one.look(LINE, ids[10:20]))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await one.look(LINE, ids[20:])
        assert len((await one.look(LINE, ids[5:20])).rows) == 15
        await first
        one.most = 0
        with pytest.raises(Busy):
            await one.review_link(LINE, ids[0])

    before = sandbox.control.count("GET", "/transactions/")
    asyncio.run(read())
    assert sandbox.control.count("GET", "/transactions/") - before == 20


def test_nobody_waits_for_what_hangs(
    desk: Callable[..., TransactionService], sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection itself can't be read, for example from a secrets backend."""
    ids, release = received(sandbox, 3), threading.Event()
    monkeypatch.setattr(service, "load_config", lambda *line: release.wait(300))

    async def read() -> list[Any]:
        one = desk(limit=0.05)
        found = [await one.look(LINE, ids), await one.look(LINE, ids)]
        with pytest.raises(PageError, match="in time"):
            await one.review_link(LINE, ids[0])
        return found

    for each in asyncio.run(read()):
        assert each.trouble == "ABBYY Vantage did not answer in time"
        assert each.rows == tuple(Row(name, None) for name in ids)
    release.set()
    assert sandbox.control.journal() == []


def test_what_nobody_waits_for_any_more_is_not_asked(
    desk: Callable[..., TransactionService], sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that become free after the limit begin no work for readers that have left."""
    ids, release = received(sandbox, 25), threading.Event()
    row = service.row_of

    def late(client: VantageClient, transaction_id: str) -> Row:
        release.wait(300)
        return row(client, transaction_id)

    monkeypatch.setattr(service, "row_of", late)
    desks: list[TransactionService] = []

    async def read() -> None:
        desks.append(desk(limit=0.3))
        assert (await desks[0].look(LINE, ids)).trouble

    async def after() -> None:
        release.set()
        while desks[0].running:
            await asyncio.sleep(0.01)

    async def main() -> None:
        await read()
        await after()

    asyncio.run(main())
    assert sandbox.control.count("GET", "/transactions/") <= service.AT_ONCE


def test_a_server_that_hangs_holds_up_no_other_connection(
    desk: Callable[..., TransactionService], sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, release = received(sandbox, 25), threading.Event()
    row = service.row_of

    def hanging(client: VantageClient, transaction_id: str) -> Row:
        if client.config.http.read_timeout == 2.5:
            release.wait(300)
        return row(client, transaction_id)

    monkeypatch.setattr(service, "row_of", hanging)
    configs = {"slow": _config(sandbox, read_timeout=2.5), "quick": _config(sandbox)}
    monkeypatch.setattr(service, "load_config", lambda name, team: (configs[name], None))

    async def read() -> Overview:
        one = desk()
        first = asyncio.ensure_future(one.look(ConnectionKey("slow"), ids))
        while not one.running:
            await asyncio.sleep(0)
        found = await one.look(ConnectionKey("quick"), ids)
        assert not first.done()
        release.set()
        await first
        return found

    assert {each.status for each in asyncio.run(read()).rows} == {"Processed"}


def test_a_list_that_never_ends(
    desk: Callable[..., TransactionService], sandbox: SandboxServer
) -> None:
    ids = received(sandbox, 40)
    items = [{"transactionId": each} for each in ids[:3]]
    page = {"items": items, "totalItemCount": 10**9}
    sandbox.control.add_fault(path_regex="/transactions/active$", status=200, json=page, times=0)

    async def read() -> Overview:
        return await desk().look(LINE, ids)

    found = asyncio.run(read())
    assert "There is no usable answer" in (found.trouble or "")
    assert sandbox.control.count("GET", "/transactions/active$") < 10


@pytest.mark.parametrize("error", [RuntimeError("vault: made-up-secret"), KeyError("x")])
def test_whatever_a_secrets_backend_raises_is_not_shown(
    desk: Callable[..., TransactionService],
    sandbox: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def load(*line: Any) -> Any:
        raise error

    monkeypatch.setattr(service, "load_config", load)

    async def read() -> Overview:
        return await desk().look(LINE, ["t"])

    with caplog.at_level(logging.DEBUG):
        found = asyncio.run(read())
    assert found.trouble is not None
    assert type(error).__name__ in caplog.text
    assert "made-up-secret" not in found.trouble + caplog.text


@pytest.mark.parametrize(
    ("base", "links"),
    [
        (
            "https://vantage-eu.abbyy.com",
            {
                "https://vantage-eu.abbyy.com/manual-review?accessToken=x": True,
                "https://VANTAGE-EU.abbyy.com:443/": True,
                "https://review.vantage-eu.abbyy.com/x": True,
                "http://vantage-eu.abbyy.com/": False,
                "https://vantage-eu.abbyy.com:8443/": False,
                "https://abbyy.com/": False,
                "https://vantage-us.abbyy.com/": False,
                "https://vantage-eu.abbyy.com.example.com/": False,
                "https://notvantage-eu.abbyy.com/": False,
                "https://example.com#.vantage-eu.abbyy.com/": False,
                "https://example.com?.vantage-eu.abbyy.com/": False,
                "https://example.com\\.vantage-eu.abbyy.com/": False,
                "https://example.com%2f.vantage-eu.abbyy.com/": False,
                "https://example.com@vantage-eu.abbyy.com/": False,
                "https://@vantage-eu.abbyy.com/": False,
                "https://vantage-eu.abbyy.com@example.com/": False,
                "https://exa mple.vantage-eu.abbyy.com/": False,
                "https://\u0435vil.vantage-eu.abbyy.com/": False,
                "https:vantage-eu.abbyy.com": False,
                "https:///vantage-eu.abbyy.com": False,
                "//vantage-eu.abbyy.com/": False,
                "javascript://vantage-eu.abbyy.com/%0aalert(1)": False,
                "data://vantage-eu.abbyy.com/,x": False,
                "https://vantage-eu.abbyy.com\n.example.com/": False,
                "https://vantage-eu.abbyy.com:x/": False,
                "": False,
            },
        ),
        (
            "https://10.1.2.3:8443",
            {
                "https://10.1.2.3:8443/x": True,
                "https://10.1.2.3/x": False,
                "https://x.10.1.2.3:8443/": False,
            },
        ),
        ("http://[::1]:80", {"http://[::1]/x": True, "http://[::2]/x": False}),
        ("http://localhost:80", {"http://localhost/x": True, "http://x.localhost/": False}),
    ],
)
def test_where_a_review_may_lead(base: str, links: dict[str, bool]) -> None:
    for link, own in links.items():
        assert service.is_own(link, urlsplit(base)) is own, link


def test_nothing_in_a_page_is_markup_of_others() -> None:
    evil = "<script>'\"&</script>"
    more = Details(files=evil, classes=evil, reason=evil, folder=evil, rules=1, deadline=0.0)
    rows = (Row(evil, evil, rules=(evil,), details=more), Row(evil, "x", waits=True))
    found = Overview(rows, 1, 2, evil)
    text = html.overview({evil: evil}, found, path="/p", back="/b", may_review=True)
    text += html.message(evil, evil, link=("/x", evil))
    assert "<script" not in text
    assert text.count("&lt;script&gt;&#39;&#34;&amp;&lt;/script&gt;") >= 13
    assert "/p/transactions/%3Cscript%3E%27%22%26%3C%2Fscript%3E/review" in text


ONE, TWO = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f", "1d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"


def test_what_a_task_has_noted_is_shown_where_the_service_says_nothing() -> None:
    rules = WaitRules(60, 86_400, poke_interval=1, max_poke_interval=1)
    wait = Wait([ONE, TWO], rules, 0.0, files={ONE: "'a.pdf'"})
    wait.note([Observation(TWO, Status.PROCESSING, in_review=True, files="'b.pdf'")], 0.0)
    record = Record.read(json.dumps(record_of_wait(wait).to_json()))
    found = Overview((Row(TWO, Status.PROCESSING, waits=True), Row(ONE, Status.GONE)), 1, 1)
    text = page_of(found, record)
    assert f"<td>&#39;b.pdf&#39;<br><code>{TWO}</code></td>" in text
    assert "<small>until 1970-01-02 00:00 UTC</small>" in text
    assert 'http-equiv="refresh"' in text
    documents = (
        DocumentEntry("d", {"name": "Invoice"}, ({"type": "r", "message": "m"},), ()),
        DocumentEntry("e", {"name": "Receipt"}, (), (), folder="Receipt/a.pdf"),
    )
    sources = (SourceEntry("a.pdf", "a.pdf"),)
    entry = TransactionManifest(ONE, None, "Processed", None, 3, sources, documents, "a.pdf")
    failed = UnfinishedEntry(TWO, "Failed", error="The file is empty", sources=sources)
    job = record_of_job(Manifest(None, None, (entry,), (), (failed,)), "s3://bucket/out")
    record = Record.read(job.to_json())
    text = page_of(Overview((Row(TWO, Status.GONE), Row(ONE, Status.GONE)), 1, 1), record)
    for each in ("Invoice, Receipt", "<td>3</td>", "1 broken rule<", "The file is empty"):
        assert each in text
    assert "a.pdf, Receipt/a.pdf" in text
    assert "http-equiv" not in text
    assert record.results == "s3://bucket/out"


def page_of(found: Overview, record: Record) -> str:
    """Return the page as the API server makes it."""
    return html.overview(
        {},
        found.with_notes(record),
        path="/p",
        back="/b",
        may_review=True,
        refresh=not found.is_over(record),
    )


def test_pages_of_many_load_again_until_the_task_says_that_it_is_over() -> None:
    found = Overview((Row(ONE, Status.PROCESSED),), 1, 2)
    assert not found.is_over(Record((ONE, TWO)))
    assert found.is_over(Record((ONE, TWO), over=True))
    assert not replace(found, pages=1, rows=(Row(ONE, None),)).is_over(Record((ONE,), over=True))
    many = {str(n): Details(files="x") for n in range(2000)}
    assert len(Record(tuple(many), many).to_json()["details"]) == 200


@pytest.mark.parametrize(
    "value",
    [
        None,
        "[",
        {"transaction_ids": "x"},
        {"transaction_ids": [5]},
        {"transaction_ids": [ONE], "details": [1], "results": 5, "over": "yes"},
        {"transaction_ids": [ONE], "details": {ONE: {"pages": "3", "deadline": 1e300}}},
        {"transaction_ids": [ONE], "details": {ONE: {"files": ["a"], "rules": True}}},
        {"transaction_ids": [ONE], "details": {ONE: "x"}},
    ],
)
def test_what_users_have_written_into_the_note_is_passed_over(value: Any) -> None:
    record = Record.read(value)
    assert record.of(ONE) == Details()
    assert (record.results, record.over) == ("", False)
