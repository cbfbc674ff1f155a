# SPDX-License-Identifier: Apache-2.0
"""Each consumer fetches all that has ended, each transaction once, whatever is killed when."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import stores

from vantage_orchestration import errors, storage
from vantage_orchestration.client import VantageClient
from vantage_orchestration.completed import fetching
from vantage_orchestration.completed.fetching import Fetched, fetch_due
from vantage_orchestration.completed.inbox import CompletedFilter, Consumer, Inbox
from vantage_orchestration.options import Options
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location
from vantage_orchestration.token import source

DAY = 86_400
REVIEW = {"SandboxReview": "yes"}
FILES = 2  # Result files of a receipt.


class Killed(BaseException):
    pass


class Case:
    """An inbox of the skill Receipt whose clock the test moves."""

    def __init__(self, sandbox: SandboxServer, client: VantageClient, folder: Location) -> None:
        self.sandbox, self.control, self.client = sandbox, sandbox.control, client
        self.control.set(processing_polls=0)
        self.ahead = 0.0
        self.output = folder.child("out")
        self.inbox = Inbox(client, folder.child("state"), "Receipt", clock=self.now)

    def now(self) -> float:
        return fetching.time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        self.control.advance(seconds)
        self.ahead += seconds

    def receive(self, count: int = 1, **order: Any) -> list[str]:
        return self.control.receive_many(count, "Receipt", **order)

    def consumer(self, name: str = "dag.fetch", **wanted: Any) -> Consumer:
        return self.inbox.consumer(name, CompletedFilter.of(Options.of(**wanted)))

    def fetch(self, run: str, name: str = "dag.fetch", **options: Any) -> Fetched:
        """Fetch as a new process does."""
        wanted = options.pop("wanted", {})
        output = options.pop("output", self.output)
        consumer = self.consumer(name, **wanted)
        chosen = Options(**options)
        place = Output(output)
        return fetch_due(self.client, consumer, place, run=run, label="run", options=chosen)

    def got(self, run: str, name: str = "dag.fetch", **options: Any) -> list[str]:
        """Return the ids that a run has fetched; all of their results have landed."""
        fetched = self.fetch(run, name, **options)
        output = options.get("output", self.output)
        for entry in fetched.manifest.transactions:
            for file in entry.files:
                assert output.child(entry.folder, file.path).size() == file.size
        return [entry.transaction_id for entry in fetched.manifest.transactions]

    def downloads(self) -> int:
        return self.control.count("GET", "/download$")

    def lists(self) -> int:
        return self.control.count("GET", "/transactions/completed$")


@pytest.fixture(params=["local", "bucket"])
def case(
    sandbox: SandboxServer, client: VantageClient, tmp_path: Path, request: Any
) -> Iterator[Case]:
    stores.forget()
    place = str(tmp_path) if request.param == "local" else "bucket://inbox"
    yield Case(sandbox, client, Location.of(place))
    stores.forget()


@pytest.fixture
def local(sandbox: SandboxServer, client: VantageClient, tmp_path: Path) -> Case:
    return Case(sandbox, client, Location.of(tmp_path))


def test_each_once_and_each_consumer_all(case: Case) -> None:
    first = case.receive(3)
    assert sorted(case.got("1")) == sorted(first)
    second = case.receive(50)
    assert sorted(case.got("2")) == sorted(second)
    assert case.got("3") == []
    assert case.downloads() == 53 * FILES
    other = case.got("1", "other.fetch", output=case.output.parent.child("other"))
    assert sorted(other) == sorted(first + second)
    assert [each.name for each in case.inbox.consumers()] == ["dag.fetch", "other.fetch"]


def test_notes_of_what_has_no_time_stay(local: Case) -> None:
    notes, hour = local.consumer().notes, int(local.now()) // 3600
    entries = [("timeless", 0), ("old", hour - 400), ("new", hour)]
    notes.add("run", entries)
    notes.prune()
    assert notes.unknown(entries) == ["old"]


def test_what_a_run_has_done_stays_with_it(local: Case) -> None:
    notes, hour = local.consumer().notes, int(local.now()) // 3600
    first, second = ("first", hour), ("second", hour)
    notes.take("one", [first])
    notes.add("one", [first])
    notes.add("other", [first, second])
    assert notes.taken("one") == [first]


def test_what_a_run_returns(local: Case) -> None:
    ids = local.receive(2)
    fetched = local.fetch("run-1")
    assert fetched.place is not None
    manifest = json.loads(fetched.place.read_text())
    assert {each["folder"] for each in manifest["transactions"]} == set(ids)
    assert {each["pages"] for each in manifest["transactions"]} == {1}
    assert fetched.result["manifest"] == fetched.place.url
    assert (fetched.result["transactions"], fetched.result["failed"]) == (2, 0)
    assert fetched.place.parent.path == local.output.path
    later = local.fetch("run-2")
    assert (later.result["manifest"], later.result["transactions"]) == (None, 0)


def test_nothing_due_is_cheap(local: Case) -> None:
    local.receive(20)
    local.advance(3 * DAY)
    local.receive(2)
    local.fetch("1")
    assert local.got("2") == []
    before, requests = sorted(Path(local.inbox.folder.path).rglob("*.json")), local.lists()
    content = {path: path.read_bytes() for path in before}
    sent = len(local.control.journal())
    assert local.got("3") == []
    assert local.lists() == requests + 2, "one page of what is new, and one number of the rest"
    assert len(local.control.journal()) == sent + 2
    assert {path: path.read_bytes() for path in before} == content


def test_three_pages_of_backlog_and_one_that_ends_late(local: Case) -> None:
    (late,) = local.receive(parameters=REVIEW)
    local.advance(4 * DAY)
    ids = local.receive(1500)
    consumer = local.consumer()
    found = [item.id for page in consumer.due() for item in page]
    assert Counter(found) == Counter(ids)
    with consumer.notes.lease("1"):
        consumer.notes.add("1", [(name, int(local.now()) // 3600) for name in ids])
    consumer.settle()
    assert not local.consumer().waits()
    local.control.finish_review(late)
    assert local.consumer().waits()
    assert local.got("2") == [late]
    assert not local.consumer().waits()


def test_waiting_reads_no_further_than_it_has_to(local: Case) -> None:
    assert local.inbox.consumers() == []
    local.got("0")
    local.receive(1500)
    (consumer,) = local.inbox.consumers()
    before = local.lists()
    assert consumer.waits()
    assert local.lists() == before + 1
    local.ahead += 16 * DAY
    assert local.inbox.consumers() == [], "one that has not looked for so long is gone"


def test_lists_that_lag(local: Case) -> None:
    local.control.set(list_lag=600.0)
    local.got("0")
    ids = local.receive(3)
    assert local.got("1") == []
    local.advance(600)
    assert sorted(local.got("2")) == sorted(ids)


def test_what_is_wanted(local: Case) -> None:
    local.advance(2 * DAY)
    since = "1990-01-01"
    mail = local.receive(1)
    api = local.receive(1, parameters={"App": "PublicAPI"})
    ours = local.receive(1, parameters={"orchestration.key": "x" * 64})
    failed = local.receive(1, parameters={"SandboxOutcome": "Failed"})
    assert local.got("1") == mail
    fetched = local.fetch("2", wanted={"statuses": ["Processed", "Failed"], "include_api": True})
    assert fetched.by_input == {*failed}
    assert sorted(each.transaction_id for each in fetched.manifest.transactions) == sorted(
        api + ours
    )
    assert [each.transaction_id for each in fetched.manifest.failed] == failed
    assert local.got("3", wanted={"include_api": True}) == []
    assert local.got("4", "another", wanted={"since": since}) == mail
    assert local.got("5", "a third", wanted={"since": "2100-01-01"}) == []
    for wrong in ({"statuses": "Processed"}, {"statuses": ["Done"]}, {"since": "yesterday"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            local.consumer(**wrong)


def test_killed_at_every_step(local: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later try, or another run, goes on: nothing is lost, and nothing fetched again."""
    real = storage.Location.write
    monkeypatch.setattr(fetching, "_NOTE_EVERY", 0.0)
    steps = 0

    def killing(at: int) -> Callable[..., Any]:
        count = 0

        def write(self: Location, fill: Callable[[Any], Any]) -> Any:
            nonlocal count
            count += 1
            if count > at:
                raise Killed
            return real(self, fill)

        return write

    while True:
        ids, before = local.receive(3), local.downloads()
        with monkeypatch.context() as patch:
            patch.setattr(storage.Location, "write", killing(steps))
            try:
                local.fetch(f"run-{steps}", parallel=1)
                killed = False
            except Killed:
                killed = True
        if steps % 2:
            assert sorted(local.got(f"run-{steps}", parallel=1)) == sorted(ids), "a later try"
        else:
            # Its turn was given back here; after -9 it ends by itself.
            noted = set(ids) - {n for p in local.consumer().due() for n in [i.id for i in p]}
            rest = local.got(f"another-{steps}", parallel=1)
            assert sorted(rest) == sorted(set(ids) - noted), "another run"
            assert sorted(local.got(f"run-{steps}", parallel=1)) == sorted(noted)
        assert local.downloads() - before <= 4 * FILES, "no more than one was cut off"
        assert local.got("at the end") == []
        if not killed:
            break
        steps += 1
    assert steps > 15


