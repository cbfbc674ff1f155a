# SPDX-License-Identifier: Apache-2.0
"""Results from the sandbox into folders: complete, once, and the same after every crash."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pendulum
import pytest
import stores
from jobs import collect, plan
from patience import wait_while_running
from pdfs import make_invoice

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError, ConnectionFailed
from vantage_orchestration.models import Transaction
from vantage_orchestration.processing.collect import LandedNote, landed
from vantage_orchestration.processing.manifest import SourceEntry, TransactionManifest
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.storage import Location

PROCESS = "workspace.default.processing"
DOWNLOAD = "downloadResultFile"
#: Tries as in production, without their waits.
QUICK = RetryPolicy(attempts=5, first_wait=0.001, max_wait=0.002, budget=60)


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


@pytest.fixture(autouse=True)
def _at_once(sandbox):
    sandbox.control.set(processing_polls=0)


@pytest.fixture(params=["local", "memory", "bucket", "renaming"])
def target(request, tmp_path) -> Location:
    """A folder for results, in each kind of store."""
    return Location.of(
        tmp_path / "out" / "x.pdf" if request.param == "local" else f"{request.param}://out/x.pdf"
    )


@pytest.fixture
def local(tmp_path) -> Location:
    return Location.of(tmp_path / "out")


@pytest.fixture
def process(client, sandbox, tmp_path) -> Callable[..., Transaction]:
    """Process made-up invoices in one transaction of the Process skill."""

    def run(count: int = 1, prefix: str = "INV") -> Transaction:
        paths = [
            make_invoice(tmp_path / f"{prefix}-{n}.pdf", f"{prefix}-{n}") for n in range(count)
        ]
        return client.get_transaction(client.launch_transaction(PROCESS, paths))

    return run


def content(folder: Location) -> dict[str, bytes]:
    """Return everything in a folder."""
    return {path: folder.child(path).read_bytes() for path in folder.sizes()}


def downloads(sandbox) -> int:
    return sandbox.control.count("GET", "/download$")


def renamed(sandbox, transaction: Transaction, names: list[list[str]]) -> None:
    """Make the sandbox show other names of result files, document by document."""
    documents = []
    for document, wanted in zip(transaction.documents, names, strict=True):
        files = [
            {"fileId": file.id, "fileName": name, "type": file.type}
            for file, name in zip(document.result_files, wanted, strict=True)
        ]
        documents.append({"id": document.id, "resultFiles": files})
    sandbox.control.add_fault(
        operation="getTransaction", merge_json={"documents": documents}, times=0
    )


# ----------------------------------------------------------------- landing


def test_results_land_as_they_are(client, sandbox, process, target):
    transaction = process(3)
    manifest = collect(client, transaction, target, skill_id=PROCESS, page_count=3)
    assert (manifest.transaction_id, manifest.skill_id) == (transaction.id, PROCESS)
    assert (manifest.status, manifest.pages) == ("Processed", 3)
    assert [document.document_id for document in manifest.documents] == [
        document.id for document in transaction.documents
    ]
    files = content(target)
    assert json.loads(files.pop("manifest.json")) == manifest.to_json()
    assert set(files) == {file.path for file in manifest.files}
    for number, (entry, document) in enumerate(
        zip(manifest.documents, transaction.documents, strict=True), 1
    ):
        assert len(entry.files) == len(document.result_files) > 1
        for file in entry.files:
            (found,) = (f for f in document.result_files if f.type == file.type)
            data = client.read_result(transaction.id, found.id)
            assert files[file.path] == data
            assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert (file.name, file.path) == (found.name, f"{number}/{found.name}")
    numbers = [
        json.loads(files[file.path])["Fields"]["Invoice Number"]
        for file in manifest.files
        if file.type == "FieldsJson"
    ]
    assert sorted(numbers) == ["INV-0", "INV-1", "INV-2"]
    assert [source.stored_name for source in manifest.sources] == [
        file.name for file in transaction.source_files
    ]
    assert landed(manifest, target)


def test_details_are_noted(client, sandbox, local, tmp_path):
    sandbox.control.set(rule_errors=[{"errorType": "Condition", "customMessage": "Total is off"}])
    paths = [make_invoice(tmp_path / f"{name}.pdf") for name in ("a (1)", "b")]
    (unit,) = plan(paths, process_skill=False)
    classify = {skill.type: skill.id for skill in client.list_skills()}["Classification"]
    transaction = client.get_transaction(
        client.launch_transaction(classify, [unit.files[0].source])
    )
    created = pendulum.now("UTC").subtract(days=1)
    sources = unit.sources
    manifest = collect(
        client, transaction, local, sources=sources, created_at=created, key="0" * 64
    )
    (source,) = manifest.sources
    assert (source.name, source.stored_name) == ("a (1).pdf", "a _1_.pdf")
    assert source.sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert (source.path, source.duplicates) == (str(paths[0]), (str(paths[1]),))
    (document,) = manifest.documents
    assert document.files == ()
    assert document.classification["name"] == transaction.documents[0].classification.class_name
    assert 0 < document.classification["confidence"] <= 100
    assert [error["message"] for error in document.rule_errors] == ["Total is off"]
    assert set(document.rule_errors[0]) == {"type", "message", "rule_id", "field_id"}
    assert (manifest.created_at, manifest.key) == (created, "0" * 64)
    assert content(local).keys() == {"manifest.json"}
    assert landed(manifest, local)


def test_sources_that_are_gone_keep_their_names(client, process, local, tmp_path):
    transaction = process(3)
    (unit,) = plan([tmp_path / "INV-1.pdf"], process_skill=True)
    sources = unit.sources
    manifest = collect(client, transaction, local, sources=sources)
    assert {(each.name, each.size is None) for each in manifest.sources} == {
        ("INV-0.pdf", True),
        ("INV-1.pdf", False),
        ("INV-2.pdf", True),
    }


def test_only_the_wanted_types_are_fetched(client, sandbox, process, local):
    transaction = process(2)
    before = downloads(sandbox)
    manifest = collect(client, transaction, local, result_types={"FieldsJson", "Pdf"})
    assert [file.type for file in manifest.files] == ["FieldsJson"] * 2
    assert downloads(sandbox) - before == 2
    both = collect(client, transaction, local)
    assert downloads(sandbox) - before == 4
    assert {file.type for file in both.files} == {"FieldsJson", "Json"}
    assert set(content(local)) == {"manifest.json", *(file.path for file in both.files)}
    again = collect(client, transaction, local, result_types=["FieldsJson"])
    assert again == manifest
    assert downloads(sandbox) - before == 4
    assert set(content(local)) == {"manifest.json", *(file.path for file in again.files)}


@pytest.mark.parametrize("types", [["Docx"], ["other:fieldsjson"]])
def test_types_that_a_document_lacks_are_refused_by_the_names_of_those_it_has(
    client, sandbox, process, local, types
):
    transaction = process(2)
    with pytest.raises(errors.ResultsMissing, match="it has FieldsJson, Json") as caught:
        collect(client, transaction, local, result_types=types)
    assert not caught.value.retryable
    assert downloads(sandbox) == 0
    assert content(local) == {}


def test_the_manifest_does_not_depend_on_the_order_of_result_files(client, process, tmp_path):
    transaction = process(1)
    (document,) = transaction.documents
    backwards = dataclasses.replace(
        transaction,
        documents=(
            dataclasses.replace(document, result_files=tuple(reversed(document.result_files))),
        ),
    )
    first = collect(client, transaction, Location.of(tmp_path / "1"))
    assert collect(client, backwards, Location.of(tmp_path / "2"), parallel=1) == first


def test_several_files_are_fetched_at_the_same_time(client, process, local, monkeypatch):
    transaction = process(2)
    together = threading.Barrier(4)
    fetch = client.stream_result

    def stream_result(*args):
        together.wait(30)  # Ends only if four downloads are under way.
        return fetch(*args)

    monkeypatch.setattr(client, "stream_result", stream_result)
    manifest = collect(client, transaction, local)
    assert len(manifest.files) == 4


def test_a_store_that_takes_one_at_a_time_gets_one(client, process, monkeypatch):
    target = Location.of("renaming://out")
    running, most = [], []
    fetch = client.stream_result

    def stream_result(*args):
        running.append(1)
        most.append(len(running))
        try:
            return fetch(*args)
        finally:
            running.pop()

    monkeypatch.setattr(client, "stream_result", stream_result)
    assert len(collect(client, process(3), target, parallel=6).files) == 6
    assert most == [1] * 6


# ------------------------------------------------------------------- names


def test_documents_with_the_same_file_names(client, sandbox, process, target):
    transaction = process(2)
    renamed(sandbox, transaction, [["Same.json", "Same.json"], ["Same.json", "SAME.json"]])
    transaction = client.get_transaction(transaction.id)
    manifest = collect(client, transaction, target)
    paths = [file.path for file in manifest.files]
    assert paths == ["1/Same.json", "1/Same_2.json", "2/SAME.json", "2/Same_2.json"]
    assert landed(manifest, target)
    assert len({file.sha256 for file in manifest.files}) == 4
    files = {file.id: file for document in transaction.documents for file in document.result_files}
    for document, entry in zip(transaction.documents, manifest.documents, strict=True):
        for file in entry.files:
            (wanted,) = (
                each.id
                for each in document.result_files
                if (each.name, each.type) == (file.name, file.type)
            )
            data = client.read_result(transaction.id, files[wanted].id)
            assert target.child(file.path).read_bytes() == data
    assert collect(client, transaction, target) == manifest


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped.json",
        "/etc/escaped.json",
        "..\\..\\escaped.json",
        "..",
        ".",
        " ",
        "a\u0000b.json",
        "new\nline.json",
        "CON.json",
        "x" * 400 + ".json",
        "ü" * 400 + ".json",
        "half \ud83d.json",
        "*?[a].json",
        ".hidden.json",
        ".x.0123456789abcdef.part",
        "manifest.json",
    ],
)
def test_hostile_names_stay_in_their_folder(client, sandbox, process, tmp_path, name):
    local = Location.of(tmp_path / "a" / "b" / "out")
    transaction = process(1)
    around = {path for path in tmp_path.rglob("*") if path.is_file()}
    renamed(sandbox, transaction, [[name, f"{name}.json"]])
    transaction = client.get_transaction(transaction.id)
    manifest = collect(client, transaction, local)
    assert {file.name for file in manifest.files} == {name, f"{name}.json"}
    files = content(local)
    assert files.keys() == {"manifest.json", *(file.path for file in manifest.files)}
    assert {path.parent for path in (tmp_path / "a").rglob("*") if path.is_file()} == {
        Path(local.path),
        Path(local.path) / "1",
    }
    assert {path for path in tmp_path.glob("*") if path.is_file()} == around
    for file in manifest.files:
        assert hashlib.sha256(files[file.path]).hexdigest() == file.sha256
    assert TransactionManifest.load(local) == manifest
    before = downloads(sandbox)
    assert collect(client, transaction, local) == manifest
    assert downloads(sandbox) == before


# ------------------------------------------------------------- once, again


def test_what_has_landed_is_not_fetched_again(client, sandbox, process, target):
    transaction = process(2)
    manifest = collect(client, transaction, target, skill_id="s", page_count=2)
    before, count = content(target), downloads(sandbox)
    assert collect(client, transaction, target) == manifest
    assert (content(target), downloads(sandbox)) == (before, count)
    # What is missing or was changed is fetched again, and nothing else.
    first, second, *_ = manifest.files
    target.child(second.path).write_text("half")
    assert not landed(manifest, target)
    target.child(first.path).remove()
    assert not landed(manifest, target)
    assert collect(client, transaction, target) == manifest
    assert content(target) == before
    assert downloads(sandbox) == count + 2
    # A manifest that can't be read may say anything, and is not overwritten.
    target.child("manifest.json").write_text("{")
    with pytest.raises(errors.StateDamaged, match=r"manifest\.json"):
        collect(client, transaction, target)
    assert target.child("manifest.json").read_text() == "{"
    # Without it everything is fetched again, since nobody knows what it should be.
    target.child("manifest.json").remove()
    assert not landed(dataclasses.replace(manifest, documents=()), Location.of("memory://none"))
    assert collect(client, transaction, target, skill_id="s", page_count=2) == manifest
    assert content(target) == before
    assert downloads(sandbox) == count + 2 + len(manifest.files)


def test_what_is_learned_later_is_added(client, sandbox, process, local):
    transaction = process(1)
    first = collect(client, transaction, local)
    assert (first.pages, first.skill_id, first.created_at) == (None, None, None)
    count = downloads(sandbox)
    created = pendulum.now("UTC")
    second = collect(
        client, transaction, local, page_count=7, skill_id="s", created_at=created, key="k"
    )
    assert (second.pages, second.skill_id, second.created_at) == (7, "s", created)
    assert TransactionManifest.load(local) == second
    assert collect(client, transaction, local) == second
    source = SourceEntry("mine.pdf", transaction.source_files[0].name, "/in/mine.pdf", 1, "0" * 64)
    third = collect(client, transaction, local, sources=[source])
    assert third.sources == (source,)
    assert collect(client, transaction, local) == third
    assert downloads(sandbox) == count


def test_another_transaction_in_the_same_folder(client, sandbox, process, target):
    first = collect(client, process(3), target, page_count=3, key="first", skill_id="first")
    mine = ["notes.txt", "own/1/kept.json", "1x/kept.json", ".3.part"]
    for name in mine:
        target.child(name).write_text("mine")
    transaction = process(1, "NEW")
    renamed(sandbox, transaction, [["New.json", "New_fields.json"]])
    transaction = client.get_transaction(transaction.id)
    second = collect(client, transaction, target)
    assert second.transaction_id != first.transaction_id
    assert (second.pages, second.key, second.skill_id) == (None, None, None)
    assert [each.name for each in second.sources] == [f.name for f in transaction.source_files]
    assert {*content(target)} == {
        "manifest.json",
        "1/New.json",
        "1/New_fields.json",
        *mine,
    }
    assert TransactionManifest.load(target) == second
    assert not target.child("3").exists()
    assert not landed(first, target)


def test_the_manifest_of_another_transaction_goes_first(client, sandbox, process, local):
    first = process(1)
    collect(client, first, local)
    second = process(1, "NEW")
    sandbox.control.add_fault(operation=DOWNLOAD, status=404, times=0)
    with pytest.raises(errors.NotFound):
        collect(client, second, local)
    assert "manifest.json" not in content(local)
    sandbox.control.clear_faults()
    manifest = collect(client, second, local)
    assert landed(manifest, local)


# ------------------------------------------------------------------ trouble


def test_a_broken_download_is_begun_again(client, sandbox, process, target):
    transaction = process(2)
    sandbox.control.add_fault(operation=DOWNLOAD, truncate=100, times=2, after=1)
    manifest = collect(client, transaction, target)
    assert landed(manifest, target)
    for file in manifest.files:
        data = target.child(file.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
        json.loads(data)
    assert [fault["hits"] for fault in sandbox.control.faults()] == [2]


def test_a_large_download_that_breaks_off_is_not_mixed_with_the_next(
    client, sandbox, process, target
):
    """It breaks off after whole pieces of it were written, and the next one is shorter."""
    transaction = process(1)
    for size, sent in ((900_000, {"truncate": 600_000}), (299_998, {})):
        body = json.dumps(["x" * size])
        sandbox.control.add_fault(operation=DOWNLOAD, status=200, body=body, **sent)
    manifest = collect(client, transaction, target, result_types={"Json"})
    (file,) = manifest.files
    data = target.child(file.path).read_bytes()
    assert [fault["hits"] for fault in sandbox.control.faults()] == [1, 1]
    assert data == body.encode()
    assert (file.size, file.sha256) == (len(body), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(("documents", "notes"), [(1, 0), (3, 5)])
def test_few_small_files_are_not_noted_one_by_one(client, process, monkeypatch, documents, notes):
    written: list[str] = []
    write = Location.write

    def noted(self, fill):
        written.append(self.name)
        return write(self, fill)

    monkeypatch.setattr(Location, "write", noted)
    collect(client, process(documents), Location.of("bucket://out"), parallel=1)
    assert written.count("landed.json") == notes
    assert len(written) == 2 * documents + notes + 1


def test_notes_of_many_documents_do_not_grow_faster_than_they(client, local, monkeypatch):
    """10,000 documents took 40 minutes, since each file was noted together with all before it."""
    documents = [
        {"id": f"d{n}", "resultFiles": [{"fileId": f"{n}", "fileName": "a.txt", "type": "Text"}]}
        for n in range(800)
    ]
    given = {"id": "t1", "status": "Processed", "documents": documents}
    monkeypatch.setattr(client, "stream_result", lambda _, file, stream: stream.write(b"text"))
    notes = []
    write = LandedNote.write
    monkeypatch.setattr(
        LandedNote,
        "write",
        lambda self, folder: notes.append(len(self.files)) or write(self, folder),
    )
    manifest = collect(client, Transaction.read(given), local)
    assert [len(each.files) for each in manifest.documents] == [1] * 800
    assert 10 < len(notes) < 250
    assert max(b - a for a, b in itertools.pairwise(sorted(notes))) < 60


@pytest.mark.parametrize(("files", "large"), [(200, (100, 150, 198)), (3, (0, 1))])
def test_a_large_file_is_noted_at_once(client, local, monkeypatch, files, large):
    documents = [
        {"id": f"d{n}", "resultFiles": [{"fileId": f"{n}", "fileName": "a.txt", "type": "Text"}]}
        for n in range(files)
    ]
    given = {"id": "t1", "status": "Processed", "documents": documents}
    data = b"text" * 300_000

    def stream_result(_, file, stream):
        before = [n for n in large if n < int(file.id)]
        if before:  # If this try is killed now, the next fetches none of them again.
            noted = json.loads(local.child("landed.json").read_text())["files"]
            assert [each["size"] for each in noted].count(len(data)) == len(before)
        return stream.write(data if int(file.id) in large else b"text")

    monkeypatch.setattr(client, "stream_result", stream_result)
    manifest = collect(client, Transaction.read(given), local, parallel=1)
    assert len(manifest.documents) == files


def test_a_download_that_stays_broken_leaves_no_manifest(client, sandbox, process, target):
    transaction = process(2)
    sandbox.control.add_fault(operation=DOWNLOAD, truncate=100, times=0, after=2)
    with pytest.raises(ConnectionFailed) as caught:
        collect(client, transaction, target, parallel=2)
    assert caught.value.retryable
    there = content(target)
    noted = json.loads(there.pop("landed.json"))
    assert noted["transaction_id"] == transaction.id
    assert 0 < len(there) <= 2
    for file in noted["files"]:
        data = there[file["path"]]
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    for data in there.values():
        json.loads(data)
    before = downloads(sandbox)
    sandbox.control.clear_faults()
    manifest = collect(client, transaction, target)
    assert downloads(sandbox) - before == 4 - len(noted["files"])
    assert landed(manifest, target)
    assert set(content(target)) == {"manifest.json", *(file.path for file in manifest.files)}


def test_trouble_of_the_store_is_raised(client, sandbox, process):
    target = Location.of("bucket://out")
    stores.BucketFileSystem.failing["write"] = OSError("no room")
    with pytest.raises(OSError, match="no room"):
        collect(client, process(2), target)
    assert stores.BucketFileSystem.objects == {}


def test_errors_are_translated(client, sandbox, process, local, configure):
    transaction = process(1)
    sandbox.control.add_fault(operation=DOWNLOAD, status=404, times=0)
    other = VantageClient(
        configure(), retries=QUICK, translate=lambda error: RuntimeError(f"final: {error.what}")
    )
    with other, pytest.raises(RuntimeError, match=r"final: .*404"):
        collect(other, transaction, local)
    with other, pytest.raises(RuntimeError, match=r"final: .*Failed"):
        collect(other, dataclasses.replace(transaction, status="Failed"), local)


@pytest.mark.parametrize("status", ["New", "Processing", "Failed", "Canceled", "Unheard"])
def test_only_what_was_processed_is_collected(client, process, local, status):
    transaction = dataclasses.replace(process(1), status=status)
    with pytest.raises(ConfigurationError, match=status):
        collect(client, transaction, local)
    assert not local.exists()


@pytest.mark.parametrize(("days", "warned"), [(11.9, False), (12.1, True), (15, True)])
def test_results_that_the_service_deletes_soon(client, process, local, caplog, days, warned):
    created = pendulum.now("UTC").subtract(seconds=int(days * 86400))
    with caplog.at_level(logging.WARNING):
        collect(client, process(1), local, created_at=created)
    assert ("shortly before" in caplog.text) == warned


# -------------------------------------------------------------------- kill


COLLECTOR = """
import json, sys
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.options import Options
from vantage_orchestration.processing.collect import collect
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.storage import Location

