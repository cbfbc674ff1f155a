# SPDX-License-Identifier: Apache-2.0
"""Learns whether a server understands the filter of its lists by a registration parameter.

How the server wants this filter encoded is uncertain (contract, section 9), and a server that
misreads it answers with an empty list. So an empty answer proves nothing until the same filter has
found something that is known to be listed. That is tried here, once per process and account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.errors import BadRequest
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction, Page

__all__ = ["ENCODINGS", "GUESS", "Proof", "disprove", "forget_proofs", "is_known", "proof_of"]

#: Encodings of the filter, the manual's example first.
ENCODINGS: Final[Sequence[str]] = ("json", "indexed")
#: Listed transactions among which one with a registration parameter is sought.
_SAMPLE: Final = 20
#: Seconds for which a process believes what it has learnt.
_KEPT: Final = 600.0
#: Seconds for which it believes that nothing could be learnt: a transaction may be listed soon.
_UNKNOWN_FOR: Final = 30.0


class Proof(NamedTuple):
    """What the control has shown.

    Attributes:
        encoding: Encoding in which the server understands the filter.
        any_value: Whether it also finds a key without a value.
    """

    encoding: str
    any_value: bool

    def by_key(self, key: str | None) -> dict[str, Any]:
        """Return the filter for one of our keys, or for all of them."""
        return {"parameters": {KEY_PARAMETER: key}, "parameter_encoding": self.encoding}


#: What the manual's example says, before anything is shown.
GUESS: Final = Proof(ENCODINGS[0], any_value=True)

_proofs: dict[tuple[str, ...], tuple[Proof | None, float]] = {}


def is_known(client: VantageClient) -> bool:
    """Return whether a control was tried lately, whatever it has shown."""
    _, until = _proofs.get(client.config.credentials.account, (None, 0.0))
    return time.monotonic() < until


def proof_of(
    client: VantageClient, start: DateTime, encodings: Sequence[str] = ENCODINGS
) -> Proof | None:
    """Return how the server filters; None if that could not be shown.

    Takes two to five requests, of a few entries each, the first time in ten minutes.

    Args:
        client: Client.
        start: From which time of making on a listed transaction is sought.
        encodings: Those that may be right.
    """
    account = client.config.credentials.account
    proof, until = _proofs.get(account, (None, 0.0))
    if time.monotonic() >= until:
        proof = _control(client, start, encodings)
        _proofs[account] = (proof, time.monotonic() + (_KEPT if proof else _UNKNOWN_FOR))
    return proof


def disprove(client: VantageClient) -> None:
    """Note that the server has answered with what the filter leaves out."""
    _proofs[client.config.credentials.account] = (None, time.monotonic() + _KEPT)


def forget_proofs() -> None:
    """Forget what was learnt, so that the servers are tried again."""
    _proofs.clear()


def _control(client: VantageClient, start: DateTime, encodings: Sequence[str]) -> Proof | None:
    for read in (client.list_completed_transactions, client.list_active_transactions):
        if (known := _known(read(limit=_SAMPLE, start_date=start).items)) is None:
            continue
        key, value = known
        for encoding in encodings:
            filters: dict[str, Any] = {"start_date": start, "parameter_encoding": encoding}
            if _finds(partial(read, **filters), key, value):
                return Proof(encoding, any_value=_finds(partial(read, **filters), key, None))
        return None
    return None


def _known(items: Sequence[ListedTransaction]) -> tuple[str, str] | None:
    """Return a registration parameter of a listed transaction, one of our keys if there is any."""
    pairs = [pair for item in items for pair in item.parameters.items() if all(pair)]
    return min(pairs, key=lambda pair: pair[0] != KEY_PARAMETER, default=None)


def _finds(read: Callable[..., Page], key: str, value: str | None) -> bool:
    """Return whether a filter finds what is known to be listed, and nothing else."""
    try:
        items = read(limit=2, parameters={key: value}).items
    except BadRequest:
        return False
    return bool(items) and all(
        key in each.parameters and value in (None, each.parameters[key]) for each in items
    )
