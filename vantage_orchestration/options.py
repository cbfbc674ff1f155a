# SPDX-License-Identifier: Apache-2.0
"""The options that operators, sensor, tasks, flows and the skill block share, in one list.

An option is written in two places here, and nowhere else: in one of the groups, which declare the
accepted types for callers and type checkers, and as a field of :class:`Options`, with its default,
its check and its description. :func:`takes` derives signatures, documentation, forms and template
fields from these.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cache, wraps
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypedDict,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
)

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.limits import RESULT_TYPES
from vantage_orchestration.status import ENDED, Status
from vantage_orchestration.tables.quality import QualityRules
from vantage_orchestration.tables.values import ValueFormat, require_pyarrow

if TYPE_CHECKING:
    from typing_extensions import Unpack

F = TypeVar("F", bound=Callable[..., Any])

#: Prefix for a type that this version does not know; the name is then used as it is.
OTHER: Final = "other:"

TIMEOUT: Final = 3600.0
#: A review can take days; people go on holiday for longer than a week, but results are kept for 14
#: days.
REVIEW_TIMEOUT: Final = 7 * 86_400.0
#: Concurrent requests.
PARALLEL: Final = 8

#: Accepted types for each kind of option.
Seconds = float | timedelta
Texts = str | Iterable[str] | None
Pairs = Mapping[str, Any] | str | None
OnReview = Literal["wait", "return", "fail"]
Duplicates = Literal["skip", "send", "fail"]
OnEmpty = Literal["fail", "skip"]
OnFailed = Literal["fail", "return"]
OnLowQuality = Literal["fail", "flag", "quarantine"]
TableFormat = Literal["parquet", "jsonl", "csv"]


# ------------------------------------------------------------ accepted types


class Parallel(TypedDict, total=False):
    """Option of everything that sends or fetches."""

    parallel: int


class Parameters(TypedDict, total=False):
    """Options of a transaction."""

    registration_parameters: Pairs
    skill_parameters: Pairs


class Sending(Parameters, Parallel, total=False):
    """Options for sending files."""

    duplicates: Duplicates
    on_empty: OnEmpty
    max_files: int | None
    max_pages: int | None


class Limits(TypedDict, total=False):
    """Options for waiting."""

    review_timeout: Seconds
    poke_interval: Seconds
    max_poke_interval: Seconds


class Timed(Limits, total=False):
    """Options for waiting, except ``on_review``."""

    timeout: Seconds


class Fetching(Parallel, total=False):
    """Options for fetching results, for tables of them, and for their quality."""

    result_types: Texts
    tables: TableFormat | None
    date_format: str | list[str] | None
    day_first: bool | None
    decimal: Literal[".", ","] | None
    min_confidence: float | dict[str, float] | None
    required_fields: Texts
    fail_on_rule_errors: bool
    on_low_quality: OnLowQuality
    quarantine_path: str | None


class Collecting(Fetching, total=False):
    """Options for fetching results of own transactions."""

    on_failed: OnFailed
    delete_after: bool


class Completed(Fetching, total=False):
    """Options for fetching what ended in ABBYY Vantage, whatever its origin."""

    statuses: Iterable[str]
    include_api: bool
    since: datetime | str | None
    overlap: Seconds


class Document(Parameters, Timed, total=False):
    """Options for processing a single document, except ``on_review``."""


class Block(Document, Collecting, total=False):
    """Options of the block for a skill, except ``on_review``."""


class Flow(Sending, Timed, Collecting, total=False):
    """Options for the whole job, except ``on_review``."""


class Review(TypedDict, total=False):
    """What to do when a person is needed. Flows have one more choice and declare it themselves."""

    on_review: OnReview


class Waiting(Timed, Review, total=False):
    """Options for waiting."""


class Sensing(Limits, Review, total=False):
    """Options of a sensor, which has its own ``timeout``."""


class Processing(Flow, Review, total=False):
    """Options for the whole job."""


class Every(Processing, Completed, total=False):
    """All options."""


# ------------------------------------------------------------------------ checks


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise _wrong(name, value, "a number of seconds from 0, or a timedelta")
    return float(value)


def _pause(name: str, value: Any) -> float:
    if (seconds := _seconds(name, value)) < 1:
        raise _wrong(name, value, "at least 1 second, which is as often as ABBYY Vantage allows")
    return seconds


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(name, value, "a whole number from 1")
    return value


def flag(name: str, value: Any) -> bool:
    """Return a value that must be True or False: every text is true, even ``"false"``."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(arguments.text(name, each) for each in arguments.items(name, value))


