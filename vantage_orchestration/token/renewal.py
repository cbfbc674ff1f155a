# SPDX-License-Identifier: Apache-2.0
"""Renews a token before anybody waits for it, in processes that live long."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from vantage_orchestration.errors import VantageError

__all__ = ["Renewable", "keep_fresh"]

log = logging.getLogger(__name__)

#: Seconds between two looks at the most: a machine may have slept meanwhile.
_LONGEST_NAP = 30.0
#: Seconds between two looks at a source that has no token yet.
_IDLE_NAP = 1.0
#: Seconds after a renewal that failed.
_PAUSE = 30.0


class Renewable(Protocol):
    """What is renewed: a :class:`vantage_orchestration.token.source.TokenSource`."""

    def due_in(self) -> float | None:
        """Return the seconds until the renewal is due, or None while there is no token."""

    def renew(self) -> None:
        """Get another token now.

        Raises:
            VantageError: It did not succeed.
        """


def keep_fresh(source: Renewable, nap: Callable[[float], object] = time.sleep) -> threading.Thread:
    """Start a daemon thread that renews ``source`` for as long as somebody else holds it.

    Args:
        source: What to renew.
        nap: Waits the given number of seconds.
    """
    thread = threading.Thread(
        target=_run, args=(weakref.ref(source), nap), name="abbyy-vantage-renewal", daemon=True
    )
    thread.start()
    return thread


def _run(reference: weakref.ref[Renewable], nap: Callable[[float], object]) -> None:
    while True:
        source = reference()
        if source is None:
            return
        wait = _look(source)
        del source  # Not held while asleep, so that it can be freed.
        nap(wait)


def _look(source: Renewable) -> float:
    """Renew if it is due, and return the seconds until the next look."""
    due = source.due_in()
    if due is None:
        return _IDLE_NAP
    if due > 0:
        return min(due, _LONGEST_NAP)
    try:
        source.renew()
    except VantageError as error:
        log.warning("The token of ABBYY Vantage could not be renewed in advance: %s", error)
        return _PAUSE
    return 0.0
