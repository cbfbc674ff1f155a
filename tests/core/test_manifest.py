# SPDX-License-Identifier: Apache-2.0
"""What a manifest says, and what is refused as one."""

from __future__ import annotations

import json
from dataclasses import replace

import pendulum
import pytest
import stores
from jobs import plan

from vantage_orchestration.errors import StateDamaged, StateUnavailable
from vantage_orchestration.models import Classification
from vantage_orchestration.processing.collect import LandedNote
from vantage_orchestration.processing.job import Job
from vantage_orchestration.processing.ledger import Change, LedgerEntry
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    FileEntry,
    Manifest,
    SourceEntry,
    TransactionManifest,
    UnfinishedEntry,
    class_of,
)
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.storage import Location
from vantage_orchestration.upload import SourceFile


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


TRANSACTION = TransactionManifest(
    "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f",
    "Receipt",
    "Processed",
    pendulum.datetime(2026, 3, 1, 12, 30, 0, 250_000, tz="Europe/Amsterdam"),
    3,
    (SourceEntry("Grüße.pdf", "Grüße.pdf", "s3://in/Grüße.pdf", 7, "ab" * 32, ("/a", "/b")),),
    (
        DocumentEntry(
            "d1",
            {"id": "c1", "name": "Receipt", "confidence": 97, "is_confident": True},
            ({"type": "Condition", "message": "Total is off", "rule_id": None, "field_id": "f"},),
            (
                FileEntry("Receipt.json", "1/Receipt.json", "Json", 12, "cd" * 32),
                FileEntry("\ud83d.json", "1/_.json", "FieldsJson", 0, "ef" * 32),
            ),
        ),
        DocumentEntry("d2", None, (), ()),
    ),
    key="0123",
)

EXPECTED = {
    "version": 1,
    "transaction_id": "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f",
    "key": "0123",
    "skill_id": "Receipt",
    "status": "Processed",
    "created_at": "2026-03-01T11:30:00.250000Z",
    "expires_at": "2026-03-15T11:30:00.250000Z",
    "pages": 3,
    "sources": [
        {
            "name": "Grüße.pdf",
            "stored_name": "Grüße.pdf",
            "path": "s3://in/Grüße.pdf",
            "size": 7,
            "sha256": "ab" * 32,
            "duplicates": ["/a", "/b"],
        }
    ],
    "documents": [
        {
            "document_id": "d1",
            "class": {"id": "c1", "name": "Receipt", "confidence": 97, "is_confident": True},
            "rule_errors": [
                {"type": "Condition", "message": "Total is off", "rule_id": None, "field_id": "f"}
            ],
            "files": [
                {
                    "name": "Receipt.json",
                    "path": "1/Receipt.json",
                    "type": "Json",
                    "size": 12,
                    "sha256": "cd" * 32,
                },
                {
                    "name": "\ud83d.json",
                    "path": "1/_.json",
                    "type": "FieldsJson",
                    "size": 0,
                    "sha256": "ef" * 32,
                },
            ],
        },
        {"document_id": "d2", "class": None, "rule_errors": [], "files": []},
    ],
}


@pytest.mark.parametrize("kind", ["local", "memory", "bucket"])
def test_a_manifest_is_written_and_read_back(kind, tmp_path):
    folder = Location.of(tmp_path if kind == "local" else f"{kind}://out")
    assert TransactionManifest.load(folder) is None
    written = TRANSACTION.write(folder)
    assert written.path == folder.child("manifest.json").path
    assert json.loads(written.read_text()) == EXPECTED
    assert "Grüße" in written.read_text()
    again = TransactionManifest.load(folder)
    assert again == TRANSACTION
    assert again.expires_at == TRANSACTION.created_at.add(days=14)
    before = written.read_bytes()
    again.write(folder)
    assert written.read_bytes() == before
    unknown = replace(TRANSACTION, skill_id=None, created_at=None, pages=None)
    unknown.write(folder)
    assert TransactionManifest.load(folder) == unknown
    assert json.loads(written.read_text())["expires_at"] is None


def changed(**members: object) -> dict[str, object]:
    return {**EXPECTED, **members}


