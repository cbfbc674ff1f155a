# SPDX-License-Identifier: Apache-2.0
"""Events of transactions: sent once, stored by a real server; a job never fails because of them."""

from __future__ import annotations

import contextvars
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import prefect
import pytest
from prefect import flow, settings, task
from prefect.context import SyncClientContext
from pydantic import ValidationError
from test_prefect.seen import told_in_the_end

from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.prefect import events as module
from vantage_orchestration.prefect import job
from vantage_orchestration.prefect.events import (
    PREFIX,
    TransactionEvent,
    deliver,
    emit,
    event_of,
)
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    Manifest,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.status import Status
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.machine import Outcome

SERVER = "https://vantage-eu.abbyy.com"


def submitted(*ids: str) -> list[TransactionEvent]:
    return [TransactionEvent("submitted", each, SERVER, "Processing", "skill") for each in ids]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_events_of_a_run_are_told_once_and_name_the_run() -> None:
    ids = ["11111111-aaaa-4aaa-8aaa-000000000001", "11111111-aaaa-4aaa-8aaa-000000000002"]
    document = DocumentEntry("d", None, ({"type": "x", "message": "wrong"},), ())
    ended = TransactionManifest(ids[0], "skill", "Processed", None, 3, (), (document,))
    gone = UnfinishedEntry(ids[1], "Gone")

    @task
    def work() -> None:
        for _ in range(2):  # As a task that is tried again.
            emit(submitted(*ids))

    @flow
    def run() -> str:
        from prefect.runtime import flow_run

        work()
        for _ in range(2):
            emit(event_of(each, SERVER, "skill") for each in (ended, gone))
        return str(flow_run.id)

    run_id = run()
    found = told_in_the_end(4, *ids)
    # Here the server has them in its database, where the ids of the first stay taken.
    emit(submitted(*ids))
    deliver([TransactionEvent("review", ids[0], SERVER, "Processing")])
    assert len(told_in_the_end(5, *ids)) == 5

    by_name = {(each.event, each.payload["transaction_id"]): each for each in found}
    assert set(by_name) == {
        ("abbyy_vantage.transaction.submitted", ids[0]),
        ("abbyy_vantage.transaction.submitted", ids[1]),
        ("abbyy_vantage.transaction.processed", ids[0]),
        ("abbyy_vantage.transaction.failed", ids[1]),
    }
    processed = by_name["abbyy_vantage.transaction.processed", ids[0]]
    assert processed.resource.root == {
        "prefect.resource.id": f"abbyy_vantage.transaction.{ids[0]}",
        "prefect.resource.name": f"ABBYY Vantage transaction {ids[0]}",
        "abbyy_vantage.server": SERVER,
        "abbyy_vantage.status": "Processed",
        "abbyy_vantage.origin": "api",
        "abbyy_vantage.skill_id": "skill",
    }
    assert processed.payload["pages"] == 3
    assert processed.payload["rule_errors"] == 1
    failed = by_name["abbyy_vantage.transaction.failed", ids[1]]
    assert failed.payload["status"] == "Gone"
    for each in found:
        related = {entry["prefect.resource.role"]: entry for entry in each.related}
        assert related["flow-run"]["prefect.resource.id"] == f"prefect.flow-run.{run_id}"
        assert ("task-run" in related) == each.event.endswith("submitted")


