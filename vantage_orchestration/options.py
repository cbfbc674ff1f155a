# SPDX-License-Identifier: Apache-2.0
"""The options that operators, sensor, tasks, flows and the skill block share, in one list.

An option is written twice here, and nowhere else: in one of the groups, which say to callers and
type checkers what may be given, and as a field of :class:`Options`, which has its default, its
check and its description. Signatures, documentation, forms and template fields are made of these by
:func:`takes`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
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
from vantage_orchestration.tables.quality import QualityRules
from vantage_orchestration.tables.values import ValueFormat, require_pyarrow

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "PARALLEL",
    "RESULT_TYPES",
    "REVIEW_TIMEOUT",
    "TIMEOUT",
    "Block",
    "Collecting",
    "Document",
    "Fetching",
    "Flow",
    "Limits",
    "Options",
    "Parameters",
    "Processing",
    "Review",
    "Sending",
    "Sensing",
    "Timed",
    "Waiting",
    "checked",
    "default_of",
    "documented",
    "names_of",
    "one_of",
    "takes",
    "template_fields_of",
    "words_of",
]

F = TypeVar("F", bound=Callable[..., Any])

#: Types of result files (contract, section 7.1).
RESULT_TYPES: Final = (
    *("Json", "Pdf", "Text", "Docx", "Xlsx", "OcrJson", "FieldsJson", "FieldPicture"),
    *("Xml", "Tiff", "Jpeg", "Csv", "Html", "Pptx", "Alto", "Png"),
)
#: In front of the name of a type that this version does not know, which is taken as it is then.
OTHER: Final = "other:"

TIMEOUT: Final = 3600.0
#: A review can take days; people go on holiday for longer than a week, but results live 14 days.
REVIEW_TIMEOUT: Final = 7 * 86_400.0
#: Requests at the same time.
PARALLEL: Final = 8

#: What may be given for each kind of option.
Seconds = float | timedelta
Texts = str | Iterable[str] | None
Pairs = Mapping[str, Any] | str | None
OnReview = Literal["wait", "return", "fail"]
Duplicates = Literal["skip", "send", "fail"]
OnEmpty = Literal["fail", "skip"]
OnFailed = Literal["fail", "return"]
OnLowQuality = Literal["fail", "flag", "quarantine"]
TableFormat = Literal["parquet", "jsonl", "csv"]


# ------------------------------------------------------------ what callers may give


class Parallel(TypedDict, total=False):
    """Option of all that sends or fetches."""

    parallel: int


class Parameters(TypedDict, total=False):
    """Options of a transaction."""

    registration_parameters: Pairs
    skill_parameters: Pairs


class Sending(Parameters, Parallel, total=False):
    """Options of what sends files."""

    duplicates: Duplicates
    on_empty: OnEmpty
    max_files: int | None
    max_pages: int | None


class Limits(TypedDict, total=False):
    """Options of all that waits."""

    review_timeout: Seconds
    poke_interval: Seconds
    max_poke_interval: Seconds


class Timed(Limits, total=False):
    """Options of what waits, but for ``on_review``."""

    timeout: Seconds


class Fetching(Parallel, total=False):
    """Options of what fetches results, makes tables of them, and judges them."""

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
    """Options of what fetches results of its own transactions."""

    on_failed: OnFailed
    delete_after: bool


class Document(Parameters, Timed, total=False):
    """Options of what processes a single document, but for ``on_review``."""


class Block(Document, Collecting, total=False):
    """Options of the block for a skill, but for ``on_review``."""


class Flow(Sending, Timed, Collecting, total=False):
    """Options of what does all of it, but for ``on_review``."""


class Review(TypedDict, total=False):
    """What to do when a person is needed. Flows have one choice more, and state it themselves."""

    on_review: OnReview


class Waiting(Timed, Review, total=False):
    """Options of what waits."""


class Sensing(Limits, Review, total=False):
    """Options of a sensor, which has a ``timeout`` of its own."""


class Processing(Flow, Review, total=False):
    """Options of what does all of it."""


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


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(arguments.text(name, each) for each in arguments.items(name, value))


def _formats(name: str, value: Any) -> tuple[str, ...]:
    return tuple(ValueFormat(date_format=_texts(name, value)).date_format or ())


def _confidences(name: str, value: Any) -> Any:
    return QualityRules(min_confidence=value).min_confidence


def _place(name: str, value: Any) -> Any:
    return arguments.place(name, value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return a value that has to be one of some texts.

    Raises:
        ConfigurationError: It is another one.
    """
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
        # A text may hold several: no type has a comma or blank in its name.
        for part in each.replace(",", " ").split():
            other = part.removeprefix(OTHER)
            if other == part and part.lower() not in known:
                near = _near(part, RESULT_TYPES) or (
                    f"To ask for a type that this version does not know, write '{OTHER}{part}'"
                )
                raise _wrong(name, part, f"one of {', '.join(RESULT_TYPES)}", near)
            found[other if other != part else known[part.lower()]] = None
    return tuple(found)


