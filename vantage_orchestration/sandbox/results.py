# SPDX-License-Identifier: Apache-2.0
"""Result files made from the uploaded bytes (contract, section 7).

Fields are read from labelled lines of a PDF's text layer (``Invoice Number: INV-17``). Four
fields say which bytes a result was made from, so that a lost, doubled or swapped file shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from .bodies import Parameter
from .ids import Ids, blob
from .skills import (
    CLASSIFICATION,
    DOCUMENT,
    FILE_NAME,
    FILE_SHA256,
    FILE_SIZE,
    OCR,
    PAGE_COUNT,
    PROCESS,
    Skill,
    SkillField,
    Skills,
)
from .sources import Page, Source, read_source
from .uploads import UploadedFile

_ALIASES = {
    "invoice no": "invoice number",
    "invoice no.": "invoice number",
    "invoice": "invoice number",
    "date": "invoice date",
    "vendor": "supplier",
    "seller": "supplier",
    "bill to": "customer",
    "buyer": "customer",
    "purchase order": "order number",
    "po number": "order number",
    "net": "net amount",
    "subtotal": "net amount",
    "tax": "tax amount",
    "vat": "tax amount",
    "total amount": "total",
    "amount due": "total",
    "receipt no": "receipt number",
}
_LINE_HEIGHT = 60
_LEFT, _TOP = 120, 120

Value = str | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class DocumentJob:
    """One document to be processed."""

    id: str
    files: tuple[UploadedFile, ...]


@dataclass(frozen=True)
class Job:
    """Everything that is needed to process a transaction, away from the server's state."""

    transaction_id: str
    skill: Skill
    documents: tuple[DocumentJob, ...]
    registration: tuple[Parameter, ...]
    exports: tuple[str, ...]
    rule_errors: tuple[dict[str, Any], ...]
    wrap_json: bool
    wrap_ocr_json: bool
    folder: Path


@dataclass(frozen=True)
class ResultFile:
    """A result file on disk."""

    id: str
    name: str
    type: str
    path: Path


@dataclass(frozen=True)
class DocumentResult:
    """The results of one document."""

    id: str
    files: tuple[ResultFile, ...]
    classification: dict[str, Any] | None
    rule_errors: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """The results of a transaction. ``text`` is all text found, for rules that look for words."""

    documents: tuple[DocumentResult, ...]
    page_count: int
    text: str
    error: str | None


def produce(job: Job, skills: Skills, ids: Ids) -> Outcome:
    """Process all documents of a transaction and write the result files.

    Args:
        job: What to process.
        skills: All skills, for the inner ones of a Process skill.
        ids: Source of the ids; they depend on the transaction only.
    """
    read = [
        (document, [read_source(f.path, f.name, f.size, f.sha256) for f in document.files])
        for document in job.documents
    ]
    sources = [source for _, group in read for source in group]
    pages = sum(len(source.pages) for source in sources)
    text = "\n".join(line for source in sources for line in source.lines)
    error = next((source.error for source in sources if source.error), None)
    if error is not None:
        return Outcome((), pages, text, error)
    maker = _Maker(job, skills, ids)
    return Outcome(tuple(maker.document(doc, group) for doc, group in read), pages, text, None)


