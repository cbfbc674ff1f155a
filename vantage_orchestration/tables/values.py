# SPDX-License-Identifier: Apache-2.0
"""Converts the text of a field into a date, a decimal or a boolean. It never guesses.

Ambiguous text is not converted: ``03/04/2026`` may be in March or April, ``1,234`` may be a little
more than one or more than a thousand. The reason names the setting that decides it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import date

#: Type of a column.
Kind = Literal["text", "date", "decimal", "boolean"]

#: Digits of a decimal column, and how many of them follow the point. Every decimal column has this
#: one type, so that tables of two runs can be read together.
DECIMAL_DIGITS: Final = 38
DECIMAL_PLACES: Final = 9
_PLACE: Final = Decimal(1).scaleb(-DECIMAL_PLACES)

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "checked", "on", "selected", "true", "x", "yes"), True),
    **dict.fromkeys(("0", "false", "no", "off", "unchecked", "unselected"), False),
}

_ISO_DATE: Final = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ][\d:.,Z+-]*)?")
_COMPACT_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})")
_SHORT_DATE: Final = re.compile(r"(\d{1,2})\s*[-/.]\s*(\d{1,2})\s*[-/.]\s*(\d{4})")
_DAY_NAMED: Final = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?[\s.-]*([A-Za-z]{3,9})[\s.,-]*(\d{4})")
_MONTH_NAMED: Final = re.compile(r"([A-Za-z]{3,9})[\s.-]*(\d{1,2})(?:st|nd|rd|th)?[\s.,-]+(\d{4})")
_MONTHS: Final = {
    form: number
    for number, name in enumerate(
        (
            *("january", "february", "march", "april", "may", "june"),
            *("july", "august", "september", "october", "november", "december"),
        ),
        1,
    )
    for form in (name, name[:3])
} | {"sept": 9}

#: Codes of ISO 4217, and RMB. Other letters may change the number: 1.5 MIO is not 1.5.
_CURRENCIES: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP"
    " BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP"
    " GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY"
    " KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP"
    " MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR"
    " RMB RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT"
    " TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR"
    " ZMW ZWG"
)
_CURRENCY_CODE: Final = re.compile(r"^[A-Z]{3}(?![A-Za-z])|(?<![A-Za-z])[A-Z]{3}$")
_NUMBER: Final = re.compile(r"[+-]?(?:\d[\d.,]*|[.,]\d+)")
# Not a line break or a tab: two numbers may be below or beside each other.
_BLANKS: Final = re.compile(r"(?<=\d)[ \xa0\u2000-\u200a\u202f'’](?=\d{3}(?!\d))")


class Converted(NamedTuple):
    """A value, or the reason why there is none. An empty text has neither."""

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
            if not isinstance(pattern, str) or not _has_year(pattern):
                raise ConfigurationError(
                    f"date_format is {pattern!r}; give a strptime pattern with a year, such as"
                    " '%d.%m.%Y'"
                )

    def convert(self, kind: Kind, text: str) -> Converted:
        """Convert a text as the service delivered it. An empty text becomes None."""
        return _converted(self, kind, text)


@lru_cache(maxsize=50_000)
def _converted(form: ValueFormat, kind: Kind, text: str) -> Converted:
    # Cached, since batches repeat dates and amounts.
    stripped = text.strip()
    if kind == "text" or not stripped:
        return Converted(text if kind == "text" else None, None)
    try:
        return Converted(_READERS[kind](stripped, form), None)
    except ValueError as error:
        return Converted(None, str(error))


def _has_year(pattern: str) -> bool:
    """Return whether a pattern is valid and reads a year; Python takes 1900 without one."""
    import pendulum

    moment = pendulum.datetime(2026, 11, 26)
    try:
        found = pendulum.DateTime.strptime(moment.strftime(pattern), pattern)
    except (ValueError, re.error):  # An unknown directive, or one that occurs twice.
        return False
    return found.year == moment.year


def _boolean(text: str, form: ValueFormat) -> bool:
    if (value := _BOOLEANS.get(text.lower())) is None:
        raise ValueError("neither checked nor unchecked, such as true or false")
    return value


def _date(text: str, form: ValueFormat) -> date:
    import pendulum

    for pattern in form.date_format or ():
        with suppress(ValueError):
            return pendulum.DateTime.strptime(text, pattern).date()
    if match := _ISO_DATE.fullmatch(text) or _COMPACT_DATE.fullmatch(text):
        return _day(match[1], match[2], match[3])
    if match := _DAY_NAMED.fullmatch(text):
        return _day(match[3], _MONTHS.get(match[2].lower(), 0), match[1])
    if match := _MONTH_NAMED.fullmatch(text):
        return _day(match[3], _MONTHS.get(match[1].lower(), 0), match[2])
    if not (match := _SHORT_DATE.fullmatch(text)):
        raise ValueError("the date has an unknown format: set date_format")
    first, second = int(match[1]), int(match[2])
    readings = {
        (day, month)
        for day_first, day, month in ((True, first, second), (False, second, first))
        if month <= 12 and form.day_first in (None, day_first)
    }
    if len(readings) == 2:
        raise ValueError("day and month are ambiguous: set day_first or date_format")
    if not readings:
        raise ValueError("there is no such date, or it contradicts day_first")
    day, month = readings.pop()
    return _day(match[3], month, day)


def require_pyarrow() -> None:
    """Refuse tables if pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise ConfigurationError(
            "Tables need pyarrow, which is not installed",
            hint="Install it: pip install 'vantage-orchestration[tables]'",
        )


