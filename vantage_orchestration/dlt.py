# SPDX-License-Identifier: Apache-2.0
"""The results of a job as a dlt source, which loads them into a database. Extra: ``dlt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import dlt
import pyarrow as pa
from dlt.extract.resource import DltResource

from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.tables.build import OpenTable, opened_tables, tables_of_skill
from vantage_orchestration.tables.skill_tables import DOCUMENT_KEY
from vantage_orchestration.tables.writing import flattened

if TYPE_CHECKING:
    from vantage_orchestration.storage import AnyPath
    from vantage_orchestration.tables.values import ValueFormat

_DOCUMENT: Final = [column.name for column in DOCUMENT_KEY]


@dlt.source(name="abbyy_vantage")
def documents(
    manifest: Manifest | AnyPath, skill: str | None = None, values: ValueFormat | None = None
) -> Iterator[DltResource]:
    """Return a dlt source for the results of a job.

    ``dlt.pipeline(...).run(documents("s3://invoices/out/manifest.json"))`` loads a table for each
    table of each skill, such as ``invoice_documents``, ``invoice_documents_items`` and
    ``invoice_fields``. Rows are merged by transaction, document and position: loading the same
    results again changes nothing, and rows that a document no longer has are removed.

    Args:
        manifest: A manifest or its location: the ``manifest`` of a task's result.
        skill: Only the tables of this skill, under names without it, such as ``documents``.
        values: Format of dates and numbers; see :meth:`.Manifest.tables`.

    Raises:
        ConfigurationError: There is no manifest, or no such skill.
        OSError: A file can't be read at present.
    """
    opened = manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)
    # Every resource keeps the context: dlt reads them after this function has returned.
    context = opened_tables(opened, opened.opened_in, values)
    tables = context.__enter__()
    if skill is not None:
        tables_of_skill(tables, skill)
    for owner, those in tables.items():
        for name, table in those.items():
            if skill in (None, owner):
                yield dlt.resource(
                    _pieces(table, context),
                    name=_snake(name if skill is not None else f"{owner} {name}"),
                    write_disposition="merge",
                    merge_key=_DOCUMENT,
                    primary_key=[field.name for field in table.schema if not field.nullable],
                )


def _pieces(table: OpenTable, context: object) -> Iterator[pa.Table]:
    """Yield the rows of a table; its context stays open meanwhile."""
    for batch in table.batches():
        yield pa.Table.from_batches([flattened(batch)])
    del context


def _snake(name: str) -> str:
    return re.sub(r"\W+", "_", name.casefold()).strip("_")
