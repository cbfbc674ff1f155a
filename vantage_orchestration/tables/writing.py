# SPDX-License-Identifier: Apache-2.0
"""Writes tables as Parquet, JSON Lines or CSV. The same rows always give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import date
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.manifest import TableEntry
from vantage_orchestration.processing.names import TABLES, UniqueNames, safe_name
from vantage_orchestration.storage import is_part

if TYPE_CHECKING:
    import pyarrow as pa

    from vantage_orchestration.options import TableFormat
    from vantage_orchestration.storage import Location
    from vantage_orchestration.tables.build import ResultTables
    from vantage_orchestration.tables.columns import Rows


def write_tables(
    tables: ResultTables,
    output: Location,
    form: TableFormat = "parquet",
    folder: str = TABLES,
) -> tuple[TableEntry, ...]:
    """Write all tables, each skill's into a folder of its own, below ``folder`` in ``output``.

    Each file appears only when complete. Files of an earlier try that are not written again are
    removed. The written tables are returned for the manifest.

    Raises:
        ConfigurationError: The format is not ``parquet``, ``jsonl`` or ``csv``.
        OSError: The store can't be written.
    """
    if form not in _WRITERS:
        raise ConfigurationError(f"The table format is {form!r}; give one of {', '.join(_WRITERS)}")
    folders = UniqueNames()
    entries = []
    for skill, those in tables.sets.items():
        of_skill = folders.take(safe_name(skill))
        names = UniqueNames()
        for rows in those.tables.values():
            name = f"{names.take(safe_name(rows.name))}.{form}"
            path = f"{folder}/{of_skill}/{name}"
            output.child(path).write(partial(_WRITERS[form], rows))
            columns = {field.name: str(field.type) for field in rows.schema}
            entries.append(TableEntry(skill, rows.name, path, rows.count, columns))
    _remove_others(output, folder, {entry.path for entry in entries})
    return tuple(entries)


def _remove_others(output: Location, folder: str, written: Collection[str]) -> None:
    """Remove tables that an earlier try wrote and this one did not.

    Those of runs that share the output are one folder deeper, and other files are not ours.
    """
    place = output.child(folder)
    for path in place.sizes() if place.exists() else ():
        name = path.rpartition("/")[2]
        ours = path.count("/") == 1 and (name.rpartition(".")[2] in _WRITERS or is_part(name))
        if ours and f"{folder}/{path}" not in written:
            place.child(path).remove()


def _parquet(rows: Rows, stream: BinaryIO) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(stream, rows.schema) as writer:
        for batch in rows.batches():
            writer.write_batch(batch)


def _csv(rows: Rows, stream: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import csv

    empty = flattened(pa.RecordBatch.from_pylist([], rows.schema))
    with csv.CSVWriter(stream, empty.schema) as writer:
        for batch in rows.batches():
            writer.write_batch(flattened(batch))


def flattened(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with nested columns as JSON, since not every format or database has them."""
    import pyarrow as pa

    arrays, fields = list(batch.columns), list(batch.schema)
    for index, field in enumerate(fields):
        if pa.types.is_nested(field.type):
            cells = arrays[index].to_pylist()
            texts = [None if cell is None else _line(cell) for cell in cells]
            arrays[index], fields[index] = (
                pa.array(texts, pa.string()),
                field.with_type(pa.string()),
            )
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _jsonl(rows: Rows, stream: BinaryIO) -> None:
    for batch in rows.batches():
        for row in batch.to_pylist():
            stream.write(_line(row).encode("utf-8", "backslashreplace") + b"\n")


def _line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        number = float(value)
        if value == int(value):
            return int(value)
        # As a number if no digit gets lost, otherwise as text.
        return number if Decimal(str(number)) == value else str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(type(value).__name__)


_WRITERS: Final = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv}
