# SPDX-License-Identifier: Apache-2.0
"""Reads the result files of documents into one form (contract, sections 7.2 and 7.3).

The form is that of ``Json``: a list of ``{"Name": ..., "List": [{"Value": ...}]}``. The values of a
``FieldsJson`` are converted to it, without confidence and regions, which that type lacks.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from vantage_orchestration.text import MISFIT, one_line

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import (
        DocumentEntry,
        SourceEntry,
        TransactionManifest,
    )
    from vantage_orchestration.storage import Location

Entry = Mapping[str, Any]

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")

#: Types of result files with fields, best first.
READABLE = ("Json", "FieldsJson")
#: Groups within groups that are read; more would exceed Python's stack.
_DEEPEST = 50


class Number(str):
    """A number of JSON with all its digits. Its decimal sign is a point, whatever texts have."""

    __slots__ = ()


class Content(NamedTuple):
    """The content of a result file for one document."""

    #: Its fields.
    entries: Sequence[Entry]
    #: Name of the applied Document skill, and number of its pages, if given.
    concept: str | None = None
    pages: int | None = None
    #: Names and messages of broken rules.
    rule_errors: Sequence[tuple[str, str | None]] = ()
    #: Whether its type has confidences.
    has_confidences: bool = True


@dataclass(frozen=True, slots=True)
class DocumentContent:
    """A document with the content of its result files."""

    #: Its position in the transaction, from 1.
    index: int
    #: Its entry in the manifest.
    document: DocumentEntry
    #: Its fields; None if it has no readable file with fields.
    content: Content | None
    #: Why files could not be read.
    problems: Sequence[str]


def contents_of(transaction: TransactionManifest, folder: Location) -> Iterator[DocumentContent]:
    """Read the result files of a transaction in a folder, document by document."""
    for index, document in enumerate(transaction.documents, 1):
        yield DocumentContent(index, document, *_content_of(document, document.place(folder)))


def _content_of(document: DocumentEntry, folder: Location) -> tuple[Content | None, list[str]]:
    """Return the fields of a document, and why files could not be read."""
    problems: list[str] = []
    for kind in READABLE:
        for file in document.files:
            if file.type != kind:
                continue
            try:
                data = folder.child(file.path).read_bytes()
                return read_content(kind, data, document.document_id), problems
            except FileNotFoundError:
                problems.append(f"{file.path} is missing")
            except ValueError as error:
                problems.append(f"{file.path} can't be read as {kind}: {error}")
    return None, problems


def sources_of(
    transaction: TransactionManifest, document: DocumentEntry
) -> tuple[SourceEntry, ...]:
    """Return the files from which a document was made, as far as known."""
    if document.sources:
        return tuple(each for each in transaction.sources if each.stored_name in document.sources)
    if len(transaction.documents) == 1 or len(transaction.sources) == 1:
        return transaction.sources
    return ()


def read_content(kind: str, data: bytes, document_id: str) -> Content:
    """Read the bytes of a ``Json`` or ``FieldsJson``, which may hold several documents; another
    structure is a ValueError."""
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        if _HALF_PAIR.search(text):
            # Half of a surrogate pair is not a character and can't be written to a file.
            whole = json.dumps(json.loads(text), ensure_ascii=False)
            text = whole.encode("utf-8", "replace").decode()
        parsed = json.loads(text, parse_float=_number)
        if kind == "FieldsJson":
            content = Content(_entries_of(parsed["Fields"]), has_confidences=False)
        else:
            content = content_of_json(parsed, document_id)
        _check(content.entries)
    except ValueError:
        raise  # It says itself what is wrong.
    except MISFIT as error:
        raise ValueError(f"it has another structure ({type(error).__name__})") from None
    return content


def _number(text: str) -> Number:
    """Return a number without an exponent, unless it has more than a hundred digits then."""
    with contextlib.suppress(ArithmeticError):
        number = Decimal(text)
        if abs(number.adjusted()) <= 100:
            return Number(format(number, "f"))
    return Number(text)


def _check(entries: Sequence[Entry], depth: int = 0) -> None:
    """Refuse fields of another structure here, so that no reader of them fails."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    for entry in entries:
        items = entry.get("List") or ()
        # Nothing may be read from a member of another name as if there were no values.
        unknown = "List" not in entry and len(entry) > 1
        if "Name" not in entry or unknown or not isinstance(items, Sequence):
            raise ValueError("it has a field without a name or a list of values")
        for item in items:
            value = item.get("Value")
            (item.get("Annotation") or {}).get("Confidence")
            if isinstance(value, Mapping):
                if not isinstance(value.get("Fields") or [], list):
                    raise TypeError("Fields")
                _check(members(value), depth + 1)
            elif isinstance(value, list):
                _check([{"Name": "", "List": [{"Value": each} for each in value]}], depth + 1)


def confidence_of(item: Entry) -> int | None:
    """Return the confidence of a value, 0 to 100, or None. Numbers may be written as text."""
    given: Any = (item.get("Annotation") or {}).get("Confidence")
    try:
        number = -1 if isinstance(given, bool) else math.floor(float(given))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number <= 100 else None


def is_group(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value is a group or a row. An object of another structure is a value."""
    return isinstance(value, Mapping) and (not value or "Fields" in value)


def members(value: Mapping[str, Any]) -> Sequence[Entry]:
    """Return the fields of a group or of a row."""
    found = value.get("Fields")
    return found if isinstance(found, list) else ()


def values_by_name(entries: Sequence[Entry]) -> Mapping[str, Sequence[Entry]]:
    """Return the values of each field. A field that occurs twice has the values of both."""
    found: dict[str, Sequence[Entry]] = {}
    for entry in entries:
        name, items = str(entry["Name"]), entry.get("List") or ()
        found[name] = [*found[name], *items] if name in found else items
    return found


def content_of_json(content: Any, document_id: str) -> Content:
    """Read a parsed ``Json``. With several documents in it, none but that of this id is taken."""
    if isinstance(content.get("Transaction"), Mapping):
        content = content["Transaction"]
    documents = content["Documents"]
    wanted = document_id.casefold()
    found = [each for each in documents if str(each.get("Id")).casefold() == wanted]
    if not found and len(documents) != 1:
        raise ValueError("it does not contain the document")
    document = (found or documents)[0]
    extracted = document.get("ExtractedData") or {"RootObject": {}}
    concept = (extracted.get("DocumentDefinition") or {}).get("RootConcept") or {}
    name, pages = concept.get("Name"), document.get("Pages")
    if not is_group(root := extracted["RootObject"] or {}):
        raise ValueError("its root has no fields")
    return Content(
        members(root),
        one_line(name) if isinstance(name, str) else None,
        len(pages) if isinstance(pages, list) and pages else None,
        [
            (str(each.get("RuleName") or ""), each.get("ErrorMessage") or each.get("CustomMessage"))
            for each in document.get("RuleErrors") or ()
        ],
    )


def _entries_of(values: Mapping[str, Any]) -> list[Entry]:
    entries: list[Entry] = []
    for name, value in values.items():
        items = () if value is None else value if isinstance(value, list) else (value,)
        found = ({"Fields": _entries_of(v)} if isinstance(v, Mapping) else v for v in items)
        entries.append({"Name": name, "List": [{"Value": each} for each in found]})
    return entries