fields, transaction_id, target = json.load(sys.stdin)
with VantageClient(VantageConfig.from_fields(fields)) as client:
    transaction = client.get_transaction(transaction_id)
    place = Location.of(target)
    part = Part(transaction.id, "", place.name, 0.0, ())
    collect(client, transaction, Output(place.parent), part, Options(parallel=2))
"""


@pytest.mark.parametrize("after", [0, 3])
def test_a_collector_killed_in_a_download(client, sandbox, process, tmp_path, after):
    transaction = process(3)
    whole = Location.of(tmp_path / "whole")
    manifest = collect(client, transaction, whole)
    killed = Location.of(tmp_path / "killed")
    sandbox.control.add_fault(
        operation=DOWNLOAD, chunk_size=64, chunk_delay=0.2, times=0, after=after
    )
    credentials = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
    fields = {"region": "custom", "base_url": sandbox.url, "store": "memory", **credentials}

    def slow_ones(found):
        """Return the parts when the quick downloads have landed, whose parts vanish at once."""
        parts = [path for path in found if path.endswith(".part")]
        return parts if sum(path[0].isdigit() for path in found.keys() - parts) >= after else []

    worker = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdin=subprocess.PIPE, text=True)
    try:
        json.dump([fields, transaction.id, killed.path], worker.stdin)
        worker.stdin.close()
        wait_while_running(worker, lambda: slow_ones(killed.sizes()), "a slow download to begin")
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait(30)
    left = content(killed)
    assert [path for path in left if path.endswith(".part")]
    assert "manifest.json" not in left
    assert not landed(manifest, killed)
    # Nothing but what has landed is noted, if the note was written before the kill.
    note = json.loads(left.pop("landed.json", b'{"files": []}'))
    assert {file["path"] for file in note["files"]} <= left.keys()
    for path, data in left.items():
        assert path.endswith(".part") or data == whole.child(path).read_bytes()
    sandbox.control.clear_faults()
    assert collect(client, transaction, killed) == manifest
    assert content(killed) == content(whole)


def test_a_killed_try_of_another_transaction_leaves_nothing(client, process, local):
    """A try that ended before its manifest has left files that nothing names."""
    first = collect(client, process(3), local)
    local.child("manifest.json").remove()
    local.child(".manifest.json.0123456789abcdef.part").write_text("{")
    local.child("2/.x.json.0123456789abcdef.part").write_text("{")
    second = collect(client, process(1, "NEW"), local)
    assert second.transaction_id != first.transaction_id
    assert set(content(local)) == {"manifest.json", *(file.path for file in second.files)}
    assert sorted(os.listdir(local.path)) == ["1", "manifest.json"]


def test_the_manifest_holds_no_secret(client, sandbox, process, local):
    transaction = process(1)
    collect(client, transaction, local)
    text = local.child("manifest.json").read_text()
    secrets = [*sandbox.control.issued_secrets(), sandbox.credentials["client_secret"]]
    assert len(secrets) > 1
    assert not [secret for secret in secrets if secret in text]
    assert sandbox.url not in text


@pytest.mark.parametrize("whole", [True, False])
def test_documents_that_change_their_order_are_not_mixed_up(client, sandbox, process, local, whole):
    """The service does not define their order, and their files may have the same names."""
    transaction = process(2)
    names = [[f"{file.type}.json" for file in each.result_files] for each in transaction.documents]
    renamed(sandbox, transaction, names)
    first = client.get_transaction(transaction.id)
    texts = {
        (document.id, file.type): client.read_result(transaction.id, file)
        for document in first.documents
        for file in document.result_files
    }
    if not whole:
        sandbox.control.add_fault(
            path_regex=first.documents[1].result_files[0].id, status=404, times=0
        )
        with pytest.raises(errors.NotFound):
            collect(client, first, local)
        sandbox.control.clear_faults()
    else:
        collect(client, first, local)
    assert len(set(texts.values())) == 4
    turned = dataclasses.replace(first, documents=first.documents[::-1])
    for document in collect(client, turned, local).documents:
        for file in document.files:
            assert local.child(file.path).read_bytes() == texts[document.document_id, file.type]
