# SPDX-License-Identifier: Apache-2.0
"""Lists that move, repeat themselves, count wrongly or never end: reading them always ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pendulum
import pytest

from vantage_orchestration import paging
from vantage_orchestration.completed.listing import CompletedList
from vantage_orchestration.errors import ProtocolError
from vantage_orchestration.paging import Chunk, Pages
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.page_numbers import listed_as_completed
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.waiting.active_list import ActiveList


@pytest.fixture(autouse=True)
def _few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_MOST_PAGES", 100)


def read_all(read: Callable[[int], Chunk[int]], **options: Any) -> list[int]:
    return [item for page in Pages(read, lambda item: item, **options) for item in page.items]


def listed(count: int, limit: int, total: int | None) -> Callable[[int], Chunk[int]]:
    """A list of so many items that says that it has another number of them."""
    return lambda offset: Chunk(range(count)[offset : offset + limit], total, limit)


@pytest.mark.parametrize("total", [25, None, 0, -7, 3, 10, 20, 24, 26, 30, 10**12])
@pytest.mark.parametrize("overlap", [0, 1])
def test_a_wrong_number_hides_nothing(total: int | None, overlap: int) -> None:
    for count in (0, 1, 9, 10, 11, 20, 25):
        found = read_all(listed(count, 10, total), overlap=overlap)
        assert sorted(set(found)) == list(range(count))


def test_shorter_pages_than_were_asked_for() -> None:
    for overlap in (0, 1):
        for size in (1, 3):
            read = listed(10, size, 10)
            found = read_all(lambda at, read=read: Chunk(read(at).items, 10, 100), overlap=overlap)
            assert sorted(set(found)) == list(range(10))


def test_no_request_more_than_needed() -> None:
    asked: list[int] = []

    def read(offset: int) -> Chunk[int]:
        asked.append(offset)
        return listed(25, 10, 25)(offset)

    read_all(read)
    read_all(read, overlap=1)
    assert asked == [0, 10, 20, 0, 9, 18]


numbers = itertools.count()
ENDLESS: dict[str, Callable[[int], Chunk[int]]] = {
    "the same page": lambda offset: Chunk([1, 2, 3], 10**9, 3),
    "the same page, short": lambda offset: Chunk([1, 2, 3], 10**9, 1000),
    "the same item": lambda offset: Chunk([1], None, 1),
    "two pages in turn": lambda offset: Chunk([offset % 2], 10**9, 1),
    "always something new": lambda offset: Chunk([next(numbers)], None, 1),
    "always one more": lambda offset: Chunk([next(numbers)], offset + 2, 100),
    "the same, and more each time": lambda offset: Chunk([7] * 5, offset + 100, 5),
}


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("kind", ENDLESS)
def test_reading_ends(kind: str, overlap: int) -> None:
    with pytest.raises(ProtocolError, match="repeats itself or does not end"):
        read_all(ENDLESS[kind], overlap=overlap)


def test_reading_ends_also_by_the_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_MOST_ITEMS", 10)
    with pytest.raises(ProtocolError):
        read_all(lambda offset: Chunk([next(numbers) for _ in range(5)], None, 5))


def test_a_list_that_grows_as_fast_as_it_is_read_for_a_while() -> None:
    """A page that brings nothing new says nothing by itself."""
    pages = [Chunk([1, 2], 6, 2), Chunk([1, 2], 8, 2), Chunk([2, 1], 8, 2), Chunk([3], 7, 2)]
    pages.append(Chunk([], 7, 2))
    answers = iter(pages)
    assert set(read_all(lambda offset: next(answers))) == {1, 2, 3}


def test_a_gap_is_noticed() -> None:
    def moving(change: Callable[[list[int]], object]) -> bool:
        items, done = list(range(10)), []

        def read(offset: int) -> Chunk[int]:
            page = Chunk(items[offset : offset + 4], len(items), 4)
            if not done:
                done.append(change(items))
            return page

        pages = Pages(read, lambda item: item, overlap=1)
        for _ in pages:
            pass
        return pages.gapless

    assert moving(lambda items: None)
    assert moving(lambda items: items.append(99))
    assert moving(lambda items: items.insert(0, 99))
    assert moving(lambda items: items.pop())
    assert not moving(lambda items: items.__delitem__(slice(0, 2)))
    assert not moving(lambda items: items.clear())


# ---------------------------------------------------------------- every reader


def readers(client: Any) -> dict[str, Callable[[], object]]:
    """Return whatever reads a list of transactions to its end."""
    now = pendulum.now("UTC")
    return {
        "active": lambda: list(client.iter_active_transactions()),
        "completed": lambda: list(client.iter_completed_transactions()),
        "watched": lambda: ActiveList(client, lambda: 0.0).read({"a", "b", "c"} | _many, None),
        "inbox": lambda: list(CompletedList(client, None, overlap=60.0).look(full=True)),
        "look-up": lambda: find_transactions(client, ["key"], skill_id="s", since=now),
        "pages": lambda: listed_as_completed(client, [Part("none")], skill_id="s"),
    }


_many = {f"t-{number}" for number in range(10**5)}


@pytest.mark.parametrize("reader", readers(None))
def test_every_reader_ends_where_a_list_repeats_itself(
    client: Any, sandbox: Any, reader: str
) -> None:
    items = [{"transactionId": f"t-{n}", "status": "Processed"} for n in range(3)]
    page = {"items": items, "totalItemCount": 10**6}
    for which in ("active", "completed"):
        # The look-up reads both lists, and is to come to the second one.
        if reader != "look-up" or which == "completed":
            path = f"/transactions/{which}$"
            sandbox.control.add_fault(path_regex=path, status=200, json=page, times=0)
    with pytest.raises(ProtocolError, match="repeats itself"):
        readers(client)[reader]()
    assert sandbox.control.count("GET", "/transactions/") < 100


def test_a_number_that_is_missing_hides_nothing(client: Any, sandbox: Any) -> None:
    waiting = {"SandboxReview": "yes"}  # They stay on the list of active ones.
    made = set(sandbox.control.receive_many(5, "Receipt", parameters=waiting))
    for path in ("/transactions/active$", "/transactions/completed$"):
        fault = {"remove_json": ["totalItemCount"], "times": 0}
        sandbox.control.add_fault(path_regex=path, **fault)
    watched = ActiveList(client, lambda: 0.0)
    watched.size = 2
    assert set(watched.read(made | _many, None).stages) == made
    assert {item.id for item in client.iter_active_transactions()} == made
