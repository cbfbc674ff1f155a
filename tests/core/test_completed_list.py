# SPDX-License-Identifier: Apache-2.0
"""Looking again and again for what has ended: nothing is missed, and little is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pendulum
import pytest

from vantage_orchestration.client import VantageClient
from vantage_orchestration.completed.listing import CompletedList, hour_of
from vantage_orchestration.errors import ServiceUnavailable
from vantage_orchestration.models import ListedTransaction, Page
from vantage_orchestration.sandbox import SandboxServer

DAY = 86400
REVIEW = {"SandboxReview": "yes"}


class Watched:
    """A list of a sandbox whose clock the test moves."""

    def __init__(self, sandbox: SandboxServer, client: VantageClient, **options: Any) -> None:
        self.control = sandbox.control
        self.control.set(processing_polls=0)
        self.ahead = 0.0
        options = {"overlap": 3600.0, **options}
        self.list = CompletedList(client, "Receipt", clock=self.seconds, **options)
        self.pages: list[int] = []

    def now(self) -> pendulum.DateTime:
        return pendulum.now("UTC").add(microseconds=round(self.ahead * 1e6))

    def seconds(self) -> float:
        return self.now().timestamp()

    def advance(self, seconds: float) -> None:
        self.control.advance(seconds)
        self.ahead += seconds

    def receive(self, count: int = 1, **order: Any) -> list[str]:
        return self.control.receive_many(count, "Receipt", **order)

    def look(self, full: bool = False) -> list[str]:
        """Return the ids of a look, each once."""
        pages = list(self.list.look(full=full))
        self.pages = [len(page) for page in pages]
        return list(dict.fromkeys(item.id for page in pages for item in page))

    def requests(self) -> list[dict[str, list[str]]]:
        """Return the queries since the last call."""
        found = self.control.journal("GET", "/transactions/completed$", getattr(self, "seq", 0))
        self.seq = found[-1]["seq"] if found else self.seq
        return [entry["query"] for entry in found]


@pytest.fixture
def watched(sandbox: SandboxServer, client: VantageClient) -> Watched:
    return Watched(sandbox, client)


def test_three_pages(watched: Watched) -> None:
    ids = watched.receive(2500)
    watched.control.receive_many(3, "Invoice")
    assert sorted(watched.look()) == sorted(ids)
    offsets = [int(query["Offset"][0]) for query in watched.requests()]
    assert offsets == [0, 999, 1998, 0], "three pages that overlap by one, and a count"
    assert sum(watched.pages) == 2500


def test_latest_made_first(watched: Watched) -> None:
    days = []
    for _ in range(4):
        days.append(watched.receive()[0])
        watched.advance(DAY)
    watched.receive(1200)
    found = watched.look()
    assert set(days) < set(found)
    assert len(found) == 1204
    recent = watched.receive()
    watched.advance(2 * DAY)
    today = watched.receive()
    assert watched.look()[0] == today[0]
    assert recent[0] in watched.look(full=True)


def test_little_is_read_while_nothing_happens(watched: Watched) -> None:
    old = watched.receive(20)
    watched.advance(3 * DAY)
    new = watched.receive(5)
    assert sorted(watched.look()) == sorted(old + new)
    watched.requests()
    assert sorted(watched.look()) == sorted(new)
    one, two = watched.requests()
    assert one["Limit"] == ["1000"]
    assert "EndDate" not in one
    assert two["Limit"] == ["1"], "of what is old only the number is asked for"


def test_an_old_transaction_ends_late(watched: Watched) -> None:
    (late,) = watched.receive(parameters=REVIEW)
    watched.receive(30)
    for _ in range(6):
        watched.advance(2 * DAY - 7)
        watched.receive(400)
    assert late not in watched.look()
    watched.receive(1)
    watched.advance(DAY)
    assert late not in watched.look()
    watched.requests()
    watched.control.finish_review(late)
    assert late in watched.look()
    requests = watched.requests()
    assert len(requests) < 12, "2400 transactions of 13 days, and the interval is found by halving"
    assert late not in watched.look(), "an interval that was read is left alone"
    assert len(watched.requests()) == 2
    assert late in watched.look(full=True)


def test_deleted_and_ended_in_one_interval(watched: Watched, client: VantageClient) -> None:
    """A number that stays the same hides both; reading everything finds it."""
    watched.control.set(delete_polls=0)
    (late,) = watched.receive(parameters=REVIEW)
    deleted, *others = watched.receive(3)
    watched.advance(2 * DAY)
    assert sorted(watched.look()) == sorted([deleted, *others])
    client.delete_transaction(deleted)
    watched.control.finish_review(late)
    assert watched.look() == []
    assert sorted(watched.look(full=True)) == sorted([late, *others])


def test_more_in_one_hour_than_a_page_holds(watched: Watched) -> None:
    ids = watched.receive(1500)
    watched.advance(2 * DAY)
    assert sorted(watched.look()) == sorted(ids)
    watched.requests()
    assert watched.look() == []
    assert len(watched.requests()) == 2


def test_hours_that_grow_old_are_not_lost(watched: Watched) -> None:
    """Step by step through more than two weeks, with a transaction in each step."""
    found: set[str] = set()
    made = []
    for _ in range(40):
        made += watched.receive()
        watched.advance(7 * 3600)
        found |= set(watched.look())
    assert found == set(made)
    watched.advance(15 * DAY)
    assert watched.look(full=True) == []


def test_one_that_is_listed_late(watched: Watched) -> None:
    watched.control.set(list_lag=7200.0)
    (late,) = watched.receive()
    assert watched.look() == []
    watched.advance(7200 + 3600)
    assert watched.look() == [late]


def item(number: int, created: str = "2026-03-01T10:00:00Z", files: int = 0) -> ListedTransaction:
    return ListedTransaction.read(
        {
            "transactionId": f"t-{number}",
            "status": "Processed",
            "createTimeUtc": created,
            "fileParameters": [{"key": "k", "value": "v"}] * files,
        }
    )


class Moving:
    """A list that changes between two pages; the real one can't be made to at such a moment."""

    def __init__(self, changes: list[Any], count: int = 250, files: int = 200) -> None:
        self.items = [item(number, files=files) for number in range(count)]
        self.changes = changes
        self.limits: list[int] = []

    def list_completed_transactions(
        self, *, limit: int, offset: int = 0, end_date: Any = None, **filters: Any
    ) -> Page:
        if end_date is not None:
            return Page((), 0)
        self.limits.append(limit)
        page = Page(tuple(self.items[offset : offset + limit]), len(self.items))
        if self.changes:
            self.changes.pop(0)(self.items)
        return page


