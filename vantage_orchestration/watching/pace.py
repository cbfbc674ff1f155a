# SPDX-License-Identifier: Apache-2.0
"""How often to look."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.reads import LEAST_PAUSE

__all__ = ["LEAST_PAUSE", "Pace"]

_GROWTH: Final = 1.5
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses between looks at a transaction; they grow while nothing changes.

    Args:
        first: Seconds before the second look, and before the next one after a change.
        slowest: Seconds: longest pause while the service works.
        review: Seconds between looks while people are waited for, who take hours.
        jitter: Part by which a pause is made longer or shorter at random, so that those who
            started together don't stay together.

    Raises:
        ConfigurationError: A pause is shorter than a second, which the vendor does not allow.
    """

    first: float = 10.0
    slowest: float = 60.0
    review: float = 60.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not LEAST_PAUSE <= self.first <= self.slowest or not self.review >= LEAST_PAUSE:
            raise ConfigurationError(
                f"Pauses of {self.first}, {self.slowest} and {self.review} s can't be kept",
                hint=f"Wait at least {LEAST_PAUSE:.0f} s, and not longer at first than later",
            )
        if not 0 <= self.jitter < 1:
            raise ConfigurationError(f"A jitter of {self.jitter} is not from 0 to 1")

    @classmethod
    def between(cls, first: float, slowest: float) -> Pace:
        """Return the pace for the two intervals that users give.

        Args:
            first: Seconds between two looks at the beginning.
            slowest: Seconds at the most, also while people are waited for.
        """
        slowest = max(first, slowest)
        return cls(first, slowest, review=slowest)

    def pause(self, looks: int, *, in_review: bool = False) -> float:
        """Return the seconds to wait before the next look.

        Args:
            looks: Looks since the last change.
            in_review: Whether all that has not ended waits for people.
        """
        steady = self.review if in_review else self.first * _GROWTH ** min(looks, 50)
        steady = steady if in_review else min(steady, self.slowest)
        return max(LEAST_PAUSE, steady * _random.uniform(1 - self.jitter, 1 + self.jitter))
