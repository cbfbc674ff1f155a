# SPDX-License-Identifier: Apache-2.0
"""Prefect flows, ready to deploy: files in, a folder with results and a manifest out.

Their arguments are plain data, which Prefect stores with the run. A path object counts as its text,
and a saved block as its name. A run that is retried, by Prefect or by hand, continues with its
transactions.

Anyone who may run a deployment chooses these arguments. The environment of the worker limits which
blocks and folders they can name; see :mod:`vantage_orchestration.prefect.reach`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from prefect import flow

from vantage_orchestration.options import Flow, OnReview, Options, one_of, takes
from vantage_orchestration.prefect import tasks
from vantage_orchestration.prefect.assets import materializing
from vantage_orchestration.prefect.forms import Text, Texts, form
from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.prefect.reviews import check_can_suspend, suspend_for_review
from vantage_orchestration.processing.files import Folder
from vantage_orchestration.processing.manifest import Manifest

if TYPE_CHECKING:
    from typing_extensions import Unpack

InFlows = Literal["wait", "return", "suspend", "fail"]


@flow(name="abbyy-vantage-process-documents")
@takes(Flow, form=form)
def process_documents(
    inputs: Texts,
    output_path: Text,
    skill: str,
    credentials: Text = "abbyy-vantage",
    on_review: InFlows = "wait",
    **options: Unpack[Flow],
) -> dict[str, Any]:
    """Process documents with ABBYY Vantage: files in, a folder with results and a manifest out.

    Args:
        inputs: Path, glob or URL of any store that fsspec supports, or several.
        output_path: Folder for the results, a path or URL. It belongs to this run alone. {class}
            at its end gives each class of documents a folder of its own.
        skill: Id or exact name of the skill.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        on_review: What to do when a person is needed. wait: wait. return: return without those
            documents. suspend: release the worker, once all else has landed, until the reviews are
            over; this needs a deployment, and the flow resume_reviewed on a schedule. fail: fail.

    Returns:
        manifest (its URL) and numbers: transactions, documents, files, pages, rule_errors,
        duplicates, in_review, pending, failed.

    Raises:
        VantageError: See :func:`vantage_orchestration.prefect.tasks.process_documents`.
    """
    return _process(inputs, output_path, skill, credentials, on_review, **options)


@flow(name="abbyy-vantage-process-folder")
@takes(Flow, form=form, on_empty="skip")
def process_folder(
    folder: Text,
    output_path: Text,
    skill: str,
    credentials: Text = "abbyy-vantage",
    pattern: str = "*.pdf",
    on_review: InFlows = "wait",
    **options: Unpack[Flow],
) -> dict[str, Any]:
    """Process a folder of documents with ABBYY Vantage. By default an empty folder is not an error.

    Args:
        folder: Folder with the documents, a path or URL. Its name may contain any characters.
        output_path: Folder for the results.
        skill: Id or exact name of the skill.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        pattern: Which files of the folder to process; ** stands for any number of folders.
        on_review: wait, return, suspend or fail, as for process_documents.

    Returns:
        The result of process_documents.

    Raises:
        VantageError: See :func:`vantage_orchestration.prefect.tasks.process_documents`.
    """
    inputs = Folder(folder, pattern)
    return _process(inputs, output_path, skill, credentials, on_review, **options)


def _process(
    inputs: Any,
    output_path: str,
    skill: str,
    credentials: str,
    on_review: InFlows,
    **options: Unpack[Flow],
) -> dict[str, Any]:
    one_of("on_review", on_review, get_args(InFlows))
    outputs = [output_path, options.get("quarantine_path")]
    Reach.from_env().check(credentials, inputs, outputs)
    if on_review == "suspend":
        check_can_suspend(credentials)
    process = materializing(tasks.process_documents, output_path, inputs)
    in_task: OnReview = "return" if on_review == "suspend" else on_review
    result = process(credentials, inputs, output_path, skill, on_review=in_task, **options)
    if on_review == "suspend" and result["in_review"]:
        pending = Manifest.open(result["manifest"]).pending
        ids = [each.transaction_id for each in pending if each.in_review]
        # This does not return: the resumed run begins at its first line and finds its transactions.
        limit = Options.of(**options).review_timeout
        suspend_for_review(ids, block=credentials, timeout=limit)
    return result