def moving(source: Moving, limit: int = 100) -> Iterator[tuple[ListedTransaction, ...]]:
    found = CompletedList(source, None, overlap=60.0)  # type: ignore[arg-type]
    found.limit = limit
    return found.look(full=False)  # With 200 files each, pages of 100 stay that long.


@pytest.mark.parametrize(
    "changes",
    [
        [lambda items: items.insert(3, item(900))],
        [lambda items: items.pop(3)],
        [lambda items: items.__delitem__(slice(0, 150))],
        [lambda items: None, lambda items: items.pop(3)],
        [lambda items: items.pop(3), lambda items: items.insert(0, item(900))],
        [lambda items: items.append(item(900))],
        [lambda items: items.clear()],
    ],
)
def test_a_list_that_moves_while_it_is_read(changes: list[Any]) -> None:
    source = Moving(list(changes))
    found = [each.id for page in moving(source) for each in page]
    assert len(found) == len(set(found))
    assert {each.id for each in source.items} <= set(found)


def test_pages_get_shorter_where_transactions_are_heavy() -> None:
    source = Moving([], files=400)
    assert sum(len(page) for page in moving(source)) == 250
    assert source.limits[0] == 100
    assert set(source.limits[1:]) == {50}


def test_a_look_that_breaks_off_is_made_up_for(watched: Watched, sandbox: SandboxServer) -> None:
    ids = watched.receive(1300)
    watched.advance(2 * DAY)
    sandbox.control.add_fault(operation="listCompletedTransactions", status=503, after=3, times=5)
    with pytest.raises(ServiceUnavailable):
        watched.look()
    assert sorted(watched.look()) == sorted(ids)


def test_hour_of() -> None:
    assert hour_of(None) == 0
    assert hour_of(pendulum.datetime(1970, 1, 2, 1, 59, 59)) == 25
    assert hour_of(pendulum.datetime(1970, 1, 2, 3, tz="Europe/Berlin")) == 26


def test_another_process_goes_on(watched: Watched, client: VantageClient) -> None:
    (late,) = watched.receive(parameters=REVIEW)
    watched.receive(20)
    watched.advance(3 * DAY)
    new = watched.receive(5)
    watched.look()
    kept = json.loads(json.dumps(watched.list.numbers()))
    assert len(json.dumps(kept)) < 4000

    def another() -> None:
        watched.list = CompletedList(client, "Receipt", overlap=3600.0, clock=watched.seconds)
        watched.list.restore(kept)
        watched.requests()

    another()
    assert sorted(watched.look()) == sorted(new)
    assert len(watched.requests()) == 2
    watched.control.finish_review(late)
    another()
    assert late in watched.look()
    watched.list = CompletedList(client, "Receipt", overlap=3600.0, clock=watched.seconds)
    assert watched.list.numbers() == {"begin": 0, "numbers": []}
