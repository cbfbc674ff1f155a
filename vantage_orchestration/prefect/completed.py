# SPDX-License-Identifier: Apache-2.0
"""Lets automations run flows when ABBYY Vantage has finished a transaction, wherever it came from.

The service has no webhooks. The flow :func:`watch_completed`, deployed on a schedule, looks at its
list of completed transactions, and makes an event of each that is new. What was told is kept in
Prefect Variables named ``abbyy_vantage_completed_...``, so a run may take place on any worker.

How each transaction is told once. The event's id is made of the transaction. What Prefect has
stored under it is not sent again, and what is sent twice within minutes Prefect takes once. A
transaction is noted as told when its event has been read back from Prefect's database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from prefect import flow

from vantage_orchestration.completed import (
    FULL_EVERY,
    CompletedList,
    Cursor,
    Look,
    Teller,
    Wanted,
    facts,
    sent_through_api,
)
from vantage_orchestration.prefect.events import TransactionEvent, deliver
from vantage_orchestration.prefect.token_store import LONGEST_VALUE

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

__all__ = ["watch_completed"]

#: Transactions that are told together; a killed run leaves no more than these in doubt.
_TOGETHER: Final = 50
#: Transactions that the value of a Variable holds, with some room.
_DIGESTS: Final = 450
#: Most skills have fewer in a day. Of hours there would be hundreds of Variables.
_HOURS: Final = 24
_LIST: Final = "list"


@flow(name="abbyy-vantage-watch-completed")
async def watch_completed(
    skill: str | None = None,
    credentials: str = "abbyy-vantage",
    statuses: Sequence[str] = ("Processed",),
    include_api: bool = False,
    since: str | None = None,
    overlap: float = 3600.0,
) -> int:
    """Look once, and make an event of each transaction that ABBYY Vantage has finished since.

    To be deployed on a schedule, one run at a time; more often than each minute gains little. What
    came in by mail, scanner or phone is told when it is through, a manual review included.

    Args:
        skill: Id or exact name of the skill; None for all that the credential may use.
        credentials: Name of the saved "ABBYY Vantage Credentials" block.
        statuses: How the transactions have ended: ``Processed``, ``Failed``, ``Canceled``.
        include_api: Also those that were sent through the API. As a rule, whoever sent them waits
            for them.
        since: Only transactions made since then, as ISO 8601 text. Those that have ended before
            the first look are told as well then; the service keeps them for 14 days. Without it
            they are not, and all that end later are, whenever they were made.
        overlap: Seconds: what was made within them is read at each look. What is older is only
            counted, until a number changes.

    Returns:
        How many were told.

    Event: ``abbyy_vantage.transaction.processed``, or ``.failed`` for all else; see
    :mod:`vantage_orchestration.prefect.events`. Its payload has ``transaction_id``, ``skill_id``,
    ``status``, ``created_at``, ``pages``, ``documents``, ``parameters`` and
    ``credentials``, the name of the block.
    ``parameters`` are the registration parameters of the transaction; events are stored in plain
    text, so there should be no secret among them.

    What is kept belongs to server, block and skill: a change of ``statuses``, ``include_api`` or
    ``since`` holds for what ends from then on.

    Raises:
        ValueError: An argument is not acceptable, or there is no such block.
        VantageError: ABBYY Vantage could not be asked. The next run makes up for it.
        Overtaken: Another run watches for the same at this moment.
    """
    from prefect import get_run_logger
    from prefect.client.orchestration import get_client

    from vantage_orchestration.prefect.credentials import VantageCredentials
    from vantage_orchestration.processing.skills import skill_id_of

    wanted = Wanted.of(tuple(statuses), include_api, since)
    if overlap < 0:
        raise ValueError(f"overlap is {overlap!r}; it is a number of seconds")
    block: VantageCredentials = await VantageCredentials.aload(credentials)
    async with get_client() as prefect:
        with await asyncio.to_thread(block.get_client) as client:
            skill_id = (
                None if skill is None else await asyncio.to_thread(skill_id_of, client, skill)
            )
            cursor = Cursor(
                [_Variables(prefect)],
                f"{client.config.credentials.base_url}\0{credentials}\0{skill_id or ''}",
                digests=_DIGESTS,
                hours=_HOURS,
            )
            told = await _look(client, cursor, wanted, skill_id, credentials, overlap)
    get_run_logger().info("%d transactions of ABBYY Vantage were told", told)
    return told


async def _look(
    client: VantageClient,
    cursor: Cursor,
    wanted: Wanted,
    skill_id: str | None,
    credentials: str,
    overlap: float,
) -> int:
    teller = Teller(cursor, wanted, goes_on=True)
    await teller.open()
    listing = CompletedList(client, skill_id, overlap=overlap)
    now, last_full = time.time(), -FULL_EVERY
    before = await cursor.saved(_LIST)
    if before is not None:
        listing.restore(before)
        last_full = before["full"]
    full = teller.wants_all or not 0 <= now - last_full < FULL_EVERY
    server, told = client.config.credentials.base_url, 0

    async def tell(look: Look) -> None:
        nonlocal told
        found = await teller.take(look)
        if found:
            events = [_event(item, server, credentials) for item, _ in found]
            await asyncio.to_thread(deliver, events, confirm=True)
            told += len(found)

    pages = listing.look(full=full)
    first = True
    while page := await asyncio.to_thread(next, pages, ()):
        for place in range(0, len(page), _TOGETHER):
            await tell(Look(page[place : place + _TOGETHER], full, first))
            first = False
    await tell(Look((), full, first, last=True))
    # Only now: what was read is dealt with.
    await cursor.save({**listing.numbers(), "full": now if full else last_full}, _LIST)
    return told


def _event(item: ListedTransaction, server: str, credentials: str) -> TransactionEvent:
    return TransactionEvent(
        "processed" if item.status == "Processed" else "failed",
        item.id,
        server,
        item.status or "Unknown",
        item.skill_id,
        "api" if sent_through_api(item) else "input",
        {**facts(item), "credentials": credentials},
    )


class _Variables:
    """Keeps the values of a cursor as Prefect Variables."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client

    async def aget(self, key: str, default: Any = None) -> Any:
        """Return the value of a key."""
        variable = await self._client.read_variable_by_name(_name(key))
        return default if variable is None else variable.value

    async def aset(self, key: str, value: Any) -> None:
        """Set the value of a key."""
        import httpx
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate

        if len(json.dumps(value)) > LONGEST_VALUE:
            raise ValueError(f"The value of {_name(key)} is longer than Prefect allows")
        try:
            await self._client.update_variable(VariableUpdate(name=_name(key), value=value))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            await self._client.create_variable(VariableCreate(name=_name(key), value=value))

    async def adelete(self, key: str) -> None:
        """Remove a key, if there is one."""
        from prefect.exceptions import ObjectNotFound

        with contextlib.suppress(ObjectNotFound):
            await self._client.delete_variable_by_name(_name(key))


def _name(key: str) -> str:
    return key.replace("/", "_")
