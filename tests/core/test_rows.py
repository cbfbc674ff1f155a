# SPDX-License-Identifier: Apache-2.0
"""From documents to rows: a job that makes tables, judges documents and puts some aside."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stores
from jobs import begin, download, finish, submit_files, until_ended
from pdfs import make_invoice
from pypdf import PdfWriter

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError, LowQuality, TransactionFailed
from vantage_orchestration.options import Options
from vantage_orchestration.processing.files import check_quarantine, files_of
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.processing.outcome import (
    check_outcome,
    check_quality,
    outcome_of,
    result_of,
)
from vantage_orchestration.processing.summary import summary
from vantage_orchestration.storage import Location
from vantage_orchestration.tables.values import ValueFormat

PROCESS = "workspace.default.processing"


@pytest.fixture
def folder(tmp_path: Path, sandbox: Any) -> Path:
    sandbox.control.set(processing_polls=0)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2, 3):
        make_invoice(folder / f"{number}.pdf", f"INV-{number}", pages=number)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "out")


def run(
    client: VantageClient, folder: Path, output: Location, skill: str, **settings: Any
) -> Manifest:
    chosen = Options(**settings)
    files = Location.of(folder).files("*")
    job = begin(client, files, output, TaskKey("task"), skill, chosen, token="t.-1")
    until_ended(client, job.transaction_ids)
    return finish(client, output, skill, chosen, token="t.-1")


@pytest.fixture
def skill(sandbox: Any) -> str:
    return str(sandbox.control.skill_id("Invoice"))


def test_a_job_writes_tables_with_the_types_of_its_skill(
    client: VantageClient, skill: str, folder: Path, output: Location
) -> None:
    manifest = run(client, folder, output, skill, tables="parquet", date_format="%Y-%m-%d")
    names = {entry.name: entry for entry in manifest.written_tables}
    assert names["documents"].rows == 3
    assert names["documents"].columns["Total"] == "decimal128(38, 9)"
    opened = Manifest.open(output)
    rows = list(opened.rows())
    assert [row["Invoice Number"] for row in rows] == ["INV-1", "INV-2", "INV-3"]
    assert [row["source_name"] for row in rows] == ["1.pdf", "2.pdf", "3.pdf"]
    assert [row["pages"] for row in rows] == [1, 2, 3]
    assert all(isinstance(row["Total"], Decimal) for row in rows)
    items = list(opened.rows("documents.Items"))
    assert items
    assert all(isinstance(item["Amount"], Decimal) for item in items)
    assert opened.counts["pages"] == 6


def test_another_try_with_more_files_writes_the_tables_anew(
    client: VantageClient, skill: str, folder: Path, output: Location
) -> None:
    run(client, folder, output, skill, tables="csv")
    make_invoice(folder / "4.pdf", "INV-4")
    run(client, folder, output, skill, tables="parquet")
    assert len(list(Manifest.open(output).rows())) == 4
    kinds = {path.rpartition(".")[2] for path in output.child("tables").sizes()}
    assert kinds == {"parquet"}


def test_several_documents_of_a_transaction_know_their_files(
    client: VantageClient, folder: Path, output: Location
) -> None:
    manifest = run(client, folder, output, PROCESS, tables="parquet")
    assert len(manifest.transactions) == 1
    rows = list(Manifest.open(output).rows(skill="Invoice"))
    assert {row["Invoice Number"]: row["source_name"] for row in rows} == {
        "INV-1": "1.pdf",
        "INV-2": "2.pdf",
        "INV-3": "3.pdf",
    }
    assert {row["skill"] for row in rows} == {"Invoice"}
    assert result_of(manifest, None)["by_class"] == {"Invoice": 3}
    assert result_of(manifest, None)["pages_by_class"] == {"Invoice": 6}
    names = {each.id: each.name for each in client.list_skills()}
    assert result_of(manifest, None)["pages_by_skill"] == {names[PROCESS]: 6}
    ids = [entry.transaction_id for entry in manifest.transactions]
    fetched = download(client, ids, output.child("again"), Options())
    assert fetched.pages_by_skill == {names[PROCESS]: 6}


LOW = {"min_confidence": {"Invoice Number": 97}, "required_fields": ["No such field"]}


def test_documents_that_are_not_good_enough_fail_the_task_when_all_has_landed(
    client: VantageClient, skill: str, folder: Path, output: Location
) -> None:
    options = Options(**LOW)  # type: ignore[arg-type]
    manifest = run(client, folder, output, skill, **LOW)
    assert manifest.counts["files"] == 6
    assert manifest.counts["low_quality"] == 3
    with pytest.raises(LowQuality, match=r"3 of 3 documents.*1\.pdf': Invoice Number: The conf"):
        check_quality(manifest, "manifest.json", options)


def test_a_misspelt_field_of_min_confidence_is_reported(
    client: VantageClient, skill: str, folder: Path, output: Location, caplog: Any
) -> None:
    limits = {"Totl": 50, "Items.Amount": 50, "Invoice Number": 50}
    run(client, folder, output, skill, min_confidence=limits)
    assert "that no document has, so they were not checked: 'Totl'\n" in caplog.text


def test_documents_that_are_not_good_enough_can_be_flagged(
    client: VantageClient, skill: str, folder: Path, output: Location
) -> None:
    settings = {**LOW, "on_low_quality": "flag", "tables": "parquet"}
    manifest = run(client, folder, output, skill, **settings)
    check_quality(manifest, "manifest.json", Options(**settings))  # type: ignore[arg-type]
    opened = Manifest.open(output)
    assert [row["findings"] for row in opened.rows()] == [2, 2, 2]
    first = next(iter(opened.rows("findings")))
    assert (first["source_name"], first["field"]) == ("1.pdf", "Invoice Number")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_documents_in_quarantine_are_copied_and_left_out_of_the_tables(
    client: VantageClient, skill: str, folder: Path, output: Location, tmp_path: Path, form: str
) -> None:
    aside = tmp_path / "aside"
    make_invoice(folder / "2.pdf", "INV-2", total="1.00")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 this is no PDF")
    settings = {
        "fail_on_rule_errors": True,
        "on_low_quality": "quarantine",
        "on_failed": "return",
        "quarantine_path": str(aside),
        "tables": form,
    }
    for _ in range(2):  # A second try writes the same.
        manifest = run(client, folder, output, skill, **settings)
        check_outcome(outcome_of(manifest), on_failed="return")
        check_quality(manifest, "manifest.json", Options(**settings))  # type: ignore[arg-type]
        opened = Manifest.open(output)
        for values in (None, ValueFormat(day_first=True)):
            rows = opened.rows(values=values)
            assert [row["source_name"] for row in rows] == ["1.pdf", "3.pdf"]
        assert [row["source_name"] for row in opened.rows("findings")] == ["2.pdf"]
        copies = sorted(path.name.rpartition("-")[0] for path in aside.glob("*.pdf"))
        assert copies == ["2", "broken"]
        notes = [json.loads(path.read_text()) for path in sorted(aside.glob("*.json"))]
        assert "A business rule is broken" in notes[0]["findings"][0]["reason"]
        assert notes[1]["status"] == "Failed"
        assert notes[1]["error"]
    assert manifest.counts["quarantined"] == 2
    with pytest.raises(TransactionFailed):
        check_outcome(outcome_of(manifest))


def test_copies_in_quarantine_are_not_sent_by_the_next_run(
    client: VantageClient, skill: str, folder: Path, output: Location
) -> None:
    settings = {"required_fields": ["Nothing"], "on_low_quality": "quarantine"}
    run(client, folder, output, skill, quarantine_path=str(folder / "aside"), **settings)
    assert len(list((folder / "aside").glob("*.pdf"))) == 3
    assert [file.name for file in files_of(f"{folder}/**/*.pdf")] == ["1.pdf", "2.pdf", "3.pdf"]


@pytest.mark.parametrize("gone", ["removed", "changed"])
def test_a_file_that_has_gone_from_home_is_copied_from_the_service(
    client: VantageClient, skill: str, folder: Path, output: Location, tmp_path: Path, gone: str
) -> None:
    sent = (folder / "1.pdf").read_bytes()
    chosen = Options(
        required_fields=("Nothing",), on_low_quality="quarantine", quarantine_path=tmp_path / "q"
    )
    files = Location.of(folder).files("1.pdf")
    job = begin(client, files, output, TaskKey("task"), skill, chosen, token="t.-1")
    until_ended(client, job.transaction_ids)
    if gone == "removed":
        (folder / "1.pdf").unlink()
    else:
        (folder / "1.pdf").write_bytes(b"another file")
    finish(client, output, skill, chosen, token="t.-1")
    (copy,) = (tmp_path / "q").glob("*.pdf")
    assert copy.read_bytes() == sent


def test_a_file_whose_store_can_not_be_read_any_more_is_copied_from_the_service(
    client: VantageClient, skill: str, folder: Path, output: Location, tmp_path: Path
) -> None:
    """Its URL in the manifest has lost the connection that it was read with, for example."""
    stores.forget()
    source = Location.of("bucket://in/1.pdf")
    source.write(lambda stream: stream.write((folder / "1.pdf").read_bytes()))
    chosen = Options(
        required_fields=("Nothing",), on_low_quality="quarantine", quarantine_path=tmp_path / "q"
    )
    job = begin(client, [source], output, TaskKey("task"), skill, chosen, token="t.-1")
    until_ended(client, job.transaction_ids)
    stores.BucketFileSystem.failing["read"] = RuntimeError("no credentials")
    finish(client, output, skill, chosen, token="t.-1")
    stores.forget()
    (copy,) = (tmp_path / "q").glob("*.pdf")
    assert copy.read_bytes() == (folder / "1.pdf").read_bytes()


def test_what_failed_is_named_and_put_aside_where_only_its_id_is_known(
    client: VantageClient, sandbox: Any, skill: str, output: Location, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 this is no PDF")
    (sent,) = submit_files(client, [Location.of(broken)], TaskKey("t"), skill, Options())
    until_ended(client, [sent.transaction_id])
    aside = tmp_path / "aside"
    chosen = Options(quarantine_path=aside, on_failed="return")
    manifest = download(client, [sent.transaction_id], output, chosen)
    assert [source.name for source in manifest.failed[0].sources] == ["broken.pdf"]
    assert "1 failed: 'broken.pdf' (" in summary(manifest, "out")
    (note,) = aside.glob("broken-*.json")
    assert json.loads(note.read_text())["error"] == manifest.failed[0].error


def test_too_many_pages_are_refused_before_anything_is_sent(
    client: VantageClient, sandbox: Any, skill: str, folder: Path, output: Location
) -> None:
    with pytest.raises(ConfigurationError, match="3 files have 6 pages, more than the 5"):
        run(client, folder, output, skill, max_pages=5)
    files = Location.of(folder).files("*")
    with pytest.raises(ConfigurationError, match="more than the 5"):
        submit_files(client, files, TaskKey("s"), skill, Options(max_pages=5))
    assert sandbox.control.transactions() == []
    run(client, folder, output, skill, max_pages=6)
    make_invoice(folder / "4.pdf", "INV-4")
    with pytest.raises(ConfigurationError, match="1 files have 1 pages and 6 of earlier tries"):
        run(client, folder, output, skill, max_pages=6)
    assert len(sandbox.control.transactions()) == 3


def test_pages_that_can_not_be_counted_are_told_and_count_as_one(
    client: VantageClient, skill: str, folder: Path, output: Location, caplog: Any
) -> None:
    writer = PdfWriter(clone_from=folder / "3.pdf")
    writer.encrypt("a password", algorithm="AES-256")
    writer.write(folder / "3.pdf")
    (folder / "2.pdf").write_bytes((folder / "2.pdf").read_bytes()[:200])
    (folder / "scan.tiff").write_bytes(b"II*\0 a scan")
    files = Location.of(folder).files("*")
    with pytest.raises(ConfigurationError, match="4 files have 4 pages"):
        begin(client, files, output, TaskKey("t"), skill, Options(max_pages=3), token="t.-1")
    assert "The pages of '2.pdf', '3.pdf' can't be counted" in caplog.text
    begin(client, files, output, TaskKey("t"), skill, Options(max_pages=4), token="t.-1")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("in", "holds the input"),
        ("in/", "holds the input"),
        (".", "holds the input"),
        ("link", "holds the input"),
        ("out", "is the output folder"),
        ("out/aside", "is the output folder .* or lies in it"),
        ("in/1.pdf", "is a file"),
        ("in/below", None),
        ("in2", None),
    ],
)
def test_a_quarantine_in_the_way_of_others_is_refused(
    client: VantageClient,
    sandbox: Any,
    skill: str,
    folder: Path,
    output: Location,
    place: str,
    problem: str | None,
) -> None:
    (folder.parent / "link").symlink_to(folder)
    chosen = Options(quarantine_path=f"{folder.parent}/{place}")
    files = Location.of(folder).files("**/*.pdf")
    if problem is None:
        begin(client, files, output, TaskKey("t"), skill, chosen, token="t.-1")
        return
    with pytest.raises(ConfigurationError, match=problem):
        begin(client, files, output, TaskKey("t"), skill, chosen, token="t.-1")
    assert sandbox.control.transactions() == []


def test_what_is_fetched_or_lies_in_a_store_has_no_quarantine_in_the_output(
    client: VantageClient,
) -> None:
    chosen = Options(quarantine_path="memory://results/out/aside")
    with pytest.raises(ConfigurationError, match="lies in it"):
        download(client, [], Location.of("memory://results/out"), chosen)
    check_quarantine("memory://results/out2", Location.of("memory://results/out"))


def test_results_that_are_downloaded_get_tables_too(
    client: VantageClient, skill: str, folder: Path, output: Location, tmp_path: Path
) -> None:
    manifest = run(client, folder, output, skill)
    ids = [entry.transaction_id for entry in manifest.transactions]
    other = Location.of(tmp_path / "other")
    download(client, ids, other, Options(tables="jsonl"))
    assert len(list(Manifest.open(other).rows())) == 3
    assert other.child("tables", "Invoice", "documents.jsonl").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"min_confidence": 50, "result_types": ["FieldsJson"]},
        {"tables": "parquet", "result_types": ["Pdf"]},
        {"required_fields": ["Total"], "result_types": ["Text"]},
        {"tables": "xlsx"},
        {"min_confidence": "90"},
        {"required_fields": [""]},
        {"decimal": ";"},
        {"date_format": "DD.MM.YYYY"},
        {"on_low_quality": "ignore"},
        {"on_failed": "go on"},
        {"max_pages": 0},
        {"day_first": "yes"},
    ],
)
def test_options_that_contradict_or_are_misspelt_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigurationError):
        Options(**settings)
