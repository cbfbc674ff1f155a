# SPDX-License-Identifier: Apache-2.0
"""Waits whose time passes at once: clocks, an event loop, and scripts of what is to be seen."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import (
    LookAgain,
    Observation,
    Outcome,
    PeopleNeeded,
    Wait,
)
from vantage_orchestration.waiting.rules import WaitRules
from vantage_orchestration.waiting.watcher import WatchResult

#: Any moment, in seconds since the epoch.
BEGIN = 1_800_000_000.0
DAY = 86_400.0


class Clock:
    """Time that passes when somebody sleeps. Stands in for the module ``time``.

    Attributes:
        sleeps: Seconds of each sleep.
        at: What happens after how many seconds.
        passed: Called with the seconds that have passed.
    """

    def __init__(self) -> None:
        #: Seconds since the begin: as epoch seconds they would lose the smallest steps.
        self.elapsed = 0.0
        self.sleeps: list[float] = []
        self.at: dict[float, Callable[[], object]] = {}
        self.passed: Callable[[float], object] = lambda seconds: None

    @property
    def now(self) -> float:
        return BEGIN + self.elapsed

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        assert len(self.sleeps) < 5000, "it waits for ever"
        self.sleeps.append(seconds)
        self.elapsed += seconds
        self.passed(seconds)
        for moment in sorted(each for each in self.at if each <= self.elapsed):
            self.at.pop(moment)()

    def run(self, work: Any) -> Any:
        """Run a coroutine on an event loop whose time is this one."""
        loop = _Loop(self)
        try:
            return loop.run_until_complete(work)
        finally:
            loop.close()


class _Selector(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self._clock.sleep(timeout)
            timeout = 0.0
        return super().select(timeout)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self._its_clock = clock

    def time(self) -> float:
        return self._its_clock.elapsed


async def at_once(work: Callable[[], Any], name: str) -> Any:
    """Do what is done in a thread elsewhere: no time passes meanwhile."""
    return work()


def waited(client: Any, ids: Iterable[str], **limits: Any) -> Outcome:
    """Wait for real, and look often."""
    rules = WaitRules(**{"poke_interval": 1.0, "max_poke_interval": 1.0, **limits})
    return wait_here(client, Wait(ids, rules, time.time()))


def review_in_pauses(clock: Clock, control: Any) -> list[int]:
    """Let somebody do all reviews in each pause of a wait; return how many result files had been
    downloaded by then, for each pause."""
    downloads: list[int] = []

    def passed(seconds: float) -> None:
        downloads.append(control.count("GET", "/download$"))
        for item in control.transactions():
            if item["in_review"]:
                control.finish_review(item["id"])

    clock.passed = passed
    return downloads


# ------------------------------------------------------------------- scripts


@dataclass
class Script:
    """What becomes of transactions.

    Attributes:
        phases: Transaction id to what is seen of it from which second on.
        troubles: From which second to which one nothing is seen.
    """

    phases: Mapping[str, list[tuple[float, str]]]
    troubles: list[tuple[float, float]] = field(default_factory=list)

    def look(self, ids: Iterable[str], now: float) -> dict[str, Observation]:
        passed = now - BEGIN
        if any(begin <= passed < end for begin, end in self.troubles):
            return {}
        return {each: _seen(each, self._word(each, passed)) for each in ids}

    def _word(self, name: str, passed: float) -> str:
        return [word for begin, word in self.phases[name] if begin <= passed][-1]

    @classmethod
    def made_up(cls, seed: int) -> Script:
        """Make up a script: reviews that come and go, ends of all kinds, and troubles."""
        dice = random.Random(seed)
        phases = {}
        for number in range(dice.randint(1, 4)):
            name = f"0000000{number}-0000-4000-8000-000000000000"
            at, steps = 0.0, [(0.0, dice.choice(["New", "Processing", "review"]))]
            for _ in range(dice.randint(0, 4)):
                at += dice.choice([5, 60, 700, 4000, DAY, 6 * DAY])
                steps.append((at, dice.choice(["Processing", "review"])))
            if dice.random() < 0.8:
                at += dice.choice([1, 30, 2000, DAY])
                end = dice.choice(["Processed", "Processed", "Failed", "Canceled", "Gone"])
                steps.append((at, end))
            phases[name] = steps
        begins = [dice.choice([0, 50, 5000, DAY]) for _ in range(dice.randint(0, 2))]
        return cls(phases, [(each, each + dice.choice([5, 100, 3000])) for each in begins])


def rules(seed: int) -> WaitRules:
    """Make up rules."""
    dice = random.Random(seed)
    return WaitRules(
        timeout=dice.choice([None, 0, 3600, 3 * DAY, 30 * DAY]),
        review_timeout=dice.choice([0, 600, DAY, 7 * DAY]),
        on_review=dice.choice(["wait", "wait", "return", "fail"]),
        poke_interval=dice.choice([10.0, 3600.0]),
        max_poke_interval=dice.choice([60.0, 7200.0]) * 30,
        jitter=0.0,
    )


def _seen(name: str, word: str) -> Observation:
    from vantage_orchestration.status import Status

    status = Status("Processing" if word == "review" else word)
    return Observation(name, status, in_review=word == "review")


class ScriptedWatcher:
    """Stands in for a watcher: shows what the script says."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self._script = script
        self._clock = clock
        self.looks: list[float] = []

    def observe(self, ids: Collection[str], *, skill_id: str | None = None) -> Any:
        self.looks.append(self._clock.now - BEGIN)
        return self._script.look(ids, self._clock.now)

    def look(self, ids: Collection[str], *, also: Collection[str] = (), **_: Any) -> WatchResult:
        return WatchResult(self.observe(ids))

    def resume_in(self) -> float:
        return 0.0


# ---------------------------------------------------------------- the machine


@dataclass
class Waited:
    """What came of a wait.

    Attributes:
        outcome: How it ended.
        told: Who was told of which reviews, and after how many seconds.
        seconds: How long it took.
    """

    outcome: Any
    told: list[tuple[float, tuple[str, ...]]]
    seconds: float


def simulate(
    script: Script,
    rules: WaitRules,
    *,
    look_first: bool = True,
    every: float | None = None,
    hop: Callable[[Wait, float], tuple[Wait, float]] | None = None,
) -> Waited:
    """Let the machine wait, with no driver of the package.

    Args:
        script: What is seen.
        rules: Limits and pace.
        look_first: Look before the machine is asked.
        every: Seconds between looks, whatever the machine says.
        hop: Called when people are needed, or it is over, with the wait and the moment; returns
            both as they are afterwards.
    """
    now, told = BEGIN, []
    wait = Wait(script.phases, rules, now)
    if look_first:
        wait.note(script.look(wait.open, now).values(), now)
    while True:
        answer = wait.next(now)
        if not isinstance(answer, LookAgain) and hop is not None:
            wait, now = hop(wait, now)
            answer = wait.next(now)
        if isinstance(answer, PeopleNeeded):
            told.append((now - BEGIN, answer.transaction_ids))
            wait.notified(answer)
            continue
        if isinstance(answer, Outcome):
            return Waited(answer, told, now - BEGIN)
        now += answer.seconds if every is None else every
        wait.note(script.look(wait.open, now).values(), now)
