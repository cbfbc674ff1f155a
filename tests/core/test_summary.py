# SPDX-License-Identifier: Apache-2.0
"""What tasks say in their logs: while they wait, and in one line at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pendulum
from jobs import begin, finish
from pdfs import make_invoice

from vantage_orchestration.client import VantageClient
from vantage_orchestration.options import Options
from vantage_orchestration.processing.job import Part
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import FolderLedgers, Ledger
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    FindingEntry,
    Manifest,
    SourceEntry,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.processing.summary import (
    files_by_id,
    lines_of_start,
    summary,
    summary_of_start,
    summary_of_wait,
)
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import Wait
from vantage_orchestration.waiting.rules import WaitRules


def test_a_job_says_what_it_does_and_what_came_of_it(
    client: VantageClient, sandbox: Any, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO")
    sandbox.control.set(processing_polls=0)
    skill = sandbox.control.skill_id("Invoice")
    files = [make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}", pages=n) for n in (1, 2)]
    files.append(make_invoice(tmp_path / "r.pdf", "R", extra_lines=["Manual review required"]))
    (tmp_path / "x.pdf").write_bytes(b"no PDF at all")
    files.append(tmp_path / "x.pdf")
    output, options = Location.of(tmp_path / "out"), Options(on_review="return")
    ledger = Ledger((FolderLedgers(output.child("notes")), "t"))

    def go(number: int) -> tuple[list[str], Manifest]:
        lines: list[str] = []
        key = TaskKey("t", pendulum.now("UTC") if number else None)
        job = begin(
            *(client, map(Location.of, files), output, key, skill, options),
            token="t.-1",
            ledger=ledger,
        )
        lines += lines_of_start(job.parts)
        lines.append(summary_of_start(job.parts))
        rules = WaitRules(60, 60, poke_interval=1, max_poke_interval=1, on_review="return")
        wait = Wait(job.transaction_ids, rules, time.time(), files=files_by_id(job.parts))
        outcome = wait_here(
            client,
            wait,
            tell=lines.append,
            on_people=lambda needed: lines.append(wait.words_of_people(needed)),
            sleep=lambda seconds: None,
        )
        stored = json.loads(json.dumps(wait.to_json()))["files"]
        assert stored == {each: wait.files[each] for each in job.transaction_ids}
        lines.append(summary_of_wait(outcome))
        manifest = finish(client, output, skill, options, token="t.-1", ledger=ledger)
        lines.append(summary(manifest, output.url))
        return lines, manifest

    lines, manifest = go(0)
    ids = {entry.sources[0].name: entry.transaction_id for entry in manifest.transactions}
    (failed,), (pending,) = manifest.failed, manifest.pending
    assert lines[0] == f"Started transaction {ids['1.pdf']} for '1.pdf'"
    assert f"Started transaction {ids['2.pdf']} for '2.pdf'" in caplog.text
    assert lines[4] == "4 files in 4 transactions"
    told = [each for each in lines if each.startswith(f"Transaction {ids['2.pdf']}")][-1]
    assert told.startswith(f"Transaction {ids['2.pdf']} ('2.pdf'): Processed; ")
    assert "of 4 transactions have ended" in told
    review = f"1 transaction waits for a manual review: {pending.transaction_id} ('r.pdf')"
    assert review in lines
    assert lines[-2] == ("3 of 4 transactions have ended; 1 failed: 'x.pdf'; 1 in review: 'r.pdf'")
    assert lines[-1] == (
        f"2 documents with 3 pages of 2 transactions in {output.url}; pages by skill: Invoice 3;"
        f" 1 failed: 'x.pdf' ({failed.error}); 1 in review: 'r.pdf'"
    )
    lines, _ = go(1)
    assert lines[0] == f"The results of transaction {ids['1.pdf']} for '1.pdf' are there already"
    going = f"Continuing with transaction {pending.transaction_id} of an earlier try for 'r.pdf'"
    assert going in lines
    assert f"{going} (Processing)" in caplog.text
    assert lines[4] == "4 files in 4 transactions; 3 found from an earlier try"
    assert lines[-1].endswith("; 3 found from an earlier try")


def test_a_line_says_classes_and_quality_where_there_are_any() -> None:
    documents = (
        DocumentEntry("d", {"name": "Invoice"}, ({"type": "r", "message": "m"},), ()),
        DocumentEntry("e", None, (), ()),
    )
    entry = TransactionManifest("t", "s", "Processed", None, 3, (), documents)
    finding = FindingEntry("t", 1, "Total", "missing")
    manifest = Manifest("s", None, (entry,), findings=(finding,), quarantined=("a.pdf",))
    assert summary(manifest, "out") == (
        "2 documents with 3 pages of 1 transaction in out; by class: Invoice 1, unclassified 1;"
        " pages by skill: s 3; pages by class: several classes 3; 1 broken rule;"
        " 1 not good enough; 1 file copied to the quarantine"
    )


def test_a_line_of_many_stays_short() -> None:
    sources = (SourceEntry("a\nb.pdf", "a.pdf"),)
    parts = [Part(str(n), "", "f", 0.0, sources) for n in range(1000)]
    lines = list(lines_of_start(parts))
    assert lines[-1] == "... and 980 more transactions"
    assert lines[0] == r"Started transaction 0 for 'a\nb.pdf'"
    failed = tuple(UnfinishedEntry(str(n), "Failed", error="x" * 900) for n in range(1000))
    gone = (UnfinishedEntry("g", "Gone"), UnfinishedEntry("c", "Canceled"))
    line = summary(Manifest(None, failed=gone + failed), "out")
    assert "transaction g (deleted), transaction c (cancelled)" in line
    assert "and 997 more" in line
    assert len(line) < 1500
    wait = Wait(
        [str(n) for n in range(2000)],
        WaitRules(60, 60, poke_interval=1, max_poke_interval=1),
        0.0,
        files=dict.fromkeys(map(str, range(2000)), "'a.pdf'"),
    )
    assert wait.to_json()["files"] == {}
