# SPDX-License-Identifier: Apache-2.0
"""Finds transactions in the lists of active and completed ones (contract, section 3.2).

What can't be excluded: the lists are an index, and an index may lag. A transaction that was made a
moment before a crash, and whose id was not noted anywhere, may not be listed yet when the next try
looks. The ledger (:mod:`vantage_orchestration.processing.ledger`) comes first for that reason.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import BadRequest, NotFound, translated
from vantage_orchestration.limits import RETENTION_DAYS
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.status import Status

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

__all__ = ["find_transactions", "listed_as_completed"]

log = logging.getLogger(__name__)

#: Up to so many keys are asked for one by one; for more, one look at all is cheaper.
_FEW = 3
_MOST_LOOKED_AT = 5000
_ENCODINGS = ("json", "indexed")


@dataclass(frozen=True, slots=True)
class _Candidate:
    id: str
    processed: bool
    created_at: DateTime | None


@translated
def find_transactions(
    client: VantageClient, keys: Collection[str], *, skill_id: str, since: DateTime
) -> dict[str, str]:
    """Return the transactions with these keys that can be gone on with.

    Those that failed or were cancelled do not count. Transactions that were made but not started
    are found if the service lists them among the active ones; whether it does is not documented.

    Args:
        client: Client.
        keys: See :func:`vantage_orchestration.processing.keys.unit_key`.
        skill_id: Skill of the transactions.
        since: When the run began. A day more is searched, since clocks differ.

    Returns:
        Key to transaction id; a key of which nothing was found is missing.

    A key is first asked for by a filter, in both of the encodings that the server may want. It is
    compared here as well, and a filter that finds nothing is not believed: a server that misreads
    it would hide the transaction, which would then be charged twice (contract, section 9).
    """
    wanted = set(keys)
    if not wanted:
        return {}
    window = {"skill_id": skill_id, "start_date": _window(since)}
    found: dict[str, str] = {}
    if len(wanted) <= _FEW:
        for key in sorted(wanted):
            for encoding in _ENCODINGS:
                filters = {"parameters": {KEY_PARAMETER: key}, "parameter_encoding": encoding}
                try:
                    found |= _search(client, {key}, {**window, **filters})
                except BadRequest:
                    log.debug("The server does not take the filter in the encoding %s", encoding)
                if key in found:
                    break
    if rest := wanted - found.keys():
        found |= _search(client, rest, window)
    return found


@translated
def listed_as_completed(
    client: VantageClient, ids: Collection[str], *, skill_id: str | None, since: DateTime
) -> dict[str, ListedTransaction]:
    """Return what the list of completed transactions says of some of them: pages, time of making.

    Args:
        client: Client.
        ids: Transactions.
        skill_id: Their skill, if all have the same.
        since: When the oldest was made.

    Returns:
        Id in lower case to entry. What is not listed (yet) is missing, and so is what lies behind
        the first 5000 entries: these details are not worth reading a large tenant's whole list.
    """
    wanted, found = {each.lower() for each in ids}, {}
    items = client.iter_completed_transactions(skill_id=skill_id, start_date=_window(since))
    for item in itertools.islice(items, _MOST_LOOKED_AT):
        if (name := item.id.lower()) in wanted:
            found[name] = item
            if len(found) == len(wanted):
                break
    return found


def _window(since: DateTime) -> DateTime:
    import pendulum

    now = pendulum.now("UTC")
    # Not in the future either: the end of the window is the server's present.
    return max(min(since, now).subtract(days=1), now.subtract(days=RETENTION_DAYS + 1))


def _search(client: VantageClient, keys: set[str], filters: dict[str, Any]) -> dict[str, str]:
    candidates: dict[str, dict[str, _Candidate]] = {}
    for key, candidate in _candidates(client, keys, filters):
        # What ended between the two lists is seen twice: the later look counts.
        candidates.setdefault(key, {})[candidate.id] = candidate
    return {
        key: chosen
        for key, those in candidates.items()
        if (chosen := _choose(client, list(those.values()))) is not None
    }


def _candidates(
    client: VantageClient, keys: set[str], filters: dict[str, Any]
) -> Iterator[tuple[str, _Candidate]]:
    # In this order: what ends between the two calls is seen by the second.
    for item in client.iter_active_transactions(**filters):
        key = item.parameters.get(KEY_PARAMETER)
        if key in keys:
            yield str(key), _Candidate(item.id, False, item.created_at)
    for item in client.iter_completed_transactions(**filters):
        key = item.parameters.get(KEY_PARAMETER)
        if key in keys and not (item.status and item.status.is_failure):
            yield str(key), _Candidate(item.id, True, item.created_at)


def _choose(client: VantageClient, candidates: list[_Candidate]) -> str | None:
    """Choose among transactions with the same key: one that was charged before one that was not.

    There are several if the reply to a creation was lost and the creation repeated.
    """
    if len(candidates) == 1:
        return candidates[0].id
    candidates.sort(key=lambda each: (not each.processed, str(each.created_at or ""), each.id))
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
