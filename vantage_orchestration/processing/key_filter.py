# SPDX-License-Identifier: Apache-2.0
"""Learns whether a server understands the filter of its lists by a registration parameter.

The encoding of this filter is uncertain (contract, section 9), and a server that misreads it
answers with an empty list. So an empty answer proves nothing until the same filter has found a
transaction that is known to be listed. That is tested here, once per host and account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vantage_orchestration.errors import BadRequest
from vantage_orchestration.processing.host_notes import HostNote
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction, Page

_Read = Callable[..., "Page"]

#: Encodings of the filter, the manual's example first.
ENCODINGS: Final[Sequence[str]] = ("json", "indexed")
#: Listed transactions to search for one with a registration parameter.
_SAMPLE: Final = 20
#: Seconds for which a host keeps the result of the test.
_KEPT: Final = 600.0
#: Seconds until a test without a result is repeated: a suitable transaction may be listed soon.
_UNKNOWN_FOR: Final = 30.0


class Proof(NamedTuple):
    """The result of the test.

    Attributes:
        encoding: Encoding that the server understands.
        any_value: Whether it also finds a key without a value.
    """

    encoding: str
    any_value: bool

    def by_key(self, key: str | None) -> dict[str, Any]:
        """Return the filter for one of our keys, or for all of them."""
        return {"parameters": {KEY_PARAMETER: key}, "parameter_encoding": self.encoding}


#: The manual's example, before any test.
GUESS: Final = Proof(ENCODINGS[0], any_value=True)

_proofs: dict[tuple[str, ...], tuple[Proof | None, float]] = {}


def is_known(client: VantageClient) -> bool:
    """Return whether the test was run lately, whatever its result."""
    account = client.config.credentials.account
    _, until = _proofs.get(account, (None, 0.0))
    if time.time() >= until and (noted := _notes(client).read(_read)) is not None:
        _proofs[account] = noted
        _, until = noted
    return time.time() < until


def likely(client: VantageClient) -> Proof | None:
    """Return how the server filters, by a guess before the test; None if it can't."""
    return _proofs[client.config.credentials.account][0] if is_known(client) else GUESS


def proof_of(
    client: VantageClient, start: DateTime, encodings: Sequence[str] = ENCODINGS
) -> Proof | None:
    """Return how the server filters; None if the test has no result.

    It takes two to five requests, of a few entries each, once in ten minutes, and transactions that
    were created since ``start``.
    """
    account = client.config.credentials.account
    if not is_known(client):
        known = _listed(client, start)
        if known is None:
            _proofs[account] = (None, time.time() + _UNKNOWN_FOR)
        else:
            _note(client, _control(*known, start, encodings))
    proof, _ = _proofs[account]
    return proof


def disprove(client: VantageClient) -> None:
    """Record that the server has returned a transaction that does not match the filter."""
    _note(client, None)


def _notes(client: VantageClient) -> HostNote:
    return HostNote(client, "filter", kept=_KEPT)


def _note(client: VantageClient, proof: Proof | None) -> None:
    until = time.time() + _KEPT
    _proofs[client.config.credentials.account] = (proof, until)
    _notes(client).write([proof, until])


def _read(data: Any) -> tuple[Proof | None, float]:
    proof, until = data
    return None if proof is None else Proof(*proof), float(until)


def forget_proofs() -> None:
    """Forget all results, so that the servers are tested again."""
    _proofs.clear()


def _listed(client: VantageClient, start: DateTime) -> tuple[_Read, str, str] | None:
    """Return a parameter of a listed transaction, and what reads the list that it is on."""
    for read in (client.list_completed_transactions, client.list_active_transactions):
        if (pair := _known(read(limit=_SAMPLE, start_date=start).items)) is not None:
            return (read, *pair)
    return None


def _control(
    read: _Read, key: str, value: str, start: DateTime, encodings: Sequence[str]
) -> Proof | None:
    for encoding in encodings:
        filtered = partial(read, start_date=start, parameter_encoding=encoding)
        if _finds(filtered, key, value):
            return Proof(encoding, any_value=_finds(filtered, key, None))
    return None


def _known(items: Sequence[ListedTransaction]) -> tuple[str, str] | None:
    """Return a registration parameter of a listed transaction, one of our keys if there is any."""
    pairs = [pair for item in items for pair in item.parameters.items() if all(pair)]
    return min(pairs, key=lambda pair: pair[0] != KEY_PARAMETER, default=None)


def _finds(read: _Read, key: str, value: str | None) -> bool:
    """Return whether a filter finds the known transaction, and nothing that does not match."""
    try:
        items = read(limit=2, parameters={key: value}).items
    except BadRequest:
        return False
    return bool(items) and all(
        key in each.parameters and value in (None, each.parameters[key]) for each in items
    )
