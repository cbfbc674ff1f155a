# SPDX-License-Identifier: Apache-2.0
"""Transactions are found again by their key, whatever the server makes of a filter."""

from __future__ import annotations

import time

import pendulum
import pytest
from core.conftest import QUICK
from pdfs import make_invoice

from vantage_orchestration.client import VantageClient
from vantage_orchestration.models import Page
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing.host_notes import forget_all
from vantage_orchestration.processing.keys import KEY_PARAMETER, unit_key
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.page_numbers import listed_as_completed
from vantage_orchestration.processing.submit import Part


@pytest.fixture
def skill(sandbox) -> str:
    return sandbox.control.skill_id("Invoice")


@pytest.fixture
def invoice(tmp_path):
    return make_invoice(tmp_path / "invoice.pdf", "INV-1")


def made(client, skill, key, file=None, **parameters) -> str:
    """Make a transaction with a key; start it if there is a file."""
    transaction = client.create_transaction(
        skill, registration_parameters={KEY_PARAMETER: key, **parameters}
    )
    if file is not None:
        client.add_files(transaction.id, [file])
        client.start_transaction(transaction.id)
    return transaction.id


def find(client, skill, *keys, since=None):
    return find_transactions(client, keys, skill_id=skill, since=since or pendulum.now("UTC"))


@pytest.mark.parametrize("understood", ["both", "json", "indexed", "none", "misread", "refused"])
@pytest.mark.parametrize("ended", [False, True])
def test_found_however_the_server_reads_the_filter(
    client, sandbox, skill, invoice, understood, ended
):
    sandbox.control.set(parameter_filter=understood, processing_polls=0 if ended else 10**6)
    others = [made(client, skill, f"other {n}", invoice) for n in range(3)]
    mine = made(client, skill, "mine", invoice)
    if ended:
        for each in (*others, mine):
            assert client.get_transaction(each).ended
    assert find(client, skill, "mine") == {"mine": mine}
    assert find(client, skill, "nobody's") == {}


def test_a_filter_that_works_saves_the_look_at_everything(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=10**6)
    mine = made(client, skill, "mine", invoice)
    before = sandbox.control.count("GET", "/transactions/(active|completed)")
    assert find(client, skill, "mine") == {"mine": mine}
    assert sandbox.control.count("GET", "/transactions/(active|completed)") - before == 2


def test_many_keys_are_found_by_one_look_at_everything(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=10**6)
    ids = {f"key {n}": made(client, skill, f"key {n}", invoice) for n in range(12)}
    before = sandbox.control.count("GET", "/transactions/(active|completed)")
    assert find(client, skill, *ids, "nobody's") == ids
    assert sandbox.control.count("GET", "/transactions/(active|completed)") - before == 2


@pytest.mark.parametrize("outcome", ["Failed", "Canceled"])
def test_what_ended_badly_is_not_gone_on_with(client, sandbox, skill, invoice, outcome):
    sandbox.control.set(processing_polls=0, outcome=outcome)
    assert client.get_transaction(made(client, skill, "mine", invoice)).status == outcome
    assert find(client, skill, "mine") == {}
    sandbox.control.set(outcome="Processed")
    second = made(client, skill, "mine", invoice)
    assert client.get_transaction(second).status == "Processed"
    assert find(client, skill, "mine") == {"mine": second}


def test_of_two_with_one_key_the_one_that_was_charged_is_taken(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=10**6, list_new=True)
    first = made(client, skill, "mine")  # Its reply was lost, so another one was made.
    running = made(client, skill, "mine", invoice)
    assert find(client, skill, "mine") == {"mine": running}
    second = made(client, skill, "other")
    third = made(client, skill, "other")
    assert find(client, skill, "other")["other"] in (second, third)
    client.delete_transaction(first)
    assert find(client, skill, "mine") == {"mine": running}