def _day(year: str, month: str | int, day: str | int) -> date:
    import pendulum

    try:
        return pendulum.Date(int(year), int(month), int(day))
    except ValueError:
        raise ValueError("there is no such date") from None


def _decimal(text: str, form: ValueFormat) -> Decimal:
    bare = _bare_number(text)
    if not _NUMBER.fullmatch(bare):
        raise ValueError("not a number")
    value = Decimal(_plain(bare, form.decimal))
    _, digits, exponent = value.as_tuple()
    places, whole = -int(exponent), DECIMAL_DIGITS - DECIMAL_PLACES
    if places > DECIMAL_PLACES and any(digits[len(digits) - (places - DECIMAL_PLACES) :]):
        raise ValueError(f"more than {DECIMAL_PLACES} digits after the decimal sign")
    if len(digits) - places > whole:
        raise ValueError(f"more than {whole} digits before the decimal sign")
    # The default context has fewer digits.
    exact = Context(prec=DECIMAL_DIGITS)
    return value if places <= DECIMAL_PLACES else value.quantize(_PLACE, context=exact)


#: How a text of each kind is read; a ValueError says why it can't be.
_READERS: Final[dict[str, Callable[[str, ValueFormat], Any]]] = {
    "boolean": _boolean,
    "date": _date,
    "decimal": _decimal,
}


def _bare_number(text: str) -> str:
    """Return a number without its currency and without spaces between its groups."""
    text = "".join(each for each in text if unicodedata.category(each) != "Sc")
    text = _CURRENCY_CODE.sub(
        lambda found: "" if found[0] in _CURRENCIES else found[0], text.strip()
    )
    text = text.strip().replace("−", "-")
    if text[:1] in "+-":
        text = text[:1] + text[1:].strip()
    return _BLANKS.sub("", text)


def _plain(text: str, sign: str | None) -> str:
    """Return a number in Python's notation."""
    sign = sign or _certain_sign(text)
    if sign is None:
        raise ValueError("the decimal sign is ambiguous: set decimal")
    group = "," if sign == "." else "."
    whole, _, decimals = text.partition(sign)
    parts = whole.lstrip("+-").split(group)
    grouped = len(parts) == 1 or (
        1 <= len(parts[0]) <= 3 and all(len(part) == 3 for part in parts[1:])
    )
    if sign in decimals or group in decimals or not grouped:
        raise ValueError(f"not a number with the decimal sign {sign!r}")
    return f"{'-' if text.startswith('-') else ''}{''.join(parts) or '0'}.{decimals or '0'}"


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