class _Maker:
    """Makes the results of one transaction, one document after the other."""

    def __init__(self, job: Job, skills: Skills, ids: Ids) -> None:
        self._job = job
        self._skills = skills
        self._ids = ids
        self._stems: dict[str, int] = {}

    def document(self, document: DocumentJob, sources: list[Source]) -> DocumentResult:
        skill, classification = self._applied(sources)
        fields = find_fields(skill.fields, sources)
        errors = (*_check_total(fields, self._ids, skill), *self._job.rule_errors)
        stem = self._stem(skill, sources)
        makers: dict[str, tuple[str, Callable[[], str]]] = {
            "Json": (
                f"{stem}.json",
                lambda: self._json(document, skill, fields, sources, classification, errors),
            ),
            "FieldsJson": (
                f"{stem}_fields.json",
                lambda: json.dumps({"Version": "3.0", "Fields": fields}, ensure_ascii=False),
            ),
            "OcrJson": (f"{stem}_text.json", lambda: self._ocr_json(sources)),
            "Text": (f"{stem}.txt", lambda: _plain_text(sources)),
        }
        files = []
        for kind in self._job.exports:
            name, make = makers[kind]
            identifier = self._ids.fixed("result", self._job.transaction_id, document.id, kind)
            path = self._job.folder / identifier
            path.write_text(make(), encoding="utf-8")
            files.append(ResultFile(blob(identifier), name, kind, path))
        # The contract defines no order, so none is kept.
        files.sort(key=lambda item: self._ids.rank(item.id))
        return DocumentResult(document.id, tuple(files), classification, errors)

    def _applied(self, sources: list[Source]) -> tuple[Skill, dict[str, Any] | None]:
        """Return the skill that gives the fields, and the classification if there is one."""
        skill = self._job.skill
        if skill.type == CLASSIFICATION:
            return skill, _classify(skill, sources)
        if skill.type == PROCESS:
            inner = [self._skills.find(item) for item in skill.inner]
            classifier = next(s for s in inner if s and s.type == CLASSIFICATION)
            classification = _classify(classifier, sources)
            wanted = classification["resultClass"]["name"]
            chosen = [s for s in inner if s and s.type == DOCUMENT]
            return next((s for s in chosen if s.name == wanted), chosen[0]), classification
        return skill, None

    def _stem(self, skill: Skill, sources: list[Source]) -> str:
        """Return the first part of result file names; further documents get a number (7.1)."""
        stem = Path(sources[0].name).stem if skill.type == OCR else skill.name
        self._stems[stem] = self._stems.get(stem, 0) + 1
        return stem if self._stems[stem] == 1 else f"{stem}{self._stems[stem]}"

    def _json(
        self,
        document: DocumentJob,
        skill: Skill,
        fields: dict[str, Value],
        sources: list[Source],
        classification: dict[str, Any] | None,
        errors: Sequence[dict[str, Any]],
    ) -> str:
        root = _Objects(self._ids, document.id, sources).root(skill, fields)
        transaction = {
            "Id": self._job.transaction_id,
            "SkillId": self._job.skill.id,
            "SkillName": self._job.skill.name,
            "Documents": [
                {
                    "Id": document.id,
                    "ExtractedData": {
                        "DocumentDefinition": {
                            "RootConcept": {"Id": skill.id, "Name": skill.name, "Fields": []}
                        },
                        "RootObject": root,
                        "Objects": [],
                    },
                    "Pages": [
                        {"Width": page.width, "Height": page.height}
                        for source in sources
                        for page in source.pages
                    ],
                    "ClassificationResult": _classification_result(classification),
                    "RuleErrors": [
                        {
                            "RuleName": error.get("ruleId") or error["errorType"],
                            "ErrorMessage": error.get("customMessage"),
                        }
                        for error in errors
                    ],
                    "RegistrationParameters": [
                        {"Key": item.key, "Value": item.value} for item in self._job.registration
                    ],
                }
            ],
            "SourceFiles": [{"Name": source.name} for source in sources],
        }
        value = {"Transaction": transaction} if self._job.wrap_json else transaction
        return json.dumps(value, ensure_ascii=False)

    def _ocr_json(self, sources: list[Source]) -> str:
        pages = [_ocr_page(page) for source in sources for page in source.pages]
        value = {
            "producer": "ABBYY Vantage sandbox",
            "version": "1.0",
            "languages": ["English"],
            "layout": {"pages": pages},
        }
        return json.dumps([value] if self._job.wrap_ocr_json else value, ensure_ascii=False)