@pytest.mark.parametrize("since", [{"merge_json": {"status": "Failed"}}, {"status": 404}])
def test_of_two_the_one_that_has_failed_or_gone_since_it_was_listed_is_not_taken(
    client, sandbox, skill, invoice, since
):
    sandbox.control.set(processing_polls=10**6)
    first, second = (made(client, skill, "mine", invoice) for _ in range(2))
    sandbox.control.add_fault(path_regex=f"/transactions/{first}$", times=0, **since)
    assert find(client, skill, "mine") == {"mine": second}


def test_new_ones_are_found_where_the_service_lists_them(client, sandbox, skill):
    mine = made(client, skill, "mine")
    assert find(client, skill, "mine") == {}
    sandbox.control.set(list_new=True)
    assert find(client, skill, "mine") == {"mine": mine}


def test_a_list_that_lags_hides_what_is_too_new(client, sandbox, skill, invoice):
    """The limit that the documentation speaks of, and why the ledger comes first."""
    sandbox.control.set(list_lag=60.0, processing_polls=10**6)
    mine = made(client, skill, "mine", invoice)
    assert find(client, skill, "mine") == {}
    sandbox.control.advance(61)
    assert find(client, skill, "mine") == {"mine": mine}


def test_only_the_skill_and_the_time_that_matter_are_searched(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=10**6)
    mine = made(client, skill, "mine", invoice)
    assert find(client, "Receipt", "mine") == {}
    # A clock that is ahead must not ask for a time that has not come yet.
    assert find(client, skill, "mine", since=pendulum.now("UTC").add(days=3)) == {"mine": mine}
    begins = [
        pendulum.parse(value)
        for entry in sandbox.control.journal("GET", "/transactions/active$")
        for value in entry["query"]["StartDate"]
    ]
    yesterday = pendulum.now("UTC").subtract(days=1)
    assert begins
    assert all(abs((begin - yesterday).total_minutes()) < 5 for begin in begins)


def test_pages_come_from_the_list_of_completed_ones(client, sandbox, skill, tmp_path):
    sandbox.control.set(processing_polls=0)
    ids = [
        made(client, skill, str(n), make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}", pages=n))
        for n in (1, 3)
    ]
    assert all(client.get_transaction(each).ended for each in ids)
    found = listed_as_completed(client, map(Part, ids), skill_id=skill)
    assert [found[each].page_count for each in ids] == [1, 3]


def test_the_key_can_not_be_shifted():
    assert unit_key("ab", "c", [("n", "d")]) != unit_key("a", "bc", [("n", "d")])
    assert unit_key("a", "b", [("n", "d")]) != unit_key("a", "b", [("nd", "")])
    assert unit_key("a", "b", [("n", "d"), ("m", "e")]) != unit_key("a", "b", [("n", "d")])
    assert unit_key("a", "b", [("p", "q")]) != unit_key("a", "b", [], {"p": "q"})


# ------------------------------------------------- among other people's transactions


def requests_of(sandbox, work):
    """Return what ``work`` returned and how many requests it took."""
    before = sandbox.control.count("GET", "/api/")
    return work(), sandbox.control.count("GET", "/api/") - before


#: How the server reads filters, what the others' transactions carry, and the most requests.
NEVER_SENT = {
    "understood": ("both", {"source": "PublicAPI"}, 6),
    "indexed": ("indexed", {"source": "PublicAPI"}, 7),
    "by another parameter": ("json", {"parameters": {"Batch": "7"}}, 6),
    "nothing to try it with": ("both", {}, 12),
    "ignored": ("none", {"source": "PublicAPI"}, 14),
    "misread": ("misread", {"source": "PublicAPI"}, 14),
    "refused": ("refused", {"source": "PublicAPI"}, 14),
}


