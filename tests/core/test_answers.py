# SPDX-License-Identifier: Apache-2.0
"""What the service says is believed if it can be true, and told in its own words."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pendulum
import pytest
from core.conftest import config_of
from jobs import begin, collect, download, finish, submit_files
from patience import wait_while_running
from pdfs import make_invoice

import vantage_orchestration
from vantage_orchestration import content, errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.models import ListedTransaction, Transaction
from vantage_orchestration.options import Options
from vantage_orchestration.processing.document import process_document
from vantage_orchestration.processing.job import Job, job_token
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import FolderLedgers, Ledger
from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
from vantage_orchestration.processing.outcome import check_outcome, check_rules, outcome_of
from vantage_orchestration.processing.page_numbers import listed_as_completed
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.retrying import LOOKS, RetryPolicy
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import Outcome, Wait
from vantage_orchestration.waiting.rules import WaitRules
from vantage_orchestration.waiting.watcher import Watcher

PROCESS = "workspace.default.processing"
TOKEN = job_token("task", "-1")
DOWNLOAD = "downloadResultFile"
PAGE = {"status": 200, "body": "<html><body>Sign in</body></html>"}
FILTER = {"status": 403, "body": "<!DOCTYPE html><title>Are you a robot?</title>"}
GARBAGE = {"status": 200, "body": '{"id": "0d0f'}
UNKNOWN = {"status": 404}


@pytest.fixture
def skill(sandbox: SandboxServer) -> str:
    sandbox.control.set(processing_polls=0)
    return sandbox.control.skill_id("Invoice")


@pytest.fixture
def invoice(tmp_path: Path) -> Path:
    return make_invoice(tmp_path / "in" / "invoice.pdf", "INV-17")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "out")


def run(
    client: VantageClient, files: list[Path], output: Location, skill: str, **options: Any
) -> Manifest:
    """Process files as the operators and tasks do."""
    chosen = Options(**options)
    job = begun(client, files, output, skill, **options)
    outcome = waited(client, job.transaction_ids)
    manifest = finish(client, output, skill, chosen, token=TOKEN, processed=outcome.processed)
    check_outcome(outcome_of(manifest, outcome.timed_out))
    return manifest


def begun(
    client: VantageClient, files: list[Path], output: Location, skill: str, **options: Any
) -> Job:
    """Start the transactions of files."""
    locations = [Location.of(each) for each in files]
    return begin(client, locations, output, TaskKey("task"), skill, Options(**options), token=TOKEN)


def waited(client: VantageClient, ids: list[str]) -> Outcome:
    """Wait for transactions."""
    return wait_here(client, Wait(ids, WaitRules(poke_interval=1.0), time.time()))


def there(output: Location) -> set[str]:
    """Return what lies in the folder of results, without what a job notes."""
    names = {path.rpartition("/")[2] for path in output.sizes() if not path.startswith(".")}
    return names - {"submitted.json"}


# ------------------------------------------------------- what files have to be


def _zip() -> bytes:
    with io.BytesIO() as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("[Content_Types].xml", "<Types/>")
        return stream.getvalue()


_LARGE = json.dumps([{"text": 'a "quoted" { brace \\' * 9, "n": number} for number in range(40000)])
GOOD: list[tuple[str | None, bytes]] = [
    ("Json", b'\xef\xbb\xbf {"a": [1]}'),
    ("FieldsJson", b"[]"),
    ("OcrJson", _LARGE.encode()),
    ("OcrJson", json.dumps(["x", '"x' * 50_000]).encode()),
    ("Pdf", b"\x00" * 900 + b"%PDF-1.7" + b" " * 5000 + b"%%EOF\r\n" + b"\x00" * 1000),
    ("Docx", _zip()),
    ("Png", b"\x89PNG\r\n\x1a\n..."),
    ("Jpeg", b"\xff\xd8\xff\xe0"),
    ("Tiff", b"MM\0*...."),
    ("Xml", b"<?xml version='1.0'?><a/>"),
    ("Xml", b"<?xml version='1.0'?>" + b"<!-- a -->" * 90 + b"<a/>"),
    ("Xml", "<?xml version='1.0' encoding='UTF-16'?><a/>".encode("utf-16")),
    ("Alto", "\ufeff<alto/>".encode("utf-16-be")),
    ("Html", b"<!DOCTYPE html><html></html>"),
    ("Text", b"less < more"),
    ("Csv", b"\xef\xbb\xbfa,b\n"),
    ("SomethingNew", b"\x00"),
    (None, b"anything"),
]
BAD: list[tuple[str | None, bytes, str]] = [
    *[(kind, PAGE["body"].encode(), "HTML page") for kind in ("Json", "Text", "Pdf", "New", None)],  # type: ignore[attr-defined]
    *[(kind, b"", "empty") for kind in ("Json", "Text", "Csv", "Html", "Pdf", "New", None)],
    ("Json", b'{"a": [1', "not complete JSON"),
    ("json", b"null", "not complete JSON"),
    ("OcrJson", _LARGE.encode()[:-1], "not complete JSON"),
    ("OcrJson", _LARGE.encode()[:-12], "not complete JSON"),
    ("Pdf", b" " * 2000 + b"%PDF-1.7", "PDF"),
    ("Pdf", b"%PDF-1.7 %%EOF" + b" " * 5000, "end like a PDF"),
    ("Pdf", b"%PDF-1.7", "end like a PDF"),
    ("Xlsx", _zip()[:-8], "Office"),
    ("Pptx", b"x" + _zip(), "Office"),
    ("Png", b"\xff\xd8\xff", "image"),
    ("Alto", b"{}", "XML"),
    ("Xml", b"<?xml version='1.0'?>\n<!DOCTYPE html><html/>", "HTML page"),
]


@pytest.mark.parametrize(("kind", "data"), GOOD)
def test_what_a_type_says(monkeypatch, kind: str | None, data: bytes) -> None:
    monkeypatch.setattr(content, "_PARSED", 100_000)
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    content.check_content(stream, kind)


@pytest.mark.parametrize(("kind", "data", "says"), BAD)
def test_what_a_type_does_not_say(monkeypatch, kind: str | None, data: bytes, says: str) -> None:
    monkeypatch.setattr(content, "_PARSED", 100_000)
    before = b"%%EOF"
    stream = io.BytesIO(before + data)
    stream.seek(len(before))
    with pytest.raises(ValueError, match=says):
        content.check_content(stream, kind)


def test_an_announced_empty_file_of_an_unknown_type_is_one() -> None:
    content.check_content(io.BytesIO(), "New", may_be_empty=True)
    with pytest.raises(ValueError, match="empty"):
        content.check_content(io.BytesIO(), "Text", may_be_empty=True)


def test_a_declared_page_of_an_unknown_type_is_one() -> None:
    page = io.BytesIO(PAGE["body"].encode())  # type: ignore[attr-defined]
    content.check_content(page, None, may_be_page=True)
    with pytest.raises(ValueError, match="HTML page"):
        content.check_content(io.BytesIO(page.getvalue()), "Text", may_be_page=True)


@pytest.mark.parametrize(
    "reply", [PAGE, {"status": 200, "body": ""}, {"status": 200, "body": '{"Fields": {"a'}]
)
def test_nothing_that_is_no_result_lands_or_lets_anything_be_deleted(
    client, sandbox, skill, invoice, output, reply
):
    sandbox.control.add_fault(operation=DOWNLOAD, times=0, **reply)
    with pytest.raises(
        errors.ProtocolError, match=r"Invoice.*json.*(page|empty|complete)"
    ) as caught:
        run(client, [invoice], output, skill, delete_after=True)
    assert caught.value.retryable
    assert there(output) == set()
    assert sandbox.control.count("DELETE") == 0
    sandbox.control.clear_faults()
    sandbox.control.add_fault(operation=DOWNLOAD, times=2, **reply)
    manifest = finish(client, output, skill, Options(delete_after=True), token=TOKEN)
    assert manifest.counts["files"] == 2
    assert there(output) == {"Invoice.json", "Invoice_fields.json", "manifest.json"}
    assert sandbox.control.count("DELETE") == 1


DOCUMENT = {"id": "9a8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d", "resultFiles": []}
TWICE = {**DOCUMENT, "resultFiles": [{"fileId": "f", "fileName": "a.txt", "type": "Text"}]}


@pytest.mark.parametrize("documents", [None, [], [DOCUMENT], [TWICE, TWICE]])
def test_a_processed_transaction_without_results_is_read_again_and_never_deleted(
    client, sandbox, skill, invoice, output, documents
):
    job = begun(client, [invoice], output, skill, delete_after=True)
    lacking = {"merge_json": {"documents": documents}}
    sandbox.control.add_fault(operation="getTransaction", times=0, **lacking)
    with pytest.raises(errors.ProtocolError, match=r"'invoice\.pdf' was processed, but") as caught:
        finish(client, output, skill, Options(delete_after=True), token=TOKEN)
    assert caught.value.retryable
    assert sandbox.control.count("DELETE") == 0
    with pytest.raises(errors.ProtocolError, match="was processed, but"):
        process_document(client, invoice, skill, TaskKey("task", since=None))
    sandbox.control.clear_faults()
    sandbox.control.add_fault(operation="getTransaction", times=2, **lacking)
    assert (
        finish(client, output, skill, Options(delete_after=True), token=TOKEN).counts["files"] == 2
    )
    assert sandbox.control.count("DELETE", job.transaction_ids[0]) == 1


def test_a_classification_has_a_class_and_no_files(client, sandbox, invoice, output):
    sandbox.control.set(processing_polls=0)
    classify = {each.type: each.id for each in client.list_skills()}["Classification"]
    manifest = run(client, [invoice], output, classify, delete_after=True)
    (document,) = manifest.transactions[0].documents
    assert (document.files, document.classification["name"]) == ((), "Invoice")
    assert sandbox.control.count("DELETE") == 1


def test_types_that_fit_no_file_delete_nothing(client, sandbox, skill, invoice, output):
    with pytest.raises(errors.ResultsMissing, match=r"'invoice\.pdf'.*it has FieldsJson, Json"):
        run(client, [invoice], output, skill, result_types=["Docx"], delete_after=True)
    assert sandbox.control.count("DELETE") == 0


# ------------------------------------------------------------------- patience

_STEPS = ["createTransaction", "addFiles", "startTransaction", "getTransaction", DOWNLOAD]


@pytest.mark.parametrize("operation", [*_STEPS, "listCompletedTransactions", "deleteTransaction"])
@pytest.mark.parametrize(
    "reply", [PAGE, FILTER, GARBAGE, UNKNOWN], ids=["page", "filter", "half", "404"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_can_not_be_true_yet_is_asked_again(
    client, sandbox, skill, invoice, output, operation, reply, when
):
    """Wherever it comes once, the documents are processed, each is started once."""
    if reply is UNKNOWN and operation == "createTransaction":
        pytest.skip("here it is the skill that is unknown")
    sandbox.control.add_fault(operation=operation, times=1, when=when, **reply)
    assert run(client, [invoice], output, skill, delete_after=True).counts["files"] == 2
    assert {"Invoice.json", "Invoice_fields.json"} < there(output)
    assert [each["started"] for each in sandbox.control.transactions() if each["files"]] == [1]
    assert [each["hits"] for each in sandbox.control.faults()] == [1]


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("operation", ["getTransaction", DOWNLOAD, "startTransaction", "addFiles"])
def test_a_refusal_that_stays_is_final_soon(
    client, sandbox, skill, invoice, output, status, operation
):
    sandbox.control.add_fault(operation=operation, times=0, status=status)
    kind = {403: errors.Forbidden, 404: errors.NotFound}[status]

    def work() -> None:
        transaction = client.create_transaction(skill)
        client.add_files(transaction.id, [invoice])
        client.start_transaction(transaction.id)
        (document,) = client.get_transaction(transaction.id).documents
        client.read_result(transaction.id, document.result_files[0])

    with pytest.raises(kind) as caught:
        work()
    assert not caught.value.retryable
    assert sandbox.control.faults()[0]["hits"] == (LOOKS if status == 404 else 1)


#: A gateway's answer while the service behind it is being deployed.
_NO_ROUTE = {"path_regex": "/transactions/", "status": 404, "json": {"message": "no route"}}


@pytest.mark.parametrize("requests", [4, 5, 6, 7, 8, 30])
def test_a_gateway_that_knows_no_address_makes_nothing_count_as_deleted(
    client, sandbox, skill, invoice, output, requests
):
    """A later try finds the running transaction, and fetches and deletes what it was told to."""
    sandbox.control.set(processing_polls=1000)
    ledger = Ledger((FolderLedgers(output.child("ledger")), "task"))
    files, options = [Location.of(invoice)], Options()

    def work() -> list[str]:
        parts = submit_files(client, files, TaskKey("task"), skill, options, ledger=ledger)
        return [part.transaction_id for part in parts]

    first = work()
    sandbox.control.add_fault(times=requests, **_NO_ROUTE)
    with contextlib.suppress(errors.ServiceUnavailable):
        assert work() == first
    for order in (client.delete_transaction, lambda each: client.add_files(each, [invoice])):
        sandbox.control.clear_faults()
        sandbox.control.add_fault(times=0, **_NO_ROUTE)
        with pytest.raises(errors.ServiceUnavailable, match="nothing counts as deleted") as caught:
            order(first[0])
        assert caught.value.retryable
    watcher = Watcher(client, settle=0.0)
    assert watcher.observe(first) == {}
    sandbox.control.clear_faults()
    assert work() == first
    assert len(sandbox.control.transactions()) == 1


@pytest.mark.parametrize(
    ("status", "body"), [(206, "the first bytes"), (202, "later"), (204, ""), (205, "")]
)
def test_a_part_of_a_file_is_not_the_file(client, sandbox, skill, tmp_path, status, body):
    identifier = "11111111-1111-4111-8111-111111111111"
    part = {"operation": DOWNLOAD, "status": status, "body": body}
    sandbox.control.add_fault(times=0, **part)
    with pytest.raises(errors.ProtocolError, match=str(status)) as caught:
        client.download_result(identifier, "f", tmp_path / "text.csv")
    assert caught.value.retryable
    assert "in place of the service" in str(caught.value)
    assert not (tmp_path / "text.csv").exists()


@pytest.mark.parametrize("path", ["/transactions$", "/publicapi/"])
def test_a_gateway_that_knows_no_address_makes_no_skill_count_as_unknown(
    client, sandbox, skill, invoice, output, path
):
    sandbox.control.add_fault(path_regex=path, status=404, json={"message": "none"}, times=0)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(client, [invoice], output, skill)
    assert caught.value.retryable
    sandbox.control.clear_faults()
    assert run(client, [invoice], output, skill).counts["files"] == 2


@pytest.mark.parametrize("status", [202, 204])
def test_an_order_may_be_confirmed_without_content(client, sandbox, skill, invoice, status):
    orders = ["startTransaction", "deleteTransaction"]
    for order in orders:
        sandbox.control.add_fault(operation=order, when="after", status=status, body="")
    transaction = client.create_transaction(skill)
    client.add_files(transaction.id, [invoice])
    client.start_transaction(transaction.id)
    client.delete_transaction(transaction.id)
    asked = [each["operation"] for each in sandbox.control.journal(path_regex=transaction.id)]
    assert asked[-2:] == orders


@pytest.mark.parametrize("reply", [PAGE, {"status": 206, "body": "{}"}], ids=["page", "part"])
def test_a_start_is_repeated_only_after_a_look(client, sandbox, skill, invoice, output, reply):
    for when in ("after", "before"):
        sandbox.control.add_fault(operation="startTransaction", when=when, **reply)
        transaction = client.create_transaction(skill)
        client.add_files(transaction.id, [invoice])
        client.start_transaction(transaction.id)
        requests = [
            each["operation"] for each in sandbox.control.journal(path_regex=transaction.id)
        ]
        begun = requests.index("startTransaction")
        again = ["startTransaction"] if when == "before" else []
        assert requests[begun:] == ["startTransaction", "getTransaction", *again]


def test_a_reply_about_another_transaction_is_not_believed(client, sandbox, skill, invoice):
    ids = []
    for _ in range(2):
        ids.append(client.create_transaction(skill).id)
    sandbox.control.add_fault(operation="getTransaction", merge_json={"id": ids[0]})
    assert client.get_transaction(ids[1]).id == ids[1]
    sandbox.control.add_fault(operation="getTransaction", merge_json={"id": ids[0]}, times=0)
    with pytest.raises(errors.ProtocolError, match="another transaction"):
        client.get_transaction(ids[1])


@pytest.mark.parametrize("body", ["{}", "null", '{"error": "try later"}', "[]", '{"items": null}'])
def test_what_is_no_list_is_not_taken_for_an_empty_one(client, sandbox, skill, invoice, body):
    """Else what was started would not be found, and be sent again."""
    key = TaskKey("task", pendulum.now("UTC"))
    sent = process_document(client, invoice, skill, key).transaction_id
    for operation in ("listActiveTransactions", "listCompletedTransactions"):
        sandbox.control.add_fault(operation=operation, status=200, body=body, times=3)
    assert process_document(client, invoice, skill, key).transaction_id == sent
    if body != "[]":
        sandbox.control.add_fault(operation="listSkills", status=200, body=body, times=2)
        assert skill in {each.id for each in client.list_skills()}
    empty = {"status": 200, "body": '{"items": null, "totalItemCount": 0}'}
    sandbox.control.add_fault(operation="listActiveTransactions", **empty)
    assert client.list_active_transactions().items == ()


def test_a_duplicate_that_was_renamed_before_the_start_is_sent_once(
    client, sandbox, skill, invoice, output, tmp_path
):
    ledger = Ledger((FolderLedgers(Location.of(tmp_path / "notes")), "task"))
    sandbox.control.add_fault(operation="startTransaction", status=403)
    for name in ("invoice.pdf", "another.pdf"):
        file = invoice if name == "invoice.pdf" else invoice.rename(invoice.with_name(name))
        key = TaskKey("task", pendulum.now("UTC") if file is not invoice else None)
        with contextlib.suppress(errors.Forbidden):
            begin(
                client,
                [Location.of(file)],
                output,
                key,
                skill,
                Options(),
                token=TOKEN,
                ledger=ledger,
            )
    states = sandbox.control.transactions()
    assert [(each["started"], each["deleted"]) for each in states] in (
        [(0, True), (1, False)],
        [(1, False)],
    )


# ------------------------------------------------------------- hints and classes

_PROMISE = re.compile(
    r"(?<!before the )next try|later try|try (it )?again|try (it )?later|new try", re.IGNORECASE
)
_BY_HAND = re.compile(r"then (clear|run)|clear or run", re.IGNORECASE)


def raised() -> Iterator[tuple[str, type[errors.VantageError], str]]:
    """Yield each place that makes an error with a hint: where, class, hint."""
    root = Path(vantage_orchestration.__file__).parent
    classes = {name: each for name, each in vars(errors).items() if inspect.isclass(each)}
    for path in sorted(root.rglob("*.py")):
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            hints = [each.value for each in node.keywords if each.arg == "hint"]
            if name in classes and hints:
                parts = [
                    part.value
                    for part in ast.walk(hints[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                yield f"{path.relative_to(root)}:{node.lineno}", classes[name], "".join(parts)


def test_errors_that_promise_another_try_can_be_retried() -> None:
    found = list(raised())
    assert len(found) > 60
    promised = [each for each in found if _PROMISE.search(each[2])]
    assert len(promised) > 8
    assert [each for each in promised if not each[1].retryable] == []
    assert [each for each in found if each[1].retryable and _BY_HAND.search(each[2])] == []


@pytest.mark.parametrize(
    ("statuses", "in_review", "timed_out"),
    [
        ({"a": "Failed"}, (), None),
        ({"a": "Gone", "b": "Canceled"}, (), None),
        ({"a": "Canceled"}, (), None),
        ({"a": "Processing"}, ("a",), None),
        ({"a": "Processing"}, (), "After 5 s 1 transaction has not ended"),
    ],
)
def test_outcomes_that_promise_another_try_can_be_retried(statuses, in_review, timed_out) -> None:
    words = {name: Status(word) for name, word in statuses.items()}
    with pytest.raises(errors.VantageError) as caught:
        check_outcome(Outcome(words, in_review, timed_out), on_review="fail")
    assert bool(_PROMISE.search(caught.value.hint or "")) == caught.value.retryable


def test_a_file_that_is_not_complete_is_tried_again(client, sandbox, skill, tmp_path, output):
    folder = tmp_path / "in"
    files = [make_invoice(folder / "a.pdf", "A"), folder / "z.pdf"]
    files[1].touch()
    locations = Location.of(folder).files("*.pdf")
    for missing in (False, True):
        if missing:
            files[1].unlink()
        with pytest.raises(errors.FileNotReady, match=r"z\.pdf") as caught:
            begin(client, locations, output, TaskKey("task"), skill, Options(), token=TOKEN)
        assert caught.value.retryable
    assert sandbox.control.count("POST", "/transactions") == 0
    locations.append(Location.of(folder))
    with pytest.raises(errors.ConfigurationError, match="folder") as final:
        begin(client, locations, output, TaskKey("task"), skill, Options(), token=TOKEN)
    assert not final.value.retryable


# -------------------------------------------------------------- what is sent


def test_each_operation_asks_for_what_it_declares(client, sandbox, skill, invoice, output, sent):
    """Every request is held against the description, its ``Accept`` too; see ``sent``."""
    run(client, [invoice], output, skill, delete_after=True)
    asked = {each["operation"] for each in sandbox.control.journal()}
    assert {DOWNLOAD, "deleteTransaction", "listCompletedTransactions", *_STEPS} <= asked


# ------------------------------------------------------------------------ ids


def test_ids_are_equal_however_they_are_spelled(client, sandbox, skill, invoice, output):
    job = begun(client, [invoice], output, skill)
    (name,) = job.transaction_ids
    outcome = waited(client, [name.upper()])
    assert outcome.statuses == {name.upper(): "Processed"}
    reads = sandbox.control.count("GET", f"/transactions/{name}$")
    manifest = finish(client, output, skill, Options(), token=TOKEN, processed=outcome.processed)
    assert sandbox.control.count("GET", f"(?i)/transactions/{name}$") == reads + 1
    assert manifest.counts["pages"] == 1
    told = {"id": name.upper()}
    sandbox.control.add_fault(operation="getTransaction", merge_json=told, times=0)
    found = download(client, [name, name.upper()], output.child("again"), Options())
    (entry,) = found.transactions
    assert (entry.transaction_id, entry.pages) == (name, 1)
    before = sandbox.control.count("GET", "/download$")
    folder = output.child("again", entry.folder)
    noted = json.loads(folder.child("manifest.json").read_bytes())
    folder.child("manifest.json").write_text(json.dumps({**noted, "transaction_id": name.upper()}))
    assert download(client, [name], output.child("again"), Options()).counts["files"] == 2
    assert sandbox.control.count("GET", "/download$") == before
    rows = listed_as_completed(client, [Part(name.upper())], skill_id=None)
    assert [row.id for row in rows.values()] == [name]
    listed = ListedTransaction.read({"transactionId": name.upper(), "status": "Processed"})
    assert listed.id == name


# ------------------------------------------------------------ once a second


@pytest.mark.with_the_second
@pytest.mark.parametrize("way", ["job", "document", "resumed"])
def test_no_transaction_is_read_twice_within_a_second(
    client, sandbox, skill, tmp_path, output, way
):
    files = [make_invoice(tmp_path / "in" / f"{n}.pdf", f"INV-{n}") for n in range(3)]
    sandbox.control.add_fault(operation="addFiles", status=503, times=3)  # It looks then.
    sandbox.control.add_fault(operation="startTransaction", status=503, times=1)
    sandbox.control.add_fault(operation="getTransaction", times=1, after=2, **GARBAGE)
    if way == "document":
        process_document(client, files[0], skill, TaskKey("task"))
    else:
        begun = time.monotonic()
        run(client, files, output, skill)
        if way == "resumed":
            output.child("manifest.json").remove()
            run(client, files, output, skill)
        assert time.monotonic() - begun > 1
    times: dict[str, list[float]] = {}
    for each in sandbox.control.journal():
        if each["operation"] == "getTransaction":
            moment = pendulum.parse(each["time"]).float_timestamp
            times.setdefault(each["path"], []).append(moment)
    assert len(times) == (1 if way == "document" else 3)
    pauses = [
        after - before
        for moments in times.values()
        for before, after in itertools.pairwise(moments)
    ]
    # Which documents the faults hit is up to chance; those that none has hit are read once.
    assert pauses
    assert min(pauses) > 0.95


# ------------------------------------------------------- what has landed stays


@pytest.fixture
def batch(sandbox: SandboxServer, client: VantageClient, tmp_path: Path) -> Transaction:
    """44 documents in one transaction."""
    sandbox.control.set(processing_polls=0)
    data = make_invoice(tmp_path / "in" / "one.pdf", "INV-1").read_bytes()
    files = [(f"{number}.pdf", data) for number in range(44)]
    (name,) = sandbox.control.receive_many(1, PROCESS, files)
    while (found := client.get_transaction(name)).status != "Processed":
        time.sleep(0.05)
    return found


def downloads(sandbox: SandboxServer) -> list[str]:
    """Return the paths that were downloaded with success."""
    return [
        each["path"]
        for each in sandbox.control.journal("GET", "/download$")
        if each["status"] == 200 and not each["fault"]
    ]


@pytest.mark.parametrize("reply", [{"drop": True}, PAGE, {"status": 503}])
def test_a_batch_ends_however_its_downloads_fail(client, sandbox, batch, output, reply):
    total = sum(len(each.result_files) for each in batch.documents)
    impatient = RetryPolicy(attempts=1, first_wait=0.0, max_wait=0.0, budget=60)
    tries = 0
    with VantageClient(config_of(sandbox), retries=impatient) as other:
        while "manifest.json" not in there(output):
            tries += 1
            assert tries <= total // 11 + 1
            sandbox.control.clear_faults()
            sandbox.control.add_fault(operation=DOWNLOAD, after=11, times=0, **reply)
            try:
                collect(other, batch, output)
            except (errors.ConnectionFailed, errors.ProtocolError, errors.ServiceUnavailable):
                assert json.loads(output.child("landed.json").read_bytes())["files"]
    got = downloads(sandbox)
    assert len(got) == len(set(got)) == total
    assert "landed.json" not in there(output)


def test_one_bad_file_does_not_keep_the_others_from_landing(client, sandbox, batch, output):
    bad = batch.documents[20].result_files[0]
    sandbox.control.add_fault(path_regex=re.escape(bad.id), times=0, **PAGE)
    with pytest.raises(errors.ProtocolError, match=re.escape(bad.name)):
        collect(client, batch, output)
    assert len(downloads(sandbox)) == 87
    sandbox.control.clear_faults()
    assert len(collect(client, batch, output).files) == 88
    assert len(downloads(sandbox)) == 88


def test_a_killed_collection_fetches_only_the_rest(client, sandbox, batch, output, tmp_path):
    script = (
        "import sys; from core.conftest import config_of, QUICK\n"
        "from vantage_orchestration.client import VantageClient\n"
        "from vantage_orchestration.config import VantageConfig\n"
        "from jobs import collect\n"
        "from vantage_orchestration.storage import Location\n"
        "client = VantageClient(VantageConfig.from_env())\n"
        f"transaction = client.get_transaction({batch.id!r})\n"
        f"collect(client, transaction, Location.of({output.path!r}), parallel=1)\n"
    )
    account = sandbox.credentials
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "ABBYY_VANTAGE_BASE_URL": sandbox.url,
        "ABBYY_VANTAGE_STORE": "memory",
        **{
            f"ABBYY_VANTAGE_{name.upper()}": account[name]
            for name in ("username", "password", "client_id", "client_secret")
        },
    }
    fault = {"operation": DOWNLOAD, "delay": 3600.0, "after": 30}
    sandbox.control.add_fault(**fault)
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        try:
            wait_while_running(
                process, lambda: sandbox.control.faults()[0]["hits"], "the download to be held up"
            )
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(downloads(sandbox)) == 30
    assert len(collect(client, batch, output).files) == 88
    assert len(downloads(sandbox)) == 88
    assert TransactionManifest.load(output) is not None
    assert not output.child("landed.json").exists()


def test_notes_that_are_of_no_use_cost_nothing_but_time(client, sandbox, batch, output):
    for text in ("", "[]", '{"transaction_id": "another", "files": []}', '{"files": [{}]}'):
        output.child("landed.json").write_text(text)
        assert len(collect(client, batch, output).files) == 88
        output.child("manifest.json").remove()


# ----------------------------------------------------------- in its own words


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"code": "X", "message": "No right to this skill"}}, "No right to this skill"),
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"error": "x", "error_description": "The user is locked"}, "The user is locked"),
        ({"Message": "Denied by policy"}, "Denied by policy"),
        ({"errors": ["too many files"]}, "too many files"),
        ({"errors": [{"message": "the key is long"}]}, "the key is long"),
        ({"title": "Bad", "errors": {"Limit": ["is too large"]}}, "Bad; Limit: is too large"),
        ({"fault": {"faultstring": "Quota exceeded"}}, "Quota exceeded"),
        ("The service is closed", "The service is closed"),
    ],
)
def test_reasons_are_shown_in_whatever_form_they_come(client, sandbox, skill, body, says):
    sandbox.control.add_fault(operation="createTransaction", status=403, json=body)
    with pytest.raises(errors.Forbidden) as caught:
        client.create_transaction(skill)
    assert f'The server says: "{says}"' in str(caught.value)


def test_a_failure_names_documents_and_reasons(client, sandbox, skill, tmp_path, output):
    folder = tmp_path / "in"
    files = [make_invoice(folder / "good.pdf", "INV-1")]
    for number in range(7):
        files.append(folder / f"bad {number}.pdf")
        files[-1].write_bytes(b"this is no PDF %d" % number)
    with pytest.raises(errors.TransactionFailed) as caught:
        run(client, files, output, skill)
    text = str(caught.value)
    failed = Manifest.load(output).failed
    assert "7 of 8 transactions failed" in text
    assert text.count(".pdf' (transaction ") == 5
    assert [f'failed with "{each.error}"' in text for each in failed] == [True] * 5 + [False] * 2
    assert "and 2 more" in text
    assert "good.pdf" not in text
    reason = failed[0].error
    outcome = waited(client, [failed[0].transaction_id])
    with pytest.raises(errors.TransactionFailed, match=re.escape(reason)):
        check_outcome(outcome, client=client)
    with pytest.raises(errors.TransactionFailed, match="'bad 0") as one:
        process_document(client, files[1], skill, TaskKey("other"))
    assert reason.rstrip(".") in str(one.value)


def test_reviews_and_waits_name_documents(client, sandbox, skill, invoice, output):
    sandbox.control.set(review=True)
    begun(client, [invoice], output, skill)
    manifest = finish(client, output, skill, Options(), token=TOKEN)
    with pytest.raises(errors.ReviewNeeded, match=r"1 transaction waits .*'invoice\.pdf'"):
        check_outcome(outcome_of(manifest), on_review="fail")
    pending = dataclasses.replace(manifest.pending[0], in_review=False)
    late = dataclasses.replace(manifest, pending=(pending,))
    with pytest.raises(errors.WaitTimeout, match=r"1 transaction has not ended: 'invoice\.pdf'"):
        check_outcome(outcome_of(late))


def test_broken_rules_are_named_with_their_documents(client, sandbox, skill, invoice, output):
    sandbox.control.set(rule_errors=[{"errorType": "Condition", "customMessage": "Total is off"}])
    manifest = run(client, [invoice], output, skill)
    with pytest.raises(errors.RulesBroken, match=r"1 of 1 .*'invoice\.pdf': Total is off"):
        check_rules(manifest, "there")
