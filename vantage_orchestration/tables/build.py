# SPDX-License-Identifier: Apache-2.0
"""Builds tables from the results in a job's folder, one set per skill, or opens those it wrote."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.models import Skill
from vantage_orchestration.tables.reading import DocumentContent, contents_of
from vantage_orchestration.tables.skill_tables import SkillTables
from vantage_orchestration.tables.values import ValueFormat, require_pyarrow

if TYPE_CHECKING:
    import pyarrow as pa

    from vantage_orchestration.processing.manifest import (
        FindingEntry,
        Manifest,
        TransactionManifest,
    )
    from vantage_orchestration.storage import Location


class ResultTables:
    """Tables of results, one set for each skill. Use it as a context manager.

    Rows are written to temporary files, so that memory does not grow with the results.

    Args:
        skills: The skills that processed the documents, with the skills in a Process skill.
        values: Format of dates and numbers.
        skill_ids: All skills of the transactions, also those without a description.

    Attributes:
        sets: Name of a skill to its tables, with its id if another skill has the same name.
    """

    def __init__(
        self,
        skills: Iterable[Skill] = (),
        values: ValueFormat | None = None,
        *,
        skill_ids: Iterable[str] = (),
    ) -> None:
        self._skills = {each.id.lower(): each for each in skills}
        names = Counter(each.name for each in self._skills.values())
        #: Names that more than one skill has. The tables of each are named by its id as well.
        self._shared = {name for name, number in names.items() if number > 1}
        unknown = {each.lower() for each in skill_ids} - self._skills.keys()
        self._several_unknown = len(unknown) > 1
        self._values = values or ValueFormat()
        self.sets: dict[str, SkillTables] = {}

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """The folder of temporary files, which is created when the first row needs it."""
        return tempfile.TemporaryDirectory(prefix="abbyy-vantage-")

    def __enter__(self) -> ResultTables:
        return self

    def __exit__(self, *exc: object) -> None:
        if "folder" in vars(self):
            self.folder.cleanup()

    def add(
        self,
        transaction: TransactionManifest,
        found: DocumentContent,
        findings: Sequence[FindingEntry] = (),
        *,
        left_out: bool = False,
    ) -> None:
        """Add a document of a transaction; only its findings if it is left out."""
        concept = found.content.concept if found.content is not None else None
        name, skill = self._skill_of(transaction.skill_id, found.document.class_name, concept)
        if name not in self.sets:
            fields = skill.fields if skill is not None else ()
            self.sets[name] = SkillTables(name, fields, self._values, Path(self.folder.name))
        self.sets[name].add(transaction, found, findings, left_out=left_out)

    def _skill_of(
        self, skill_id: str | None, class_name: str | None, concept: str | None
    ) -> tuple[str, Skill | None]:
        """Return name and description of the skill that extracted a document's fields.

        A Process skill names its classes after its skills. The concept is the name in the result
        file.
        """
        known = self._skills.values()
        inside = {each.lower() for skill in known for each in skill.skills}
        outer = [skill for name, skill in self._skills.items() if name not in inside]
        own = self._skills.get(skill_id.lower()) if skill_id else None
        if not skill_id and len(outer) == 1:
            own = outer[0]
        if own is not None and own.type != "Process":
            return self._label(own.name, own.id), own
        its = {each.lower() for each in own.skills} if own is not None else set()
        inner = [skill for name, skill in self._skills.items() if name in its]
        for name in (concept, class_name):
            for each in inner:
                if name is not None and each.name == name:
                    return self._label(name, each.id), each
        only = inner[0] if len(inner) == 1 and class_name is None else None
        name = concept or class_name
        if name is None and only is not None:
            return self._label(only.name, only.id), only
        name = name or (own.name if own is not None else "documents")
        anothers = any(each.name == name for each in known if each is not own)
        if skill_id and (anothers or (own is None and self._several_unknown)):
            name = f"{name} ({skill_id})"
        return name, only

    def _label(self, name: str, skill_id: str) -> str:
        return f"{name} ({skill_id})" if name in self._shared else name


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

    Without ``values``, they have the format of dates and numbers with which they were written. What
    is in quarantine is left out.
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
    made = manifest.table_options
    if values is None:
        values = ValueFormat(made.get("date_format"), made.get("day_first"), made.get("decimal"))
    findings: dict[tuple[str, int], list[FindingEntry]] = defaultdict(list)
    for found in manifest.findings:
        findings[found.transaction_id, found.document_index].append(found)
    with ResultTables(manifest.skills, values, skill_ids=manifest.skill_ids) as tables:
        for entry in manifest.transactions:
            for document in contents_of(entry, folder.child(entry.folder)):
                those = findings[entry.transaction_id, document.index]
                aside = bool(those) and made.get("on_low_quality") == "quarantine"
                tables.add(entry, document, those, left_out=aside)
        yield {name: found.tables for name, found in tables.sets.items()}


def tables_of_skill(tables: Tables, wanted: str | None) -> Mapping[str, OpenTable]:
    """Return the tables of one skill; without a name, those of the only skill. If no skill has this
    name, or there are several and none was named, that is an error."""
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
