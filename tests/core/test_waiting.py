# SPDX-License-Identifier: Apache-2.0
"""The machine that decides how a wait goes on, and the two drivers of the core."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import pytest
from core.conftest import config_of
from waits import BEGIN, DAY, Clock, Script, ScriptedWatcher, Waited, at_once, rules, simulate

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.processing.outcome import check_outcome
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.waiting import blocking, machine, poller, watcher
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import (
    LookAgain,
    Observation,
    Outcome,
    PeopleNeeded,
    Wait,
)
from vantage_orchestration.waiting.poller import SharedPoller, wait_in_loop
from vantage_orchestration.waiting.rules import WaitRules

STEADY = {"poke_interval": 10.0, "max_poke_interval": 10.0, "jitter": 0.0}


def see(name: str, status: str = "Processing", in_review: bool = False) -> Observation:
    return Observation(name, Status(status), in_review)


def review(name: str) -> Observation:
    return see(name, in_review=True)


def play(
    ids: str, rules: WaitRules, *looks: tuple[float, list[Observation]]
) -> tuple[Wait, list[Any]]:
    """Note looks, each at a second after the begin; return the answers, and tell people."""
    wait, answers = Wait(ids, rules, BEGIN), []
    for at, seen in looks:
        wait.note(seen, BEGIN + at)
        answer = wait.next(BEGIN + at)
        if isinstance(answer, PeopleNeeded):
            wait.notified(answer)
            answers.append(answer.transaction_ids)
            answer = wait.next(BEGIN + at)
        if isinstance(answer, LookAgain):
            answers.append(answer.seconds)
        elif isinstance(answer, Outcome):
            answers.append(answer.timed_out or "over")
    return wait, answers


# ----------------------------------------------------------------- the machine

LATE = "has not ended within 100 s (timeout)"
NO_REVIEW = "has waited for manual review for 50 s (review_timeout)"
LIMITS = WaitRules(timeout=100, review_timeout=50, **STEADY)
DOCUMENTED = {
    "all have ended": (
        "ab",
        LIMITS,
        [
            (0, [see("a")], [10]),
            (10, [see("a", "Processed")], [10]),
            (20, [see("b", "Failed")], ["over"]),
        ],
    ),
    "the service takes too long": (
        "a",
        LIMITS,
        [(0, [see("a")], [10]), (95, [], [5]), (100, [see("a")], [f"1 transaction {LATE}"])],
    ),
    "the last look counts": (
        "a",
        LIMITS,
        [(95, [see("a")], [5]), (100, [see("a", "Processed")], ["over"])],
    ),
    "nothing was seen at the limit": ("a", LIMITS, [(100, [], [f"1 transaction {LATE}"])]),
    "the service's clock stands still while all that is left waits for people": (
        "ab",
        WaitRules(timeout=1000, review_timeout=None, **STEADY),
        [
            (0, [see("a"), see("b")], [10]),
            (100, [review("a")], [("a",), 10]),
            (995, [], [5]),
            (996, [see("b", "Processed")], [10]),
            (9996, [see("a")], [10]),
            (10_591, [], [5]),
            (10_596, [], ["1 transaction has not ended within 1000 s (timeout)"]),
        ],
    ),
    "what is left of it comes back": (
        "a",
        WaitRules(timeout=5000, review_timeout=None, **STEADY),
        [(100, [review("a")], [("a",), 10]), (90_000, [see("a")], [10]), (94_895, [], [5])],
    ),
    "a review takes too long": (
        "ab",
        LIMITS,
        [
            (10, [review("a"), see("b")], [("a",), 10]),
            (55, [], [5]),
            (60, [], [f"1 transaction {NO_REVIEW}"]),
        ],
    ),
    "each review has its own clock": (
        "ab",
        WaitRules(timeout=10_000, review_timeout=50, **STEADY),
        [
            (0, [review("a"), see("b")], [("a",), 10]),
            (20, [see("a", "Processed"), see("b")], [10]),
            (45, [review("b")], [("b",), 10]),
            (94, [review("b")], [1]),
            (95, [review("b")], [f"1 transaction {NO_REVIEW}"]),
        ],
    ),
    "a second review of the same transaction is told, and has its own clock": (
        "a",
        WaitRules(timeout=10_000, review_timeout=50, **STEADY),
        [
            (0, [review("a")], [("a",), 10]),
            (20, [see("a")], [10]),
            (1000, [review("a")], [("a",), 10]),
            (1049, [review("a")], [1]),
            (1050, [review("a")], [f"1 transaction {NO_REVIEW}"]),
        ],
    ),
    "a list that lags behind makes no second review": (
        "a",
        WaitRules(timeout=10_000, review_timeout=50, **STEADY),
        [
            (0, [review("a")], [("a",), 10]),
            (20, [see("a")], [10]),
            (30, [review("a")], [10]),
            (50, [review("a")], [f"1 transaction {NO_REVIEW}"]),
        ],
    ),
    "return when nothing but reviews is left": (
        "ab",
        WaitRules(timeout=10_000, review_timeout=50, on_review="return", **STEADY),
        [
            (0, [review("a"), see("b")], [("a",), 10]),
            (900, [review("a"), see("b")], [10]),
            (910, [review("a"), see("b", "Processed")], ["over"]),
        ],
    ),
    "return, but wait for what goes on after its review": (
        "ab",
        WaitRules(on_review="return", **STEADY),
        [
            (0, [review("a"), see("b")], [("a",), 10]),
            (10, [see("a"), see("b", "Processed")], [10]),
            (20, [see("a", "Processed")], ["over"]),
        ],
    ),
    "fail at the first review": (
        "ab",
        WaitRules(on_review="fail", **STEADY),
        [(0, [see("a"), see("b")], [10]), (10, [see("a"), review("b")], [("b",), "over"])],
    ),
    "an unknown word is no end": (
        "a",
        LIMITS,
        [(0, [see("a", "Odd")], [10]), (100, [see("a", "Odd")], [f"1 transaction {LATE}"])],
    ),
    "no limit": (
        "a",
        WaitRules(timeout=None, review_timeout=None, **STEADY),
        [(1e9, [see("a")], [10]), (2e9, [review("a")], [("a",), 10]), (3e9, [], [10])],
    ),
    "nothing to wait for": ("", LIMITS, [(0, [], ["over"])]),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_machine_answers(name: str) -> None:
    ids, limits, steps = DOCUMENTED[name]
    _, answers = play(ids, limits, *((at, seen) for at, seen, _ in steps))
    assert answers == [answer for *_, wanted in steps for answer in wanted]


def test_what_a_timeout_says_of_several() -> None:
    _, answers = play("abc", LIMITS, (10, [see("a"), see("b"), review("c")]), (59, []), (60, []))
    assert answers[-1] == f"1 transaction {NO_REVIEW}"
    calm = WaitRules(timeout=100, review_timeout=None, **STEADY)
    wait, answers = play("abc", calm, (0, [see("a"), see("b"), review("c")]), (100, []))
    assert answers[-1] == (
        "2 transactions have not ended within 100 s (timeout), and 1 waits for manual review"
    )
    answer = wait.next(BEGIN + 100)
    assert isinstance(answer, Outcome)
    assert answer.statuses == dict.fromkeys("abc", "Processing")
    assert answer.in_review == ("c",)


def test_people_are_told_until_when_they_are_waited_for() -> None:
    wait = Wait("ab", WaitRules(review_timeout=50, **STEADY), BEGIN)
    wait.note([review("a")], BEGIN)
    needed = wait.next(BEGIN)
    assert needed == wait.next(BEGIN) == PeopleNeeded(("a",), BEGIN + 50), "not told yet"
    wait.notified(needed)
    wait.note([review("b")], BEGIN + 20)
    assert wait.next(BEGIN + 20) == PeopleNeeded(("b",), BEGIN + 70)
    wait = Wait("a", WaitRules(on_review="return"), BEGIN)
    wait.note([review("a")], BEGIN)
    assert wait.next(BEGIN) == PeopleNeeded(("a",), None)


def test_pauses_grow_while_nothing_changes_and_are_long_while_only_people_are_waited_for() -> None:
    pace = WaitRules(poke_interval=10, max_poke_interval=60, jitter=0)
    looks = [(float(at), [see("a")]) for at in range(7)]
    _, answers = play("a", pace, *looks, (8, [review("a")]), (9, [see("a")]))
    assert answers == [10, 15, 22.5, 33.75, 50.625, 60, 60, ("a",), 60, 10]
    wait = Wait("a", pace, BEGIN)
    assert wait.next(BEGIN, not_before=900) == LookAgain(900), "the service is in trouble"
    assert wait.next(BEGIN, not_before=5) == LookAgain(10)
    assert wait.next(BEGIN + 3590, not_before=900) == LookAgain(10), "but the limit holds"


def test_jitter() -> None:
    pace = WaitRules(poke_interval=10, max_poke_interval=60)
    assert all(8 <= pace.pause(0) <= 12 for _ in range(50))
    assert all(48 <= pace.pause(10_000) <= 72 for _ in range(50))
    assert all(48 <= pace.pause(0, in_review=True) <= 72 for _ in range(50))
    assert len({pace.pause(0) for _ in range(10)}) > 1
    assert WaitRules(poke_interval=1, max_poke_interval=1).pause(0) >= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_review": "ignore"},
        {"on_review": None},
        {"timeout": -1},
        {"timeout": "60"},
        {"review_timeout": float("inf")},
        {"poke_interval": 0.5},
        {"poke_interval": None},
        {"max_poke_interval": float("nan")},
    ],
    ids=str,
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match=next(iter(wrong))):
        WaitRules(**wrong)


# ------------------------------------------------------------------- its state


def test_state_is_json_and_holds_nothing_else() -> None:
    wait, _ = play("ab", WaitRules(**STEADY), (5, [review("a"), see("b")]), (6, [review("a")]))
    state = json.loads(json.dumps(wait.to_json()))
    assert state == {
        "rules": {"timeout": 3600, "review_timeout": 7 * DAY, "on_review": "wait", **STEADY},
        "statuses": {"a": "Processing", "b": "Processing"},
        "reviews": {"a": {"since": BEGIN + 5, "notified": True, "over": None}},
        "deadline": BEGIN + 3600,
        "left": None,
        "timed_out": None,
        "files": {},
        "skill_id": None,
        "place": None,
    }
    wait.place = ("https://vantage.example.com/api", "tenant")
    wait.files["a"] = "'a.pdf'"
    state = json.loads(json.dumps(wait.to_json()))
    assert state["files"] == {"a": "'a.pdf'"}
    assert Wait.from_json(state, BEGIN + 7).to_json() == state


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"rules": {}},
        {"rules": {"on_review": "?"}, "statuses": {}},
        {"rules": {"new": 1}, "statuses": {}},
        {"rules": {}, "statuses": [], "reviews": {}, "deadline": 0, "left": None},
        {"rules": {}, "statuses": {"a": "New"}, "reviews": {"a": {"when": 1}}, "deadline": 0},
    ],
    ids=str,
)
def test_what_is_no_state_is_refused(broken: Any) -> None:
    with pytest.raises(ValueError, match="not the state of a wait"):
        Wait.from_json(broken, BEGIN)


def test_whoever_takes_a_wait_up_after_its_limit_looks_once() -> None:
    """A triggerer was down, and the transactions have ended meanwhile, or not."""
    wait, _ = play("a", LIMITS, (0, [see("a")]))
    for seen, wanted in ((see("a", "Processed"), None), (see("a"), f"1 transaction {LATE}")):
        late = Wait.from_json(wait.to_json(), BEGIN + 5000)
        assert late.next(BEGIN + 5000) == LookAgain(0)
        late.note([seen], BEGIN + 5001)
        answer = late.next(BEGIN + 5001)
        assert isinstance(answer, Outcome)
        assert answer.timed_out == wanted
        # The answer goes with the state: the worker that is told need not look again.
        again = Wait.from_json(late.to_json(), BEGIN + 5002).next(BEGIN + 5002)
        assert again == answer
    in_vain = Wait.from_json(wait.to_json(), BEGIN + 5000)
    last = BEGIN + 5000 + machine.LAST_LOOK
    assert in_vain.next(last - 1) == LookAgain(0)
    assert isinstance(in_vain.next(last), Outcome), "the service gives no answer"


def test_a_review_that_began_unseen_stops_the_clock_of_the_service() -> None:
    """It began while no triggerer ran, and the time of the service was over by then."""
    wait, _ = play("a", LIMITS, (0, [see("a")]))
    late = Wait.from_json(wait.to_json(), BEGIN + 5000)
    late.note([review("a")], BEGIN + 5000)
    needed = late.next(BEGIN + 5000)
    late.notified(needed)
    assert needed == PeopleNeeded(("a",), BEGIN + 5050)
    assert late.next(BEGIN + 5000) == LookAgain(10)
    late.note([see("a")], BEGIN + 5040)
    late.note([see("a")], BEGIN + 5639)
    assert late.next(BEGIN + 5639) == LookAgain(1), "an export after it gets ten minutes"


@pytest.mark.parametrize("seed", range(40))
def test_a_wait_that_moves_at_each_look_ends_like_one_that_stays(seed: int) -> None:
    script, limits = Script.made_up(seed), rules(seed)
    stays = simulate(script, limits, every=900.0)
    wait, now, told = Wait(script.phases, limits, BEGIN), BEGIN, []
    while True:
        wait = Wait.from_json(json.loads(json.dumps(wait.to_json())), now)
        wait.note(script.look(wait.open, now).values(), now)
        while isinstance(answer := wait.next(now), PeopleNeeded):
            told.append((now - BEGIN, answer.transaction_ids))
            wait.notified(answer)
        if isinstance(answer, Outcome):
            break
        now += 900.0
    assert Waited(answer, told, now - BEGIN) == stays


# --------------------------------------------------------------------- drivers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (blocking, poller, watcher):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(poller, "in_thread", at_once)
    return clock


class Client:
    """A client that nobody asks anything."""

    translating = contextlib.nullcontext

    def close(self) -> None:
        pass


def drive(way: str, clock: Clock, client: Any, wait: Wait) -> Waited:
    """Wait by one of the drivers."""
    told: list[tuple[float, tuple[str, ...]]] = []

    def tell(needed: PeopleNeeded) -> None:
        told.append((clock.now - BEGIN, needed.transaction_ids))

    async def main() -> Any:
        shared = SharedPoller(lambda: client)
        while isinstance(answer := await wait_in_loop(shared, wait), PeopleNeeded):
            tell(answer)
            wait.notified(answer)
        return answer

    in_thread = way == "thread"
    outcome = wait_here(client, wait, on_people=tell) if in_thread else clock.run(main())
    return Waited(outcome, told, clock.now - BEGIN)


@pytest.mark.parametrize("way", ["thread", "coroutine"])
@pytest.mark.parametrize("seed", range(60))
def test_a_driver_does_what_the_machine_says(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, way: str, seed: int
) -> None:
    script, limits = Script.made_up(seed), rules(seed)
    scripted = ScriptedWatcher(script, clock)
    for module in (blocking, poller):
        monkeypatch.setattr(module, "Watcher", lambda *_, **__: scripted)
    found = drive(way, clock, Client(), Wait(script.phases, limits, BEGIN))
    assert found == simulate(script, limits, look_first=way == "thread")


class World:
    """A sandbox, and a clock that is its clock as well."""

    def __init__(self, sandbox: SandboxServer, clock: Clock) -> None:
        self.control = sandbox.control
        self.clock = clock
        self.client = VantageClient(config_of(sandbox))
        clock.passed = self.control.advance

    def running(self, seconds: float, *, review: bool = False) -> str:
        """Return a transaction that ends, or needs a person, after so many seconds."""
        self.control.set(processing_polls=0, processing_seconds=seconds, review=review)
        (name,) = self.control.receive_many(1, "Invoice")
        if review and not seconds:
            assert self.client.get_transaction(name).waits_for_review  # It goes on when looked at.
        return name

    def wait(self, way: str, *ids: str, **limits: Any) -> Waited:
        return drive(way, self.clock, self.client, Wait(ids, WaitRules(**limits), BEGIN))


@pytest.fixture
def world(sandbox: SandboxServer, clock: Clock) -> World:
    return World(sandbox, clock)


@pytest.mark.parametrize("way", ["thread", "coroutine"])
class TestDrivers:
    def test_review_clocks(self, world: World, way: str) -> None:
        """A is reviewed on the first day. B needs a person on the sixth, and has a week."""
        first, second = world.running(0, review=True), world.running(6 * DAY, review=True)
        world.clock.at[DAY] = lambda: world.control.finish_review(first)
        hours = {"poke_interval": 3600, "max_poke_interval": 6 * 3600, "jitter": 0}
        found = world.wait(way, first, second, timeout=30 * DAY, review_timeout=7 * DAY, **hours)
        assert found.outcome.statuses == {first: "Processed", second: "Processing"}
        assert found.outcome.timed_out.endswith("604800 s (review_timeout)")
        ((early, told), (late, then)) = found.told
        assert (told, then) == ((first,), (second,))
        assert early <= 3600
        assert 6 * DAY <= late <= 6.25 * DAY
        assert found.seconds == late + 7 * DAY
        with pytest.raises(errors.WaitTimeout, match="next try finds them"):
            check_outcome(found.outcome)

    def test_all_have_ended(self, world: World, way: str) -> None:
        ids = [world.running(1000) for _ in range(3)]
        found = world.wait(way, *ids, jitter=0)
        assert found.outcome.statuses == dict.fromkeys(ids, "Processed")
        assert (found.outcome.timed_out, found.outcome.in_review, found.told) == (None, (), [])
        assert 1000 <= found.seconds <= 1060
        # Whoever has seen them end, in full, need not ask again.
        assert set(found.outcome.processed) == (set(ids) if way == "thread" else set())

    def test_the_service_takes_too_long(self, world: World, way: str) -> None:
        ids = [world.running(1000) for _ in range(2)]
        found = world.wait(way, *ids, timeout=120)
        assert found.seconds == 120
        assert found.outcome.timed_out == "2 transactions have not ended within 120 s (timeout)"
        with pytest.raises(errors.WaitTimeout, match=f"{ids[0]}.*{ids[1]}") as caught:
            check_outcome(found.outcome)
        assert caught.value.retryable

    def test_people_are_not_waited_for(self, world: World, way: str) -> None:
        name = world.running(0, review=True)
        found = world.wait(way, name, review_timeout=0)
        assert found.outcome.in_review == (name,)
        assert "manual review" in found.outcome.timed_out
        assert [told for _, told in found.told] == [(name,)]
        assert found.seconds <= 12

    def test_trouble_is_waited_out(self, world: World, way: str) -> None:
        name = world.running(100)
        world.control.add_fault(operation="getTransaction", status=503, times=2)
        world.control.add_fault(operation="getTransaction", status=429, retry_after=300)
        world.control.add_fault(operation="getTransaction", drop=True)
        assert world.wait(way, name).outcome.statuses == {name: "Processed"}
        assert world.clock.elapsed >= 300
        assert all(fault["hits"] for fault in world.control.faults())

    def test_a_limit_holds_in_trouble_too(self, world: World, way: str) -> None:
        name = world.running(1000)
        world.control.add_fault(operation="getTransaction", status=429, retry_after=800, times=0)
        found = world.wait(way, name, timeout=100)
        assert found.outcome.statuses == {name: "Unknown"}
        assert 100 <= found.seconds <= 100 + machine.LAST_LOOK

    def test_an_error_that_waiting_does_not_cure(self, world: World, way: str) -> None:
        name = world.running(1000)
        world.control.add_fault(operation="getTransaction", status=403, times=0)
        with pytest.raises(errors.Forbidden, match=name):
            world.wait(way, name)

    def test_nothing_to_wait_for(self, world: World, way: str) -> None:
        found = world.wait(way)
        assert (found.outcome.statuses, found.seconds) == ({}, 0)
        assert world.control.count("GET") == 0

    def test_changes_are_logged_without_links(
        self, world: World, way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        name = world.running(0, review=True)
        world.clock.at[100] = lambda: world.control.finish_review(name)
        world.wait(way, name)
        one = f"Transaction {name} ('scan.pdf')"
        assert f"{one}: Processing, waiting for manual review" in caplog.text
        assert f"{one}: Processed" in caplog.text
        secrets = world.control.issued_secrets()
        assert len(secrets) > 1
        assert not [each for each in secrets if each in caplog.text]


def test_of_many_changes_the_log_has_a_few_and_what_went_wrong_first():
    ids = [f"t{number:02}" for number in range(50)]
    wait = Wait(ids, WaitRules(), BEGIN, files={"t49": "bad.pdf"})
    changes = [*map(see, ids[:48]), see("t48", in_review=True), see("t49", "Failed")]
    lines = list(wait.lines(wait.note(changes, BEGIN)))
    assert lines[0].startswith("Transaction t48: ")
    assert lines[1].endswith("(bad.pdf): Failed; 1 of 50 transactions have ended, 1 in review")
    assert [line.split()[1].rstrip(":") for line in lines[2:-1]] == ids[:18]
    assert lines[-1].startswith("... and 30 more changes; 1 of 50 transactions")
    assert list(wait.lines([])) == []
