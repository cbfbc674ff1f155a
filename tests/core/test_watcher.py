# SPDX-License-Identifier: Apache-2.0
"""Looking at transactions: what is seen, what it costs, and what trouble does to it."""

from __future__ import annotations

import contextvars
import re
import threading
from collections import Counter

import pytest
from core.conftest import config_of
from requests.adapters import HTTPAdapter

from vantage_orchestration import errors, paging
from vantage_orchestration.client import VantageClient
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.waiting import active_list
from vantage_orchestration.waiting.machine import Observation
from vantage_orchestration.waiting.watcher import Watcher

LIST = r"/transactions/active$"
SINGLE = r"/transactions/[0-9a-fA-F-]{36}$"


class Clock:
    """Steady seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A sandbox with running transactions, and a watcher of them whose time stands still."""

    def __init__(self, sandbox: SandboxServer, client: VantageClient) -> None:
        self.sandbox = sandbox
        self.control = sandbox.control
        self.client = client
        self.clock = Clock()
        self.watcher = Watcher(client, clock=self.clock)
        self.skill = self.control.skill_id("Invoice")
        self._seen = 0
        # They end when the sandbox's clock is pushed forward, and not before.
        self.control.set(processing_polls=0, processing_seconds=1000)

    def running(self, count: int, skill: str = "Invoice") -> list[str]:
        return self.control.receive_many(count, skill)

    def end_all(self) -> None:
        self.control.advance(2000)

    def new(self) -> str:
        return self.client.create_transaction(self.skill).id

    def look(self, ids: list[str], after: float = 10.0, **options) -> dict[str, Observation]:
        """Look once, some seconds after the last look."""
        self.clock.now += after
        return self.watcher.observe(ids, **options)

    def cost(self) -> tuple[int, int]:
        """Return the numbers of pages and of single requests since the last call."""
        entries = [entry for entry in self.control.journal("GET") if entry["seq"] > self._seen]
        self._seen = max((entry["seq"] for entry in entries), default=self._seen)
        paths = [entry["path"] for entry in entries]
        return (
            sum(bool(re.search(LIST, path)) for path in paths),
            sum(bool(re.search(SINGLE, path)) for path in paths),
        )

    def pages(self) -> list[dict[str, list[str]]]:
        return [entry["query"] for entry in self.control.journal("GET", LIST)]


