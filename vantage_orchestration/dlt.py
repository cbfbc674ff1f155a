# SPDX-License-Identifier: Apache-2.0
"""The results of a job as a dlt source, which loads them into a database. Extra: ``dlt``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Set
from typing import TYPE_CHECKING, Any, Final

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.configuration.container import Container
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.normalizers.naming.snake_case import NamingConvention
from dlt.extract.resource import DltResource

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.tables.build import OpenTable, opened_tables, tables_of_skill
from vantage_orchestration.tables.skill_tables import DOCUMENT_KEY, DOCUMENTS
from vantage_orchestration.tables.writing import flattened

if TYPE_CHECKING:
    from vantage_orchestration.storage import AnyPath
    from vantage_orchestration.tables.values import ValueFormat

_DOCUMENT: Final = [column.name for column in DOCUMENT_KEY]
_Key = tuple[Any, ...]
#: Marks rows that dlt removes instead of loading them.
_REMOVED: Final = "abbyy_vantage_removed"
#: What dlt calls the types of our columns, other than text.
_KINDS: Final = {
    pa.types.is_boolean: "bool",
    pa.types.is_date: "date",
    pa.types.is_decimal: "decimal",
    pa.types.is_integer: "bigint",
}
_normal: Final = NamingConvention().normalize_identifier


@dlt.source(name="abbyy_vantage")
def documents(
    manifest: Manifest | AnyPath, skill: str | None = None, values: ValueFormat | None = None
) -> Iterator[DltResource]:
    """Return a dlt source for the results of a job.

    ``dlt.pipeline(...).run(documents("s3://invoices/out/manifest.json"))`` loads a table for each
    table of each skill, such as ``invoice_documents``, ``invoice_documents_items`` and
    ``invoice_fields``. Call ``run()`` without data before: while something is left of a killed or
    failed load, dlt loads that and passes over new data.

    Rows are merged by transaction, document and position: loading the same results again changes
    nothing, and rows that a document no longer has are removed, as are all rows, except findings,
    of one that is in quarantine now. If a field's type has changed in the skill, later values get a
    column of their own, such as ``total__v_decimal``.

    Args:
        manifest: A manifest or its location: the ``manifest`` of a task's result.
        skill: Only the tables of this skill, under names without it, such as ``documents``.
        values: Format of dates and numbers; see :meth:`.Manifest.tables`.

    Raises:
        ConfigurationError: There is no manifest or no such skill, two skills would have the same
            table names, or (in the load) the destination can't replace rows, as ``filesystem``.
        OSError: A file can't be read at present.
    """
    opened = manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)
    # Every resource keeps the context: dlt reads them after this function has returned.
    context = opened_tables(opened, opened.opened_in, values)
    tables = context.__enter__()
    if skill is not None and tables:
        tables = {skill: tables_of_skill(tables, skill)}
    aside = opened.table_options.get("on_low_quality") == "quarantine"
    left_out = {(each.transaction_id, each.document_index) for each in opened.findings if aside}
    owners: dict[str, str] = {}
    for owner, those in tables.items():
        known = left_out | _keys(those[DOCUMENTS].batches())
        full = [name if skill is not None else f"{owner} {name}" for name in those]
        for name, table in zip(_apart(map(_snake, full)), those.values(), strict=True):
            if (other := owners.setdefault(_normal(name), owner)) != owner:
                raise ConfigurationError(
                    f"The skills {other!r} and {owner!r} would both have the table {name}",
                    hint="Load one skill at a time, each into a dataset of its own: give skill",
                )
            yield dlt.resource(
                _pieces(name, table, known, context),
                name=name,
                columns={_REMOVED: {"data_type": "bool", "hard_delete": True}},
                write_disposition="merge",
                merge_key=_DOCUMENT,
                primary_key=[field.name for field in table.schema if not field.nullable],
            )


def _pieces(name: str, table: OpenTable, known: Set[_Key], context: object) -> Iterator[pa.Table]:
    """Yield the rows of a table; its context stays open meanwhile. A known document without rows
    gets one that removes those of an earlier load."""
    _check_destination()
    names = _apart((_REMOVED, *_variants(name, table.schema)))
    filled: set[_Key] = set()
    for batch in table.batches():
        filled |= _keys([batch])
        yield _marked(flattened(batch), names, removed=False)
    if empty := sorted(known - filled):
        rows = [
            {"position": 0, "parent": "", **dict(zip(_DOCUMENT, key, strict=True))} for key in empty
        ]
        gone = pa.RecordBatch.from_pylist(rows, table.schema)
        yield _marked(flattened(gone), names, removed=True)
    del context


def _check_destination() -> None:
    """Refuse a destination that can't replace rows: dlt would append to them instead."""
    found = Container().get(DestinationCapabilitiesContext)
    if found is not None and "delete-insert" not in (found.supported_merge_strategies or ()):
        raise ConfigurationError(
            "The destination can't replace rows, so a second load would double them",
            hint="Load into a database. Files are written by the task itself: set tables='parquet'",
        )


def _variants(table: str, schema: pa.Schema) -> Iterator[str]:
    """Yield the names of columns. Where the skill has changed the type of a field since an earlier
    load, it is the name that dlt itself gives to values of another type."""
    schema_there = dlt.current.source_schema()
    # The database may have shortened the names.
    stored = schema_there.naming.normalize_identifier
    known = schema_there.tables.get(stored(table), {}).get("columns", {})
    for name, field in zip(map(_ascii, schema.names), schema, strict=True):
        kind = next((kind for is_kind, kind in _KINDS.items() if is_kind(field.type)), "text")
        before = known.get(stored(name), {}).get("data_type", kind)
        yield name if kind == before else f"{name}__v_{kind}"


def _keys(batches: Iterable[pa.RecordBatch]) -> set[_Key]:
    """Return the keys of the documents that have rows."""
    columns = ([batch.column(name).to_pylist() for name in _DOCUMENT] for batch in batches)
    return {key for each in columns for key in zip(*each, strict=True)}


def _marked(batch: pa.RecordBatch, names: list[str], *, removed: bool) -> pa.Table:
    # PostgreSQL has no null character, and one value would block the whole load.
    arrays = [
        pc.replace_substring(each, "\0", "\ufffd") if pa.types.is_string(each.type) else each
        for each in batch.columns
    ]
    table = pa.Table.from_arrays(arrays, schema=batch.schema)
    return table.add_column(0, _REMOVED, pa.repeat(removed, len(batch))).rename_columns(names)


def _snake(name: str) -> str:
    return re.sub(r"[\W_]+", "_", _ascii(name).casefold()).strip("_")


def _ascii(name: str) -> str:
    """Return a name with an equivalent for each letter that dlt would leave out."""
    if not any(map(str.isalnum, name)):
        return "field"  # dlt has no valid name for some of them.
    if name.isascii():
        return name
    found = []
    for char in name:
        base = unicodedata.normalize("NFKD", char.casefold())
        base = "".join(each for each in base if not unicodedata.combining(each))
        same = char.isascii() or not char.isalnum()
        found.append(char if same else base if base.isascii() else f" u{ord(char):x} ")
    return " ".join("".join(found).split())


def _apart(names: Iterable[str]) -> list[str]:
    """Return names with a number where dlt would take two for the same."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 2
        while _normal(candidate) in taken:
            candidate = f"{name}_{number}"
            number += 1
        taken.add(_normal(candidate))
        found.append(candidate)
    return found
