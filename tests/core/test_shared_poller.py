# SPDX-License-Identifier: Apache-2.0
"""Many coroutines that wait: shared rounds, nothing on the event loop, and an end to everything."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from core.conftest import config_of
from requests.adapters import HTTPAdapter

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.parallel import in_thread
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.waiting import poller, watcher
from vantage_orchestration.waiting.machine import Observation, Outcome, Wait
from vantage_orchestration.waiting.poller import SharedPoller, Watch, wait_in_loop
from vantage_orchestration.waiting.rules import WaitRules

LIST = r"/transactions/active$"
SINGLE = r"/transactions/[0-9a-f-]{36}$"
UNKNOWN = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
#: Seconds after which a test fails.
PATIENCE = 200.0
#: Seconds between rounds in these tests; the vendor's limit is switched off.
ROUND = 0.03


class QuickRules(WaitRules):
    """Rules without the vendor's limit, and with none of their own."""

    def __post_init__(self) -> None:
        pass

    def pause(self, looks: int, *, in_review: bool = False) -> float:
        return self.poke_interval


QUICK = QuickRules(timeout=None, review_timeout=None, poke_interval=ROUND)
SLOW = QuickRules(timeout=None, review_timeout=None, poke_interval=3600)
EACH_SECOND = WaitRules(poke_interval=1, max_poke_interval=1, jitter=0)


