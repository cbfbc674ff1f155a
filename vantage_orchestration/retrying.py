# SPDX-License-Identifier: Apache-2.0
"""Repeats what is safe to repeat: the one place that waits between tries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vantage_orchestration.errors import VantageError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = [
    "API_RETRIES",
    "LOOKS",
    "TOKEN_RETRIES",
    "RetryPolicy",
    "call",
    "parse_retry_after",
]

T = TypeVar("T")

#: Times in a row that something has to be said before it is believed, if it can't be true yet.
LOOKS = 3
#: Seconds before the second look at such a thing; the third comes after twice as long.
_SECOND_LOOK = 2.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try.

    Args:
        attempts: Tries at the most, the first one included.
        first_wait: Seconds: upper end of the random wait before the second try; doubles then.
        max_wait: Seconds: longest random wait.
        budget: Seconds from the first try in which the last one must begin.
        sleep: Waits the given number of seconds.
    """

    attempts: int
    first_wait: float
    max_wait: float
    budget: float
    sleep: Callable[[float], None] = time.sleep


#: 5 s growing to 60 s, the sister product's advice for overload (contract, section 5).
API_RETRIES = RetryPolicy(attempts=5, first_wait=5.0, max_wait=60.0, budget=300.0)
TOKEN_RETRIES = RetryPolicy(attempts=3, first_wait=1.0, max_wait=20.0, budget=60.0)


def call(
    function: Callable[[], T],
    policy: RetryPolicy,
    *,
    may_repeat: Callable[[VantageError], bool] = lambda error: error.retryable,
    looks: int = LOOKS,
) -> T:
    """Call ``function`` until it succeeds, fails for good, or the policy ends.

    What the server may say too early of a transaction, since not all of its machines know of a
    change at the same moment, is believed when it has been said three times in a few seconds.

    Args:
        function: Takes nothing and raises :class:`VantageError` on failure.
        policy: Number of tries and waits. The server's ``Retry-After`` is kept where it fits into
            the budget; where it does not, the error is raised at once.
        may_repeat: Tells whether an error allows another try.
        looks: Times that something has to be said early before it is believed.

    Returns:
        What ``function`` returned.

    Raises:
        VantageError: The last error.
    """
    from tenacity import Retrying, stop_after_attempt, stop_before_delay, wait_random_exponential

    jitter = wait_random_exponential(multiplier=policy.first_wait, max=policy.max_wait)
    doubted = 0

    def again(state: RetryCallState) -> bool:
        nonlocal doubted
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, VantageError):
            return False
        if may_repeat(error):
            return True
        doubted += 1
        return error.early and error.transaction_id is not None and doubted < looks

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, VantageError) or error.retry_after is None:
            early = isinstance(error, VantageError) and error.early
            return min(_SECOND_LOOK * doubted, policy.max_wait) if early else jitter(state)
        return error.retry_after

    retrying = Retrying(
        retry=again,
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(policy.budget),
        wait=wait,
        sleep=policy.sleep,
        reraise=True,
    )
    return retrying(function)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None if it says nothing usable.

    Args:
        value: Seconds, or an HTTP date (RFC 9110, section 10.2.3). A date in the past means 0.
    """
    if value is None:
        return None
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return max(0.0, float(Retry().parse_retry_after(value)))
    except (InvalidHeader, ValueError, OverflowError):
        return None
