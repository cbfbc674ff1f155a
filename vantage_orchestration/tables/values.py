# SPDX-License-Identifier: Apache-2.0
"""Converts the text of a field into a date, a decimal or a boolean. It never guesses.

Ambiguous text is not converted: ``03/04/2026`` may be in March or April, ``1,234`` may be a little
more than one or more than a thousand. The reason names the setting that decides it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import date

__all__ = [
    "DECIMAL_DIGITS",
    "DECIMAL_PLACES",
    "Converted",
    "Kind",
    "ValueFormat",
    "require_pyarrow",
]

#: Type of a column.
Kind = Literal["text", "date", "decimal", "boolean"]

#: Digits of a decimal column, and how many of them follow the point. Every decimal column has this
#: one type, so that tables of two runs can be read together.
DECIMAL_DIGITS: Final = 38
DECIMAL_PLACES: Final = 9

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "checked", "on", "selected", "true", "x", "yes"), True),
    **dict.fromkeys(("0", "false", "no", "off", "unchecked", "unselected"), False),
}

_ISO_DATE: Final = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ][\d:.,Z+-]*)?")
_COMPACT_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})")
_SHORT_DATE: Final = re.compile(r"(\d{1,2})\s*[-/.]\s*(\d{1,2})\s*[-/.]\s*(\d{4})")
_DAY_NAMED: Final = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?[\s.-]*([A-Za-z]{3,9})[\s.,-]*(\d{4})")
_MONTH_NAMED: Final = re.compile(r"([A-Za-z]{3,9})[\s.-]*(\d{1,2})(?:st|nd|rd|th)?[\s.,-]+(\d{4})")
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip

_CURRENCY_CODE: Final = re.compile(r"^[A-Z]{3}(?![A-Za-z])|(?<![A-Za-z])[A-Z]{3}$")
_NUMBER: Final = re.compile(r"[+-]?(?:\d[\d.,]*|[.,]\d+)")
_BLANKS: Final = re.compile(r"(?<=\d)[\s'’](?=\d{3}(?!\d))")


class Converted(NamedTuple):
    """A value, or the reason why there is none.

    Attributes:
        value: The value; None if the text is empty or can't be converted.
        reason: Why it can't be converted; None if it was converted or is empty.
    """

    value: Any
    reason: str | None


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """How the results write dates and numbers where the text alone is ambiguous.

    Args:
        date_format: ``strptime`` pattern, or several to try in turn, such as ``%d.%m.%Y``. Dates
            that match none are still read if they are unambiguous.
        day_first: Whether ``03/04/2026`` is the third of April. With None it is not converted.
        decimal: The decimal sign, ``.`` or ``,``. With None a number is converted only if a point
            is its decimal sign in every reading.

    Raises:
        ConfigurationError: A value is invalid.
    """

    date_format: str | Sequence[str] | None = ()
    day_first: bool | None = None
    decimal: Literal[".", ","] | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise ConfigurationError(f"decimal is {self.decimal!r}; give '.' or ','")
        if self.day_first not in (None, True, False):
            raise ConfigurationError(f"day_first is {self.day_first!r}; give True or False")
        given = self.date_format
        patterns = () if given is None else (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "date_format", patterns)
        for pattern in patterns:
            if not isinstance(pattern, str) or "%" not in pattern:
                raise ConfigurationError(
                    f"date_format is {pattern!r}; give a strptime pattern such as '%d.%m.%Y'"
                )

    def convert(self, kind: Kind, text: str) -> Converted:
        """Convert a text as the service delivered it. An empty text becomes None."""
        return _converted(self, kind, text)


@lru_cache(maxsize=50_000)
def _converted(form: ValueFormat, kind: Kind, text: str) -> Converted:
    # Cached, since batches repeat dates and amounts.
    stripped = text.strip()
    if kind == "text":
        return Converted(text, None)
    if not stripped:
        return Converted(None, None)
    if kind == "date":
        return _date(stripped, form)
    if kind == "decimal":
        return _decimal(stripped, form.decimal)
    value = _BOOLEANS.get(stripped.lower())
    reason = "neither checked nor unchecked, such as true or false" if value is None else None
    return Converted(value, reason)


def _date(text: str, form: ValueFormat) -> Converted:
    for pattern in form.date_format or ():
        if (found := _by_pattern(text, pattern)) is not None:
            return Converted(found, None)
    if match := _ISO_DATE.fullmatch(text) or _COMPACT_DATE.fullmatch(text):
        return _day(match[1], match[2], match[3])
    if match := _DAY_NAMED.fullmatch(text):
        return _day(match[3], _month(match[2]), match[1])
    if match := _MONTH_NAMED.fullmatch(text):
        return _day(match[3], _month(match[1]), match[2])
    if not (match := _SHORT_DATE.fullmatch(text)):
        return Converted(None, "the date has an unknown format: set date_format")
    first, second = int(match[1]), int(match[2])
    readings = {
        (day, month)
        for day_first, day, month in ((True, first, second), (False, second, first))
        if month <= 12 and form.day_first in (None, day_first)
    }
    if len(readings) == 2:
        return Converted(None, "day and month are ambiguous: set day_first or date_format")
    if not readings:
        return Converted(None, "there is no such date, or it contradicts day_first")
    day, month = readings.pop()
    return _day(match[3], month, day)


def require_pyarrow() -> None:
    """Check that tables can be made.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ConfigurationError(
            "Tables need pyarrow, which is not installed",
            hint="Install it: pip install 'vantage-orchestration[tables]'",
        )


