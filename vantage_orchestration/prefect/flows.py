# SPDX-License-Identifier: Apache-2.0
"""Prefect flows, ready to be deployed: files in, a folder with results and a manifest out.

Their arguments are plain data: Prefect stores them with the run, so the credentials block is given
by its name. A run that is retried, by Prefect or by hand, goes on with the transactions it has.
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from vantage_orchestration.prefect import tasks
from vantage_orchestration.prefect.assets import materializing
from vantage_orchestration.prefect.reviews import check_can_suspend, suspend_for_review
from vantage_orchestration.processing.files import Folder
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.processing.outcome import REVIEW_TIMEOUT, TIMEOUT
from vantage_orchestration.storage import Location

__all__ = ["process_documents", "process_folder"]

OnReview = Literal["wait", "return", "suspend", "fail"]


@flow(name="abbyy-vantage-process-documents")
def process_documents(
    inputs: str | list[str],
    output_path: str,
    skill: str,
    credentials: str = "abbyy-vantage",
    result_types: list[str] | None = None,
    registration_parameters: dict[str, str] | None = None,
    skill_parameters: dict[str, str] | None = None,
    duplicates: Literal["skip", "send", "fail"] = "skip",
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: OnReview = "wait",
    fail_on_rule_errors: bool = False,
    delete_after: bool = False,
    poke_interval: float = 10.0,
    max_poke_interval: float = 60.0,
    parallel: int = tasks.PARALLEL,
) -> dict[str, Any]:
    """Process documents with ABBYY Vantage: files in, a folder with results and a manifest out.

    Args:
        inputs: Path, glob or URL of any store that fsspec knows, or several.
        output_path: Folder for the results, a path or URL. It belongs to this run alone.
        skill: Id or exact name of the skill.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        result_types: Types of result files to fetch, such as FieldsJson; all by default.
        registration_parameters: Up to 9, for each transaction. The same in each try of the run.
        skill_parameters: Up to 10.
        duplicates: What to do with files of equal content: skip, send or fail.
        timeout: Seconds that ABBYY Vantage may take.
        review_timeout: Seconds that people may take, from when the first of them is needed.
        on_review: What to do when a person is needed. wait: wait. return: return without those
            documents. suspend: give the worker back, once all else has landed, until the reviews
            are over; needs a deployment, and the flow resume_reviewed on a schedule. fail: fail.
        fail_on_rule_errors: Fail if a document breaks a business rule. The results are there.
        delete_after: Delete the transactions when all of their results have landed.
        poke_interval: Seconds between two looks at the beginning; they grow.
        max_poke_interval: Seconds between two looks at the most.
        parallel: Requests at the same time.

    Returns:
        manifest (its URL) and numbers: transactions, documents, files, pages, rule_errors,
        duplicates, in_review, pending, failed.

    Raises:
        VantageError: See :func:`vantage_orchestration.prefect.tasks.process_documents`.
    """
    return _process(
        inputs,
        output_path,
        skill,
        credentials,
        on_review,
        result_types=result_types,
        registration_parameters=registration_parameters,
        skill_parameters=skill_parameters,
        duplicates=duplicates,
        timeout=timeout,
        review_timeout=review_timeout,
        fail_on_rule_errors=fail_on_rule_errors,
        delete_after=delete_after,
        poke_interval=poke_interval,
        max_poke_interval=max_poke_interval,
        parallel=parallel,
    )


@flow(name="abbyy-vantage-process-folder")
def process_folder(
    folder: str,
    output_path: str,
    skill: str,
    credentials: str = "abbyy-vantage",
    pattern: str = "*.pdf",
    result_types: list[str] | None = None,
    registration_parameters: dict[str, str] | None = None,
    skill_parameters: dict[str, str] | None = None,
    duplicates: Literal["skip", "send", "fail"] = "skip",
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: OnReview = "wait",
    fail_on_rule_errors: bool = False,
    delete_after: bool = False,
    poke_interval: float = 10.0,
    max_poke_interval: float = 60.0,
    parallel: int = tasks.PARALLEL,
) -> dict[str, Any]:
    """Process a folder of documents with ABBYY Vantage. An empty one is no error.

    Args:
        folder: Folder with the documents, a path or URL. Its name may hold any signs.
        output_path: Folder for the results.
        skill: Id or exact name of the skill.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        pattern: Which files of the folder to take; ** stands for any number of folders.
        result_types: As for process_documents, as all that follows.
        registration_parameters: Up to 9.
        skill_parameters: Up to 10.
        duplicates: skip, send or fail.
        timeout: Seconds that ABBYY Vantage may take.
        review_timeout: Seconds that people may take.
        on_review: wait, return, suspend or fail.
        fail_on_rule_errors: Fail if a document breaks a business rule.
        delete_after: Delete the transactions when their results have landed.
        poke_interval: Seconds between two looks at the beginning.
        max_poke_interval: Seconds between two looks at the most.
        parallel: Requests at the same time.

    Returns:
        What process_documents returns.

    Raises:
        VantageError: See :func:`vantage_orchestration.prefect.tasks.process_documents`.
    """
    return _process(
        Folder(folder, pattern),
        output_path,
        skill,
        credentials,
        on_review,
        result_types=result_types,
        registration_parameters=registration_parameters,
        skill_parameters=skill_parameters,
        duplicates=duplicates,
        timeout=timeout,
        review_timeout=review_timeout,
        fail_on_rule_errors=fail_on_rule_errors,
        delete_after=delete_after,
        poke_interval=poke_interval,
        max_poke_interval=max_poke_interval,
        parallel=parallel,
    )


def _process(
    inputs: Any,
    output_path: str,
    skill: str,
    credentials: str,
    on_review: OnReview,
    **options: Any,
) -> dict[str, Any]:
    suspends = on_review == "suspend"
    if suspends:
        check_can_suspend(credentials)
    options["on_review"] = "return" if suspends else on_review
    process = materializing(tasks.process_documents, output_path, inputs)
    result: dict[str, Any] = process(credentials, inputs, output_path, skill, **options)
    if suspends and result["in_review"]:
        manifest = Manifest.load(Location.of(output_path))
        pending = manifest.pending if manifest is not None else ()
        ids = [each.transaction_id for each in pending if each.in_review]
        # It does not return: the resumed run begins at its first line, and finds what it has.
        suspend_for_review(ids, block=credentials, timeout=options["review_timeout"])
    return result
