# SPDX-License-Identifier: Apache-2.0
"""Result files as ABBYY Vantage writes them (contract, section 7), and a folder that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vantage_orchestration.models import Skill
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    FileEntry,
    SourceEntry,
    TransactionManifest,
)
from vantage_orchestration.storage import Location
from vantage_orchestration.tables.build import ResultTables
from vantage_orchestration.tables.columns import Rows
from vantage_orchestration.tables.reading import contents_of
from vantage_orchestration.tables.values import ValueFormat


def declared(
    name: str,
    text_format: str = "Text",
    *,
    kind: str = "Text",
    children: Sequence[Mapping[str, Any]] = (),
    repeatable: bool = False,
) -> dict[str, Any]:
    return {
        "name": name,
        "type": "Group" if children else kind,
        "textFormat": None if children else text_format,
        "isRepeatable": repeatable,
        "children": list(children),
    }


INVOICE = Skill.read(
    {
        "id": "s1",
        "name": "Invoice",
        "type": "Document",
        "fields": [
            declared("Number"),
            declared("Date", "Date"),
            declared("Total", "Amount"),
            declared("Paid", kind="Checkmark"),
            declared("Vendor", children=[declared("Name"), declared("Since", "Date")]),
            declared("Orders", "Number", repeatable=True),
            declared(
                "Items",
                repeatable=True,
                children=[
                    declared("Text"),
                    declared("Amount", "Amount"),
                    declared("Taxes", children=[declared("Rate", "Number")], repeatable=True),
                ],
            ),
        ],
    }
)


def value(text: Any, raw: str | None = None, confidence: int = 90, **more: Any) -> dict[str, Any]:
    annotation = {
        "RawValue": raw,
        "Confidence": confidence,
        "ImageRegions": [{"Page": 1, "Rects": [[1, 2, 3, 4], [5, 6, 7, 8]]}],
    }
    return {"Value": text, "Annotation": annotation, "isVerified": False, **more}


def group(*fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"Value": {"Fields": list(fields)}}


def has(name: str, *values: Any) -> dict[str, Any]:
    return {"Name": name, "List": [v if isinstance(v, dict) else value(v) for v in values]}


def json_of(*fields: Any, concept: str = "Invoice", **more: Any) -> dict[str, Any]:
    return {
        "Documents": [
            {
                "Id": "d1",
                "ExtractedData": {
                    "DocumentDefinition": {"RootConcept": {"Name": concept}},
                    "RootObject": {"Fields": list(fields)},
                },
                **more,
            }
        ]
    }


def arrow_table(rows: Rows) -> pa.Table:
    """Return all rows as an Arrow table."""
    return pa.Table.from_batches(rows.batches(), schema=rows.schema)


class Results:
    """Result files in a folder, and the tables made of them."""

    def __init__(self, folder: Path, *skills: Skill) -> None:
        self.output = Location.of(str(folder))
        self.skills = skills or (INVOICE,)
        self.transactions: list[TransactionManifest] = []
        self._folder = folder

    def add(self, name: str = "t1", /, *, entry: Mapping[str, Any] = {}, **files: Any) -> None:
        folder = self._folder / name / "1"
        folder.mkdir(parents=True)
        found = []
        for kind, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / f"{kind}.json").write_bytes(data)
            found.append(FileEntry(f"{kind}.json", f"1/{kind}.json", kind, len(data), "0"))
        document = DocumentEntry(
            "d1", entry.get("class"), tuple(entry.get("rule_errors", ())), tuple(found)
        )
        source = SourceEntry("a.pdf", "a.pdf", "/in/a.pdf", 5, "abc")
        self.transactions.append(
            TransactionManifest(
                name, self.skills[0].id, "Processed", None, 3, (source,), (document,), folder=name
            )
        )

    def tables(self, values: ValueFormat | None = None) -> ResultTables:
        tables = ResultTables(self.skills, values)
        for each in self.transactions:
            for document in contents_of(each, self.output.child(each.folder)):
                tables.add(each, document)
        return tables

    def rows(self, table: str, values: ValueFormat | None = None) -> list[dict[str, Any]]:
        with self.tables(values) as tables:
            (those,) = tables.sets.values()
            return arrow_table(those.tables[table]).to_pylist()


FULL = json_of(
    has("Number", value("INV-1", "lNV-1", 61)),
    has("Date", "2026-04-03"),
    has("Total", value("1234.50", "1.234,50 €", 72)),
    has("Paid", "yes"),
    has("Vendor", group(has("Name", "Example Ltd"), has("Since", "1999-12-31"))),
    has("Orders", "7", "8"),
    has(
        "Items",
        group(has("Text", "Bolt"), has("Amount", "40"), has("Taxes", group(has("Rate", "19")))),
        group(has("Text", "Nut"), has("Amount", "0.5"), has("Taxes")),
    ),
    Pages=[{}, {}],
)
