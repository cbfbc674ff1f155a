# SPDX-License-Identifier: Apache-2.0
"""Deletes transactions, several at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import VantageError
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.text import shortened

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.processing.ledger import Ledger

_THREADS: Final = 8


def delete_transactions(client: VantageClient, ids: Iterable[str]) -> dict[str, VantageError]:
    """Delete transactions, several at a time, and return the failures by id."""
    failures: dict[str, VantageError] = {}

    def delete(name: str) -> None:
        try:
            client.delete_transaction(name)
        except VantageError as error:
            failures[name] = error

    in_parallel(delete, ids, _THREADS)
    return failures


def undo_transactions(
    client: VantageClient, ids: Collection[str], ledgers: Iterable[Ledger]
) -> dict[str, VantageError]:
    """Delete transactions that are no longer wanted, and return the failures by id.

    The service shows deleted ones for minutes. No try of the ledgers' tasks continues with them.
    """
    failures = delete_transactions(client, ids)
    for ledger in ledgers:
        ledger.undo(set(ids) - failures.keys())
    return failures


def check_deleted(failures: Mapping[str, VantageError], total: int) -> None:
    """Raise the failures of a deletion of so many transactions in one error, if possible one that a
    retry can cure."""
    if not failures:
        return
    first = next((each for each in failures.values() if each.retryable), None)
    first = first or next(iter(failures.values()))
    texts = [f"{name}: {error.what}" for name, error in failures.items()]
    what = (
        f"{len(texts)} of {total} transactions were not deleted ({shortened(texts, between='; ')})"
    )
    raise type(first)(what, **first.details())
