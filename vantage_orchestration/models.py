# SPDX-License-Identifier: Apache-2.0
"""Replies of the API as immutable values.

Reading is tolerant where the contract says that servers differ: null or missing members, unknown
members and enumeration values, two spellings, numbers as text. It is strict about what other code
depends on: a missing id is an error at once, not a None that fails later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from vantage_orchestration.secret import Secret
from vantage_orchestration.status import Status
from vantage_orchestration.text import clean, identifier, named, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from pendulum import DateTime

T = TypeVar("T")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
Json = Mapping[str, Any]


def _object(data: Any) -> Json:
    if not isinstance(data, Mapping):
        raise ValueError("an object is expected")
    return data


def _text(data: Any) -> str | None:
    """Return a text in one line; None if it is missing, null or empty."""
    return one_line(str(data)) if data not in (None, "") else None


def _needed(data: Json, *names: str) -> str:
    for name in names:
        value = data.get(name)
        if isinstance(value, str) and value:
            return value
    raise ValueError(f"the member {names[0]} is missing")


def id_of(data: Json, *names: str) -> str:
    """Return the id in the first of these members that has one.

    Raises:
        ValueError: There is none, or it contains unprintable characters.
    """
    return identifier(_needed(data, *names))


def _number(data: Any) -> int | None:
    try:
        return int(data)
    except (TypeError, ValueError, OverflowError):
        return None


def items(data: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read an array; null and missing count as empty.

    Raises:
        ValueError: The value is not an array.
    """
    if data is None:
        return ()
    if not isinstance(data, list):
        raise ValueError("an array is expected")
    return tuple(read(item) for item in data)


