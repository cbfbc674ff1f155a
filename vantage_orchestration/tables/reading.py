# SPDX-License-Identifier: Apache-2.0
"""Reads result files of any type into one form (contract, sections 7.2 and 7.3).

The form is that of ``Json``: a list of ``{"Name": ..., "List": [{"Value": ...}]}``. The values of a
``FieldsJson`` are converted to it, without confidence and regions, which that type lacks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["READABLE", "Content", "Entry", "members", "read_content", "values_by_name"]

Entry = Mapping[str, Any]

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

#: Types of result files with fields, best first.
READABLE = ("Json", "FieldsJson")


class Content(NamedTuple):
    """The content of a result file for one document.

    Attributes:
        entries: Its fields.
        concept: Name of the applied Document skill, if given.
        pages: Number of its pages, if given.
        rule_errors: Names and messages of broken rules.
    """

    entries: Sequence[Entry]
    concept: str | None = None
    pages: int | None = None
    rule_errors: Sequence[tuple[str, str | None]] = ()


def read_content(kind: str, data: bytes, document_id: str) -> Content:
    """Read a result file.

    Args:
        kind: ``Json`` or ``FieldsJson``.
        data: Its bytes.
        document_id: The document, for a file that holds several.

    Raises:
        ValueError: It has another structure.
    """
    try:
        content = json.loads(data)
        if _HALF_PAIR.search(data):
            # Half of a surrogate pair is not a character and can't be written to a file.
            whole = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
            content = json.loads(whole)
        if kind == "FieldsJson":
            return Content(_entries_of(content["Fields"]))
        return _document(content, document_id)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it has another structure ({type(error).__name__})") from None


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


def _document(content: Any, document_id: str) -> Content:
    if isinstance(content.get("Transaction"), Mapping):
        content = content["Transaction"]
    documents = content["Documents"]
    wanted = document_id.casefold()
    document = next(
        (each for each in documents if str(each.get("Id")).casefold() == wanted), None
    ) or next(iter(documents), None)
    if document is None:
        raise ValueError("it contains no document")
    extracted = document.get("ExtractedData") or {}
    concept = (extracted.get("DocumentDefinition") or {}).get("RootConcept") or {}
    pages = document.get("Pages")
    return Content(
        members(extracted.get("RootObject") or {}),
        concept.get("Name"),
        len(pages) if isinstance(pages, list) and pages else None,
        [
            (str(each.get("RuleName") or ""), each.get("ErrorMessage") or each.get("CustomMessage"))
            for each in document.get("RuleErrors") or ()
        ],
    )


def _entries_of(values: Mapping[str, Any]) -> list[Entry]:
    return [
        {"Name": name, "List": [{"Value": _value_of(each)} for each in _listed(value)]}
        for name, value in values.items()
    ]


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else (value,)


def _value_of(value: Any) -> Any:
    return {"Fields": _entries_of(value)} if isinstance(value, Mapping) else value