def with_file(**members: object) -> dict[str, object]:
    file = {**EXPECTED["documents"][0]["files"][0], **members}
    return changed(documents=[{**EXPECTED["documents"][0], "files": [file]}])


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "text",
        {},
        changed(version=2),
        changed(transaction_id=None),
        changed(transaction_id=7),
        changed(documents=None),
        changed(documents=[7]),
        changed(sources=[{}]),
        changed(created_at="yesterday"),
        changed(created_at="P1D"),
        *(
            with_file(path=path)
            for path in (
                "../1/a.json",
                "/etc/passwd",
                "1/../../a",
                "1/..",
                "1/.",
                "1/",
                "a/b.json",
                "0/b.json",
                "1\\b.json",
                "1/b\\..\\c",
                "1/a\0b",
                "a.json",
                7,
                None,
            )
        ),
        with_file(size=-1),
        with_file(size="12"),
        with_file(unknown=1),
    ],
)
def test_anything_else_is_no_manifest(data, tmp_path):
    with pytest.raises(ValueError, match="manifest"):
        TransactionManifest.read(data)
    folder = Location.of(tmp_path)
    folder.child("manifest.json").write_text(json.dumps(data))
    with pytest.raises(StateDamaged, match=r"manifest\.json was not written by this version"):
        TransactionManifest.load(folder)


def test_half_a_manifest_is_refused(tmp_path):
    folder = Location.of(tmp_path)
    written = [text.encode() for text in ("", "{", "[" * 100_000, '{"version": 1}', "\x00")]
    for data in (*written, b"\xff\xfe"):
        folder.child("manifest.json").write(lambda stream, data=data: stream.write(data))
        for kind in (TransactionManifest, Manifest):
            with pytest.raises(StateDamaged) as caught:
                kind.load(folder)
            assert not caught.value.retryable
            # The error of the parser holds the whole content.
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
        assert folder.child("manifest.json").read_bytes() == data


def test_the_version_of_what_is_refused_is_named(tmp_path):
    folder = Location.of(tmp_path)
    folder.child("manifest.json").write_text(json.dumps(changed(version=2)))
    with pytest.raises(StateDamaged, match="its version is 2; 1 is expected"):
        TransactionManifest.load(folder)


def test_a_manifest_that_cannot_be_read_now_is_not_missing():
    folder = Location.of("bucket://out")
    TRANSACTION.write(folder)
    for operation, error in (
        ("info", PermissionError("denied")),
        ("read", TimeoutError("too slow")),
        ("read", RuntimeError("500 of a store that has errors of its own")),
    ):
        stores.BucketFileSystem.failing[operation] = error
        with pytest.raises(StateUnavailable, match=type(error).__name__) as caught:
            TransactionManifest.load(folder)
        assert caught.value.retryable
        stores.BucketFileSystem.failing.clear()
    assert TransactionManifest.load(folder) == TRANSACTION


def test_a_listing_from_before_is_not_believed():
    """A store remembers a listing in which the file was missing."""
    folder = Location.of("bucket://out")
    folder.child("other").write_text("")
    folder.fs.ls("out")
    other = Location.of("memory://out")
    data = TRANSACTION.write(other).read_bytes()
    stores.BucketFileSystem.objects["out/manifest.json"] = data
    assert TransactionManifest.load(folder) == TRANSACTION


def test_a_file_entry_may_be_named_like_anything_safe():
    assert TransactionManifest.read(with_file(path="17/..a b..json")).files[0].path


def test_the_manifest_of_a_job(tmp_path):
    (unit,) = plan(
        [SourceFile.of(b"a", name="a.pdf"), SourceFile.of(b"a", name="b.pdf")], process_skill=True
    )
    sources = unit.sources
    manifest = Manifest(
        "Receipt",
        "job-1",
        (
            replace(TRANSACTION, folder="Grüße.pdf"),
            replace(TRANSACTION, transaction_id="t2", folder="b.pdf", pages=None),
        ),
        (
            UnfinishedEntry("t3", "Processing", in_review=True, sources=sources),
            UnfinishedEntry("t4", "New"),
        ),
        (
            UnfinishedEntry(
                "t5", "Failed", error="See https://example.com/x?token=made-up-secret", sources=()
            ),
        ),
    )
    folder = Location.of(tmp_path / "out")
    text = manifest.write(folder).read_text()
    data = json.loads(text)
    assert data["counts"] == {
        "transactions": 2,
        "documents": 4,
        "files": 4,
        "pages": 3,
        "rule_errors": 2,
        "duplicates": 5,
        "pending": 2,
        "in_review": 1,
        "failed": 1,
        "low_quality": 0,
        "quarantined": 0,
    }
    assert [entry["folder"] for entry in data["transactions"]] == ["Grüße.pdf", "b.pdf"]
    assert data["transactions"][0] == {"folder": "Grüße.pdf", **EXPECTED}
    assert data["pending"][0] == {
        "transaction_id": "t3",
        "status": "Processing",
        "in_review": True,
        "error": None,
        "sources": [
            {
                "name": "a.pdf",
                "stored_name": "a.pdf",
                "path": "a.pdf",
                "size": 1,
                "sha256": unit.sources[0].sha256,
                "duplicates": ["b.pdf"],
            }
        ],
    }
    assert data["failed"][0]["error"] == "See https://example.com/x"
    again = Manifest.load(folder)
    assert replace(again, failed=()) == replace(manifest, failed=())
    assert again.write(folder).read_text() == text
    with pytest.raises(StateDamaged):  # It is another kind.
        TransactionManifest.load(folder)
    with pytest.raises(ValueError, match="manifest"):
        Manifest.read(EXPECTED)
    # A word of the service that this version does not know may be anything.
    strange = Manifest(None, pending=(UnfinishedEntry("t1", " \u2066"), UnfinishedEntry("t2", "")))
    empty = Manifest("Receipt")
    for each in (empty, strange):
        assert Manifest.read(json.loads(json.dumps(each.to_json()))) == each
    assert set(empty.counts.values()) == {0}


