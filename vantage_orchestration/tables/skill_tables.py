# SPDX-License-Identifier: Apache-2.0
"""The tables of one skill: adds the rows of documents one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.tables.columns import Column, Rows
from vantage_orchestration.tables.layout import (
    DOCUMENT_KEY,
    POSITION,
    Group,
    Layout,
    Leaf,
    Repeated,
)
from vantage_orchestration.tables.reading import Content, members, values_by_name

if TYPE_CHECKING:
    from vantage_orchestration.models import SkillField
    from vantage_orchestration.tables.quality import Finding
    from vantage_orchestration.tables.values import ValueFormat

__all__ = ["DocumentFacts", "SkillTables"]

_DOCUMENTS: Final = (
    *DOCUMENT_KEY,
    Column("document_id", "text"),
    Column("skill", "text"),
    Column("source_name", "text"),
    Column("source_path", "text"),
    Column("source_sha256", "text"),
    Column("source_files", "integer"),
    Column("class_name", "text"),
    Column("class_confidence", "integer"),
    Column("pages", "integer"),
    Column("rule_errors", "integer"),
    Column("reviewed", "boolean"),
    Column("lowest_confidence", "integer"),
    Column("conversions", "integer"),
    Column("findings", "integer"),
)
_FIELDS: Final = (
    *DOCUMENT_KEY,
    POSITION,
    Column("path", "text"),
    Column("field", "text"),
    Column("raw", "text"),
    Column("value", "text"),
    Column("confidence", "integer"),
    Column("verified", "boolean"),
    Column("needs_verification", "boolean"),
    Column("page", "integer"),
    Column("regions", "regions"),
)
_RULE_ERRORS: Final = (
    *DOCUMENT_KEY,
    POSITION,
    Column("type", "text"),
    Column("rule", "text"),
    Column("message", "text"),
    Column("field_id", "text"),
)
_CONVERSIONS: Final = (
    *DOCUMENT_KEY,
    POSITION,
    Column("path", "text"),
    Column("wanted", "text"),
    Column("text", "text"),
    Column("reason", "text"),
)


_FINDINGS: Final = (
    *DOCUMENT_KEY,
    POSITION,
    Column("source_name", "text"),
    Column("field", "text"),
    Column("reason", "text"),
)

#: Page, left, top, right, bottom.
Region = tuple[int | None, int | None, int | None, int | None, int | None]


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What is known of a document besides its fields.

    Attributes:
        transaction_id: Its transaction.
        index: Its position in the transaction, from 1. Its results are in the folder of that name.
        document_id: Its UUID.
        skill: Name of the skill that extracted its fields.
        source: Name, path and SHA-256 of its first source file; each None if unknown.
        source_files: Number of source files; None if unknown.
        class_name: Its class.
        class_confidence: 0 to 100.
        pages: Number of pages.
        rule_errors: Type, rule, message and field id of each broken rule.
        findings: Findings of the quality gate.
    """

    transaction_id: str
    index: int
    document_id: str
    skill: str
    source: tuple[str | None, str | None, str | None] = (None, None, None)
    source_files: int | None = None
    class_name: str | None = None
    class_confidence: int | None = None
    pages: int | None = None
    rule_errors: Sequence[tuple[str | None, str | None, str | None, str | None]] = ()
    findings: Sequence[Finding] = ()


