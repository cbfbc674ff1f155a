# SPDX-License-Identifier: Apache-2.0
"""Replies that never end, drip, unpack to a thousandfold or are nested without end."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.conftest import ONCE

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.models import ListedTransaction, ResultFile, Skill, Transaction
from vantage_orchestration.processing.job import Job
from vantage_orchestration.processing.manifest import TransactionManifest
from vantage_orchestration.reply import LONGEST_IN_MEMORY, LONGEST_JSON
from vantage_orchestration.results import fetch_fields
from vantage_orchestration.storage import Location
from vantage_orchestration.token import TokenSource
from vantage_orchestration.upload import SourceFile

#: Seconds after which a dripping reply is given up here, and between two of its drops.
PATIENCE, DROP = 0.5, 0.02
TOKEN = json.dumps({"access_token": "made-up-token-" + "x" * 20, "token_type": "Bearer"}).encode()
TRANSACTION = "11111111-1111-4111-8111-111111111111"

Answer = Callable[["Connection"], None]


class Connection:
    """One connection to the server, whose request was read."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self._sock = sock
        self._over = over

    def head(self, *headers: str, status: str = "200 OK") -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def for_ever(self, data: bytes, pause: float = 0.0) -> None:
        """Send without end, until the other side is tired of it."""
        while not self._over.wait(pause) if pause else not self._over.is_set():
            self.send(data)


class Hostile:
    """A server of raw bytes. It gives a token, and answers all else as it is told to."""

    def __init__(self) -> None:
        self.answer: Answer = lambda connection: connection.head("Content-Length: 0")
        self.token = plain(TOKEN)
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        with sock, contextlib.suppress(OSError):
            stream = sock.makefile("rb")
            request = stream.readline().decode()
            self.requests.append(request)
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
            stream.read(length)
            answer = self.token if "/connect/token" in request else self.answer
            answer(Connection(sock, self._over))

    def stop(self) -> None:
        self._over.set()
        # Closing a listener does not wake who waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setitem(TokenSource.__init__.__kwdefaults__, "retries", ONCE)
    server = Hostile()
    yield server
    server.stop()


@pytest.fixture
def client(hostile: Hostile) -> Iterator[VantageClient]:
    with VantageClient(config_of(hostile), retries=ONCE) as client:
        yield client


@pytest.fixture
def hasty(hostile: Hostile) -> Iterator[VantageClient]:
    """A client that gives up soon, for replies that drip."""
    with VantageClient(config_of(hostile, read_timeout=PATIENCE), retries=ONCE) as client:
        yield client


def config_of(hostile: Hostile, **changes: Any) -> VantageConfig:
    values = {
        "region": "custom",
        "base_url": hostile.url,
        "username": "user@example.com",
        "password": "made-up-password",
        "client_id": "client",
        "client_secret": "made-up-client-secret",
        "store": "memory",
        "result_limit": 1,
    }
    return VantageConfig.from_fields({**values, **changes})


