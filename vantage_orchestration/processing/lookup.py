# SPDX-License-Identifier: Apache-2.0
"""Finds transactions by their keys in the lists of active and completed ones (contract, 3.2).

What it costs does not depend on how many transactions others have. A key is asked for by a filter,
once the server has shown that it understands it. Its encoding is uncertain (contract, section 9),
and a server that misreads it answers with an empty list. So an empty answer proves nothing until
the same filter has found a transaction that is known to be listed.

Where the filter is unreliable, the lists are read once for all tasks of a host. The first task
reads both, notes transactions with one of our keys, and counts all. For some minutes, the next
tasks only request how many of them, except the newest, are still listed. If that is unchanged, only
the newest and later transactions are read: four short requests. Otherwise both lists are read
again.

One gap remains: the lists are an index, which may lag. A transaction that was created a moment
before a crash, and whose id was not recorded, may not be listed yet when the next try searches. So
the ledger (:mod:`vantage_orchestration.processing.ledger`) comes first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.errors import BadRequest, NotFound, translated
from vantage_orchestration.limits import RETENTION_DAYS
from vantage_orchestration.processing.host_notes import HostNote
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.status import Status
from vantage_orchestration.stored import Stored

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction, Page

_Read = Callable[..., "Page"]

#: Up to so many keys are searched one by one. For more, all transactions of this package are
#: listed, if the server can do that.
_FEW: Final = 3
#: Beyond so many, both lists are read instead.
_MANY: Final = 100
#: Encodings of the filter, the manual's example first.
_ENCODINGS: Final[Sequence[str]] = ("json", "indexed")
#: Listed transactions to search for one with a registration parameter.
_SAMPLE: Final = 20
#: Seconds after its creation within which a transaction may be listed late. A number that stays the
#: same says nothing of these: another one may have been deleted.
_LATE: Final = 300.0
#: Most of these that are read each time.
_SHORT: Final = 500
#: Seconds until a test without a result is repeated: a suitable transaction may be listed soon.
_UNKNOWN_FOR: Final = 30.0


class KeyFilter(NamedTuple):
    """How a server filters its lists by a registration parameter.

    Attributes:
        encoding: Encoding that it understands; empty if none, or if the test has no result.
        any_value: Whether it also finds a key without a value.
    """

    encoding: str
    any_value: bool


#: The manual's example, before any test.
GUESS: Final = KeyFilter(_ENCODINGS[0], any_value=True)
_NONE: Final = KeyFilter("", any_value=False)


@dataclass(frozen=True, slots=True)
class _Row(Stored):
    """A list's entry for one transaction of this package.

    Attributes:
        id: Transaction.
        key: Its key.
        processed: Whether it was processed.
        failed: Whether it failed or was cancelled.
        created: When it was created, in seconds since the epoch; 0 if not reported.
    """

    id: str
    key: str
    processed: bool
    failed: bool
    created: float

    @classmethod
    def of(cls, item: ListedTransaction) -> _Row:
        """Return the row of a transaction that carries one of our keys."""
        status = item.status
        return cls(
            item.id,
            item.parameters[KEY_PARAMETER],
            bool(status and status.is_success),
            bool(status and status.is_failure),
            0.0 if item.created_at is None else item.created_at.timestamp(),
        )


@translated
def find_transactions(
    client: VantageClient, keys: Collection[str], *, skill_id: str, since: DateTime
) -> dict[str, str]:
    """Return the transactions with these keys that an earlier try has made, by key. A day before
    the run began is searched as well, since clocks differ.

    Failed and cancelled ones do not count. Transactions that were created but not started are found
    if the service lists them as active; that is not documented.
    """
    wanted = set(keys)
    if not wanted:
        return {}
    import pendulum

    now = pendulum.now("UTC")
    # Not in the future either: the window ends at the server's current time.
    start = max(min(since, now).subtract(days=1), now.subtract(days=RETENTION_DAYS + 1))
    rows = _rows(client, wanted, skill_id, start)
    candidates: dict[str, dict[str, _Row]] = {}
    for row in rows:
        if row.key in wanted:
            # What ended between the two lists is seen twice: the later look counts.
            candidates.setdefault(row.key, {})[row.id] = row
    return {
        key: chosen
        for key, those in candidates.items()
        if (chosen := _choose(client, [row for row in those.values() if not row.failed]))
    }


def _rows(client: VantageClient, keys: set[str], skill_id: str, start: DateTime) -> Sequence[_Row]:
    """Return what is listed with these keys, and perhaps with others of this package."""
    filtered = partial(_filtered, client, keys, skill_id=skill_id, start_date=start)
    few, known = len(keys) <= _FEW, key_filter(client)
    rows = filtered(known or GUESS)
    if known is None:
        found = {row.key for row in rows or ()}
        if found and (not few or found == keys):
            return rows or ()  # No other proof is needed that this filter finds what is listed.
        known = key_filter(client) or _tested(client, start, _ENCODINGS[rows is None :])
        guessed = rows is not None and known.encoding == GUESS.encoding
        if not guessed or not (few or known.any_value):
            rows = filtered(known)
    if rows is None:
        if known.encoding:
            _note(client).write(_NONE)
        return _shared_rows(client, skill_id, start)
    return rows


def _filtered(
    client: VantageClient, keys: set[str], given: KeyFilter, **window: Any
) -> list[_Row] | None:
    """Return what the server's filter lets through; None if it does not filter."""
    if not given.encoding:
        return None
    wanted: list[str | None] = list(keys)
    if len(keys) > _FEW:
        if given.any_value:
            wanted = [None]
        elif len(keys) > _MANY:
            return None
    rows = []
    try:
        for key in wanted:
            window |= {"parameters": {KEY_PARAMETER: key}, "parameter_encoding": given.encoding}
            for item in _listed(client, **window):
                found = item.parameters.get(KEY_PARAMETER)
                if not found or key not in (None, found):
                    return None
                rows.append(_Row.of(item))
    except BadRequest:
        return None
    return rows