class SkillTables:
    """The tables of one skill.

    Args:
        fields: The skill's fields.
        values: Format of dates and numbers.
        spill: Folder for rows that do not fit into memory; None keeps everything in memory.
    """

    def __init__(
        self, fields: Iterable[SkillField], values: ValueFormat, spill: Path | None = None
    ) -> None:
        self._values = values
        self._spill = spill
        self.tables: dict[str, Rows] = {}
        self._layout = Layout(fields, _DOCUMENTS, self._make)
        self._fields = self._make("fields", _FIELDS)
        self._rule_errors = self._make("rule_errors", _RULE_ERRORS)
        self._conversions = self._make("conversions", _CONVERSIONS)
        self._findings = self._make("findings", _FINDINGS)

    def add(self, facts: DocumentFacts, content: Content | None, problems: Sequence[str]) -> None:
        """Add a document.

        Args:
            facts: What is known of it.
            content: Its fields; None if it has no readable fields.
            problems: Why result files could not be read.
        """
        marks = {name: rows.mark() for name, rows in self.tables.items()}
        try:
            self._add(facts, content, problems)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            # Its content has an unknown structure. The document must not be lost.
            for name, rows in self.tables.items():
                rows.cut(marks.get(name, 0))
            reason = f"the fields can't be read ({type(error).__name__})"
            self._add(facts, None, [*problems, reason])
        for rows in self.tables.values():
            rows.settle()

    def add_findings(self, facts: DocumentFacts) -> None:
        """Add only the findings of a document."""
        key = (facts.transaction_id, facts.index)
        for position, each in enumerate(facts.findings, 1):
            self._findings.add((*key, position, facts.source[0], each.field, each.reason))

    def _add(self, facts: DocumentFacts, content: Content | None, problems: Sequence[str]) -> None:
        root = self._layout.root
        row: list[Any] = [None] * len(root.rows.columns)
        key = (facts.transaction_id, facts.index)
        document = _Document(key, self._layout, self._values, self._fields, self._conversions)
        for problem in problems:
            document.not_converted("", "result file", None, problem)
        if content is not None:
            document.group(root, content.entries, row, _FieldPath())
        errors = facts.rule_errors
        if not errors and content is not None:
            errors = [(None, rule, message, None) for rule, message in content.rule_errors]
        for position, error in enumerate(errors, 1):
            self._rule_errors.add((*key, position, *error))
        pages = facts.pages if content is None or content.pages is None else content.pages
        row[: len(_DOCUMENTS)] = [
            *key,
            facts.document_id,
            facts.skill,
            *facts.source,
            facts.source_files,
            facts.class_name,
            _int32(facts.class_confidence),
            _int32(pages),
            len(errors),
            document.reviewed,
            document.lowest,
            document.conversions,
            len(facts.findings),
        ]
        self.add_findings(facts)
        root.rows.add(row)

    def _make(self, name: str, columns: Sequence[Column]) -> Rows:
        unique, number = name, 2
        while unique in self.tables:
            unique = f"{name}_{number}"
            number += 1
        rows = self.tables[unique] = Rows(unique, columns, self._spill)
        return rows


