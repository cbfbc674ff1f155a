# SPDX-License-Identifier: Apache-2.0
"""Replies of the API as immutable values.

Each attribute declares how it is read: by its type, and by the names of its member if those are not
its own name in camel case. Reading is tolerant where the contract says that servers differ: null or
missing members, unknown members and enumeration values, two spellings, numbers as text. It is
strict about what other code depends on: a missing id is an error at once, not a None that fails
later.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
)

from vantage_orchestration.limits import RESULT_TYPES
from vantage_orchestration.secret import Secret
from vantage_orchestration.status import Status
from vantage_orchestration.stored import plain
from vantage_orchestration.text import clean, identifier, named, one_line

if TYPE_CHECKING:
    from pendulum import DateTime

_TYPES = {each.lower(): each for each in RESULT_TYPES}

T = TypeVar("T")
R = TypeVar("R", bound="_Reply")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
Json = Mapping[str, Any]


def _object(data: Any) -> Json:
    if not isinstance(data, Mapping):
        raise ValueError("an object is expected")
    return data


def _text(data: Any) -> str | None:
    """Return a text in one line; None if it is missing, null, empty or a container."""
    return one_line(str(data)) if isinstance(data, (str, int, float)) and data != "" else None


def _exact(data: Any) -> str | None:
    return None if data is None else str(data)


def _type(text: str) -> str:
    """Return a type of result files as the contract spells it, an unknown one as it is."""
    return _TYPES.get(text.strip().lower(), one_line(text))


def _flag(data: Any) -> bool:
    return str(data).lower() in ("true", "1")


def _number(data: Any) -> int | None:
    try:
        return int(float(data) if isinstance(data, str) else data)
    except (TypeError, ValueError, OverflowError):
        return None


def items(data: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read an array; null and missing count as empty."""
    if data is None:
        return ()
    if not isinstance(data, list):
        raise ValueError("an array is expected")
    return tuple(read(item) for item in data)


