# SPDX-License-Identifier: Apache-2.0
"""Asks ABBYY Vantage about the transactions of a task instance, from Airflow's API server.

All of this blocks, so it must run in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from vantage_orchestration.airflow.credentials import load
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    ProtocolError,
    VantageError,
)
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret

__all__ = ["PAGE_SIZE", "Overview", "Row", "look", "open_client", "review_link"]

#: Transactions on one page; each costs one request.
PAGE_SIZE: Final = 25
_THREADS: Final = 8
#: Waiting reviews of the whole tenant that are looked through at the most, 1000 a request.
_MOST_REVIEWS: Final = 5000
#: Somebody waits for the page: one more try, soon.
_RETRIES: Final = RetryPolicy(attempts=2, first_wait=0.5, max_wait=1.0, budget=10.0)


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction as the page shows it; ``status`` is None if it could not be asked for."""

    transaction_id: str
    status: str | None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    """One page of transactions.

    Attributes:
        rows: Transactions of this page; those that wait for a person come first.
        page: Number of this page, from 1.
        pages: How many there are.
        trouble: Why some could not be asked for.
    """

    rows: tuple[Row, ...]
    page: int
    pages: int
    trouble: str | None = None


def open_client(conn_id: str, team_name: str | None = None) -> VantageClient:
    """Return a client for a connection as Airflow's servers read it.

    Args:
        conn_id: Id of the connection.
        team_name: Team whose Dag it is asked for, where Airflow keeps teams apart.

    Raises:
        ConfigurationError: There is no such connection, or it can't be used.
    """
    config, store = load(conn_id, team_name)
    return VantageClient(config, orchestrator_store=store, retries=_RETRIES, pool_size=_THREADS)


def look(client: VantageClient, transaction_ids: Sequence[str], page: int = 1) -> Overview:
    """Ask for the present status of one page of transactions.

    Args:
        client: Client.
        transaction_ids: All transactions of the task instance.
        page: Page wanted; the last one stands in for any behind it.

    Returns:
        The page. Trouble with the service is told in it and not raised.
    """
    pages = max(1, -(-len(transaction_ids) // PAGE_SIZE))
    page = min(max(page, 1), pages)
    waiting: set[str] = set()
    if pages > 1:
        # Else what waits would be somewhere among hundreds of others.
        try:
            waiting = _waiting(client)
        except VantageError as error:
            ids = transaction_ids[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
            return Overview(tuple(Row(each, None) for each in ids), page, pages, str(error))
    ordered = sorted(transaction_ids, key=lambda each: each not in waiting)
    shown = ordered[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    troubles: list[str] = []

    def ask(transaction_id: str) -> Row:
        if troubles:
            return Row(transaction_id, None)
        try:
            found = client.get_transaction(transaction_id)
        except NotFound:
            return Row(transaction_id, "Gone")
        except VantageError as error:
            troubles.append(str(error))
            return Row(transaction_id, None)
        return Row(transaction_id, found.status, found.waits_for_review)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="abbyy-vantage-page") as pool:
        rows = tuple(pool.map(ask, shown))
    return Overview(rows, page, pages, troubles[0] if troubles else None)


def review_link(client: VantageClient, transaction_id: str) -> Secret | None:
    """Fetch a fresh link to the review of a transaction.

    Args:
        client: Client.
        transaction_id: Transaction.

    Returns:
        The link, or None if the transaction waits for nobody now.

    Raises:
        VantageError: The service gave no answer, or no link that a browser may be sent to.
    """
    found = client.get_transaction(transaction_id)
    link = found.manual_review_link if found.waits_for_review else None
    if link is None:
        return None
    allowed = {"https", urlsplit(client.config.credentials.base_url).scheme}
    parts = None
    with suppress(ValueError):
        parts = urlsplit(link.reveal())
    if (
        parts is None
        or parts.scheme not in allowed
        or not parts.hostname
        or not link.reveal().isascii()
        or not link.reveal().isprintable()
        or " " in link.reveal()
    ):
        raise ProtocolError(
            "The link to the review is no web address that can be opened",
            transaction_id=transaction_id,
        )
    return link


def _waiting(client: VantageClient) -> set[str]:
    """Return the ids of all transactions that wait for a person."""
    reviews = client.iter_active_transactions(stage_type="ManualReview")
    try:
        return {item.id for item in islice(reviews, _MOST_REVIEWS)}
    except (BadRequest, Forbidden, NotFound):
        return set()  # A server without that list; only the order of the rows depends on it.
