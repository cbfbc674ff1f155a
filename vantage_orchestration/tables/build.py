# SPDX-License-Identifier: Apache-2.0
"""Builds tables from the results in a job's folder, one set per skill."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vantage_orchestration.models import Skill
from vantage_orchestration.tables.reading import DocumentContent, contents_of
from vantage_orchestration.tables.skill_tables import SkillTables
from vantage_orchestration.tables.values import ValueFormat

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import FindingEntry, TransactionManifest
    from vantage_orchestration.storage import Location

__all__ = ["AppliedSkills", "ResultTables"]


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

        A Process skill names its classes after its skills. The concept is the name in the result
        file.
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

    Rows are written to temporary files, so that memory does not grow with the results.

    Args:
        skills: The skills that processed the documents.
        values: Format of dates and numbers.

    Attributes:
        sets: Name of a skill to its tables.
    """

    def __init__(self, skills: AppliedSkills, values: ValueFormat | None = None) -> None:
        self._skills = skills
        self._values = values or ValueFormat()
        self._folder = tempfile.TemporaryDirectory(prefix="abbyy-vantage-")
        self.sets: dict[str, SkillTables] = {}

    def __enter__(self) -> ResultTables:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    def add(
        self,
        transaction: TransactionManifest,
        folder: Location,
        findings: Mapping[int, Sequence[FindingEntry]] | None = None,
    ) -> None:
        """Add the documents of a transaction, whose results are in ``folder``.

        ``findings`` are those of the quality gate by index of the document.

        Raises:
            OSError: A result file can't be read at present.
        """
        for each in contents_of(transaction, folder):
            self.add_document(transaction, each, (findings or {}).get(each.index, ()))

    def add_document(
        self,
        transaction: TransactionManifest,
        found: DocumentContent,
        findings: Sequence[FindingEntry] = (),
        *,
        left_out: bool = False,
    ) -> None:
        """Add a document of a transaction; only its findings if it is left out."""
        concept = found.content.concept if found.content is not None else None
        applied = self._skills.of_transaction(transaction.skill_id)
        name, skill = applied.of(found.document.class_name, concept)
        if name not in self.sets:
            fields = skill.fields if skill is not None else ()
            self.sets[name] = SkillTables(name, fields, self._values, Path(self._folder.name))
        self.sets[name].add(transaction, found, findings, left_out=left_out)
