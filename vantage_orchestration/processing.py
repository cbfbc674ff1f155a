# SPDX-License-Identifier: Apache-2.0
"""One document through ABBYY Vantage: find or start its transaction, wait, fetch its fields.

The service has no idempotency keys, and a document that is sent twice is charged twice. So each
transaction carries a key of ours as a registration parameter. Whoever tries again with the same
key finds the transaction in the lists and goes on with it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import (
    ConfigurationError,
    DocumentMismatch,
    TransactionCanceled,
    TransactionFailed,
    VantageError,
    WaitTimeout,
    translated,
)
from vantage_orchestration.results import DocumentFields, fetch_fields
from vantage_orchestration.upload import SourceFile, stored_name

if TYPE_CHECKING:
    import os

    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction

__all__ = [
    "KEY_PARAMETER",
    "DocumentResult",
    "TaskKey",
    "document_key",
    "find_transaction",
    "process_document",
    "submit_document",
    "wait_for_transaction",
]

log = logging.getLogger(__name__)

#: Registration parameter that holds our key.
KEY_PARAMETER = "OrchestrationKey"
#: Days after which the service has deleted a transaction (contract, section 5).
RETENTION_DAYS = 14
#: Seconds between two status calls: one a second is the vendor's limit, 10 s a connector's habit.
FIRST_POLL = 1.0
SLOWEST_POLL = 10.0
#: A person takes hours; asking once a minute is enough.
REVIEW_POLL = 60.0


@dataclass(frozen=True, slots=True)
class TaskKey:
    """What makes a task the same task when it is tried again.

    Args:
        scope: Names the task within its run: ids of pipeline, run, task and map index. The same in
            each try, and different between any two tasks.
        since: When the run began, if an earlier try may have made a transaction; None on the first
            try, when there is nothing to look for.
    """

    scope: str
    since: DateTime | None = None


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """What came back for one file.

    Attributes:
        file: Path or name of the file.
        sha256: Hex digest of what was sent.
        transaction_id: Transaction.
        documents: Fields of each document that was found in the file.
    """

    file: str
    sha256: str
    transaction_id: str
    documents: tuple[DocumentFields, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one plain dictionary for each document, fit for JSON Lines and XCom."""
        return [
            {
                "file": self.file,
                "sha256": self.sha256,
                "transaction_id": self.transaction_id,
                "document_id": document.document_id,
                "class": document.class_name,
                "fields": dict(document.fields),
                "business_rule_errors": [
                    error.message or error.error_type for error in document.business_rule_errors
                ],
            }
            for document in self.documents
        ]


def document_key(
    scope: str, skill_id: str, sha256: str, skill_parameters: Mapping[str, str] | None = None
) -> str:
    """Return the key under which a transaction is found again.

    Args:
        scope: Scope of the task, see :class:`TaskKey`.
        skill_id: Skill.
        sha256: Digest of the content: a file that was changed meanwhile is another document.
        skill_parameters: They change what comes back. Registration parameters do not, and may hold
            a time or a number of the try, so they are no part of it.
    """
    digest = hashlib.sha256()
    settings = [text for pair in sorted((skill_parameters or {}).items()) for text in pair]
    for part in (scope, skill_id, sha256, *settings):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


@translated
def find_transaction(
    client: VantageClient, key: str, *, skill_id: str, since: DateTime
) -> str | None:
    """Return the id of the transaction with this key that runs or was processed, if there is one.

    Transactions that failed, were cancelled or were never started do not count.

    Args:
        client: Client.
        key: See :func:`document_key`.
        skill_id: Skill of the transaction.
        since: When the run began. A day more is searched, since clocks differ.

    The key is compared here and not by the server: how it wants such a filter encoded is uncertain
    (contract, section 9), and a filter that is misread would hide the transaction.
    """
    import pendulum

    start = max(since.subtract(days=1), pendulum.now("UTC").subtract(days=RETENTION_DAYS + 1))
    filters = {"skill_id": skill_id, "start_date": start}
    # In this order: what ends between the two calls is seen by the second.
    for item in client.iter_active_transactions(**filters):
        if item.parameters.get(KEY_PARAMETER) == key:
            return item.id
    for item in client.iter_completed_transactions(**filters):
        if item.parameters.get(KEY_PARAMETER) == key and item.status not in ("Failed", "Canceled"):
            return item.id
    return None