@pytest.mark.parametrize("case", NEVER_SENT)
def test_a_key_that_was_never_sent_costs_the_same_whatever_others_have(
    client, sandbox, skill, invoice, case
):
    understood, others, most = NEVER_SENT[case]
    sandbox.control.set(parameter_filter=understood)
    _, alone = requests_of(sandbox, lambda: find(client, skill, "mine"))
    assert alone <= 6
    sandbox.control.add_others(5000, "Invoice", seconds=60.0, **others)
    forget_all()
    found, first = requests_of(sandbox, lambda: find(client, skill, "mine"))
    assert found == {}
    assert first <= most
    for n in range(3):
        found, further = requests_of(sandbox, lambda n=n: find(client, skill, f"mine {n}"))
        assert found == {}
        assert further <= 4
    mine = made(client, skill, "late", invoice)
    assert find(client, skill, "late", "mine") == {"late": mine}


@pytest.mark.parametrize("understood", ["both", "indexed", "none", "misread"])
def test_tasks_that_ask_at_the_same_time_share_what_they_read(
    client, configure, sandbox, skill, invoice, understood
):
    sandbox.control.set(parameter_filter=understood, processing_polls=10**6)
    sandbox.control.add_others(3000, "Invoice")
    mine = made(client, skill, "key 7", invoice)

    def look(n):
        with VantageClient(configure(), retries=QUICK) as other:
            return find(other, skill, f"key {n}")

    found, requests = requests_of(sandbox, lambda: in_parallel(look, range(20), 20))
    assert found == [{"key 7": mine} if n == 7 else {} for n in range(20)]
    assert requests <= 20 * 12, "far fewer than if each had read all pages"
    pages = sandbox.control.journal("GET", "/transactions/completed$")
    assert sum(page["query"].get("Offset", ["0"]) != ["0"] for page in pages) <= 10


def test_what_was_read_of_many_own_transactions_is_shared_too(client, configure, sandbox, skill):
    sandbox.control.set(parameter_filter="misread")
    key = {KEY_PARAMETER: "k" * 64}
    sandbox.control.add_others(3000, "Invoice", parameters=key, seconds=60.0)
    _, first = requests_of(sandbox, lambda: find(client, skill, "mine 1"))
    _, second = requests_of(sandbox, lambda: find(client, skill, "mine 2"))
    assert second < first
    assert second <= 4


@pytest.mark.parametrize("change", ["made", "deleted", "late"])
def test_what_changes_after_the_lists_were_read_is_seen(client, sandbox, skill, invoice, change):
    sandbox.control.set(parameter_filter="misread", processing_polls=10**6)
    sandbox.control.add_others(5, "Invoice", seconds=60.0)
    first = made(client, skill, "first", invoice)
    if change == "late":
        sandbox.control.set(list_lag=30.0)
        assert find(client, skill, "first", "second") == {}
        sandbox.control.advance(31)
        assert find(client, skill, "first", "second") == {"first": first}
        return
    assert find(client, skill, "first", "second") == {"first": first}
    if change == "made":
        second = made(client, skill, "second", invoice)
        assert find(client, skill, "first", "second") == {"first": first, "second": second}
    else:
        sandbox.control.set(delete_polls=0)
        client.delete_transaction(first)
        assert find(client, skill, "first", "second") == {}


def test_what_is_listed_late_is_seen_although_another_one_was_deleted(
    client, sandbox, skill, invoice
):
    sandbox.control.set(parameter_filter="misread", processing_polls=10**6)
    old = made(client, skill, "old", invoice)
    sandbox.control.advance(400.0)
    sandbox.control.add_others(5, "Invoice")
    late = made(client, skill, "late", invoice)
    made(client, skill, "newest", invoice)
    hidden = client.session.get("/transactions/active", params={"Limit": 9}).json()
    hidden["items"] = [each for each in hidden["items"] if each["transactionId"] != late]
    hidden["totalItemCount"] -= 1
    sandbox.control.add_fault(operation="listActiveTransactions", json=hidden, status=200, times=0)
    assert find(client, skill, "late") == {}
    sandbox.control.clear_faults()
    sandbox.control.set(delete_polls=0)
    client.delete_transaction(old)
    assert find(client, skill, "late", "old") == {"late": late}


