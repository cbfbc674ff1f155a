# SPDX-License-Identifier: Apache-2.0
"""Texts become dates, decimals and booleans where they have one reading, and nothing else."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.tables.values import ValueFormat

PLAIN = ValueFormat()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-04-03", date(2026, 4, 3)),
        ("2026-04-03T00:00:00Z", date(2026, 4, 3)),
        ("2026/4/3", date(2026, 4, 3)),
        ("20260403", date(2026, 4, 3)),
        (" 2026-04-03 ", date(2026, 4, 3)),
        ("31.12.2026", date(2026, 12, 31)),
        ("12/31/2026", date(2026, 12, 31)),
        ("04/04/2026", date(2026, 4, 4)),
        ("3 April 2026", date(2026, 4, 3)),
        ("3rd Apr. 2026", date(2026, 4, 3)),
        ("03-APR-2026", date(2026, 4, 3)),
        ("April 3, 2026", date(2026, 4, 3)),
        ("Sept 3rd, 2026", date(2026, 9, 3)),
    ],
)
def test_a_date_with_one_reading_is_read(text: str, value: date) -> None:
    assert PLAIN.convert("date", text) == (value, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("03/04/2026", "ambiguous: set day_first"),
        ("3.4.2026", "ambiguous: set day_first"),
        ("03/04/26", "unknown form"),
        ("32/13/2026", "no such date"),
        ("2026-02-30", "no such date"),
        ("30 Febtember 2026", "no such date"),
        ("next week", "unknown form"),
    ],
)
def test_any_other_date_is_not_guessed(text: str, reason: str) -> None:
    value, said = PLAIN.convert("date", text)
    assert value is None
    assert reason in (said or "")


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        (ValueFormat(day_first=True), "03/04/2026", date(2026, 4, 3)),
        (ValueFormat(day_first=False), "03/04/2026", date(2026, 3, 4)),
        (ValueFormat(day_first=True), "04/31/2026", None),
        (ValueFormat(day_first=False), "31/04/2026", None),
        (ValueFormat(date_format="%d.%m.%y"), "03.04.26", date(2026, 4, 3)),
        (ValueFormat(date_format=["%d.%m.%y", "%m/%d/%Y"]), "03/04/2026", date(2026, 3, 4)),
        (ValueFormat(date_format="%d.%m.%y"), "2026-04-03", date(2026, 4, 3)),
    ],
)
def test_settings_decide_what_is_ambiguous(
    form: ValueFormat, text: str, value: date | None
) -> None:
    assert form.convert("date", text).value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("-17", "-17"),
        ("+17", "17"),
        ("−17.5", "-17.5"),
        ("1234.56", "1234.56"),
        ("1234.567", "1234.567"),
        ("0.125", "0.125"),
        ("١٢", "12"),
        (".5", "0.5"),
        ("1,234.56", "1234.56"),
        ("1.234,56", "1234.56"),
        ("1,234,567", "1234567"),
        ("1.234.567", "1234567"),
        ("1 234 567.5", "1234567.5"),
        ("1\u202f234.50", "1234.50"),
        ("1’234.50", "1234.50"),
        ("$1,234.50", "1234.50"),
        ("EUR 12.50", "12.50"),
        ("RMB 12.50", "12.50"),
        ("12.50 €", "12.50"),
        ("12345678901234567890123456789.123456789", "12345678901234567890123456789.123456789"),
        ("1.5000000000000", "1.5"),
        ("12345678901234567890123456789.1234567890000", "12345678901234567890123456789.123456789"),
    ],
)
def test_a_number_with_one_reading_is_read(text: str, value: str) -> None:
    assert PLAIN.convert("decimal", text) == (Decimal(value), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,234", "ambiguous: set decimal"),
        ("1.234", "ambiguous: set decimal"),
        ("12,50", "ambiguous: set decimal"),
        ("1,2345.6", "not a number with the decimal sign"),
        ("1.2.3", "not a number with the decimal sign"),
        ("1,234.5.6", "not a number"),
        ("12 50", "not a number"),
        ("100\n200", "not a number"),
        ("100\t200", "not a number"),
        ("(12.50)", "not a number"),
        ("12.50-", "not a number"),
        ("19 %", "not a number"),
        ("1.5 MIO", "not a number"),
        ("EUR 5 TSD", "not a number"),
        ("1e5", "not a number"),
        ("NaN", "not a number"),
        ("0.1234567891", "more than 9 digits after"),
        ("1" * 30, "more than 29 digits before"),
    ],
)
def test_any_other_number_is_not_guessed(text: str, reason: str) -> None:
    value, said = PLAIN.convert("decimal", text)
    assert value is None
    assert reason in (said or "")


@pytest.mark.parametrize(
    ("sign", "text", "value"),
    [
        (".", "1,234", "1234"),
        (".", "1.234", "1.234"),
        (".", "12,50", None),
        (",", "12,50", "12.50"),
        (",", "1.234", "1234"),
        (",", "1.234,5", "1234.5"),
        (",", "1,234.5", None),
        (",", "EUR 1 234,50", "1234.50"),
    ],
)
def test_the_decimal_sign_decides(sign: str, text: str, value: str | None) -> None:
    found = ValueFormat(decimal=sign).convert("decimal", text).value  # type: ignore[arg-type]
    assert found == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("Yes", True), ("X", True), ("no", False), ("0", False), ("maybe", None)],
)
def test_a_checkmark_is_true_or_false(text: str, value: bool | None) -> None:
    converted = PLAIN.convert("boolean", text)
    assert converted.value is value
    assert (converted.reason is None) == (value is not None)


@pytest.mark.parametrize("kind", ["date", "decimal", "boolean"])
def test_an_empty_text_is_no_value_and_no_problem(kind: str) -> None:
    assert PLAIN.convert(kind, " ") == (None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"decimal": ";"},
        *({"date_format": each} for each in ("DD.MM.YYYY", [3], "%Q", "%d%d.%Y", "%d.%m.", "%")),
        {"day_first": "yes"},
    ],
)
def test_settings_that_are_not_acceptable_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        ValueFormat(**arguments)  # type: ignore[arg-type]
