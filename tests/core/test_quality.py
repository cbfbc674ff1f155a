# SPDX-License-Identifier: Apache-2.0
"""The quality gate finds what is uncertain, missing or broken, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from result_files import group, has, json_of, value

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.tables.quality import Finding, QualityRules
from vantage_orchestration.tables.reading import Content, read_content

CONTENT = read_content(
    "Json",
    json.dumps(
        json_of(
            has("Number", value("INV-1", confidence=61)),
            has("Total", value("12.50", confidence=95)),
            has("Date"),
            has("Note", " "),
            has("A.B", value("x", confidence=99)),
            has(
                "Items",
                group(has("Text", value("Bolt", confidence=70)), has("Amount", "1")),
                group(has("Text", value("Nut", confidence=40, isVerified=True)), has("Amount")),
            ),
        )
    ).encode(),
    "d1",
)


def found(content: Content | None = CONTENT, **rules: Any) -> list[Finding]:
    return QualityRules(**rules).findings(content, [], ["Sum"])


@pytest.mark.parametrize(
    ("limit", "paths"),
    [
        (50, []),
        (65, ["Number"]),
        (80, ["Number", "Items[1].Text"]),
        ({"Items.Text": 80}, ["Items[1].Text"]),
        ({"Total": 96, "Unknown": 100}, ["Total"]),
    ],
)
def test_uncertain_fields_are_found_but_for_what_a_person_has_verified(
    limit: Any, paths: list[str]
) -> None:
    assert [each.field for each in found(min_confidence=limit)] == paths


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("61", "is 61, below 65"),
        (61.5, "is 61, below 65"),
        (None, "is unknown"),
        (True, "is unknown"),
        ("high", "is unknown"),
        ("65", None),
    ],
)
def test_a_confidence_of_any_type_counts_and_none_is_not_100(given: Any, reason: str) -> None:
    data = json.dumps(json_of(has("Total", value("5", confidence=given)), has("Empty"))).encode()
    content = read_content("Json", data, "d1")
    found = QualityRules({"Total": 65, "Empty": 65}).findings(content, [], [])
    assert [reason in each.reason for each in found] == ([True] if reason else [])


@pytest.mark.parametrize("given", ["high", "95%", True, -1, 101, {}])
def test_a_confidence_that_can_not_be_read_is_not_good_enough(given: Any) -> None:
    data = json.dumps(json_of(has("Total", value("5", confidence=given)))).encode()
    content = read_content("Json", data, "d1")
    (one,) = QualityRules(min_confidence=80).findings(content, [], [])
    assert one == Finding("Total", "The confidence is unknown, not 80 or more")
    assert QualityRules(min_confidence={"Other": 80}).findings(content, [], []) == []


@pytest.mark.parametrize("verified", [False, True])
def test_a_json_that_says_nothing_of_confidences_does_not_pass(verified: bool) -> None:
    """Its annotations may be missing, or have another name."""
    item = {"Value": "5", "annotation": {"confidence": 10}, "isVerified": verified}
    data = json.dumps(json_of(has("Total", item), has("Empty"))).encode()
    content = read_content("Json", data, "d1")
    found = QualityRules(min_confidence=50).findings(content, [], [])
    expected = [] if verified else [Finding("", "No Json says how certain the fields are")]
    assert found == expected


@pytest.mark.parametrize("said", ["false", "true", 1, None])
def test_only_true_says_that_a_person_has_verified_a_value(said: Any) -> None:
    item = {"Value": "5", "isVerified": said, "Annotation": {"Confidence": 10}}
    (one,) = QualityRules(min_confidence=50).findings(
        read_content("Json", json.dumps(json_of(has("Total", item))).encode(), "d1"), [], []
    )
    assert one == Finding("Total", "The confidence is 10, below 50")


@pytest.mark.parametrize("limit", [50, {"Total": 50}])
def test_what_has_no_value_needs_no_confidence(limit: Any) -> None:
    data = json.dumps(json_of(has("Total", {"Value": ""}), has("Empty"))).encode()
    content = read_content("Json", data, "d1")
    assert QualityRules(min_confidence=limit).findings(content, [], []) == []


@pytest.mark.parametrize("limit", [50, {"Other": 50}])
def test_values_without_confidences_do_not_pass(limit: Any) -> None:
    content = read_content("FieldsJson", b'{"Fields": {"Total": "5"}}', "d1")
    (one,) = QualityRules(min_confidence=limit).findings(content, [], [])
    assert (one.field, one.reason) == ("", "No Json says how certain the fields are")


def _deep(depth: int) -> dict[str, Any]:
    return has("G", group(_deep(depth - 1)) if depth else "x")


@pytest.mark.parametrize(
    "field",
    [
        "x",
        {"List": []},
        {"Name": "A", "List": ["x"]},
        {"Name": "A", "List": 5},
        {"Name": "A", "List": {"Value": "x"}},
        {"Name": "A", "List": [{"Value": "x", "Annotation": ["x"]}]},
        {"Name": "A", "List": [{"Value": {"Fields": {"B": "x"}}}]},
        _deep(120),
    ],
)
def test_fields_of_another_structure_are_a_problem_of_their_file(field: Any) -> None:
    data = json.dumps(json_of(field)).encode()
    with pytest.raises(ValueError, match=r"another structure|nested too|without a name"):
        read_content("Json", data, "d1")


def test_the_reason_has_the_numbers() -> None:
    assert found(min_confidence=65) == [Finding("Number", "The confidence is 61, below 65")]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("Number", []),
        ("A.B", []),
        ("Items", []),
        ("Items.Text", []),
        ("Date", ["Date"]),
        ("Note", ["Note"]),
        ("Unknown", ["Unknown"]),
        ("Unknown.Deep", ["Unknown.Deep"]),
        ("Items.Amount", ["Items[2].Amount"]),
        ("Number.Part", ["Number.Part"]),
    ],
)
def test_required_fields_must_have_a_value_in_each_row(name: str, paths: list[str]) -> None:
    assert [each.field for each in found(required_fields=[name])] == paths


def test_broken_rules_count_where_they_are_asked_for() -> None:
    assert found() == []
    assert found(rule_errors=True) == [Finding("", "A business rule is broken: Sum")]


def test_a_document_without_fields_has_none_of_the_required_ones() -> None:
    assert [each.field for each in found(None, required_fields=["Total"])] == ["Total"]
    rules = QualityRules(min_confidence=50)
    assert rules.findings(None, ["1/Invoice.json is missing"], []) == [
        Finding("", "1/Invoice.json is missing")
    ]


@pytest.mark.parametrize(
    "rules",
    [
        {"min_confidence": 101},
        {"min_confidence": -1},
        {"min_confidence": float("nan")},
        {"min_confidence": True},
        {"min_confidence": {"Total": "90"}},
        {"required_fields": "Total"},
        {"required_fields": [""]},
    ],
)
def test_rules_that_are_not_acceptable_are_refused(rules: Any) -> None:
    with pytest.raises(ConfigurationError):
        QualityRules(**rules)
