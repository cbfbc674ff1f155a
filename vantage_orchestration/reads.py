# SPDX-License-Identifier: Apache-2.0
"""Keeps the vendor's limit: no transaction is read twice within a second (contract, section 4).

The limit is shared by all clients of a process. So a task that waits for a transaction and one that
fetches its results need not know of each other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vantage_orchestration.forks import after_fork

#: Seconds between the end of one read and the start of the next of the same transaction.
LEAST_PAUSE = 1.0


class _Reads:
    """Which transactions are being read, and when others were, for as long as that matters."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything."""
        self.changed = threading.Condition()
        self.busy: set[tuple[str, str]] = set()
        self.ends: dict[tuple[str, str], float] = {}
        self.swept = time.monotonic()

    def begin(self, key: tuple[str, str]) -> float:
        """Wait for the turn; return the seconds that are left of the pause."""
        with self.changed:
            self.changed.wait_for(lambda: key not in self.busy)
            self.busy.add(key)
            now = time.monotonic()
            if now - self.swept > LEAST_PAUSE:
                self.swept = now
                self.ends = {each: at for each, at in self.ends.items() if at > now - LEAST_PAUSE}
            return self.ends.get(key, -math.inf) + LEAST_PAUSE - now

    def end(self, key: tuple[str, str]) -> None:
        """Let the next thread read it after the pause."""
        with self.changed:
            self.busy.discard(key)
            self.ends[key] = time.monotonic()
            self.changed.notify_all()


_reads = _Reads()
after_fork(_reads.start_afresh)


@contextmanager
def reading_in_turn(server: str, transaction_id: str) -> Iterator[None]:
    """Wait until a transaction may be read, and keep other threads from reading it meanwhile."""
    key = (server, transaction_id.lower())
    left = _reads.begin(key)
    try:
        if left > 0:
            time.sleep(left)
        yield
    finally:
        _reads.end(key)
