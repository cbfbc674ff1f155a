# SPDX-License-Identifier: Apache-2.0
"""Deletes transactions, several at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from vantage_orchestration.errors import VantageError
from vantage_orchestration.watching.parallel import in_parallel

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

__all__ = ["delete_transactions"]

_THREADS: Final = 8


def delete_transactions(client: VantageClient, ids: Iterable[str]) -> dict[str, VantageError]:
    """Delete transactions, several at a time, and return what went wrong, by id."""
    failures: dict[str, VantageError] = {}

    def delete(name: str) -> None:
        try:
            client.delete_transaction(name)
        except VantageError as error:
            failures[name] = error

    in_parallel(delete, ids, _THREADS)
    return failures
