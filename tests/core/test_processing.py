# SPDX-License-Identifier: Apache-2.0
"""One document, one started transaction: through retries, crashes, reviews and failures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pendulum
import pytest
from jobs import accepted_starts
from patience import wait_until, wait_while_running
from pdfs import make_invoice

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.options import Options
from vantage_orchestration.processing import (
    KEY_PARAMETER,
    TaskKey,
    process_document,
    wait_for_transaction,
)
from vantage_orchestration.processing.document import submit_one
from vantage_orchestration.processing.ledger import FolderLedgers, Ledger, open_ledger
from vantage_orchestration.processing.submit import Work
from vantage_orchestration.results import fetch_fields, fields_of_json, fields_of_values
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.storage import Location


@pytest.fixture
def invoice(tmp_path):
    return make_invoice(tmp_path / "invoice (17).pdf", "INV-17")


@pytest.fixture
def skill(sandbox) -> str:
    sandbox.control.set(processing_polls=0)
    return sandbox.control.skill_id("Invoice")


def again(scope: str = "task") -> TaskKey:
    return TaskKey(scope, pendulum.now("UTC"))


def send(client, file, skill: str, key: TaskKey, **options) -> str:
    """Start the transaction of a file, or find it; return its id."""
    chosen = Options(**options)
    ledger = open_ledger(key, client, skill, chosen.skill_parameters)
    return submit_one(Work(client, skill, key, chosen, ledger), file).transaction_id


def starts(sandbox) -> list[int]:
    return [item["started"] for item in sandbox.control.transactions() if item["started"]]


def test_fields_come_back_with_the_document_they_belong_to(client, sandbox, skill, tmp_path):
    for number in ("INV-1", "INV-2", "INV-3"):
        path = make_invoice(tmp_path / f"{number}.pdf", number, pages=2)
        result = process_document(client, path, skill, TaskKey(number))
        (row,) = result.rows()
        assert row["fields"]["Invoice Number"] == number
        assert row["fields"]["Source File Name"] == path.name
        assert row["fields"]["Page Count"] == "2"
        assert row["sha256"] == row["fields"]["Source SHA-256"]
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert json.loads(json.dumps(row)) == row
    assert starts(sandbox) == [1, 1, 1]


def test_fields_are_the_same_from_both_kinds_of_result(client, sandbox, skill, invoice):
    values = process_document(client, invoice, skill, TaskKey("a")).documents[0].fields
    for wrap in (False, True):
        sandbox.control.set(exports={skill: ["Json"]}, wrap_json=wrap)
        result = process_document(client, invoice, skill, TaskKey(f"json {wrap}"))
        assert result.documents[0].fields == values
    assert values["Items"][0]["Description"]


def test_several_documents_in_one_transaction(client, sandbox, skill, tmp_path):
    paths = [make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}") for n in range(3)]
    transaction = client.launch_transaction("workspace.default.processing", paths)
    done = wait_for_transaction(client, transaction)
    found = [document.fields["Invoice Number"] for document in fetch_fields(client, done)]
    assert sorted(found) == ["INV-0", "INV-1", "INV-2"]


def test_skills_without_fields_give_documents_without_fields(client, sandbox, skill, invoice):
    kinds = {found.type: found.id for found in client.list_skills()}
    (row,) = process_document(client, invoice, kinds["Classification"], TaskKey("c")).rows()
    assert row["class"]
    assert row["fields"] == {}


def test_business_rule_errors_are_results_and_no_failure(client, sandbox, skill, invoice):
    sandbox.control.set(rule_errors=[{"errorType": "Condition", "customMessage": "Total is off"}])
    (row,) = process_document(client, invoice, skill, TaskKey("r")).rows()
    assert row["rule_errors"] == ["Total is off"]


def test_a_second_try_finds_the_first_ones_transaction(client, sandbox, skill, invoice):
    first = process_document(client, invoice, skill, TaskKey("task"))
    second = process_document(client, invoice, skill, again())
    assert second == first
    sandbox.control.set(processing_polls=10**6)
    running = send(client, invoice, skill, TaskKey("running"))
    assert send(client, invoice, skill, again("running")) == running
    assert starts(sandbox) == [1, 1]


def test_other_tasks_files_and_skills_get_their_own(client, sandbox, skill, invoice, tmp_path):
    first = send(client, invoice, skill, TaskKey("task"))
    found = {
        first,
        send(client, invoice, skill, again("other task")),
        send(client, invoice, "Receipt", again()),
    }
    make_invoice(invoice, "INV-18")  # The same path with another content.
    found.add(send(client, invoice, skill, again()))
    assert len(found) == 4
    catalog = {"Supplier catalog": "Suppliers 2026"}
    other = send(client, invoice, skill, again(), skill_parameters=catalog)
    assert other not in found
    same = send(
        client,
        invoice,
        skill,
        again(),
        skill_parameters=catalog,
        registration_parameters={"Try": "2"},
    )
    assert same == other


def test_the_reserved_parameter_is_refused_before_sending(client, sandbox, skill, invoice):
    with pytest.raises(errors.ConfigurationError, match=KEY_PARAMETER):
        process_document(
            client, invoice, skill, TaskKey("x"), registration_parameters={KEY_PARAMETER: "x"}
        )
    assert sandbox.control.transactions() == []


@pytest.mark.parametrize("outcome", ["Failed", "Canceled"])
def test_what_ended_badly_is_sent_anew_only_when_asked(client, sandbox, skill, invoice, outcome):
    sandbox.control.set(outcome=outcome)
    kind = {"Failed": errors.TransactionFailed, "Canceled": errors.TransactionCanceled}[outcome]
    with pytest.raises(kind) as caught:
        process_document(client, invoice, skill, TaskKey("task"))
    assert not caught.value.retryable
    assert caught.value.transaction_id in str(caught.value)
    sandbox.control.set(outcome="Processed")
    result = process_document(client, invoice, skill, again())
    assert result.transaction_id != caught.value.transaction_id
    assert starts(sandbox) == [1, 1]


def test_a_file_that_can_not_be_read_fails_with_the_servers_words(client, sandbox, skill, tmp_path):
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"this is no PDF")
    with pytest.raises(errors.TransactionFailed, match="server says"):
        process_document(client, broken, skill, TaskKey("task"))


def test_why_it_failed_is_told_without_links(client, sandbox, skill, invoice):
    text = "Stuck in\nhttps://example.com/manual-review?transactionId=1&accessToken=abcdefgh"
    sandbox.control.set(outcome="Failed", outcome_error=text)
    with pytest.raises(errors.TransactionFailed) as caught:
        process_document(client, invoice, skill, TaskKey("task"))
    assert caught.value.server_message == "Stuck in https://example.com/manual-review"


def test_waiting_for_a_person_has_its_own_limit_and_shows_no_link(
    client, sandbox, skill, invoice, caplog
):
    caplog.set_level("DEBUG")
    sandbox.control.set(review=True)
    with pytest.raises(errors.WaitTimeout, match="manual review") as caught:
        process_document(client, invoice, skill, TaskKey("task"))
    assert caught.value.retryable
    transaction = caught.value.transaction_id
    link = client.get_transaction(transaction).manual_review_link.reveal()
    assert link not in caplog.text + str(caught.value)
    assert "waiting for manual review" in caplog.text
    sandbox.control.finish_review(transaction)
    assert process_document(client, invoice, skill, again()).transaction_id == transaction


def test_a_review_that_ends_in_time_is_waited_for(client, sandbox, skill, invoice):
    sandbox.control.set(review=True)
    transaction = send(client, invoice, skill, TaskKey("task"))
    slept: list[float] = [0.0]

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 4:
            sandbox.control.finish_review(transaction)

    done = wait_for_transaction(
        client, transaction, review_timeout=3600, sleep=sleep, clock=lambda: sum(slept)
    )
    assert done.status == "Processed"
    assert len(slept) == 4


RETRYABLE = pytest.raises((errors.ConnectionFailed, errors.ServiceUnavailable, errors.RateLimited))


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("createTransaction", {"drop": True, "when": "after"}),
        ("addFiles", {"drop": True, "when": "after"}),
        ("startTransaction", {"drop": True, "when": "after"}),
        ("getTransaction", {"status": 503}),
        ("downloadResultFile", {"truncate": 10}),
        ("listActiveTransactions", {"status": 429, "retry_after": 0}),
    ],
)
def test_each_step_may_break_for_good_and_the_next_try_starts_nothing_twice(
    sandbox, configure, skill, invoice, operation, fault
):
    impatient = RetryPolicy(attempts=2, first_wait=0.001, max_wait=0.001, budget=60)
    key = again() if operation == "listActiveTransactions" else TaskKey("task")
    with VantageClient(configure(), retries=impatient) as client:
        sandbox.control.add_fault(operation=operation, times=2, **fault)
        if operation == "getTransaction":  # It is read before the start if an answer was lost.
            sandbox.control.add_fault(operation="addFiles", drop=True, when="after")
        # A start that arrived, though its reply was lost, is found to have arrived: no error.
        breaks = contextlib.nullcontext() if operation == "startTransaction" else RETRYABLE
        with breaks:
            process_document(client, invoice, skill, key)
        result = process_document(client, invoice, skill, again())
    assert result.documents[0].fields["Invoice Number"] == "INV-17"
    assert starts(sandbox) == [1]


WORKER = """
    import sys
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.processing import TaskKey, process_document
    path, skill = sys.argv[1:]
    process_document(VantageClient.from_env(), path, skill, TaskKey("task"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "delayed"),
    [
        ("createTransaction", "after"),
        ("addFiles", "before"),
        ("addFiles", "after"),
        ("startTransaction", "before"),
        ("startTransaction", "after"),
        ("getTransaction", "before"),
        ("downloadResultFile", "before"),
    ],
)
def test_kill_minus_9_at_each_step_and_the_next_try_starts_nothing_twice(
    client, sandbox, skill, invoice, operation, delayed
):
    # The step is held up, so that the process is killed in the middle of it.
    sandbox.control.add_fault(operation=operation, delay=60, when=delayed)
    account = {f"ABBYY_VANTAGE_{k.upper()}": v for k, v in sandbox.credentials.items()}
    account["ABBYY_VANTAGE_TENANT_ID"] = ""
    environment = {**os.environ, **account, "ABBYY_VANTAGE_BASE_URL": sandbox.url}
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(invoice), skill], env=environment
    )
    try:
        wait_while_running(
            worker,
            lambda: any(fault["hits"] for fault in sandbox.control.faults()),
            "the step to be held up",
        )
        if delayed == "after":
            wait_until_done(sandbox, operation)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait(30)
    sandbox.control.clear_faults()
    result = process_document(client, invoice, skill, again())
    assert result.documents[0].fields["Invoice Number"] == "INV-17"
    assert starts(sandbox) == [1]