def _choose(client: VantageClient, candidates: list[_Row]) -> str | None:
    """Choose among transactions with the same key: one that was charged before one that was not.

    There are several if the reply to a creation was lost and the creation was repeated.
    """
    if len(candidates) < 2:
        return candidates[0].id if candidates else None
    candidates.sort(key=lambda each: (not each.processed, each.created, each.id))
    if candidates[0].processed:
        return candidates[0].id
    first_new = None
    for candidate in candidates:
        try:
            status = client.get_transaction(candidate.id).status
        except NotFound:
            continue
        if status is Status.NEW:
            first_new = first_new or candidate.id
        elif not status.is_failure:
            return candidate.id
    return first_new


# ---------------------------------------------------------------- the filter


def key_filter(client: VantageClient) -> KeyFilter | None:
    """Return how the server filters; None if that was not tested lately."""
    return _note(client).read(lambda data: KeyFilter(*data))


def _note(client: VantageClient) -> HostNote:
    return HostNote(client, "key filter")


def _tested(client: VantageClient, start: DateTime, encodings: Sequence[str]) -> KeyFilter:
    """Test how the server filters. It takes two to five requests, of a few entries each, once in
    ten minutes, and transactions that were created since ``start``."""
    for read in (client.list_completed_transactions, client.list_active_transactions):
        items = read(limit=_SAMPLE, start_date=start).items
        known = [(*pair, item) for item in items for pair in item.parameters.items() if all(pair)]
        if known:
            # One of our keys if there is any.
            key, value, item = min(known, key=lambda each: each[0] != KEY_PARAMETER)
            found = _NONE
            # Together with the other filters that are used with it.
            window: dict[str, Any] = {"skill_id": item.skill_id, "start_date": start}
            for encoding in encodings:
                filtered = partial(read, parameter_encoding=encoding, **window)
                if _finds(filtered, key, value):
                    found = KeyFilter(encoding, any_value=_finds(filtered, key, None))
                    break
            _note(client).write(found)
            return found
    _note(client).remember(_NONE, _UNKNOWN_FOR)
    return _NONE


