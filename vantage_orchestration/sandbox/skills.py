# SPDX-License-Identifier: Apache-2.0
"""Made-up skills of a sandbox (contract, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .ids import Ids

DOCUMENT, PROCESS, OCR, CLASSIFICATION = "Document", "Process", "Ocr", "Classification"


@dataclass(frozen=True)
class SkillField:
    """A field of a Document skill. With ``columns`` it is a repeated group (a table)."""

    name: str
    text_format: str = "Text"
    columns: tuple[SkillField, ...] = ()
    repeatable: bool = False

    def shown(self) -> dict[str, Any]:
        """Return the field as the service describes it."""
        return {
            "name": self.name,
            "type": "Group" if self.columns else "Text",
            "textFormat": None if self.columns else self.text_format,
            "isRepeatable": self.repeatable,
            "children": [column.shown() for column in self.columns],
        }


@dataclass(frozen=True)
class Skill:
    """A skill with everything the sandbox needs to pretend to run it."""

    id: str
    name: str
    type: str
    version: int = 1
    published: bool = True
    restricted: bool = False
    fields: tuple[SkillField, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    inner: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str, str], ...] = field(default=())
    """Skill parameters: key, default value, type."""

    @property
    def many_documents(self) -> bool:
        """Only Process skills take more than one document (3.3)."""
        return self.type == PROCESS

    def listed(self) -> dict[str, Any]:
        """Return the entry of the skill list."""
        return {"id": self.id, "name": self.name, "type": self.type}

    def shown(self) -> dict[str, Any]:
        """Return the full description."""
        return {
            **self.listed(),
            "fields": [item.shown() for item in self.fields] if self.type == DOCUMENT else None,
            "classes": (
                [{"id": key, "name": name} for key, name in self.classes]
                if self.type == CLASSIFICATION
                else None
            ),
            "skills": [{"id": item} for item in self.inner] if self.type == PROCESS else None,
        }


#: Fields that say which bytes a result was made from. Every Document skill has them.
FILE_NAME, FILE_SHA256, FILE_SIZE, PAGE_COUNT = (
    "Source File Name",
    "Source SHA-256",
    "Source Size",
    "Page Count",
)
_IDENTITY = (
    SkillField(FILE_NAME, repeatable=True),
    SkillField(FILE_SHA256, repeatable=True),
    SkillField(FILE_SIZE, "Number", repeatable=True),
    SkillField(PAGE_COUNT, "Number"),
)
_INVOICE_FIELDS = (
    SkillField("Invoice Number"),
    SkillField("Invoice Date", "Date"),
    SkillField("Order Number"),
    SkillField("Supplier"),
    SkillField("Customer"),
    SkillField("Currency"),
    SkillField("Net Amount", "Amount"),
    SkillField("Tax Amount", "Amount"),
    SkillField("Total", "Amount"),
    SkillField(
        "Items",
        columns=(
            SkillField("Description"),
            SkillField("Quantity", "Number"),
            SkillField("Unit Price", "Amount"),
            SkillField("Amount", "Amount"),
        ),
        repeatable=True,
    ),
)
_RECEIPT_FIELDS = (
    SkillField("Receipt Number"),
    SkillField("Receipt Date", "Date"),
    SkillField("Store"),
    SkillField("Currency"),
    SkillField("Total", "Amount"),
)


class Skills:
    """The skills of a sandbox; all tenants see the same ones."""

    def __init__(self, ids: Ids) -> None:
        invoice = Skill(
            ids.fixed("skill", "Invoice"),
            "Invoice",
            DOCUMENT,
            version=3,
            fields=_INVOICE_FIELDS + _IDENTITY,
            exports=("Json", "FieldsJson"),
            parameters=(
                ("Supplier catalog", "Suppliers", "Catalog"),
                ("Strict check", "No", "Bool"),
                ("Note", "", "String"),
            ),
        )
        receipt = Skill(
            "Receipt",
            "Receipt",
            DOCUMENT,
            fields=_RECEIPT_FIELDS + _IDENTITY,
            exports=("Json", "FieldsJson"),
        )
        kind = Skill(
            ids.fixed("skill", "Document type"),
            "Document type",
            CLASSIFICATION,
            version=2,
            classes=(("c1", "Invoice"), ("c2", "Receipt"), ("c3", "Other")),
        )
        self._all = (
            invoice,
            receipt,
            kind,
            Skill(
                "workspace.default.processing",
                "Default process",
                PROCESS,
                version=4,
                inner=(kind.id, invoice.id, receipt.id),
                exports=("Json", "FieldsJson"),
            ),
            Skill(
                ids.fixed("skill", "Text recognition"),
                "Text recognition",
                OCR,
                exports=("OcrJson", "Text"),
            ),
            Skill("Draft", "Draft invoice", DOCUMENT, published=False, fields=_INVOICE_FIELDS),
            Skill("Payroll", "Payroll", DOCUMENT, restricted=True, fields=_RECEIPT_FIELDS),
        )

    def __iter__(self) -> Any:
        return iter(self._all)

    def find(self, skill_id: str) -> Skill | None:
        """Find a skill by id, published or not."""
        return next((item for item in self._all if item.id == skill_id), None)

    def named(self, name: str) -> Skill:
        """Return the skill of that name.

        Raises:
            KeyError: There is none.
        """
        for item in self._all:
            if item.name == name:
                return item
        raise KeyError(name)

    def usable(self) -> list[Skill]:
        """Return the published skills a caller has the right to."""
        return [item for item in self._all if item.published and not item.restricted]