@translated
def submit_document(
    client: VantageClient,
    file: str | os.PathLike[str] | SourceFile,
    skill_id: str,
    key: TaskKey,
    *,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Start the transaction of one file, or find the one that an earlier try has started.

    Args:
        client: Client.
        file: File to send.
        skill_id: Skill that processes it.
        key: What makes this task the same in each try.
        registration_parameters: Up to 9 of your own; one more is ours.
        skill_parameters: Up to 10.

    Returns:
        Transaction id and hex SHA-256 of the file.

    Raises:
        ConfigurationError: The file or a parameter is not acceptable. Nothing was sent.
        DocumentMismatch: The server holds something else than was sent. Nothing was started.
    """
    source = SourceFile.of(file)
    sha256 = source.sha256()
    tag = document_key(key.scope, skill_id, sha256, skill_parameters)
    if registration_parameters and KEY_PARAMETER in registration_parameters:
        raise ConfigurationError(
            f"The registration parameter {KEY_PARAMETER} is set by this package"
        )
    if key.since is not None:
        found = find_transaction(client, tag, skill_id=skill_id, since=key.since)
        if found is not None:
            log.info("Going on with transaction %s of an earlier try", found)
            return found, sha256
    transaction = client.create_transaction(
        skill_id,
        registration_parameters={**(registration_parameters or {}), KEY_PARAMETER: tag},
        skill_parameters=skill_parameters,
    )
    client.add_files(transaction.id, [source])
    _check_arrival(client, transaction.id, source)
    client.start_transaction(transaction.id)
    log.info("Started transaction %s for %s", transaction.id, source.name)
    return transaction.id, sha256


def _check_arrival(client: VantageClient, transaction_id: str, source: SourceFile) -> None:
    """Look before the start, which can't be taken back, whether the file is there, once."""
    names = [file.name for file in client.get_transaction(transaction_id).source_files]
    # A server that does not list the files before the start says nothing about them.
    if names and names != [stored_name(source.name)]:
        raise DocumentMismatch(
            f"The transaction holds {len(names)} files, not just {source.name!r}",
            hint="It was not started; a new try makes a new one",
            transaction_id=transaction_id,
        )


@translated
def wait_for_transaction(
    client: VantageClient,
    transaction_id: str,
    *,
    timeout: float = 3600.0,
    review_timeout: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Transaction:
    """Wait until a transaction has been processed.

    Args:
        client: Client.
        transaction_id: Transaction.
        timeout: Seconds to wait while the service works.
        review_timeout: Seconds to wait, besides, while a person has to review the document. 0 does
            not wait for people: a worker that waits for days is a worker lost.
        sleep: Waits seconds.
        clock: Steady seconds.

    Returns:
        The transaction, with status ``Processed``.

    Raises:
        TransactionFailed: It ended as Failed.
        TransactionCanceled: It was cancelled.
        WaitTimeout: Time is over. The transaction goes on, and a new try finds it.
        NotFound: It was deleted.
    """
    began = last = clock()
    in_review, was_in_review = 0.0, False
    pause = FIRST_POLL
    seen: tuple[str, bool] | None = None
    while True:
        transaction = client.get_transaction(transaction_id)
        state = (transaction.status, transaction.waits_for_review)
        if state != seen:
            # The review link is a credential and must not be logged.
            log.info(
                "Transaction %s: %s%s",
                transaction_id,
                transaction.status,
                ", waiting for manual review" if transaction.waits_for_review else "",
            )
            pause, seen = FIRST_POLL, state
        if transaction.ended:
            _raise_if_unsuccessful(client, transaction)
            return transaction
        now = clock()
        if was_in_review:
            in_review += now - last
        was_in_review = transaction.waits_for_review
        if was_in_review:
            if in_review >= review_timeout:
                raise WaitTimeout(
                    "The transaction waits for manual review",
                    hint="Review the document in ABBYY Vantage; the next try goes on from"
                    " there. A longer review_timeout waits",
                    transaction_id=transaction_id,
                )
        elif now - began - in_review >= timeout:
            raise WaitTimeout(
                f"The transaction is still {transaction.status} after {timeout:.0f} s",
                hint="It goes on; the next try finds it again",
                transaction_id=transaction_id,
            )
        last = now
        sleep(pause)
        pause = min(pause * 1.5, REVIEW_POLL if transaction.waits_for_review else SLOWEST_POLL)


def _raise_if_unsuccessful(client: VantageClient, transaction: Transaction) -> None:
    error: VantageError | None = None
    if transaction.status == "Failed":
        error = TransactionFailed(
            "ABBYY Vantage could not process the document",
            hint="Its pages may have been charged, so it is not sent again by itself. Check the"
            " file and the skill, then clear or run the task again",
            transaction_id=transaction.id,
            server_message=transaction.error,
        )
    elif transaction.status == "Canceled":
        error = TransactionCanceled(
            "The transaction was cancelled in ABBYY Vantage",
            hint="Clear or run the task again to send the document anew",
            transaction_id=transaction.id,
        )
    if error is not None:
        raise error


@translated
def process_document(
    client: VantageClient,
    file: str | os.PathLike[str],
    skill_id: str,
    key: TaskKey,
    *,
    timeout: float = 3600.0,
    review_timeout: float = 0.0,
    registration_parameters: Mapping[str, str] | None = None,
    skill_parameters: Mapping[str, str] | None = None,
) -> DocumentResult:
    """Send one file and return its fields; tried again, go on where the last try ended.

    Args:
        client: Client.
        file: Path of the file.
        skill_id: Skill that processes it.
        key: What makes this task the same in each try.
        timeout: Seconds to wait while the service works.
        review_timeout: Seconds to wait, besides, for a person's review.
        registration_parameters: Up to 9 of your own.
        skill_parameters: Up to 10.

    Returns:
        The fields of each document in the file.

    Raises:
        VantageError: See :func:`submit_document`, :func:`wait_for_transaction` and
            :func:`vantage_orchestration.results.fetch_fields`.
    """
    transaction_id, sha256 = submit_document(
        client,
        file,
        skill_id,
        key,
        registration_parameters=registration_parameters,
        skill_parameters=skill_parameters,
    )
    transaction = wait_for_transaction(
        client, transaction_id, timeout=timeout, review_timeout=review_timeout
    )
    expected = stored_name(SourceFile.of(file).name)
    names = {source.name for source in transaction.source_files}
    if names and names != {expected}:
        raise DocumentMismatch(
            f"The transaction was made from {sorted(names)}, not from {expected!r}",
            transaction_id=transaction_id,
        )
    return DocumentResult(str(file), sha256, transaction_id, fetch_fields(client, transaction))
