# SPDX-License-Identifier: Apache-2.0
"""Keeps the vendor's limit: no transaction is read twice within a second (contract, section 4).

The limit is shared by all clients of a process. So a task that waits for a transaction and one that
fetches its results need not know of each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vantage_orchestration.forks import after_fork

#: Seconds between the end of one read and the start of the next of the same transaction.
LEAST_PAUSE = 1.0


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.read_at = float("-inf")


class _Reads:
    """When each transaction was last read, for as long as that matters."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._swept = time.monotonic()

    @contextmanager
    def entry(self, key: tuple[str, str]) -> Iterator[_Entry]:
        """Yield the entry of a transaction to one thread at a time."""
        with self._lock:
            self._sweep(time.monotonic() - LEAST_PAUSE)
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                yield entry
        finally:
            with self._lock:
                entry.users -= 1

    def _sweep(self, before: float) -> None:
        if self._swept < before:
            self._swept = time.monotonic()
            for key, entry in list(self._entries.items()):
                if not entry.users and entry.read_at < before:
                    del self._entries[key]


_reads = _Reads()


@contextmanager
def reading_in_turn(server: str, transaction_id: str) -> Iterator[None]:
    """Wait until a transaction may be read, and keep other threads from reading it meanwhile."""
    with _reads.entry((server, transaction_id.lower())) as entry:
        left = entry.read_at + LEAST_PAUSE - time.monotonic()
        if left > 0:
            time.sleep(left)
        try:
            yield
        finally:
            entry.read_at = time.monotonic()


after_fork(_reads.start_afresh)
