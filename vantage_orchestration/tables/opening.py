# SPDX-License-Identifier: Apache-2.0
"""Opens the tables of a finished job: those it wrote, or tables built from its results."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.tables.build import AppliedSkills, ResultTables
from vantage_orchestration.tables.values import require_pyarrow

if TYPE_CHECKING:
    import pyarrow as pa

    from vantage_orchestration.processing.manifest import FindingEntry, Manifest
    from vantage_orchestration.storage import Location
    from vantage_orchestration.tables.values import ValueFormat

__all__ = ["OpenTable", "opened_tables", "tables_of_skill"]


class OpenTable(Protocol):
    """A table that can be read in batches, each with its schema."""

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self) -> Iterator[pa.RecordBatch]: ...


#: Skill name to its tables by name.
Tables = Mapping[str, Mapping[str, OpenTable]]


@contextlib.contextmanager
def opened_tables(
    manifest: Manifest, folder: Location, values: ValueFormat | None = None
) -> Iterator[Tables]:
    """Open the tables of a job. They can be read within the context.

    Without ``values``, they have the format of dates and numbers with which they were written.

    Raises:
        ConfigurationError: pyarrow is not installed.
        OSError: A file can't be read at present.
    """
    require_pyarrow()
    written = [each for each in manifest.written_tables if each.path.endswith(".parquet")]
    if values is None and written:
        opened: dict[str, dict[str, OpenTable]] = {}
        for each in written:
            table = _Written(folder.child(*each.path.split("/")))
            opened.setdefault(each.skill, {})[each.name] = table
        yield opened
        return
    findings: dict[str, dict[int, list[FindingEntry]]] = defaultdict(lambda: defaultdict(list))
    for found in manifest.findings:
        findings[found.transaction_id][found.document_index].append(found)
    with ResultTables(AppliedSkills.of_job(manifest.skills), values) as tables:
        for transaction in manifest.transactions:
            place = folder.child(transaction.folder)
            tables.add(transaction, place, findings[transaction.transaction_id])
        yield {name: those.tables for name, those in tables.sets.items()}


def tables_of_skill(tables: Tables, wanted: str | None) -> Mapping[str, OpenTable]:
    """Return the tables of one skill; without a name, those of the only skill.

    Raises:
        ConfigurationError: No skill has this name, or there are several and none was named.
    """
    if not tables:  # A job without documents.
        return {}
    if wanted is None and len(tables) == 1:
        return next(iter(tables.values()))
    if wanted is not None and wanted in tables:
        return tables[wanted]
    known = ", ".join(map(repr, tables))
    raise ConfigurationError(
        "The documents were processed by several skills"
        if wanted is None
        else f"There are no tables of the skill {wanted!r}",
        hint=f"Give the skill; there are tables of: {known}",
    )


@dataclass(frozen=True, slots=True)
class _Written:
    location: Location

    @property
    def schema(self) -> pa.Schema:
        import pyarrow.parquet as pq

        with self.location.open() as stream:
            return pq.read_schema(stream)

    def batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with self.location.open() as stream:
            yield from pq.ParquetFile(stream).iter_batches()