@pytest.mark.parametrize(
    ("result_class", "confidences", "expected"),
    [
        (
            {"id": "c1", "name": "A"},
            [("c0", "A", 5), ("c1", "A", 90)],
            {"id": "c1", "name": "A", "confidence": 90},
        ),
        ("A", [("c0", "B", 5), ("c1", "A", 80)], {"id": None, "name": "A", "confidence": 80}),
        ({"id": "c1"}, [("c1", "A", 70)], {"id": "c1", "name": None, "confidence": 70}),
        ({"id": None, "name": None}, [], {"id": None, "name": None, "confidence": None}),
        (
            {"id": "c2", "name": "A"},
            [("c1", "A", 1)],
            {"id": "c2", "name": "A", "confidence": None},
        ),
    ],
)
def test_the_confidence_is_that_of_the_class(result_class, confidences, expected):
    found = Classification.read(
        {
            "isResultClassConfident": True,
            "resultClass": result_class,
            "classConfidences": [
                {"classId": key, "className": name, "confidence": value}
                for key, name, value in confidences
            ],
        }
    )
    assert class_of(found) == {**expected, "is_confident": True}
    assert class_of(None) is None


SENT = TRANSACTION.sources[0]
FILE = TRANSACTION.files[0]
#: What other tries of a task read, as it has always been written.
SUBMITTED = {
    "version": 1,
    "job": "t.1",
    "skill": "Receipt",
    "transactions": [
        {
            "transaction_id": "t1",
            "key": "k1",
            "folder": "a.pdf",
            "created": 12.5,
            "sources": EXPECTED["sources"],
            "landed": True,
            "earlier": True,
        }
    ],
}
LANDED = {
    "transaction_id": "t1",
    "documents": ["d1", "d2"],
    "files": EXPECTED["documents"][0]["files"][:1],
    "folders": ["Invoice/a.pdf"],
}
CHANGE = {
    "version": 1,
    "added": {"k1": ["t1", 1234, "0123456789abcdeffedcba9876543210", "o"]},
    "dropped": ["t0"],
    "undone": True,
    "ledgers": ["l"],
}


def test_notes_of_a_try_keep_their_form(tmp_path):
    """A task may be retried after an update of the package, and by a worker that has none yet."""
    folder = Location.of(tmp_path)
    job = Job("t.1", (Part("t1", "k1", "a.pdf", 12.5, (SENT,), True, True),), "Receipt")
    assert json.loads(job.write(folder).read_text()) == SUBMITTED
    note = LandedNote("t1", ("d1", "d2"), (FILE,), ("Invoice/a.pdf",))
    assert json.loads(note.write(folder).read_text()) == LANDED
    entry = LedgerEntry("t1", 1234.0, ("0123456789abcdef", "fedcba9876543210"), "o")
    change = Change({"k1": entry}, ("t0",), undone=True, ledgers=("l",))
    assert change.to_json() == CHANGE
    for name, data in (("submitted.json", SUBMITTED), ("landed.json", LANDED)):
        folder.child(name).write_text(json.dumps(data))
    assert Job.load(folder) == job
    assert LandedNote.load(folder) == note
    assert Change.read(json.loads(json.dumps(CHANGE))) == change


@pytest.mark.parametrize(
    "data",
    [
        {**SUBMITTED, "version": 2},
        {name: value for name, value in SUBMITTED.items() if name != "transactions"},
        {**SUBMITTED, "transactions": [{**SUBMITTED["transactions"][0], "transaction_id": ""}]},
        {**SUBMITTED, "transactions": [{**SUBMITTED["transactions"][0], "folder": 7}]},
        {**SUBMITTED, "transactions": {"t1": {}}},
    ],
)
def test_anything_else_is_no_job(data, tmp_path):
    folder = Location.of(tmp_path)
    folder.child("submitted.json").write_text(json.dumps(data))
    with pytest.raises(StateDamaged, match=r"submitted\.json was not written by this version"):
        Job.load(folder)
