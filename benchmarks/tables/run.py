# SPDX-License-Identifier: Apache-2.0
"""Measures what tables of results cost, beside a plain loop, and writes RESULTS.md.

``python benchmarks/tables/run.py``, in the environment that ``make install`` makes. Both make
Parquet files of the same result files: documents, line items, and each value with its place. The
plain loop is what people write: ``json.load``, dictionaries, ``pyarrow.Table.from_pylist``. It
converts nothing and keeps everything in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIELDS, ITEMS = 20, 10
COLUMNS = (("Description", "Text"), ("Quantity", "Number"), ("Price", "Amount"), ("Sum", "Amount"))
WAYS = ("vantage-orchestration", "plain loop")


def field(name: str, value: str, confidence: int = 90) -> dict[str, Any]:
    """Return a field as a result file has it."""
    regions = [{"Page": 0, "Rects": [[120, 80, 310, 112]]}]
    annotation = {"RawValue": value, "Confidence": confidence, "ImageRegions": regions}
    one = {"Value": value, "NeedVerification": False, "isVerified": False, "Annotation": annotation}
    return {"Name": name, "List": [one]}


def document(number: int) -> dict[str, Any]:
    """Return the result file of a document."""
    fields = [
        field("Number", f"INV-{number}"),
        field("Date", f"2026-0{number % 9 + 1}-1{number % 10}"),
        field("Total", f"{number}.50"),
        *(field(f"Text {each}", f"value {number} {each}") for each in range(FIELDS - 4)),
    ]
    rows = [
        {"Value": {"Fields": [field(name, f"{row}.25") for name, _ in COLUMNS]}}
        for row in range(ITEMS)
    ]
    root = {"Fields": [*fields, {"Name": "Items", "List": rows}]}
    extracted = {
        "DocumentDefinition": {"RootConcept": {"Name": "Invoice"}},
        "RootObject": root,
    }
    return {"Id": str(number), "Documents": [{"Id": f"d{number}", "ExtractedData": extracted}]}


def skill_fields() -> list[dict[str, Any]]:
    """Return the fields of the skill."""

    def declared(name: str, form: str = "Text") -> dict[str, Any]:
        return {"name": name, "type": "Text", "textFormat": form}

    items = {
        "name": "Items",
        "type": "Group",
        "isRepeatable": True,
        "children": [declared(name, form) for name, form in COLUMNS],
    }
    texts = [declared(f"Text {each}") for each in range(FIELDS - 4)]
    return [
        declared("Number"),
        declared("Date", "Date"),
        declared("Total", "Amount"),
        *texts,
        items,
    ]


def ours(folder: Path, count: int) -> Iterator[Path]:
    """Make the tables with this package; yield the files."""
    from vantage_orchestration.models import Skill
    from vantage_orchestration.processing.manifest import (
        DocumentEntry,
        FileEntry,
        SourceEntry,
        TransactionManifest,
    )
    from vantage_orchestration.storage import Location
    from vantage_orchestration.tables.build import ResultTables
    from vantage_orchestration.tables.reading import contents_of
    from vantage_orchestration.tables.writing import write_tables

    skill = Skill.read({"id": "s", "name": "Invoice", "type": "Document", "fields": skill_fields()})
    output = Location.of(folder)
    with ResultTables([skill]) as tables:
        for number in range(count):
            file = FileEntry("Invoice.json", "1/Invoice.json", "Json", 1, "0")
            found = DocumentEntry(f"d{number}", None, (), (file,))
            source = SourceEntry(f"{number}.pdf", f"{number}.pdf")
            transaction = TransactionManifest(
                str(number), "s", "Processed", None, 1, (source,), (found,)
            )
            for document in contents_of(transaction, output.child(str(number))):
                tables.add(transaction, document)
        for entry in write_tables(tables, output):
            yield folder / entry.path


def plain(folder: Path, count: int) -> Iterator[Path]:
    """Make them with a plain loop; yield the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents, items, fields = [], [], []

    def occurrence(key: str, path: str, one: dict[str, Any]) -> dict[str, Any]:
        annotation = one["Annotation"]
        return {
            "transaction_id": key,
            "document_index": 1,
            "path": path,
            "raw": annotation["RawValue"],
            "value": one["Value"],
            "confidence": annotation["Confidence"],
            "verified": one["isVerified"],
            "regions": [
                {"page": region["Page"], "rectangle": rectangle}
                for region in annotation["ImageRegions"]
                for rectangle in region["Rects"]
            ],
        }

    for number in range(count):
        with open(folder / str(number) / "1" / "Invoice.json") as stream:
            data = json.load(stream)
        key, found = data["Id"], data["Documents"][0]
        row = {"transaction_id": key, "document_id": found["Id"]}
        for entry in found["ExtractedData"]["RootObject"]["Fields"]:
            if entry["Name"] != "Items":
                row[entry["Name"]] = entry["List"][0]["Value"]
                fields.append(occurrence(key, entry["Name"], entry["List"][0]))
                continue
            for position, item in enumerate(entry["List"], 1):
                line = {"transaction_id": key, "position": position}
                for cell in item["Value"]["Fields"]:
                    line[cell["Name"]] = cell["List"][0]["Value"]
                    fields.append(occurrence(key, f"Items.{cell['Name']}", cell["List"][0]))
                items.append(line)
        documents.append(row)
    for name, rows in (("documents", documents), ("items", items), ("fields", fields)):
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        yield path


def measure(way: str, folder: Path, count: int) -> dict[str, float]:
    """Measure one way, in this process: CPU per document in ms, and memory in MB."""
    import pyarrow.parquet as pq

    begin = time.process_time()
    files = list((ours if way == WAYS[0] else plain)(folder, count))
    spent = time.process_time() - begin
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    assert rows == count * (1 + ITEMS + FIELDS - 1 + ITEMS * len(COLUMNS)), rows
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": spent / count * 1000, "memory": memory}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="goes of each (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="%(default)s")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, folder = arguments.one
        sys.stdout.write(json.dumps(measure(way, Path(folder), arguments.documents)))
        return
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(arguments.documents):
            folder = Path(name, str(number), "1")
            folder.mkdir(parents=True)
            (folder / "Invoice.json").write_text(json.dumps(document(number)))
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--one", way, name]
                command += ["--documents", str(arguments.documents)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
                found = json.loads(done.stdout)
                if way not in best or found["cpu"] < best[way]["cpu"]:
                    best[way] = found
    arguments.output.write_text(report(best, arguments.documents, arguments.rounds))
    sys.stdout.write(f"{arguments.output}\n")


def report(best: dict[str, dict[str, float]], count: int, rounds: int) -> str:
    """Return the text of RESULTS.md."""
    ratio = best[WAYS[0]]["cpu"] / best[WAYS[1]]["cpu"]
    rows = "\n".join(
        f"| {way} | {best[way]['cpu']:.2f} | {best[way]['memory']:.0f} |" for way in WAYS
    )
    return f"""# Tables of results, measured

Made by `run.py` on {os.cpu_count()} cores, with Python {platform.python_version()} on
{platform.system()}: {count} documents of {FIELDS} fields and {ITEMS} line items each into Parquet;
the best of {rounds} goes, each in a process of its own. Compare the ratio; the times belong to one
machine.

| way | CPU per document, ms | memory of the process, MB |
| --- | ---: | ---: |
{rows}

Ratio of CPU: {ratio:.2f}. The plain loop converts no date and no amount, and its memory grows with
the number of documents.
"""


if __name__ == "__main__":
    main()
