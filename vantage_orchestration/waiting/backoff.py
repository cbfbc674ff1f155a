# SPDX-License-Identifier: Apache-2.0
"""How long to pause when the server has problems."""

from __future__ import annotations

import random
from typing import Final

from vantage_orchestration.errors import VantageError

#: The vendor's advice for overload of a sister product (contract, section 5).
_FIRST: Final = 5.0
_LONGEST: Final = 60.0
#: Longest respected ``Retry-After`` in seconds: deadlines keep running.
LONGEST_REQUEST: Final = 900.0
_random = random.SystemRandom()


class Backoff:
    """Pauses 5 s growing to 60 s over failed rounds, or as long as the server asks."""

    def __init__(self) -> None:
        self._rounds = 0
        self._until = 0.0

    def left(self, now: float) -> float:
        """Return the seconds for which nothing should be sent."""
        return max(0.0, self._until - now)

    def trouble(self, error: VantageError, now: float) -> None:
        """Record a failed round, and why it failed."""
        self._rounds += 1
        wait = min(_LONGEST, _FIRST * 2 ** min(self._rounds - 1, 10)) * _random.uniform(0.75, 1.25)
        if error.retry_after:
            wait = min(error.retry_after, LONGEST_REQUEST)
        self._until = now + wait

    def fine(self) -> None:
        """Record a round without failures."""
        self._rounds = 0
        self._until = 0.0