def wait_until_done(sandbox, operation) -> None:
    """Wait until the work of a step is done, though its reply is not sent."""
    member = {"createTransaction": "id", "addFiles": "files", "startTransaction": "started"}
    wait_until(
        lambda: any(item[member[operation]] for item in sandbox.control.transactions()),
        f"{operation} to be done",
        pause=0.02,
    )


def test_tasks_at_the_same_time_do_not_mix_up_documents(client, sandbox, skill, tmp_path):
    paths = [make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}") for n in range(24)]
    results: dict[int, str] = {}

    def work(n: int) -> None:
        fields = process_document(client, paths[n], skill, TaskKey(f"t{n}")).documents[0].fields
        results[n] = fields["Invoice Number"]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: f"INV-{n}" for n in range(24)}
    assert starts(sandbox) == [1] * 24
    assert sandbox.control.count(path_regex="connect/token") == 1


def test_tasks_with_the_same_work_at_the_same_time_share_a_transaction(
    client, sandbox, skill, invoice, tmp_path, monkeypatch
):
    key = TaskKey("task", stores=(FolderLedgers(Location.of(tmp_path).child("notes")),))
    all_read, mine, found = threading.Barrier(4), threading.local(), []
    load = Ledger.load

    def loaded(self):
        noted, mine.loads = load(self), getattr(mine, "loads", 0) + 1
        if mine.loads == 2:  # To plan, and to send: nobody has noted anything yet.
            all_read.wait(60)
        return noted

    monkeypatch.setattr(Ledger, "load", loaded)
    threads = [
        threading.Thread(target=lambda: found.append(send(client, invoice, skill, key)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(found), len(set(found))) == (4, 1)
    assert len(accepted_starts(sandbox.control)) == 1


def test_a_transaction_with_other_files_is_not_started(client, sandbox, skill, invoice):
    other = [{"id": "x", "name": "somebody-elses.pdf"}]
    sandbox.control.add_fault(operation="getTransaction", merge_json={"sourceFiles": other})
    sandbox.control.add_fault(operation="addFiles", drop=True, when="after")
    with pytest.raises(errors.DocumentMismatch, match="not started"):
        process_document(client, invoice, skill, TaskKey("task"))
    assert starts(sandbox) == []


def test_a_file_of_somebody_else_is_not_taken_for_ours(client, sandbox, skill, invoice, tmp_path):
    """A proxy repeats a reply, and the server lists no files before the start."""
    other = client.create_transaction(skill).id
    (tmp_path / "other").mkdir()
    client.add_files(other, [make_invoice(tmp_path / "other" / invoice.name, "INV-18")])
    sandbox.control.add_fault(operation="createTransaction", merge_json={"transactionId": other})
    sandbox.control.add_fault(operation="getTransaction", times=0, merge_json={"sourceFiles": []})
    with pytest.raises(errors.Conflict):
        send(client, invoice, skill, TaskKey("task"))
    assert starts(sandbox) == []


def test_what_was_clearly_answered_is_not_looked_at_before_the_start(
    client, sandbox, skill, invoice
):
    process_document(client, invoice, skill, TaskKey("task"))
    asked = [each["operation"] for each in sandbox.control.journal(path_regex="/transactions")]
    assert asked[:4] == ["createTransaction", "addFiles", "startTransaction", "getTransaction"]


def test_a_transaction_whose_file_never_arrived_is_given_up(client, sandbox, skill, invoice):
    sandbox.control.add_fault(operation="addFiles", status=200, body="")  # A proxy answers.
    with pytest.raises(errors.DocumentMismatch, match="holds 0 files, not the 1"):
        process_document(client, invoice, skill, TaskKey("task"))
    process_document(client, invoice, skill, again())
    found = sandbox.control.transactions()
    assert [each["status"] for each in found] == ["New", "Processed"]
    assert [each["deleted"] for each in found] == [True, False]


def test_results_of_other_files_are_not_taken(client, sandbox, skill, invoice):
    other = [{"id": "x", "name": "somebody-elses.pdf"}]
    sandbox.control.add_fault(operation="getTransaction", merge_json={"sourceFiles": other})
    with pytest.raises(errors.DocumentMismatch, match="somebody-elses"):
        process_document(client, invoice, skill, TaskKey("task"))


@pytest.mark.parametrize("body", ["no json", "[]", '{"Fields": []}', '{"Fields": null}'])
def test_a_result_file_that_is_none_is_an_error_with_the_transaction(
    client, sandbox, skill, invoice, body
):
    sandbox.control.add_fault(operation="downloadResultFile", times=0, status=200, body=body)
    with pytest.raises(errors.ProtocolError, match="FieldsJson") as caught:
        process_document(client, invoice, skill, TaskKey("task"))
    assert caught.value.transaction_id


def test_shapes_of_result_files():
    assert fields_of_values({"Version": "3.0", "Fields": {"a": "1", "g": {"b": "2"}}}) == {
        "a": "1",
        "g": {"b": "2"},
    }
    root = {
        "Fields": [
            {"Name": "a", "List": [{"Value": "1"}]},
            {"Name": "none", "List": []},
            {"Name": "two", "List": [{"Value": "1"}, {"Value": "2"}]},
            {"Name": "group", "List": [{"Value": None}]},
            {
                "Name": "row",
                "List": [{"Value": {"Fields": [{"Name": "b", "List": [{"Value": "3"}]}]}}],
            },
        ]
    }
    data = {"Transaction": {"Documents": [{"ExtractedData": {"RootObject": root}}]}}
    expected = {"a": "1", "none": None, "two": ["1", "2"], "group": None, "row": {"b": "3"}}
    assert fields_of_json(data) == fields_of_json(data["Transaction"]) == expected
    for wrong in ({}, [], {"Documents": []}, None):
        with pytest.raises(ValueError, match="missing"):
            fields_of_json(wrong)


def test_errors_are_translated_for_the_orchestrator(sandbox, configure, skill, invoice):
    class Final(errors.TransactionFailed):
        pass

    def translate(error):
        return Final(error.what, **error.details()) if not error.retryable else error

    sandbox.control.set(outcome="Failed")
    with (
        VantageClient(configure(), translate=translate) as client,
        pytest.raises(Final) as caught,
    ):
        process_document(client, invoice, skill, TaskKey("task"))
    assert caught.value.transaction_id
    with (
        VantageClient(configure(), translate=translate) as client,
        pytest.raises(Final, match="no file"),
    ):
        process_document(client, "/nowhere.pdf", skill, TaskKey("task"))