def _statuses(name: str, value: Any) -> tuple[str, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    found, known = tuple(value) if several else (), sorted(ENDED)
    if not found or any(each not in known for each in found):
        raise _wrong(name, value, f"a list of some of {', '.join(known)}")
    return found


def _moment(name: str, value: Any) -> Any:
    import pendulum

    try:
        found = pendulum.parse(value, tz="UTC") if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, datetime):
        raise _wrong(name, value, "a date and time such as 2026-03-01T00:00:00Z")
    return pendulum.instance(found)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return a value that must be one of some strings."""
    if value not in choices:
        raise _wrong(name, value, f"one of {', '.join(choices)}", _near(value, choices))
    return str(value)


def _one_of(literal: Any) -> Callable[[str, Any], str]:
    return lambda name, value: one_of(name, value, get_args(literal))


def _result_types(name: str, value: Any) -> tuple[str, ...]:
    known = {each.lower(): each for each in RESULT_TYPES}
    found: dict[str, None] = {}
    for each in arguments.items(name, value):
        if not isinstance(each, str):
            raise _wrong(name, each, "a list of types, such as FieldsJson")
        # A string may contain several: no type has a comma or space in its name.
        for part in each.replace(",", " ").split():
            other = part.removeprefix(OTHER)
            if other == part and part.lower() not in known:
                near = _near(part, RESULT_TYPES) or (
                    f"For a type that this version does not know, write '{OTHER}{part}'"
                )
                raise _wrong(name, part, f"one of {', '.join(RESULT_TYPES)}", near)
            found[other if other != part else known[part.lower()]] = None
    return tuple(found)


def _wrong(name: str, value: Any, wanted: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"The option {name} is {repr(value)[:100]}; it must be {wanted}", hint=hint or None
    )


def _near(value: Any, choices: Iterable[str]) -> str:
    names = {each.lower(): each for each in choices}
    near = get_close_matches(str(value).lower(), names, n=1, cutoff=0.6)
    return f"Did you mean {names[near[0]]!r}?" if near else ""


# ----------------------------------------------------------------- the one value


def _option(
    default: Any, check: Callable[[str, Any], Any], words: str, *, templated: bool = False
) -> Any:
    """Declare an option: default, check and description, and whether an orchestrator renders it.

    A check gets the default as well, and turns None into an empty list or mapping where it is one.
    """
    return field(default=default, metadata={"check": check, "words": words, "templated": templated})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a job, checked and in their final form.

    All of them are also keyword arguments of operators, tasks and flows. :meth:`of` accepts them as
    people write them; invalid values are refused before anything is sent.

    Raises:
        ConfigurationError: A value is invalid.
    """

    result_types: tuple[str, ...] = _option(
        None,
        _result_types,
        "Types of result files to fetch, such as ``['FieldsJson']``, in upper or lower case;"
        " by default, and if the list is empty, all. ``'other:NAME'`` requests a type that"
        " this version does not know.",
        templated=True,
    )
    registration_parameters: Mapping[str, str] = _option(
        None,
        arguments.pairs,
        "Up to 9 names and values of your own that are stored with each transaction, such as"
        " ``{'batch': '42'}``. They must not change between tries, since a try finds its"
        " transactions by them. Numbers become text, true and false ``Yes`` and ``No``.",
        templated=True,
    )
    skill_parameters: Mapping[str, str] = _option(
        None,
        arguments.pairs,
        "Up to 10 names and values that override the defaults of the skill, such as"
        " ``{'Note': 'urgent'}``. Numbers become text, true and false ``Yes`` and ``No``.",
        templated=True,
    )
    duplicates: Duplicates = _option(
        "skip",
        _one_of(Duplicates),
        "``skip`` sends one of several files with the same content, ``send`` all of them,"
        " ``fail`` refuses them.",
    )
    on_empty: OnEmpty = _option(
        "fail",
        _one_of(OnEmpty),
        "What to do when a pattern matches no file: ``fail``, or ``skip`` the work. An empty"
        " list of inputs is never an error: there is nothing to do.",
    )
    max_files: int | None = _option(
        None,
        _optional(_count),
        "Refuse the work, before anything is sent, if there are more files: a guard against a"
        " pattern that matches too much, since pages cost money. No limit by default.",
    )
    timeout: float = _option(
        TIMEOUT,
        _seconds,
        "Seconds that the service may take, or a ``timedelta``. This clock stops while all"
        " open transactions wait for people.",
    )
    review_timeout: float = _option(
        REVIEW_TIMEOUT,
        _seconds,
        "Seconds that people may take for each transaction, counted from when it needs a"
        " manual review, or a ``timedelta``.",
    )
    on_review: OnReview = _option(
        "wait",
        _one_of(OnReview),
        "What to do when a person is needed: ``wait`` for up to ``review_timeout``,"
        " ``return`` without those documents, or ``fail``. A retry continues in each case.",
    )
    tables: TableFormat | None = _option(
        None,
        _optional(_one_of(TableFormat)),
        "Write the fields of all documents as typed tables below ``tables/`` in the output:"
        " ``parquet``, ``jsonl`` or ``csv``. Needs the extra ``tables``.",
    )
    date_format: tuple[str, ...] = _option(
        None,
        lambda name, value: ValueFormat(date_format=_texts(name, value)).date_format,
        "Format of dates in the results, such as ``'%d.%m.%y'``, or several formats. Without"
        " it or ``day_first`` an ambiguous date stays text.",
    )
    day_first: bool | None = _option(
        None, _optional(flag), "Whether ``03/04/2026`` is the third of April."
    )
    decimal: Literal[".", ","] | None = _option(
        None,
        _optional(_one_of(Literal[".", ","])),
        "The decimal sign of numbers in the results. Without it an ambiguous number, such as"
        " ``1,234``, stays text.",
    )
    min_confidence: float | Mapping[str, float] | None = _option(
        None,
        lambda name, value: QualityRules(min_confidence=value).min_confidence,
        "Lowest confidence of every field, 0 to 100; or a mapping of field names to that,"
        " such as ``{'Total': 90, 'Items.Amount': 80}``. What a person has verified counts"
        " as certain.",
    )
    required_fields: tuple[str, ...] = _option(
        None,
        _texts,
        "Names of fields that must have a value, such as ``['Total', 'Items.Amount']``. A"
        " column of a table needs a value in each row.",
    )
    fail_on_rule_errors: bool = _option(
        False,
        flag,
        "Whether a document that breaks a business rule of its skill is not good enough."
        " ``on_low_quality`` then decides; by default the task fails.",
    )
    on_low_quality: OnLowQuality = _option(
        "fail",
        _one_of(OnLowQuality),
        "What to do with documents that are not good enough. ``fail`` the task when all results"
        " have landed; ``flag`` and count them; or ``quarantine``: also leave them out of the"
        " tables and copy them to ``quarantine_path``, if that is given.",
    )
    on_failed: OnFailed = _option(
        "fail",
        _one_of(OnFailed),
        "What to do when ABBYY Vantage could not process a document: ``fail`` the task when"
        " all other results have landed, or ``return`` them. The manifest lists failed"
        " documents.",
    )
    quarantine_path: Any = _option(
        None,
        _optional(arguments.place),
        "Folder to which failed and quarantined documents are copied, each with a JSON file"
        " that gives the reason.",
        templated=True,
    )
    max_pages: int | None = _option(
        None,
        _optional(_count),
        "Refuse to start if the files have more pages in total, including those of earlier"
        " tries. A file other than a PDF counts as one page. Needs pypdf.",
    )
    delete_after: bool = _option(
        False,
        flag,
        "Delete the transactions in ABBYY Vantage when all their results have landed. The"
        " service deletes them after 14 days anyway.",
    )
    poke_interval: float = _option(
        10.0, _pause, "Seconds between the first polls, at least 1; the interval grows."
    )
    max_poke_interval: float = _option(
        60.0, _pause, "Longest interval between two polls in seconds."
    )
    parallel: int = _option(PARALLEL, _count, "Concurrent requests.")
    statuses: tuple[str, ...] = _option(
        (Status.PROCESSED.value,),
        _statuses,
        "Final statuses to fetch: ``Processed``, ``Failed``, ``Canceled``. The manifest lists"
        " transactions without results under ``failed``.",
    )
    include_api: bool = _option(
        False,
        flag,
        "Whether to include transactions that were sent through the API. Usually their sender"
        " waits for them.",
    )
    since: Any = _option(
        None,
        _optional(_moment),
        "Only transactions created since then, as ISO 8601 text or a ``datetime``. Without it"
        " everything that the service still lists is fetched, which is 14 days.",
    )
    overlap: float = _option(
        3600.0,
        _seconds,
        "Seconds: transactions created within them are read at each poll. Older ones are only"
        " counted, until a count changes.",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, checked(each.name, getattr(self, each.name)))
        wanted = self.result_types
        if wanted and self.min_confidence is not None and "Json" not in wanted:
            raise ConfigurationError(
                "min_confidence needs Json among the result_types, which alone has confidences"
            )
        needed = "tables" if self.tables else "required_fields" if self.required_fields else None
        if wanted and needed and not {"Json", "FieldsJson"} & set(wanted):
            raise ConfigurationError(f"{needed} needs Json or FieldsJson among the result_types")
        if self.tables is not None:
            require_pyarrow()

    @classmethod
    def of(cls, **given: Unpack[Every]) -> Options:
        """Return the options for the given values, with defaults for the rest."""
        return cls(**cast(dict[str, Any], given))


