# SPDX-License-Identifier: Apache-2.0
"""Result files become tables: every value once, typed as the skill says, and nothing lost."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from result_files import (
    FULL,
    INVOICE,
    Results,
    arrow_table,
    declared,
    group,
    has,
    json_of,
    value,
)

from vantage_orchestration.models import Skill
from vantage_orchestration.processing.manifest import DocumentEntry, TransactionManifest
from vantage_orchestration.results import fields_of_json
from vantage_orchestration.tables.build import ResultTables
from vantage_orchestration.tables.reading import Content, DocumentContent
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import write_tables

KEY = {"transaction_id": "t1", "document_index": 1}
#: Half of a character pair, as an encoder writes it that does not care.
HALF = b"\xed\xa0\xbd"
LONG = "Reference that the customer has asked for " * 8


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def test_a_document_is_a_row_with_its_fields_typed(results: Results) -> None:
    results.add(Json=FULL, entry={"class": {"id": "c", "name": "Invoice", "confidence": 88}})
    (row,) = results.rows("documents")
    assert row == {
        **KEY,
        "document_id": "d1",
        "skill": "Invoice",
        "source_name": "a.pdf",
        "source_path": "/in/a.pdf",
        "source_sha256": "abc",
        "source_files": 1,
        "class_name": "Invoice",
        "class_confidence": 88,
        "pages": 2,
        "rule_errors": 0,
        "reviewed": False,
        "lowest_confidence": 61,
        "conversions": 0,
        "findings": 0,
        "Number": "INV-1",
        "Date": date(2026, 4, 3),
        "Date_text": "2026-04-03",
        "Total": Decimal("1234.5"),
        "Total_text": "1234.50",
        "Paid": True,
        "Paid_text": "yes",
        "Vendor.Name": "Example Ltd",
        "Vendor.Since": date(1999, 12, 31),
        "Vendor.Since_text": "1999-12-31",
    }


def test_repeated_fields_and_tables_have_tables_of_their_own(results: Results) -> None:
    results.add(Json=FULL)
    assert results.rows("documents.Orders") == [
        {**KEY, "position": 1, "value": Decimal(7), "value_text": "7"},
        {**KEY, "position": 2, "value": Decimal(8), "value_text": "8"},
    ]
    items = results.rows("documents.Items")
    assert [(row["position"], row["Text"], row["Amount"]) for row in items] == [
        (1, "Bolt", Decimal(40)),
        (2, "Nut", Decimal("0.5")),
    ]
    assert results.rows("documents.Items.Taxes") == [
        {**KEY, "parent": "1", "position": 1, "Rate": Decimal(19), "Rate_text": "19"}
    ]


def test_each_value_is_a_row_of_fields(results: Results) -> None:
    results.add(Json=FULL)
    rows = results.rows("fields")
    assert [row["path"] for row in rows] == [
        "Number", "Date", "Total", "Paid", "Vendor.Name", "Vendor.Since", "Orders[1]", "Orders[2]",
        "Items[1].Text", "Items[1].Amount", "Items[1].Taxes[1].Rate", "Items[2].Text",
        "Items[2].Amount",
    ]  # fmt: skip
    assert rows[2] == {
        **KEY,
        "position": 3,
        "path": "Total",
        "field": "Total",
        "raw": "1.234,50 €",
        "value": "1234.50",
        "confidence": 72,
        "verified": False,
        "needs_verification": None,
        "page": 1,
        "regions": [
            {"page": 1, "left": 1, "top": 2, "right": 3, "bottom": 4},
            {"page": 1, "left": 5, "top": 6, "right": 7, "bottom": 8},
        ],
    }
    assert rows[9]["field"] == "Items.Amount"


def test_values_alone_give_the_same_columns(results: Results) -> None:
    results.add(
        FieldsJson={
            "Fields": {
                "Number": "INV-1",
                "Date": "2026-04-03",
                "Vendor": {"Name": "Example Ltd"},
                "Orders": ["7", "8"],
                "Items": [{"Text": "Bolt", "Taxes": [{"Rate": "19"}]}],
            }
        }
    )
    (row,) = results.rows("documents")
    assert (row["Date"], row["Vendor.Name"], row["reviewed"], row["lowest_confidence"]) == (
        date(2026, 4, 3),
        "Example Ltd",
        None,
        None,
    )
    assert len(results.rows("documents.Orders")) == 2
    assert results.rows("documents.Items.Taxes")[0]["Rate"] == Decimal(19)


def test_what_is_ambiguous_stays_text_and_is_listed(results: Results) -> None:
    results.add(Json=json_of(has("Date", "03/04/2026"), has("Total", "1,234"), has("Orders", "x")))
    (row,) = results.rows("documents")
    assert (row["Date"], row["Date_text"], row["Total"], row["Total_text"]) == (
        None,
        "03/04/2026",
        None,
        "1,234",
    )
    assert row["conversions"] == 3
    assert [(r["path"], r["wanted"], r["text"]) for r in results.rows("conversions")] == [
        ("Date", "date", "03/04/2026"),
        ("Total", "decimal", "1,234"),
        ("Orders[1]", "decimal", "x"),
    ]
    (row,) = results.rows("documents", ValueFormat(day_first=True, decimal="."))
    assert (row["Date"], row["Total"]) == (date(2026, 4, 3), Decimal(1234))


@pytest.mark.parametrize("sign", [None, ",", "."])
@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((each, "") for each in ("1.234", "1234.50", "12345678901234567.89", "1e3", "40")),
        *((each, "") for each in ("1E-7", "1.2345678901234567890123e20", "-1.5e3", "0e5")),
        ("1.234", "\\ud83d"),  # Half a character.
    ],
)
def test_a_number_of_json_has_the_same_value_whatever_sign_texts_have(
    tmp_path: Path, number: str, text: str, sign: Any
) -> None:
    files = {"Json": json_of(has("Total", value("@"))), "FieldsJson": {"Fields": {"Total": "@"}}}
    for kind, content in files.items():
        results = Results(tmp_path / kind)
        data = json.dumps({**content, "More": "some"}).replace('"@"', number).replace("some", text)
        results.add(**{kind: data.encode()})
        (row,) = results.rows("documents", ValueFormat(decimal=sign))
        assert row["Total"] == Decimal(number)
        assert row["conversions"] == 0


@pytest.mark.parametrize("number", ["1e400", "-1e-400", "1e999999999", "1e" + "9" * 30])
def test_a_number_that_no_column_can_hold_is_kept_as_it_is(results: Results, number: str) -> None:
    data = json.dumps(json_of(has("Total", value("@")), has("Number", value("@"))))
    results.add(Json=data.replace('"@"', number).encode())
    (row,) = results.rows("documents")
    assert (row["Total"], row["Total_text"], row["Number"]) == (None, number, number)
    assert [each["path"] for each in results.rows("conversions")] == ["Total"]


def test_a_recognised_text_that_the_service_could_not_normalise_is_listed(
    results: Results,
) -> None:
    results.add(Json=json_of(has("Date", value(None, "l3.4.26"))))
    (row,) = results.rows("conversions")
    assert (row["path"], row["text"]) == ("Date", "l3.4.26")


def test_fields_that_the_skill_does_not_name_are_kept_as_text(results: Results) -> None:
    results.add(Json=json_of(has("Number", "1")))
    results.add(
        "t2",
        Json=json_of(
            has("Extra", "2026-04-03"),
            has("Address", group(has("City", "Utrecht"))),
            has("Notes", "a", "b"),
            has("Empty"),
        ),
    )
    first, second = results.rows("documents")
    assert first["Extra"] is None
    assert (second["Extra"], second["Notes"]) == ("2026-04-03", '["a", "b"]')
    assert "Empty" not in second
    assert [row["City"] for row in results.rows("documents.Address")] == ["Utrecht"]
    assert [row["value"] for row in results.rows("fields")][-2:] == ["a", "b"]


@pytest.mark.parametrize("order", list(itertools.permutations("1234")))
def test_rows_of_fields_without_a_declaration_do_not_depend_on_other_documents(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    def line(amount: str, *taxes: str) -> dict[str, Any]:
        return group(has("Amount", amount), has("Tax", *(group(has("Rate", t)) for t in taxes)))

    documents = {
        "1": [has("Line", line("1", "19")), has("Note", "a")],
        "2": [has("Line", line("2", "7", "19"), line("3")), has("Note", "b", "c")],
        "3": [has("Line", "plain"), has("Note", group(has("Text", "d")))],
        "4": [has("Number", "4")],
    }
    results = Results(tmp_path)
    for each in order:
        results.add(each, Json=json_of(*documents[each]))

    def rows(table: str, *columns: str) -> list[tuple[Any, ...]]:
        return sorted(
            (row["transaction_id"], *(row[each] for each in columns)) for row in results.rows(table)
        )

    assert rows("documents.Line", "Amount") == [("1", "1"), ("2", "2"), ("2", "3")]
    assert rows("documents.Line.Tax", "parent", "position", "Rate") == [
        ("1", "1", 1, "19"), ("2", "1", 1, "7"), ("2", "1", 2, "19")
    ]  # fmt: skip
    assert rows("documents.Note", "Text") == [("3", "d")]
    found = {row["transaction_id"]: (row["Line"], row["Note"]) for row in results.rows("documents")}
    assert found == {
        "1": (None, "a"),
        "2": (None, '["b", "c"]'),
        "3": ("plain", None),
        "4": (None, None),
    }


@pytest.mark.parametrize(
    ("field", "column", "kept", "reason"),
    [
        (has("Number", "a", "b"), "Number", '["a", "b"]', "2 values, not one"),
        (has("Date", group(has("X", "1"))), "Date_text", None, "a group, not a single value"),
        (has("Vendor", "Example Ltd"), "Vendor.Name", None, "a single value, not a group"),
        (has("Vendor", group(), group()), "Vendor.Name", None, "2 values, not one"),
        (has("Items", "Bolt"), None, None, "a single value, not a group"),
        (has("Items", {"Value": {"A": 1}}), None, None, "a single value, not a group"),
        (has("Vendor", {"Value": {"A": 1}}), None, None, "a single value, not a group"),
        (has("Number", {"Value": {"A": 1}}), "Number", '{"A": 1}', "a group, not a single value"),
    ],
)
def test_a_field_of_another_shape_is_kept_and_listed(
    results: Results, field: Any, column: str | None, kept: str | None, reason: str
) -> None:
    results.add(Json=json_of(field))
    (row,) = results.rows("documents")
    if kept is not None and column is not None:
        assert row[column] == kept
    (problem,) = results.rows("conversions")
    assert problem["reason"] == reason
    assert row["conversions"] == 1
    texts = [each["value"] for each in results.rows("fields")]
    assert texts, "the value itself is not lost"


def test_names_of_any_kind_keep_their_values_apart(tmp_path: Path) -> None:
    names = ["Pages", "pages", "A.B", "Total", "Total_text", "to/tal", LONG, "", "a\nb", "Ünï"]
    skill = Skill.read(
        {
            "id": "s",
            "name": "../Odd: skill",
            "type": "Document",
            "fields": [
                *(declared(name, "Amount" if name == "Total" else "Text") for name in names),
                declared("A", children=[declared("B")]),
                declared(f"{LONG}/../x", repeatable=True),
            ],
        }
    )
    results = Results(tmp_path, skill)
    fields = [has(name, str(number)) for number, name in enumerate(names)]
    results.add(Json=json_of(*fields, has("A", group(has("B", "in"))), has(f"{LONG}/../x", "r")))
    with results.tables() as tables:
        (those,) = tables.sets.values()
        rows = those.tables["documents"]
        (row,) = arrow_table(rows).to_pylist()
        written = write_tables(tables, results.output)
    by_path = {column.path: row[column.name] for column in rows.columns if column.path}
    for number, name in enumerate(names):
        if name != "Total":
            assert by_path[(name,)] == str(number)
    assert row["Total"] == Decimal(3)
    assert by_path[("A", "B")] == "in"
    assert row["pages"] == 3, "a field takes no column of ours"
    inside = (tmp_path / "tables").resolve()
    for entry in written:
        path = (tmp_path / entry.path).resolve()
        assert path.is_file()
        assert inside in path.parents
        assert len(path.name) < 140


def test_a_name_with_blanks_around_it_is_that_of_the_skill(tmp_path: Path) -> None:
    lines = declared("Lines\t", repeatable=True, children=[declared("Net  Amount ", "Amount")])
    skill = Skill.read(
        {
            "id": "s1",
            "name": "Invoice",
            "type": "Document",
            "fields": [declared(" Total\n", "Amount"), lines],
        }
    )
    results = Results(tmp_path, Skill.read(skill.to_json()))
    line = group(has("Net  Amount ", "2"))
    results.add(Json=json_of(has(" Total\n", "1"), has("Lines\t", line)))
    (row,) = results.rows("documents")
    assert (row["Total"], row["conversions"]) == (Decimal(1), 0)
    assert [row["Net  Amount"] for row in results.rows("documents.Lines")] == [Decimal(2)]


def test_a_field_that_comes_twice_has_both_values(results: Results) -> None:
    results.add(Json=json_of(has("Orders", "1"), has("Orders", "2"), has("Number", "a")))
    assert [row["value"] for row in results.rows("documents.Orders")] == [1, 2]
    data = json_of(has("Orders", "1"), has("Orders", "2"), has("Number", "a"))
    assert fields_of_json(data) == {"Orders": ["1", "2"], "Number": "a"}


def test_a_value_beside_groups_of_an_undeclared_field_is_not_lost(results: Results) -> None:
    results.add(Json=json_of(has("Number", "a"), has("More", group(has("Net", "1")), "2")))
    assert [row["Net"] for row in results.rows("documents.More")] == ["1", None]
    (problem,) = results.rows("conversions")
    assert (problem["path"], problem["text"]) == ("More[2]", "2")


@pytest.mark.parametrize("document", [{}, {"ExtractedData": None}, {"ExtractedData": {}}])
def test_a_document_without_fields_is_no_problem(results: Results, document: Any) -> None:
    results.add(Json={"Documents": [document]})
    (row,) = results.rows("documents")
    assert (row["Number"], row["conversions"]) == (None, 0)


BAD = {
    "half": b'{"Documents": [',
    "page": b"<html>",
    "empty": b"",
    "list": [],
    "no documents": {"Documents": []},
    "no root": {"Documents": [{"ExtractedData": {"rootObject": {"Fields": []}}}]},
    "no fields": {"Documents": [{"ExtractedData": {"RootObject": {"fields": []}}}]},
    "text for fields": json_of() | {"Documents": [{"ExtractedData": "x"}]},
    "deep": b'{"Documents":' + b"[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_read_is_listed_and_values_are_taken_from_the_other(
    results: Results, name: str
) -> None:
    results.add("t1", Json=BAD[name], FieldsJson={"Fields": {"Number": "INV-1"}})
    (row,) = results.rows("documents")
    assert row["Number"] == "INV-1"
    (problem,) = results.rows("conversions")
    assert "1/Json.json can't be read as Json" in problem["reason"]


@pytest.mark.parametrize(
    "fields",
    [
        [5],
        ["x"],
        [{"List": []}],
        [{"Name": "Number", "list": [{"Value": "1"}]}],
        [{"Name": "Number", "List": [7]}],
        [has("Number", "kept"), {"Name": "Items", "List": [{"Value": {"Fields": [3]}}]}],
    ],
)
def test_a_shape_that_no_contract_has_loses_no_document(
    results: Results, fields: list[Any]
) -> None:
    results.add(Json=json_of(*fields))
    results.add("t2", Json=FULL)
    first, second = results.rows("documents")
    assert (first["conversions"], second["Number"]) == (1, "INV-1")
    assert "can't be read" in results.rows("conversions")[0]["reason"]
    assert {row["transaction_id"] for row in results.rows("fields")} == {"t2"}


@pytest.mark.parametrize(
    "odd",
    [
        {"Confidence": 2**40},
        {"Confidence": "high"},
        {"ImageRegions": [{"Page": 2**40, "Rects": [[0.5, None, "1", 2**33]]}]},
        {"ImageRegions": [{"Rects": None}]},
        {"ImageRegions": [{"Rects": [[1, 2, 3], 4]}, {"Rects": 5}, "x"]},
        {"ImageRegions": {"Page": 1}},
        {"RawValue": 5},
    ],
)
def test_odd_annotations_cost_nothing_but_themselves(results: Results, odd: Any) -> None:
    results.add(Json=json_of(has("Number", {"Value": "INV-1", "Annotation": odd})))
    (row,) = results.rows("documents")
    assert (row["Number"], row["conversions"]) == ("INV-1", 0)
    assert len(results.rows("fields")) == 1


def test_a_half_of_a_character_pair_and_a_null_are_no_obstacle(results: Results) -> None:
    results.add(Json=json_of(has("Number", "a\ud83db\0"), has("Total", 12.5), has("Paid", True)))
    (row,) = results.rows("documents")
    assert (row["Number"], row["Total"], row["Paid"]) == ("a?b\0", Decimal("12.5"), True)
    results.add("t2", Json=json.dumps(json_of(has("Number", "a#"))).encode().replace(b"#", HALF))
    assert results.rows("documents")[1]["Number"] == "a?"


def test_a_document_never_has_the_fields_of_another(results: Results) -> None:
    several = json_of(has("Number", "1"))
    several["Documents"].append({**json_of(has("Number", "2"))["Documents"][0], "Id": "d2"})
    results.add(Json=several)
    several["Documents"][0]["Id"] = "d3"
    results.add("t2", Json=several)
    assert [row["Number"] for row in results.rows("documents")] == ["1", None]
    assert "does not contain the document" in results.rows("conversions")[0]["reason"]
    assert fields_of_json(several, "D2") == {"Number": "2"}
    with pytest.raises(ValueError, match="does not contain"):
        fields_of_json(several, "d1")


def test_documents_without_files_and_jobs_without_documents(results: Results) -> None:
    assert results.tables().sets == {}
    results.add(entry={"class": {"name": "Other", "confidence": 50}})
    (row,) = results.rows("documents")
    assert (row["class_name"], row["pages"], row["conversions"]) == ("Other", 3, 0)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_names_and_rules_that_are_no_text_can_be_written(results: Results, form: Any) -> None:
    odd = {"RuleName": {"a": 1}, "ErrorMessage": ["x"]}
    results.add(Json=json_of(has("Number", "1"), RuleErrors=[odd]))
    (entry,) = results.transactions
    # A file name of Linux with a byte that is no character.
    source = replace(entry.sources[0], name="a\udcff.pdf", path="/in/a\udcff.pdf")
    results.transactions = [replace(entry, sources=(source,))]
    with results.tables() as tables:
        assert write_tables(tables, results.output, form)
    assert results.rows("documents")[0]["source_path"] == "/in/a?.pdf"
    assert results.rows("rule_errors")[0]["message"] == "['x']"


def test_rule_errors_are_rows(results: Results) -> None:
    entry = {
        "rule_errors": [{"type": "Condition", "message": "Sum", "rule_id": "r", "field_id": None}]
    }
    results.add(Json=FULL, entry=entry)
    assert results.rows("rule_errors") == [
        {**KEY, "position": 1, "type": "Condition", "rule": "r", "message": "Sum", "field_id": None}
    ]
    assert results.rows("documents")[0]["rule_errors"] == 1


def test_documents_of_a_process_skill_are_in_the_set_of_the_skill_that_was_applied(
    tmp_path: Path,
) -> None:
    receipt = Skill.read(
        {"id": "s2", "name": "Receipt", "type": "Document", "fields": [declared("Sum", "Amount")]}
    )
    process = Skill.read(
        {"id": "p", "name": "All", "type": "Process", "skills": [{"id": "s1"}, {"id": "s2"}]}
    )
    results = Results(tmp_path, process, INVOICE, receipt)
    results.add("t1", Json=FULL)
    results.add("t2", Json=json_of(has("Sum", "1.5"), concept=" Receipt\n"))
    results.add("t3", FieldsJson={"Fields": {"Sum": "2.5"}}, entry={"class": {"name": "Receipt"}})
    results.add("t4", Json=json_of(has("X", "1"), concept="Letter"))
    with results.tables() as tables:
        assert list(tables.sets) == ["Invoice", "Receipt", "Letter"]
        sums = arrow_table(tables.sets["Receipt"].tables["documents"]).column("Sum").to_pylist()
    assert sums == [Decimal("1.5"), Decimal("2.5")]


def _sets(skills: list[Skill], *documents: tuple[str, str]) -> dict[str, int]:
    """Return the number of documents in each set, for documents of a skill with a concept."""
    tables = ResultTables(skills, skill_ids=[skill for skill, _ in documents])
    with tables:
        for number, (skill, concept) in enumerate(documents):
            entry = TransactionManifest(f"t{number}", skill, "Processed", None, 1, (), ())
            content = Content([has("Total", "1")], concept)
            found = DocumentContent(1, DocumentEntry("d", None, (), ()), content, ())
            tables.add(entry, found)
        for each in tables.sets.values():
            each.tables["documents"].settle(now=True)
        return {name: each.tables["documents"].count for name, each in tables.sets.items()}


def test_skills_of_the_same_name_share_no_tables() -> None:
    one, two = (Skill(each, "Invoice", "Document") for each in ("id-1", "id-2"))
    process = Skill("p", "All", "Process", skills=("ID-2",))
    both = [("id-2", "Invoice"), ("ID-1", "Invoice"), ("id-1", "Invoice")]
    assert _sets([one, two], *both) == {"Invoice (id-2)": 1, "Invoice (id-1)": 2}
    assert _sets([one], *both[1:]) == {"Invoice": 2}
    # One that may not be read is not taken for the other, and two of them are kept apart.
    assert _sets([one], *both) == {"Invoice (id-2)": 1, "Invoice": 2}
    assert _sets([], *both[::2]) == {"Invoice (id-2)": 1, "Invoice (id-1)": 1}
    assert _sets([], *both[:1]) == {"Invoice": 1}
    # The documents of a Process skill belong to the skill in it.
    assert _sets([one, process, two], ("p", "Invoice"), ("id-1", "Invoice")) == {
        "Invoice (id-2)": 1,
        "Invoice (id-1)": 1,
    }
    assert _sets([one, process], ("p", "Invoice"), both[1]) == {"Invoice (p)": 1, "Invoice": 1}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_the_same_results_give_the_same_bytes(results: Results, form: Any) -> None:
    results.add(Json=FULL)
    results.add("t2", Json=json_of(has("Extra", "1")))

    def digests() -> dict[str, str]:
        with results.tables() as tables:
            entries = write_tables(tables, results.output, form)
        files = {entry.path: Path(results.output.child(entry.path).path) for entry in entries}
        return {path: hashlib.sha256(f.read_bytes()).hexdigest() for path, f in files.items()}

    first = digests()
    assert len(first) == 8
    assert digests() == first


@pytest.mark.parametrize(
    ("form", "reader"), [("parquet", "parquet"), ("jsonl", "json"), ("csv", "csv")]
)
def test_every_form_can_be_read_with_all_values(results: Results, form: Any, reader: str) -> None:
    import duckdb

    results.add(Json=FULL)
    with results.tables() as tables:
        write_tables(tables, results.output, form)
    folder = f"{results.output.path}/tables/Invoice"
    sql = f"""select "Date", "Total", "Vendor.Name" from
        read_{reader}('{folder}/documents.{form}')"""
    (row,) = duckdb.sql(sql).fetchall()
    assert (row[0], float(row[1]), row[2]) == (date(2026, 4, 3), 1234.5, "Example Ltd")
    regions = duckdb.sql(f"select regions from read_{reader}('{folder}/fields.{form}')").fetchall()
    assert "left" in str(regions)


def test_tables_of_an_earlier_try_go_and_no_other_files(results: Results) -> None:
    results.add(Json=FULL)
    with results.tables() as tables:
        deeper = write_tables(tables, results.output, "parquet", "tables/run-1")
        write_tables(tables, results.output, "csv")
        part = ".documents.csv.0123456789abcdef.part"
        for name in ("Invoice/notes.txt", "Receipt/documents.csv", f"Invoice/{part}"):
            results.output.child("tables", name).write_text("x")
        written = write_tables(tables, results.output, "jsonl")
    expected = {entry.path.removeprefix("tables/") for entry in (*deeper, *written)}
    assert results.output.child("tables").sizes().keys() == {*expected, "Invoice/notes.txt"}


def test_an_unknown_form_is_refused(results: Results) -> None:
    from vantage_orchestration.errors import ConfigurationError

    with results.tables() as tables, pytest.raises(ConfigurationError, match="xlsx"):
        write_tables(tables, results.output, "xlsx")  # type: ignore[arg-type]


def test_tables_of_two_runs_are_read_together(tmp_path: Path) -> None:
    import duckdb

    first, second = Results(tmp_path / "r1"), Results(tmp_path / "r2")
    first.add(Json=FULL)
    second.add("t2", Json=json_of(has("New", "n"), has("Number", "INV-2")))
    for each in (first, second):
        with each.tables() as tables:
            write_tables(tables, each.output)
    sql = f"""select "Number", "Date", "New", "Total" from read_parquet(
        '{tmp_path}/*/tables/Invoice/documents.parquet', union_by_name=true) order by 1"""
    assert duckdb.sql(sql).fetchall() == [
        ("INV-1", date(2026, 4, 3), None, Decimal("1234.5")),
        ("INV-2", None, "n", None),
    ]


def test_a_hundred_thousand_line_items_in_one_document(results: Results) -> None:
    row = {"Text": "Bolt", "Amount": "1.5"}
    results.add(FieldsJson={"Fields": {"Number": "1", "Items": [row] * 100_000}})
    with results.tables() as tables:
        items = arrow_table(tables.sets["Invoice"].tables["documents.Items"])
    assert items.num_rows == 100_000
    assert items.column("position")[-1].as_py() == 100_000
    assert items.column("Amount")[-1].as_py() == Decimal("1.5")


@pytest.mark.parametrize(("limit", "value"), [("columns._CELLS", 50), ("skill_tables._SIZE", 2000)])
def test_rows_that_go_to_temporary_files_come_back_as_they_were(
    results: Results, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    for number in range(20):
        extra = [has(f"Extra {number}", str(number))] if number % 5 == 0 else []
        results.add(f"t{number}", Json=json_of(has("Number", str(number)), *extra))
    with results.tables() as at_once:  # One batch, made when the last row is there.
        other = arrow_table(at_once.sets["Invoice"].tables["documents"])
    monkeypatch.setattr(f"vantage_orchestration.tables.{limit}", value)
    with results.tables() as tables:
        folder = Path(tables.folder.name)
        assert len(list(folder.glob("*.arrow"))) > 5
        one = arrow_table(tables.sets["Invoice"].tables["documents"])
        assert one.equals(other)
    assert not folder.exists()
    assert one.column("Number").to_pylist() == [str(number) for number in range(20)]
    assert one.column("Extra 15").to_pylist() == [None] * 15 + ["15"] + [None] * 4


def test_without_rows_no_temporary_folder_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have a read-only file system, and a job may judge documents alone."""

    def refuse(**options: Any) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with ResultTables() as tables:
        assert tables.sets == {}


def test_pandas_and_polars_take_the_tables(results: Results) -> None:
    import pandas as pd
    import polars as pl

    results.add(Json=FULL)
    with results.tables() as tables:
        table = arrow_table(tables.sets["Invoice"].tables["documents.Items"])
    assert isinstance(pl.from_arrow(table), pl.DataFrame)
    assert list(pd.DataFrame(table.to_pandas())["Text"]) == ["Bolt", "Nut"]
