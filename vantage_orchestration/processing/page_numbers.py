# SPDX-License-Identifier: Apache-2.0
"""Reads pages and creation times, which only the list of completed transactions contains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.errors import BadRequest, Forbidden, NotFound, translated
from vantage_orchestration.limits import LONGEST_PAGE, RETENTION_DAYS
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction

log = logging.getLogger(__name__)

#: Up to this number, transactions are searched by their own keys.
_FEW: Final = 3
#: Most entries to read with one filter.
_MOST_LOOKED_AT: Final = 5 * LONGEST_PAGE
#: Seconds around the creation time: between the clocks of two well-kept machines, of any two that
#: work, and of those that do not.
_CLOSE, _NEAR, _FAR = 5.0, 600.0, 86400.0


class Made(NamedTuple):
    """What is known of the creation of a transaction.

    Attributes:
        key: Its key; empty if unknown.
        at: When it was created, in seconds since the epoch by this machine's clock; 0 if unknown.
    """

    key: str = ""
    at: float = 0.0


class _Look(NamedTuple):
    """A filter: one of our keys, None for all of them, or no key at all; and the times."""

    parameters: Mapping[str, str | None]
    start: DateTime
    end: DateTime | None


@translated
def listed_as_completed(
    client: VantageClient, made: Mapping[str, Made], *, skill_id: str | None
) -> dict[str, ListedTransaction]:
    """Return the entries of some transactions in the list of completed ones, by their ids in lower
    case: pages, creation time. Those that are not listed yet are missing.

    A few are searched by their keys, more by the minutes of their creation and the name of our key.
    So other people's transactions cost nothing, and the order of the list does not matter. Only a
    server that ignores or misreads the filter needs a second request.
    """
    wanted = {name.lower(): each for name, each in made.items()}
    found: dict[str, ListedTransaction] = {}
    for look in _looks(client, wanted):
        if len(found) == len(wanted):
            break
        filters: dict[str, Any] = {
            "skill_id": skill_id,
            "start_date": look.start,
            "end_date": look.end,
        }
        if look.parameters:
            filters["parameters"] = look.parameters
        try:
            _read(client, filters, wanted, found)
        except BadRequest as error:
            # Because of the filter, or of a time in the future by the server's clock.
            log.debug("The list of completed transactions was refused: %s", error)
    return found


def _looks(client: VantageClient, wanted: Mapping[str, Made]) -> Iterator[_Look]:
    if not wanted:
        return
    few, timed = len(wanted) <= _FEW, all(each.at for each in wanted.values())
    if few:
        for name, each in wanted.items():
            if key := each.key or _key_of(client, name):
                yield _Look({KEY_PARAMETER: key}, *_window(wanted, _FAR))
    else:
        yield _Look({KEY_PARAMETER: None}, *_window(wanted, _NEAR))
    for margin in (_CLOSE, _NEAR) if timed else (_FAR,):
        yield _Look({}, *_window(wanted, margin))
    if timed and not few:
        yield _Look({KEY_PARAMETER: None}, *_window(wanted, _FAR))


def _window(wanted: Mapping[str, Made], margin: float) -> tuple[DateTime, DateTime | None]:
    import pendulum

    now = pendulum.now("UTC")
    times = [pendulum.from_timestamp(each.at) for each in wanted.values()]
    start = max(min(times).subtract(seconds=margin), now.subtract(days=RETENTION_DAYS + 1))
    end = max(times).add(seconds=margin)
    # The server uses its own current time, whatever this machine's clock says.
    return start, end if start < end < now else None


def _key_of(client: VantageClient, transaction_id: str) -> str | None:
    try:
        return client.get_registration_parameters(transaction_id).get(KEY_PARAMETER)
    except (BadRequest, Forbidden, NotFound):
        return None


def _read(
    client: VantageClient,
    filters: dict[str, Any],
    wanted: Mapping[str, Made],
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