def test_each_run_has_tables_and_findings_of_its_own(local: Case) -> None:
    """Of several skills, each with the types of its own fields."""
    local.inbox = Inbox(local.client, local.output, None, clock=local.now)
    settings = {"tables": "parquet", "required_fields": ["Nothing"], "on_low_quality": "flag"}
    totals = []
    for run, skills in (("1", ["Invoice", "Receipt"]), ("2", ["Invoice"])):
        ids = {skill: local.control.receive_many(2, skill) for skill in skills}
        place = local.fetch(run, **settings).place
        opened = Manifest.open(str(place))
        for skill in skills:
            rows = list(opened.rows(skill=skill))
            assert {row["transaction_id"] for row in rows} == set(ids[skill])
            assert {row["skill"] for row in rows} == {skill}
        columns = {(each.skill, each.name): each.columns for each in opened.written_tables}
        for skill in skills:
            assert columns[skill, "documents"][f"{skill} Date"] == "date32[day]"
        assert opened.pages_by_skill == dict.fromkeys(skills, 2)
        assert opened.counts["low_quality"] == 2 * len(skills)
        totals.append({each.path for each in opened.written_tables})
    assert not totals[0] & totals[1], "the second run leaves the tables of the first"
    assert len(local.output.child("tables").files("*/Invoice/documents.parquet")) == 2


