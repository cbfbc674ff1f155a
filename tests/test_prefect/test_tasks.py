# SPDX-License-Identifier: Apache-2.0
"""The tasks on a real Prefect server: what a later try finds, and what may be seen of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pdfs import make_invoice
from prefect import Task, flow, task, unmapped
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Pause, TerminationSignal
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run, suspend_flow_run
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Cancelling
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.transactions import transaction
from test_prefect.seen import artifacts

from vantage_orchestration.errors import (
    ConfigurationError,
    ReviewNeeded,
    RulesBroken,
    TransactionFailed,
    VantageError,
)
from vantage_orchestration.prefect import (
    VantageCredentials,
    VantageSkill,
    task_key,
    tasks,
    undo,
)
from vantage_orchestration.prefect.artifacts import DOCUMENTS_KEY
from vantage_orchestration.prefect.completed import fetch_completed
from vantage_orchestration.prefect.tasks import (
    delete_transactions,
    download_results,
    list_skills,
    process_document,
    process_documents,
    submit_documents,
    wait_for_transactions,
)
from vantage_orchestration.processing import process_document as process_one
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

QUICK = {"poke_interval": 1.0, "max_poke_interval": 1.0}
LISTS = "/transactions/(active|completed)"


@dataclass
class Case:
    """Three invoices, a sandbox, and the name of a block for it."""

    sandbox: SandboxServer
    block: str
    folder: Path
    output: Path

    @property
    def files(self) -> list[str]:
        return sorted(map(str, self.folder.glob("*.pdf")))

    @property
    def glob(self) -> str:
        return f"{self.folder}/*.pdf"

    def starts(self) -> Counter[str]:
        """Return how many transactions were started for each content of a file."""
        return Counter(
            file["sha256"]
            for each in self.sandbox.control.transactions()
            if each["started"]
            for file in each["files"]
        )

    def once_each(self) -> Counter[str]:
        return Counter(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in self.files)

    def add(self, name: str, **changes: Any) -> Path:
        return make_invoice(self.folder / name, f"INV-{name}", **changes)


@pytest.fixture
def case(sandbox: SandboxServer, save_block: Callable[..., str], tmp_path: Path) -> Case:
    sandbox.control.set(processing_polls=0)
    found = Case(sandbox, save_block(), tmp_path / "in", tmp_path / "out")
    found.folder.mkdir()
    for name in ("a.pdf", "b [1].pdf", "c é.pdf"):
        found.add(name)
    return found


def at_once(task: Any, retries: int = 0) -> Any:
    """Return a task that waits for nothing before it tries again."""
    return task.with_options(retries=retries, retry_delay_seconds=0)


# ------------------------------------------------------------------ by themselves


def test_retries_are_on_for_what_can_pass_only(case: Case) -> None:
    every = [each for each in vars(tasks).values() if isinstance(each, Task)]
    assert [task.retries for task in every] == [3] * 7
    quick = at_once(list_skills, retries=2)

    @flow
    def above(block: str) -> Any:
        return quick(block)

    case.sandbox.control.add_fault(operation="listSkills", times=4, status=503, retry_after=0)
    assert "Invoice" in {each["name"] for each in above(case.block)}
    before = case.sandbox.control.count("GET", "/skills")
    case.sandbox.control.add_fault(operation="listSkills", times=0, status=403)
    with pytest.raises(Exception, match="403"):
        above(case.block)
    assert case.sandbox.control.count("GET", "/skills") == before + 1
    with pytest.raises(ConfigurationError, match=r"could not be read from Prefect.*_API_URL"):
        above("nobody")


# Prefect's map() takes a block for the list of its fields.
@pytest.mark.parametrize(
    "given", [None, {"password": "it is secret"}, ("password", "it is secret")]
)
def test_what_is_no_block_is_refused_at_once(given: Any) -> None:
    states = []
    task = list_skills.with_options(retries=1, retry_delay_seconds=0)
    task.on_failure(lambda task, run, state: states.append(run.run_count))
    with pytest.raises(
        ConfigurationError, match=f"of the type {type(given).__name__}. Give.*unmapped"
    ):
        task(given)
    with pytest.raises(ConfigurationError, match="of the type"):
        fetch_completed.fn(given, "out")
    assert states == [1]


def test_steps_one_by_one_and_a_retry_takes_them_from_the_cache(case: Case) -> None:
    tries: list[Any] = []

    @flow(retries=1)
    def above() -> int:
        ids = submit_documents(case.block, case.glob, "Invoice")
        statuses = wait_for_transactions(case.block, ids, **QUICK)
        result = download_results(case.block, ids, str(case.output), delete_after=True)
        tries.append((ids, statuses, result))
        if len(tries) == 1:
            # Deleted by now: whoever sent them again would pay again.
            raise RuntimeError("once more")
        return delete_transactions(case.block, ids)

    assert above() == 3
    assert tries[0] == tries[1]
    ids, statuses, result = tries[0]
    assert statuses == dict.fromkeys(ids, "Processed")
    assert (result["transactions"], result["documents"], result["failed"]) == (3, 3, 0)
    manifest = Manifest.load(Location.of(case.output))
    assert [each.transaction_id for each in manifest.transactions] == ids
    assert case.sandbox.control.count("POST", "/transactions$") == 3
    assert case.sandbox.control.count("POST", "connect/token") == 1


def test_nothing_to_do_gives_an_empty_result(case: Case) -> None:
    @flow
    def above() -> None:
        for nothing in ([], None, "[]"):
            assert submit_documents(case.block, nothing, "Invoice") == []
            assert wait_for_transactions(case.block, nothing) == {}
            assert delete_transactions(case.block, nothing) == 0
            result = process_documents(case.block, nothing, case.output / "p", "Invoice")
            assert (result["transactions"], result["documents"]) == (0, 0)
            result = download_results(case.block, nothing, case.output / "d")
            assert (result["transactions"], result["files"]) == (0, 0)
        glob = f"{case.folder}/none*.pdf"
        assert submit_documents(case.block, glob, "Invoice", on_empty="skip") == []
        with pytest.raises(ConfigurationError, match="No file matches"):
            submit_documents(case.block, glob, "Invoice")

    above()
    assert case.sandbox.control.count("POST", "/transactions") == 0


def test_what_is_wrong_is_refused_before_anything_is_sent(case: Case) -> None:
    block, out = case.block, str(case.output)

    @flow
    def above() -> None:
        for call, text in (
            (lambda: process_documents(block, case.glob, out, "Invoice", timeout="60"), "timeout"),
            (
                lambda: process_documents(block, case.glob, out, "Invoice", result_types="Jso"),
                "Did you mean 'Json'",
            ),
            (lambda: process_documents(block, case.glob, None, "Invoice"), "output_path"),
            (lambda: process_documents(block, case.glob, str(case.folder), "Invoice"), "output"),
            (lambda: process_documents(block, 5, out, "Invoice"), "inputs"),
            (lambda: process_documents(block, case.glob, out, None), "skill"),
            (lambda: process_documents(block, case.glob, out, "Invoise"), "Did you mean 'Invoice'"),
            (lambda: process_document(block, case.files[0], "Invoice", on_review="return"), "wait"),
            (
                lambda: submit_documents(block, case.glob, "Invoice", skill_parameters={"a": None}),
                "skill_parameters",
            ),
            (lambda: wait_for_transactions(block, "the ids"), "transaction_ids"),
            (lambda: delete_transactions(block, ["x"]), "transaction_ids"),
            (lambda: download_results(block, "x", out), "transaction_ids"),
            (lambda: list_skills("nobody"), "nobody"),
        ):
            with pytest.raises(VantageError, match=text):
                call()

    above()
    assert case.sandbox.control.count("POST", "/transactions") == 0
    assert case.sandbox.control.count("DELETE", "/transactions") == 0


def test_deleting_tries_all_and_names_what_failed(case: Case) -> None:
    quick = at_once(delete_transactions)

    @flow
    def above() -> tuple[list[str], str]:
        ids = submit_documents(case.block, case.glob, "Invoice")
        case.sandbox.control.add_fault(
            method="DELETE", path_regex=f"/transactions/{ids[1]}$", status=403, times=0
        )
        with pytest.raises(VantageError) as caught:
            quick(case.block, str(ids))
        return ids, str(caught.value)

    ids, text = above()
    assert f"1 of 3 transactions were not deleted ({ids[1]}" in text
    deleted = {each["id"]: each["deleted"] for each in case.sandbox.control.transactions()}
    assert deleted == {ids[0]: True, ids[1]: False, ids[2]: True}


def test_changed_file_is_another_document_for_the_cache(case: Case) -> None:
    tries: list[list[str]] = []

    @flow(retries=1)
    def above() -> None:
        tries.append(submit_documents(case.block, case.glob, "Invoice"))
        if len(tries) == 1:
            case.add("a.pdf", pages=2)
            raise RuntimeError("once more")

    above()
    # What was sent stays an order, and another one is added.
    assert set(tries[0]) < set(tries[1])
    assert len(tries[1]) == 4
    assert set(case.starts().values()) == {1}


@pytest.mark.parametrize("storage", ["kept", "lost"])
def test_failed_submission_goes_on(case: Case, storage: str, tmp_path: Path) -> None:
    """Two of three are not started at first. Also where the notes are lost with a disk."""
    case.sandbox.control.add_fault(
        operation="startTransaction", after=1, times=0, status=503, retry_after=0
    )
    tries: list[str] = []

    @flow(retries=1)
    def above() -> Any:
        tries.append(storage)
        if len(tries) == 2:
            case.sandbox.control.clear_faults()
            if storage == "lost":
                shutil.rmtree(PREFECT_LOCAL_STORAGE_PATH.value())
        return at_once(submit_documents)(case.block, case.glob, "Invoice")

    ids = above()
    assert len(tries) == 2
    assert len(set(ids)) == 3
    assert case.starts() == case.once_each()
    listed = case.sandbox.control.count("GET", LISTS)
    # The notes come first; the lists are the second line.
    assert (listed == 0) == (storage == "kept")


def test_notes_survive_where_the_lists_know_nothing(case: Case) -> None:
    control = case.sandbox.control
    control.set(processing_polls=1000)
    tries: list[int] = []

    @flow(retries=1)
    def above() -> Any:
        tries.append(1)
        limits = {"timeout": 0.0} if len(tries) == 1 else {}
        if len(tries) == 2:
            for which in ("Active", "Completed"):
                control.add_fault(operation=f"list{which}Transactions", times=0, status=400)
            control.set(processing_polls=0)
        return at_once(process_documents)(
            case.block, case.glob, str(case.output), "Invoice", **QUICK, **limits
        )

    assert above()["documents"] == 3
    assert case.starts() == case.once_each()


@pytest.mark.parametrize("shape", ["own task", "own flow", "task", "block"])
def test_one_document_is_started_once_where_the_lists_lag(case: Case, shape: str) -> None:
    control = case.sandbox.control
    control.set(processing_polls=1000, list_lag=600.0)
    tries: list[int] = []
    skill_id = control.skill_id("Invoice")

    def own(file: str, limit: float) -> Any:
        with VantageCredentials.load(case.block).get_client() as client:
            return process_one(client, file, skill_id, task_key(file), timeout=limit).rows()

    def block(file: str, limit: float) -> Any:
        credentials = VantageCredentials.load(case.block)
        skill = VantageSkill(credentials=credentials, skill="Invoice", timeout=limit, **QUICK)
        return skill.trigger(file).wait_for_completion().fetch_result()

    send = {
        "own task": task(own),
        "own flow": own,
        "task": lambda file, limit: at_once(process_document)(
            case.block, file, "Invoice", timeout=limit, **QUICK
        ),
        "block": block,
    }[shape]

    @flow(retries=1)
    def above() -> Any:
        tries.append(1)
        if len(tries) == 2:
            control.set(processing_polls=0)
        return send(case.files[0], 0.0 if len(tries) == 1 else 60.0)

    (row,) = above()
    assert len(tries) == 2
    (transaction,) = control.transactions()
    assert (row["transaction_id"], transaction["started"]) == (transaction["id"], 1)


# ------------------------------------------------------------------ many at once


def test_mapped_documents_do_not_mix(case: Case) -> None:
    """Threads, a failure in the middle, and a retried run: each its own file, once."""
    for number in range(4):
        case.add(f"more-{number}.pdf", pages=number + 1)
    credentials = VantageCredentials.load(case.block)
    quick = at_once(process_document)
    tries: list[int] = []
    case.sandbox.control.add_fault(operation="getTransaction", after=5, times=2, status=400)

    @flow(retries=1, task_runner=ThreadPoolTaskRunner(max_workers=4))
    def above() -> list[Any]:
        tries.append(1)
        files = case.files if len(tries) == 1 else case.files[::-1]
        return quick.map(unmapped(credentials), files, "Invoice", **QUICK).result()

    rows = above()[::-1]
    assert len(tries) == 2
    assert [row["file"] for (row,) in rows] == case.files
    for (row,), file in zip(rows, case.files, strict=True):
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        assert row["sha256"] == digest
        assert digest in json.dumps(row["fields"]["Source SHA-256"])
    assert case.starts() == case.once_each()
    assert case.sandbox.control.count("POST", "connect/token") == 1


def test_mapped_jobs_need_a_folder_each(case: Case) -> None:
    quick = at_once(process_documents)

    # One after the other; at the same moment it would be a JobLost for some.
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def above(outputs: list[str]) -> list[Any]:
        futures = quick.map(case.block, case.files, outputs, "Invoice", **QUICK)
        return [future.result(raise_on_failure=False) for future in futures]

    results = above([str(case.output / str(number)) for number in range(3)])
    assert [each["documents"] for each in results] == [1, 1, 1]
    for number, file in enumerate(case.files):
        manifest = Manifest.load(Location.of(case.output / str(number)))
        ((source,),) = (each.sources for each in manifest.transactions)
        assert source.path == file
    done, *refused = above([str(case.output / "same")] * 3)
    assert done["documents"] == 1
    assert [type(each) for each in refused] == [ConfigurationError] * 2
    assert "Two instances" in str(refused[0])


def test_later_try_may_have_more_files(case: Case) -> None:
    """A list that has grown: the number of the call and the folder identify the job."""
    process = next(
        each["name"] for each in case.sandbox.control.skills() if each["type"] == "Process"
    )
    tries: list[Any] = []

    @flow(retries=1)
    def above() -> Any:
        tries.append(1)
        if len(tries) == 2:
            case.add("d.pdf")
        result = at_once(process_documents)(
            case.block, case.files, str(case.output), process, **QUICK
        )
        if len(tries) == 1:
            raise RuntimeError("once more")
        return result

    assert above()["transactions"] == 2
    assert case.starts() == case.once_each()


def test_stores_of_fsspec(case: Case) -> None:
    memory = fsspec.filesystem("memory")
    for file in case.files:
        memory.pipe_file(f"/inbox/{Path(file).name}", Path(file).read_bytes())

    @flow
    def above() -> Any:
        return process_documents(
            case.block, "memory://inbox/*.pdf", "memory://results", "Invoice", **QUICK
        )

    try:
        result = above()
        assert result["manifest"] == "memory:///results/manifest.json"
        assert json.loads(memory.cat_file("/results/manifest.json"))["counts"]["documents"] == 3
        (row,) = process_document(case.block, "memory://inbox/a.pdf", "Invoice", **QUICK)
        assert row["file"] == "memory:///inbox/a.pdf"
    finally:
        memory.rm("/inbox", recursive=True)
        memory.rm("/results", recursive=True)


# ------------------------------------------------------------------ ends


def test_ends_that_are_no_results(case: Case) -> None:
    control = case.sandbox.control

    def end(name: str, **options: Any) -> Any:
        output = str(case.output / name)

        @flow
        def above() -> Any:
            return at_once(process_documents, retries=2)(
                case.block, case.glob, output, "Invoice", **QUICK, **options
            )

        return above()

    control.set(review=True)
    result = end("return", on_review="return")
    assert (result["in_review"], result["pending"], result["documents"]) == (3, 3, 0)
    with pytest.raises(ReviewNeeded):
        end("fail", on_review="fail")
    control.set(review=False, outcome="Failed")
    before = len(control.transactions())
    with pytest.raises(TransactionFailed):
        end("failed")
    # Their pages may have been charged: the task's own retries do not send them again.
    assert len(control.transactions()) == before + 3


@pytest.mark.parametrize("shape", ["documents", "document", "block"])
def test_failed_documents_are_sent_anew_for_people_only(case: Case, shape: str) -> None:
    control = case.sandbox.control
    control.set(outcome="Failed")
    runs: list[Any] = []

    def send() -> None:
        if shape == "documents":
            output = str(case.output)
            process_documents(case.block, case.glob, output, "Invoice", **QUICK)
        elif shape == "document":
            process_document(case.block, case.files[0], "Invoice", **QUICK)
        else:
            credentials = VantageCredentials.load(case.block)
            skill = VantageSkill(credentials=credentials, skill="Invoice", **QUICK)
            skill.trigger(case.files[0]).wait_for_completion()

    @flow(retries=2)
    def above() -> None:
        runs.append(FlowRunContext.get().flow_run)
        send()

    number = 3 if shape == "documents" else 1
    with pytest.raises(TransactionFailed):
        above()
    assert len(runs) == 3
    assert len(control.transactions()) == number
    control.set(outcome="Processed")
    with get_client(sync_client=True) as client:
        run_flow(above, flow_run=client.read_flow_run(runs[0].id))
    assert len(control.transactions()) == 2 * number


def test_broken_rules(case: Case) -> None:
    for file in case.files:
        Path(file).unlink()
    case.add("broken.pdf", total="1.00")

    @flow
    def above(**options: Any) -> Any:
        return process_documents(
            case.block, case.glob, str(case.output), "Invoice", **QUICK, **options
        )

    assert above()["rule_errors"] == 1
    with pytest.raises(RulesBroken, match=r"manifest\.json"):
        above(fail_on_rule_errors=True)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What tasks say in the logs of their runs."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_what_a_run_says_and_shows(case: Case, lines: list[str]) -> None:
    """Of a review, a failure and results; a later run finds the folders of the classes."""
    case.add("r.pdf", extra_lines=["Manual review required"])
    (case.folder / "x.pdf").write_bytes(b"no PDF at all")
    runs: list[str] = []

    @flow
    def above() -> Any:
        runs.append(str(FlowRunContext.get().flow_run.id))
        settings: dict[str, Any] = {"on_review": "return", "on_failed": "return"}
        output = str(case.output / "{class}")
        return process_documents(case.block, case.glob, output, "Invoice", **QUICK, **settings)

    result = above()
    manifest = Manifest.open(case.output)
    assert result["manifest"] == str(case.output / "manifest.json")
    assert result["pages_by_skill"] == {"Invoice": 3}
    landed = case.output.glob("unclassified/*/1/*.json")
    assert {path.parents[1].name for path in landed} == {"a.pdf", "b _1_.pdf", "c é.pdf"}
    ids = {entry.sources[0].name: entry.transaction_id for entry in manifest.transactions}
    (failed,), (pending,) = manifest.failed, manifest.pending
    assert f"Started transaction {ids['a.pdf']} for 'a.pdf'" in lines
    assert any(
        each.startswith(f"Transaction {ids['a.pdf']} ('a.pdf'): Processed; ")
        and "of 5 transactions have ended" in each
        for each in lines
    )
    review = f"1 transaction waits for a manual review: {pending.transaction_id} ('r.pdf')"
    assert review in lines
    (last,) = [each for each in lines if each.startswith("3 documents with 3 pages of 3 tr")]
    assert f"in {case.output}; pages by skill: Invoice 3;" in last
    assert last.endswith(f"1 failed: 'x.pdf' ({failed.error}); 1 in review: 'r.pdf'")

    (table,) = [each for each in artifacts(DOCUMENTS_KEY) if str(each.flow_run_id) == runs[0]]
    rows = {row["File"]: row for row in json.loads(table.data)}
    assert rows["`x.pdf`"]["Reason"].strip("`") in str(failed.error)
    assert rows["`r.pdf`"]["Status"] == "In review"
    assert rows["`a.pdf`"]["Pages"] == 1
    assert rows["`a.pdf`"]["Results"] == "`unclassified/a.pdf`"
    assert table.description == (
        f"ABBYY Vantage: 3 documents with 3 pages of 3 transactions in `{case.output}`;"
        f" pages by skill: `Invoice` 3; 1 failed: `'x.pdf' ({failed.error})`;"
        " 1 in review: `'r.pdf'`."
    )


# ------------------------------------------------------------------ undo


def test_rollback_deletes_where_it_was_asked_for(case: Case) -> None:
    @flow
    def above(submit: Any) -> None:
        with transaction():
            submit(case.block, case.glob, "Invoice")
            raise RuntimeError("what comes next has failed")

    def left() -> int:
        return sum(not each["deleted"] for each in case.sandbox.control.transactions())

    with pytest.raises(RuntimeError, match="what comes next"):
        above(submit_documents)
    assert left() == 3
    with pytest.raises(RuntimeError, match="what comes next"):
        above(undo.undoable(submit_documents))
    assert left() == 3
    assert submit_documents.on_rollback_hooks == []


@pytest.mark.parametrize("shape", ["alone", "in a transaction"])
def test_a_result_that_cannot_be_stored_deletes_nothing(case: Case, shape: str) -> None:
    """Prefect then calls the hooks for a rollback, too, and continues."""
    storage = PREFECT_LOCAL_STORAGE_PATH.value()
    storage.mkdir()
    (storage / "file").write_text("in the way")
    submit = undo.undoable(submit_documents.with_options(result_storage_key="file/below"))
    tries: list[Any] = []

    @flow(retries=1)
    def above() -> Any:
        with transaction() if shape == "in a transaction" else contextlib.nullcontext():
            tries.append(submit(case.block, case.glob, "Invoice"))
        if len(tries) == 1:
            raise RuntimeError("what comes next has failed")

    above()
    assert tries[0] == tries[1]
    assert case.starts() == case.once_each()
    assert not any(each["deleted"] for each in case.sandbox.control.transactions())


@pytest.mark.parametrize("end", ["suspended", "terminated"])
def test_a_run_that_may_continue_is_not_undone(case: Case, end: str) -> None:
    """Prefect rolls back its transaction then, too."""
    tries: list[Any] = []

    @flow
    def above() -> None:
        with transaction():
            tries.append(undo.undoable(submit_documents)(case.block, case.glob, "Invoice"))
            if len(tries) == 1 and end == "suspended":
                suspend_flow_run(timeout=600)
            elif len(tries) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.ExitStack() as stack:
        # Prefect passes the signal on to the handler that was there before, which ends the process.
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        stack.callback(signal.signal, signal.SIGTERM, handler)
        client = stack.enter_context(get_client(sync_client=True))
        deployment = client.create_deployment(client.create_flow(above), "of-a-test")
        run = client.create_flow_run_from_deployment(deployment)
        with pytest.raises((Pause, TerminationSignal)):
            run_flow(above, flow_run=run)
        if end == "suspended":
            resume_flow_run(run.id)
        run_flow(above, flow_run=client.read_flow_run(run.id))
    assert tries[0] == tries[1]
    assert case.starts() == case.once_each()
    assert not any(each["deleted"] for each in case.sandbox.control.transactions())


def test_inputs_that_can_be_read_only_once_are_refused(case: Case) -> None:
    """A cache key reads them before the task does, and a retry after it."""
    for send in (submit_documents, process_documents):
        place = [case.output] if send is process_documents else []
        with pytest.raises(ConfigurationError, match="only once"):
            send(case.block, iter(case.files), *place, "Invoice")
    assert case.starts() == Counter()


def test_a_retry_after_a_rollback_begins_anew(case: Case) -> None:
    tries: list[Any] = []

    @flow(retries=1)
    def above() -> None:
        with transaction():
            tries.append(undo.undoable(submit_documents)(case.block, case.glob, "Invoice"))
            if len(tries) == 1:
                raise RuntimeError("what comes next has failed")
            wait_for_transactions(case.block, tries[-1], **QUICK)

    above()
    assert not set(tries[0]) & set(tries[1])


def test_cancellation_deletes_what_was_started(case: Case) -> None:
    case.sandbox.control.set(processing_polls=1000)
    runs: list[Any] = []

    @flow
    def below() -> None:
        submit_documents(case.block, case.files[0], "Invoice")

    @flow
    def above() -> None:
        runs.append(FlowRunContext.get().flow_run)
        submit_documents(case.block, case.files[1:], "Invoice")
        below()

    @flow
    def other() -> None:
        submit_documents(case.block, case.glob, "Invoice")

    above()
    other()
    assert case.starts().total() == 6
    hook = undo.delete_on_cancellation(case.block)
    hook(above, runs[0], Cancelling())
    left = [each for each in case.sandbox.control.transactions() if not each["deleted"]]
    assert len(left) == 3


def test_ids_of_what_a_cancellation_deleted_are_not_cached(case: Case) -> None:
    runs: list[Any] = []
    found: list[list[str]] = []

    @flow
    def below() -> None:
        found.append(submit_documents(case.block, case.files[0], "Invoice"))

    @flow
    def above() -> None:
        runs.append(FlowRunContext.get().flow_run)
        found.append(submit_documents(case.block, case.files[1:], "Invoice"))
        below()
        if len(runs) < 3:
            raise RuntimeError("somebody cancels it")

    for number in range(3):
        with contextlib.suppress(RuntimeError), get_client(sync_client=True) as client:
            if number == 0:
                above()
            else:
                run_flow(above, flow_run=client.read_flow_run(runs[0].id))
        if number == 1:
            undo.delete_on_cancellation(case.block)(above, runs[-1], Cancelling())
    assert found[:2] == found[2:4], "without a cancellation they are cached"
    assert not {*found[0], *found[1]} & {*found[4], *found[5]}


@pytest.mark.parametrize("shape", ["cancelled", "rolled back"])
def test_what_landed_before_a_run_was_undone_is_not_sent_again(case: Case, shape: str) -> None:
    runs: list[Any] = []
    process = undo.undoable(process_documents)
    given = (case.block, case.glob, case.output, "Invoice")

    @flow
    def cancelled() -> Any:
        runs.append(FlowRunContext.get().flow_run)
        result = process_documents(*given, **QUICK)
        if len(runs) == 1:
            raise RuntimeError("somebody cancels it")
        return result

    @flow
    def rolled_back() -> Any:
        runs.append(FlowRunContext.get().flow_run)
        with transaction():
            result = process(*given, **QUICK)
            if len(runs) == 1:
                raise RuntimeError("what comes next has failed")
        return result

    above = cancelled if shape == "cancelled" else rolled_back
    with pytest.raises(RuntimeError):
        above()
    if shape == "cancelled":
        undo.delete_on_cancellation(case.block)(above, runs[0], Cancelling())
    assert all(each["deleted"] for each in case.sandbox.control.transactions())
    new = case.add("new.pdf")
    with get_client(sync_client=True) as client:
        result = run_flow(above, flow_run=client.read_flow_run(runs[0].id))
    assert result["documents"] == len(Manifest.open(result["manifest"]).transactions) == 4
    # The deleted ones are gone.
    assert case.starts() == Counter([hashlib.sha256(new.read_bytes()).hexdigest()])
