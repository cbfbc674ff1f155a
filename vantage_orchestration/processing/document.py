# SPDX-License-Identifier: Apache-2.0
"""Processes one document: finds or starts its transaction, waits, fetches its fields."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import DocumentMismatch, translated
from vantage_orchestration.options import Options
from vantage_orchestration.processing.inputs import inspect_inputs
from vantage_orchestration.processing.ledger import open_ledger
from vantage_orchestration.processing.names import folded
from vantage_orchestration.processing.outcome import check_outcome
from vantage_orchestration.processing.plan import plan
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.submit import Part, Work, keyed_units, submit
from vantage_orchestration.results import DocumentFields, fetch_fields
from vantage_orchestration.text import named
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import Wait
from vantage_orchestration.waiting.rules import WaitRules

if TYPE_CHECKING:
    import os

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.processing.keys import TaskKey
    from vantage_orchestration.storage import AnyPath


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """The result of one file.

    Attributes:
        file: Path or name of the file.
        sha256: Hex digest of the sent content.
        transaction_id: Transaction.
        documents: Fields of each document found in the file.
    """

    file: str
    sha256: str
    transaction_id: str
    documents: tuple[DocumentFields, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one plain dictionary per document, suitable for JSON Lines and XCom."""
        return [
            {"file": self.file, "sha256": self.sha256, **document.row(self.transaction_id)}
            for document in self.documents
        ]


@translated
def submit_one(work: Work, file: AnyPath) -> Part:
    """Start the transaction of one file, or find the one that an earlier try has started, see
    :func:`.submit.submit`."""
    units = keyed_units(work, plan(inspect_inputs([file]), process_skill=False))
    (submitted,) = submit(work, units)
    return submitted


@translated
def wait_for_transaction(
    client: VantageClient,
    transaction_id: str,
    *,
    timeout: float = 3600.0,
    review_timeout: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> Transaction:
    """Wait until a transaction has been processed.

    Args:
        client: Client.
        transaction_id: Transaction.
        timeout: Seconds to wait while the service works.
        review_timeout: Seconds to wait for a person's review. 0 does not wait for people: a waiting
            worker may be blocked for days.
        sleep: Waits the given seconds.
        clock: Returns seconds since the epoch.

    Returns:
        The transaction, with status ``Processed``.

    Raises:
        TransactionFailed: It ended as Failed, or was deleted.
        TransactionCanceled: It was cancelled.
        WaitTimeout: The time is up. The transaction keeps running, and a new try finds it.
    """
    # It occupies a worker's slot, so poll often.
    rules = WaitRules(timeout, review_timeout, poke_interval=1.0, max_poke_interval=10.0)
    outcome = wait_here(client, Wait([transaction_id], rules, clock()), sleep=sleep, clock=clock)
    check_outcome(outcome, client=client)
    return outcome.processed.get(transaction_id) or client.get_transaction(transaction_id)


@translated
def process_document(
    client: VantageClient,
    file: str | os.PathLike[str],
    skill: str,
    key: TaskKey,
    *,
    timeout: float = 3600.0,
    review_timeout: float = 0.0,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
) -> DocumentResult:
    """Send one file and return its fields; a retry continues where the last try ended.

    Args:
        client: Client.
        file: Path of the file.
        skill: Id or exact name of the skill that processes it.
        key: Key of the task, the same in each try, with the places for its notes.
        timeout: Seconds to wait while the service works.
        review_timeout: Additional seconds to wait for a person's review.
        registration_parameters: Up to 9 of your own.
        skill_parameters: Up to 10.

    Returns:
        The fields of each document in the file.

    Raises:
        VantageError: See :func:`submit_one`, :func:`wait_for_transaction` and
            :func:`vantage_orchestration.results.fetch_fields`.
    """
    options = Options.of(
        registration_parameters=registration_parameters, skill_parameters=skill_parameters
    )
    skill_id = skill_id_of(client, skill)
    ledger = open_ledger(key, client, skill_id, options.skill_parameters)
    submitted = submit_one(Work(client, skill_id, key, options, ledger), file)
    transaction = wait_for_transaction(
        client, submitted.transaction_id, timeout=timeout, review_timeout=review_timeout
    )
    return document_result(client, file, submitted, transaction)


@translated
def document_result(
    client: VantageClient, file: AnyPath, submitted: Part, transaction: Transaction
) -> DocumentResult:
    """Fetch the fields of a processed file, unless the transaction holds another file than the one
    that was sent."""
    (sent,) = submitted.sources
    names = {source.name for source in transaction.source_files}
    if names and {*map(folded, names)} != {folded(sent.stored_name)}:
        raise DocumentMismatch(
            f"The transaction was made from {named(sorted(names))}, not from {sent.stored_name!r}",
            hint="Its results were ignored. The next try reads it again",
            transaction_id=transaction.id,
        )
    fields = fetch_fields(client, transaction)
    # A URL without credentials and query.
    shown = str(sent.path) if "://" in str(file) else str(file)
    return DocumentResult(shown, str(sent.sha256), transaction.id, fields)
