# SPDX-License-Identifier: Apache-2.0
"""Waits for transactions in a worker and blocks it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vantage_orchestration.errors import translated
from vantage_orchestration.waiting.machine import Observation, Outcome, PeopleNeeded, Wait
from vantage_orchestration.waiting.watcher import Watcher

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction

log = logging.getLogger(__name__)


@translated
def wait_here(
    client: VantageClient,
    wait: Wait,
    *,
    tell: Callable[[str], object] = lambda line: log.info("%s", line),
    on_change: Callable[[Observation], object] = lambda seen: None,
    on_people: Callable[[PeopleNeeded], object] = lambda needed: None,
    on_pause: Callable[..., object] = lambda processed, seconds: None,
    sleep: Callable[[float], None] | None = None,
    clock: Callable[[], float] | None = None,
) -> Outcome:
    """Wait until all transactions have ended, a limit is reached, or the rules end the wait.

    It polls at once, and waits out temporary failures of the service. A reached limit is not an
    error here, see :func:`vantage_orchestration.processing.outcome.check_outcome`. ``tell`` gets
    lines about the changes, including the first state. ``on_pause`` is called before each pause
    with what was processed so far and the seconds of the pause, which is as much shorter as this
    takes.

    Raises:
        VantageError: An error that no retry can cure.
    """
    now = clock or time.time
    processed: dict[str, Transaction] = {}
    watcher = Watcher(client, clock=clock, on_processed=processed.__setitem__)
    while True:
        seen = watcher.observe(wait.open, skill_id=wait.skill_id)
        changes = wait.note(seen.values(), now())
        for line in wait.lines(changes):
            tell(line)
        for each in changes:
            on_change(each)
        answer = wait.next(now(), not_before=watcher.resume_in())
        while isinstance(answer, PeopleNeeded):
            on_people(answer)
            wait.notified(answer)
            answer = wait.next(now(), not_before=watcher.resume_in())
        if isinstance(answer, Outcome):
            return replace(answer, processed=processed)
        begun = now()
        on_pause(processed, answer.seconds)
        (sleep or time.sleep)(max(0.0, answer.seconds - (now() - begun)))
