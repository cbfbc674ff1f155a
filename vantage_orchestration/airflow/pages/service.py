# SPDX-License-Identifier: Apache-2.0
"""Queries ABBYY Vantage about transactions, from inside Airflow's API server.

The API server has other work, so the pages use little of it, even while ABBYY Vantage hangs:

* requests run in a few separate threads, not in those that serve all other pages;
* no reader waits longer than :data:`LIMIT`, for the connection, a token and all answers together;
* readers who ask the same at the same time, or a moment later, get the same answer;
* under overload the answer is :class:`Busy`, at once.

Texts for readers of a page name no user, host or other connection. The log of the API server has
the details, under a reference that the reader can give.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from vantage_orchestration.airflow.links import Details, Record
from vantage_orchestration.airflow.stored_connection import load_config
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import (
    AuthError,
    BadRequest,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    VantageError,
)
from vantage_orchestration.parallel import in_thread
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret
from vantage_orchestration.status import MANUAL_REVIEW, Status
from vantage_orchestration.text import clean, named

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Transactions on one page; each costs one request.
PAGE_SIZE: Final = 25
#: Longest wait of a reader in seconds.
LIMIT: Final = 5.0
#: Seconds for which an answer counts as fresh, and for which a hanging server is not called.
FRESH, PAUSE = 2.0, 5.0
#: Threads for all connections, and how many of them one connection may use.
_THREADS, AT_ONCE = 16, 4
#: Most requests that run or wait for a thread: 16 pages.
_MOST: Final = 400
#: Timeouts in seconds: shorter than those of the connection, since a reader waits.
_CONNECT, _READ, _PATIENCE = 2.0, 3.0, 4.0
#: One retry, if the first try failed quickly.
_RETRIES: Final = RetryPolicy(attempts=2, first_wait=0.2, max_wait=0.5, budget=1.5)
#: Most reviews of the whole tenant that are read, 1000 per request.
_MOST_REVIEWS: Final = 5000
#: Broken rules that a row says; more are counted.
_MOST_RULES: Final = 3
_LATE: Final = "ABBYY Vantage did not answer in time"
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[a-z0-9.-]+|[0-9a-f:.]+")


class Busy(Exception):
    """Too many requests are running already. Nothing was sent."""


class PageError(Exception):
    """No answer came. The text is a sentence without a full stop, for the readers of a page.

    ``for_all`` says that other transactions of the connection will fail the same way.
    """

    def __init__(self, text: str, *, for_all: bool = False) -> None:
        super().__init__(text)
        self.for_all = for_all

    def copy(self) -> PageError:
        """Return an equal error without a traceback, for another reader."""
        return PageError(str(self), for_all=self.for_all)


class ConnectionKey(NamedTuple):
    """A connection, as read for a team if Airflow separates teams."""

    conn_id: str
    team_name: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction as the page shows it."""

    transaction_id: str
    #: None if it could not be read.
    status: str | None
    #: Whether it waits for a person.
    waits: bool = False
    #: Messages of the business rules that its documents break.
    rules: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status is not None and Status(self.status).is_terminal


@dataclass(frozen=True, slots=True)
class Overview:
    """One page of transactions; those that wait for a person come first."""

    rows: tuple[Row, ...]
    #: Number of this page, from 1, and number of all pages.
    page: int
    pages: int
    #: Why some could not be read.
    trouble: str | None = None
    #: Servers to which a review may lead, for the header ``Content-Security-Policy``.
    targets: tuple[str, ...] = ()

    def with_notes(self, record: Record) -> Overview:
        """Return it with the task's record, where the service does not report a detail."""
        return replace(self, rows=tuple(_noted(row, record) for row in self.rows))

    def is_over(self, record: Record) -> bool:
        """Return whether nothing on it will change."""
        return all(row.over for row in self.rows) and (self.pages == 1 or record.over)


def _noted(row: Row, record: Record) -> Row:
    noted, seen = record.of(row.transaction_id), row.details
    found = replace(
        noted,
        files=seen.files or noted.files,
        classes=seen.classes or noted.classes,
        reason=seen.reason or noted.reason,
        rules=noted.rules if seen.rules is None else seen.rules,
        deadline=noted.deadline if row.waits else None,
    )
    return replace(row, details=found)


