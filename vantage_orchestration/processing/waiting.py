# SPDX-License-Identifier: Apache-2.0
"""Waits for a task's transactions as its ``on_review`` says: in a thread or in a coroutine."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import WaitTimeout
from vantage_orchestration.options import REVIEW_TIMEOUT, TIMEOUT, Options
from vantage_orchestration.processing.outcome import Outcome
from vantage_orchestration.watching import Limits, Observation, Pace, wait_for

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.watching import SharedPoller

__all__ = ["await_outcome", "limits_of", "wait_for_outcome"]


Changed = Callable[[Observation], object]


def limits_of(options: Options) -> dict[str, Any]:
    """Return the arguments of both functions below that are options."""
    return {
        "timeout": options.timeout,
        "review_timeout": options.review_timeout,
        "on_review": options.on_review,
        "pace": Pace.between(options.poke_interval, options.max_poke_interval),
    }


def wait_for_outcome(
    client: VantageClient,
    ids: Sequence[str],
    *,
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: str = "wait",
    pace: Pace | None = None,
    skill_id: str | None = None,
    on_change: Changed | None = None,
    on_needed: Callable[[Sequence[str]], object] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Wait until all transactions have ended, a limit is reached, or a person is needed.

    Args:
        client: Client.
        ids: Transactions.
        timeout: Seconds that the service may take.
        review_timeout: Seconds that people may take, from when the first of them is needed.
        on_review: ``wait`` for people too; ``return`` when nothing but reviews is left; ``fail``
            stops at the first review.
        pace: How often to look.
        skill_id: Skill of all of them, if it is known.
        on_change: Told each change, the first state included.
        on_needed: Told the ids that have got into review, all of a round together, each once.
        sleep: Waits seconds.

    Returns:
        How it ended. A limit that was reached is no error here; see
        :func:`.outcome.check_outcome`.

    Raises:
        VantageError: An error that no repetition cures.
    """
    waiting = _Waiting(ids, on_change)

    def tell() -> None:
        new = waiting.reviews()
        if new and on_needed is not None:
            on_needed(new)

    def tell_and_sleep(seconds: float) -> None:
        tell()
        sleep(seconds)

    begin, rest, timed_out = time.monotonic(), list(ids), None
    try:
        while rest:
            wait_for(
                client,
                rest,
                timeout=max(0.0, begin + timeout - time.monotonic()),
                review_timeout=review_timeout,
                pace=pace,
                skill_id=skill_id,
                report_review=on_review != "wait",
                on_change=waiting.note,
                on_processed=waiting.keep,
                sleep=tell_and_sleep,
            )
            tell()
            rest = waiting.left(rest) if on_review == "return" else []
    except WaitTimeout as error:
        timed_out = error.what
    return waiting.outcome(timed_out)


async def await_outcome(
    poller: SharedPoller,
    ids: Sequence[str],
    *,
    timeout: float = TIMEOUT,
    review_timeout: float = REVIEW_TIMEOUT,
    on_review: str = "wait",
    pace: Pace | None = None,
    skill_id: str | None = None,
    on_change: Changed | None = None,
    on_needed: Callable[[Sequence[str]], Awaitable[object]] | None = None,
) -> Outcome:
    """Wait as :func:`wait_for_outcome` does, without blocking the event loop.

    Args:
        poller: Looks at the transactions, together with those of others.
        ids: As for :func:`wait_for_outcome`, as all that follows.
        timeout: Seconds.
        review_timeout: Seconds.
        on_review: What to do when a person is needed.
        pace: How often to look.
        skill_id: Skill.
        on_change: Told each change, on the event loop.
        on_needed: Told, and awaited, the ids that have got into review.
    """
    waiting = _Waiting(ids, on_change)
    begin, rest = time.monotonic(), list(ids)
    while rest:
        limits = Limits(
            rest,
            deadline=begin + timeout,
            review_timeout=review_timeout,
            report_review=on_review != "wait",
        )
        with poller.watch(rest, pace, skill_id=skill_id) as watch:
            while (verdict := limits.verdict(time.monotonic())) is None:
                changes = await watch.changes(limits.left(time.monotonic()))
                limits.note(changes, time.monotonic())
                for each in changes:
                    waiting.note(each)
                new = waiting.reviews()
                if new and on_needed is not None:
                    await on_needed(new)
        if verdict == "timeout":
            seconds = time.monotonic() - begin
            return waiting.outcome(f"After {seconds:.0f} s {limits.reason()}")
        rest = waiting.left(rest) if on_review == "return" else []
    return waiting.outcome(None)


class _Waiting:
    """What was seen so far, and which reviews were told."""

    def __init__(self, ids: Sequence[str], on_change: Changed | None) -> None:
        self._ids = list(ids)
        self._on_change = on_change
        self._seen: dict[str, Observation] = {}
        self._told: set[str] = set()
        self._processed: dict[str, Transaction] = {}

    def keep(self, name: str, transaction: Transaction) -> None:
        self._processed[name] = transaction

    def note(self, seen: Observation) -> None:
        self._seen[seen.transaction_id] = seen
        if self._on_change is not None:
            self._on_change(seen)

    def reviews(self) -> list[str]:
        """Return those that have got into review, each once."""
        new = [each for each in self._ids if self._in_review(each) and each not in self._told]
        self._told.update(new)
        return new

    def left(self, ids: Sequence[str]) -> list[str]:
        """Return those that neither have ended nor wait for a person."""
        return [each for each in ids if not (self._in_review(each) or self._ended(each))]

    def outcome(self, timed_out: str | None) -> Outcome:
        seen = self._seen
        return Outcome(
            {each: seen[each].status if each in seen else "Unknown" for each in self._ids},
            tuple(each for each in self._ids if self._in_review(each)),
            timed_out,
            self._processed,
        )

    def _ended(self, name: str) -> bool:
        return name in self._seen and self._seen[name].ended

    def _in_review(self, name: str) -> bool:
        return name in self._seen and self._seen[name].in_review and not self._ended(name)
