# SPDX-License-Identifier: Apache-2.0
"""Repeats what is safe to repeat. All waiting between tries happens here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vantage_orchestration.errors import VantageError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

#: How often in a row the server must give an answer that it may give too early before it is
#: believed.
LOOKS = 3
#: Seconds before such an answer is checked again; the third check comes after twice as long.
_SECOND_LOOK = 2.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try.

    Args:
        attempts: Maximum number of tries, including the first.
        first_wait: Upper end, in seconds, of the random wait before the second try; it doubles
            then.
        max_wait: Longest random wait in seconds.
        budget: Seconds after the first try within which the last one must begin.
        sleep: Waits the given number of seconds.
    """

    attempts: int
    first_wait: float
    max_wait: float
    budget: float
    sleep: Callable[[float], None] = time.sleep


#: 5 s growing to 60 s: what the vendor advises for overload of its sister product (contract,
#: section 5).
API_RETRIES = RetryPolicy(attempts=5, first_wait=5.0, max_wait=60.0, budget=300.0)
TOKEN_RETRIES = RetryPolicy(attempts=3, first_wait=1.0, max_wait=20.0, budget=60.0)


def call(
    function: Callable[[], T],
    policy: RetryPolicy,
    *,
    may_repeat: Callable[[VantageError], bool] = lambda error: error.retryable,
    looks: int = LOOKS,
    before_last_look: Callable[[], object] = lambda: None,
) -> T:
    """Call ``function`` until it succeeds, fails for good, or the policy ends.

    It raises the last :class:`VantageError`. A ``Retry-After`` of the server is respected if it
    fits into the budget; otherwise the error is raised at once. ``may_repeat`` returns whether an
    error allows another try.

    Not all machines of the service learn of a change at the same moment. So an answer about a
    transaction that may come too early is believed when it was given ``looks`` times within
    seconds. ``before_last_look`` is called between the last two, and repeated like ``function``.
    """
    begin = time.monotonic()
    try:
        return function()  # Nearly always, so the rest is prepared only after a failure.
    except VantageError as error:
        first = [error]

    from tenacity import Retrying, stop_after_attempt, stop_before_delay, wait_random_exponential

    jitter = wait_random_exponential(multiplier=policy.first_wait, max=policy.max_wait)
    doubted, prepared = 0, looks < 2

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
        # Some servers always ask for 0 seconds, or by a clock that is behind ours: not a request
        # to use up all tries at once.
        if not isinstance(error, VantageError) or not error.retry_after:
            early = isinstance(error, VantageError) and error.early
            return min(_SECOND_LOOK * doubted, policy.max_wait) if early else jitter(state)
        return error.retry_after

    def attempt() -> T:
        nonlocal prepared
        if first:
            raise first.pop()
        if not prepared and doubted == looks - 1:
            before_last_look()
            prepared = True
        return function()

    left = policy.budget - (time.monotonic() - begin)
    retrying = Retrying(
        retry=again,
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(left),
        wait=wait,
        sleep=policy.sleep,
        reraise=True,
    )
    return retrying(attempt)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3): a
    number or a date, 0 for one in the past. None if it can't be used."""
    if value is None:
        return None
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return max(0.0, float(Retry().parse_retry_after(value)))
    except (InvalidHeader, ValueError, OverflowError):
        return None
