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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.tables.values import DECIMAL_DIGITS, DECIMAL_PLACES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "Rows"]

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
        """Return the Arrow field. Its metadata holds the skill's names of the field."""
        import pyarrow as pa

        metadata = {"abbyy_vantage.path": json.dumps(self.path)} if self.path else None
        kind = _arrow_type(self.type)
        return pa.field(self.name, kind, nullable=not self.key, metadata=metadata)


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name == "regions":
        members = ("page", "left", "top", "right", "bottom")
        return pa.list_(pa.struct([pa.field(each, pa.int32()) for each in members]))
    return {
        "text": pa.string(),
        "date": pa.date32(),
        "decimal": pa.decimal128(DECIMAL_DIGITS, DECIMAL_PLACES),
        "boolean": pa.bool_(),
        "integer": pa.int32(),
    }[name]


class Rows:
    """The rows of one table.

    Args:
        name: Name of the table.
        columns: Its first columns.
        spill: Folder for batches; None keeps them in memory.
    """

    def __init__(self, name: str, columns: Sequence[Column], spill: Path | None = None) -> None:
        self.name = name
        self.columns = list(columns)
        self.count = 0
        self._taken = {_same(column.name) for column in columns}
        self._rows: list[Sequence[Any]] = []
        self._spill = spill
        self._batches: list[Path | pa.RecordBatch] = []

    def add_column(self, name: str, kind: str, path: tuple[str, ...]) -> int:
        """Add a column and return its index. A name that is taken gets a number."""
        candidate, number = name, 2
        while _same(candidate) in self._taken:
            candidate = f"{name}_{number}"
            number += 1
        self._taken.add(_same(candidate))
        self.columns.append(Column(candidate, kind, path))
        return len(self.columns) - 1

    def add(self, row: Sequence[Any]) -> None:
        """Add a row. It may be shorter than the table is wide."""
        self._rows.append(row)

    def mark(self) -> int:
        """Return the number of collected rows, for :meth:`cut`."""
        return len(self._rows)

    def cut(self, mark: int) -> None:
        """Remove the rows added since a mark."""
        del self._rows[mark:]

    def settle(self, *, last: bool = False) -> None:
        """Turn the collected rows into a batch if there are enough of them.

        Args:
            last: Do so in any case.
        """
        if not self._rows or not (last or len(self._rows) * len(self.columns) >= _CELLS):
            return
        batch = self._batch()
        self.count += batch.num_rows
        self._rows = []
        if self._spill is None:
            self._batches.append(batch)
            return
        import pyarrow as pa

        path = self._spill / f"{id(self)}-{len(self._batches)}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        self._batches.append(path)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        import pyarrow as pa

        return pa.schema([column.field for column in self.columns])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in batches with the table's schema."""
        import pyarrow as pa

        self.settle(last=True)
        schema = self.schema
        for each in self._batches:
            if isinstance(each, Path):
                with pa.memory_map(str(each)) as source:
                    batch = pa.ipc.open_file(source).get_batch(0)
            else:
                batch = each
            missing = [
                pa.nulls(len(batch), type=f.type) for f in list(schema)[len(batch.columns) :]
            ]
            yield pa.RecordBatch.from_arrays([*batch.columns, *missing], schema=schema)

    def _batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        width = len(self.columns)
        if all(len(row) == width for row in self._rows):
            values: list[Any] = list(zip(*self._rows, strict=True))
        else:
            values = [
                [row[index] if index < len(row) else None for row in self._rows]
                for index in range(width)
            ]
        arrays = [
            _regions(cells) if column.type == "regions" else pa.array(cells, column.field.type)
            for column, cells in zip(self.columns, values, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _same(name: str) -> str:
    """Return a key that is equal for names that some databases treat as the same."""
    return _NOT_ALPHANUMERIC.sub("_", name.casefold()).strip("_")


def _regions(cells: Sequence[Sequence[Sequence[int]] | None]) -> pa.Array:
    """Return a list column of regions, each with page, left, top, right and bottom."""
    import pyarrow as pa

    kind = _arrow_type("regions")
    flat = [region for cell in cells if cell for region in cell]
    offsets, end = [0], 0
    for cell in cells:
        end += len(cell or ())
        offsets.append(end)
    members = list(zip(*flat, strict=True)) if flat else [()] * 5
    struct = pa.StructArray.from_arrays(
        [pa.array(member, pa.int32()) for member in members], fields=list(kind.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct, type=kind)
