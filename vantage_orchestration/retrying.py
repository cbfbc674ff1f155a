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

__all__ = ["API_RETRIES", "TOKEN_RETRIES", "RetryPolicy", "call", "parse_retry_after"]

T = TypeVar("T")


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
) -> T:
    """Call ``function`` until it succeeds, fails for good, or the policy ends.

    Args:
        function: Takes nothing and raises :class:`VantageError` on failure.
        policy: Number of tries and waits. The server's ``Retry-After`` is kept where it fits into
            the budget; where it does not, the error is raised at once.
        may_repeat: Tells whether an error allows another try.

    Returns:
        What ``function`` returned.

    Raises:
        VantageError: The last error.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        wait_random_exponential,
    )

    jitter = wait_random_exponential(multiplier=policy.first_wait, max=policy.max_wait)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, VantageError) else None
        return jitter(state) if asked is None else asked

    retrying = Retrying(
        retry=retry_if_exception(lambda e: isinstance(e, VantageError) and may_repeat(e)),
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
