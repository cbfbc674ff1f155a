# SPDX-License-Identifier: Apache-2.0
"""The tables of one skill: adds the rows of documents one by one.

Fields are assigned to tables and columns as the skill declares them. A field is a column of
``documents``. The members of a group are columns too, with a dot between the names. A repeated
field, or a table, has a separate table, such as ``documents.Items``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.tables.columns import Column, Rows, columns_of, free_name
from vantage_orchestration.tables.reading import (
    READABLE,
    Number,
    confidence_of,
    is_group,
    members,
    sources_of,
    values_by_name,
)
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.text import MISFIT

if TYPE_CHECKING:
    from vantage_orchestration.models import SkillField
    from vantage_orchestration.processing.manifest import FindingEntry, TransactionManifest
    from vantage_orchestration.tables.reading import DocumentContent
    from vantage_orchestration.tables.values import Kind

#: Name of the table with a row for each document.
DOCUMENTS: Final = "documents"
#: The columns that identify the document of a row.
DOCUMENT_KEY = (
    Column("transaction_id", "text", key=True),
    Column("document_index", "integer", key=True),
)
#: The column that numbers the rows of a document, in a table that may have several.
POSITION = Column("position", "integer", key=True)

_BY_FORMAT: dict[str | None, Kind] = {"Date": "date", "Number": "decimal", "Amount": "decimal"}
_DOCUMENTS: Final = (
    *DOCUMENT_KEY,
    *columns_of(document_id="text", skill="text"),
    *columns_of(source_name="text", source_path="text", source_sha256="text"),
    *columns_of(source_files="integer", class_name="text", class_confidence="integer"),
    *columns_of(pages="integer", rule_errors="integer", reviewed="boolean"),
    *columns_of(lowest_confidence="integer", conversions="integer", findings="integer"),
)
_SEVERAL: Final = (*DOCUMENT_KEY, POSITION)
_FIELDS: Final = (
    *_SEVERAL,
    *columns_of(path="text", field="text", raw="text", value="text", confidence="integer"),
    *columns_of(verified="boolean", needs_verification="boolean"),
    *columns_of(page="integer", regions="regions"),
)
_RULE_ERRORS: Final = (
    *_SEVERAL,
    *columns_of(type="text", rule="text", message="text", field_id="text"),
)
_CONVERSIONS: Final = (
    *_SEVERAL,
    *columns_of(path="text", wanted="text", text="text", reason="text"),
)
_FINDINGS: Final = (*_SEVERAL, *columns_of(source_name="text", field="text", reason="text"))

#: How JSON writes numbers.
_NUMBERS: Final = ValueFormat(decimal=".")

#: Bytes of result files after which all rows become a batch: texts may be long.
_SIZE: Final = 64 * 1024**2

#: Page, left, top, right, bottom.
Region = tuple[int | None, int | None, int | None, int | None, int | None]


class SkillTables:
    """The tables of one skill, given its name and fields, the format of dates and numbers, and a
    folder for rows that do not fit into memory."""

    def __init__(
        self, skill: str, fields: Iterable[SkillField], values: ValueFormat, spill: Path
    ) -> None:
        #: Tables by name; ``fields`` and ``conversions`` are two of them.
        self.tables: dict[str, Rows] = {}
        self.values = values
        self._skill = skill
        self._spill = spill
        self._taken: set[str] = set()
        #: Bytes of result files whose values may be in no batch yet.
        self._size = 0
        self.root = Group(self._make(DOCUMENTS, _DOCUMENTS))
        self._declare(self.root, fields)
        self.fields = self._make("fields", _FIELDS)
        self.conversions = self._make("conversions", _CONVERSIONS)
        self._rule_errors = self._make("rule_errors", _RULE_ERRORS)
        self._findings = self._make("findings", _FINDINGS)

    def _make(self, name: str, columns: Sequence[Column]) -> Rows:
        unique = free_name(name, self._taken)
        rows = self.tables[unique] = Rows(unique, columns, self._spill)
        return rows

    def add(
        self,
        transaction: TransactionManifest,
        found: DocumentContent,
        findings: Sequence[FindingEntry],
        *,
        left_out: bool = False,
    ) -> None:
        """Add a document of a transaction; only its findings if it is left out."""
        sources = sources_of(transaction, found.document)
        first = sources[0] if sources else None
        source = (first.name, first.path, first.sha256) if first is not None else (None,) * 3
        facts = (*source, len(sources) or None)
        marks = {name: len(rows.pending) for name, rows in self.tables.items()}
        try:
            self._add(transaction, found, facts, len(findings))
        except MISFIT as error:
            # Its content has an unknown structure. The document must not be lost.
            self._take_back(marks)
            problem = f"the fields can't be read ({type(error).__name__})"
            bare = replace(found, content=None, problems=[*found.problems, problem])
            self._add(transaction, bare, facts, len(findings))
        if left_out:  # The tables themselves stay: a database may hold rows to be removed.
            self._take_back(marks)
        for position, each in enumerate(findings, 1):
            key = (transaction.transaction_id, found.index, position)
            self._findings.pending.append((*key, source[0], each.field, each.reason))
        self._size += sum(each.size for each in found.document.files if each.type in READABLE)
        if large := self._size > _SIZE:
            self._size = 0
        for rows in self.tables.values():
            rows.settle(now=large)

    def _take_back(self, marks: Mapping[str, int]) -> None:
        """Remove the pending rows that each table has got since."""
        for name, rows in self.tables.items():
            del rows.pending[marks.get(name, 0) :]

    def _add(
        self,
        transaction: TransactionManifest,
        found: DocumentContent,
        source: Sequence[Any],
        findings: int,
    ) -> None:
        root, content, entry = self.root, found.content, found.document
        row: list[Any] = [None] * len(root.rows.columns)
        key = (transaction.transaction_id, found.index)
        document = _Document(key, self)
        for problem in found.problems:
            document.not_converted("", "result file", None, problem)
        if content is not None:
            document.group(root, content.entries, row, _FieldPath())
        members = ("type", "rule_id", "message", "field_id")
        errors = [tuple(each.get(name) for name in members) for each in entry.rule_errors]
        if not errors and content is not None:
            errors = [(None, rule, message, None) for rule, message in content.rule_errors]
        for position, error in enumerate(errors, 1):
            self._rule_errors.pending.append((*key, position, *error))
        pages = transaction.pages if len(transaction.documents) == 1 else None
        if content is not None and content.pages is not None:
            pages = content.pages
        row[: len(_DOCUMENTS)] = [
            *key,
            entry.document_id,
            self._skill,
            *source,
            entry.class_name,
            _int32((entry.classification or {}).get("confidence")),
            _int32(pages),
            len(errors),
            document.reviewed,
            document.lowest,
            document.conversions,
            findings,
        ]
        root.rows.pending.append(row)

    # -- fields to columns

    def unknown(self, group: Group, name: str, *, grouped: bool) -> Leaf | Group | Repeated:
        """Return the place of values that the skill does not declare: a column of text, or a table
        if they are ``grouped``.

        It does not depend on their number: other documents, also of other jobs, may have more.
        """
        return group.others.get((name, grouped)) or self._add_field(
            group, name, None if grouped else "text", repeated=grouped, declared=False
        )

    def _declare(self, group: Group, fields: Iterable[SkillField]) -> None:
        for each in fields:
            if not each.name or each.name in group.members:
                continue
            kind = None if each.children or each.type == "Group" else _kind(each)
            added = self._add_field(group, each.name, kind, repeated=bool(each.is_repeatable))
            item = added.item if isinstance(added, Repeated) else added
            if isinstance(item, Group):
                self._declare(item, each.children)

    def _add_field(
        self,
        group: Group,
        name: str,
        kind: Kind | None,
        *,
        repeated: bool,
        declared: bool = True,
    ) -> Leaf | Group | Repeated:
        """Add a field to a group. It is a group itself if it has no kind."""
        path = (*group.path, name)
        added: Leaf | Group | Repeated
        if repeated:
            nested = group.rows is not self.root.rows
            key = (*DOCUMENT_KEY, *([Column("parent", "text", key=True)] if nested else []))
            rows = self._make(".".join((group.rows.name, *path)), (*key, POSITION))
            item = Group(rows) if kind is None else _leaf(rows, "value", kind, (name,))
            added = Repeated(rows, item, nested)
        elif kind is None:
            added = Group(group.rows, path)
        else:
            added = _leaf(group.rows, ".".join(path), kind, path)
        if declared:
            group.members[name] = added
        else:
            group.others[name, kind is None] = added
        return added


@dataclass(slots=True)
class _Document:
    """Adds the fields of one document, which ``key`` names, to tables."""

    key: tuple[str, int]
    tables: SkillTables
    lowest: int | None = None
    reviewed: bool | None = None
    conversions: int = 0
    count: int = 0

    def not_converted(self, path: str, wanted: str, text: str | None, reason: str) -> None:
        """Record a value that could not be converted."""
        self.conversions += 1
        self.tables.conversions.pending.append(
            (*self.key, self.conversions, path, wanted, text, reason)
        )

    def group(
        self, group: Group, entries: Sequence[Mapping[str, Any]], row: list[Any], at: _FieldPath
    ) -> None:
        """Put the fields of a group into a row."""
        for name, items in values_by_name(entries).items():
            node = group.members.get(name)
            if node is None:
                if not items:
                    continue
                grouped = any(is_group(item.get("Value")) for item in items)
                node = self.tables.unknown(group, name, grouped=grouped)
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
            if is_group(value):
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
            form = _NUMBERS if isinstance(value, Number) else self.tables.values
            converted, reason_not = form.convert(node.kind, text)
            if reason_not is not None:
                self.not_converted(at.path, node.kind, text, reason_not)
            else:
                _set(row, node.value, converted)

    def _repeated(self, node: Repeated, items: Sequence[Mapping[str, Any]], at: _FieldPath) -> None:
        for position, item in enumerate(items, 1):
            place = at.nth(position)
            key = (*self.key, at.row) if node.nested else self.key
            row: list[Any] = [*key, position]
            row += [None] * (len(node.rows.columns) - len(row))
            self._single(node.item, item, row, place)
            node.rows.pending.append(row)

    def _note(self, item: Mapping[str, Any], at: _FieldPath) -> str | None:
        """Record a value; return its text."""
        value, annotation = item.get("Value"), _annotation(item)
        confidence = confidence_of(item)
        if confidence is not None and (self.lowest is None or confidence < self.lowest):
            self.lowest = confidence
        flags = (item.get(name) for name in ("isVerified", "NeedVerification"))
        verified, needed = (each if isinstance(each, bool) else None for each in flags)
        if verified is not None:
            self.reviewed = verified or bool(self.reviewed)
        regions = _regions(annotation.get("ImageRegions"))
        page = regions[0][0] if regions else None
        raw, text = annotation.get("RawValue"), value
        if value is not None and not isinstance(value, str):
            text = json.dumps(value, ensure_ascii=False)
        self.count += 1
        row = (*self.key, self.count, at.path, at.field, None if raw is None else str(raw), text)
        self.tables.fields.pending.append((*row, confidence, verified, needed, page, regions))
        return text


class _FieldPath(NamedTuple):
    """Position of a value, such as ``Items[2].Amount``, ``Items.Amount`` and row ``2``."""

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


def _annotation(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("Annotation") or {}


def _regions(data: Any) -> list[Region]:
    found: list[Region] = []
    for region in data if isinstance(data, list) else ():
        of_region = region if isinstance(region, Mapping) else {}
        page, rectangles = _int32(of_region.get("Page")), of_region.get("Rects")
        for rectangle in rectangles if isinstance(rectangles, list) else ():
            if isinstance(rectangle, list) and len(rectangle) == 4:
                left, top, right, bottom = map(_int32, rectangle)
                found.append((page, left, top, right, bottom))
    return found


def _int32(value: Any) -> int | None:
    return value if type(value) is int and -(2**31) <= value < 2**31 else None


# ------------------------------------------------- fields to tables and columns


@dataclass(frozen=True, slots=True)
class Leaf:
    """A field with one value."""

    #: Type and index of its column.
    kind: Kind
    value: int
    #: Index of the column with the delivered text; for a text field the same column.
    text: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group of fields, or the fields of a row or document."""

    #: Table with a column for each member.
    rows: Rows
    #: Names of the enclosing groups and of the group, starting at the row.
    path: tuple[str, ...] = ()
    members: dict[str, Leaf | Group | Repeated] = field(default_factory=dict)
    #: Fields that the skill does not declare, by their name and whether they are groups.
    others: dict[tuple[str, bool], Leaf | Group | Repeated] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A field with any number of values, each of which is a row of a separate table."""

    rows: Rows
    item: Leaf | Group
    #: Whether it is repeated within another row.
    nested: bool


def _leaf(rows: Rows, name: str, kind: Kind, path: tuple[str, ...]) -> Leaf:
    value = rows.add_column(name, kind, path)
    text = value if kind == "text" else rows.add_column(f"{name}_text", "text", path)
    return Leaf(kind, value, text)


def _kind(declared: SkillField) -> Kind:
    if declared.type == "Checkmark":
        return "boolean"
    return _BY_FORMAT.get(declared.text_format, "text") if declared.type == "Text" else "text"
