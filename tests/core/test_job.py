# SPDX-License-Identifier: Apache-2.0
"""Many files, each processed once: through retries, crashes, changed folders and failures."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pendulum
import pytest
from jobs import TOKEN, accepted_starts, begin, download, files_of, finish, notes, run, submit_files
from patience import wait_until
from pdfs import make_invoice
from waits import waited

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.options import Options
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing import job
from vantage_orchestration.processing.document import process_document
from vantage_orchestration.processing.job import SUBMITTED, fetch_ahead, job_token
from vantage_orchestration.processing.keys import KEY_PARAMETER, TaskKey
from vantage_orchestration.processing.ledger import FOLDER, FolderLedgers, Ledger
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.processing.outcome import check_outcome, outcome_of
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.sandbox import uploads
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import Wait
from vantage_orchestration.waiting.rules import WaitRules

PROCESS = "workspace.default.processing"


@pytest.fixture
def skill(sandbox) -> str:
    sandbox.control.set(processing_polls=0)
    return sandbox.control.skill_id("Invoice")


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 5):
        make_invoice(folder / f"invoice {number}.pdf", f"INV-{number}", pages=number)
    return folder


@pytest.fixture
def output(tmp_path) -> Location:
    return Location.of(tmp_path / "out")


def again(scope: str = "task") -> TaskKey:
    return TaskKey(scope, pendulum.now("UTC"))


def started(sandbox) -> dict[str, int]:
    """Return how often each file was in a started transaction."""
    counts: dict[str, int] = {}
    for item in sandbox.control.transactions():
        for file in item["files"]:
            counts[file["sha256"]] = counts.get(file["sha256"], 0) + item["started"]
    return counts


def left_over(sandbox) -> list[str]:
    """Return the transactions that were made and never started."""
    return [item["id"] for item in sandbox.control.transactions() if item["status"] == "New"]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_results_land_with_the_file_they_belong_to(client, sandbox, skill, folder, output):
    manifest = run(client, folder, output, skill, TaskKey("task"))
    assert manifest.counts == {
        "transactions": 4,
        "documents": 4,
        "files": 8,
        "pages": 1 + 2 + 3 + 4,
        "rule_errors": 0,
        "duplicates": 0,
        "pending": 0,
        "in_review": 0,
        "failed": 0,
        "low_quality": 0,
        "quarantined": 0,
    }
    for entry in manifest.transactions:
        (source,) = entry.sources
        (document,) = entry.documents
        fields_file = next(file for file in document.files if file.type == "FieldsJson")
        fields = json.loads(
            output.child(entry.folder, fields_file.path).read_bytes().decode("utf-8-sig")
        )["Fields"]
        assert fields["Source SHA-256"] == source.sha256
        assert hashlib.sha256(Path(source.path).read_bytes()).hexdigest() == source.sha256
        assert fields["Page Count"] == str(entry.pages)
        assert source.name == Path(source.path).name
    assert set(started(sandbox).values()) == {1}
    assert Manifest.load(output) == manifest
    assert not output.child(SUBMITTED).exists()


def test_a_process_skill_gets_all_files_in_one_transaction(client, sandbox, skill, folder, output):
    manifest = run(client, folder, output, PROCESS, TaskKey("task"))
    (entry,) = manifest.transactions
    assert [source.name for source in entry.sources] == [f"invoice {n}.pdf" for n in range(1, 5)]
    assert len(entry.documents) == 4
    assert set(started(sandbox).values()) == {1}


def test_a_second_try_sends_and_fetches_nothing_again(client, sandbox, skill, folder, output):
    first = run(client, folder, output, skill, TaskKey("task"))
    before = digests(Path(output.path))
    seq = sandbox.control.journal()[-1]["seq"]
    assert run(client, folder, output, skill, again()) == first
    assert digests(Path(output.path)) == before
    assert sandbox.control.count("POST", "/transactions", since=seq) == 0
    assert sandbox.control.count("GET", "/download$", since=seq) == 0


def test_results_that_landed_are_enough_when_the_transaction_is_gone(
    client, sandbox, skill, folder, output
):
    first = run(client, folder, output, skill, TaskKey("task"), delete_after=True)
    sandbox.control.set(delete_polls=0)
    assert all(_is_gone(client, entry.transaction_id) for entry in first.transactions), (
        "deleted, since everything has landed"
    )
    assert run(client, folder, output, skill, again()) == first
    assert set(started(sandbox).values()) <= {1}
    assert sandbox.control.count("POST", "/start$") == 4


@pytest.mark.parametrize("kind", ["Invoice", PROCESS])
def test_what_has_landed_and_was_deleted_is_not_sent_again_whatever_joins_or_goes(
    client, sandbox, skill, folder, output, tmp_path, kind
):
    chosen = skill if kind == "Invoice" else kind
    ledger = notes(tmp_path / "ledger")
    sandbox.control.set(delete_polls=0)
    first = run(client, folder, output, chosen, TaskKey("task"), ledger=ledger, delete_after=True)
    before = sandbox.control.count("POST", "/start$")
    # A folder named by its file alone gets a longer name now; and one file was put away.
    (folder / "sub").mkdir()
    make_invoice(folder / "sub" / "invoice 1.pdf", "INV-9")
    (folder / "invoice 2.pdf").unlink()
    second = run(client, folder, output, chosen, again(), ledger=ledger, delete_after=True)
    assert sandbox.control.count("POST", "/start$") == before + 1
    assert len(second.transactions) == len(first.transactions) + 1
    assert all(entry in second.transactions for entry in first.transactions)


def test_a_failure_that_nobody_was_told_of_is_told_before_anything_is_sent_again(
    client, sandbox, skill, folder, output, tmp_path
):
    """Its pages were charged. The worker was killed before it could say so."""
    ledger = notes(tmp_path / "ledger")
    settings = (skill, Options())
    sandbox.control.set(outcome="Failed")
    begin(
        client,
        files_of(folder),
        output,
        TaskKey("task"),
        *settings,
        token=TOKEN,
        origin="o",
        ledger=ledger,
    )
    (folder / "invoice 4.pdf").unlink()
    assert run(client, folder, output, skill, again(), ledger=ledger).counts["failed"] == 4
    assert set(started(sandbox).values()) == {1}
    sandbox.control.set(outcome="Processed")
    assert run(client, folder, output, skill, again(), ledger=ledger).counts["transactions"] == 3


@pytest.mark.parametrize("send", [begin, submit_files])
@pytest.mark.parametrize("resend", [True, False])
def test_whether_failures_are_sent_again_decides_about_those_whose_file_went_away(
    client, sandbox, skill, folder, output, tmp_path, send, resend
):
    """Nothing is left to send of them, so they are either reported or forgotten."""
    ledger = notes(tmp_path / "ledger")
    place = {"output": output, "token": TOKEN} if send is begin else {}
    options = {"skill_id": skill, "options": Options(), **place}
    options |= {"ledger": ledger, "origin": "o", "resend_failed": resend}
    sandbox.control.set(outcome="Failed", processing_polls=0)
    first = send(client, files_of(folder), key=TaskKey("task"), **options)
    for each in getattr(first, "parts", first):
        assert client.get_transaction(each.transaction_id).status.is_failure
    (folder / "invoice 4.pdf").unlink()
    found = send(client, files_of(folder), key=again(), **options)
    parts = getattr(found, "parts", found)
    assert [each.earlier for each in parts] == ([False] * 3 if resend else [True] * 4)


def _is_gone(client, transaction_id) -> bool:
    for _ in range(5):
        try:
            client.get_transaction(transaction_id)
        except errors.NotFound:
            return True
    return False


def test_nothing_is_deleted_before_everything_has_landed(client, sandbox, skill, folder, output):
    sandbox.control.add_fault(operation="downloadResultFile", after=5, status=404, times=0)
    with pytest.raises(errors.NotFound):
        run(client, folder, output, skill, TaskKey("task"), delete_after=True)
    assert sandbox.control.count("DELETE", "/transactions") == 0
    sandbox.control.clear_faults()
    run(client, folder, output, skill, again(), delete_after=True)
    assert sandbox.control.count("DELETE", "/transactions") == 4
    assert set(started(sandbox).values()) == {1}


def test_a_new_file_in_the_folder_changes_nothing_that_was_sent(
    client, sandbox, skill, folder, output, tmp_path
):
    ledger = notes(tmp_path / "ledger")
    sandbox.control.set(processing_polls=10**6)
    settings = (PROCESS, Options())
    first = begin(
        client,
        files_of(folder),
        output,
        TaskKey("task"),
        *settings,
        token=TOKEN,
        origin="o",
        ledger=ledger,
    )
    make_invoice(folder / "a new one.pdf", "INV-0")
    second = begin(
        client, files_of(folder), output, again(), *settings, token=TOKEN, origin="o", ledger=ledger
    )
    assert second.transaction_ids[0] == first.transaction_ids[0]
    assert [[s.name for s in part.sources] for part in second.parts] == [
        [f"invoice {n}.pdf" for n in range(1, 5)],
        ["a new one.pdf"],
    ]
    assert set(started(sandbox).values()) == {1}


def test_a_file_that_went_away_after_it_was_sent_is_still_collected(
    client, sandbox, skill, folder, output, tmp_path
):
    ledger = notes(tmp_path / "ledger")
    settings = (skill, Options())
    begin(
        client,
        files_of(folder),
        output,
        TaskKey("task"),
        *settings,
        token=TOKEN,
        origin="o",
        ledger=ledger,
    )
    (folder / "invoice 2.pdf").unlink()
    manifest = run(client, folder, output, skill, again(), ledger=ledger)
    assert manifest.counts["transactions"] == 4
    assert {source.name for entry in manifest.transactions for source in entry.sources} == {
        f"invoice {n}.pdf" for n in range(1, 5)
    }
    assert set(started(sandbox).values()) == {1}


@pytest.mark.parametrize("kind", ["Invoice", PROCESS])
def test_results_are_still_those_of_a_file_that_was_renamed(
    client, sandbox, skill, folder, output, tmp_path, kind
):
    ledger = notes(tmp_path / "ledger")
    chosen = skill if kind == "Invoice" else kind
    settings = (chosen, Options())
    digests_sent = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    if kind == "Invoice":
        begin(
            client,
            files_of(folder),
            output,
            TaskKey("task"),
            *settings,
            token=TOKEN,
            origin="o",
            ledger=ledger,
        )
    else:
        run(client, folder, output, chosen, TaskKey("task"), ledger=ledger)
    (folder / "invoice 2.pdf").rename(folder / "renamed.pdf")
    manifest = run(client, folder, output, chosen, again(), ledger=ledger)
    sources = [source for entry in manifest.transactions for source in entry.sources]
    assert {source.sha256 for source in sources} == digests_sent
    assert {source.stored_name for source in sources} == {f"invoice {n}.pdf" for n in range(1, 5)}


def test_a_ledger_of_other_work_is_not_collected(client, sandbox, skill, folder, output, tmp_path):
    """A cleared run may be mapped over other files: the same instance, its ledger, other work."""
    ledger = notes(tmp_path / "ledger")
    one, two = files_of(folder)[:2]
    settings = (skill, Options())
    submit_files(client, [one], TaskKey("task"), *settings, origin="one", ledger=ledger)
    (sent,) = submit_files(client, [two], again(), *settings, origin="two", ledger=ledger)
    assert [each.name for each in sent.sources] == ["invoice 2.pdf"]
    # Whoever got the first file now finds its transaction by the key.
    (found,) = submit_files(client, [one], again(), skill, Options(), ledger=Ledger())
    assert found.earlier
    assert set(started(sandbox).values()) == {1}


def test_a_batch_that_was_never_started_and_lost_a_file_is_planned_anew(
    client, sandbox, skill, folder, output, tmp_path
):
    ledger = notes(tmp_path / "ledger")
    sandbox.control.add_fault(operation="startTransaction", status=400, times=1)
    with pytest.raises(errors.BadRequest):
        run(client, folder, output, PROCESS, TaskKey("task"), ledger=ledger)
    (folder / "invoice 3.pdf").unlink()
    manifest = run(client, folder, output, PROCESS, again(), ledger=ledger)
    (entry,) = manifest.transactions
    assert [source.name for source in entry.sources] == [f"invoice {n}.pdf" for n in (1, 2, 4)]
    sandbox.control.set(delete_polls=0)
    assert sandbox.control.count("DELETE", "/transactions") == 1, "nothing is left over"


def test_equal_files_are_charged_once(client, sandbox, skill, folder, output):
    (folder / "copy.pdf").write_bytes((folder / "invoice 1.pdf").read_bytes())
    manifest = run(client, folder, output, skill, TaskKey("task"))
    assert manifest.counts["transactions"] == 4
    assert manifest.counts["duplicates"] == 1
    with pytest.raises(errors.ConfigurationError, match="copy"):
        run(client, folder, output, skill, TaskKey("other"), duplicates="fail")
    both = run(client, folder, output, skill, TaskKey("third"), duplicates="send")
    assert both.counts["transactions"] == 5


@pytest.mark.parametrize("outcome", ["Failed", "Canceled"])
def test_what_failed_is_named_and_sent_anew_by_the_next_try(
    client, sandbox, skill, folder, output, tmp_path, outcome
):
    ledger = notes(tmp_path / "ledger")
    sandbox.control.set(outcome=outcome, outcome_error="It is upside down")
    first = run(client, folder, output, skill, TaskKey("task"), ledger=ledger)
    assert {each.status for each in first.failed} == {outcome}
    assert first.counts["failed"] == 4
    if outcome == "Failed":
        assert first.failed[0].error == "It is upside down"
    assert ledger.load() == {}
    sandbox.control.set(outcome="Processed")
    second = run(client, folder, output, skill, again(), ledger=ledger)
    assert second.counts["failed"] == 0
    assert second.counts["transactions"] == 4


def test_what_was_processed_lands_although_others_have_not_ended(
    client, sandbox, skill, folder, output
):
    make_invoice(folder / "review.pdf", "INV-9", note="Manual review required")
    settings = (skill, Options())
    job = begin(client, files_of(folder), output, TaskKey("task"), *settings, token=TOKEN)
    states = {each: client.get_transaction(each) for each in job.transaction_ids}
    (waiting,) = [each for each, state in states.items() if state.waits_for_review]
    manifest = finish(client, output, *settings, token=TOKEN)
    assert manifest.counts["transactions"] == 4
    assert [(each.transaction_id, each.in_review) for each in manifest.pending] == [(waiting, True)]
    assert states[waiting].manual_review_link.reveal() not in json.dumps(manifest.to_json())
    sandbox.control.finish_review(waiting)
    assert finish(client, output, *settings, token=TOKEN).counts["transactions"] == 5
    assert not output.child(SUBMITTED).exists()


def test_a_review_fails_a_task_that_does_not_wait_for_it_whatever_still_runs(
    client, sandbox, skill, folder, output
):
    make_invoice(folder / "review.pdf", "INV-9", note="Manual review required")
    settings = (skill, Options())
    job = begin(client, files_of(folder), output, TaskKey("task"), *settings, token=TOKEN)
    (waiting,) = [each for each in job.parts if each.sources[0].name == "review.pdf"]
    assert client.get_transaction(waiting.transaction_id).waits_for_review
    sandbox.control.set(processing_seconds=5000)
    outcome = outcome_of(finish(client, output, *settings, token=TOKEN))
    with pytest.raises(errors.ReviewNeeded):
        check_outcome(outcome, on_review="fail")
    with pytest.raises(errors.WaitTimeout):
        check_outcome(outcome)


def test_mapped_instances_may_not_share_a_folder(client, sandbox, skill, folder, output):
    run(client, folder, output, skill, TaskKey("task"), token=job_token("task", "0"))
    with pytest.raises(errors.ConfigurationError, match="map index"):
        run(client, folder, output, skill, TaskKey("other"), token=job_token("task", "1"))
    # The same work has got another index, since files have joined.
    run(client, folder, output, skill, again(), token=job_token("task", "1"))
    assert sandbox.control.count("POST", "/start$") == 4
    # Another run may replace what is there.
    run(client, folder, output, skill, TaskKey("next run"), token=job_token("next run", "0"))


def test_of_mapped_instances_that_begin_at_the_same_moment_one_sends_at_most(
    client, sandbox, skill, folder, output, monkeypatch
):
    files, write = files_of(folder), job.write_value
    barrier = threading.Barrier(len(files))

    def write_together(*claim):
        barrier.wait(60)  # None has written anything when another has begun.
        write(*claim)

    monkeypatch.setattr(job, "write_value", write_together)

    def instance(number):
        try:
            token = job_token("task", str(number))
            begin(client, [files[number]], output, TaskKey("task"), skill, Options(), token=token)
        except errors.ConfigurationError as error:
            return str(error)
        return None

    refused = [each for each in in_parallel(instance, range(len(files)), len(files)) if each]
    assert len(refused) >= len(files) - 1
    assert all("map index" in each for each in refused)
    assert len(accepted_starts(sandbox.control)) == len(files) - len(refused)


def test_the_instance_that_has_the_folder_keeps_it(client, sandbox, skill, folder, output):
    files = files_of(folder)
    claims = output.child(FOLDER, f"job-{job_token('task').partition('.')[0]}")

    def instance(number, *which):
        token, inputs = job_token("task", str(number)), [files[each] for each in which]
        begin(client, inputs, output, TaskKey("task"), skill, Options(), token=token)

    def refuses(number, *which):
        before = sandbox.control.count("POST", "/transactions")
        with pytest.raises(errors.ConfigurationError, match="map index"):
            instance(number, *which)
        assert sandbox.control.count("POST", "/transactions") == before

    def killed_when_it_has_claimed(number, text):
        claims.child(f"{number}.json").write_text(text)

    instance(0, 0, 1)
    refuses(1)  # It sends nothing, but its manifest would replace that of the other.
    refuses(1, 3)
    instance(0, 0, 1, 2)  # A file has joined.
    refuses(1, 0, 1)
    killed_when_it_has_claimed(1, '["of another file"]')
    instance(0, 0, 1, 2)
    refuses(0, 0, 1, 2, 3)
    claims.child("1.json").remove()
    refuses(1, 0, 1)
    instance(0, 0, 1, 2, 3)
    # The same work has got another index: now that one has the folder.
    instance(1, 0, 1, 2, 3)
    instance(1, 0, 1, 2)
    refuses(0, 0, 1, 3)


def test_a_job_whose_folder_was_taken_says_so(client, sandbox, skill, folder, output):
    settings = (skill, Options())
    begin(client, files_of(folder), output, TaskKey("task"), *settings, token=TOKEN)
    begin(client, files_of(folder), output, TaskKey("b"), *settings, token=job_token("b"))
    with pytest.raises(errors.JobLost) as caught:
        finish(client, output, *settings, token=TOKEN)
    assert caught.value.retryable


def test_bad_input_is_refused_before_anything_is_sent(client, sandbox, skill, folder, output):
    (folder / "empty.pdf").write_bytes(b"")
    with pytest.raises(errors.ConfigurationError, match="empty"):
        run(client, folder, output, skill, TaskKey("task"))
    (folder / "empty.pdf").unlink()
    with pytest.raises(errors.ConfigurationError):
        run(client, folder, output, skill, again("t"), registration_parameters={"k": "x" * 257})
    with pytest.raises(errors.ConfigurationError):
        run(
            client,
            folder,
            output,
            skill,
            again("t"),
            registration_parameters={KEY_PARAMETER: "x"},
        )
    nine = {f"k{n}": "v" for n in range(10)}
    with pytest.raises(errors.ConfigurationError):
        run(client, folder, output, skill, again("t"), registration_parameters=nine)
    eleven = {**nine, "k10": "v"}
    with pytest.raises(errors.ConfigurationError, match="11 parameters were given"):
        run(client, folder, output, skill, again("t"), skill_parameters=eleven)
    if os.geteuid():
        (Path(output.path).parent / "locked").mkdir(mode=0o500)
        locked = Location.of(Path(output.path).parent / "locked" / "out")
        with pytest.raises(errors.ConfigurationError, match="read-only for this user"):
            run(client, folder, locked, skill, TaskKey("task"))
    blocked = Location.of(folder / "invoice 1.pdf" / "out")
    with pytest.raises(errors.ConfigurationError, match=r"invoice 1\.pdf' is a file"):
        run(client, folder, blocked, skill, TaskKey("task"))
    with pytest.raises(errors.ConfigurationError, match=r"files where results .* 'invoice 1\.pdf'"):
        run(client, folder, Location.of(folder), skill, TaskKey("task"))
    assert sandbox.control.count(path_regex="/transactions") == 0


def test_the_first_of_several_errors_is_raised(client, sandbox, skill, folder, tmp_path):
    given = files_of(folder)
    sandbox.control.add_fault(operation="createTransaction", status=403, times=1)
    sandbox.control.add_fault(operation="createTransaction", status=400, delay=1.0, times=3)
    with pytest.raises(errors.Forbidden):
        submit_files(
            client,
            given,
            TaskKey("task"),
            skill,
            Options(parallel=4),
            ledger=notes(tmp_path / "ledger"),
        )
    assert sandbox.control.count("POST", "/transactions/?$") > 1


def test_a_path_that_leads_up_again_is_the_same_for_all(client, skill, folder, output, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    places = {"missing/../one": "one", "link/../two": "elsewhere/two", "three/four/..": "three"}
    for name, there in places.items():
        manifest = run(client, folder, Location.of(tmp_path / name), skill, TaskKey(name))
        assert Manifest.open(tmp_path / there / "manifest.json").counts == manifest.counts
        again = run(client, folder, Location.of(tmp_path / there), skill, TaskKey(name))
        assert again.to_json()["transactions"] == manifest.to_json()["transactions"]


def test_what_was_just_seen_to_end_is_not_asked_for_again(client, sandbox, skill, folder, output):
    def looks() -> int:
        return sandbox.control.count("GET", "/transactions/[0-9a-f-]{36}$")

    settings = (skill, Options())
    sandbox.control.set(outcome="Failed")
    failing = begin(
        client, files_of(folder)[:1], output, TaskKey("task"), *settings, token=TOKEN
    ).transaction_ids
    waited(client, failing)
    sandbox.control.set(outcome="Processed")
    job = begin(client, files_of(folder), output, TaskKey("task"), *settings, token=TOKEN)
    outcome = waited(client, job.transaction_ids)
    assert set(outcome.processed) == set(job.transaction_ids)
    before = looks()
    manifest = finish(client, output, *settings, token=TOKEN, processed=outcome.processed)
    assert looks() == before
    assert manifest.counts["transactions"] == 4
    assert waited(client, failing).processed == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-20] + b"x" * 20, "changed while"),
        (lambda content: content[:-20], "became shorter"),
        (lambda content: content + b"x", "became longer"),
        (lambda content: b"", "became shorter"),
        (lambda content: None, "has vanished"),
    ],
)
def test_a_file_that_changes_while_it_is_sent_is_not_processed(
    client, sandbox, skill, folder, output, monkeypatch, change, said
):
    target = folder / "invoice 2.pdf"
    content = change(target.read_bytes())
    monkeypatch.setattr(
        client, "create_transaction", _after(client.create_transaction, lambda: spoil(target))
    )

    def spoil(path: Path) -> None:
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)

    with pytest.raises(errors.FileChanged, match=said) as caught:
        run(client, folder, output, skill, TaskKey("task"), parallel=1)
    assert caught.value.retryable
    monkeypatch.undo()
    make_invoice(target, "INV-2", pages=2)
    manifest = run(client, folder, output, skill, again())
    assert manifest.counts["transactions"] == 4
    counts = [item["started"] for item in sandbox.control.transactions() if item["started"]]
    assert counts == [1] * 4


@pytest.mark.parametrize("kind", ["Invoice", PROCESS])
@pytest.mark.parametrize("form", [partial(unicodedata.normalize, "NFD"), str.lower])
def test_a_service_that_writes_names_in_another_way_holds_the_same_files(
    client, sandbox, output, tmp_path, monkeypatch, form, kind
):
    sandbox.control.set(processing_polls=0)
    name = uploads.stored_name
    monkeypatch.setattr(uploads, "stored_name", lambda given: form(name(given)))
    inputs = tmp_path / "in"
    inputs.mkdir()
    numbers = {"R\u00e9sum\u00e9.PDF": "INV-1", "b.pdf": "INV-2"}
    for each, number in numbers.items():
        make_invoice(inputs / each, number)
    skill = kind if kind == PROCESS else sandbox.control.skill_id(kind)
    sandbox.control.add_fault(path_regex="/start$", status=403, times=1)
    ledger = notes(tmp_path / "ledger")
    with pytest.raises(errors.Forbidden):
        run(client, inputs, output, skill, TaskKey("task"), ledger=ledger, parallel=1)
    run(client, inputs, output, skill, again(), ledger=ledger, parallel=1, tables="jsonl")
    rows = Manifest.open(output).rows(skill="Invoice")
    assert {row["source_name"]: row["Invoice Number"] for row in rows} == numbers
    assert all(item["started"] == 1 for item in sandbox.control.transactions())
    for each, number in numbers.items():
        found = process_document(
            client, inputs / each, sandbox.control.skill_id("Invoice"), again()
        )
        assert [each.fields["Invoice Number"] for each in found.documents] == [number]


@pytest.mark.parametrize("deleted", [True, False])
def test_what_is_being_deleted_is_not_gone_on_with(
    client, sandbox, skill, folder, output, tmp_path, monkeypatch, deleted
):
    """The service takes minutes to delete, if it does, and the file may be again what it was."""
    sandbox.control.set(delete_polls=10**6)
    if not deleted:
        sandbox.control.add_fault(operation="deleteTransaction", status=403)
    target = folder / "invoice 1.pdf"
    content = target.read_bytes()
    spoil = _after(client.create_transaction, lambda: target.write_bytes(content[:-1] + b"x"))
    monkeypatch.setattr(client, "create_transaction", spoil)
    settings = (skill, Options())
    given = [Location.of(target)]
    ledger = notes(tmp_path / "ledger")
    with pytest.raises(errors.FileChanged if deleted else errors.Forbidden):
        begin(
            client,
            given,
            output,
            TaskKey("task"),
            *settings,
            token=TOKEN,
            origin="o",
            ledger=ledger,
        )
    monkeypatch.undo()
    target.write_bytes(content)
    key = again() if deleted else TaskKey("task")
    begin(client, given, output, key, *settings, token=TOKEN, origin="o", ledger=ledger)
    assert [(t["deleted"], t["started"]) for t in sandbox.control.transactions()] == [
        (deleted, 0),
        (False, 1),
    ]


def test_two_tries_at_work_at_the_same_time_start_once(
    client, sandbox, skill, folder, output, tmp_path
):
    """The one that was given up has noted its transaction, and still sends a large file."""
    settings = (skill, Options())
    given, note = files_of(folder)[:1], tmp_path / "ledger"

    def attempt(key: TaskKey) -> list[str]:
        ledger = notes(note)
        return begin(
            client, given, output, key, *settings, token=TOKEN, origin="o", ledger=ledger
        ).transaction_ids

    sandbox.control.add_fault(operation="addFiles", delay=1.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(attempt, TaskKey("task"))
        wait_until(lambda: sandbox.control.faults()[0]["hits"], "the upload", pause=0.01)
        second = attempt(again())
        assert first.result(60) == second
    assert len(accepted_starts(sandbox.control)) == 1
    # Both have looked, and one of them comes too late with its start.
    sandbox.control.add_fault(operation="startTransaction", when="after", status=400)
    run(client, folder, output, skill, TaskKey("other"))
    assert set(started(sandbox).values()) == {1, 2}


def test_a_try_that_ends_while_the_next_one_begins_collects_the_whole_job(
    client, sandbox, skill, folder, output, tmp_path, monkeypatch
):
    settings = (skill, Options())
    ledger = notes(tmp_path / "ledger")
    job = begin(
        client,
        files_of(folder),
        output,
        TaskKey("task"),
        *settings,
        token=TOKEN,
        origin="o",
        ledger=ledger,
    )
    assert all(client.get_transaction(each).ended for each in job.transaction_ids)
    make_invoice(folder / "joined.pdf", "INV-5")
    collected: list[Manifest] = []
    late = lambda: collected.append(finish(client, output, *settings, token=TOKEN))  # noqa: E731
    monkeypatch.setattr(client, "create_transaction", _after(client.create_transaction, late))
    begin(
        client, files_of(folder), output, again(), *settings, token=TOKEN, origin="o", ledger=ledger
    )
    assert [each.counts["transactions"] for each in collected] == [4]
    assert finish(client, output, *settings, token=TOKEN).counts["transactions"] == 5


def test_a_server_that_lists_no_files_before_the_start_is_believed_to_have_them(
    client, sandbox, skill, folder, output, tmp_path
):
    settings = (skill, Options())
    given, ledger = files_of(folder)[:1], notes(tmp_path / "ledger")
    sandbox.control.add_fault(operation="startTransaction", status=403)
    with pytest.raises(errors.Forbidden):
        begin(
            client,
            given,
            output,
            TaskKey("task"),
            *settings,
            token=TOKEN,
            origin="o",
            ledger=ledger,
        )
    sandbox.control.add_fault(operation="getTransaction", times=3, merge_json={"sourceFiles": []})
    begin(client, given, output, again(), *settings, token=TOKEN, origin="o", ledger=ledger)
    assert list(started(sandbox).values()) == [1]


def test_several_files_are_looked_at_before_the_start(client, sandbox, folder, tmp_path):
    """The service would not miss one of them."""
    sandbox.control.add_fault(operation="addFiles", status=200, body="")  # A proxy answers.
    with pytest.raises(errors.DocumentMismatch, match="holds 3 files, not the 4"):
        submit_files(client, files_of(folder), TaskKey("task"), PROCESS, Options())
    assert sandbox.control.count(path_regex="/start$") == 0


def test_what_comes_late_is_seen_before_the_start(client, sandbox, folder, tmp_path, monkeypatch):
    """An upload of the killed try arrives after the look of the next one, under another name."""
    ledger, (ours, other, *_) = notes(tmp_path / "ledger"), files_of(folder)
    settings = (PROCESS, Options())
    sandbox.control.add_fault(operation="addFiles", status=403)
    with pytest.raises(errors.Forbidden):
        submit_files(client, [ours], TaskKey("task"), *settings, ledger=ledger)
    add = client.add_files

    def after_a_late_one(transaction_id, files, **options):
        add(transaction_id, [other.path], first_index=1)
        return add(transaction_id, files, **options)

    monkeypatch.setattr(client, "add_files", after_a_late_one)
    with pytest.raises(errors.DocumentMismatch, match=f"nobody sent '{other.name}'"):
        submit_files(client, [ours], again(), *settings, ledger=ledger)
    assert set(started(sandbox).values()) == {0}


def test_an_id_that_is_given_twice_mixes_nothing(client, sandbox, skill, folder, tmp_path):
    ledger = notes(tmp_path / "ledger")
    settings = (skill, Options(parallel=1))
    sandbox.control.set(processing_polls=10**6)
    (first,) = submit_files(client, files_of(folder)[:1], TaskKey("task"), *settings, ledger=ledger)
    sandbox.control.add_fault(
        operation="createTransaction", merge_json={"transactionId": first.transaction_id}
    )
    with pytest.raises(errors.ProtocolError, match="has the id of another"):
        submit_files(client, files_of(folder), again(), *settings, ledger=ledger)
    assert [len(each["files"]) for each in sandbox.control.transactions() if each["started"]] == [1]


def test_a_new_transaction_that_is_not_known_everywhere_is_not_made_again(
    client, sandbox, skill, folder, output, tmp_path
):
    sandbox.control.set(list_lag=60.0)
    settings = (skill, Options())
    given, ledger = files_of(folder)[:1], notes(tmp_path / "ledger")
    begin(client, given, output, TaskKey("task"), *settings, token=TOKEN, origin="o", ledger=ledger)
    sandbox.control.add_fault(operation="getTransaction", status=404, times=4)
    begin(client, given, output, again(), *settings, token=TOKEN, origin="o", ledger=ledger)
    assert list(started(sandbox).values()) == [1]


def test_what_is_noted_and_gone_is_searched_and_what_is_found_is_noted(
    sandbox, configure, skill, folder, tmp_path
):
    sandbox.control.set(delete_polls=0)

    def noted() -> list[set[str]]:
        return [set(each.transaction_ids) for each in notes(tmp_path / "ledger").load().values()]

    policy = RetryPolicy(attempts=1, first_wait=1, max_wait=1, budget=60, sleep=lambda _: None)
    with VantageClient(configure(), retries=policy) as client:

        def send(key: TaskKey, ledger: Ledger | None) -> str:
            given = files_of(folder)[:1]
            (part,) = submit_files(client, given, key, skill, Options(), ledger=ledger)
            assert client.get_transaction(part.transaction_id).ended
            return part.transaction_id

        gone = send(TaskKey("task"), notes(tmp_path / "ledger"))
        client.delete_transaction(gone)
        unnoted = send(again(), None)  # This try has lost the notes.
        assert send(again(), notes(tmp_path / "ledger")) == unnoted
        assert noted() == [{unnoted, gone}]
        # What is gone for good is not asked for by each later try.
        client.delete_transaction(unnoted)
        newest = send(again(), notes(tmp_path / "ledger"))
        assert noted() == [{newest}]


def test_a_folder_is_taken_before_anything_is_sent(
    client, sandbox, skill, folder, output, monkeypatch
):
    """The job that had it may still be at work, and must not collect into it."""
    settings = (skill, Options(parallel=1))
    begin(client, files_of(folder), output, TaskKey("other"), *settings, token=job_token("other"))
    owners: list[str | None] = []
    note = lambda: owners.append(job.Job.load(output).token)  # noqa: E731
    monkeypatch.setattr(client, "create_transaction", _after(client.create_transaction, note))
    begin(client, files_of(folder), output, TaskKey("task"), *settings, token=TOKEN)
    assert owners == [TOKEN] * 4


def test_a_file_that_was_replaced_is_sent_although_its_name_has_landed(
    client, sandbox, skill, folder, output
):
    run(client, folder, output, skill, TaskKey("task"))
    make_invoice(folder / "invoice 1.pdf", "INV-9")
    run(client, folder, output, skill, again(), tables="jsonl")
    numbers = {row["Invoice Number"] for row in Manifest.open(output).rows()}
    assert numbers == {"INV-9", "INV-2", "INV-3", "INV-4"}


def test_a_folder_that_belongs_to_another_file_now_is_not_shared(
    client, sandbox, skill, folder, output, tmp_path
):
    ledger = notes(tmp_path / "ledger")
    run(client, folder, output, skill, TaskKey("task"), ledger=ledger)
    (folder / "invoice 1.pdf").rename(folder / "renamed.pdf")
    make_invoice(folder / "invoice 1.pdf", "INV-9")
    run(client, folder, output, skill, again(), ledger=ledger, tables="jsonl")
    rows = Manifest.open(output).rows()
    assert {row["source_name"]: row["Invoice Number"] for row in rows} == {
        "invoice 1.pdf": "INV-9",
        "renamed.pdf": "INV-1",
        **{f"invoice {number}.pdf": f"INV-{number}" for number in (2, 3, 4)},
    }
    assert set(started(sandbox).values()) == {1}


def test_nothing_is_deleted_whose_results_have_vanished_since(
    client, sandbox, skill, folder, output, monkeypatch
):
    complete = job.complete

    def spoil(client, manifest, output, options):
        entry = manifest.transactions[0]
        output.child(entry.folder, entry.files[0].path).remove()
        return complete(client, manifest, output, options)

    monkeypatch.setattr(job, "complete", spoil)
    run(client, folder, output, skill, TaskKey("task"), delete_after=True)
    assert sandbox.control.count("DELETE", "/transactions") == 3


def test_one_404_does_not_make_a_transaction_gone(client, sandbox, skill, folder, output):
    settings = (skill, Options())
    begin(client, files_of(folder)[:1], output, TaskKey("task"), *settings, token=TOKEN)
    sandbox.control.add_fault(operation="getTransaction", status=404, times=2)
    manifest = finish(client, output, *settings, token=TOKEN)
    assert (len(manifest.transactions), manifest.failed) == (1, ())


def test_a_review_that_the_wait_has_seen_is_kept(client, sandbox, skill, folder, output):
    settings = (skill, Options())
    sandbox.control.set(processing_polls=10**6)
    job = begin(client, files_of(folder)[:1], output, TaskKey("task"), *settings, token=TOKEN)
    seen = tuple(each.upper() for each in job.transaction_ids)
    manifest = finish(client, output, *settings, token=TOKEN, in_review=seen)
    assert [each.in_review for each in manifest.pending] == [True]


def test_results_land_without_rights_to_the_skill_and_without_numbers_of_pages(
    client, sandbox, skill, folder, output
):
    sandbox.control.add_fault(path_regex="/skills/|/completed", status=403, times=0)
    manifest = run(client, folder, output, skill, TaskKey("task"))
    assert [each.pages for each in manifest.transactions] == [None] * 4


def test_a_missing_file_whose_transaction_is_gone_holds_nothing_up(
    sandbox, configure, skill, folder, output, tmp_path
):
    sandbox.control.set(delete_polls=0)
    ledger = notes(tmp_path / "ledger")
    policy = RetryPolicy(attempts=1, first_wait=1, max_wait=1, budget=60, sleep=lambda _: None)
    with VantageClient(configure(), retries=policy) as client:
        first, *_ = begin(
            client,
            files_of(folder),
            output,
            TaskKey("task"),
            skill,
            Options(),
            token=TOKEN,
            origin="o",
            ledger=ledger,
        ).transaction_ids
        assert client.get_transaction(first).ended
        client.delete_transaction(first)
        (folder / "invoice 1.pdf").unlink()
        manifest = run(client, folder, output, skill, again(), ledger=ledger)
    assert (len(manifest.transactions), manifest.failed) == (3, ())


def test_what_has_landed_before_work_was_undone_is_not_sent_again(
    client, sandbox, skill, folder, output, tmp_path
):
    ledger = notes(tmp_path / "ledger")
    first = run(client, folder, output, skill, TaskKey("task"), ledger=ledger)
    ledger.undo([first.transactions[0].transaction_id])
    run(client, folder, output, skill, again(), ledger=notes(tmp_path / "ledger"))
    assert set(started(sandbox).values()) == {1}


def _after(function, action):
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        action()
        return result

    return wrapper


@pytest.mark.parametrize("skill_of", ["Invoice", PROCESS])
def test_downloads_by_id_land_in_folders_of_their_own(
    client, sandbox, skill, folder, output, skill_of
):
    chosen = skill if skill_of == "Invoice" else skill_of
    sent = submit_files(client, files_of(folder), TaskKey("task"), chosen, Options())
    ids = [each.transaction_id for each in sent]
    assert all(client.get_transaction(each).ended for each in ids)
    manifest = download(client, ids, output, Options())
    assert [entry.folder for entry in manifest.transactions] == ids
    assert manifest.counts["documents"] == 4
    assert manifest.counts["pages"] == 10
    assert {entry.skill_id for entry in manifest.transactions} == {chosen}
    before = digests(Path(output.path))
    assert download(client, ids, output, Options()).to_json() == manifest.to_json()
    assert digests(Path(output.path)) == before


CRASHES = {
    "before create": ("createTransaction", "before"),
    "after create": ("createTransaction", "after"),
    "during upload": ("addFiles", "before"),
    "after upload": ("addFiles", "after"),
    "before start": ("startTransaction", "before"),
    "after start": ("startTransaction", "after"),
    "while waiting": ("getTransaction", "after"),
    "during download": ("downloadResultFile", "after"),
}


@pytest.mark.parametrize("ledger", ["ledger", "no ledger"])
@pytest.mark.parametrize("kind", ["Invoice", PROCESS])
@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.slow
def test_kill_minus_9_anywhere_and_each_document_is_charged_once(
    sandbox, configure, skill, folder, tmp_path, crash, kind, ledger
):
    """Kill a process at a random one of several requests, several times, then let one end."""
    # Where nothing is noted, New transactions are found only if the service lists them.
    sandbox.control.set(list_new=True)
    chosen = skill if kind == "Invoice" else kind
    output, note = tmp_path / "out", tmp_path / "ledger"
    script = textwrap.dedent(
        """
        import json, sys
        import jobs
        from pathlib import Path
        import pendulum
        from vantage_orchestration.client import VantageClient
        from vantage_orchestration.config import VantageConfig
        from vantage_orchestration.storage import Location
        told = json.load(sys.stdin)
        from vantage_orchestration.processing.keys import TaskKey
        from vantage_orchestration.processing.ledger import Ledger
        ledger = jobs.notes(told["ledger"]) if told["ledger"] else Ledger()
        with VantageClient(VantageConfig.from_fields(told["config"])) as client:
            jobs.run(client, Path(told["folder"]), Location.of(told["output"]), told["skill"],
                  TaskKey("task", pendulum.parse(told["since"])), ledger=ledger, parallel=2)
        """
    )
    account = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
    told = {
        "config": {"region": "custom", "base_url": sandbox.url, "store": "memory", **account},
        "folder": str(folder),
        "output": str(output),
        "skill": chosen,
        "since": pendulum.now("UTC").to_iso8601_string(),
        "ledger": str(note) if ledger == "ledger" else "",
    }
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    operation, when = CRASHES[crash]
    chance = random.Random(f"{crash} {kind} {ledger}")
    for _ in range(2):
        sandbox.control.clear_faults()
        skip = chance.randrange(3) if kind == "Invoice" else 0
        sandbox.control.add_fault(operation=operation, when=when, delay=60.0, after=skip)
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, env=environment, text=True
        ) as process:
            process.stdin.write(json.dumps(told))
            process.stdin.close()
            wait_until(
                lambda: (
                    any(fault["hits"] for fault in sandbox.control.faults())
                    or process.poll() is not None
                ),
                "the request to kill it at, or its end",
                pause=0.02,
            )
            process.kill()
            process.wait(10)
    sandbox.control.clear_faults()
    last = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(told),
        env=environment,
        text=True,
        timeout=120,
        capture_output=True,
    )
    assert last.returncode == 0, last.stderr
    counts = started(sandbox)
    assert len(counts) == 4
    assert set(counts.values()) == {1}
    assert left_over(sandbox) == []
    found = digests(output)
    assert not [name for name in found if name.endswith(".part") or SUBMITTED in name]
    manifest = Manifest.load(Location.of(output))
    assert manifest.counts["documents"] == 4
    for entry in manifest.transactions:
        for file in entry.files:
            assert found[f"{entry.folder}/{file.path}"] == file.sha256
    patient = RetryPolicy(attempts=1, first_wait=0.1, max_wait=0.1, budget=10)
    with VantageClient(configure(), retries=patient) as client:
        for entry in manifest.transactions:
            served = client.get_transaction(entry.transaction_id)
            for document, here in zip(served.documents, entry.documents, strict=True):
                for file in document.result_files:
                    content = client.read_result(entry.transaction_id, file.id)
                    (same,) = [each for each in here.files if each.name == file.name]
                    assert hashlib.sha256(content).hexdigest() == same.sha256


# --------------------------------------------------- transactions that nobody finds again


class _NoPlace(FolderLedgers):
    """Takes no notes, as where a process is killed before they are written."""

    def append(self, name, change):
        raise OSError("killed here")


def test_a_kill_before_the_note_leaves_few_empty_transactions(
    client, sandbox, skill, tmp_path, output
):
    (tmp_path / "in").mkdir()
    for number in range(12):
        make_invoice(tmp_path / "in" / f"{number}.pdf", f"INV-{number}")
    ledger = Ledger((_NoPlace(Location.of(tmp_path / "notes")), "task"))
    with pytest.raises(OSError, match="killed here"):
        run(client, tmp_path / "in", output, skill, TaskKey("task"), ledger=ledger, parallel=2)
    assert len(left_over(sandbox)) == 2


def test_tasks_of_a_process_create_and_note_one_transaction_at_a_time(
    client, sandbox, skill, tmp_path, monkeypatch
):
    paths = [make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}") for n in range(6)]
    unnoted: list[int] = []
    without_note = 0
    create, add = client.create_transaction, Ledger.add

    def created(*args, **kwargs):
        nonlocal without_note
        without_note += 1
        unnoted.append(without_note)
        return create(*args, **kwargs)

    def added(self, entries):
        nonlocal without_note
        add(self, entries)
        without_note -= len(entries)

    monkeypatch.setattr(client, "create_transaction", created)
    monkeypatch.setattr(Ledger, "add", added)

    def task(number: int) -> None:
        submit_files(
            client,
            [Location.of(paths[number])],
            TaskKey(f"task {number}"),
            skill,
            Options(),
            ledger=notes(tmp_path / f"notes {number}"),
        )

    in_parallel(task, range(6), 6)
    assert len(unnoted) == 6
    assert max(unnoted) == 1


def test_what_was_created_before_an_error_is_noted_in_its_order(
    client, sandbox, skill, folder, tmp_path, output
):
    """Of a group of four, the slowest comes first, and the last is refused."""
    sandbox.control.add_fault(operation="createTransaction", delay=0.5)
    sandbox.control.add_fault(operation="createTransaction", status=403, after=2)
    ledger = notes(tmp_path / "notes")
    files = files_of(folder)
    with pytest.raises(errors.Forbidden):
        submit_files(client, files, TaskKey("task"), skill, Options(parallel=4), ledger=ledger)
    noted = [each.transaction_id for each in notes(tmp_path / "notes").load().values()]
    assert len(noted) == 3
    assert sorted(noted) == sorted(left_over(sandbox))
    sandbox.control.clear_faults()
    parts = submit_files(
        client, files, TaskKey("task"), skill, Options(), ledger=notes(tmp_path / "notes")
    )
    assert [each.transaction_id for each in parts][:3] == noted
    names = [each.sources[0].name for each in parts[:3]]
    assert names == sorted(names)
    assert left_over(sandbox) == []
    assert set(started(sandbox).values()) == {1}


# ------------------------------------------------------------- results in pauses


def test_results_are_fetched_in_the_pauses_of_a_wait(client, sandbox, skill, folder, output):
    make_invoice(folder / "r.pdf", "INV-R", extra_lines=["Manual review required"])
    # Of several at a time, chance decides how many begin before the first fails.
    options = Options(parallel=1)
    job = begin(client, files_of(folder), output, TaskKey("task"), skill, options, token=TOKEN)
    pauses: list[float] = []
    ahead = fetch_ahead(client, Output(output), options, token=TOKEN)
    other = fetch_ahead(client, Output(output), options, token=job_token("another"))
    now = 0.0

    def downloads() -> int:
        return sandbox.control.count("GET", "/download$")

    def pause(processed, seconds):
        nonlocal now
        assert len(processed) == 4
        if not pauses:
            other(processed, seconds)
            ahead(processed, 0.0)
            assert downloads() == 0, "it is another job's folder, or there is no time left"
            sandbox.control.add_fault(operation="downloadResultFile", status=404, times=0)
            ahead(processed, seconds)
            sandbox.control.clear_faults()
        ahead(processed, seconds)
        now += 4.0

    def sleep(seconds):
        nonlocal now
        pauses.append(seconds)
        now += seconds
        if len(pauses) == 2:
            sandbox.control.finish_review(in_review[0])

    rules = WaitRules(poke_interval=10.0, max_poke_interval=10.0, jitter=0.0)
    in_review: list[str] = []
    outcome = wait_here(
        client,
        Wait(job.transaction_ids, rules, now),
        on_people=lambda needed: in_review.extend(needed.transaction_ids),
        on_pause=pause,
        sleep=sleep,
        clock=lambda: now,
    )
    assert pauses[0] == 6.0
    before = {path: data for path, data in digests(Path(output.path)).items() if path[0] == "i"}
    landed = downloads()
    assert not [path for path in before if path.endswith("manifest.json")]
    manifest = finish(client, output, skill, options, token=TOKEN, processed=outcome.processed)
    assert len(manifest.transactions) == 5
    there = digests(Path(output.path))
    files = {path: digest for path, digest in before.items() if not path.endswith("landed.json")}
    assert files.items() <= there.items()
    assert len(files) == 6, "one was tried in vain, and only once"
    assert downloads() == landed + 10 - len(files)
    assert not [path for path in there if path.endswith("landed.json")]
