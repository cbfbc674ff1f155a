# SPDX-License-Identifier: Apache-2.0
"""Completes a job whose results have landed: judges documents, writes tables, fills the
quarantine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from vantage_orchestration.errors import Forbidden, NotFound
from vantage_orchestration.processing.ledger import FOLDER
from vantage_orchestration.processing.manifest import FindingEntry
from vantage_orchestration.processing.names import TABLES, safe_name, suffixed
from vantage_orchestration.storage import Location
from vantage_orchestration.tables.build import ResultTables
from vantage_orchestration.tables.quality import QualityRules, field_names
from vantage_orchestration.tables.reading import DocumentContent, contents_of, sources_of
from vantage_orchestration.tables.values import ValueFormat
from vantage_orchestration.tables.writing import write_tables
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Skill
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.manifest import (
        DocumentEntry,
        Manifest,
        SourceEntry,
        TransactionManifest,
        UnfinishedEntry,
    )
    from vantage_orchestration.storage import AnyPath

log = logging.getLogger(__name__)

_CHUNK = 1024 * 1024


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
    limits = rules.min_confidence
    unseen = set(limits) if isinstance(limits, Mapping) else set()
    with ResultTables(skills, values, skill_ids=manifest.skill_ids) as tables:
        for each in manifest.transactions:
            for document in contents_of(each, output.child(each.folder)):
                found = [
                    FindingEntry(each.transaction_id, document.index, *one)
                    for one in rules.findings(
                        document.content, document.problems, _broken(document)
                    )
                ]
                findings += found
                if unseen and document.content is not None:
                    unseen -= field_names(document.content.entries)
                if options.tables:
                    tables.add(each, document, found, left_out=aside and bool(found))
                if found and aside and quarantine is not None:
                    quarantine.add_document(each, document.document, found)
        written = write_tables(tables, output, options.tables, tables_in) if options.tables else ()
    if unseen and manifest.transactions:
        text = "min_confidence names fields that no document has, so they were not checked: %s"
        log.warning(text, ", ".join(map(repr, sorted(unseen))))
    if quarantine is not None:
        for unfinished in manifest.failed:
            quarantine.add_failed(unfinished)
    return replace(
        manifest,
        skills=skills,
        written_tables=written,
        findings=tuple(findings),
        quarantined=tuple(quarantine.copies) if quarantine is not None else (),
        table_options={
            "date_format": list(options.date_format),
            "day_first": options.day_first,
            "decimal": options.decimal,
            "on_low_quality": options.on_low_quality,
        },
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


class Quarantine:
    """A folder of documents for a person to check.

    A copy is named by its file and content, so another try writes the same files. The service
    provides documents that are no longer at their original place.
    """

    def __init__(self, client: VantageClient, place: AnyPath) -> None:
        self._client = client
        self._folder = Location.of(place)
        #: Addresses of the copies, or of the files that say why there is no copy.
        self.copies: list[str] = []

    def add_document(
        self,
        transaction: TransactionManifest,
        document: DocumentEntry,
        findings: Sequence[FindingEntry],
    ) -> None:
        """Copy the files of a document that is not good enough."""
        sources = sources_of(transaction, document) or transaction.sources
        why = {
            "transaction_id": transaction.transaction_id,
            "document_id": document.document_id,
            "status": transaction.status,
            "class": document.class_name,
            "findings": [{"field": each.field, "reason": each.reason} for each in findings],
        }
        self._add(transaction.transaction_id, sources, why)

    def add_failed(self, failed: UnfinishedEntry) -> None:
        """Copy the files of a failed transaction."""
        why = {
            "transaction_id": failed.transaction_id,
            "status": failed.status,
            "error": failed.error,
        }
        self._add(failed.transaction_id, failed.sources, why)

    def _add(
        self, transaction_id: str, sources: Sequence[SourceEntry], why: dict[str, Any]
    ) -> None:
        if sources and not self.copies:
            # Marks the folder, so that no run sends the copies as documents.
            self._folder.child(FOLDER, "quarantine").write_text("")
        for source in sources:
            mark = (source.sha256 or transaction_id)[:8]
            copy = self._folder.child(suffixed(safe_name(source.name), f"-{mark}"))
            there = self._copied(transaction_id, source, copy)
            sent = {"file": source.name, "path": source.path, "sha256": source.sha256}
            said = {**sent, "copied": there, **why}
            note = self._folder.child(f"{copy.name}.json")
            note.write_text(json.dumps(said, ensure_ascii=False, indent=2) + "\n")
            self.copies.append((copy if there else note).url)

    def _copied(self, transaction_id: str, source: SourceEntry, copy: Location) -> bool:
        """Copy a file; return False if it no longer exists anywhere."""
        info = copy.info()
        if info is not None and info.get("size") == source.size:
            return True
        try:
            copy.write(lambda stream: self._from_home(source, stream))
        except Exception:  # A store without its connection raises errors of many kinds.
            try:
                copy.write(lambda stream: self._from_service(transaction_id, source, stream))
            except NotFound:
                return False
        return True

    def _from_home(self, source: SourceEntry, stream: BinaryIO) -> None:
        if source.path is None or source.sha256 is None:
            raise FileNotFoundError(source.name)
        digest = hashlib.sha256()
        with Location.of(source.path).open() as home:
            while chunk := home.read(_CHUNK):
                digest.update(chunk)
                stream.write(chunk)
        if digest.hexdigest() != source.sha256:
            raise ValueError("the file has changed since it was sent")

    def _from_service(self, transaction_id: str, source: SourceEntry, stream: BinaryIO) -> None:
        for document in self._client.list_documents(transaction_id):
            for file in document.source_files:
                if file.name == source.stored_name:
                    self._client.stream_source_file(transaction_id, document.id, file.id, stream)
                    return
        raise NotFound("The service has no such file", transaction_id=transaction_id)