def _finds(read: _Read, key: str, value: str | None) -> bool:
    """Return whether a filter finds the known transaction, and nothing that does not match."""
    try:
        items = read(limit=2, parameters={key: value}).items
    except BadRequest:
        return False
    return bool(items) and all(
        key in each.parameters and value in (None, each.parameters[key]) for each in items
    )


# ----------------------------------------------------------- the whole lists


@dataclass(frozen=True, slots=True)
class _Reading(Stored):
    """The content of both lists.

    Attributes:
        at: When reading began, in seconds since the epoch.
        start: Earliest creation time of the entries, likewise.
        settled: Creation time, by the server's clock, likewise, before which nothing is listed late
            any more; None without entries.
        total: Number of entries until then.
        rows: Entries of this package.
    """

    at: float
    start: float
    settled: float | None
    total: int
    rows: tuple[_Row, ...]


def _listed(client: VantageClient, **filters: Any) -> Iterator[ListedTransaction]:
    """Yield active, then ended transactions; filters as for the client's lists.

    In this order, a transaction that ends in between is seen in the second list.
    """
    yield from client.iter_active_transactions(**filters)
    yield from client.iter_completed_transactions(**filters)


def _shared_rows(client: VantageClient, skill_id: str, start: DateTime) -> Sequence[_Row]:
    """Return all listed transactions of this package that were created since then, and perhaps some
    from an hour before, without trusting any filter by their keys."""
    asked = time.time()
    # Tasks begin at different moments. A reading must not be useless for the one that began a
    # second earlier than its reader.
    start = start.start_of("hour")
    note = HostNote(client, "lists", skill_id, large=True)

    def built_upon() -> Sequence[_Row] | None:
        found = note.read(_Reading.read)
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
        note.write(made.to_json())
    return made.rows


def _read(client: VantageClient, skill_id: str, start: DateTime) -> _Reading:
    at = time.time()
    made: dict[str, float | None] = {}
    # A transaction that ended between the two lists is seen twice: the later state counts.
    rows: dict[str, _Row] = {}
    for item in _listed(client, skill_id=skill_id, start_date=start):
        made[item.id] = None if item.created_at is None else item.created_at.timestamp()
        if item.parameters.get(KEY_PARAMETER):
            rows[item.id] = _Row.of(item)
    settled, total = max(filter(None, made.values()), default=None), 0
    if settled is not None:
        # The newest are read each time, but not more of them than a short request gets.
        newest = sorted(filter(None, made.values()), reverse=True)
        before = newest[_SHORT] if len(newest) > _SHORT else 0.0
        # In whole milliseconds, as times are sent.
        settled = (math.floor(max(settled - _LATE, before) * 1000) + 1) / 1000
        total = sum(each is None or each <= settled for each in made.values())
    return _Reading(at, start.timestamp(), settled, total, tuple(rows.values()))


def _with_new(client: VantageClient, skill_id: str, before: _Reading) -> Sequence[_Row] | None:
    """Return the earlier and newer rows; None if the lists must be read again."""
    import pendulum

    if before.settled is None or before.settled <= before.start:
        return None
    settled = pendulum.from_timestamp(before.settled)
    window: dict[str, Any] = {
        "skill_id": skill_id,
        "start_date": pendulum.from_timestamp(before.start),
        "end_date": settled,
    }
    active = client.list_active_transactions(limit=1, **window).total
    if active + client.list_completed_transactions(limit=1, **window).total != before.total:
        return None
    kept = [row for row in before.rows if row.created <= before.settled]
    return (*kept, *_read(client, skill_id, settled).rows)