def test_two_runs_at_once(local: Case) -> None:
    ids = local.receive(6)
    local.control.add_fault(operation="downloadResultFile", delay=0.2)
    got: dict[str, list[str]] = {}
    threads = [
        threading.Thread(target=lambda run=run: got.update({run: local.got(run)}))
        for run in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(name for each in got.values() for name in each) == Counter(ids)
    assert local.downloads() == 6 * FILES
    assert local.got("d") == []


def test_a_run_that_was_killed_holds_the_turn_for_a_while(local: Case) -> None:
    ids = local.receive(2)
    consumer = local.consumer()
    lease = consumer.notes.lease("killed")
    assert lease.__enter__() is not None
    consumer.notes.take("killed", [(ids[0], int(local.now()) // 3600)])
    assert consumer.notes.busy()
    assert local.got("next") == []
    assert local.got("killed")[:0] == [], "a later try takes over at once"
    again = local.consumer().notes.lease("killed")
    assert again.__enter__() is not None
    local.ahead += 200
    assert not consumer.notes.busy()
    more = local.receive(1)
    assert local.got("next") == more


def test_a_later_try_waits_for_the_run_that_has_its_turn(local: Case) -> None:
    (name,) = local.receive(1)
    consumer = local.consumer()
    consumer.notes.take("first", [(name, int(local.now()) // 3600)])
    with consumer.notes.lease("second") as lease:
        assert lease is not None
        with pytest.raises(errors.Overtaken) as caught:
            local.fetch("first")
        assert caught.value.retryable
        with consumer.notes.lease("second"), pytest.raises(errors.Overtaken):
            lease.check()
    assert local.got("first") == [name]


def test_one_that_fails_leaves_the_others(local: Case) -> None:
    bad, *good = local.receive(5)
    path = f"/transactions/{bad}$"
    local.control.add_fault(path_regex=path, status=503, times=100)
    with pytest.raises(errors.ServiceUnavailable):
        local.fetch("1")
    assert local.downloads() == 4 * FILES
    with pytest.raises(errors.ServiceUnavailable):
        local.fetch("2")
    local.control.clear_faults()
    assert local.got("2") == [bad]
    assert sorted(local.got("1")) == sorted(good), "its own, as a later try of it"
    assert local.got("3") == []
    assert local.downloads() == 5 * FILES


def test_what_no_retry_can_help_stays_with_its_run(local: Case) -> None:
    bad, *good = local.receive(4)
    local.control.add_fault(path_regex=f"/transactions/{bad}$", status=403, times=100)
    with pytest.raises(errors.Forbidden) as caught:
        local.fetch("1")
    assert caught.value.transaction_id == bad
    assert not local.consumer().waits(), "it makes no red run again and again"
    assert local.got("2") == []
    local.control.clear_faults()
    assert sorted(local.got("1")) == sorted([bad, *good]), "cleared"
    assert local.downloads() == 4 * FILES


def test_what_was_refused_is_checked_once_a_run(local: Case) -> None:
    ids = local.receive(6)
    local.fetch("1", "another")
    quiet = local.lists()
    for each in ids[:3]:
        local.control.add_fault(path_regex=f"/transactions/{each}$", status=403, times=100)
    with pytest.raises(errors.Forbidden):
        local.fetch("1")
    assert local.lists() - quiet == quiet + 1
    assert local.got("2") == []


def test_trouble_of_all_stops_early(local: Case) -> None:
    local.receive(40)
    local.control.add_fault(operation="getTransaction", status=403, times=1000)
    with pytest.raises(errors.Forbidden):
        local.fetch("1", parallel=2)
    assert local.control.count("GET", "/transactions/[0-9a-f-]+$") < 10
    local.control.clear_faults()
    assert len(local.got("2")) > 30
    assert len(local.got("1")) < 10
    assert local.got("3") == []


def test_deleted_before_it_was_fetched(local: Case) -> None:
    gone, there = local.receive(2)
    local.control.add_fault(path_regex=f"/transactions/{gone}$", status=404, times=9)
    with pytest.raises(errors.TransactionFailed, match="1 transactions were deleted"):
        local.fetch("1")
    assert not local.consumer().waits()
    assert (local.output.child(there, "manifest.json")).exists()


def test_notes_that_cannot_be_read_are_not_emptiness(case: Case) -> None:
    ids = case.receive(2)
    assert len(case.got("1")) == 2
    assert case.inbox.folder.fs.exists(case.inbox.folder.path)
    (noted,) = case.inbox.folder.files("*/noted/*.json")
    whole = noted.read_bytes()
    before = case.downloads()
    for broken in (b"", b"{", b"[]", b'{"version": 9, "value": {}}', whole[:-9]):
        noted.write(lambda stream, data=broken: stream.write(data))
        with pytest.raises(errors.StateDamaged, match=re.escape(noted.url)):
            case.fetch("2")
        assert noted.read_bytes() == broken, "never overwritten"
    assert case.downloads() == before
    noted.write(lambda stream: stream.write(whole))
    assert case.got("3") == []
    assert sorted(case.got("1")) == sorted(ids)


def test_a_store_that_cannot_be_asked(sandbox: SandboxServer, client: VantageClient) -> None:
    stores.forget()
    case = Case(sandbox, client, Location.of("bucket://inbox"))
    ids = case.receive(2)
    assert len(case.got("1")) == 2
    for operation in ("info", "ls"):
        stores.BucketFileSystem.failing[operation] = PermissionError("not now")
        with pytest.raises(errors.StateUnavailable, match="PermissionError: not now"):
            case.fetch("2")
        stores.forget_trouble()
    assert case.downloads() == 2 * FILES
    assert case.got("2") == []
    assert sorted(case.got("1")) == sorted(ids)
    assert isinstance(case.output.fs, type(fsspec.filesystem("bucket")))


def test_old_notes_are_removed(local: Case) -> None:
    local.receive(2)
    local.fetch("1")
    folder = Path(local.inbox.folder.path)
    assert len(list(folder.rglob("noted/*.json")) + list(folder.rglob("runs/*.json"))) == 2
    local.advance(17 * DAY)
    new = local.receive(1)
    assert local.got("2") == new
    local.got("3")
    assert len(list(folder.rglob("noted/*.json")) + list(folder.rglob("runs/*.json"))) == 2
    assert list(folder.rglob("leases/*.json")) == []


@pytest.mark.parametrize(
    ("fault", "login", "kind"),
    [
        ({"status": 302, "headers": {"Location": "/maintenance"}}, 200, errors.Redirected),
        ({"status": 401}, 200, errors.Unauthorized),
        ({"status": 401}, 401, errors.CredentialsRejected),
        ({"status": 407}, 200, errors.ConfigurationError),
    ],
)
def test_trouble_with_the_connection_is_no_fault_of_a_transaction(
    local: Case, fault: dict[str, Any], login: int, kind: type[Exception]
) -> None:
    """They are fetched by the next run, without clearing the one that failed."""
    received = local.receive(3)
    assert local.client.get_token()
    local.control.add_fault(operation="getTransaction", times=1000, **fault)
    if login != 200:
        local.control.add_fault(path_regex="/token$", status=login, times=1000)
    with pytest.raises(kind):
        local.fetch("1")
    local.control.clear_faults()
    source.registry.clear()
    local.client = VantageClient(local.client.config)
    local.inbox.client = local.client
    assert local.consumer().waits()
    assert sorted(local.got("2")) == sorted(received)
    assert local.got("1") == []


@pytest.mark.parametrize("status", [400, 403, 410])
def test_a_firewall_that_refuses_everything_takes_nothing_away(local: Case, status: int) -> None:
    ids = local.receive(2)
    list(local.consumer().due())
    refused = {"status": status, "json": {"message": "no"}, "times": 0}
    local.control.add_fault(operation="getTransaction", **refused)
    completed = "listCompletedTransactions"
    local.control.add_fault(operation=completed, after=local.lists(), **refused)
    with pytest.raises(errors.ApiError):
        local.fetch("1")
    local.control.clear_faults()
    assert sorted(local.got("2")) == sorted(ids)


@pytest.mark.parametrize("made", [None, 1766000000, "yesterday"])
def test_a_time_of_creation_that_can_not_be_read_hides_nothing(local: Case, made: Any) -> None:
    ids = local.receive(1)
    (item,) = local.client.session.get("/transactions/completed?Limit=9").json()["items"]
    page = {"items": [{**item, "createTimeUtc": made}]}
    local.control.add_fault(path_regex="/transactions/completed$", merge_json=page, times=0)
    assert local.got("1", wanted={"since": "2020-01-01"}) == ids
    assert local.got("2", wanted={"since": "2020-01-01"}) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_time_of_creation_that_comes_or_goes_makes_nothing_due_again(
    local: Case, first: bool
) -> None:
    ids = local.receive(2)
    items = local.client.session.get("/transactions/completed?Limit=9").json()["items"]
    without = {"items": [{**each, "createTimeUtc": None} for each in items]}
    fault = {"path_regex": "/transactions/completed$", "merge_json": without, "times": 0}
    for run in ("1", "2", "3"):
        if first is (run == "1"):
            local.control.add_fault(**fault)
        assert sorted(local.got(run)) == (sorted(ids) if run == "1" else [])
        local.control.clear_faults()


@pytest.mark.parametrize("operation", ["getTransaction", "downloadResultFile"])
def test_a_gateway_that_knows_no_address_takes_nothing_away(local: Case, operation: str) -> None:
    ids = local.receive(2)
    local.control.add_fault(operation=operation, status=404, json={"message": "none"}, times=0)
    local.control.add_fault(operation="listActiveTransactions", status=404, json={}, times=0)
    with pytest.raises(errors.ServiceUnavailable):
        local.fetch("1")
    local.control.clear_faults()
    assert sorted(local.got("2")) == sorted(ids)


@pytest.mark.parametrize("word", [None, "", "Archived"])
def test_a_status_that_the_contract_does_not_name_hides_nothing(
    local: Case, word: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    good, odd = local.receive(1), local.receive(1)
    local.receive(1, parameters={"SandboxOutcome": "Failed"})
    listed = local.client.session.get("/transactions/completed?Limit=1000").json()["items"]
    items = [{**each, "status": word} for each in listed]
    assert len(items) == 3
    local.control.add_fault(
        path_regex="/transactions/completed$", merge_json={"items": items}, times=0
    )
    local.control.add_fault(path_regex=odd[0], merge_json={"status": "Archived"}, times=0)
    fetched = local.fetch("1")
    assert [each.transaction_id for each in fetched.manifest.transactions] == good
    assert [(each.transaction_id, each.status) for each in fetched.manifest.failed] == [
        (odd[0], "Archived")
    ]
    assert f"{odd[0]} ended with the unknown status 'Archived'" in caplog.text
    again = local.fetch("2")
    assert again.place is None
