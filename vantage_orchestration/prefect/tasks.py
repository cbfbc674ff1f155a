# SPDX-License-Identifier: Apache-2.0
"""Prefect tasks: documents in, results out, and the single steps of that.

All of them retry after temporary errors, and only then. A retry of a task that sends documents
continues with the transactions that the task has started, even if its process was killed or its
flow run was retried: see :mod:`.ledger`. So nothing is paid twice.

``credentials`` is always a credentials block or the name of a saved one. Prefect's result cache
receives at most the name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from vantage_orchestration import arguments
from vantage_orchestration.options import (
    Collecting,
    Document,
    Options,
    Processing,
    Sending,
    Waiting,
    one_of,
    takes,
)
from vantage_orchestration.prefect.caching import OncePerRun
from vantage_orchestration.prefect.context import run_logger
from vantage_orchestration.prefect.credentials import VantageCredentials, client_of
from vantage_orchestration.prefect.job import Caller, Reporter
from vantage_orchestration.prefect.retries import RETRIES
from vantage_orchestration.prefect.undo import note_for_rollback
from vantage_orchestration.processing import deleting
from vantage_orchestration.processing.files import check_output
from vantage_orchestration.processing.ledger import Ledger
from vantage_orchestration.processing.outcome import check_outcome, final_result
from vantage_orchestration.processing.routing import output_of
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.summary import summary_of_start
from vantage_orchestration.text import counted
from vantage_orchestration.waiting.rules import WaitRules

if TYPE_CHECKING:
    from typing_extensions import Unpack

Credentials = VantageCredentials | str


@task(**RETRIES, cache_policy=NO_CACHE)
@takes(Processing)
def process_documents(
    credentials: Credentials,
    inputs: Any,
    output_path: Any,
    skill: str,
    **options: Unpack[Processing],
) -> dict[str, Any]:
    """Process documents: files in, a folder with results and a manifest out.

    Args:
        credentials: The credentials block, or the name of a saved one.
        inputs: Path, glob or URL of any store that fsspec supports, or several; or a
            :class:`vantage_orchestration.processing.files.Folder`. A Process skill gets up to 1000
            files in a transaction; other skills get one transaction per file.
        output_path: Folder for the results, a path or URL. It belongs to this task alone: give each
            mapped task its own folder. ``{class}`` at its end gives each class of documents a
            folder of its own.
        skill: Id or exact name of the skill.

    Returns:
        ``manifest`` (its URL) and numbers: ``transactions``, ``documents``, ``files``, ``pages``,
        ``rule_errors``, ``duplicates``, ``in_review``, ``pending``, ``failed``.

    Raises:
        ConfigurationError: An input or argument is invalid. Nothing was sent.
        TransactionFailed: Documents could not be processed; the results of the others have landed.
            Failed documents are sent again if somebody retries the flow run, but not by ``retries``
            of the flow.
        ReviewNeeded: A person is needed, and ``on_review`` is ``fail``.
        WaitTimeout: A limit was reached. A retry continues.
    """
    from vantage_orchestration.processing.job import begin, fetch_ahead, finish

    chosen, output = Options.of(**options), output_of(output_path)
    folder = output.folder
    check_output(folder)
    with client_of(credentials) as client:
        caller = Caller.of_run(client, inputs, skill, chosen, output=folder)
        token, work = caller.token(folder), caller.work
        files = caller.files(inputs, chosen.on_empty, folder)
        job = begin(work, files, folder, token=token)
        if not job.parts:
            run_logger().warning("There are no documents to process")
        ids = job.transaction_ids
        note_for_rollback(credentials, work.ledger, ids)
        reporter = Reporter(client, work.skill_id, run_logger().info, ids, again=caller.again)
        with reporter.behind():
            reporter.started(job.parts, shown=True)
            ahead = fetch_ahead(client, output, chosen, token=token)
            outcome = reporter.wait(ids, WaitRules.of(chosen), ahead)
            # Without the ledger, so that failures stay noted until somebody retries.
            manifest = finish(
                replace(work, ledger=Ledger()),
                output,
                token=token,
                outcome=outcome,
                on_landed=reporter.landed,
            )
            reporter.finished(manifest, folder)
    return final_result(
        manifest, folder, chosen, on_review=chosen.on_review, timed_out=outcome.timed_out
    )


def _run_name(parameters: dict[str, Any]) -> str:
    """Name a run by its file, without folder and query, which may be confidential."""
    name = str(parameters.get("document", "")).partition("?")[0]
    return f"process {os.path.basename(name) or 'document'}"


@task(**RETRIES, cache_policy=NO_CACHE, task_run_name=_run_name)  # type: ignore[arg-type]
@takes(Document, poke_interval=2.0, max_poke_interval=30.0)
def process_document(
    credentials: Credentials,
    document: Any,
    skill: str,
    *,
    on_review: Literal["wait", "fail"] = "wait",
    **options: Unpack[Document],
) -> list[dict[str, Any]]:
    """Process one file and return the fields of each document in it. It can be mapped.

    Args:
        credentials: The credentials block (wrapped in ``unmapped``), or the name of a saved one.
        document: Path or URL of the file.
        skill: Id or exact name of the skill.
        on_review: ``wait`` for a person's review, or ``fail``.

    Returns:
        One plain dictionary for each document: ``file``, ``sha256``, ``transaction_id``,
        ``document_id``, ``class``, ``fields``, ``rule_errors``.

    Raises:
        VantageError: As :func:`process_documents`.
    """
    from vantage_orchestration.processing.document import document_result, submit_one

    one_of("on_review", on_review, ("wait", "fail"))
    chosen = Options.of(on_review=on_review, **options)
    document = arguments.place("document", document)
    with client_of(credentials) as client:
        caller = Caller.of_run(client, document, skill, chosen)
        submitted = submit_one(caller.work, document)
        ids = [submitted.transaction_id]
        note_for_rollback(credentials, caller.work.ledger, ids)
        reporter = Reporter(client, caller.work.skill_id, run_logger().info, again=caller.again)
        reporter.started([submitted])
        outcome = reporter.wait(ids, WaitRules.of(chosen))
        reporter.ended(outcome)
        check_outcome(outcome, on_review=chosen.on_review, client=client)
        transaction = outcome.processed.get(ids[0]) or client.get_transaction(ids[0])
        rows = document_result(client, document, submitted, transaction).rows()
    number = counted(len(rows), "document", "documents")
    run_logger().info("%s with fields of transaction %s", number, submitted.transaction_id)
    return rows


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun(contents="inputs"))
@takes(Sending)
def submit_documents(
    credentials: Credentials, inputs: Any, skill: str, **options: Unpack[Sending]
) -> list[str]:
    """Start transactions without waiting for them: see :func:`wait_for_transactions`.

    After it has ended, a retried flow run takes its result from Prefect's cache if the files are
    unchanged, even if a transaction has failed since. To send failed documents again use
    ``submit_documents.with_options(refresh_cache=True)``, which continues with all others.

    Args:
        credentials: The credentials block, or the name of a saved one.
        inputs: As for :func:`process_documents`, like all following arguments.
        skill: Id or exact name of the skill.

    Returns:
        The ids of the transactions, in the order of the inputs.

    Raises:
        ConfigurationError: An input or argument is invalid. Nothing was sent.
        VantageError: A request failed. Started transactions are recorded, and the next try finds
            them.
    """
    from vantage_orchestration.processing.job import submit_files

    chosen = Options.of(**options)
    with client_of(credentials) as client:
        caller = Caller.of_run(client, inputs, skill, chosen, numbered=True)
        files = caller.files(inputs, chosen.on_empty)
        submitted = submit_files(caller.work, files)
        ids = [part.transaction_id for part in submitted]
        note_for_rollback(credentials, caller.work.ledger, ids)
        Reporter(client, caller.work.skill_id, run_logger().info).started(submitted)
        run_logger().info(summary_of_start(submitted))
    return ids


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun(unless={"on_review": "return"}))
@takes(Waiting)
def wait_for_transactions(
    credentials: Credentials,
    transaction_ids: Any,
    *,
    skill: str | None = None,
    **options: Unpack[Waiting],
) -> dict[str, str]:
    """Wait until transactions have been processed.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: One or several, such as :func:`submit_documents` returns.
        skill: Id or exact name of the skill of all transactions, if known: polling then takes fewer
            requests.

    Returns:
        Transaction id to status: ``Processed``, or ``Processing`` with ``on_review="return"``.

    Raises:
        TransactionFailed: One or more ended as Failed, or were deleted.
        TransactionCanceled: One or more were cancelled.
        ReviewNeeded: A person is needed, and ``on_review`` is ``fail``.
        WaitTimeout: A limit was reached. A retry continues.
    """
    chosen, ids = Options.of(**options), arguments.transaction_ids(transaction_ids)
    if not ids:
        run_logger().warning("There are no transactions to wait for")
        return {}
    with client_of(credentials) as client:
        skill_id = None if skill is None else skill_id_of(client, skill)
        reporter = Reporter(client, skill_id, run_logger().info, ids)
        outcome = reporter.wait(ids, WaitRules.of(chosen))
        reporter.ended(outcome, processed=False)
        check_outcome(outcome, on_review=chosen.on_review, client=client)
    return {each: status.value for each, status in outcome.statuses.items()}


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun())
@takes(Collecting)
def download_results(
    credentials: Credentials,
    transaction_ids: Any,
    output_path: Any,
    **options: Unpack[Collecting],
) -> dict[str, Any]:
    """Download the results of processed transactions into a folder.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: One or several, such as :func:`submit_documents` or
            :func:`wait_for_transactions` returns.
        output_path: Folder for the results, a path or URL. Each transaction gets a subfolder named
            by its id; ``manifest.json`` lists the files.

    Returns:
        The same as :func:`process_documents`.

    Raises:
        TransactionFailed: One of them failed; the results of the others have landed.
        WaitTimeout: One has not ended yet. Call :func:`wait_for_transactions` first.
    """
    from vantage_orchestration.processing.job import download

    chosen, ids = Options.of(**options), arguments.transaction_ids(transaction_ids)
    output = output_of(output_path)
    if not ids:
        run_logger().warning("There are no transactions to fetch results from")
    with client_of(credentials) as client:
        manifest = download(client, ids, output, chosen)
        Reporter(client, None, run_logger().info).finished(manifest, output.folder)
    return final_result(manifest, output.folder, chosen)


@task(**RETRIES, cache_policy=NO_CACHE)
def list_skills(credentials: Credentials) -> list[dict[str, str | None]]:
    """Return the published skills that the caller may use.

    Args:
        credentials: The credentials block, or the name of a saved one.

    Returns:
        ``id``, ``name`` and ``type`` of each.
    """
    with client_of(credentials) as client:
        return [
            {"id": each.id, "name": each.name, "type": each.type} for each in client.list_skills()
        ]


@task(**RETRIES, cache_policy=NO_CACHE)
def delete_transactions(credentials: Credentials, transaction_ids: Any) -> int:
    """Delete transactions in ABBYY Vantage, with their files and results.

    The service deletes them within minutes. Charged pages stay charged.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: As for :func:`download_results`.

    Returns:
        The number of transactions. A missing one counts as deleted.

    Raises:
        VantageError: Some were not deleted; the error names them. All others were.
    """
    ids = arguments.transaction_ids(transaction_ids)
    if ids:
        with client_of(credentials) as client:
            deleting.check_deleted(deleting.delete_transactions(client, ids), len(ids))
        run_logger().info("Deleted %d transactions", len(ids))
    return len(ids)
