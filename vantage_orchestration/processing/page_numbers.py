# SPDX-License-Identifier: Apache-2.0
"""Reads pages and creation times, which only the list of completed transactions contains."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.errors import BadRequest, Forbidden, NotFound, translated
from vantage_orchestration.limits import LONGEST_PAGE, RETENTION_DAYS
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction
    from vantage_orchestration.processing.submit import Part

log = logging.getLogger(__name__)

#: Up to this number, transactions are searched by their own keys.
_FEW: Final = 3
#: Most entries to read with one filter.
_MOST_LOOKED_AT: Final = 5 * LONGEST_PAGE
#: Seconds around the creation time: between the clocks of two well-kept machines, of any two that
#: work, and of those that do not.
_CLOSE, _NEAR, _FAR = 5.0, 600.0, 86400.0


@translated
def listed_as_completed(
    client: VantageClient, parts: Iterable[Part], *, skill_id: str | None
) -> dict[str, ListedTransaction]:
    """Return the entries of some transactions in the list of completed ones, by their ids in lower
    case: pages, creation time. Those that are not listed yet are missing.

    A few are searched by their keys, more by the minutes of their creation and the name of our key.
    So other people's transactions cost nothing, and the order of the list does not matter. Only a
    server that ignores or misreads the filter needs a second request.
    """
    wanted = {part.transaction_id.lower(): part for part in parts}
    found: dict[str, ListedTransaction] = {}
    for filters in _looks(client, wanted):
        if len(found) == len(wanted):
            break
        try:
            _read(client, {"skill_id": skill_id, **filters}, wanted, found)
        except BadRequest as error:
            # Because of the filter, or of a time in the future by the server's clock.
            log.debug("The list of completed transactions was refused: %s", error)
    return found


def _looks(client: VantageClient, wanted: Mapping[str, Part]) -> Iterator[dict[str, Any]]:
    """Yield filters of the list: by one of our keys, all of them (None) or none, and by times."""
    if not wanted:
        return
    few, timed = len(wanted) <= _FEW, all(each.created for each in wanted.values())
    if few:
        for name, each in wanted.items():
            if key := each.key or _key_of(client, name):
                yield {"parameters": {KEY_PARAMETER: key}, **_window(wanted, _FAR)}
    else:
        yield {"parameters": {KEY_PARAMETER: None}, **_window(wanted, _NEAR)}
    for margin in (_CLOSE, _NEAR) if timed else (_FAR,):
        yield _window(wanted, margin)
    if timed and not few:
        yield {"parameters": {KEY_PARAMETER: None}, **_window(wanted, _FAR)}


def _window(wanted: Mapping[str, Part], margin: float) -> dict[str, DateTime | None]:
    import pendulum

    now = pendulum.now("UTC")
    times = [pendulum.from_timestamp(each.created) for each in wanted.values()]
    start = max(min(times).subtract(seconds=margin), now.subtract(days=RETENTION_DAYS + 1))
    end = max(times).add(seconds=margin)
    # The server uses its own current time, whatever this machine's clock says.
    return {"start_date": start, "end_date": end if start < end < now else None}


def _key_of(client: VantageClient, transaction_id: str) -> str | None:
    try:
        return client.get_registration_parameters(transaction_id).get(KEY_PARAMETER)
    except (BadRequest, Forbidden, NotFound):
        return None


def _read(
    client: VantageClient,
    filters: dict[str, Any],
    wanted: Mapping[str, Part],
    found: dict[str, ListedTransaction],
) -> None:
    most = _MOST_LOOKED_AT
    for number, item in enumerate(client.iter_completed_transactions(**filters), 1):
        if (name := item.id.lower()) in wanted:
            found[name] = item
        if "parameters" in filters and KEY_PARAMETER not in item.parameters:
            most = LONGEST_PAGE  # The server leaves the filter out; a closer look costs less.
        if len(found) == len(wanted) or number >= most:
            return
