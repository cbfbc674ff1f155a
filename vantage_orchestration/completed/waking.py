# SPDX-License-Identifier: Apache-2.0
"""Decides at which polls consumers are woken, so that none waits long and none is woken too
often."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

#: Stands for consumers that have not registered yet.
NOBODY: Final = ""
#: Polls between two wake-ups while something stays due; the last value repeats.
_PAUSES: Final = (1, 1, 2, 3, 5)
#: The same while no consumer is registered.
_PAUSES_OF_NOBODY: Final = (1, 2, 4, 8, 16, 32, 64)
#: After everything is fetched: polls until the next wake-up, and the factor by which that grows.
_FIRST_AFTERWARDS: Final = 5
_LONGER: Final = 3
_LAST_AFTERWARDS: Final = 20_000


class WakeSchedule:
    """Decides at each poll of one trigger whether to wake consumers."""

    def __init__(self) -> None:
        self._due: Set[str] = frozenset()
        self._left = 0
        self._step = 0
        self._afterwards = 0

    def look(self, due: Set[str] | None) -> bool:
        """Return whether to wake now, by the names of the consumers for which something is due.

        None says that these are unknown, or that all consumers are at work.
        """
        if due is None:
            self._due = frozenset()
            return False
        if due:
            if not self._due:
                self._step = 0
            if due - self._due:
                self._left = 0
            self._due = due
        else:
            if self._due or self._step:
                self._due, self._step = frozenset(), 0
                self._afterwards = self._left = _FIRST_AFTERWARDS
            if not 0 < self._afterwards <= _LAST_AFTERWARDS:
                return False
        self._left -= 1
        if self._left > 0:
            return False
        if due:
            pauses = _PAUSES_OF_NOBODY if due == {NOBODY} else _PAUSES
            self._left = pauses[min(self._step, len(pauses) - 1)]
            self._step += 1
        else:
            self._left = self._afterwards = self._afterwards * _LONGER
        return True