class _Document:
    """Adds the fields of one document to the tables.

    Args:
        key: Values of :data:`.layout.DOCUMENT_KEY`.
        layout: Table and column of each field.
        values: Format of dates and numbers.
        fields: Receives a row for each value.
        conversions: Receives a row for each value that could not be converted.
    """

    def __init__(
        self,
        key: tuple[str, int],
        layout: Layout,
        values: ValueFormat,
        fields: Rows,
        conversions: Rows,
    ) -> None:
        self.lowest: int | None = None
        self.reviewed: bool | None = None
        self.conversions = 0
        self._key = key
        self._layout = layout
        self._values = values
        self._fields = fields
        self._conversions = conversions
        self._count = 0

    def not_converted(self, path: str, wanted: str, text: str | None, reason: str) -> None:
        """Record a value that could not be converted."""
        self.conversions += 1
        self._conversions.add((*self._key, self.conversions, path, wanted, text, reason))

    def group(
        self, group: Group, entries: Sequence[Mapping[str, Any]], row: list[Any], at: _FieldPath
    ) -> None:
        """Put the fields of a group into a row."""
        for name, items in values_by_name(entries).items():
            node = group.members.get(name)
            if node is None:
                if not items:
                    continue
                values = [item.get("Value") for item in items]
                node = self._layout.unknown(group, name, values)
            self._put(node, items, row, at.below(name))

    def _put(
        self,
        node: Leaf | Group | Repeated,
        items: Sequence[Mapping[str, Any]],
        row: list[Any],
        at: _FieldPath,
    ) -> None:
        if isinstance(node, Repeated):
            self._repeated(node, items, at)
        elif len(items) == 1:
            self._single(node, items[0], row, at)
        elif items:
            texts = [self._note(item, at.nth(number)) for number, item in enumerate(items, 1)]
            text = json.dumps(texts, ensure_ascii=False)
            self.not_converted(at.path, "one value", text, f"{len(items)} values, not one")
            if isinstance(node, Leaf):
                _set(row, node.text, text)

    def _single(
        self, node: Leaf | Group, item: Mapping[str, Any], row: list[Any], at: _FieldPath
    ) -> None:
        value = item.get("Value")
        if isinstance(node, Group):
            if isinstance(value, Mapping):
                self.group(node, members(value), row, at)
            elif value is not None:
                text = self._note(item, at)
                self.not_converted(at.path, "group", text, "a single value, not a group")
            return
        text = self._note(item, at)
        if text is None:
            raw = _annotation(item).get("RawValue")
            if node.kind != "text" and raw:
                reason = "ABBYY Vantage recognised a text, but no value"
                self.not_converted(at.path, node.kind, str(raw), reason)
            return
        _set(row, node.text, text)
        if isinstance(value, Mapping):
            self.not_converted(at.path, node.kind, text, "a group, not a single value")
        elif node.kind != "text":
            converted, reason_not = self._values.convert(node.kind, text)
            if reason_not is not None:
                self.not_converted(at.path, node.kind, text, reason_not)
            else:
                _set(row, node.value, converted)

    def _repeated(self, node: Repeated, items: Sequence[Mapping[str, Any]], at: _FieldPath) -> None:
        for position, item in enumerate(items, 1):
            place = at.nth(position)
            key = (*self._key, at.row) if node.nested else self._key
            row: list[Any] = [*key, position]
            row += [None] * (len(node.rows.columns) - len(row))
            self._single(node.item, item, row, place)
            node.rows.add(row)

    def _note(self, item: Mapping[str, Any], at: _FieldPath) -> str | None:
        """Record a value; return its text."""
        value = item.get("Value")
        annotation = _annotation(item)
        confidence = _int32(annotation.get("Confidence"))
        if confidence is not None and (self.lowest is None or confidence < self.lowest):
            self.lowest = confidence
        verified = item.get("isVerified")
        if isinstance(verified, bool):
            self.reviewed = verified or bool(self.reviewed)
        regions = _regions(annotation.get("ImageRegions"))
        raw, text = annotation.get("RawValue"), _text(value)
        self._count += 1
        self._fields.add(
            (
                *self._key,
                self._count,
                at.path,
                at.field,
                None if raw is None else str(raw),
                text,
                confidence,
                _flag(verified),
                _flag(item.get("NeedVerification")),
                regions[0][0] if regions else None,
                regions,
            )
        )
        return text


class _FieldPath(NamedTuple):
    """Position of a value.

    Attributes:
        path: Names with positions, such as ``Items[2].Amount``.
        field: Names alone, such as ``Items.Amount``.
        row: Positions of the enclosing rows, such as ``2``.
    """

    path: str = ""
    field: str = ""
    row: str = ""

    def below(self, name: str) -> _FieldPath:
        if not self.path:
            return _FieldPath(name, name, self.row)
        return _FieldPath(f"{self.path}.{name}", f"{self.field}.{name}", self.row)

    def nth(self, position: int) -> _FieldPath:
        row = f"{self.row}.{position}" if self.row else str(position)
        return _FieldPath(f"{self.path}[{position}]", self.field, row)


def _set(row: list[Any], index: int, value: Any) -> None:
    if index >= len(row):
        # The column was added later.
        row += [None] * (index + 1 - len(row))
    row[index] = value


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _annotation(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("Annotation") or {}


def _regions(data: Any) -> list[Region] | None:
    found: list[Region] = []
    for region in data or ():
        page = _int32(region.get("Page"))
        for rectangle in region.get("Rects") or ():
            left, top, right, bottom = map(_int32, rectangle)
            found.append((page, left, top, right, bottom))
    return found or None


def _int32(value: Any) -> int | None:
    if type(value) is int and -(2**31) <= value < 2**31:
        return value
    return None
