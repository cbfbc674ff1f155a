# SPDX-License-Identifier: Apache-2.0
"""Prefect tasks: documents in, results out, and the steps of that one by one.

All of them try again by themselves after errors that can pass, and after no others. Where a task
sends documents, a later try of it goes on with the transactions that it has started, also if its
process was killed or its flow run was retried: see :mod:`.ledger`. So none of them pays twice.

``credentials`` is always a credentials block or the name of a saved one. Prefect's own result cache
gets neither: a name does, and nothing else, where a task is cached at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger

from vantage_orchestration.prefect.caching import OncePerRun
from vantage_orchestration.prefect.credentials import VantageCredentials, load_credentials
from vantage_orchestration.prefect.job import Asker, Started, Telling
from vantage_orchestration.prefect.retries import RETRIES
from vantage_orchestration.processing.outcome import (
    REVIEW_TIMEOUT,
    TIMEOUT,
    Outcome,
    check_outcome,
    check_rules,
    ids_of,
    result_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vantage_orchestration.client import VantageClient

__all__ = [
    "delete_transaction",
    "download_results",
    "list_skills",
    "process_document",
    "process_documents",
    "submit_documents",
    "wait_for_transaction",
]

Credentials = VantageCredentials | str
OnReview = Literal["wait", "return", "fail"]

PARALLEL: Final = 8


@task(**RETRIES, cache_policy=NO_CACHE)
def process_documents(
    credentials: Credentials,
    inputs: Any,
    output_path: Any,
    skill: str,
    *,
    result_types: Sequence[str] | None = None,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
    duplicates: Literal["skip", "send", "fail"] = "skip",
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: OnReview = "wait",
    fail_on_rule_errors: bool = False,
    delete_after: bool = False,
    poke_interval: float = 10.0,
    max_poke_interval: float = 60.0,
    parallel: int = PARALLEL,
) -> dict[str, Any]:
    """Process documents: files in, a folder with results and a manifest out.

    Args:
        credentials: The credentials block, or the name of a saved one.
        inputs: Path, glob or URL of any store that fsspec knows, or several; or a
            :class:`vantage_orchestration.processing.files.Folder`. A Process skill gets up to 1000
            files in a transaction; all others get one transaction for each file.
        output_path: Folder for the results, a path or URL. It belongs to this task alone: give
            mapped tasks a folder each.
        skill: Id or exact name of the skill.
        result_types: Types of result files to fetch, such as ``["FieldsJson"]``; all by default.
        registration_parameters: Up to 9, for each transaction. They are part of what makes a try
            find its transactions, so they must not change from try to try.
        skill_parameters: Up to 10.
        duplicates: ``skip`` sends one of several files with the same content, ``send`` all of them,
            ``fail`` refuses them.
        timeout: Seconds that the service may take.
        review_timeout: Seconds that people may take, from when the first of them is needed.
        on_review: What to do when a person is needed: ``wait`` for up to ``review_timeout``,
            ``return`` without those documents, or ``fail``. Another try goes on in each case.
        fail_on_rule_errors: Fail if a document breaks a business rule of its skill. The results are
            there nevertheless.
        delete_after: Delete the transactions in ABBYY Vantage when all of their results have
            landed. They are deleted after 14 days anyway.
        poke_interval: Seconds between two looks at the beginning; they grow.
        max_poke_interval: Seconds between two looks at the most.
        parallel: Requests at the same time.

    Returns:
        ``manifest`` (its URL) and numbers: ``transactions``, ``documents``, ``files``, ``pages``,
        ``rule_errors``, ``duplicates``, ``in_review``, ``pending``, ``failed``.

    Raises:
        ConfigurationError: An input or argument is not acceptable. Nothing was sent.
        TransactionFailed: Documents could not be processed; the others' results have landed. They
            are sent anew if somebody retries the flow run, but not by ``retries`` of the flow.
        ReviewNeeded: A person is needed, and ``on_review`` is ``fail``.
        WaitTimeout: A limit was reached. A retry goes on.
    """
    from vantage_orchestration.processing.job import JobSettings, begin, finish
    from vantage_orchestration.processing.waiting import wait_for_outcome
    from vantage_orchestration.storage import Location
    from vantage_orchestration.watching import Pace

    pace = Pace.between(poke_interval, max_poke_interval)
    output = Location.of(output_path)
    with _client(credentials) as client:
        skill_id = _skill_id(client, skill)
        asker = Asker.of_run(
            client,
            inputs,
            skill_id,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
            output=output,
        )
        settings = JobSettings(
            skill_id,
            result_types=result_types,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
            duplicates=duplicates,
            delete_after=delete_after,
            parallel=parallel,
            origin=asker.origin,
        )
        token = asker.token(output)
        job = begin(
            client,
            asker.files(inputs),
            output,
            asker.key,
            settings,
            token=token,
            ledger=asker.ledger,
            resend_failed=asker.resend_failed,
        )
        if not job.parts:
            _logger().warning("There are no documents to process")
        ids = job.transaction_ids
        Started(credentials, asker.ledger, tuple(ids)).note()
        telling = Telling(client, skill_id, _logger().info, ids, again=asker.key.since is not None)
        telling.started(ids)
        outcome = wait_for_outcome(
            client,
            ids,
            timeout=timeout,
            review_timeout=review_timeout,
            on_review=on_review,
            pace=pace,
            skill_id=skill_id,
            on_change=telling.changed,
            on_needed=telling.needs_person,
        )
        # Without the ledger, so that what has failed stays noted until somebody asks for it.
        manifest = finish(
            client,
            output,
            settings,
            token=token,
            in_review=outcome.in_review,
            processed=outcome.processed,
        )
        telling.finished(manifest)
    check_outcome(Outcome.of(manifest, outcome.timed_out), on_review=on_review)
    result = result_of(manifest, output)
    if fail_on_rule_errors:
        check_rules(manifest, result["manifest"])
    return result


def _run_name(parameters: dict[str, Any]) -> str:
    """Name a run by its file, without folder and query, which may hold what is not to be seen."""
    name = str(parameters.get("document", "")).partition("?")[0]
    return f"process {os.path.basename(name) or 'document'}"


@task(**RETRIES, cache_policy=NO_CACHE, task_run_name=_run_name)  # type: ignore[arg-type]
def process_document(
    credentials: Credentials,
    document: Any,
    skill: str,
    *,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: Literal["wait", "fail"] = "wait",
    poke_interval: float = 2.0,
    max_poke_interval: float = 30.0,
) -> list[dict[str, Any]]:
    """Process one file, and return the fields of each document in it. Made to be mapped.

    Args:
        credentials: The credentials block (put ``unmapped`` around it), or the name of a saved one.
        document: Path or URL of the file.
        skill: Id or exact name of the skill.
        registration_parameters: As for :func:`process_documents`, as all that follows.
        skill_parameters: Up to 10.
        timeout: Seconds that the service may take.
        review_timeout: Seconds that people may take.
        on_review: ``wait`` for a person's review, or ``fail``.
        poke_interval: Seconds between two looks at the beginning; they grow.
        max_poke_interval: Seconds between two looks at the most.

    Returns:
        One plain dictionary for each document: ``file``, ``sha256``, ``transaction_id``,
        ``document_id``, ``class``, ``fields``, ``business_rule_errors``.

    Raises:
        VantageError: As :func:`process_documents`.
    """
    from vantage_orchestration.processing.document import document_result, submit_one
    from vantage_orchestration.processing.waiting import wait_for_outcome
    from vantage_orchestration.watching import Pace

    pace = Pace.between(poke_interval, max_poke_interval)
    with _client(credentials) as client:
        skill_id = _skill_id(client, skill)
        asker = Asker.of_run(
            client,
            document,
            skill_id,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
        )
        submitted = submit_one(
            client,
            document,
            skill_id,
            asker.key,
            ledger=asker.ledger,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
            resend_failed=asker.resend_failed,
        )
        ids = [submitted.transaction_id]
        Started(credentials, asker.ledger, tuple(ids)).note()
        telling = Telling(client, skill_id, _logger().info, again=asker.key.since is not None)
        telling.started(ids, new=not submitted.resumed)
        outcome = wait_for_outcome(
            client,
            ids,
            timeout=timeout,
            review_timeout=review_timeout,
            on_review=on_review,
            pace=pace,
            skill_id=skill_id,
            on_change=telling.changed,
            on_needed=telling.needs_person,
        )
        telling.ended(outcome)
        check_outcome(outcome, on_review=on_review, client=client)
        transaction = outcome.processed.get(ids[0]) or client.get_transaction(ids[0])
        return document_result(client, document, submitted, transaction).rows()


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun(contents="inputs"))
def submit_documents(
    credentials: Credentials,
    inputs: Any,
    skill: str,
    *,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
    duplicates: Literal["skip", "send", "fail"] = "skip",
    parallel: int = PARALLEL,
) -> list[str]:
    """Start transactions, and do not wait for them: see :func:`wait_for_transaction`.

    Once it has ended, a retried flow run takes its result from Prefect's cache, as long as the
    files hold the same: also if a transaction has failed since. To send such ones anew use
    ``submit_documents.with_options(refresh_cache=True)``, which goes on with all others.

    Args:
        credentials: The credentials block, or the name of a saved one.
        inputs: As for :func:`process_documents`, as all that follows.
        skill: Id or exact name of the skill.
        registration_parameters: Up to 9.
        skill_parameters: Up to 10.
        duplicates: ``skip``, ``send`` or ``fail``.
        parallel: Requests at the same time.

    Returns:
        The ids of the transactions, in the order of the inputs.

    Raises:
        ConfigurationError: An input or argument is not acceptable. Nothing was sent.
        VantageError: A request failed. What was started is noted, and found by the next try.
    """
    from vantage_orchestration.processing.job import JobSettings, submit_files

    with _client(credentials) as client:
        skill_id = _skill_id(client, skill)
        asker = Asker.of_run(
            client,
            inputs,
            skill_id,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
            numbered=True,
        )
        settings = JobSettings(
            skill_id,
            registration_parameters=registration_parameters,
            skill_parameters=skill_parameters,
            duplicates=duplicates,
            parallel=parallel,
            origin=asker.origin,
        )
        submitted = submit_files(
            client,
            asker.files(inputs),
            asker.key,
            settings,
            ledger=asker.ledger,
            resend_failed=asker.resend_failed,
        )
        ids = [each.transaction_id for each in submitted]
        Started(credentials, asker.ledger, tuple(ids)).note()
        Telling(client, skill_id, _logger().info).started(ids)
    return ids


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun(unless={"on_review": "return"}))
def wait_for_transaction(
    credentials: Credentials,
    transaction_ids: Any,
    *,
    skill_id: str | None = None,
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: OnReview = "wait",
    poke_interval: float = 10.0,
    max_poke_interval: float = 60.0,
) -> dict[str, str]:
    """Wait until transactions have been processed.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: One or several, such as :func:`submit_documents` returns.
        skill_id: Id of the skill of all of them, if known: looking takes fewer requests.
        timeout: As for :func:`process_documents`, as all that follows.
        review_timeout: Seconds that people may take.
        on_review: ``wait``, ``return`` or ``fail``.
        poke_interval: Seconds between two looks at the beginning; they grow.
        max_poke_interval: Seconds between two looks at the most.

    Returns:
        Transaction id to status: ``Processed``, or ``Processing`` with ``on_review="return"``.

    Raises:
        TransactionFailed: One or more ended as Failed, or were deleted.
        TransactionCanceled: One or more were cancelled.
        ReviewNeeded: A person is needed, and ``on_review`` is ``fail``.
        WaitTimeout: A limit was reached. A retry goes on.
    """
    from vantage_orchestration.processing.waiting import wait_for_outcome
    from vantage_orchestration.watching import Pace

    pace = Pace.between(poke_interval, max_poke_interval)
    ids = ids_of(transaction_ids)
    with _client(credentials) as client:
        telling = Telling(client, skill_id, _logger().info, ids)
        outcome = wait_for_outcome(
            client,
            ids,
            timeout=timeout,
            review_timeout=review_timeout,
            on_review=on_review,
            pace=pace,
            skill_id=skill_id,
            on_change=telling.changed,
            on_needed=telling.needs_person,
        )
        telling.ended(outcome, processed=False)
        check_outcome(outcome, on_review=on_review, client=client)
    return dict(outcome.statuses)


@task(**RETRIES, persist_result=True, cache_policy=OncePerRun())
def download_results(
    credentials: Credentials,
    transaction_ids: Any,
    output_path: Any,
    *,
    result_types: Sequence[str] | None = None,
    fail_on_rule_errors: bool = False,
    delete_after: bool = False,
    parallel: int = PARALLEL,
) -> dict[str, Any]:
    """Bring the results of processed transactions into a folder.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: One or several, such as :func:`submit_documents` returns.
        output_path: Folder for the results, a path or URL. Each transaction gets a folder in it,
            named by its id; ``manifest.json`` tells what is where.
        result_types: As for :func:`process_documents`, as all that follows.
        fail_on_rule_errors: Fail if a document breaks a business rule.
        delete_after: Delete the transactions when all of their results have landed.
        parallel: Requests at the same time.

    Returns:
        What :func:`process_documents` returns.

    Raises:
        TransactionFailed: One of them failed; the others' results have landed.
        WaitTimeout: One has not ended yet. Call :func:`wait_for_transaction` before.
    """
    from vantage_orchestration.processing.job import download
    from vantage_orchestration.storage import Location

    ids, output = ids_of(transaction_ids), Location.of(output_path)
    with _client(credentials) as client:
        manifest = download(
            client,
            ids,
            output,
            result_types=result_types,
            delete_after=delete_after,
            parallel=parallel,
        )
        Telling(client, None, _logger().info).finished(manifest)
    check_outcome(Outcome.of(manifest), on_review="fail")
    result = result_of(manifest, output)
    if fail_on_rule_errors:
        check_rules(manifest, result["manifest"])
    return result


@task(**RETRIES, cache_policy=NO_CACHE)
def list_skills(credentials: Credentials) -> list[dict[str, str | None]]:
    """Return the published skills that the caller may use.

    Args:
        credentials: The credentials block, or the name of a saved one.

    Returns:
        ``id``, ``name`` and ``type`` of each.
    """
    with _client(credentials) as client:
        return [
            {"id": each.id, "name": each.name, "type": each.type} for each in client.list_skills()
        ]


@task(**RETRIES, cache_policy=NO_CACHE)
def delete_transaction(credentials: Credentials, transaction_ids: Any) -> int:
    """Delete transactions in ABBYY Vantage, with their files and results.

    It is carried out by the service within minutes. Pages that were charged stay charged.

    Args:
        credentials: The credentials block, or the name of a saved one.
        transaction_ids: One or several, such as :func:`submit_documents` returns.

    Returns:
        The number of transactions. One that is gone already counts as deleted.

    Raises:
        VantageError: One could not be deleted; as many of the others as possible were.
    """
    from vantage_orchestration.processing.deleting import delete_transactions

    ids = ids_of(transaction_ids)
    with _client(credentials) as client:
        for error in delete_transactions(client, ids).values():
            raise error
    return len(ids)


@contextmanager
def _client(credentials: Credentials) -> Iterator[VantageClient]:
    with load_credentials(credentials).get_client() as client:
        yield client


def _skill_id(client: VantageClient, skill: str) -> str:
    from vantage_orchestration.processing.skills import skill_id_of

    return skill_id_of(client, skill)


def _logger() -> Any:
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(__name__)