def waiting_for(ids: list[str], rules: WaitRules = QUICK, skill_id: str | None = None) -> Wait:
    return Wait(ids, rules, time.time(), skill_id=skill_id)


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(watcher, "LEAST_PAUSE", 0.0)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Whatever happens in a test, no poller is left."""
    yield
    assert poller.running == {}


class Client(VantageClient):
    """A client that shows whether it was closed."""

    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


class Place:
    """A sandbox, and what connects a poller to it."""

    def __init__(self, sandbox: SandboxServer) -> None:
        self.sandbox = sandbox
        self.control = sandbox.control
        self.clients: list[Client] = []
        self.control.set(processing_polls=0, processing_seconds=1000)

    def connect(self) -> VantageClient:
        self.clients.append(Client(config_of(self.sandbox)))
        return self.clients[-1]

    def poller(self) -> SharedPoller:
        return SharedPoller.of("one", self.connect)

    def running(self, count: int) -> list[str]:
        return self.control.receive_many(count, "Invoice")

    def rounds(self) -> int:
        return self.control.count("GET", LIST)


@pytest.fixture
def place(sandbox: SandboxServer) -> Place:
    return Place(sandbox)


async def wait(
    place: Place, ids: list[str], until: Callable[[Observation], bool] | None = None, **options: Any
) -> list[Observation]:
    """Wait until all have ended, or until one is seen as asked for."""
    found: list[Observation] = []
    wanted = waiting_for(ids, **options)
    with Watch(place.poller(), wanted) as watch:
        while wanted.open:
            changes = await watch.changes(PATIENCE)
            assert changes, f"nothing has changed for {PATIENCE:.0f} s"
            found += changes
            if until is not None and any(until(each) for each in changes):
                break
    return found


async def until(check: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end, f"it is not so after {PATIENCE:.0f} s"
        await asyncio.sleep(0.01)


def seen_running(each: Observation) -> bool:
    return each.status == "Processing"


async def end_soon(place: Place, rounds: int) -> None:
    """Let all transactions end after some rounds."""
    begin = place.rounds()
    while place.rounds() < begin + rounds:
        await asyncio.sleep(ROUND)
    await asyncio.to_thread(place.control.advance, 2000)


# ------------------------------------------------------------------- sharing


@pytest.mark.slow
def test_a_thousand_waiters_share_each_round(place: Place) -> None:
    ids = place.running(1000)

    async def main() -> list[list[Observation]]:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        await end_soon(place, 5)
        return await asyncio.gather(*waits)

    found = asyncio.run(main())
    assert [[each.status for each in changes] for changes in found] == [
        ["Processing", "Processed"]
    ] * 1000
    assert [changes[0].transaction_id for changes in found] == ids
    rounds, singles = place.rounds(), place.control.count("GET", SINGLE)
    # Each of them alone would take so many.
    assert 6 <= rounds < 1000
    # While they run, a round costs one request; each that has ended costs one once.
    assert 1000 <= singles <= 1000 + rounds
    assert len(place.clients) == 1
    assert place.control.count("POST", "/connect/token$") == 1


def test_no_request_is_made_by_the_event_loop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = place.running(5)
    threads: set[int] = set()
    send, connect = HTTPAdapter.send, place.connect

    def noted_send(self, request, **options):
        if "/sandbox/" not in request.url:
            threads.add(threading.get_ident())
        return send(self, request, **options)

    def noted_connect() -> VantageClient:
        threads.add(threading.get_ident())
        return connect()

    monkeypatch.setattr(HTTPAdapter, "send", noted_send)
    monkeypatch.setattr(place, "connect", noted_connect)

    async def main() -> None:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        await end_soon(place, 2)
        await asyncio.gather(*waits)

    asyncio.run(main())
    assert len(threads) >= 3
    assert threading.get_ident() not in threads


def test_several_ids_and_double_ones(place: Place) -> None:
    ids = place.running(4)

    async def main() -> list[list[Observation]]:
        waits = [
            asyncio.create_task(wait(place, part)) for part in (ids[:3], ids[1:], ids, ids[:3])
        ]
        await end_soon(place, 2)
        return await asyncio.gather(*waits)

    for part, changes in zip((ids[:3], ids[1:], ids, ids[:3]), asyncio.run(main()), strict=True):
        assert sorted(each.transaction_id for each in changes if each.ended) == sorted(part)
        assert len(changes) == 2 * len(part)


def test_review_is_a_change(place: Place) -> None:
    place.control.set(review=True, processing_seconds=0)
    (name,) = place.running(1)

    async def main() -> list[Observation]:
        found: list[Observation] = []
        wanted = waiting_for([name])
        while not isinstance(
            answer := await wait_in_loop(place.poller(), wanted, on_change=found.append), Outcome
        ):
            wanted.notified(answer)
            await asyncio.to_thread(place.control.finish_review, name)
        return found

    changes = asyncio.run(main())
    assert [(each.status, each.in_review) for each in changes[-2:]] == [
        ("Processing", True),
        ("Processed", False),
    ]


def test_slow_waiters_join_quick_ones(place: Place) -> None:
    ids = place.running(4)

    async def main() -> list[list[Observation]]:
        waits = [
            asyncio.create_task(wait(place, ids[:1], rules=SLOW)),
            asyncio.create_task(wait(place, ids[1:])),
        ]
        await end_soon(place, 3)
        return await asyncio.gather(*waits)

    first, rest = asyncio.run(main())
    assert [each.status for each in first] == ["Processing", "Processed"]
    assert len(rest) == 6


def test_slow_waiters_are_not_asked_for_singly(place: Place) -> None:
    ids = place.running(2)

    async def main() -> None:
        waits = [
            asyncio.create_task(wait(place, ids[:1], rules=SLOW)),
            asyncio.create_task(wait(place, ids[1:])),
        ]
        await until(lambda: place.control.count("GET", ids[1]) > 5)
        waits[0].cancel()
        waits[1].cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(main())
    assert place.control.count("GET", ids[0]) == 0


def test_skill_is_used_where_all_agree(place: Place) -> None:
    invoices = place.running(3)
    skill = place.control.skill_id("Invoice")

    async def main(*skills: str | None) -> None:
        waits = [
            asyncio.create_task(wait(place, [each], seen_running, skill_id=name))
            for each, name in zip(invoices, skills, strict=True)
        ]
        await asyncio.gather(*waits)

    asyncio.run(main(skill, skill, skill))
    queries = [entry["query"] for entry in place.control.journal("GET", LIST)]
    assert queries
    assert all(query["SkillId"] == [skill] for query in queries)
    asyncio.run(main(skill, skill, None))
    later = [entry["query"] for entry in place.control.journal("GET", LIST)][len(queries) :]
    assert later
    assert all("SkillId" not in query for query in later)


def test_other_keys_and_other_loops_have_other_pollers(place: Place) -> None:
    ids = place.running(2)

    async def other() -> list[Observation]:
        found = SharedPoller.of("other", place.connect)
        assert found is not place.poller()
        with Watch(found, waiting_for(ids[:1])) as watch:
            assert SharedPoller.of("other", place.connect) is found
            return list(await watch.changes(30))

    async def main() -> None:
        await asyncio.gather(other(), wait(place, ids[1:], seen_running))

    asyncio.run(main())
    assert len(place.clients) == 2
    thread = threading.Thread(target=lambda: asyncio.run(wait(place, ids, seen_running)))
    thread.start()
    asyncio.run(wait(place, ids, seen_running))
    thread.join()
    assert len(place.clients) == 4


# ------------------------------------------------------------------- leaving


def test_time_is_over(place: Place) -> None:
    ids = place.running(1)

    async def main() -> None:
        with Watch(place.poller(), waiting_for(ids, SLOW)) as watch:
            assert await watch.changes(0.01) == []
            assert await watch.changes(0) == []
        with Watch(place.poller(), waiting_for([], SLOW)) as watch:
            assert await watch.changes(30) == [], "there is nothing to wait for"

    asyncio.run(main())
    assert place.clients == []


def test_who_is_cancelled_leaves_at_once(place: Place) -> None:
    ids = place.running(3)

    async def main() -> None:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        await until(lambda: place.rounds() >= 2)
        found = place.poller()
        waits[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        assert len(found.watches) == 2
        await asyncio.to_thread(place.control.advance, 2000)
        assert [each[-1].status for each in await asyncio.gather(*waits[1:])] == ["Processed"] * 2
        # The last one has gone, and so has the poller.
        await until(lambda: found.task is None)
        assert found.client is None

    asyncio.run(main())
    assert place.control.count("GET", ids[0]) == 0


def test_nothing_is_asked_when_nobody_waits(place: Place) -> None:
    (name,) = place.running(1)

    async def main() -> tuple[int, int]:
        await wait(place, [name], seen_running)
        await until(lambda: poller.running == {})
        before = place.control.count("GET")
        await asyncio.sleep(5 * ROUND)
        after = place.control.count("GET")
        await wait(place, [name], seen_running)  # Another poller takes its place.
        return before, after

    before, after = asyncio.run(main())
    assert before == after
    assert len(place.clients) == 2


def test_a_poller_can_be_used_again(place: Place) -> None:
    (name,) = place.running(1)

    async def main() -> None:
        kept = place.poller()
        for _ in range(2):
            with Watch(kept, waiting_for([name])) as watch:
                assert await watch.changes(30)
                assert place.poller() is kept
            await until(lambda: kept.task is None)

    asyncio.run(main())


def test_nothing_stays_in_memory(place: Place) -> None:
    ids = place.running(20)
    references: list[weakref.ref[Any]] = []

    async def main() -> None:
        waits = [asyncio.create_task(wait(place, [each], seen_running)) for each in ids]
        await asyncio.sleep(0)
        found = place.poller()
        references.append(weakref.ref(found))
        references.extend(weakref.ref(each) for each in found.watches)
        await asyncio.gather(*waits)
        await until(lambda: found.task is None)

    asyncio.run(main())
    assert len(references) == 21
    gc.collect()
    assert [each() for each in references] == [None] * 21


def test_connections_are_closed(place: Place) -> None:
    (name,) = place.running(1)

    async def main() -> None:
        await wait(place, [name], seen_running)
        (client,) = place.clients
        await until(lambda: client.closed)

    asyncio.run(main())


def test_loop_that_ends_early(place: Place) -> None:
    (name,) = place.running(1)
    place.control.add_fault(path_regex=SINGLE, delay=0.3, times=1)

    async def main() -> None:
        task = asyncio.create_task(wait(place, [name]))
        await until(lambda: place.control.count("GET", SINGLE))
        assert not task.done()  # asyncio.run cancels it, while a request is under way.

    asyncio.run(main())
    assert poller.running == {}
    assert [each.status for each in asyncio.run(wait(place, [name], seen_running))] == [
        "Processing"
    ]


def test_loop_that_is_closed_with_all_it_has(place: Place) -> None:
    (name,) = place.running(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(wait(place, [name]))
    loop.run_until_complete(asyncio.sleep(5 * ROUND))
    del task
    loop.close()
    assert len(poller.running) == 1
    assert asyncio.run(wait(place, [name], seen_running))
    gc.collect()


def test_thread_that_outlives_its_loop() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> str:
        go.wait(20)
        done.set()
        return "too late"

    async def main() -> None:
        in_thread(work, "test")

    asyncio.run(main())
    go.set()
    assert done.wait(20)


def test_the_future_tells_that_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        future = in_thread(list, "test")
        with pytest.raises(RuntimeError, match="no further thread"):
            await future

    monkeypatch.setattr(threading.Thread, "start", fail)
    asyncio.run(main())


def test_rounds_that_are_cancelled_are_told(place: Place) -> None:
    (name,) = place.running(1)

    async def main() -> None:
        waiting = asyncio.create_task(wait(place, [name]))
        await asyncio.sleep(0)
        task = place.poller().task
        assert task is not None
        task.cancel()
        with pytest.raises(errors.ConnectionFailed, match="interrupted"):
            await waiting

    asyncio.run(main())


def test_contexts_do_not_mix(place: Place) -> None:
    name = contextvars.ContextVar("name", default="nobody")
    found: list[str] = []
    connect = place.connect

    def noted() -> VantageClient:
        found.append(name.get())
        return connect()

    place.connect = noted  # type: ignore[method-assign]
    (first,) = place.running(1)

    async def main() -> None:
        name.set("one of the tasks")
        waiting = asyncio.create_task(wait(place, [first], seen_running))
        await asyncio.sleep(0)
        task = place.poller().task
        assert task is not None
        if hasattr(task, "get_context"):
            found.append(task.get_context().get(name, "nobody"))
        await waiting

    asyncio.run(main())
    assert set(found) == {"nobody"}


# ------------------------------------------------------------------- trouble


def test_trouble_is_waited_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage_orchestration.waiting.watcher._FIRST_PAUSE", 0.05)
    ids = place.running(3)
    place.control.add_fault(path_regex=LIST, status=503, times=2)
    place.control.add_fault(path_regex=SINGLE, status=500, times=3)
    place.control.add_fault(path_regex=SINGLE, drop=True, times=1)
    place.control.add_fault(path_regex=SINGLE, status=429, retry_after=0, times=1)

    async def main() -> list[Observation]:
        waiting = asyncio.create_task(wait(place, ids))
        await until(lambda: all(fault["hits"] for fault in place.control.faults()))
        await asyncio.to_thread(place.control.advance, 2000)
        return await waiting

    ended = [each for each in asyncio.run(main()) if each.ended]
    assert [each.status for each in ended] == ["Processed"] * 3


def test_retry_after_holds_for_all(place: Place) -> None:
    ids = place.running(3)
    place.control.add_fault(path_regex=LIST, status=429, retry_after=1000)

    async def main() -> int:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        await until(place.rounds)
        await asyncio.sleep(5 * ROUND)
        late = asyncio.create_task(wait(place, ids))
        await asyncio.sleep(5 * ROUND)
        for each in (*waits, late):
            each.cancel()
        await asyncio.gather(*waits, late, return_exceptions=True)
        return place.control.count("GET", "/transactions")

    assert asyncio.run(main()) == 1


def test_error_of_one_transaction_concerns_who_waits_for_it(place: Place) -> None:
    ids = place.running(3)
    place.control.add_fault(path_regex=ids[0], status=403, times=0)
    place.control.add_fault(path_regex=LIST, times=0, merge_json={"items": [], "totalItemCount": 0})

    async def main() -> list[Any]:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        with pytest.raises(errors.Forbidden, match=ids[0]):
            await waits[0]
        await asyncio.to_thread(place.control.advance, 2000)
        return await asyncio.gather(*waits[1:])

    assert [each[-1].status for each in asyncio.run(main())] == ["Processed"] * 2


def test_refused_login_concerns_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = place.running(5)
    wrong = config_of(place.sandbox, password="not the password")
    monkeypatch.setattr(place, "connect", lambda: VantageClient(wrong))

    async def main() -> list[Any]:
        waits = [asyncio.create_task(wait(place, [each])) for each in ids]
        return await asyncio.gather(*waits, return_exceptions=True)

    found = asyncio.run(main())
    assert [type(each) for each in found] == [errors.CredentialsRejected] * 5
    assert len({id(each) for each in found}) == 5, "no two share an exception"
    assert place.control.count("POST", "/connect/token$") == 1


def test_store_that_gives_no_credential(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "_SURPRISE_PAUSE", 0.01)
    (name,) = place.running(1)
    connect, tries = place.connect, []

    def fail(times: int) -> Callable[[], VantageClient]:
        tries.clear()

        def connecting() -> VantageClient:
            tries.append(1)
            if len(tries) <= times:
                raise LookupError("the store is out of order")
            return connect()

        return connecting

    monkeypatch.setattr(place, "connect", fail(2))
    assert asyncio.run(wait(place, [name], seen_running))
    assert len(tries) == 3
    monkeypatch.setattr(place, "connect", fail(1000))
    with pytest.raises(LookupError, match="out of order"):
        asyncio.run(wait(place, [name], seen_running))
    assert len(tries) == 3


def test_changes_come_before_the_error(place: Place) -> None:
    ids = place.running(2)

    async def main() -> None:
        with Watch(place.poller(), waiting_for(ids)) as watch:
            await until(lambda: len(watch.unread) == 2)
            assert place.control.add_fault(path_regex=LIST, status=404, times=0)
            place.control.add_fault(path_regex=SINGLE, status=403, times=0)
            await until(lambda: watch.failure is not None)
            assert len(await watch.changes(30)) == 2
            for _ in range(2):
                with pytest.raises(errors.Forbidden):
                    await watch.changes(30)

    asyncio.run(main())


def test_unknown_transaction(place: Place) -> None:
    async def main() -> list[Observation]:
        found = SharedPoller(place.connect, settle=3 * ROUND)
        with Watch(found, waiting_for([UNKNOWN])) as watch:
            return list(await watch.changes(30))

    assert [each.status for each in asyncio.run(main())] == ["Gone"]
    assert place.control.count("GET", SINGLE) >= 2


def test_changed_credential_is_read_in_a_thread(
    place: Place, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = sandbox.credentials["tenant_id"]
    configs = [config_of(sandbox, username="both@example.com", tenant_id=tenant)]
    threads: list[int] = []

    def load():
        threads.append(threading.get_ident())
        return configs[-1]

    def connect() -> VantageClient:
        place.clients.append(VantageClient(load))
        return place.clients[-1]

    monkeypatch.setattr(place, "connect", connect)
    ids = place.running(3)

    async def main() -> list[Observation]:
        waiting = asyncio.create_task(wait(place, ids))
        await until(lambda: place.rounds() >= 2)
        configs.append(config_of(sandbox))
        await asyncio.to_thread(place.control.revoke_tokens)
        await until(lambda: len(threads) >= 2)
        await asyncio.to_thread(place.control.advance, 2000)
        return await waiting

    assert [each.status for each in asyncio.run(main())][3:] == ["Processed"] * 3
    assert threading.get_ident() not in threads
    (client,) = place.clients
    assert client.config.credentials.username == sandbox.credentials["username"]


def test_the_vendors_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert poller.LEAST_PAUSE == watcher.LEAST_PAUSE == 1.0
    ids = place.running(3)

    async def main() -> int:
        begin = asyncio.get_running_loop().time()
        with Watch(place.poller(), waiting_for(ids, EACH_SECOND)) as watch:
            assert len(await watch.changes(30)) == 3
            # Others come, one after another; none of them causes a round of its own.
            for each in ids:
                with Watch(place.poller(), waiting_for([each], EACH_SECOND)):
                    await watch.changes(0.2)
            await watch.changes(0.7)
        return int(asyncio.get_running_loop().time() - begin)

    seconds = asyncio.run(main())
    assert place.rounds() <= seconds


def test_no_secret_is_shown(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    ids = place.running(2)
    place.control.add_fault(path_regex=SINGLE, status=503, times=0)

    async def main() -> list[Observation]:
        return await wait(place, ids, seen_running)

    changes = asyncio.run(main())
    shown = repr(changes) + caplog.text
    account = place.sandbox.credentials
    secrets = [account["password"], account["client_secret"], *place.control.issued_secrets()]
    assert not [each for each in secrets if each in shown]
    assert re.search("Processing", shown)