def bomb(size: int) -> bytes:
    """Return that many zeros, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(1024**2)
    return b"".join([packer.compress(piece) for _ in range(size // len(piece))]) + packer.flush()


def plain(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    def answer(connection: Connection) -> None:
        connection.head(f"Content-Length: {len(body)}", *headers, status=status)
        connection.send(body)

    return answer


def dripping(*headers: str, status: str = "200 OK", drop: bytes = b" ") -> Answer:
    def answer(connection: Connection) -> None:
        connection.head(*headers, status=status)
        connection.for_ever(drop, DROP)

    return answer


def endless(status: str = "200 OK") -> Answer:
    def answer(connection: Connection) -> None:
        connection.head(status=status)
        connection.for_ever(b" " * 65536)

    return answer


PACKED = gzip.compress(b" " * 100_000_000, 9)
DEEP = b"[" * 60_000
CHUNKED = "Transfer-Encoding: chunked"
JSON_CALLS: dict[str, Callable[[VantageClient], object]] = {
    "skills": VantageClient.list_skills,
    "transaction": lambda client: client.get_transaction(TRANSACTION),
    "list": lambda client: client.list_completed_transactions(),
    "all": lambda client: list(client.iter_active_transactions()),
    "create": lambda client: client.create_transaction("skill"),
    "parameters": lambda client: client.get_registration_parameters(TRANSACTION),
}


@pytest.mark.parametrize("call", JSON_CALLS)
@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (plain(PACKED, "Content-Encoding: gzip"), errors.ProtocolError, f"{LONGEST_JSON} bytes"),
        (endless(), errors.ProtocolError, f"{LONGEST_JSON} bytes"),
        (plain(DEEP), errors.ProtocolError, "deeply"),
        (dripping(), errors.ConnectionFailed, "too slowly"),
        (dripping(CHUNKED, drop=b"1\r\n \r\n"), errors.ConnectionFailed, "too slowly"),
        (dripping(CHUNKED, drop=b"0"), errors.ConnectionFailed, "too slowly"),
        (dripping("Content-Length: 100000"), errors.ConnectionFailed, "too slowly"),
        (plain(b"x" * 99, "Content-Encoding: gzip"), errors.ConnectionFailed, "broke off"),
    ],
    ids=["bomb", "endless", "deep", "drip", "chunks", "chunk size", "length", "no gzip"],
)
def test_a_json_reply_is_bounded(
    hostile: Hostile,
    client: VantageClient,
    hasty: VantageClient,
    call: str,
    answer: Answer,
    kind: Any,
    says: str,
) -> None:
    hostile.answer = answer
    with pytest.raises(kind, match=says) as caught:
        JSON_CALLS[call](hasty if "slowly" in says else client)
    assert caught.value.doubtful == (call == "create")


def test_a_bomb_takes_little_memory(hostile: Hostile, client: VantageClient) -> None:
    client.get_token()
    hostile.answer = plain(PACKED, "Content-Encoding: gzip")
    assert len(PACKED) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(errors.ProtocolError):
            client.list_skills()
        with pytest.raises(errors.ProtocolError):
            client.read_result(TRANSACTION, "f")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * LONGEST_JSON


@pytest.mark.parametrize(
    "answer",
    [
        plain(DEEP, status="400 Bad"),
        plain(PACKED, "Content-Encoding: gzip", status="400 Bad"),
        endless("400 Bad"),
        dripping(status="400 Bad"),
        dripping(CHUNKED, status="400 Bad", drop=b"0"),
        plain(b"\x00", "Content-Encoding: gzip", status="400 Bad"),
    ],
    ids=["deep", "bomb", "endless", "drip", "chunk size", "no gzip"],
)
def test_the_body_of_an_error_is_bounded(
    hostile: Hostile, hasty: VantageClient, answer: Answer
) -> None:
    hostile.answer = answer
    with pytest.raises(errors.BadRequest):
        hasty.list_skills()
    with pytest.raises(errors.BadRequest):
        hasty.download_result(TRANSACTION, "f", "never-there")


@pytest.mark.parametrize(
    "answer",
    [endless("401 No"), dripping(status="401 No"), dripping(CHUNKED, status="401 No", drop=b"0")],
    ids=["endless", "drip", "chunk size"],
)
def test_the_body_of_a_rejection_is_bounded(
    hostile: Hostile, hasty: VantageClient, answer: Answer
) -> None:
    hostile.answer = answer
    with pytest.raises(errors.Unauthorized):
        hasty.list_skills()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (endless(), errors.ProtocolError, "1048576 bytes.*result limit"),
        (plain(PACKED, "Content-Encoding: gzip"), errors.ProtocolError, "1048576 bytes"),
        (plain(b"x" * (1024**2 + 1)), errors.ProtocolError, "1048576 bytes"),
        (dripping(), errors.ConnectionFailed, "too slowly"),
        (dripping("Content-Length: 100000"), errors.ConnectionFailed, "too slowly"),
        (dripping(CHUNKED, drop=b"0"), errors.ConnectionFailed, "too slowly"),
        (dripping(CHUNKED, drop=b"1\r\nx\r\n"), errors.ConnectionFailed, "too slowly"),
    ],
    ids=["endless", "bomb", "large", "drip", "length", "chunk size", "chunks"],
)
def test_a_download_is_bounded(
    hostile: Hostile,
    client: VantageClient,
    hasty: VantageClient,
    tmp_path: Path,
    answer: Answer,
    kind: Any,
    says: str,
) -> None:
    hostile.answer = answer
    client = hasty if "slowly" in says else client
    target = tmp_path / "result.json"
    with pytest.raises(kind, match=says):
        client.download_result(TRANSACTION, "f", target)
    with pytest.raises(kind, match=says):
        client.stream_result(TRANSACTION, "f", io.BytesIO())
    with pytest.raises(kind, match=says):
        client.read_result(TRANSACTION, "f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "read"),
    [("fieldsJson", "FieldsJson"), ("JSON ", "Json"), ("ocrjson", "OcrJson"), (" New\n", "New")],
)
def test_a_type_of_results_in_another_case_is_the_same(sent: str, read: str) -> None:
    """Tables and fields are read from files of two types: in a third there would be none."""
    assert ResultFile.read({"fileId": "f", "fileName": "a", "type": sent}).type == read


def test_the_limit_of_results_is_a_setting(hostile: Hostile, tmp_path: Path) -> None:
    body = b"x" * (1024**2 + 1)
    hostile.answer = plain(body)
    with VantageClient(config_of(hostile, result_limit="1.5"), retries=ONCE) as client:
        assert client.download_result(TRANSACTION, "f", tmp_path / "r") == len(body)
        assert client.read_result(TRANSACTION, "f") == body
    hostile.answer = plain(gzip.compress(body), "Content-Encoding: gzip")
    with VantageClient(config_of(hostile, result_limit="1.5"), retries=ONCE) as client:
        assert client.read_result(TRANSACTION, "f") == body
    assert LONGEST_IN_MEMORY < 8192 * 1024**2  # By default memory has a limit of its own.


TEXT = ResultFile.read({"fileId": "f", "fileName": "a.txt", "type": "Text"})
LINES = b"".join(b"line %d\n" % number for number in range(60_000))


def unannounced(body: bytes, encoding: str, status: str = "200 OK") -> Answer:
    """Send a body whose length is not announced: the end of the connection is its end."""

    def answer(connection: Connection) -> None:
        connection.head(f"Content-Encoding: {encoding}", status=status)
        connection.send(body)

    return answer


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(LINES), "gzip"),
        (gzip.compress(LINES), " X-GZip "),
        (gzip.compress(LINES) + bytes(700), "gzip"),
        (gzip.compress(LINES[:7]) + gzip.compress(LINES[7:]), "gzip"),
        (zlib.compress(LINES), "deflate"),
        (LINES, "identity"),
        (LINES, "UTF-8"),
    ],
    ids=["gzip", "spelling", "padding", "parts", "deflate", "identity", "charset"],
)
def test_a_compressed_result_lands_as_it_was(
    hostile: Hostile, client: VantageClient, body: bytes, encoding: str
) -> None:
    hostile.answer = unannounced(body, encoding)
    assert client.read_result(TRANSACTION, TEXT) == LINES


@pytest.mark.parametrize(
    ("body", "encoding", "kind", "says"),
    [
        (gzip.compress(LINES)[:-2000], "gzip", errors.ConnectionFailed, "broke off"),
        (gzip.compress(LINES)[:-1], "gzip", errors.ConnectionFailed, "broke off"),
        (gzip.compress(LINES) + gzip.compress(LINES)[:99], "gzip", errors.ConnectionFailed, "off"),
        (zlib.compress(LINES)[:-1], "deflate", errors.ConnectionFailed, "broke off"),
        (b"\x1b\x00\xf8 made up", "br", errors.ProtocolError, "compressed with br, .*not request"),
        (b"(\xb5/\xfd made up", "zstd", errors.ProtocolError, "compressed with zstd"),
        (gzip.compress(gzip.compress(LINES)), "gzip, gzip", errors.ProtocolError, "gzip, gzip"),
        (
            gzip.compress(LINES),
            "identity\r\nTransfer-Encoding: gzip",
            errors.ProtocolError,
            "compressed with transfer coding gzip",
        ),
    ],
    ids=["cut", "its last byte", "second part", "deflate", "br", "zstd", "twice", "transfer"],
)
def test_a_compressed_result_that_is_not_whole_or_can_not_be_unpacked_does_not_land(
    hostile: Hostile,
    client: VantageClient,
    tmp_path: Path,
    body: bytes,
    encoding: str,
    kind: Any,
    says: str,
) -> None:
    """Nothing but the compression shows that it was cut, since its length was not announced."""
    hostile.answer = unannounced(body, encoding)
    with pytest.raises(kind, match=says) as caught:
        client.download_result(TRANSACTION, TEXT, tmp_path / "a.txt")
    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_a_page_in_a_compression_that_was_not_requested_is_no_reply(
    hostile: Hostile, client: VantageClient
) -> None:
    hostile.answer = unannounced(b"\x1b\x00\xf8 made up", "br")
    for call in (client.list_skills, lambda: client.delete_transaction(TRANSACTION)):
        with pytest.raises(errors.ProtocolError, match="compressed with br"):
            call()
    hostile.answer = unannounced(b"", "br")  # Some gateways label what is empty.
    client.delete_transaction(TRANSACTION)
    hostile.answer = unannounced(b"\x1b\x00\xf8 made up", "br", "401 No")
    with pytest.raises(errors.Unauthorized):
        client.list_skills()


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_interim_replies_are_passed_over(
    hostile: Hostile, client: VantageClient, status: str
) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </style.css>\r\nContent-Length: 5\r\n\r\n".encode()

    def after(answer: Answer) -> Answer:
        def both(connection: Connection) -> None:
            connection.send(interim * 3)
            answer(connection)

        return both

    hostile.token = after(plain(TOKEN))
    hostile.answer = after(plain(b'[{"id": "s", "name": "S", "type": "Ocr"}]'))
    assert [skill.id for skill in client.list_skills()] == ["s"]
    hostile.answer = after(plain(LINES))
    assert client.read_result(TRANSACTION, TEXT) == LINES
    hostile.answer = after(plain(b""))
    client.start_transaction(TRANSACTION)
    files = [SourceFile.of(b"made up" * 50_000, name="a.pdf")]
    assert client.add_files(TRANSACTION, files)
    hostile.answer = after(plain(b"{}", status="403 No"))
    with pytest.raises(errors.Forbidden):
        client.list_skills()


def test_interim_replies_without_end_are_given_up(hostile: Hostile, hasty: VantageClient) -> None:
    hostile.answer = lambda connection: connection.for_ever(b"HTTP/1.1 103 Hints\r\n\r\n", DROP)
    with pytest.raises(errors.ConnectionFailed, match="in time"):
        hasty.list_skills()


def test_a_download_that_makes_progress_may_take_long(
    hostile: Hostile, hasty: VantageClient, tmp_path: Path
) -> None:
    pieces = 40

    def answer(connection: Connection) -> None:
        connection.head(f"Content-Length: {pieces * 1024}")
        for _ in range(pieces):
            connection.send(b"x" * 1024)
            threading.Event().wait(DROP)

    hostile.answer = answer
    assert hasty.download_result(TRANSACTION, "f", tmp_path / "r") == pieces * 1024


@pytest.mark.parametrize(
    "answer",
    [plain(DEEP), endless(), dripping(), dripping(CHUNKED, drop=b"0"), plain(DEEP, status="400 x")],
    ids=["deep", "endless", "drip", "chunk size", "refusal"],
)
def test_a_token_reply_is_bounded(hostile: Hostile, hasty: VantageClient, answer: Answer) -> None:
    hostile.token = answer
    with pytest.raises(errors.AuthError):
        hasty.get_token()


def test_a_result_file_that_is_nested_without_end_is_named(
    hostile: Hostile, client: VantageClient
) -> None:
    data = {
        "id": TRANSACTION,
        "status": "Processed",
        "documents": [
            {"id": "d", "resultFiles": [{"fileId": "f", "fileName": "x.json", "type": "Json"}]}
        ],
    }
    hostile.answer = plain(DEEP)
    with pytest.raises(errors.ProtocolError, match=r"x\.json"):
        fetch_fields(client, Transaction.read(data))


def test_files_that_are_read_back_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Location.of(tmp_path)
    for name, load in (("manifest.json", TransactionManifest.load), ("submitted.json", Job.load)):
        (tmp_path / name).write_bytes(DEEP)
        with pytest.raises(errors.StateDamaged):
            load(folder)
        forged = {"version": 1, "job": "j", "transactions": [], "transaction_id": "a\nFORGED"}
        forged["transactions"] = [
            {
                "transaction_id": "a\nFORGED",
                "key": "k",
                "folder": "f",
                "created": 1.0,
                "sources": [],
            }
        ]
        (tmp_path / name).write_text(json.dumps(forged))
        with pytest.raises(errors.StateDamaged) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("vantage_orchestration.storage._LONGEST_IN_MEMORY", 100)
    (tmp_path / "submitted.json").write_bytes(b" " * 101)
    with pytest.raises(errors.ConfigurationError, match="more than 100 bytes"):
        Job.load(folder)


# ------------------------------------------------------- what others say


FORGED = "a\x1b[31m\r\nFORGED\u202e"


@pytest.mark.parametrize(
    "data",
    [
        {"id": FORGED, "status": "New"},
        {"id": "x" * 301, "status": "New"},
        {"id": "", "status": "New"},
        {"id": "t", "status": "New", "sourceFiles": [{"id": FORGED, "name": "n"}]},
        {"id": "t", "status": "New", "documents": [{"id": FORGED}]},
        {
            "id": "t",
            "status": "New",
            "documents": [
                {"id": "d", "resultFiles": [{"fileId": FORGED, "fileName": "n", "type": "Json"}]}
            ],
        },
    ],
)
def test_an_id_that_can_not_be_printed_is_refused(
    hostile: Hostile, client: VantageClient, data: dict[str, Any]
) -> None:
    hostile.answer = plain(json.dumps(data).encode())
    with pytest.raises(errors.ProtocolError) as caught:
        client.get_transaction(TRANSACTION)
    assert str(caught.value).isprintable()


def test_states_and_names_are_one_line() -> None:
    found = Transaction.read({"id": "t", "status": FORGED, "error": FORGED})
    odd = {"id": "t", "status": FORGED, "stage": FORGED, "pageCount": float("inf")}
    listed = ListedTransaction.read(odd)
    assert listed.page_count is None
    skill = Skill.read({"id": "s", "name": FORGED, "type": FORGED, "skills": [{"id": FORGED}]})
    texts = (found.status, found.error, listed.status, listed.stage, skill.name, skill.type)
    assert all(text is not None and text.isprintable() for text in (*texts, *skill.skills))


def test_members_of_an_odd_type_are_not_taken_for_what_they_are_not() -> None:
    field = {"name": "F", "isRepeatable": "false"}
    skill = Skill.read({"id": "s", "name": " \x1b[0m", "type": {}, "fields": [field]})
    assert (skill.name, skill.type, skill.fields[0].is_repeatable) == ("s", None, False)
    listed = ListedTransaction.read({"transactionId": "t", "stage": {"x": 1}, "pageCount": "3"})
    assert (listed.stage, listed.page_count) == (None, 3)


def test_pages_are_counted_however_they_are_written() -> None:
    item = {"transactionId": "a", "pageCount": "12.0", "documentCount": 1.0}
    found = ListedTransaction.read(item)
    assert (found.page_count, found.document_count) == (12, 1)
    assert ListedTransaction.read({**item, "pageCount": "many"}).page_count is None


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59.9999999Z"]
)
def test_the_first_and_last_moments_of_dotnet_are_no_time(moment: str) -> None:
    """Nothing could be computed from them, such as when results expire."""
    listed = {"transactionId": "a", "createTimeUtc": moment}
    assert ListedTransaction.read(listed).created_at is None


def test_skills_without_an_id_are_left_out_of_a_process_skill() -> None:
    inside = [{"id": None}, {"id": "s1"}, {}]
    assert Skill.read({"id": "p", "name": "All", "skills": inside}).skills == ("s1",)


def test_a_forged_reply_forges_no_line(
    hostile: Hostile, client: VantageClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = client.get_token().reveal()
    body = json.dumps({"title": f"{FORGED} {token} {token[:20]}"}).encode()
    hostile.answer = plain(body, f"x-request-id: {token}", status=f"418 \x1b[31m{token}")
    with pytest.raises(errors.BadRequest) as caught:
        client.list_skills()
    assert str(caught.value).isprintable()
    assert token[:20] not in str(caught.value)
    ours = [r for r in caplog.records if r.name.startswith("vantage_orchestration")]
    assert all(record.getMessage().isprintable() for record in ours)