@cache
def _fields() -> Mapping[str, Any]:
    return {each.name: each for each in fields(Options)}


def default_of(name: str) -> Any:
    """Return the default of an option in a caller's form."""
    return _fields()[name].default


def names_of(group: type) -> list[str]:
    """Return the names of the options in a group, in the order of :class:`Options`."""
    # Not get_type_hints, which evaluates every annotation: that is half of the import's time.
    named = inspect.get_annotations(group)
    return [name for name in _fields() if name in named]


def template_fields_of(group: type) -> tuple[str, ...]:
    """Return the names of a group's options that an orchestrator may render."""
    return tuple(name for name in names_of(group) if _fields()[name].metadata["templated"])


def checked(name: str, value: Any) -> Any:
    """Return the value of one option in its final form."""
    return _fields()[name].metadata["check"](name, arguments.plain(value))


def words_of(name: str) -> str:
    """Return the description of an option, as sentences."""
    return str(_fields()[name].metadata["words"])


def documented(doc: str | None, group: type, skip: Iterable[str] = ()) -> str:
    """Return a docstring whose section ``Args`` also describes the options of a group."""
    lines = inspect.cleandoc(doc or "").splitlines()
    if "Args:" not in lines:
        lines += ["", "Args:"]
    end = lines.index("Args:") + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    while not lines[end - 1]:
        end -= 1
    own = [f"    {name}: {words_of(name)}" for name in names_of(group) if name not in skip]
    return "\n".join([*lines[:end], *own, *lines[end:]])