class TransactionService:
    """Answers the queries of all readers of this process, on one event loop.

    ``open_client`` creates a client for a connection, and may block.
    """

    def __init__(
        self,
        open_client: Callable[[ConnectionKey], VantageClient] | None = None,
        *,
        limit: float = LIMIT,
        most: int = _MOST,
    ) -> None:
        self.client_of = open_client or client_of
        self._limit = limit
        self.most = most
        self._threads = asyncio.Semaphore(_THREADS)
        #: Answers that are under way, or came less than FRESH ago.
        self._answers: dict[tuple[ConnectionKey, Hashable], asyncio.Future[Any]] = {}
        self.running = 0
        #: Connections that are not called for a while; threads write it too.
        self._down: dict[ConnectionKey, tuple[float, PageError]] = {}
        self._gates: dict[ConnectionKey, asyncio.Semaphore] = {}

    async def look(
        self, connection: ConnectionKey, transaction_ids: Sequence[str], page: int = 1
    ) -> Overview:
        """Return the current status of one page of a task's transactions, or of the last page."""
        end = time.monotonic() + self._limit
        pages = max(1, -(-len(transaction_ids) // PAGE_SIZE))
        page = min(max(page, 1), pages)
        part = slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE)
        targets: tuple[str, ...] = ()
        try:
            client = await self._client(connection, end)
            targets = _targets(client)
            waiting: frozenset[str] = frozenset()
            if pages > 1:
                # Otherwise waiting transactions would be hidden among hundreds of others.
                asked = self._ask(connection, ("reviews",), partial(_waiting, client))
                waiting = await self._answer(connection, asked, end)
        except PageError as trouble:
            rows = tuple(Row(each, None) for each in transaction_ids[part])
            return Overview(rows, page, pages, str(trouble), targets)
        shown = sorted(transaction_ids, key=lambda each: each not in waiting)[part]
        new = sum((connection, ("row", each)) not in self._answers for each in shown)
        if self.running + new > self.most:
            raise Busy
        asked_rows = [
            self._ask(connection, ("row", each), partial(row_of, client, each)) for each in shown
        ]
        found, first = [], None
        for each, row in zip(shown, asked_rows, strict=True):
            try:
                found.append(await self._answer(connection, row, end))
            except PageError as trouble:
                found.append(Row(each, None))
                first = first or str(trouble)
        return Overview(tuple(found), page, pages, first, targets)

    async def review_link(self, connection: ConnectionKey, transaction_id: str) -> Secret | None:
        """Return a fresh link to the review of a transaction; None if it is not in review now."""
        end = time.monotonic() + self._limit
        client = await self._client(connection, end)
        # No other reader may get this link, and an earlier link may not be reused.
        asked = self._ask(connection, object(), partial(_review_link, client, transaction_id))
        link: Secret | None = await self._answer(connection, asked, end)
        return link

    # -- internals; all on the event loop except _call

    async def _client(self, connection: ConnectionKey, end: float) -> VantageClient:
        asked = self._ask(connection, ("client",), partial(self.client_of, connection))
        client: VantageClient = await self._answer(connection, asked, end)
        return client

    def _ask(
        self, connection: ConnectionKey, what: Hashable, work: Callable[[], T]
    ) -> asyncio.Future[T]:
        """Return the answer, which may be there or under way, or start a request."""
        key = (connection, what)
        if key not in self._answers:
            if self.running >= self.most:
                raise Busy
            self.running += 1
            self._answers[key] = asyncio.ensure_future(self._fetch(connection, work))
            self._answers[key].add_done_callback(partial(self._came, key))
        return self._answers[key]

    def _came(self, key: tuple[ConnectionKey, Hashable], answer: asyncio.Future[Any]) -> None:
        self.running -= 1
        # The error was seen, also if all who wanted to know have gone.
        failed = answer.cancelled() or answer.exception() is not None
        keep = isinstance(key[1], tuple) and not failed
        asyncio.get_running_loop().call_later(FRESH if keep else 0, self._drop, key)

    def _drop(self, key: tuple[ConnectionKey, Hashable]) -> None:
        answer = self._answers.pop(key)
        if key[1] == ("client",) and not answer.cancelled() and answer.exception() is None:
            answer.result().close()

    async def _fetch(self, connection: ConnectionKey, work: Callable[[], T]) -> T:
        call = partial(self._call, connection, work, time.monotonic() + self._limit)
        # A server that hangs leaves threads to other connections.
        async with self._gates.setdefault(connection, asyncio.Semaphore(AT_ONCE)), self._threads:
            return await in_thread(call, "abbyy-vantage-page")

    def _call(self, connection: ConnectionKey, work: Callable[[], T], end: float) -> T:
        """Do one piece of work in a thread; failures become a :class:`PageError`."""
        until, known = self._down.get(connection, (0.0, None))
        if known is not None and time.monotonic() < until:
            raise known.copy()
        try:
            if time.monotonic() > end:
                raise PageError(_LATE, for_all=True)
            return work()
        except PageError as error:
            trouble = error
        except VantageError as error:
            trouble = _explained(connection, error)
        except Exception as error:
            # For example of a secrets backend. Its text could contain anything.
            what = f"{type(error).__module__}.{type(error).__name__}"
            trouble = _explained(connection, VantageError(f"The page failed with {what}"))
        if trouble.for_all:
            self._down[connection] = (time.monotonic() + PAUSE, trouble)
        raise trouble.copy()

    async def _answer(self, connection: ConnectionKey, asked: asyncio.Future[T], end: float) -> T:
        """Wait for an answer, but not beyond ``end``."""
        done, _ = await asyncio.wait([asked], timeout=max(0.0, end - time.monotonic()))
        if done:
            if isinstance(failure := asked.exception(), PageError):
                raise failure.copy()
            return asked.result()
        trouble = PageError(_LATE, for_all=True)
        self._down[connection] = (time.monotonic() + PAUSE, trouble)
        raise trouble.copy()


def _explained(connection: ConnectionKey, error: VantageError) -> PageError:
    """Log what went wrong, and return the error for readers."""
    reference = secrets.token_hex(4)
    log.warning(
        "A page about ABBYY Vantage transactions failed (reference %s, connection %r): %s",
        reference,
        connection.conn_id,
        error,
    )
    for_all = error.retryable or isinstance(error, (AuthError, ConfigurationError))
    if isinstance(error, AuthError) and error.retryable:
        what = "ABBYY Vantage does not let this Airflow log in at the moment"
    elif isinstance(error, (AuthError, ConfigurationError)):
        what = "The connection of this task can't be used"
    elif isinstance(error, ConnectionFailed):
        what = "ABBYY Vantage can't be reached or does not answer"
    elif error.status is not None:
        what = f"ABBYY Vantage answered with status {error.status}"
    else:
        what = "There is no usable answer"
    return PageError(f"{what}. The log of the API server says more: {reference}", for_all=for_all)


def client_of(connection: ConnectionKey) -> VantageClient:
    """Return a client for a connection as Airflow's servers read it."""
    config, store = load_config(*connection)
    http = replace(
        config.http,
        connect_timeout=min(config.http.connect_timeout, _CONNECT),
        read_timeout=min(config.http.read_timeout, _READ),
    )
    return VantageClient(
        replace(config, http=http),
        orchestrator_store=store,
        retries=_RETRIES,
        patience=_PATIENCE,
    )


def row_of(client: VantageClient, transaction_id: str) -> Row:
    try:
        found = client.get_transaction(transaction_id)
    except NotFound:
        return Row(transaction_id, Status.GONE)
    names = (each.classification for each in found.documents)
    classes = dict.fromkeys(each.class_name for each in names if each and each.class_name)
    errors = [error for each in found.documents for error in each.business_rule_errors]
    said = (clean(each.message or each.error_type or "no reason") for each in errors)
    return Row(
        transaction_id,
        found.status,
        found.waits_for_review,
        tuple(islice(said, _MOST_RULES)),
        Details(
            files=named(found.source_files),
            classes=clean(", ".join(classes)),
            rules=len(errors) if found.documents else None,
            reason=found.error or "",
        ),
    )


def _waiting(client: VantageClient) -> frozenset[str]:
    """Return the ids of all transactions in review."""
    end = time.monotonic() + LIMIT
    found: set[str] = set()
    reviews = client.iter_active_transactions(stage_type=MANUAL_REVIEW)
    try:
        for item in islice(reviews, _MOST_REVIEWS):
            found.add(item.id)
            if time.monotonic() > end:
                raise PageError(_LATE, for_all=True)
    except (BadRequest, Forbidden, NotFound):
        return frozenset()  # A server without that list; only the order of rows depends on it.
    return frozenset(found)


def _review_link(client: VantageClient, transaction_id: str) -> Secret | None:
    found = client.get_transaction(transaction_id)
    link = found.manual_review_link if found.waits_for_review else None
    if link is None or is_own(link.reveal(), urlsplit(client.config.credentials.base_url)):
        return link
    log.warning(
        "The review of transaction %s leads to another server than the connection's and was not"
        " opened",
        transaction_id,
    )
    raise PageError(
        "The link to this review is not a web address of the connection's own server, so it is"
        " not followed"
    )


def is_own(link: str, base: SplitResult) -> bool:
    """Return whether a link leads to the connection's own server, or to a host below it.

    The host of review links is not documented. Hosts below the own one belong to the same owner.
    """
    # Browsers treat a backslash as a slash, and ignore tabs and line breaks.
    if not (link.isascii() and link.isprintable()) or " " in link or "\\" in link:
        return False
    with suppress(ValueError):
        parts = urlsplit(link)
        host, own = parts.hostname or "", base.hostname or ""
        return (
            (host == own or (host.endswith(f".{own}") and _has_hosts_below(own)))
            and _HOST.fullmatch(host) is not None
            and parts.username is None
            and parts.scheme == base.scheme
            and (parts.port or _PORTS[parts.scheme]) == (base.port or _PORTS[base.scheme])
        )
    return False


def _targets(client: VantageClient) -> tuple[str, ...]:
    """Return the servers that :func:`is_own` accepts for a review."""
    base = urlsplit(client.config.credentials.base_url)
    own = f"{base.scheme}://{base.netloc}"
    if _has_hosts_below(base.hostname or ""):
        return own, f"{base.scheme}://*.{base.netloc}"
    return (own,)


def _has_hosts_below(host: str) -> bool:
    """Return whether it is a name and not an IP address."""
    return re.fullmatch(r"[0-9.]+|.*:.*|localhost", host) is None
