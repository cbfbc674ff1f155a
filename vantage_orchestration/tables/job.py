# SPDX-License-Identifier: Apache-2.0
"""Completes a job whose results have landed: judges documents, writes tables, fills the
quarantine."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from vantage_orchestration.errors import Forbidden, NotFound
from vantage_orchestration.processing.manifest import FindingEntry
from vantage_orchestration.tables.build import ResultTables
from vantage_orchestration.tables.quality import QualityRules
from vantage_orchestration.tables.quarantine import Quarantine
from vantage_orchestration.tables.reading import DocumentContent, contents_of
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import TABLES, write_tables
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Skill
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.manifest import Manifest
    from vantage_orchestration.storage import Location

log = logging.getLogger(__name__)


def complete(
    client: VantageClient,
    manifest: Manifest,
    output: Location,
    options: Options,
    *,
    tables_in: str = TABLES,
) -> Manifest:
    """Judge the documents of a job and write its tables, as set by its options.

    The manifest of the results is returned with findings, quarantine copies, skills and tables,
    which are below the path ``tables_in`` of ``output``.
    """
    rules = QualityRules(
        options.min_confidence, options.required_fields, options.fail_on_rule_errors
    )
    place = options.quarantine_path
    if not (rules or options.tables or place):
        return manifest
    skills = _skills(client, manifest) if options.tables else ()
    values = ValueFormat(options.date_format, options.day_first, options.decimal)
    aside = options.on_low_quality == "quarantine"
    quarantine = Quarantine(client, place) if place is not None else None
    findings: list[FindingEntry] = []
    with ResultTables(skills, values) as tables:
        for each in manifest.transactions:
            for document in contents_of(each, output.child(each.folder)):
                found = [
                    FindingEntry(each.transaction_id, document.index, one.field, one.reason)
                    for one in rules.findings(
                        document.content, document.problems, _broken(document)
                    )
                ]
                findings += found
                if options.tables:
                    tables.add(each, document, found, left_out=aside and bool(found))
                if found and aside and quarantine is not None:
                    quarantine.add_document(each, document.document, found)
        written = write_tables(tables, output, options.tables, tables_in) if options.tables else ()
    if quarantine is not None:
        for unfinished in manifest.failed:
            quarantine.add_failed(unfinished)
    return replace(
        manifest,
        skills=skills,
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


def _skills(client: VantageClient, manifest: Manifest) -> tuple[Skill, ...]:
    """Return the skills of the job, and behind each Process skill the Document skills in it."""
    found: list[Skill] = []
    for skill_id in sorted(manifest.skill_ids):
        skill = _skill(client, skill_id)
        if skill is not None:
            inner = [_skill(client, each) for each in skill.skills]
            found += [skill, *(each for each in inner if each and each.type == "Document")]
    return tuple(found)


def _skill(client: VantageClient, skill_id: str) -> Skill | None:
    try:
        return client.get_skill(skill_id)
    except (Forbidden, NotFound) as error:
        text = "The fields of the skill %s are unknown, so its columns hold text: %s"
        log.warning(text, skill_id, error)
        return None