def takes(
    group: type, *, form: Callable[[str, Any], Any] | None = None, **defaults: Any
) -> Callable[[F], F]:
    """Give a function with ``**options`` a signature and documentation that name each option.

    So ``help()``, Prefect's forms and Airflow's ``default_args`` see what type checkers and editors
    read from ``**options: Unpack[GROUP]``. ``form`` returns the annotation of an option from its
    name and type, for forms; ``defaults`` are those that differ from :class:`Options`.
    """
    types = get_type_hints(Options if form is not None else group)

    def decorate(function: F) -> F:
        known = inspect.signature(function).parameters.values()
        own = [
            each.replace(annotation=eval(each.annotation, function.__globals__))  # noqa: S307
            if isinstance(each.annotation, str)
            else each
            for each in known
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, default_of(name)),
                annotation=form(name, types[name]) if form is not None else types[name],
            )
            for name in names_of(group)
            if name not in {each.name for each in own}
        ]
        method = own[:1] if own and own[0].name == "self" else []
        rest = [each for each in known if each.kind is inspect.Parameter.VAR_KEYWORD and method]

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**defaults, **kwargs})

        wrapper.__signature__ = inspect.Signature([*own, *added, *rest])  # type: ignore[attr-defined]
        wrapper.__doc__ = documented(function.__doc__, group, {each.name for each in own})
        return cast(F, wrapper)

    return decorate