class _Objects:
    """Makes the nested objects of a ``Json`` result (7.3)."""

    def __init__(self, ids: Ids, document_id: str, sources: list[Source]) -> None:
        self._ids = ids
        self._document_id = document_id
        self._count = 0
        self._pages = [page for source in sources for page in source.pages]

    def root(self, skill: Skill, fields: dict[str, Value]) -> dict[str, Any]:
        return {
            **self._object(skill.name, skill.id, skill.fields, fields),
            "Annotations": [],
        }

    def _id(self) -> str:
        self._count += 1
        return self._ids.fixed("field", self._document_id, str(self._count))

    def _object(
        self, concept: str, concept_id: str, known: Sequence[SkillField], values: dict[str, Value]
    ) -> dict[str, Any]:
        identifier = self._id()
        return {
            "Id": identifier,
            "Concept": concept,
            "ConceptId": concept_id,
            "Fields": [
                {"Name": item.name, "List": self._list(item, values.get(item.name))}
                for item in known
            ],
        }

    def _list(self, item: SkillField, value: Value | None) -> list[dict[str, Any]]:
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        return [self._field(item, single) for single in values]

    def _field(self, item: SkillField, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                "Id": self._id(),
                "Value": self._object(item.name, item.name, item.columns, value),
                "Annotation": None,
                "NeedVerification": False,
                "isVerified": False,
            }
        return {
            "Id": self._id(),
            "Value": value,
            "Annotation": self._annotation(value),
            "NeedVerification": False,
            "isVerified": False,
        }

    def _annotation(self, value: str) -> dict[str, Any]:
        for number, page in enumerate(self._pages):
            for place, line in enumerate(page.lines):
                if value in line:
                    return {
                        "Source": "Image",
                        "RawValue": value,
                        "Confidence": 96,
                        "ImageRegions": [{"Page": number, "Rects": [_rectangle(place, line)]}],
                    }
        return {"Source": "None", "RawValue": value, "Confidence": 100, "ImageRegions": []}


def find_fields(known: Sequence[SkillField], sources: Sequence[Source]) -> dict[str, Value]:
    """Find the values of a skill's fields; fields without a value are left out.

    Args:
        known: Fields the skill declares.
        sources: The files of one document.
    """
    lines = [line for source in sources for line in source.lines]
    labelled = _labelled(lines)
    own: dict[str, Value] = {
        FILE_NAME: _one_or_list([source.name for source in sources]),
        FILE_SHA256: _one_or_list([source.sha256 for source in sources]),
        FILE_SIZE: _one_or_list([str(source.size) for source in sources]),
        PAGE_COUNT: str(sum(len(source.pages) for source in sources)),
    }
    found: dict[str, Value] = {}
    for item in known:
        if item.name in own:
            found[item.name] = own[item.name]
        elif item.columns:
            rows = _table(lines, item.columns)
            if rows:
                found[item.name] = rows
        elif item.name.lower() in labelled:
            found[item.name] = labelled[item.name.lower()]
    return found


def _one_or_list(values: list[str]) -> Value:
    return values[0] if len(values) == 1 else list(values)


def _labelled(lines: Sequence[str]) -> dict[str, str]:
    """Return the values of lines such as ``Total: 12.50``; the first of a label wins."""
    found: dict[str, str] = {}
    for place, line in enumerate(lines):
        label, colon, value = line.partition(":")
        key = " ".join(label.lower().split())
        if not colon or not key:
            continue
        if not value.strip() and place + 1 < len(lines) and ":" not in lines[place + 1]:
            value = lines[place + 1]  # a form with the value below its label
        if value.strip():
            found.setdefault(_ALIASES.get(key, key), value.strip())
            found.setdefault(key, value.strip())
    return found


