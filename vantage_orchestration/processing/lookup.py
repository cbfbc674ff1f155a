# SPDX-License-Identifier: Apache-2.0
"""Finds transactions by their keys in the lists of active and completed ones (contract, 3.2).

What it costs does not depend on how many transactions others have: a key is asked for by a filter,
once the server has shown that it understands it (:mod:`.key_filter`). Where it does not, the lists
are read once for all tasks of a host (:mod:`.shared_lists`).

One gap remains: the lists are an index, which may lag. A transaction that was created a moment
before a crash, and whose id was not recorded, may not be listed yet when the next try searches. So
the ledger (:mod:`vantage_orchestration.processing.ledger`) comes first.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import BadRequest, NotFound, translated
from vantage_orchestration.limits import RETENTION_DAYS
from vantage_orchestration.processing.key_filter import (
    ENCODINGS,
    GUESS,
    Proof,
    disprove,
    is_known,
    proof_of,
)
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.processing.shared_lists import Row, read_lists, shared_rows
from vantage_orchestration.status import Status

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient

log = logging.getLogger(__name__)

#: Up to so many keys are asked for one by one. For more, all transactions of this package are
#: listed, if the server can do that.
_FEW: Final = 3
#: Beyond so many, both lists are read instead.
_MANY: Final = 100


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
    rows = _rows(client, wanted, skill_id, _window(since))
    candidates: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.key in wanted:
            # What ended between the two lists is seen twice: the later look counts.
            candidates.setdefault(row.key, {})[row.id] = row
    return {
        key: chosen
        for key, those in candidates.items()
        if (chosen := _choose(client, [row for row in those.values() if not row.failed]))
    }


def _rows(client: VantageClient, keys: set[str], skill_id: str, start: DateTime) -> Sequence[Row]:
    """Return what is listed with these keys, and perhaps with others of this package."""
    filtered = partial(_filtered, client, keys, skill_id=skill_id, start_date=start)
    few, rows, encodings = len(keys) <= _FEW, None, ENCODINGS
    if not is_known(client):
        rows = filtered(GUESS)
        if rows is None:
            encodings = ENCODINGS[1:]
        found = {row.key for row in rows or ()}
        if found and (not few or found == keys):
            return rows or ()  # No other proof is needed that this filter finds what is listed.
    if proof := proof_of(client, start, encodings):
        guessed = rows is not None and proof.encoding == GUESS.encoding
        if not guessed or not (few or proof.any_value):
            rows = filtered(proof)
        if rows is not None:
            return rows
        disprove(client)
    return shared_rows(client, skill_id, start)


def _window(since: DateTime) -> DateTime:
    import pendulum

    now = pendulum.now("UTC")
    # Not in the future either: the window ends at the server's current time.
    return max(min(since, now).subtract(days=1), now.subtract(days=RETENTION_DAYS + 1))


def _filtered(
    client: VantageClient, keys: set[str], proof: Proof, **window: Any
) -> list[Row] | None:
    """Return what the server's filter lets through; None if it turns out not to filter."""
    wanted: list[str | None] = list(keys)
    if len(keys) > _FEW:
        if proof.any_value:
            wanted = [None]
        elif len(keys) > _MANY:
            return None
    rows = []
    try:
        for key in wanted:
            for item in read_lists(client, **window, **proof.by_key(key)):
                found = item.parameters.get(KEY_PARAMETER)
                if not found or key not in (None, found):
                    return None
                rows.append(Row.of(item))
    except BadRequest:
        return None
    return rows


def _choose(client: VantageClient, candidates: list[Row]) -> str | None:
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