def _by_pattern(text: str, pattern: str) -> date | None:
    import pendulum

    try:
        return pendulum.DateTime.strptime(text, pattern).date()
    except ValueError:
        return None


def _day(year: str, month: str | int | None, day: str | int) -> Converted:
    import pendulum

    try:
        if month is not None:
            return Converted(pendulum.Date(int(year), int(month), int(day)), None)
    except ValueError:
        pass
    return Converted(None, "there is no such date")


def _month(name: str) -> int | None:
    low = name.lower()
    for number, month in enumerate(_MONTHS, 1):
        if low in (month, month[:3]) or (month == "september" and low == "sept"):
            return number
    return None


def _decimal(text: str, sign: str | None) -> Converted:
    bare = _bare_number(text)
    if not _NUMBER.fullmatch(bare):
        return Converted(None, "not a number")
    plain, reason = _plain(bare, sign)
    if plain is None:
        return Converted(None, reason)
    value = Decimal(plain)
    _, digits, exponent = value.as_tuple()
    places = -int(exponent)
    if places > DECIMAL_PLACES and any(digits[len(digits) - (places - DECIMAL_PLACES) :]):
        return Converted(None, f"more than {DECIMAL_PLACES} digits after the decimal sign")
    if len(digits) - places > DECIMAL_DIGITS - DECIMAL_PLACES:
        return Converted(
            None, f"more than {DECIMAL_DIGITS - DECIMAL_PLACES} digits before the decimal sign"
        )
    return Converted(value if places <= DECIMAL_PLACES else round(value, DECIMAL_PLACES), None)


def _bare_number(text: str) -> str:
    """Return a number without its currency and without spaces between its groups."""
    text = "".join(each for each in text if unicodedata.category(each) != "Sc")
    text = _CURRENCY_CODE.sub("", text.strip()).strip().replace("−", "-")
    if text[:1] in "+-":
        text = text[:1] + text[1:].strip()
    return _BLANKS.sub("", text)


def _plain(text: str, sign: str | None) -> tuple[str | None, str | None]:
    """Return a number in Python's notation, or None and the reason why it can't be read."""
    sign = sign or _certain_sign(text)
    if sign is None:
        return None, "the decimal sign is ambiguous: set decimal"
    group = "," if sign == "." else "."
    whole, _, decimals = text.partition(sign)
    if sign in decimals or group in decimals:
        return None, f"not a number with the decimal sign {sign!r}"
    parts = whole.lstrip("+-").split(group)
    if len(parts) > 1 and not (1 <= len(parts[0]) <= 3 and all(len(p) == 3 for p in parts[1:])):
        return None, f"not a number with the decimal sign {sign!r}"
    return f"{'-' if text.startswith('-') else ''}{''.join(parts) or '0'}.{decimals or '0'}", None


def _certain_sign(text: str) -> str | None:
    """Return the decimal sign if all readings of a number agree on it.

    A comma before one, two or more than three digits is a decimal sign for some readers and a
    typing error for others, so it counts as ambiguous.
    """
    points, commas = text.count("."), text.count(",")
    if points and commas:
        return "." if text.rfind(".") > text.rfind(",") else ","
    if points > 1:
        return ","
    if commas > 1 or not (points or commas):
        return "."
    if commas:
        return None
    whole, _, decimals = text.lstrip("+-").partition(".")
    return "." if len(decimals) != 3 or len(whole) > 3 or whole in ("", "0") else None
