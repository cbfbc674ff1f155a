# SPDX-License-Identifier: Apache-2.0
"""Completes a job whose results have landed: judges documents, writes tables, fills the
quarantine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vantage_orchestration.errors import Forbidden, NotFound
from vantage_orchestration.processing.manifest import FindingEntry
from vantage_orchestration.tables.build import (
    AppliedSkills,
    DocumentContent,
    ResultTables,
    contents_of,
)
from vantage_orchestration.tables.quality import QualityRules
from vantage_orchestration.tables.quarantine import Quarantine
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import write_tables
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Skill
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.manifest import Manifest
    from vantage_orchestration.storage import Location

__all__ = ["complete"]

log = logging.getLogger(__name__)


def complete(
    client: VantageClient,
    manifest: Manifest,
    output: Location,
    options: Options,
    skill_id: str | None,
) -> Manifest:
    """Judge the documents of a job and write its tables, as set by its options.

    Args:
        client: Client.
        manifest: The manifest of the results.
        output: Folder of the job.
        options: Options of the job.
        skill_id: Skill of all transactions, if it is the same for all.

    Returns:
        The manifest with findings, quarantine copies, skills and tables.

    Raises:
        VantageError: The skill can't be read at present, or a file can't be copied.
        OSError: A store can't be read or written at present.
    """
    rules = QualityRules(
        options.min_confidence, options.required_fields, options.fail_on_rule_errors
    )
    place = options.quarantine_path
    if not (rules or options.tables or place):
        return manifest
    skills = _skills(client, manifest, skill_id) if options.tables else ()
    values = ValueFormat(options.date_format, options.day_first, options.decimal)
    aside = options.on_low_quality == "quarantine"
    quarantine = Quarantine(client, place) if place is not None else None
    findings: list[FindingEntry] = []
    with ResultTables(AppliedSkills.of_job(skills), values) as tables:
        for each in manifest.transactions:
            for document in contents_of(each, output.child(each.folder)):
                found = rules.findings(document.content, document.problems, _broken(document))
                findings += (
                    FindingEntry(each.transaction_id, document.index, one.field, one.reason)
                    for one in found
                )
                if options.tables:
                    tables.add_document(each, document, found, left_out=aside and bool(found))
                if found and aside and quarantine is not None:
                    quarantine.add_document(each, document.document, found)
        written = write_tables(tables, output, options.tables) if options.tables else ()
    if quarantine is not None:
        for unfinished in manifest.failed:
            quarantine.add_failed(unfinished)
    return replace(
        manifest,
        skills=tuple(skills),
        written_tables=written,
        findings=tuple(findings),
        quarantined=tuple(quarantine.copies) if quarantine is not None else (),
    )


def _broken(document: DocumentContent) -> list[str]:
    """Return the message of each broken rule."""
    return [
        clean(str(each.get("message") or each.get("rule_id") or each.get("type") or "no reason"))
        for each in document.document.rule_errors
    ]


def _skills(client: VantageClient, manifest: Manifest, skill_id: str | None) -> Sequence[Skill]:
    """Return the skill of the job and, for a Process skill, the Document skills in it."""
    ids = {skill_id or each.skill_id for each in manifest.transactions} - {None}
    if len(ids) != 1:
        return ()
    try:
        skill = client.get_skill(str(ids.pop()))
    except (Forbidden, NotFound) as error:
        log.warning("The fields of the skill are unknown, so all columns hold text: %s", error)
        return ()
    inner = []
    for each in skill.skills:
        try:
            inner.append(client.get_skill(each))
        except (Forbidden, NotFound) as error:
            log.warning("The fields of skill %s are unknown: %s", each, error)
    return (skill, *(each for each in inner if each.type == "Document"))
