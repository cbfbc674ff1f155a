# SPDX-License-Identifier: Apache-2.0
"""Notifications of reviews, and asset events with counts."""

from __future__ import annotations

import email
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from test_airflow.installation import Airflow

_runs = itertools.count()


class MailServer:
    """Takes mails as an SMTP server does, one after the other, and keeps them."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        # Closing alone does not wake up a thread that accepts.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self._talk(stream)

    def _talk(self, stream: Any) -> None:
        def say(text: str) -> None:
            stream.write(text.encode() + b"\r\n")
            stream.flush()

        say("220 mail.example.com")
        while line := stream.readline():
            word = line.split()[0].upper() if line.split() else b""
            if word == b"DATA":
                say("354 go on")
                lines = []
                while (part := stream.readline()) not in (b".\r\n", b""):
                    lines.append(part)
                self.mails.append(b"".join(lines).decode())
            say("221 bye" if word == b"QUIT" else "250 ok")
            if word == b"QUIT":
                return


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def run_id() -> str:
    return f"manual__2026-03-01T00:00:00+00:00_{next(_runs)}"


def page_of(dag_id: str, run_id: str, map_index: int = -1) -> str:
    return f"/abbyy-vantage/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/watch/{map_index}"


def events_of(log: str) -> list[str]:
    """Return the texts of a log's entries."""
    return [json.loads(line).get("event", "") for line in log.splitlines() if line]


def run(airflow: Airflow, dag_id: str, run_id: str, **options: Any) -> list[str]:
    conf = {"transaction_ids": ["t-1", "t-2"], **options.pop("conf", {})}
    told = airflow("run", dag_id=dag_id, run_id=run_id, conf=conf, **options)
    assert told["state"] == "success"
    return events_of(airflow.log_text(dag_id, run_id))


def test_each_is_called_and_none_fails_the_task(airflow: Airflow, run_id: str) -> None:
    events = run(airflow, "links", run_id)
    page = page_of("links", run_id)
    # Each time, with what belongs to that time: a notifier renders its template for good.
    assert [each for each in events if each.startswith("told [")] == [
        f"told [{page} t-1+t-2]",
        f"told [{page} a second time]",
    ]
    assert [each for each in events if each.startswith("plain [")] == [
        "plain [2026-03-01 00:00:00+00:00 watch]",
        "plain [None watch]",
    ]
    assert events.count("Review notifier 0 failed; the task continues") == 2
    assert "a broken notifier" in airflow.log_text("links", run_id)


def test_ids_are_no_markup(airflow: Airflow, run_id: str) -> None:
    """Templates of mails and chats put them where markup means something."""
    ids = [
        "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:y)<!channel>",
        "a\r\nBcc: b@example.com",
        "*b* `c` ~d~ | {{ e }} &lt; \u202e",
        "x" * 10_000,
    ]
    (told,) = (
        each
        for each in run(airflow, "links", run_id, conf={"transaction_ids": ids})
        if each.startswith("told [") and ids[0] in each
    )
    shown = told.removesuffix("]").partition(" ")[2].partition(" ")[2].split("+")
    assert shown[0] == ids[0]
    assert len(shown) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_.: -]{1,100}", each) for each in shown)


def test_mapped_tasks(airflow: Airflow, run_id: str) -> None:
    """Their operator is stored with its arguments; functions and notifiers among them."""
    events = run(airflow, "mapped_links", run_id)
    assert sorted(each for each in events if each.endswith("t-1+t-2]")) == [
        f"told [{page_of('mapped_links', run_id, index)} t-1+t-2]" for index in (0, 1)
    ]


def test_mail(airflow: Airflow, mail_server: MailServer, run_id: str) -> None:
    connection = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": mail_server.port,
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"},
    }
    environment = {
        "AIRFLOW_CONN_MAILS": json.dumps(connection),
        "AIRFLOW__API__BASE_URL": "https://airflow.example.com",
    }
    run(airflow, "mails", run_id, environment=environment)
    (mail,) = mail_server.mails
    message = email.message_from_string(mail)
    assert message["Subject"] == "2 documents wait until 2026-03-01 00:00 UTC"
    assert message["To"] == "review@example.com"
    body = next(part for part in message.walk() if part.get_content_type() == "text/html")
    (link,) = re.findall(r'href="([^"]*)"', body.get_payload(decode=True).decode())
    assert link == f"https://airflow.example.com{page_of('mails', run_id)}"


def test_asset_events(airflow: Airflow, run_id: str) -> None:
    run(airflow, "links", run_id, conf={"output": "/out/of a run"})
    extra = {"files": 3, "in_review": 2}
    events = airflow("inside_links.asset_events", run_id=run_id)
    assert events == {"x-results://folder": extra, "file:///out/of a run": extra}


@pytest.mark.parametrize(
    ("output", "uri"),
    [
        ("s3a://my_conn@bucket/key/", "s3://bucket/key"),
        ("https://example.com/out?signature=made-up-word#x", "https://example.com/out"),
    ],
)
def test_address_of_an_alias(airflow: Airflow, run_id: str, output: str, uri: str) -> None:
    run(airflow, "links", run_id, conf={"output": output})
    events = airflow("inside_links.asset_events", run_id=run_id)
    assert set(events) == {"x-results://folder", uri}