def array(data: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read a reply that is an array.

    Raises:
        ValueError: The value is not an array. Here null does not count as empty.
    """
    if data is None:
        raise ValueError("an array is expected")
    return items(data, read)


def items_of_page(data: Any, read: Callable[[Any], T]) -> tuple[tuple[T, ...], int | None]:
    """Read a page of a list: its items, and the total number of items if the server gives it.

    Raises:
        ValueError: It is not a page. It must not be mistaken for an empty list.
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
    """Read an array of {key, value} into a dictionary.

    Raises:
        ValueError: The value is not such an array.
    """
    if data is not None and not isinstance(data, list):
        raise ValueError("an array is expected")
    return _pairs(data)


def _uuid(data: Json, *names: str) -> str:
    """Return an id in the one spelling that this package uses; servers may choose any."""
    value = id_of(data, *names)
    return value.lower() if _UUID.fullmatch(value) else value


def same_id(one: object, other: object) -> bool:
    """Return whether two ids are equal. Equal UUIDs may be spelled differently."""
    return str(one).lower() == str(other).lower()


def _status(text: str) -> Status:
    """Read a status. An unknown word may be anything, so it is cleaned."""
    status = Status(text)
    return status if status.is_known else Status(clean(text))


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file stored by the service. ``id`` is opaque."""

    id: str
    name: str

    @classmethod
    def read(cls, data: Any) -> FileRef:
        """Read a File of the API."""
        data = _object(data)
        return cls(id_of(data, "id"), _needed(data, "name"))


@dataclass(frozen=True, slots=True)
class SkillField:
    """A field that a Document skill extracts, with its columns or members."""

    name: str | None
    type: str | None
    text_format: str | None
    is_repeatable: bool
    children: tuple[SkillField, ...]

    @classmethod
    def read(cls, data: Any) -> SkillField:
        """Read a Field of the API."""
        data = _object(data)
        return cls(
            _text(data.get("name")),
            _text(data.get("type")),
            _text(data.get("textFormat")),
            bool(data.get("isRepeatable")),
            items(data.get("children"), SkillField.read),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it in the form that :meth:`read` takes."""
        return {
            "name": self.name,
            "type": self.type,
            "textFormat": self.text_format,
            "isRepeatable": self.is_repeatable,
            "children": [child.to_json() for child in self.children],
        }


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill. ``id`` is not always a UUID. Lists of skills leave out the last three members.

    Attributes:
        id: Id in all calls.
        name: Name in the product.
        type: ``Classification``, ``Document``, ``Process``, ``Ocr``, ``Assembling`` or unknown.
        fields: Fields of a Document skill.
        classes: Ids and names of the classes of a Classification skill.
        skills: Ids of the skills in a Process skill.
    """

    id: str
    name: str
    type: str | None
    fields: tuple[SkillField, ...] = ()
    classes: tuple[tuple[str | None, str | None], ...] = ()
    skills: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: Any) -> Skill:
        """Read a Skill or SkillListItem of the API."""
        data = _object(data)
        skill_id = id_of(data, "id")
        return cls(
            skill_id,
            _text(data.get("name")) or skill_id,
            _text(data.get("type")),
            items(data.get("fields"), SkillField.read),
            items(
                data.get("classes"),
                lambda item: (_text(_object(item).get("id")), _text(item.get("name"))),
            ),
            items(data.get("skills"), lambda item: one_line(str(_object(item).get("id") or ""))),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it in the form that :meth:`read` takes."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "fields": [each.to_json() for each in self.fields],
            "classes": [{"id": key, "name": name} for key, name in self.classes],
            "skills": [{"id": each} for each in self.skills],
        }


@dataclass(frozen=True, slots=True)
class NewTransaction:
    """A new transaction. The link is a secret: its holder can add files and start the
    transaction."""

    id: str
    mobile_input_link: Secret | None = None

    @classmethod
    def read(cls, data: Any) -> NewTransaction:
        """Read a NewTransaction, CreatedTransaction or MobileInputLink of the API."""
        data = _object(data)
        link = _text(data.get("mobileInputLink"))
        return cls(_uuid(data, "transactionId", "id"), Secret(link) if link else None)


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result file. Choose it by ``type``; the order means nothing."""

    id: str
    name: str
    type: str

    @classmethod
    def read(cls, data: Any) -> ResultFile:
        """Read a ResultFile of the API."""
        data = _object(data)
        return cls(
            id_of(data, "fileId"), _needed(data, "fileName"), one_line(_needed(data, "type"))
        )


@dataclass(frozen=True, slots=True)
class ClassConfidence:
    """The confidence of a class, from 0 to 100."""

    id: str | None
    name: str | None
    confidence: int | None


@dataclass(frozen=True, slots=True)
class Classification:
    """The class of a document."""

    class_id: str | None
    class_name: str | None
    is_confident: bool
    confidences: tuple[ClassConfidence, ...]

    @classmethod
    def read(cls, data: Any) -> Classification | None:
        """Read a Classification of the API; the class may be an object or a text."""
        if data is None:
            return None
        data = _object(data)
        found = data.get("resultClass")
        if isinstance(found, Mapping):
            class_id, name = _text(found.get("id")), _text(found.get("name"))
        else:
            class_id, name = None, _text(found)
        return cls(
            class_id,
            name,
            bool(data.get("isResultClassConfident")),
            items(
                data.get("classConfidences"),
                lambda item: ClassConfidence(
                    _text(_object(item).get("classId")),
                    _text(item.get("className")),
                    _number(item.get("confidence")),
                ),
            ),
        )


@dataclass(frozen=True, slots=True)
class BusinessRuleError:
    """A broken business rule of the skill. It is not a failure of the transaction."""

    error_type: str | None
    message: str | None
    rule_id: str | None
    field_id: str | None

    @classmethod
    def read(cls, data: Any) -> BusinessRuleError:
        """Read a BusinessRuleError of the API; every member may be missing."""
        data = _object(data)
        return cls(
            _text(data.get("errorType")),
            _text(data.get("customMessage")),
            _text(data.get("ruleId")),
            _text(data.get("currentFieldId")),
        )


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """A document found by the service, with its result files."""

    id: str
    result_files: tuple[ResultFile, ...]
    classification: Classification | None
    business_rule_errors: tuple[BusinessRuleError, ...]

    @classmethod
    def read(cls, data: Any) -> ExtractedDocument:
        """Read an ExtractedDocument of the API."""
        data = _object(data)
        return cls(
            _uuid(data, "id"),
            items(data.get("resultFiles"), ResultFile.read),
            Classification.read(data.get("classification")),
            items(data.get("businessRulesErrors"), BusinessRuleError.read),
        )


@dataclass(frozen=True, slots=True)
class Transaction:
    """State of a transaction.

    Attributes:
        id: UUID.
        status: Its status; an unknown word counts as not ended.
        manual_review_link: Set while the transaction waits for a person. It holds a token.
        documents: Complete only when the status is ``Processed``.
        error: Why it failed, in one line. Addresses in it lose their query, which may hold a token.
        source_files: The files that were sent.
    """

    id: str
    status: Status
    manual_review_link: Secret | None = field(default=None, repr=False)
    documents: tuple[ExtractedDocument, ...] = ()
    error: str | None = None
    source_files: tuple[FileRef, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the transaction is in a final state."""
        return self.status.is_terminal

    @property
    def file_names(self) -> str:
        """Names of the first files that were sent, in quotes, for error messages."""
        return named([file.name for file in self.source_files]) or "unknown files"

    @property
    def waits_for_review(self) -> bool:
        """Whether a person must review it. Manual review is not a status."""
        return not self.ended and self.manual_review_link is not None

    @classmethod
    def read(cls, data: Any) -> Transaction:
        """Read a Transaction of the API."""
        data = _object(data)
        link = _text(data.get("manualReviewLink"))
        error = _text(data.get("error"))
        return cls(
            _uuid(data, "id", "transactionId"),
            _status(_needed(data, "status")),
            Secret(link) if link else None,
            items(data.get("documents"), ExtractedDocument.read),
            clean(error) if error is not None else None,
            items(data.get("sourceFiles"), FileRef.read),
        )


@dataclass(frozen=True, slots=True)
class TransactionDocument:
    """A document with its source files, never with results."""

    id: str
    source_files: tuple[FileRef, ...]

    @classmethod
    def read(cls, data: Any) -> TransactionDocument:
        """Read a TransactionDocument of the API."""
        data = _object(data)
        return cls(_uuid(data, "documentId"), items(data.get("sourceFiles"), FileRef.read))


@dataclass(frozen=True, slots=True)
class SkillParameter:
    """A skill parameter in force: ``type`` is ``String``, ``Catalog`` or ``Bool``."""

    key: str | None
    value: str | None
    type: str | None

    @classmethod
    def read(cls, data: Any) -> SkillParameter:
        """Read a SkillParameterResult of the API."""
        data = _object(data)
        value = data.get("value")  # As it is: it is compared with what was set.
        return cls(
            _text(data.get("key")),
            str(value) if value not in (None, "") else None,
            _text(data.get("type")),
        )


@dataclass(frozen=True, slots=True)
class ListedTransaction:
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

    id: str
    status: Status | None
    stage: str | None
    stage_name: str | None
    created_at: DateTime | None
    parameters: Mapping[str, str]
    file_parameters: tuple[tuple[str, str], ...]
    skill_id: str | None
    skill_version: int | None
    document_count: int | None
    page_count: int | None

    @classmethod
    def read(cls, data: Any) -> ListedTransaction:
        """Read an ActiveTransaction or CompletedTransaction of the API."""
        data = _object(data)
        status = _text(data.get("status"))
        stage = data.get("stage")
        return cls(
            _uuid(data, "transactionId", "id"),
            _status(status) if status else None,
            one_line(stage) if isinstance(stage, str) else None,
            _text(data.get("stageName")),
            instant(data.get("createTimeUtc")),
            _pairs(data.get("transactionParameters")),
            items(
                data.get("fileParameters"),
                lambda item: (
                    str(_object(item).get("key") or ""),
                    str(item.get("value") or ""),
                ),
            ),
            _text(data.get("skillId")),
            _number(data.get("skillVersion")),
            _number(data.get("documentCount")),
            _number(data.get("pageCount")),
        )


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
    """Return the date-time that a text stands for, in UTC if it names no zone; None for none."""
    if not isinstance(data, str):
        return None
    import pendulum
    from pendulum.parsing.exceptions import ParserError

    try:
        found = pendulum.parse(data, tz="UTC")
    except (ParserError, ValueError):
        return None
    return found if isinstance(found, pendulum.DateTime) else None
