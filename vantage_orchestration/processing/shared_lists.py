# SPDX-License-Identifier: Apache-2.0
"""Reads the lists of transactions once for all tasks of a host that search for their keys.

This is for servers with an unreliable filter. The first task reads both lists, notes transactions
with one of our keys, and counts all. For some minutes, the next tasks only request the number of
transactions listed from that time. If it is unchanged, nothing was listed late or deleted, and only
newer transactions are read: four short requests. Otherwise both lists are read again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.processing.host_notes import HostNote
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

#: Seconds for which a reading is reused.
_KEPT: Final = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """A list's entry for one transaction of this package.

    Attributes:
        id: Transaction.
        key: Its key.
        processed: Whether it was processed.
        failed: Whether it failed or was cancelled.
        created: When it was created, as text that sorts; empty if not reported.
    """

    id: str
    key: str
    processed: bool
    failed: bool
    created: str

    @classmethod
    def of(cls, item: ListedTransaction) -> Row:
        """Return the row of a transaction that carries one of our keys."""
        status = item.status
        return cls(
            item.id,
            item.parameters[KEY_PARAMETER],
            bool(status and status.is_success),
            bool(status and status.is_failure),
            str(item.created_at or ""),
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    """The content of both lists.

    Attributes:
        at: When reading began, in seconds since the epoch.
        start: Earliest creation time of the entries, likewise.
        newest: Latest creation time of all entries, by the server's clock, likewise; None without
            entries.
        total: Number of entries.
        rows: Entries of this package.
    """

    at: float
    start: float
    newest: float | None
    total: int
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, data: Any) -> _Reading:
        return cls(**{**data, "rows": tuple(Row(**row) for row in data["rows"])})


def read_lists(client: VantageClient, **filters: Any) -> Iterator[ListedTransaction]:
    """Yield active, then ended transactions; filters as for the client's lists.

    In this order, a transaction that ends in between is seen in the second list.
    """
    yield from client.iter_active_transactions(**filters)
    yield from client.iter_completed_transactions(**filters)


def shared_rows(client: VantageClient, skill_id: str, start: DateTime) -> Sequence[Row]:
    """Return all listed transactions of this package that were created since then, and perhaps some
    from an hour before, without trusting any filter by their keys."""
    asked = time.time()
    # Tasks begin at different moments. A reading must not be useless for the one that began a
    # second earlier than its reader.
    start = start.start_of("hour")
    note = HostNote(client, "lists", skill_id, kept=_KEPT)

    def built_upon() -> Sequence[Row] | None:
        found = note.read(_Reading.of)
        if found is None or found.start > start.timestamp():
            return None
        return found.rows if found.at >= asked else _with_new(client, skill_id, found)

    if (rows := built_upon()) is not None:
        return rows
    with note.alone():
        # Another task may have read them meanwhile.
        if (rows := built_upon()) is not None:
            return rows
        made = _read(client, skill_id, start)
        note.write(asdict(made))
    return made.rows


def _read(client: VantageClient, skill_id: str, start: DateTime) -> _Reading:
    at, newest = time.time(), None
    ids: set[str] = set()
    # A transaction that ended between the two lists is seen twice: the later state counts.
    rows: dict[str, Row] = {}
    for item in read_lists(client, skill_id=skill_id, start_date=start):
        ids.add(item.id)
        if item.created_at is not None:
            newest = max(newest or 0.0, item.created_at.timestamp())
        if item.parameters.get(KEY_PARAMETER):
            rows[item.id] = Row.of(item)
    return _Reading(at, start.timestamp(), newest, len(ids), tuple(rows.values()))


def _with_new(client: VantageClient, skill_id: str, before: _Reading) -> Sequence[Row] | None:
    """Return the earlier and newer rows; None if the lists must be read again."""
    import pendulum

    if before.newest is None:
        return None
    # In whole milliseconds, as times are sent: nothing in the last one may be lost.
    cut, end = (round_(before.newest * 1000) / 1000 for round_ in (math.floor, math.ceil))
    window: dict[str, Any] = {
        "skill_id": skill_id,
        "start_date": pendulum.from_timestamp(before.start),
        "end_date": pendulum.from_timestamp(end),
    }
    active = client.list_active_transactions(limit=1, **window).total
    if active + client.list_completed_transactions(limit=1, **window).total != before.total:
        return None
    new = _read(client, skill_id, pendulum.from_timestamp(cut))
    return (*before.rows, *new.rows)
