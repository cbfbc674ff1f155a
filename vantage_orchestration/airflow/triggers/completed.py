# SPDX-License-Identifier: Apache-2.0
"""Lets a Dag start when ABBYY Vantage has finished a transaction, wherever it came from.

How each transaction is told once. Airflow stores an asset event in a transaction of its own, and a
trigger can neither take part in that nor read the events that are there. What it can have is word
that an event was stored (the *ack mode* of shared streams). So ids are noted as dealt with once
their events are stored, which excludes that one is lost; and they are announced before, so that
after a crash between the two it is known which ones may come twice. These carry a mark.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import SharedStreamProducer

from vantage_orchestration.airflow.connection import DEFAULT_CONN_ID
from vantage_orchestration.completed import (
    FULL_EVERY,
    CompletedList,
    Cursor,
    Look,
    Overtaken,
    Store,
    Teller,
    Wanted,
    facts,
)
from vantage_orchestration.errors import VantageError
from vantage_orchestration.retrying import RetryPolicy

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import AdvanceItem

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

__all__ = ["VantageTransactionCompletedTrigger"]

log = logging.getLogger(__name__)

#: Transactions that are handed over together. Airflow stores their events one by one, and takes
#: the trigger for dead if that takes minutes.
_TOGETHER: Final = 100
#: Seconds: longest pause while the login or the service does not work.
_LONGEST_PAUSE: Final = 900.0
#: Seconds: first pause after a refused login. Many of them in a row lock an account.
_REFUSED_PAUSE: Final = 60.0
#: A page is tried again at once, everything else with the next look.
_RETRIES: Final = RetryPolicy(attempts=3, first_wait=1.0, max_wait=4.0, budget=15.0)
_random = random.SystemRandom()


class VantageTransactionCompletedTrigger(BaseEventTrigger):
    """Makes an event of each transaction of a skill that ABBYY Vantage has finished.

    For an ``AssetWatcher``: a Dag scheduled by the asset starts when documents that came in by
    mail, scanner or phone are through, a manual review included. The service has no webhooks, so
    its list of completed transactions is looked at again and again.

    Args:
        skill_id: Skill; None for all that the connection may use.
        conn_id: Connection of the type ``abbyy_vantage``.
        statuses: How the transactions have ended: ``Processed``, ``Failed``, ``Canceled``.
        poke_interval: Seconds between two looks, 1 at least.
        include_api: Also those that were sent through the API. As a rule, whoever sent them waits
            for them.
        since: Only transactions made since then, as ISO 8601 text. Those that have ended before
            the watcher's first look are told as well then; the service keeps them for 14 days.
            Without it they are not, and all that end later are, whenever they were made.
        overlap: Seconds: what was made within them is read at each look. What is older is only
            counted, until a number changes.

    Event: ``{"transaction_id", "skill_id", "status", "created_at", "pages", "documents",
    "parameters", "repeated"}``. ``parameters`` are the registration parameters of the transaction;
    events are stored and logged in plain text, so there should be no secret among them.

    Each transaction is told once, across restarts, and none is lost: what was told is kept in the
    asset's state store. Only if the triggerer is killed in the second or two after it has stored an
    event, that event may come again. ``repeated`` is true then, and false in all others. Work that
    may be done twice, such as a download to a fixed place, need not look at it.

    What is kept belongs to connection and skill: a change of ``statuses``, ``include_api`` or
    ``since`` holds for what ends from then on. An asset has one watcher for a connection and
    skill. Watchers of several assets share their looks if connection, skill, ``poke_interval`` and
    ``overlap`` are equal.
    """

    def __init__(
        self,
        skill_id: str | None,
        conn_id: str = DEFAULT_CONN_ID,
        statuses: Sequence[str] = ("Processed",),
        poke_interval: float = 60.0,
        include_api: bool = False,
        since: str | None = None,
        overlap: float = 3600.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted = Wanted.of(statuses, include_api, since)
        if not 1 <= poke_interval < math.inf:
            raise ValueError("poke_interval is below 1; ABBYY Vantage asks for a second or more")
        if not 0 <= overlap < math.inf:
            raise ValueError(f"overlap is {overlap!r}; it is a number of seconds")
        if not conn_id:
            raise ValueError("conn_id is empty")
        self.skill_id = skill_id
        self.conn_id = conn_id
        self.statuses = list(statuses)
        self.poke_interval = poke_interval
        self.include_api = include_api
        self.since = since
        self.overlap = overlap

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments; they are stored in plain text and hold no secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "skill_id": self.skill_id,
                "conn_id": self.conn_id,
                "statuses": self.statuses,
                "poke_interval": self.poke_interval,
                "include_api": self.include_api,
                "since": self.since,
                "overlap": self.overlap,
            },
        )

    def shared_stream_key(self) -> Hashable:
        """Watchers of the same connection and skill share their looks."""
        return (
            type(self).__qualname__,
            self.conn_id,
            self.skill_id,
            self.poke_interval,
            self.overlap,
        )

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Make what looks at the list, for all watchers that share it."""
        return _Looks(
            kwargs["conn_id"], kwargs["skill_id"], kwargs["poke_interval"], kwargs["overlap"]
        )

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Any]
    ) -> AsyncIterator[TriggerEvent]:
        """Make events of what was not told before."""
        try:
            teller = Teller(self._cursor(), self._wanted)
            await teller.open()
            async for looks, look in shared_stream:
                told = await teller.take(look)
                if look.last and teller.wants_all:
                    looks.want_all()
                for item, repeated in told:
                    event = {**facts(item), "repeated": repeated}
                    yield TriggerEvent(event)  # type: ignore[no-untyped-call]
        except (Overtaken, AirflowRuntimeError) as error:
            # Airflow starts a trigger that ended at once again, and that one reads everything.
            log.warning("The watcher of ABBYY Vantage starts again soon: %s", error)
            await asyncio.sleep(min(self.poke_interval, _REFUSED_PAUSE))
            raise

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Work without shared streams, and so without word of what Airflow has stored."""
        looks = self.create_shared_stream_producer(self.serialize()[1])

        async def stream() -> AsyncIterator[_Seen]:
            async for seen, _ in looks.open_stream():
                yield seen
                await looks.advance(())

        async for event in self.filter_shared_stream(stream()):
            yield event

    def _cursor(self) -> Cursor:
        stores = _stores_of(self.asset_state_store)
        if not stores:
            log.warning("This watcher of ABBYY Vantage watches for no asset: it forgets at its end")
            stores = [_Memory()]
        return Cursor(stores, f"{self.conn_id}\0{self.skill_id or ''}")


class _Looks(SharedStreamProducer):
    """Looks at the list of completed transactions, in worker threads."""

    def __init__(
        self, conn_id: str, skill_id: str | None, poke_interval: float, overlap: float
    ) -> None:
        self._conn_id = conn_id
        self._skill_id = skill_id
        self._poke_interval = poke_interval
        self._overlap = overlap
        self._client: VantageClient | None = None
        self._list: CompletedList | None = None
        self._failures = 0
        self._next_full = -math.inf
        self._full_wanted = asyncio.Event()
        self._resolved = asyncio.Event()

    def want_all(self) -> None:
        """Ask for a round that reads everything, soon."""
        self._full_wanted.set()

    async def open_stream(self) -> AsyncIterator[tuple[_Seen, None]]:
        """Yield what is seen. Goes on when Airflow has stored all events made of it."""
        clock = asyncio.get_running_loop().time
        while True:
            full = self._full_wanted.is_set() or clock() >= self._next_full
            self._full_wanted.clear()
            pause = self._poke_interval
            try:
                async for look in self._round(full):
                    self._resolved.clear()
                    yield (self, look), None
                    await self._resolved.wait()
            except Exception as error:
                # A watcher that ended would be started again at once, for ever. What other
                # libraries say is not known to be free of secrets.
                clean = isinstance(error, (VantageError, AirflowNotFoundException))
                await self.aclose()
                pause = self._pause_after(error)
                text = error if clean else type(error).__name__
                log.warning("The next look at ABBYY Vantage is in %.0f s: %s", pause, text)
                await asyncio.sleep(pause)
                continue
            self._failures = 0
            if full:
                self._next_full = clock() + FULL_EVERY
            try:
                # Not in step with other watchers.
                await asyncio.wait_for(self._full_wanted.wait(), pause * _random.uniform(0.9, 1.1))
                await asyncio.sleep(min(pause, 1.0))
            except asyncio.TimeoutError:
                pass

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Go on: what was yielded last is settled.

        A watcher that failed meanwhile starts again and asks for everything, so it misses nothing.
        """
        self._resolved.set()

    async def aclose(self) -> None:
        """Close the client. A new one reads the connection again, which may have been mended."""
        client, self._client, self._list = self._client, None, None
        if client is not None:
            await asyncio.to_thread(client.close)

    async def _round(self, full: bool) -> AsyncIterator[Look]:
        if self._list is None:
            self._list = await asyncio.to_thread(self._open_list)
        pages = self._list.look(full=full)
        first = True
        while page := await asyncio.to_thread(_next_page, pages):
            for place in range(0, len(page), _TOGETHER):
                yield Look(page[place : place + _TOGETHER], full, first)
                first = False
        yield Look((), full, first, last=True)

    def _open_list(self) -> CompletedList:
        """Make the client; the connection is read here, in the thread that will use it."""
        from vantage_orchestration.airflow.hooks.vantage import VantageHook

        self._client = VantageHook(self._conn_id)._make_client(retries=_RETRIES)
        return CompletedList(self._client, self._skill_id, overlap=self._overlap)

    def _pause_after(self, error: Exception) -> float:
        self._failures += 1
        self._next_full = -math.inf
        pause = self._poke_interval
        if isinstance(error, VantageError) and error.retryable:
            if error.retry_after is not None:
                return min(max(error.retry_after, pause), _LONGEST_PAUSE)
        else:
            pause = max(pause, _REFUSED_PAUSE)
        return min(pause * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)


_Seen = tuple[_Looks, Look]
"""What was seen, and who can be asked to look at everything."""


def _next_page(pages: Iterator[tuple[ListedTransaction, ...]]) -> Any:
    return next(pages, None)


def _stores_of(accessors: Any) -> list[Store]:
    """Return the state stores of all assets that a trigger watches for."""
    if accessors is None:
        return []
    if accessors._total == 1:
        return [accessors]
    # Equal watchers of several assets are one trigger, and its events go to all of them. The
    # accessors can only be asked for by asset, which a trigger does not know.
    named = [accessors._by_name[name] for name in sorted(accessors._by_name)]
    return named + [accessors._by_uri[uri] for uri in sorted(accessors._by_uri)]


class _Memory:
    """A store for a trigger that watches for no asset."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self._values[key] = value

    async def adelete(self, key: str) -> None:
        self._values.pop(key, None)
