# SPDX-License-Identifier: Apache-2.0
"""Builds tables from the results in a job's folder, one set per skill."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vantage_orchestration.models import Skill
from vantage_orchestration.tables.reading import READABLE, Content, read_content
from vantage_orchestration.tables.skill_tables import DocumentFacts, SkillTables
from vantage_orchestration.tables.values import ValueFormat

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import (
        DocumentEntry,
        SourceEntry,
        TransactionManifest,
    )
    from vantage_orchestration.storage import Location
    from vantage_orchestration.tables.quality import Finding

__all__ = ["AppliedSkills", "DocumentContent", "ResultTables", "contents_of", "sources_of"]


@dataclass(frozen=True, slots=True)
class AppliedSkills:
    """The skill of a transaction and, for a Process skill, the skills in it.

    Attributes:
        skill: The skill; None if it could not be read.
        inner: Document skills in a Process skill.
        others: Those of other transactions, if a job has several skills.
    """

    skill: Skill | None = None
    inner: tuple[Skill, ...] = ()
    others: tuple[AppliedSkills, ...] = ()

    @classmethod
    def of_job(cls, skills: Sequence[Skill]) -> AppliedSkills:
        """Read the skills of a manifest: behind each Process skill come the skills in it."""
        found: list[AppliedSkills] = []
        for each in skills:
            last = found[-1] if found else cls()
            if last.skill is not None and each.id in last.skill.skills and each not in last.inner:
                found[-1] = cls(last.skill, (*last.inner, each))
            else:
                found.append(cls(each))
        return replace(found[0], others=tuple(found[1:])) if found else cls()

    def of_transaction(self, skill_id: str | None) -> AppliedSkills:
        """Return the skills of one transaction of the job."""
        if not self.others or (self.skill is not None and self.skill.id == skill_id):
            return self
        of_it = (each for each in self.others if each.skill and each.skill.id == skill_id)
        return next(of_it, AppliedSkills())

    def of(self, class_name: str | None, concept: str | None) -> tuple[str, Skill | None]:
        """Return name and description of the skill that extracted a document's fields.

        Args:
            class_name: Class of the document. A Process skill names its classes after its skills.
            concept: Name given in the result file.
        """
        if self.skill is not None and self.skill.type != "Process":
            return self.skill.name, self.skill
        for name in (concept, class_name):
            for each in self.inner:
                if name is not None and each.name == name:
                    return each.name, each
        only = self.inner[0] if len(self.inner) == 1 and class_name is None else None
        name = concept or class_name
        if name is None and only is not None:
            return only.name, only
        return name or (self.skill.name if self.skill is not None else "documents"), only


class ResultTables:
    """Tables of results, one set for each skill. Use it as a context manager.

    Args:
        skills: The skills that processed the documents.
        values: Format of dates and numbers.
        spill: Whether to write rows to temporary files, so that memory does not grow with the
            results.

    Attributes:
        sets: Name of a skill to its tables.
    """

    def __init__(
        self, skills: AppliedSkills, values: ValueFormat | None = None, *, spill: bool = True
    ) -> None:
        self._skills = skills
        self._values = values or ValueFormat()
        self._folder = tempfile.TemporaryDirectory(prefix="abbyy-vantage-") if spill else None
        self.sets: dict[str, SkillTables] = {}

    def __enter__(self) -> ResultTables:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()

    def add(
        self,
        transaction: TransactionManifest,
        folder: Location,
        findings: Mapping[int, Sequence[Finding]] | None = None,
    ) -> None:
        """Add the documents of a transaction.

        Args:
            transaction: Its entry in the manifest.
            folder: Folder of its results.
            findings: Findings by index of the document.

        Raises:
            OSError: A result file can't be read at present.
        """
        for each in contents_of(transaction, folder):
            self.add_document(transaction, each, (findings or {}).get(each.index, ()))

    def add_document(
        self,
        transaction: TransactionManifest,
        found: DocumentContent,
        findings: Sequence[Finding] = (),
        *,
        left_out: bool = False,
    ) -> None:
        """Add a document.

        Args:
            transaction: Its transaction.
            found: Content of its result files.
            findings: Its findings.
            left_out: Add only its findings.
        """
        document = found.document
        class_name = document.class_name
        concept = found.content.concept if found.content is not None else None
        name, skill = self._skills.of_transaction(transaction.skill_id).of(class_name, concept)
        if name not in self.sets:
            spill = Path(self._folder.name) if self._folder is not None else None
            fields = skill.fields if skill is not None else ()
            self.sets[name] = SkillTables(fields, self._values, spill)
        sources = sources_of(transaction, document)
        first = sources[0] if sources else None
        alone = len(transaction.documents) == 1
        facts = DocumentFacts(
            transaction.transaction_id,
            found.index,
            document.document_id,
            name,
            (first.name, first.path, first.sha256) if first is not None else (None, None, None),
            len(sources) or None,
            class_name,
            (document.classification or {}).get("confidence"),
            transaction.pages if alone else None,
            [
                (each.get("type"), each.get("rule_id"), each.get("message"), each.get("field_id"))
                for each in document.rule_errors
            ],
            findings,
        )
        if left_out:
            self.sets[name].add_findings(facts)
        else:
            self.sets[name].add(facts, found.content, found.problems)


@dataclass(frozen=True, slots=True)
class DocumentContent:
    """A document with the content of its result files.

    Attributes:
        index: Its position in the transaction, from 1.
        document: Its entry in the manifest.
        content: Its fields; None if it has no readable file with fields.
        problems: Why files could not be read.
    """

    index: int
    document: DocumentEntry
    content: Content | None
    problems: Sequence[str]


def contents_of(transaction: TransactionManifest, folder: Location) -> Iterator[DocumentContent]:
    """Read the result files of a transaction, document by document.

    Args:
        transaction: Its entry in the manifest.
        folder: Folder of its results.

    Raises:
        OSError: A result file can't be read at present.
    """
    for index, document in enumerate(transaction.documents, 1):
        yield DocumentContent(index, document, *_content_of(document, document.place(folder)))


def _content_of(document: DocumentEntry, folder: Location) -> tuple[Content | None, list[str]]:
    """Return the fields of a document, and why files could not be read."""
    problems: list[str] = []
    for kind in READABLE:
        for file in document.files:
            if file.type != kind:
                continue
            try:
                data = folder.child(file.path).read_bytes()
                return read_content(kind, data, document.document_id), problems
            except FileNotFoundError:
                problems.append(f"{file.path} is missing")
            except ValueError as error:
                problems.append(f"{file.path} can't be read as {kind}: {error}")
    return None, problems


def sources_of(
    transaction: TransactionManifest, document: DocumentEntry
) -> tuple[SourceEntry, ...]:
    """Return the files from which a document was made, as far as known."""
    if document.sources:
        return tuple(each for each in transaction.sources if each.stored_name in document.sources)
    if len(transaction.documents) == 1 or len(transaction.sources) == 1:
        return transaction.sources
    return ()
