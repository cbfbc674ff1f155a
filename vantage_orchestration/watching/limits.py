# SPDX-License-Identifier: Apache-2.0
"""When to stop waiting. Pure: whoever waits tells what was seen, and what time it is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from vantage_orchestration.watching.observation import Observation

__all__ = ["Limits", "Verdict"]

Verdict = Literal["ended", "review", "timeout"]

#: Seconds that processing gets at least after a review: what follows, an export, is short.
AFTER_REVIEW: Final = 600.0


class Limits:
    """Keeps what was seen of some transactions, and decides when waiting for them is over.

    All times are seconds on one clock, whichever that is.

    Args:
        ids: Transactions.
        deadline: When processing has to have ended. It does not run while everything that has not
            ended waits for people: what remained then remains afterwards, and ten minutes at
            least, since the begin of a review may have been missed.
        review_deadline: When reviews have to have ended; counts only while there are any.
        review_timeout: In place of a deadline: seconds that people get once they are needed.
        report_review: Stop as well when a transaction gets into review.
        in_review: Transactions whose review was reported before, and is not again.
    """

    def __init__(
        self,
        ids: Collection[str],
        *,
        deadline: float | None = None,
        review_deadline: float | None = None,
        review_timeout: float | None = None,
        report_review: bool = False,
        in_review: Collection[str] = (),
    ) -> None:
        self.seen: dict[str, Observation] = {}
        self._ids = tuple(dict.fromkeys(ids))
        self._open = set(self._ids)
        self._in_review: set[str] = set()
        self._reported = frozenset(in_review)
        self._report_review = report_review
        self._deadline = deadline
        self._review_deadline = review_deadline
        self._review_timeout = review_timeout
        self._paused_with: float | None = None

    @property
    def open(self) -> frozenset[str]:
        """Transactions that have not ended, as far as known."""
        return frozenset(self._open)

    @property
    def in_review(self) -> list[str]:
        """Transactions that wait for people, in their order."""
        return [each for each in self._ids if each in self._in_review]

    @property
    def only_review(self) -> bool:
        """Whether everything that has not ended waits for people."""
        return bool(self._open) and len(self._in_review) == len(self._open)

    def statuses(self) -> dict[str, str]:
        """Return the status of each transaction; ``Unknown`` for one that was not seen."""
        return {
            each: self.seen[each].status if each in self.seen else "Unknown" for each in self._ids
        }

    def note(self, observations: Collection[Observation], now: float) -> None:
        """Take note of what was seen.

        Args:
            observations: What was seen, of some of the transactions.
            now: When.
        """
        was_paused, had_reviews = self.only_review, bool(self._in_review)
        for each in observations:
            name = each.transaction_id
            self.seen[name] = each
            if each.ended:
                self._open.discard(name)
            if each.in_review and not each.ended:
                self._in_review.add(name)
            else:
                self._in_review.discard(name)
        if self._deadline is not None and self.only_review != was_paused:
            if self.only_review:
                self._paused_with = max(self._deadline - now, AFTER_REVIEW)
            elif self._paused_with is not None:
                self._deadline = now + self._paused_with
                self._paused_with = None
        if self._review_timeout is not None and bool(self._in_review) != had_reviews:
            self._review_deadline = now + self._review_timeout if self._in_review else None

    def verdict(self, now: float) -> Verdict | None:
        """Return why waiting is over, or None if it is not.

        Args:
            now: The present moment.
        """
        if not self._open:
            return "ended"
        if self._report_review and self._in_review - self._reported:
            return "review"
        if any(now >= each for each in self._running()):
            return "timeout"
        return None

    def left(self, now: float) -> float | None:
        """Return the seconds until waiting is over if nothing changes; None for ever.

        Args:
            now: The present moment.
        """
        running = self._running()
        return max(0.0, min(running) - now) if running else None

    def reason(self) -> str:
        """Return a sentence about what is being waited for, without a full stop."""
        if self.only_review or (self._in_review and self._deadline is None):
            return f"{_number(len(self._in_review))} for manual review"
        text = f"{_number(len(self._open), 'has', 'have')} not ended"
        if self._in_review:
            text += f", {len(self._in_review)} of them in manual review"
        return text

    def _running(self) -> list[float]:
        """Return the deadlines that run."""
        found = []
        if self._deadline is not None and not self.only_review:
            found.append(self._deadline)
        if self._review_deadline is not None and self._in_review:
            found.append(self._review_deadline)
        return found


def _number(count: int, one: str = "waits", many: str = "wait") -> str:
    return f"1 transaction {one}" if count == 1 else f"{count} transactions {many}"