def array(data: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read a reply that is an array. Here null does not count as empty."""
    if data is None:
        raise ValueError("an array is expected")
    return items(data, read)


def items_of_page(data: Any, read: Callable[[Any], T]) -> tuple[tuple[T, ...], int | None]:
    """Read a page of a list: its items, and the total number of items if the server gives it.

    What is not a page must not be mistaken for an empty list.
    """
    data = _object(data)
    found, total = items(data.get("items"), read), _number(data.get("totalItemCount"))
    if data.get("items") is None and total != 0:
        raise ValueError("the member items is missing")
    return found, total


def _pairs(data: Any) -> dict[str, str]:
    pairs = {}
    for item in data or ():
        key = _text(_object(item).get("key"))
        if key is not None:
            pairs[key] = str(item.get("value") or "")
    return pairs


def pairs(data: Any) -> dict[str, str]:
    """Read an array of {key, value} into a dictionary."""
    if data is not None and not isinstance(data, list):
        raise ValueError("an array is expected")
    return _pairs(data)


def _uuid(data: Any) -> str:
    """Return an id in the one spelling that this package uses; servers may choose any."""
    value = identifier(data)
    return value.lower() if _UUID.fullmatch(value) else value


def same_id(one: object, other: object) -> bool:
    """Return whether two ids are equal. Equal UUIDs may be spelled differently."""
    return str(one).lower() == str(other).lower()


def _status(text: str) -> Status:
    """Read a status. An unknown word may be anything, so it is cleaned."""
    status = Status(text)
    return status if status.is_known else Status(clean(text))


def _if_text(read: Callable[[str], T]) -> Callable[[Any], T | None]:
    return lambda data: read(text) if (text := _text(data)) else None


class _As(NamedTuple):
    """How the value of a member is read, and written again."""

    read: Callable[[Any], Any]
    #: Whether a reply without a text in it is refused.
    needed: bool = False
    write: Callable[[Any], Any] = plain


_Text = Annotated[str | None, _As(_text)]
_Needed = Annotated[str, _As(str, needed=True)]
_Id = Annotated[str, _As(identifier, needed=True)]
_Uuid = Annotated[str, _As(_uuid, needed=True)]
_Number = Annotated[int | None, _As(_number)]
_Flag = Annotated[bool, _As(_flag)]
_Link = Annotated[Secret | None, _As(_if_text(Secret))]


class _Reply:
    """Base of the values that are read from an object of the API."""

    __slots__ = ()

    @classmethod
    def read(cls: type[R], data: Any) -> R:
        """Read the object of the API that the class is named after.

        Raises:
            ValueError: A member that is needed is missing, or one has another shape.
        """
        return _read(cls, _object(data))

    def to_json(self) -> dict[str, Any]:
        """Return it in the form that :meth:`read` takes."""
        return {
            names[0]: how.write(getattr(self, attribute))
            for attribute, how, names in _members(cast(Any, type(self)))
        }


def _read(kind: type[R], data: Json) -> R:
    values = []
    for _, (read, needed, _), names in _members(cast(Any, kind)):
        for name in names:
            value = data.get(name)
            if needed and not (isinstance(value, str) and value):
                continue
            # Nothing may be left of a text that can't be shown.
            value = read(None if value == "" else value)
            if needed or value not in (None, ""):
                break
        else:
            if needed:
                raise ValueError(f"the member {names[0]} is missing")
            value = None
        values.append(value)
    return kind(*values)


@functools.cache
def _members(kind: type) -> list[tuple[str, _As, tuple[str, ...]]]:
    """Return each attribute of a class, how it is read, and the names of its member."""
    found = []
    # pendulum is loaded only when it is needed.
    hints = get_type_hints(kind, localns={"DateTime": Any}, include_extras=True)
    for name, hint in hints.items():
        given = getattr(hint, "__metadata__", ())
        hows = [each for each in given if isinstance(each, _As)]
        first, *rest = name.split("_")
        names = tuple(each for each in given if isinstance(each, str))
        names = names or (first + "".join(map(str.capitalize, rest)),)
        how = hows[0] if hows else _nested(hint.__origin__ if given else hint)
        found.append((name, how, names))
    return found


def _nested(hint: Any) -> _As:
    """Return how another value of the API, or an array of them, is read."""
    kind, end = get_args(hint)
    if end is ...:
        return _As(lambda data: items(data, kind.read))
    return _As(lambda data: None if data is None else kind.read(data))


def id_of(data: Json, name: str) -> str:
    """Return the id in a member of a reply."""
    if not data.get(name):
        raise ValueError(f"the member {name} is missing")
    return identifier(data[name])


@dataclass(frozen=True, slots=True)
class FileRef(_Reply):
    """A file stored by the service (File of the API). ``id`` is opaque."""

    id: _Id
    name: _Needed


@dataclass(frozen=True, slots=True)
class SkillField(_Reply):
    """A field that a Document skill extracts (Field of the API), with its columns or members."""

    #: As it is: result files have the same.
    name: Annotated[str | None, _As(_exact)]
    type: _Text
    text_format: _Text
    is_repeatable: _Flag
    children: tuple[SkillField, ...]


def _class(data: Any) -> tuple[str | None, str | None]:
    return _text(_object(data).get("id")), _text(data.get("name"))


_Classes = _As(
    lambda data: items(data, _class),
    write=lambda classes: [{"id": key, "name": name} for key, name in classes],
)
#: The skills in a Process skill; the contract lets an id be null.
_Skills = _As(
    lambda data: tuple(filter(None, items(data, lambda each: _text(_object(each).get("id"))))),
    write=lambda ids: [{"id": each} for each in ids],
)


@dataclass(frozen=True, slots=True)
class Skill(_Reply):
    """A skill (Skill or SkillListItem of the API). ``id`` is not always a UUID. Lists of skills
    leave out the last three members.

    Attributes:
        id: Id in all calls.
        name: Name in the product.
        type: ``Classification``, ``Document``, ``Process``, ``Ocr``, ``Assembling`` or unknown.
        fields: Fields of a Document skill.
        classes: Ids and names of the classes of a Classification skill.
        skills: Ids of the skills in a Process skill.
    """

    id: _Id
    name: Annotated[str, _As(_text), "name", "id"]
    type: _Text
    fields: tuple[SkillField, ...] = ()
    classes: Annotated[tuple[tuple[str | None, str | None], ...], _Classes] = ()
    skills: Annotated[tuple[str, ...], _Skills] = ()


@dataclass(frozen=True, slots=True)
class NewTransaction(_Reply):
    """A new transaction (NewTransaction, CreatedTransaction or MobileInputLink of the API). The
    link is a secret: its holder can add files and start the transaction."""

    id: Annotated[_Uuid, "transactionId", "id"]
    mobile_input_link: _Link = None


@dataclass(frozen=True, slots=True)
class ResultFile(_Reply):
    """A result file. Choose it by ``type``; the order means nothing."""

    id: Annotated[_Id, "fileId"]
    name: Annotated[_Needed, "fileName"]
    type: Annotated[str, _As(_type, needed=True)]


@dataclass(frozen=True, slots=True)
class ClassConfidence(_Reply):
    """The confidence of a class, from 0 to 100."""

    id: Annotated[_Text, "classId"]
    name: Annotated[_Text, "className"]
    confidence: _Number


@dataclass(frozen=True, slots=True)
class Classification(_Reply):
    """The class of a document."""

    class_id: _Text
    class_name: _Text
    is_confident: Annotated[_Flag, "isResultClassConfident"]
    confidences: Annotated[tuple[ClassConfidence, ...], "classConfidences"]

    @classmethod
    def read(cls, data: Any) -> Classification:
        """Read a Classification of the API; the class may be an object or a text."""
        found = _object(data).get("resultClass")
        found = found if isinstance(found, Mapping) else {"name": found}
        return _read(cls, {**data, "classId": found.get("id"), "className": found.get("name")})


@dataclass(frozen=True, slots=True)
class BusinessRuleError(_Reply):
    """A broken business rule of the skill. It is not a failure of the transaction."""

    error_type: _Text
    message: Annotated[_Text, "customMessage"]
    rule_id: _Text
    field_id: Annotated[_Text, "currentFieldId"]


@dataclass(frozen=True, slots=True)
class ExtractedDocument(_Reply):
    """A document found by the service, with its result files."""

    id: _Uuid
    result_files: tuple[ResultFile, ...]
    classification: Classification | None
    business_rule_errors: Annotated[tuple[BusinessRuleError, ...], "businessRulesErrors"]


@dataclass(frozen=True, slots=True)
class Transaction(_Reply):
    """State of a transaction.

    Attributes:
        id: UUID.
        status: Its status; an unknown word counts as not ended.
        manual_review_link: Set while the transaction waits for a person. It holds a token.
        documents: Complete only when the status is ``Processed``.
        error: Why it failed, in one line. Addresses in it lose their query, which may hold a token.
        source_files: The files that were sent.
    """

    id: Annotated[_Uuid, "id", "transactionId"]
    status: Annotated[Status, _As(_status, needed=True)]
    manual_review_link: _Link = field(default=None, repr=False)
    documents: tuple[ExtractedDocument, ...] = ()
    error: Annotated[str | None, _As(_if_text(clean))] = None
    source_files: tuple[FileRef, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the transaction is in a final state."""
        return self.status.is_terminal

    @property
    def file_names(self) -> str:
        """Names of the first files that were sent, in quotes, for error messages."""
        return named(self.source_files) or "unknown files"

    @property
    def waits_for_review(self) -> bool:
        """Whether a person must review it. Manual review is not a status."""
        return not self.ended and self.manual_review_link is not None


@dataclass(frozen=True, slots=True)
class TransactionDocument(_Reply):
    """A document with its source files, never with results."""

    id: Annotated[_Uuid, "documentId"]
    source_files: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True)
