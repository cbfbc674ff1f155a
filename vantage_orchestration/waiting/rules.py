# SPDX-License-Identifier: Apache-2.0
"""How long to wait, how often to poll, and what to do when a person is needed."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.options import REVIEW_TIMEOUT, TIMEOUT, checked
from vantage_orchestration.reads import LEAST_PAUSE

if TYPE_CHECKING:
    from vantage_orchestration.options import Options

_GROWTH: Final = 1.5
random_source = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class WaitRules:
    """The limits and polling intervals of a wait.

    Args:
        timeout: Seconds that the service may take; None for no limit. This clock stops while all
            open transactions wait for people.
        review_timeout: Seconds that people may take for each transaction; None for no limit. The
            clock of a transaction starts when that transaction needs a person, and stops when its
            review is over. It applies with ``on_review="wait"`` only.
        on_review: What to do when a person is needed: ``wait``; ``return`` when only reviews are
            left; ``fail`` at the first review.
        poke_interval: Seconds between two polls at first, and after each change.
        max_poke_interval: Seconds to which this interval grows while nothing changes. It is also
            the interval while only reviews are left.
        jitter: Fraction by which an interval is varied at random, so that waits that started
            together drift apart.

    Raises:
        ConfigurationError: A value is invalid.
    """

    timeout: float | None = TIMEOUT
    review_timeout: float | None = REVIEW_TIMEOUT
    on_review: str = "wait"
    poke_interval: float = 10.0
    max_poke_interval: float = 60.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        for name in _OPTIONS:
            value = getattr(self, name)
            if value is not None or not name.endswith("timeout"):
                object.__setattr__(self, name, checked(name, value))

    @classmethod
    def of(cls, options: Options, **changes: Any) -> WaitRules:
        """Return the rules given by the options of a task, with changes."""
        return cls(**{**{name: getattr(options, name) for name in _OPTIONS}, **changes})

    def pause(self, looks: int, *, in_review: bool = False) -> float:
        """Return the seconds to wait before the next poll, after so many polls without a change."""
        longest = max(self.poke_interval, self.max_poke_interval)
        grown = min(self.poke_interval * _GROWTH ** min(looks, 50), longest)
        steady = longest if in_review else grown
        return max(LEAST_PAUSE, steady * random_source.uniform(1 - self.jitter, 1 + self.jitter))


_OPTIONS: Final = tuple(each.name for each in fields(WaitRules) if each.name != "jitter")
