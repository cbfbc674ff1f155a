# SPDX-License-Identifier: Apache-2.0
"""Lets one host at a time log in if hosts share a store without locks."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vantage_orchestration.state import Store

__all__ = ["claimed"]

log = logging.getLogger(__name__)

#: Seconds after which an unchanged claim is taken over, because its holder has died. A login takes
#: a second or two; if the server has problems, a second host that tries does no harm.
_STALE: Final = 30.0
#: Seconds between two reads of another host's claim, shortest and longest.
_PAUSES: Final = (0.2, 0.6)
_random = random.SystemRandom()


@contextlib.contextmanager
def claimed(store: Store, name: str, patience: float, served: Callable[[], bool]) -> Iterator[None]:
    """Hold the claim to an entry: a value of the store, which only one host creates.

    Whatever goes wrong with the store, the context still begins.

    Args:
        store: Store that several hosts share.
        name: Name of the entry.
        patience: Seconds to wait for other hosts.
        served: Returns whether another host has done the work. Then the claim is not needed.
    """
    place = hashlib.sha256(f"claim {name}".encode()).hexdigest()
    own = secrets.token_hex(16).encode()
    held = False
    try:
        held = _take(store, place, own, time.monotonic() + patience, served)
    except Exception as error:  # A store of an orchestrator can fail in any way.
        log.debug("Hosts do not wait for each other: %s", type(error).__name__)
    try:
        yield
    finally:
        if held:
            # If it can't be removed, it is taken over when it is stale.
            with contextlib.suppress(Exception):
                _remove(store, place, own)


def _take(store: Store, place: str, own: bytes, until: float, served: Callable[[], bool]) -> bool:
    """Wait for the claim and return whether it is held."""
    known, since = None, 0.0
    while not store.create(place, own):
        now, other = time.monotonic(), store.read(place)
        if served():
            return False
        if other != known:
            known, since = other, now
        elif other is not None and now - since >= _STALE:
            log.warning("A host that was logging in to ABBYY Vantage has died; taking over")
            _remove(store, place, other)
            continue
        if now >= until:
            log.warning(
                "Other hosts have been logging in to ABBYY Vantage for too long; not waiting any"
                " longer"
            )
            return False
        time.sleep(_random.uniform(*_PAUSES))
    return True


def _remove(store: Store, place: str, claim: bytes) -> None:
    if store.read(place) == claim:
        store.delete(place)