class SkillParameter(_Reply):
    """A skill parameter in effect (SkillParameterResult of the API): ``type`` is ``String``,
    ``Catalog`` or ``Bool``."""

    key: _Text
    #: As it is: it is compared with what was set.
    value: Annotated[str | None, _As(_exact)]
    type: _Text


def _parameter(data: Any) -> tuple[str, str]:
    return str(_object(data).get("key") or ""), str(data.get("value") or "")


@dataclass(frozen=True, slots=True)
class ListedTransaction(_Reply):
    """A transaction in the lists of active and completed transactions.

    Attributes:
        id: UUID.
        status: Status of a completed transaction; None for an active one.
        stage: Stage of an active transaction: ``ManualReview``, ``CustomActivity`` or
            ``Automatic``.
        stage_name: Name of that stage.
        created_at: When it was created.
        parameters: Its registration parameters.
        file_parameters: Registration parameters of its files.
        skill_id: Skill.
        skill_version: Version of the skill.
        document_count: Number of documents.
        page_count: Charged pages of a completed transaction.
    """

    id: Annotated[_Uuid, "transactionId", "id"]
    status: Annotated[Status | None, _As(_if_text(_status))]
    stage: _Text
    stage_name: _Text
    created_at: Annotated[DateTime | None, _As(lambda data: instant(data)), "createTimeUtc"]
    parameters: Annotated[Mapping[str, str], _As(_pairs), "transactionParameters"]
    file_parameters: Annotated[
        tuple[tuple[str, str], ...], _As(lambda data: items(data, _parameter))
    ]
    skill_id: _Text
    skill_version: _Number
    document_count: _Number
    page_count: _Number


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, and the total number of items."""

    items: tuple[ListedTransaction, ...]
    total: int

    @classmethod
    def read(cls, data: Any) -> Page:
        """Read an ActiveTransactionPage or CompletedTransactionPage of the API."""
        found, total = items_of_page(data, ListedTransaction.read)
        return cls(found, len(found) if total is None else total)


def instant(data: Any) -> DateTime | None:
    """Return the date-time that a text stands for, in UTC if it names no zone; None for none, which
    servers on .NET may write as their first or last moment."""
    if not isinstance(data, str):
        return None
    import pendulum
    from pendulum.parsing.exceptions import ParserError

    try:
        found = pendulum.parse(data, tz="UTC")
    except (ParserError, ValueError):
        return None
    return found if isinstance(found, pendulum.DateTime) and 1 < found.year < 9999 else None