def _wrong(name: str, value: Any, wanted: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"The option {name} is {repr(value)[:100]}; it is {wanted}", hint=hint or None
    )


def _near(value: Any, choices: Iterable[str]) -> str:
    from difflib import get_close_matches

    names = {each.lower(): each for each in choices}
    near = get_close_matches(str(value).lower(), names, n=1, cutoff=0.6)
    return f"Did you mean {names[near[0]]!r}?" if near else ""


# ----------------------------------------------------------------- the one value


def _about(
    check: Callable[[str, Any], Any], words: str, *, templated: bool = False
) -> dict[str, Any]:
    """Describe an option: how it is checked, what it does, whether an orchestrator renders it."""
    return {"check": check, "words": words, "templated": templated}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a job is to do: checked, in the form in which it is used.

    All of them are keyword arguments of operators, tasks and flows, too. :meth:`of` takes them as
    people write them; whatever is wrong is refused before anything is sent.

    Raises:
        ConfigurationError: A value is not acceptable.
    """

    result_types: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            _result_types,
            "Types of result files to fetch, such as ``['FieldsJson']``, in any case; all by"
            " default, and if the list is empty. ``'other:NAME'`` asks for a type that this version"
            " does not know.",
            templated=True,
        ),
    )
    registration_parameters: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_about(
            arguments.pairs,
            "Names and texts of your own, up to 9, that each transaction carries, such as"
            " ``{'batch': '42'}``. They must not change from try to try: they are part of what"
            " makes a try find its transactions. Numbers become text, true and false ``Yes`` and"
            " ``No``.",
            templated=True,
        ),
    )
    skill_parameters: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_about(
            arguments.pairs,
            "Names and texts, up to 10, that win over the defaults of the skill, such as"
            " ``{'Note': 'urgent'}``. Numbers become text, true and false ``Yes`` and ``No``.",
            templated=True,
        ),
    )
    duplicates: Duplicates = field(
        default="skip",
        metadata=_about(
            _one_of(Duplicates),
            "``skip`` sends one of several files with the same content, ``send`` all of them,"
            " ``fail`` refuses them.",
        ),
    )
    on_empty: OnEmpty = field(
        default="fail",
        metadata=_about(
            _one_of(OnEmpty),
            "What to do when a pattern fits no file: ``fail``, or ``skip`` the work. An empty list"
            " of inputs is never an error: there is nothing to do.",
        ),
    )
    max_files: int | None = field(
        default=None,
        metadata=_about(
            lambda name, value: None if value is None else _count(name, value),
            "Refuse the work, before anything is sent, if there are more files: a guard against a"
            " pattern that fits too much, since pages cost money. No limit by default.",
        ),
    )
    timeout: float = field(
        default=TIMEOUT,
        metadata=_about(
            _seconds,
            "Seconds that the service may take, or a ``timedelta``. They do not run while all that"
            " is left waits for people.",
        ),
    )
    review_timeout: float = field(
        default=REVIEW_TIMEOUT,
        metadata=_about(
            _seconds,
            "Seconds that people may take for each transaction, from when it needs a manual"
            " review, or a ``timedelta``.",
        ),
    )
    on_review: OnReview = field(
        default="wait",
        metadata=_about(
            _one_of(OnReview),
            "What to do when a person is needed: ``wait`` for up to ``review_timeout``, ``return``"
            " without those documents, or ``fail``. Another try goes on in each case.",
        ),
    )
    tables: TableFormat | None = field(
        default=None,
        metadata=_about(
            _optional(_one_of(TableFormat)),
            "Write the fields of all documents as typed tables below ``tables/`` in the output:"
            " ``parquet``, ``jsonl`` or ``csv``. Needs the extra ``tables``.",
        ),
    )
    date_format: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            _formats,
            "How dates are written in the results, such as ``'%d.%m.%y'``, or several forms. A date"
            " that has two readings stays text without it or ``day_first``.",
        ),
    )
    day_first: bool | None = field(
        default=None,
        metadata=_about(_optional(_flag), "Whether ``03/04/2026`` is the third of April."),
    )
    decimal: Literal[".", ","] | None = field(
        default=None,
        metadata=_about(
            _optional(_one_of(Literal[".", ","])),
            "The decimal sign of numbers in the results. A number that has two readings, such as"
            " ``1,234``, stays text without it.",
        ),
    )
    min_confidence: float | Mapping[str, float] | None = field(
        default=None,
        metadata=_about(
            _optional(_confidences),
            "Lowest confidence that a field may have, 0 to 100; or names of fields to that, such as"
            " ``{'Total': 90, 'Items.Amount': 80}``. What a person has verified is certain.",
        ),
    )
    required_fields: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            _texts,
            "Names of fields that must have a value, such as ``['Total', 'Items.Amount']``. Of a"
            " table's column, each row must have it.",
        ),
    )
    fail_on_rule_errors: bool = field(
        default=False,
        metadata=_about(
            _flag,
            "A document that breaks a business rule of its skill is not good enough. What then"
            " happens says ``on_low_quality``: by default the task fails.",
        ),
    )
    on_low_quality: OnLowQuality = field(
        default="fail",
        metadata=_about(
            _one_of(OnLowQuality),
            "What to do with documents that are not good enough. ``fail`` the task when all results"
            " have landed; ``flag`` and count them; or ``quarantine``: also leave them out of the"
            " tables and copy them to ``quarantine_path``, if that is given.",
        ),
    )
    on_failed: OnFailed = field(
        default="fail",
        metadata=_about(
            _one_of(OnFailed),
            "What to do when ABBYY Vantage could not process a document: ``fail`` the task when all"
            " other results have landed, or ``return`` them. The manifest names those that failed.",
        ),
    )
    quarantine_path: Any = field(
        default=None,
        metadata=_about(
            _optional(_place),
            "Folder to which documents that failed, or are in quarantine, are copied, each with a"
            " JSON file that says why.",
            templated=True,
        ),
    )
    max_pages: int | None = field(
        default=None,
        metadata=_about(
            _optional(_count),
            "Refuse to start if the files have more pages together, those of earlier tries"
            " included. A file that is no PDF counts as one page. Needs pypdf.",
        ),
    )
    delete_after: bool = field(
        default=False,
        metadata=_about(
            _flag,
            "Delete the transactions in ABBYY Vantage when all of their results have landed. The"
            " service deletes them after 14 days anyway.",
        ),
    )
    poke_interval: float = field(
        default=10.0,
        metadata=_about(
            _pause, "Seconds between two looks at the beginning, 1 at least; the pauses grow."
        ),
    )
    max_poke_interval: float = field(
        default=60.0, metadata=_about(_pause, "Seconds between two looks at the most.")
    )
    parallel: int = field(default=PARALLEL, metadata=_about(_count, "Requests at the same time."))

    def __post_init__(self) -> None:
        for each in fields(self):
            value = each.metadata["check"](each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
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
    def of(cls, **given: Unpack[Processing]) -> Options:
        """Return the options for what people have given; the defaults for all else."""
        return cls(**cast(dict[str, Any], given))


@cache
def _fields() -> Mapping[str, Any]:
    return {each.name: each for each in fields(Options)}


def default_of(name: str) -> Any:
    """Return the default of an option, as a caller would write it; None for an empty mapping."""
    default = _fields()[name].default
    return None if default in (MISSING, ()) else default


def names_of(group: type) -> list[str]:
    """Return the names of the options in a group, in the order of :class:`Options`."""
    return [name for name in _fields() if name in get_type_hints(group)]


def template_fields_of(group: type) -> tuple[str, ...]:
    """Return the names of the options in a group that an orchestrator may render."""
    return tuple(name for name in names_of(group) if _fields()[name].metadata["templated"])


def checked(name: str, value: Any) -> Any:
    """Return the value of one option in the form in which it is used.

    Raises:
        ConfigurationError: It is not acceptable.
    """
    return _fields()[name].metadata["check"](name, value)


def words_of(name: str) -> str:
    """Return the description of an option, as sentences."""
    return str(_fields()[name].metadata["words"])


def documented(doc: str | None, group: type, skip: Iterable[str] = ()) -> str:
    """Return a docstring whose section ``Args`` describes the options of a group, too."""
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

    So a person who asks for help, Prefect's forms and Airflow's ``default_args`` find what type
    checkers and editors read from ``**options: Unpack[GROUP]``.

    Args:
        group: Which options it takes.
        form: Returns the annotation of an option from its name and type, for forms.
        defaults: Defaults that differ from those of :class:`Options`.
    """
    types = get_type_hints(Options if form is not None else group)

    def decorate(function: F) -> F:
        known = inspect.signature(function).parameters.values()
        own = [
            each.replace(annotation=_evaluated(each.annotation, function))
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


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation  # noqa: S307