@pytest.fixture
def world(sandbox: SandboxServer, client: VantageClient) -> World:
    return World(sandbox, client)


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make pages short, so that a few transactions fill many."""
    monkeypatch.setattr(active_list, "LONGEST_PAGE", 10)
    return 10


@pytest.fixture
def paged(short_pages: int, sandbox: SandboxServer, client: VantageClient) -> World:
    return World(sandbox, client)


def statuses(seen: dict[str, Observation]) -> Counter[str]:
    return Counter(each.status for each in seen.values())


# ------------------------------------------------------------------- seeing


def test_states_of_transactions(world: World, sent: list[str]) -> None:
    running = world.running(3)
    new = world.new()
    world.control.set(review=True, processing_seconds=0)
    (reviewed,) = world.running(1)
    world.client.get_transaction(reviewed)  # Each look advances the processing.
    world.control.set(review=False, outcome="Canceled")
    (canceled,) = world.running(1)
    world.client.get_transaction(canceled)
    world.control.set(outcome="Failed")
    (failed,) = world.running(1)
    world.client.get_transaction(failed)
    world.control.set(outcome="Processed", processing_seconds=1000)

    seen = world.look([*running, new, reviewed, canceled, failed])
    assert {seen[each] for each in running} == {Observation(each, "Processing") for each in running}
    assert seen[new] == Observation(new, "New")
    assert seen[reviewed] == Observation(reviewed, "Processing", True)
    assert [seen[canceled].status, seen[failed].status] == ["Canceled", "Failed"]
    assert [name for name, each in seen.items() if each.ended] == [canceled, failed]


def test_review_is_seen_without_the_list(world: World) -> None:
    world.control.set(review=True, processing_seconds=0)
    (name,) = world.running(1)
    assert world.look([name]) == {name: Observation(name, "Processing", True)}
    world.control.finish_review(name)
    assert world.look([name]) == {name: Observation(name, "Processed")}
    assert world.cost()[0] == 0


def test_ids_are_matched_whatever_their_case(world: World) -> None:
    ids = world.running(3)
    names = [ids[0].upper(), ids[1], ids[2], ids[2].upper()]
    seen = world.look(names)
    assert list(seen) == names
    assert [each.transaction_id for each in seen.values()] == names
    assert world.cost() == (1, 0)


def test_status_that_nobody_knows(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (name,) = world.running(1)
    status = "Odd\nBearer abcdefghijklmnop"
    world.control.add_fault(operation="getTransaction", times=0, merge_json={"status": status})
    for _ in range(3):
        seen = world.look([name])[name]
        assert not seen.ended
        assert seen.status.startswith("Odd Bearer ***")
        assert "efgh" not in seen.status
    told = [record for record in caplog.records if "unknown status" in record.getMessage()]
    assert len(told) == 1
    assert name in told[0].getMessage()
    world.control.clear_faults()
    world.end_all()
    assert world.look([name])[name].status == "Processed"


def test_unknown_right_after_it_was_made_and_gone_later(world: World) -> None:
    name = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
    running = world.running(1)
    for _ in range(4):  # 0, 9, 18 and 27 s after the first answer.
        assert list(world.look([*running, name], 9)) == running
    seen = world.look([*running, name], 9)
    assert seen[name] == Observation(name, Status.GONE)
    assert seen[name].ended
    world.cost()
    assert world.look([name])[name].status == Status.GONE
    assert world.cost() == (0, 0)


def test_unknown_for_a_moment_only(world: World) -> None:
    new = world.new()
    world.control.add_fault(operation="getTransaction", status=404, times=2)
    assert world.look([new]) == {}
    assert world.look([new]) == {}
    assert world.look([new])[new].status == "New"
    world.control.add_fault(operation="getTransaction", status=404, times=2)
    world.look([new])
    world.look([new], 29)
    # Found again in between, so the count begins anew.
    assert world.look([new])[new].status == "New"


def test_deleted_while_watched(world: World) -> None:
    ids = world.running(5)
    world.look(ids)
    world.control.set(delete_polls=0)
    world.client.delete_transaction(ids[0])
    assert statuses(world.look(ids)) == {"Processing": 4}
    assert world.look(ids, 31)[ids[0]].status == Status.GONE


def test_a_gateway_that_knows_no_address_is_not_asked_all_the_time(world: World) -> None:
    ids = world.running(3)
    world.look(ids)
    world.control.add_fault(
        path_regex="/transactions", status=404, json={"message": "none"}, times=0
    )
    for _ in range(4):
        assert world.look(ids, 9) == {}
    world.cost()
    assert world.look(ids, 9) == {}
    assert sum(world.cost()) <= 2 * len(ids)
    assert world.look(ids, 1) == {}
    assert world.cost() == (0, 0)
    world.control.clear_faults()
    assert statuses(world.look(ids, 99)) == {"Processing": 3}


def test_without_patience_for_new_ones(world: World) -> None:
    name = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
    found = Watcher(world.client, settle=0).observe([name])
    assert found == {name: Observation(name, Status.GONE)}


# --------------------------------------------------------------------- cost


@pytest.mark.slow
def test_a_thousand_cost_one_request(world: World) -> None:
    ids = world.running(1000)
    for _ in range(3):
        assert statuses(world.look(ids)) == {"Processing": 1000}
        assert world.cost() == (1, 0)
    world.end_all()
    assert statuses(world.look(ids)) == {"Processed": 1000}
    assert world.cost() == (1, 1000)
    assert len(world.look(ids)) == 1000
    assert world.cost() == (0, 0), "what has ended is not asked for again"


def test_one_is_asked_for_singly(world: World) -> None:
    (name,) = world.running(1)
    world.look([name])
    assert world.cost() == (0, 1)


def test_a_few_of_a_large_tenant(paged: World) -> None:
    ids = paged.running(60)
    mine = [ids[5], ids[25], ids[45]]
    assert len(paged.look(mine)) == 3
    pages, singles = paged.cost()
    assert pages == 1, "one page tells how long the list is"
    assert singles in (2, 3)
    for _ in range(5):
        assert len(paged.look(mine)) == 3
        assert paged.cost() == (0, 3)
    # After a while it may have become shorter.
    paged.look(mine, after=700)
    assert paged.cost()[0] == 1


def test_many_of_a_large_tenant(paged: World) -> None:
    ids = paged.running(60)
    mine = ids[10:50]
    assert statuses(paged.look(mine)) == {"Processing": 40}
    # Whichever end of the list comes first, the page at the other end shows none of these.
    assert paged.cost() == (5, 0)
    assert [page["Offset"] for page in paged.pages()] == [[str(10 * n)] for n in range(5)]


def test_the_last_pages_are_left_out_where_they_cost_more(paged: World) -> None:
    ids = paged.running(100)
    # The list is in order of creation or the reverse: mine are together at one of its ends.
    mine = ids[:12]
    paged.look(mine)
    first = paged.cost()
    assert sum(first) <= 12
    paged.look(mine)
    assert sum(paged.cost()) <= 12


def test_skill_filter(paged: World) -> None:
    others = paged.running(50, "Receipt")
    mine = paged.running(15)
    assert len(paged.look(mine, skill_id=paged.skill)) == 15
    assert paged.cost() == (2, 0)
    assert all(page["SkillId"] == [paged.skill] for page in paged.pages())
    assert len(paged.look([*mine, *others[:5]])) == 20
    assert paged.cost() == (7, 0)
    assert all("SkillId" not in page for page in paged.pages()[2:])


def test_those_that_are_not_due_join_for_nothing(world: World) -> None:
    ids = world.running(6)
    first, rest = ids[:3], ids[3:]
    assert len(world.watcher.look(first, also=rest).seen) == 6
    assert world.cost() == (1, 0)
    # One is due: it is asked for singly, and the others are left alone.
    world.clock.now += 10
    assert list(world.watcher.look(first[:1], also=ids[1:]).seen) == ids[:1]
    assert world.cost() == (0, 1)
    # Those that left the list have ended, most likely.
    world.end_all()
    world.clock.now += 10
    assert statuses(world.watcher.look(first, also=rest).seen) == {"Processed": 6}
    assert world.cost() == (1, 6)


def test_new_ones_are_not_sought_on_the_list(world: World) -> None:
    new = [world.new() for _ in range(4)]
    world.look(new)
    assert world.cost() == (1, 4)
    for _ in range(3):
        assert statuses(world.look(new)) == {"New": 4}
        assert world.cost() == (0, 4)
    running = world.running(4)
    assert statuses(world.look([*new, *running])) == {"New": 4, "Processing": 4}
    assert world.cost() == (1, 4)


def test_running_ones_that_are_on_no_list(world: World) -> None:
    ids = world.running(5)
    world.control.add_fault(
        operation="listActiveTransactions",
        times=0,
        merge_json={"items": [], "totalItemCount": 0},
    )
    costs = []
    for _ in range(5):
        assert statuses(world.look(ids)) == {"Processing": 5}
        costs.append(world.cost())
    assert costs == [(1, 5), (1, 5), (1, 5), (0, 5), (0, 5)]


def test_nothing_is_asked_for_twice_within_a_second(world: World) -> None:
    (name,) = world.running(1)
    first = world.look([name])
    assert world.look([name], 0.9) == first
    assert world.cost() == (0, 1)
    world.look([name], 0.2)
    assert world.cost() == (0, 1)


def test_pages_become_shorter_where_items_are_large(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_list, "_PAGE_BYTES", 60_000)
    monkeypatch.setattr(paging, "_SHORTEST", 10)
    parameters = {f"Key{number}": "x" * 200 for number in range(9)}
    ids = world.control.receive_many(100, "Invoice", parameters=parameters)
    assert len(world.look(ids)) == 100
    assert len(world.look(ids)) == 100
    limits = [int(page["Limit"][0]) for page in world.pages()]
    assert limits[0] == 1000
    assert all(10 <= each < 40 for each in limits[1:])
    world.end_all()
    small = world.running(30)
    for _ in range(2):
        assert len(world.look(small)) == 30
    assert int(world.pages()[-1]["Limit"][0]) > 60, "and longer again"


# ------------------------------------------------------------ a list that lies


def test_list_that_lags_behind(world: World) -> None:
    ids = world.running(40)
    assert len(world.look(ids)) == 40
    world.control.set(list_lag=1e6)  # The list shows none of the changes that follow.
    # As it was before any of them was made, so each is asked for.
    assert statuses(world.look(ids)) == {"Processing": 40}


def test_list_that_is_stuck(world: World) -> None:
    ids = world.running(40)
    stuck = {
        "items": [{"transactionId": each, "stage": "Automatic"} for each in ids],
        "totalItemCount": 40,
    }
    world.control.add_fault(operation="listActiveTransactions", times=0, merge_json=stuck)
    world.look(ids)
    world.end_all()
    world.cost()
    open_ids, singles = list(ids), []
    while open_ids and len(singles) < 60:
        seen = world.look(open_ids)
        open_ids = [each for each in open_ids if not seen[each].ended]
        singles.append(world.cost()[1])
    assert open_ids == []
    # The list is believed for 5 minutes; then one look proves it wrong, and twice as many follow.
    quiet = [each for each in singles if each == 0]
    assert 28 <= len(quiet) <= 30
    assert singles[len(quiet) :] == [1, 2, 4, 8, 16, 9]


def test_a_list_that_tells_the_truth_costs_one_more_request_a_round(world: World) -> None:
    ids = world.running(40)
    world.look(ids)
    world.clock.now += 300
    world.cost()
    for _ in range(5):
        assert statuses(world.look(ids)) == {"Processing": 40}
        assert world.cost() == (1, 1)
    asked = Counter(entry["path"] for entry in world.control.journal("GET", SINGLE))
    assert set(asked.values()) == {1}, "another one each time"


def test_list_that_moves_while_it_is_read(paged: World) -> None:
    paged.control.set(review=True, processing_seconds=0)
    ids = paged.running(35)
    for each in ids:
        paged.client.get_transaction(each)
    paged.cost()
    ended: list[str] = []

    def end_some(response, **_) -> None:
        # After the first page some of its transactions end, and the rest of the list moves up.
        if "/active" in response.url and not ended:
            listed = [item["transactionId"] for item in response.json()["items"]]
            ended.extend(listed[:4])
            for each in ended:
                paged.control.finish_review(each)

    paged.client.session.hooks["response"].append(end_some)
    seen = paged.look(ids)
    assert len(seen) == 35
    assert all(each.in_review for each in seen.values())
    assert len(ended) == 4
    assert paged.cost() == (4, 4), "what has moved out of sight is asked for"
    assert {name for name, each in paged.look(ids).items() if each.ended} == set(ended)


# ------------------------------------------------------------------- trouble


def test_trouble_with_one(world: World, sent: list[str]) -> None:
    new = [world.new() for _ in range(4)]
    world.look(new)
    path = f"/transactions/{new[1]}$"
    world.control.add_fault(path_regex=path, status=503)
    world.control.add_fault(path_regex=path, status=502)
    for _ in range(2):
        assert list(world.look(new)) == [new[0], *new[2:]]
        assert world.watcher.resume_in() == 0
    assert list(world.look(new)) == new


@pytest.mark.parametrize("fault", [{"drop": True}, {"truncate": 5}], ids=["drop", "truncate"])
def test_broken_connection(world: World, fault: dict) -> None:
    (name,) = world.running(1)
    world.control.add_fault(operation="getTransaction", **fault)
    assert world.look([name]) == {}
    assert list(world.look([name])) == [name]


def test_server_that_is_down_is_left_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    new = [world.new() for _ in range(100)]
    world.look(new)
    world.cost()
    world.control.add_fault(operation="getTransaction", status=503, times=0)
    waits = []
    for _ in range(6):
        assert world.look(new, after=world.watcher.resume_in() + 1) == {}
        waits.append(world.watcher.resume_in())
        # It is given up after some failures, not after a hundred.
        assert 5 <= world.cost()[1] <= 15
        # And until it is time nothing is sent.
        assert world.look(new, after=waits[-1] / 2) == {}
        assert world.cost() == (0, 0)
    assert [3.7 < waits[0] < 6.3, 7.4 < waits[1] < 12.6, 44 < waits[-1] < 76] == [True] * 3
    assert "pauses for" in caplog.text
    world.control.clear_faults()
    assert len(world.look(new, after=waits[-1])) == 100
    assert world.watcher.resume_in() == 0


@pytest.mark.parametrize("operation", ["getTransaction", "listActiveTransactions"])
def test_retry_after_is_honoured(world: World, operation: str) -> None:
    ids = world.running(3)
    if operation == "getTransaction":
        ids = ids[:1]
    world.control.add_fault(operation=operation, status=429, retry_after=120)
    assert world.look(ids) == {}
    assert world.watcher.resume_in() == 120
    assert sum(world.cost()) == 1
    assert world.look(ids, 119) == {}
    assert world.cost() == (0, 0)
    assert len(world.look(ids, 2)) == len(ids)


def test_the_longest_retry_after(world: World) -> None:
    (name,) = world.running(1)
    world.control.add_fault(operation="getTransaction", status=503, retry_after=1_000_000)
    world.look([name])
    assert world.watcher.resume_in() == 900


def test_429_ends_the_round(world: World) -> None:
    new = [world.new() for _ in range(50)]
    world.look(new)
    world.cost()
    world.control.add_fault(operation="getTransaction", status=429, after=10, times=0)
    seen = world.look(new)
    assert 3 <= len(seen) <= 10
    assert world.cost()[1] <= 10 + 8
    assert world.watcher.resume_in() > 0


def test_list_in_trouble(world: World) -> None:
    many, few = world.running(20), world.running(5)
    world.control.add_fault(operation="listActiveTransactions", status=500, times=0)
    assert len(world.look(few)) == 5, "a few are asked for singly"
    assert world.cost() == (1, 5)
    assert world.look(many) == {}
    assert world.cost() == (1, 0)
    assert world.watcher.resume_in() > 0
    world.control.clear_faults()
    assert len(world.look(many, 20)) == 20


@pytest.mark.parametrize(
    "fault",
    [{"status": 403}, {"status": 404}, {"status": 400}, {"garbage": True}, {"status": 302}],
    ids=["forbidden", "unknown", "refused", "garbage", "redirect"],
)
def test_list_that_can_not_be_read(
    world: World, fault: dict, caplog: pytest.LogCaptureFixture
) -> None:
    ids = world.running(20)
    world.control.add_fault(operation="listActiveTransactions", times=0, **fault)
    for _ in range(2):
        assert world.look(ids, 20) == {}
        assert world.cost() == (1, 0)
    assert len(world.look(ids, 20)) == 20
    assert world.cost() == (1, 20)
    assert len(world.look(ids, 20)) == 20
    assert world.cost() == (0, 20)
    assert caplog.text.count("can't be read") == 1
    world.control.clear_faults()
    world.look(ids, 700)
    assert world.cost() == (1, 1), "it is tried again later"


def test_error_of_one_transaction(sandbox: SandboxServer, world: World) -> None:
    other = config_of(sandbox, username="second@example.com", client_id="second-client")
    with VantageClient(other) as client:
        foreign = client.create_transaction(world.skill).id
    ids = world.running(2)
    sighting = world.watcher.look([*ids, foreign])
    assert list(sighting.seen) == ids
    assert list(sighting.failures) == [foreign]
    assert isinstance(sighting.failures[foreign], errors.Forbidden)
    with pytest.raises(errors.Forbidden, match=foreign):
        world.look([*ids, foreign])


def test_garbled_reply_is_an_error_only_if_it_stays(world: World) -> None:
    (name,) = world.running(1)
    world.control.add_fault(operation="getTransaction", garbage=True, times=2)
    assert world.look([name]) == {}
    assert world.look([name]) == {}
    assert list(world.look([name])) == [name]
    world.control.add_fault(operation="getTransaction", garbage=True, times=0)
    world.look([name])
    world.look([name])
    with pytest.raises(errors.ProtocolError, match=name):
        world.look([name])


def test_refused_login(sandbox: SandboxServer, world: World) -> None:
    (name,) = world.running(1)
    with VantageClient(config_of(sandbox, password="not the password")) as client:
        watcher = Watcher(client, clock=world.clock)
        for ids in ([name], [name, world.new(), world.new()]):
            with pytest.raises(errors.CredentialsRejected):
                watcher.observe(ids)
    assert sandbox.control.count("POST", "/connect/token$") == 2, "one of each client"


def test_errors_are_translated(sandbox: SandboxServer, world: World) -> None:
    class Translated(Exception):
        pass

    (name,) = world.running(1)
    client = VantageClient(config_of(sandbox), translate=lambda error: Translated(str(error)))
    world.control.add_fault(operation="getTransaction", status=403)
    with client, pytest.raises(Translated, match=name):
        Watcher(client).observe([name])


def test_login_in_trouble(sandbox: SandboxServer, world: World) -> None:
    ids = world.running(3)
    world.look(ids)
    sandbox.control.revoke_tokens()
    sandbox.control.add_fault(path_regex="/connect/token$", status=429, retry_after=200)
    assert world.look(ids) == {}
    assert world.watcher.resume_in() > 100
    sandbox.control.clear_faults()


def test_revoked_token_is_renewed(sandbox: SandboxServer, world: World) -> None:
    ids = world.running(3)
    world.look(ids)
    sandbox.control.revoke_tokens()
    assert len(world.look(ids)) == 3


def test_token_that_is_never_accepted(sandbox: SandboxServer, world: World) -> None:
    (name,) = world.running(1)
    world.look([name])
    logins = sandbox.control.count("POST", "/connect/token$")
    sandbox.control.add_fault(operation="getTransaction", status=401, times=0)
    assert world.look([name]) == {}
    assert world.look([name], 100) == {}
    with pytest.raises(errors.Unauthorized):
        world.look([name], 100)
    assert sandbox.control.count("POST", "/connect/token$") - logins == 1


def test_changed_credential_is_read_again(sandbox: SandboxServer) -> None:
    tenant = sandbox.credentials["tenant_id"]
    configs = [config_of(sandbox, username="both@example.com", tenant_id=tenant)]
    with VantageClient(lambda: configs[-1]) as client:
        world = World(sandbox, client)
        ids = world.running(3)
        world.look(ids)
        sandbox.control.revoke_tokens()
        configs.append(config_of(sandbox))
        assert len(world.look(ids)) == 3
        assert client.config.credentials.username == sandbox.credentials["username"]


# -------------------------------------------------------------------- memory


def test_what_nobody_asks_for_is_forgotten(world: World) -> None:
    ids = world.running(10)
    world.look(ids)
    assert len(world.watcher.watched) == 10
    world.look(ids[:1], 500)
    world.look(ids[:1], 500)
    assert len(world.watcher.watched) == 1


def test_several_threads_share_a_watcher(world: World) -> None:
    ids = world.running(30)
    found: list[dict[str, Observation]] = []

    def look(part: list[str]) -> None:
        found.append(world.watcher.observe(part))

    parts = [ids[start::5] for start in range(5)]
    threads = [threading.Thread(target=look, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for each in found for name in each) == sorted(ids)


def test_requests_run_in_several_threads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new = [world.new() for _ in range(8)]
    world.look(new)
    # Each request waits for seven others: with fewer threads none would ever be sent.
    together = threading.Barrier(8, timeout=20)
    send = HTTPAdapter.send

    def wait(self, request, **options):
        if re.search(SINGLE, request.url):
            together.wait()
        return send(self, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", wait)
    assert len(world.look(new)) == 8


def test_parallel_work() -> None:
    done: list[int] = []
    in_parallel(done.append, range(100), 4)
    assert sorted(done) == list(range(100))
    in_parallel(done.append, [], 4)

    def work(number: int) -> None:
        done.append(number)
        if number == 3:
            raise KeyError(number)

    done.clear()
    with pytest.raises(KeyError):
        in_parallel(work, range(1000), 2)
    assert len(done) < 1000
    with pytest.raises(KeyError):
        in_parallel(work, [3], 2)


@pytest.mark.parametrize("threads", [1, 4])
def test_parallel_work_returns_results_in_order_and_knows_its_run(threads: int) -> None:
    run = contextvars.ContextVar("run", default="nobody's")
    run.set("mine")
    found = in_parallel(lambda number: (number * number, run.get()), range(50), threads)
    assert found == [(number * number, "mine") for number in range(50)]


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_parallel_work_makes_do_with_the_threads_that_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """A small container has a limit of them."""
    start, left = threading.Thread.start, list(range(allowed))

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert in_parallel(lambda number: number * number, range(50), 4) == [n * n for n in range(50)]
    assert not left


def test_a_round_costs_the_same_whatever_others_have(world: World) -> None:
    """Only what was made since the oldest of ours is listed, in the first round too."""
    world.control.add_others(4000, "Invoice", ended=False, seconds=6 * 3600.0)
    ids = world.running(30)
    since = world.control.count()
    for _ in range(2):
        assert statuses(world.look(ids)) == {"Processing": 30}
    lists = world.control.journal("GET", LIST, since)
    assert len(lists) == 2
    assert world.control.count("GET", SINGLE) == 0
    # From the second one on the server's own word is known, whatever is made meanwhile.
    world.control.add_others(4000, "Invoice", ended=False, seconds=0.0)
    world.look(ids)
    assert all(entry["query"].get("StartDate") for entry in lists)


def _costs(world: World, ids: list[str], rounds: int = 3) -> list[int]:
    """Return how many requests each round takes, all of which see everything."""
    world.cost()
    costs = []
    for _ in range(rounds):
        assert statuses(world.look(ids)) == {"Processing": len(ids)}
        costs.append(sum(world.cost()))
    return costs


def _ours(world: World, count: int) -> list[str]:
    return world.control.receive_many(count, "Invoice", parameters={KEY_PARAMETER: "a" * 64})


def _burst(world: World, count: int = 230) -> None:
    """Let others create transactions at the same time, enough for 23 pages."""
    world.control.add_others(count, "Invoice", ended=False, seconds=0.0)


@pytest.mark.parametrize("order", ["newest", "oldest", "mixed"])
@pytest.mark.parametrize("count", [3, 12, 35])
def test_a_burst_of_others_costs_one_more_request_a_round(
    paged: World, count: int, order: str
) -> None:
    paged.control.set(list_order=order)
    ids = _ours(paged, count)
    alone = max(_costs(paged, ids))
    _burst(paged)
    paged.watcher = Watcher(paged.client, clock=paged.clock)
    assert max(_costs(paged, ids)) <= alone + 2
    # Most of them end. They are read singly, and the others still cost nothing.
    paged.end_all()
    late = _ours(paged, 5)
    _burst(paged)
    paged.cost()
    seen = statuses(paged.look([*ids, *late]))
    assert seen == {"Processed": count, "Processing": 5}
    assert sum(paged.cost()) <= count + alone + 2


@pytest.mark.parametrize("filter_", ["none", "indexed", "misread", "refused"])
def test_a_filter_that_is_misread_costs_at_most_one_request_in_ten_minutes(
    paged: World, filter_: str
) -> None:
    ids = _ours(paged, 35)
    _burst(paged)
    paged.control.set(parameter_filter=filter_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_list, "_WORTH", 10**6)
        before = _costs(paged, ids)
    paged.watcher = Watcher(paged.client, clock=paged.clock)
    costs = _costs(paged, ids)
    assert costs[0] <= before[0] + 1
    assert costs[1:] == before[1:]


def test_transactions_made_elsewhere_cost_what_they_did(paged: World) -> None:
    ids = [*paged.running(15), *_ours(paged, 20)]
    _burst(paged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_list, "_WORTH", 10**6)
        before = _costs(paged, ids)
    paged.watcher = Watcher(paged.client, clock=paged.clock)
    assert _costs(paged, ids) == before


def test_old_transactions_are_found_on_the_list_all_the_same(world: World) -> None:
    ids = world.running(30)
    world.control.advance(900)  # They still run for the server, whose clock is ahead now.
    world.control.add_others(2500, "Invoice", ended=False, seconds=800.0)
    more = world.running(5)
    for _ in range(3):
        assert statuses(world.look([*ids, *more])) == {"Processing": 35}
    assert world.control.count("GET", SINGLE) == 0


def test_a_clock_that_is_far_ahead_hides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = world.running(30)
    monkeypatch.setattr(active_list, "_RECENT", -3600.0)
    assert world.look(ids) == {}  # The list was asked for a time that has not come yet.
    for _ in range(2):
        assert statuses(world.look(ids, 60.0)) == {"Processing": 30}
    assert world.control.count("GET", SINGLE) == 0
    assert world.control.count("GET", LIST) == 3
