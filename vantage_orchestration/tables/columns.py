# SPDX-License-Identifier: Apache-2.0
"""Collects the rows of one table and turns them into Arrow batches.

Columns may be added while a table is filled, for fields that the skill does not declare. Earlier
rows are written to a temporary file as they are, and get the missing columns when they are read
back. So memory does not grow with the number of documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.local import naming
from vantage_orchestration.tables.values import DECIMAL_DIGITS, DECIMAL_PLACES
from vantage_orchestration.text import one_line

if TYPE_CHECKING:
    import pyarrow as pa

#: Cells to collect before they become a batch: about 20 MB of Python objects.
_CELLS: Final = 250_000
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name, unique in its table even if case and punctuation are ignored.
        type: ``text``, ``date``, ``decimal``, ``boolean``, ``integer`` or ``regions``.
        path: Names of the enclosing groups and of the field; empty for our own columns.
        key: Whether it is part of the table's key. It then has a value in each row.
    """

    name: str
    type: str
    path: tuple[str, ...] = ()
    key: bool = False

    @property
    def field(self) -> pa.Field:
        """The Arrow field. Its metadata holds the skill's names of the field."""
        import pyarrow as pa

        metadata = {"abbyy_vantage.path": json.dumps(self.path)} if self.path else None
        members = ("page", "left", "top", "right", "bottom")
        kind = {
            "text": pa.string(),
            "date": pa.date32(),
            "decimal": pa.decimal128(DECIMAL_DIGITS, DECIMAL_PLACES),
            "boolean": pa.bool_(),
            "integer": pa.int32(),
            "regions": pa.list_(pa.struct([pa.field(each, pa.int32()) for each in members])),
        }[self.type]
        return pa.field(self.name, kind, nullable=not self.key, metadata=metadata)


def _array(cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return the cells of a column. Any value of a text column becomes text that can be written:
    names of files may have bytes that are not characters."""
    import pyarrow as pa

    try:
        return pa.array(cells, kind)
    except (pa.ArrowException, UnicodeError):
        if kind != pa.string():
            raise
    texts = [
        None if cell is None else str(cell).encode(errors="replace").decode() for cell in cells
    ]
    return pa.array(texts, kind)


def columns_of(**types: str) -> tuple[Column, ...]:
    """Return columns of our own from their names and types."""
    return tuple(Column(name, kind) for name, kind in types.items())


def free_name(name: str, taken: set[str]) -> str:
    """Return a name in one line, with a number if it is taken, and note it in ``taken``.

    Names that some databases treat as the same count as one.
    """
    name = one_line(name)
    candidate, number = name, 2
    while (key := _NOT_ALPHANUMERIC.sub("_", candidate.casefold()).strip("_")) in taken:
        candidate = f"{name}_{number}"
        number += 1
    taken.add(key)
    return candidate


class Rows:
    """The rows of one table, whose batches are files of the folder ``spill``."""

    def __init__(self, name: str, columns: Sequence[Column], spill: Path) -> None:
        self.name = name
        self.columns = list(columns)
        #: Rows that are in no batch yet. A row may be shorter than the table is wide.
        self.pending: list[Sequence[Any]] = []
        #: Number of rows in batches.
        self.count = 0
        self._taken: set[str] = set()
        for column in columns:
            free_name(column.name, self._taken)
        self._spill = spill
        self._batches: list[Path] = []

    def add_column(self, name: str, kind: str, path: tuple[str, ...]) -> int:
        """Add a column and return its index. A name that is taken gets a number."""
        self.columns.append(Column(free_name(name, self._taken), kind, path))
        return len(self.columns) - 1

    def settle(self, *, now: bool = False) -> None:
        """Turn the pending rows into a batch if there are enough of them, or ``now``."""
        if not self.pending or not (now or len(self.pending) * len(self.columns) >= _CELLS):
            return
        import pyarrow as pa

        cells = list(zip_longest(*self.pending))
        cells += [(None,) * len(self.pending)] * (len(self.columns) - len(cells))
        arrays = [_array(*each) for each in zip(cells, self.schema.types, strict=True)]
        path = self._spill / f"{id(self)}-{len(self._batches)}.arrow"
        with (
            naming(str(path)),
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, self.schema) as writer,
        ):
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self.count += len(self.pending)
        self.pending = []
        self._batches.append(path)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        import pyarrow as pa

        return pa.schema([column.field for column in self.columns])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in batches with the table's schema."""
        import pyarrow as pa

        self.settle(now=True)
        schema = self.schema
        for path in self._batches:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
            missing = [pa.nulls(len(batch), field.type) for field in schema]
            arrays = [*batch.columns, *missing[len(batch.columns) :]]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