def _table(lines: Sequence[str], columns: Sequence[SkillField]) -> list[dict[str, str]]:
    """Return the rows below a line that holds all column names in order.

    Cells are parted by ``|`` or, without that, read from the right: all columns but the first
    are single words there.
    """
    heading = re.compile(r"[\s|]+".join(re.escape(item.name) for item in columns), re.IGNORECASE)
    start = next((n for n, line in enumerate(lines) if heading.fullmatch(line)), None)
    rows: list[dict[str, str]] = []
    for line in lines[start + 1 :] if start is not None else ():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 1:
            cells = line.rsplit(maxsplit=len(columns) - 1)
        if len(cells) != len(columns) or _amount(cells[-1]) is None:
            break
        rows.append({item.name: cell for item, cell in zip(columns, cells, strict=True)})
    return rows


def _amount(value: object) -> Decimal | None:
    if not isinstance(value, str):
        return None
    text = re.sub(r"[^\d.,-]", "", value)
    if re.search(r",\d{2}$", text):
        text = text.replace(".", "").replace(",", ".")
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _check_total(fields: dict[str, Value], ids: Ids, skill: Skill) -> tuple[dict[str, Any], ...]:
    """Apply the one rule of the Invoice skill: net and tax make the total."""
    net, tax, total = (_amount(fields.get(name)) for name in ("Net Amount", "Tax Amount", "Total"))
    if net is None or tax is None or total is None or net + tax == total:
        return ()
    return (
        {
            "errorType": "Condition",
            "customMessage": "Net Amount and Tax Amount don't make the Total.",
            "ruleId": ids.fixed("rule", skill.id, "total"),
            "currentFieldId": ids.fixed("rule field", skill.id, "Total"),
        },
    )


def _classify(skill: Skill, sources: Sequence[Source]) -> dict[str, Any]:
    """Choose the class whose name the text holds; the last class is for everything else."""
    text = "\n".join(line for source in sources for line in source.lines).lower()
    *named, other = skill.classes
    hits = [(text.find(name.lower()), key, name) for key, name in named if name.lower() in text]
    _, key, name = min(hits) if hits else (0, *other)
    return {
        "isResultClassConfident": bool(hits),
        "resultClass": {"id": key, "name": name},
        "classConfidences": [
            {
                "classId": item,
                "className": title,
                "confidence": (95 if hits else 51) if item == key else (2 if hits else 24),
            }
            for item, title in skill.classes
        ],
    }


def _classification_result(classification: dict[str, Any] | None) -> dict[str, Any] | None:
    if classification is None:
        return None
    return {
        "IsResultClassConfident": classification["isResultClassConfident"],
        "ResultClass": classification["resultClass"]["id"],
        "ResultClassName": classification["resultClass"]["name"],
        "ClassConfidences": [
            {
                "Class": item["classId"],
                "ClassName": item["className"],
                "Confidence": item["confidence"],
            }
            for item in classification["classConfidences"]
        ],
    }


def _rectangle(place: int, line: str) -> list[int]:
    top = _TOP + place * _LINE_HEIGHT
    return [_LEFT, top, _LEFT + 20 * len(line), top + 40]


def _ocr_page(page: Page) -> dict[str, Any]:
    texts = []
    for place, line in enumerate(page.lines):
        left, top, right, bottom = _rectangle(place, line)
        position = {"l": left, "t": top, "r": right, "b": bottom}
        texts.append(
            {
                "position": position,
                "lines": [
                    {
                        "text": line,
                        "position": position,
                        "words": [{"confidence": 96} for _ in line.split()],
                        "charParams": [],
                    }
                ],
            }
        )
    empty: dict[str, list[Any]] = {
        name: [] for name in ("tables", "pictures", "barcodes", "separators", "checkmarks")
    }
    return {
        "width": page.width,
        "height": page.height,
        "rotated": "none",
        "texts": texts,
        **empty,
    }


def _plain_text(sources: Sequence[Source]) -> str:
    """Return the text of all pages, with a form feed between pages."""
    return "\f".join("\n".join(page.lines) for source in sources for page in source.pages)
