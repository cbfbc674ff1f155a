# SPDX-License-Identifier: Apache-2.0
"""Waits for transactions in a worker, and blocks it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from vantage_orchestration.errors import WaitTimeout, translated
from vantage_orchestration.watching.limits import Limits
from vantage_orchestration.watching.observation import Observation
from vantage_orchestration.watching.pace import Pace
from vantage_orchestration.watching.watcher import Watcher

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction

__all__ = ["wait_for"]

log = logging.getLogger(__name__)


@translated
def wait_for(
    client: VantageClient,
    ids: Collection[str],
    *,
    timeout: float | None = 3600.0,
    review_timeout: float | None = 0.0,
    pace: Pace | None = None,
    skill_id: str | None = None,
    on_change: Callable[[Observation], object] | None = None,
    on_processed: Callable[[str, Transaction], object] | None = None,
    report_review: bool = False,
    in_review: Collection[str] = (),
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Observation]:
    """Wait until all transactions have ended.

    Args:
        client: Client.
        ids: Transactions.
        timeout: Seconds to wait while the service works; None for ever. They do not run while
            everything that has not ended waits for people.
        review_timeout: Seconds to wait for people once they are needed; None for ever. 0 does not
            wait for them: a worker that waits for days is a worker lost.
        pace: How often to look; :class:`Pace` by default. The first look is at once.
        skill_id: Skill of all of them, if it is known.
        on_change: Told each change, the first state included.
        on_processed: As for :class:`.watcher.Watcher`.
        report_review: Return as well when a transaction gets into review.
        in_review: Transactions whose review is known, and not reported.
        sleep: Waits seconds.
        clock: Steady seconds.

    Returns:
        Transaction id to its last state. Passing trouble of the server is waited out.

    Raises:
        WaitTimeout: Time is over. The transactions go on.
        VantageError: Another error that no repetition cures.
    """
    pace = pace or Pace()
    watcher = Watcher(client, clock=clock, on_processed=on_processed)
    begin = clock()
    limits = Limits(
        ids,
        deadline=None if timeout is None else begin + timeout,
        review_timeout=review_timeout,
        report_review=report_review,
        in_review=in_review,
    )
    looks = 0
    while True:
        found = watcher.observe(limits.open, skill_id=skill_id)
        changed = [
            each
            for name, each in found.items()
            if not each.tells_the_same_as(limits.seen.get(name))
        ]
        now = clock()
        limits.note(changed, now)
        for each in changed:
            # The review link is a credential and must not be logged; it is not even kept.
            waits = ", waiting for manual review" if each.in_review else ""
            log.info("Transaction %s: %s%s", each.transaction_id, each.status, waits)
            if on_change is not None:
                on_change(each)
        verdict = limits.verdict(now)
        if verdict == "timeout":
            raise WaitTimeout(
                f"After {now - begin:.0f} s {limits.reason()}",
                hint="They go on, and the next try finds them again. Documents in manual review"
                " are reviewed in ABBYY Vantage",
                transaction_id=next(iter(limits.open)) if len(limits.open) == 1 else None,
            )
        if verdict is not None:
            return limits.seen
        looks = 0 if changed else looks + 1
        pause = max(pace.pause(looks, in_review=limits.only_review), watcher.resume_in())
        left = limits.left(now)
        sleep(pause if left is None else min(pause, left))
