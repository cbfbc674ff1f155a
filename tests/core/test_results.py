# SPDX-License-Identifier: Apache-2.0
"""The results of a job, as a task of one's own reads them and as dlt loads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from postgres import Postgres
from result_files import FULL, INVOICE, Results, declared, group, has, json_of

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.models import Skill
from vantage_orchestration.processing.manifest import FindingEntry, Manifest, UnfinishedEntry
from vantage_orchestration.results import fields_of_json
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import write_tables

PROCESS = Skill.read({"id": "p", "name": "All", "type": "Process", "skills": [{"id": INVOICE.id}]})


def manifest_of(results: Results, *, written: str | None = None, **more: Any) -> Path:
    entries: Any = ()
    if written is not None:
        with results.tables() as tables:
            entries = write_tables(tables, results.output, written)  # type: ignore[arg-type]
    manifest = Manifest(
        "s1",
        transactions=tuple(results.transactions),
        skills=results.skills,
        written_tables=entries,
        **more,
    )
    return Path(manifest.write(results.output).path)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path / "out")
    made.add(Json=FULL)
    made.add("t2", Json=json_of(has("Extra", "e"), has("Date", "03/04/2026")))
    return made


@pytest.mark.parametrize("written", [None, "parquet", "csv"])
@pytest.mark.parametrize("by", ["folder", "file", "url"])
def test_results_are_opened_by_any_name_and_typed(
    results: Results, written: str | None, by: str
) -> None:
    path = manifest_of(results, written=written)
    place = {"folder": path.parent, "file": path, "url": path.as_uri()}[by]
    manifest = Manifest.open(place)
    first, second = manifest.rows()
    assert (first["Date"], first["Total"]) == (date(2026, 4, 3), Decimal("1234.5"))
    assert (second["Extra"], second["Date"], second["Date_text"]) == ("e", None, "03/04/2026")
    assert [row["Text"] for row in manifest.rows("documents.Items")] == ["Bolt", "Nut"]
    assert list(manifest.rows("documents.Nothing")) == []
    tables = manifest.tables()
    assert tables["fields"].num_rows == 15
    (_, second) = manifest.rows(values=ValueFormat(day_first=True))
    assert second["Date"] == date(2026, 4, 3)


def test_results_are_read_with_the_options_of_their_job(results: Results) -> None:
    path = manifest_of(results, written="csv", table_options={"day_first": True, "date_format": ()})
    (_, second) = Manifest.open(path).rows()
    assert second["Date"] == date(2026, 4, 3)
    (_, second) = Manifest.open(path).rows(values=ValueFormat())
    assert second["Date"] is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no manifest\.json in .*nowhere"):
        Manifest.open(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"Manifest\.open"):
        Manifest("s1").tables()


def test_failed_and_waiting_transactions_are_at_hand(results: Results) -> None:
    failed = UnfinishedEntry("t8", "Failed", error="The format is unknown")
    waiting = UnfinishedEntry("t9", "Processing", in_review=True)
    running = UnfinishedEntry("t10", "Processing")
    path = manifest_of(results, failed=(failed,), pending=(waiting, running))
    manifest = Manifest.open(path)
    assert manifest.failed == (failed,)
    assert manifest.in_review == (waiting,)


def test_several_skills_are_told_apart(tmp_path: Path) -> None:
    results = Results(tmp_path, PROCESS, INVOICE)
    results.add(Json=FULL)
    results.add("t2", Json=json_of(has("X", "1"), concept="Letter"))
    manifest = Manifest.open(manifest_of(results))
    with pytest.raises(ConfigurationError, match=r"several skills.*'Invoice', 'Letter'"):
        manifest.tables()
    with pytest.raises(ConfigurationError, match="'Receipt'"):
        list(manifest.rows(skill="Receipt"))
    assert [row["X"] for row in manifest.rows(skill="Letter")] == ["1"]
    assert Manifest.open(manifest_of(results, written="parquet")).tables("Invoice")


def test_a_manifest_that_others_have_written_is_read_back_with_its_skills(results: Results) -> None:
    path = manifest_of(results, written="parquet")
    manifest = Manifest.open(path)
    assert manifest.skills == (INVOICE,)
    data = json.loads(path.read_text())
    (entry,) = (each for each in data["tables"] if each["name"] == "documents.Items")
    assert entry["path"] == "tables/Invoice/documents.Items.parquet"
    assert entry["rows"] == 2
    assert entry["columns"]["Amount"] == "decimal128(38, 9)"


# ------------------------------------------------------------------- loading

Pipeline = Callable[[], Any]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    server = Postgres()
    try:
        server.start()
        # dlt wants a password; the server asks for none.
        yield f"postgresql://postgres:unused@127.0.0.1:{server.port}/postgres"
    finally:
        server.stop()


@pytest.fixture(params=["duckdb", "postgres"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    import dlt

    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.chdir(tmp_path)
    if request.param == "duckdb":
        destination: Any = dlt.destinations.duckdb(str(tmp_path / "results.duckdb"))
    else:
        destination = dlt.destinations.postgres(request.getfixturevalue("postgres"))
    return lambda: dlt.pipeline(
        "invoices", destination=destination, dataset_name=f"d_{tmp_path.name}"
    )


def load(pipeline: Pipeline, place: Path, sql: str, **arguments: Any) -> list[Any]:
    from vantage_orchestration.dlt import documents

    loader = pipeline()
    loader.run(documents(place, **arguments)).raise_on_failed_jobs()
    with loader.sql_client() as client:
        return [tuple(row) for row in client.execute_sql(sql) or ()]


ALL = "select number, date, total, vendor_name from invoice_documents order by transaction_id"
ITEMS = "select position, text, amount from invoice_documents_items order by position"


def test_a_field_whose_type_has_changed_gets_another_column(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    sql = "select number, total, {} from invoice_documents order by number"
    expected: list[Any] = []
    steps = [("Amount", "1.5", None), ("Text", "n/a", "total__v_text"), ("Amount", "2.5", None)]
    for number, (text_format, total, column) in enumerate(steps):
        fields = [declared("Number"), declared("Total", text_format)]
        skill = Skill.read({"id": "s1", "name": "Invoice", "type": "Document", "fields": fields})
        results = Results(tmp_path / str(number), skill)
        results.add(f"t{number}", Json=json_of(has("Number", str(number)), has("Total", total)))
        other = sql.format("total__v_text" if expected else "null")
        value = (None, total) if column else (Decimal(total), None)
        expected.append((str(number), *value))
        assert load(pipeline, manifest_of(results), other) == expected


def test_what_a_database_can_not_hold_does_not_stop_a_load(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """PostgreSQL shortens names to 63 characters, and has no null character in a text."""
    name = "Amount of everything that was ever ordered, " * 2
    for number, (text_format, text) in enumerate([("Amount", "1.5"), ("Text", "a\0b")]):
        fields = [declared("Number"), declared(name, text_format)]
        skill = Skill.read({"id": "s1", "name": "Invoice", "type": "Document", "fields": fields})
        results = Results(tmp_path / str(number), skill)
        results.add(f"t{number}", Json=json_of(has("Number", str(number)), has(name, text)))
        rows = load(pipeline, manifest_of(results), "select * from invoice_documents order by 2")
    assert Decimal("1.5") in rows[0]
    assert "a\ufffdb" in rows[1]


@pytest.mark.parametrize("written", [None, "parquet"])
def test_loading_twice_changes_nothing(
    pipeline: Pipeline, results: Results, written: str | None
) -> None:
    path = manifest_of(results, written=written)
    first = load(pipeline, path, ALL)
    assert first == [
        ("INV-1", date(2026, 4, 3), Decimal("1234.5"), "Example Ltd"),
        (None, None, None, None),
    ]
    items = load(pipeline, path, ITEMS)
    assert items == [(1, "Bolt", Decimal(40)), (2, "Nut", Decimal("0.5"))]
    assert load(pipeline, path, ALL) == first
    assert load(pipeline, path, "select count(*) from invoice_fields") == [(15,)]


def test_a_document_with_fewer_rows_than_before_keeps_no_old_ones(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    before, after = Results(tmp_path / "a"), Results(tmp_path / "b")
    before.add(Json=FULL)
    after.add(Json=json_of(has("Number", "INV-1b")))
    after.add("t2", Json=FULL)
    load(pipeline, manifest_of(before), ALL)
    sql = "select transaction_id, number from invoice_documents order by 1"
    assert load(pipeline, manifest_of(after), sql) == [("t1", "INV-1b"), ("t2", "INV-1")]
    sql = "select transaction_id, position from invoice_documents_items order by 1, 2"
    assert load(pipeline, manifest_of(after), sql) == [("t2", 1), ("t2", 2)]


def test_a_document_that_goes_to_quarantine_keeps_only_its_findings(
    pipeline: Pipeline, results: Results
) -> None:
    results.add("t3", Json=json_of(has("Undeclared", group(has("Text", "a")))))
    sql = "select transaction_id from invoice_documents order by 1"
    assert load(pipeline, manifest_of(results), sql) == [("t1",), ("t2",), ("t3",)]
    reason = "The confidence is 72, below 80"
    found = tuple(FindingEntry(each, 1, "Total", reason) for each in ("t1", "t3"))
    options = {"on_low_quality": "quarantine"}
    path = manifest_of(results, findings=found, table_options=options)
    assert load(pipeline, path, sql) == [("t2",)]
    tables = {
        "documents_items": [],
        "documents_undeclared": [],
        "fields": ["t2"],
        "findings": ["t1", "t3"],
    }
    for table, ids in tables.items():
        sql = f"select distinct transaction_id from invoice_{table} order by 1"
        assert load(pipeline, path, sql) == [(each,) for each in ids]


def test_names_that_a_database_would_take_for_one_are_kept_apart(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    ours = "abbyy_vantage_removed"
    fields = ("金額", "税額", "InvoiceNumber", "Invoice Number", "Größe", "__", ours)
    declare = [declared(each) for each in fields]
    declare += [declared(each, repeatable=True) for each in ("é", "è", "明細")]
    skill = Skill.read({"id": "s1", "name": "請求", "type": "Document", "fields": declare})
    results = Results(tmp_path / "out", skill)
    lists = [has(each, f"{each} 1", f"{each} 2") for each in ("é", "è", "明細")]
    results.add(Json=json_of(*[has(each, each) for each in fields], *lists))
    columns = f"u91d1_u984d, u7a0e_u984d, invoice_number, invoice_number_2, grosse, field, {ours}_2"
    sql = f"select {columns} from u8acb_u6c42_documents"
    assert load(pipeline, manifest_of(results), sql) == [fields]
    for name, table in (("é", "e"), ("è", "e_2"), ("明細", "u660e_u7d30")):
        sql = f"select value from u8acb_u6c42_documents_{table} order by position"
        assert load(pipeline, manifest_of(results), sql) == [(f"{name} 1",), (f"{name} 2",)]


def test_a_destination_that_would_double_rows_is_refused(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlt
    from dlt.pipeline.exceptions import PipelineStepFailed

    from vantage_orchestration.dlt import documents

    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    written: list[Any] = []
    lake = dlt.destinations.filesystem(str(tmp_path / "lake"))
    function = dlt.destination(lambda items, table: written.append(items), name="function")
    for place in (lake, function):
        with pytest.raises(PipelineStepFailed, match="second load would double them"):
            dlt.pipeline("lake", destination=place).run(documents(manifest_of(results)))
    assert list((tmp_path / "lake").glob("**/*.parquet")) == written == []


def test_rows_can_be_looked_at_without_a_load(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    # Where Airflow is there, dlt asks it for settings, which begins with a database.
    program = (
        "import sys; sys.modules['airflow'] = None\n"
        "from vantage_orchestration.dlt import documents\n"
        f"(first, *_) = documents({str(manifest_of(results))!r}).resources.values()\n"
        "print([row['document_index'] for table in first for row in table.to_pylist()])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout == "[1, 1]\n", told.stderr


def test_skills_of_one_name_for_dlt_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    results = Results(tmp_path, PROCESS, INVOICE)
    results.add(Json=json_of(has("X", "1"), concept="Delivery note"))
    results.add("t2", Json=json_of(has("X", "2"), concept="Delivery-Note"))
    path = manifest_of(results)
    with pytest.raises(ConfigurationError, match="'Delivery note' and 'Delivery-Note' would both"):
        load(pipeline, path, "")
    sql = "select x from documents"
    assert load(pipeline, path, sql, skill="Delivery-Note") == [("2",)]


def test_one_skill_is_loaded_under_short_names(pipeline: Pipeline, results: Results) -> None:
    path = manifest_of(results)
    sql = "select count(*) from documents_items"
    assert load(pipeline, path, sql, skill="Invoice") == [(2,)]


def test_an_object_that_is_no_group_keeps_its_content() -> None:
    strange = {"Name": "Vendor", "List": [{"Value": {"A": 1}}, {"Value": {"Fields": []}}]}
    document = {"Id": "d1", "ExtractedData": {"RootObject": {"Fields": [strange]}}}
    assert fields_of_json({"Documents": [document]}) == {"Vendor": [{"A": 1}, {}]}