@pytest.mark.slow
def test_an_event_outlives_a_process_that_is_killed_after_it(prefect_server: Any) -> None:
    name = "22222222-aaaa-4aaa-8aaa-000000000001"
    code = (
        "import os, signal\n"
        "from vantage_orchestration.prefect.events import TransactionEvent, emit\n"
        f"emit([TransactionEvent('submitted', {name!r}, {SERVER!r}, 'Processing')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=prefect_server.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert [each.event for each in told_in_the_end(1, name)] == [f"{PREFIX}.submitted"]


def test_id_tells_apart_what_is_not_the_same() -> None:
    first = TransactionEvent("review", "a", SERVER, "Processing")
    again = TransactionEvent("review", "A", SERVER, "Whatever", "skill", details={"x": 1})
    others = [
        TransactionEvent("processed", "a", SERVER, "Processing"),
        TransactionEvent("review", "b", SERVER, "Processing"),
        TransactionEvent("review", "a", "https://vantage-us.abbyy.com", "Processing"),
        TransactionEvent("review", "a", SERVER, "Processing", occasion="2"),
    ]
    assert first.id == again.id
    assert len({first.id, *(each.id for each in others)}) == 5


def test_job_goes_on_if_nobody_can_be_told(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Not listening: a connection is refused.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        with (
            settings.temporary_settings({settings.PREFECT_API_URL: url}),
            caplog.at_level(logging.WARNING, "vantage_orchestration"),
        ):
            emit(submitted("t"))
    assert [record.getMessage() for record in caplog.records if record.name == module.__name__] == [
        "ABBYY Vantage transactions could not be reported to Prefect (ConnectError)"
    ]


class _Forgetful(BaseHTTPRequestHandler):
    """Takes events as Prefect does, and stores only those that a test names."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/filter"):
            self.server.asked += 1
            wanted = body["filter"]["id"]["id"]
            found = [each for each in self.server.stored if each["id"] in wanted]
            self._answer(200, {"events": found, "total": len(found), "next_page": None})
        else:
            self.server.posts += 1
            self.server.open.wait(60)
            self.server.taken += [each["id"] for each in body]
            self._answer(204, None)

    def do_GET(self) -> None:
        if self.path.endswith("/admin/version"):
            self._answer(200, prefect.__version__)
        else:  # It asks for a CSRF token, and there are none.
            self._answer(404, None)

    def _answer(self, status: int, data: Any) -> None:
        text = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def forgetful() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forgetful)
    server.taken, server.stored = [], []
    server.posts, server.asked, server.open = 0, 0, threading.Event()
    server.open.set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        yield server
    server.shutdown()
    server.server_close()


def test_many_events(forgetful: Any) -> None:
    deliver([TransactionEvent("processed", str(n), SERVER, "Processed") for n in range(120)])
    assert len(set(forgetful.taken)) == 120


def test_what_is_stored_is_not_sent_again(forgetful: Any) -> None:
    """Prefect itself would run automations on it again, if more than five minutes have passed."""
    old, new = (TransactionEvent("processed", each, SERVER, "Processed") for each in "ab")
    event = old.to_json()
    forgetful.stored = [{**event, "received": event["occurred"]}]
    deliver([old])
    deliver([old, new])
    assert forgetful.taken == [str(new.id)]


def test_what_tasks_report_meanwhile_goes_into_one_request(forgetful: Any) -> None:
    forgetful.open.clear()
    events = [TransactionEvent("submitted", str(n), SERVER, "Processing") for n in range(6)]

    def waiting() -> int:
        return sum(len(each.reports) for each in module.outboxes.values())

    with SyncClientContext.get_or_create():
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(partial(deliver, [each], new=True),),
            )
            for each in events
        ]
        threads[0].start()
        for _ in range(6000):
            if forgetful.posts and waiting() == 1:
                break
            time.sleep(0.01)
        for thread in threads[1:]:
            thread.start()
        for _ in range(6000):
            if waiting() == len(events):
                break
            time.sleep(0.01)
        forgetful.open.set()
        for thread in threads:
            thread.join(60)
    assert sorted(forgetful.taken) == sorted(str(each.id) for each in events)
    assert (forgetful.posts, forgetful.asked, waiting()) == (2, 0, 0)


def test_what_tasks_report_soon_after_each_other_goes_into_one_request(
    forgetful: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [TransactionEvent("submitted", str(n), SERVER, "Processing") for n in range(5)]
    paused, reported = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        if seconds:
            paused.set()
            assert reported.wait(60)

    monkeypatch.setattr(module, "_GATHER", 3600.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    with SyncClientContext.get_or_create():
        deliver(events[:1], new=True)
        deliver(events[1:2], new=True)
        assert (forgetful.posts, paused.is_set()) == (2, False)  # A task alone does not wait.
        outbox = list(module.outboxes.values())[-1]
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(partial(deliver, [each], new=True),),
            )
            for each in events[2:]
        ]
        for thread in threads:
            thread.start()
        assert paused.wait(60)
        for _ in range(6000):
            if len(outbox.reports) == 3:
                break
            time.sleep(0.01)
        reported.set()
        for thread in threads:
            thread.join(60)
    assert (forgetful.posts, outbox.reports) == (3, [])
    assert sorted(forgetful.taken) == sorted(str(each.id) for each in events)


def test_each_task_learns_of_the_failure_of_a_request_that_it_shares(forgetful: Any) -> None:
    event = TransactionEvent("submitted", "a", SERVER, "Processing")
    forgetful.stored = [{"id": str(event.id)}]  # No event that Prefect's client could read.
    with SyncClientContext.get_or_create():
        for _ in range(2):
            with pytest.raises(ValidationError):
                deliver([event])
        deliver([event], new=True)
    assert forgetful.taken == [str(event.id)]


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> job.Reporter:
    """A reporter that sends events as in a run, and shows no table."""
    monkeypatch.setattr(job, "in_run", lambda: True)
    monkeypatch.setattr(job, "DocumentsTable", MagicMock())
    fields = {"username": "u", "password": "p", "client_id": "c", "client_secret": "s"}
    client = VantageClient(VantageConfig.from_fields({"region": "eu", **fields}))
    return job.Reporter(client, None, lambda *_: None, again=False)


@pytest.mark.parametrize("way", ["document", "job"])
@pytest.mark.parametrize(
    ("earlier", "age", "asked"), [(False, 0, 0), (False, 600, 1), (True, 0, 2)]
)
def test_server_is_asked_only_for_what_may_have_been_told(
    forgetful: Any, reporter: job.Reporter, earlier: bool, age: float, asked: int, way: str
) -> None:
    reporter.started([Part("t", "key", "folder", time.time() - age, (), earlier=earlier)])
    if way == "document":
        reporter.ended(Outcome({"t": Status.PROCESSED}))
    else:
        failed = UnfinishedEntry("t", Status.FAILED.value)
        reporter.finished(Manifest(None, "job", (), failed=(failed,)), Location.of("out"))
    assert len(forgetful.taken) == 2
    assert forgetful.asked == asked


def test_a_job_sends_events_itself_where_the_system_allows_no_further_thread(
    forgetful: Any, reporter: job.Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == module.PREFIX:
            raise RuntimeError("can't start new thread")
        start(thread)  # The server of this test.

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with reporter.behind():
        reporter.started([Part("t", "t", "t", time.time(), ())])
        assert forgetful.taken == [str(TransactionEvent("submitted", "t", SERVER, "").id)]


def test_a_job_sends_events_while_it_goes_on_and_ends_after_the_last(
    forgetful: Any, reporter: job.Reporter
) -> None:
    ids = [str(number) for number in range(module.TOGETHER + 5)]
    landed = [TransactionManifest(each, None, "Processed", None, 1, (), ()) for each in ids]

    def wanted(happening: Any, names: list[str]) -> list[str]:
        return [str(TransactionEvent(happening, each, SERVER, "").id) for each in names]

    forgetful.open.clear()

    def work() -> None:
        reporter.started([Part(each, each, each, time.time(), ()) for each in ids])
        for each in landed:
            reporter.landed(each)
        assert forgetful.taken == []  # The server does not answer, and nobody waits for it.
        forgetful.open.set()
        raise ValueError("The tables can't be written")

    with pytest.raises(ValueError, match="tables"), reporter.behind():
        work()
    sent = wanted("submitted", ids) + wanted("processed", ids[: module.TOGETHER])
    assert forgetful.taken == sent
    reporter.finished(Manifest(None, "job", tuple(landed)), Location.of("out"))
    assert forgetful.taken == sent + wanted("processed", ids[module.TOGETHER :])
    assert forgetful.asked == 0
