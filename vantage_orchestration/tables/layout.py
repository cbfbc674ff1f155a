# SPDX-License-Identifier: Apache-2.0
"""Assigns fields to tables and columns, as the skill declares the fields.

A field is a column of ``documents``. The members of a group are columns too, with a dot between the
names. A repeated field, or a table, has a separate table, such as ``documents.Items``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vantage_orchestration.tables.columns import Column, Rows

if TYPE_CHECKING:
    from vantage_orchestration.models import SkillField
    from vantage_orchestration.tables.values import Kind

__all__ = ["DOCUMENT_KEY", "POSITION", "Group", "Layout", "Leaf", "Repeated"]

#: The columns that identify the document of a row.
DOCUMENT_KEY = (
    Column("transaction_id", "text", key=True),
    Column("document_index", "integer", key=True),
)
#: The column that numbers the rows of a document, in a table that may have several.
POSITION = Column("position", "integer", key=True)

_BY_FORMAT: dict[str | None, Kind] = {"Date": "date", "Number": "decimal", "Amount": "decimal"}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A field with one value.

    Attributes:
        kind: Type of its column.
        value: Index of its column.
        text: Index of the column with the delivered text; for a text field the same column.
    """

    kind: Kind
    value: int
    text: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group of fields, or the fields of a row or document.

    Attributes:
        rows: Table with a column for each member.
        path: Names of the enclosing groups and of the group, starting at the row.
        members: Name to field.
    """

    rows: Rows
    path: tuple[str, ...] = ()
    members: dict[str, Leaf | Group | Repeated] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A field with any number of values, each of which is a row of a separate table.

    Attributes:
        rows: That table.
        item: Type of each value: a group with members, or a single value.
        nested: Whether it is repeated within another row.
    """

    rows: Rows
    item: Leaf | Group
    nested: bool


class Layout:
    """The tables for the fields of one skill.

    Args:
        fields: Fields of the skill; empty if the skill could not be read.
        columns: First columns of ``documents``.
        make: Creates a table from a name and its first columns.
    """

    def __init__(
        self,
        fields: Iterable[SkillField],
        columns: Sequence[Column],
        make: Callable[[str, Sequence[Column]], Rows],
    ) -> None:
        self._make = make
        self.root = Group(make("documents", columns))
        for each in fields:
            self._declare(self.root, each)

    def unknown(self, group: Group, name: str, values: Sequence[Any]) -> Leaf | Group | Repeated:
        """Add a field that the skill does not declare, judged by its values. The values stay
        text."""
        grouped = any(isinstance(value, Mapping) for value in values)
        if len(values) > 1:
            return self._repeated(group, name, None if grouped else "text")
        return self._group(group, name) if grouped else self._leaf(group, name, "text")

    def _declare(self, group: Group, declared: SkillField) -> None:
        name = declared.name
        if not name or name in group.members:
            return
        if declared.is_repeatable:
            grouped = bool(declared.children) or declared.type == "Group"
            node: Any = self._repeated(group, name, None if grouped else _kind(declared))
            node = node.item
        elif declared.children or declared.type == "Group":
            node = self._group(group, name)
        else:
            self._leaf(group, name, _kind(declared))
            return
        for child in declared.children:
            if isinstance(node, Group):
                self._declare(node, child)

    def _leaf(self, group: Group, name: str, kind: Kind) -> Leaf:
        path = (*group.path, name)
        leaf = group.members[name] = _leaf(group.rows, ".".join(path), kind, path)
        return leaf

    def _group(self, group: Group, name: str) -> Group:
        made = group.members[name] = Group(group.rows, (*group.path, name))
        return made

    def _repeated(self, group: Group, name: str, kind: Kind | None) -> Repeated:
        nested = group.rows is not self.root.rows
        key = (*DOCUMENT_KEY, *([Column("parent", "text", key=True)] if nested else []))
        rows = self._make(".".join((group.rows.name, *group.path, name)), (*key, POSITION))
        item = Group(rows) if kind is None else _leaf(rows, "value", kind, (name,))
        made = group.members[name] = Repeated(rows, item, nested)
        return made


def _leaf(rows: Rows, name: str, kind: Kind, path: tuple[str, ...]) -> Leaf:
    value = rows.add_column(name, kind, path)
    text = value if kind == "text" else rows.add_column(f"{name}_text", "text", path)
    return Leaf(kind, value, text)


def _kind(declared: SkillField) -> Kind:
    if declared.type == "Checkmark":
        return "boolean"
    return _BY_FORMAT.get(declared.text_format, "text") if declared.type == "Text" else "text"
