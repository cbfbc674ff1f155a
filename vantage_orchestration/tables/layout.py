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


@dataclass(frozen=True, slots=True)
class Repeated:
    """A field with any number of values, each of which is a row of a separate table."""

    rows: Rows
    item: Leaf | Group
    #: Whether it is repeated within another row.
    nested: bool


class Layout:
    """The tables for the fields of one skill, which are unknown if the skill could not be read.

    ``columns`` are the first ones of ``documents``. ``make`` creates a table from its name and
    first columns.
    """

    def __init__(
        self,
        fields: Iterable[SkillField],
        columns: Sequence[Column],
        make: Callable[[str, Sequence[Column]], Rows],
    ) -> None:
        self._make = make
        self.root = Group(make("documents", columns))
        self._declare(self.root, fields)

    def unknown(self, group: Group, name: str, values: Sequence[Any]) -> Leaf | Group | Repeated:
        """Add a field that the skill does not declare, judged by its values, which stay text."""
        grouped = any(isinstance(value, Mapping) for value in values)
        return self._add(group, name, None if grouped else "text", repeated=len(values) > 1)

    def _declare(self, group: Group, fields: Iterable[SkillField]) -> None:
        for each in fields:
            if not each.name or each.name in group.members:
                continue
            kind = None if each.children or each.type == "Group" else _kind(each)
            added = self._add(group, each.name, kind, repeated=bool(each.is_repeatable))
            item = added.item if isinstance(added, Repeated) else added
            if isinstance(item, Group):
                self._declare(item, each.children)

    def _add(
        self, group: Group, name: str, kind: Kind | None, *, repeated: bool
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
        group.members[name] = added
        return added


def _leaf(rows: Rows, name: str, kind: Kind, path: tuple[str, ...]) -> Leaf:
    value = rows.add_column(name, kind, path)
    text = value if kind == "text" else rows.add_column(f"{name}_text", "text", path)
    return Leaf(kind, value, text)


def _kind(declared: SkillField) -> Kind:
    if declared.type == "Checkmark":
        return "boolean"
    return _BY_FORMAT.get(declared.text_format, "text") if declared.type == "Text" else "text"
