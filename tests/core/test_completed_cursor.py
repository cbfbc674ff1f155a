# SPDX-License-Identifier: Apache-2.0
"""What was dealt with is remembered in small values, whatever happens to whoever writes them."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import uuid
from typing import Any

import pytest

from vantage_orchestration.completed import Cursor, Overtaken

HOUR = 500_000
LIMIT = 64 * 1024


class Killed(Exception):
    pass


class Store:
    """A store of JSON values, whose writer can be killed before or after a write."""

    def __init__(self, values: dict[str, str] | None = None, kill_at: int | None = None) -> None:
        self.values = values if values is not None else {}
        self.kill_at = kill_at
        self.steps = 0
        self.written: list[str] = []

    def _step(self) -> None:
        if self.kill_at is not None and self.steps >= self.kill_at:
            raise Killed
        self.steps += 1

    async def aget(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        self._step()
        self.values[key] = json.dumps(value)
        self.written.append(key)
        assert len(self.values[key]) < LIMIT
        assert len(key) < 200
        self._step()

    async def adelete(self, key: str) -> None:
        self._step()
        self.values.pop(key, None)
        self._step()


def cursor(*stores: Store, scope: str = "conn\0skill", hour: int = HOUR) -> Cursor:
    return Cursor(stores, scope, lambda: hour * 3600.0)


def ids(count: int, seed: int = 1) -> list[str]:
    source = random.Random(seed)
    return [str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(count)]


def test_what_was_noted_is_known_after_a_restart() -> None:
    async def check() -> None:
        store = Store()
        entries = [(name, HOUR - place % 5) for place, name in enumerate(ids(50))]
        first = cursor(store)
        assert await first.open() is None
        assert await first.unknown(entries) == [name for name, _ in entries]
        await first.add(entries[:30])
        assert first.unwritten == 30
        await first.flush()
        assert first.unwritten == 0
        await first.save({"a": 1})
        assert await first.unknown(entries) == [name for name, _ in entries[30:]]
        second = cursor(store)
        assert await second.open() == {"a": 1}
        assert await second.unknown(entries) == [name for name, _ in entries[30:]]
        upper = [(name.upper(), hour) for name, hour in entries[:30]]
        assert await second.unknown(upper) == [], "the service takes ids in any case"
        other = cursor(store, scope="conn\0other")
        assert await other.open() is None
        assert len(await other.unknown(entries)) == 50

    asyncio.run(check())


def test_ten_thousand_a_day_for_two_weeks() -> None:
    """Values stay small, and only hours with changes are written."""

    async def check() -> None:
        store = Store()
        first = cursor(store)
        await first.open()
        names = ids(140_000)
        entries = [(name, HOUR - place // 417) for place, name in enumerate(names)]
        for place in range(0, len(entries), 5000):
            await first.add(entries[place : place + 5000])
            await first.flush()
        assert max(map(len, store.values.values())) < 8000
        assert len(store.values) < 400
        store.written.clear()
        await first.add([(ids(1, seed=2)[0], HOUR - 7)])
        await first.flush()
        assert [key.split("/", 3)[3] for key in store.written] == [f"hour/{HOUR - 7}/0"]
        second = cursor(store)
        await second.open()
        assert await second.unknown(entries) == []
        assert len(await second.unknown([(name, HOUR) for name in ids(500, seed=3)])) == 500

    asyncio.run(check())


def test_a_burst_is_kept_in_several_values() -> None:
    async def check() -> None:
        store = Store()
        first = cursor(store)
        await first.open()
        entries = [(name, HOUR) for name in ids(9000)]
        for place in range(0, 9000, 1500):
            await first.add(entries[place : place + 1500])
            await first.flush()
        assert sum("/hour/" in key for key in store.values) == 3
        store.written.clear()
        await first.add([("one-more", HOUR)])
        await first.flush()
        assert [key.rsplit("/", 1)[1] for key in store.written] == ["2"], "the last part only"
        second = cursor(store)
        await second.open()
        assert await second.unknown([*entries, ("one-more", HOUR), ("new", HOUR)]) == ["new"]

    asyncio.run(check())


def test_old_hours_are_removed() -> None:
    async def check() -> None:
        store = Store()
        first = cursor(store)
        await first.open()
        old, young = ids(2)
        await first.add([(old, HOUR), (young, HOUR + 30), ("undated", 0)])
        await first.flush()
        before = set(store.values)
        later = cursor(store, hour=HOUR + 16 * 24 + 1)
        await later.open()
        await later.prune()
        assert {key.split("/", 3)[3] for key in before - set(store.values)} == {f"hour/{HOUR}/0"}
        assert await later.unknown([(old, HOUR), (young, HOUR + 30), ("undated", 0)]) == [old]
        again = cursor(store, hour=HOUR + 16 * 24 + 1)
        await again.open()
        assert await again.unknown([(old, HOUR), (young, HOUR + 30)]) == [old]

    asyncio.run(check())


def test_announced_and_not_noted_is_in_doubt() -> None:
    async def check() -> None:
        store = Store()
        first = cursor(store)
        await first.open()
        assert await first.announce(["a", "b"]) == frozenset()
        await first.add([("a", HOUR)])
        await first.flush()
        second = cursor(store)
        await second.open()
        assert await second.unknown([("a", HOUR), ("b", HOUR), ("c", HOUR)]) == ["b", "c"]
        assert await second.announce(["c"]) == frozenset()
        third = cursor(store)
        await third.open()
        assert await third.announce(["b", "c", "d"]) == {"b", "c"}, "b stays in doubt"
        await third.add([("b", HOUR), ("c", HOUR), ("d", HOUR)])
        await third.flush()
        assert await third.announce(["e"]) == frozenset()
        third.forget_doubts()
        fourth = cursor(store)
        await fourth.open()
        assert await fourth.announce(["e", "f"]) == {"e"}

    asyncio.run(check())


def test_whoever_comes_later_takes_over() -> None:
    async def check() -> None:
        store = Store()
        first, second = cursor(store), cursor(store)
        await first.open()
        await first.announce(["a"])
        await second.open()
        with pytest.raises(Overtaken):
            await first.announce(["b"])
        await second.announce(["b"])

    asyncio.run(check())


def test_several_stores_hold_the_same() -> None:
    async def check() -> None:
        one, two, three = Store(), Store(), Store()
        first = cursor(one, two)
        await first.open()
        await first.add([("a", HOUR)])
        await first.flush()
        await first.save({"a": 1})
        assert one.values == two.values
        second = cursor(three, two)
        assert await second.open() == {"a": 1}, "one of the assets has gone, another come"
        assert await second.unknown([("a", HOUR), ("b", HOUR)]) == ["b"]
        await second.add([("b", HOUR)])
        await second.flush()
        third = cursor(three)
        await third.open()
        assert await third.unknown([("a", HOUR), ("b", HOUR)]) == [], "and was made complete"

    asyncio.run(check())


def test_a_cursor_needs_a_store() -> None:
    with pytest.raises(ValueError, match="needs a store"):
        Cursor([], "x")


def test_killed_at_every_step() -> None:
    """Whatever is noted after a kill is announced or noted: nothing that was told is new."""
    names = ids(12)
    entries = [(name, HOUR + place % 3) for place, name in enumerate(names)]

    async def tell(store: Store, told: list[str], marked: set[str]) -> None:
        mine = cursor(store)
        await mine.open()
        for place in range(0, 12, 4):
            new = await mine.unknown(entries[place : place + 4])
            if new:
                marked |= await mine.announce(new)
                told += new
                await mine.add(entry for entry in entries if entry[0] in new)
                await mine.flush()

    async def check() -> int:
        kill_at, killed = 0, True
        while killed:
            store, told, marked = Store(kill_at=kill_at), [], set()
            try:
                await tell(store, told, marked)
                killed = False
            except Killed:
                killed = True
            before = list(told)
            store.kill_at = None
            await tell(store, told, marked)
            assert set(told) == set(names), "nothing is lost"
            again = {name for name in names if told.count(name) > 1}
            assert again <= marked, "what comes twice has a mark"
            assert len(again) <= 4
            assert marked <= set(before) | set(told[len(before) :])
            last = list(told)
            await tell(Store(copy.deepcopy(store.values)), last, set())
            assert last == told
            kill_at += 1
        return kill_at

    assert asyncio.run(check()) > 20


def test_store_of_small_values() -> None:
    """Some stores take 5000 characters, and are looked at by people."""

    async def check() -> None:
        store = Store()
        first_hour = HOUR - HOUR % 24

        def opened(hour: int) -> Cursor:
            return Cursor([store], "scope", lambda: hour * 3600.0, digests=450, hours=24)

        first = opened(HOUR)
        await first.open()
        entries = [(name, HOUR - place // 20) for place, name in enumerate(ids(2000))]
        entries.append((ids(1, seed=2)[0], 0))
        await first.add(entries)
        await first.flush()
        await first.save({"b": 2}, "other")
        assert max(map(len, store.values.values())) <= 5000
        assert len(store.values) < 15, "some for each of five days, and four of its own"
        second = opened(HOUR)
        await second.open()
        assert await second.saved("other") == {"b": 2}
        assert await second.saved("another") is None
        assert await second.unknown(entries) == []
        # A day goes when the last of its hours can't be listed any more.
        for hour, gone in ((first_hour + 23 + 16 * 24, False), (first_hour + 24 + 16 * 24, True)):
            later = opened(hour)
            await later.open()
            await later.prune()
            today = [entry for entry in entries if entry[1] >= first_hour]
            assert bool(await opened_anew(opened(hour), today)) == gone
        assert await opened_anew(opened(HOUR), entries[-1:]) == [], "without a time: for ever"

    async def opened_anew(found: Cursor, entries: list[tuple[str, int]]) -> list[str]:
        await found.open()
        return await found.unknown(entries)

    asyncio.run(check())