def test_what_was_read_of_a_shorter_time_does_not_answer_for_a_longer_one(client, sandbox, skill):
    sandbox.control.set(parameter_filter="misread")
    key = {KEY_PARAMETER: "key"}
    sandbox.control.add_others(8, "Invoice", parameters=key, seconds=4 * 86_400.0)
    now = pendulum.now("UTC")
    # The oldest of those with one key is taken.
    found = [find(client, skill, "key", since=now.subtract(days=n)) for n in (0, 2)]
    forget_all()
    assert found[1] == find(client, skill, "key", since=now.subtract(days=2)) != found[0]


def test_a_filter_is_tried_together_with_that_of_the_skill(
    client, sandbox, skill, invoice, monkeypatch
):
    """Some server may understand either of them, and list nothing for both."""
    sandbox.control.set(processing_polls=10**6)
    mine = made(client, skill, "mine", invoice)
    for name in ("list_active_transactions", "list_completed_transactions"):
        real = getattr(client, name)

        def listed(real=real, **filters):
            if filters.get("skill_id") and filters.get("parameters"):
                return Page((), 0)
            return real(**filters)

        monkeypatch.setattr(client, name, listed)
    assert find(client, skill, "mine") == {"mine": mine}


def test_a_server_that_stops_filtering_is_found_out(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=10**6)
    mine = made(client, skill, "mine", invoice)
    assert find(client, skill, "nobody's") == {}  # Which has shown that it filters.
    sandbox.control.set(parameter_filter="none")
    assert find(client, skill, "mine", "other") == {"mine": mine}
    sandbox.control.set(parameter_filter="refused")
    assert find(client, skill, "mine", "other") == {"mine": mine}


# -------------------------------------------------------------- page numbers


@pytest.mark.parametrize("order", ["oldest", "newest", "mixed"])
@pytest.mark.parametrize("understood", ["both", "indexed", "none", "misread", "refused"])
def test_page_numbers_are_found_among_any_number_of_others(
    client, sandbox, skill, tmp_path, order, understood
):
    sandbox.control.set(processing_polls=0, parameter_filter=understood, list_order=order)
    sandbox.control.add_others(6000, "Invoice", source="PublicAPI", seconds=14 * 86400.0)
    known = {}
    for n in range(5):
        file = make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}", pages=1 + n % 2)
        name = made(client, skill, f"key {n}", file)
        known[name] = Part(name, f"key {n}", created=time.time())
    assert all(client.get_transaction(each).ended for each in known)
    for few in (1, 5):
        some = dict(list(known.items())[:few])
        found, requests = requests_of(
            sandbox, lambda some=some: listed_as_completed(client, some.values(), skill_id=skill)
        )
        assert [found[each].page_count for each in some] == [1, 2, 1, 2, 1][:few]
        assert requests <= 2


def test_page_numbers_are_found_although_clocks_differ(client, sandbox, skill, invoice):
    sandbox.control.set(processing_polls=0)
    sandbox.control.add_others(3000, "Invoice", seconds=86400.0)
    sandbox.control.advance(4 * 3600)
    known = {}
    for n in range(5):
        name = made(client, skill, f"key {n}", invoice)
        known[name] = Part(name, f"key {n}", created=time.time())
    assert all(client.get_transaction(each).ended for each in known)
    found, requests = requests_of(
        sandbox, lambda: listed_as_completed(client, known.values(), skill_id=skill)
    )
    assert found.keys() == known.keys()
    assert requests <= 4
    # Nothing is known of them but their ids.
    plain = list(map(Part, known))
    assert listed_as_completed(client, plain, skill_id=None).keys() == known.keys()
    one = plain[:1]
    assert requests_of(sandbox, lambda: listed_as_completed(client, one, skill_id=None))[1] == 2
