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
