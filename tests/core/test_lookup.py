# SPDX-License-Identifier: Apache-2.0
"""Transactions are found again by their key, whatever the server makes of a filter."""

from __future__ import annotations

import pendulum
import pytest
from pdfs import make_invoice

from vantage_orchestration.processing.keys import KEY_PARAMETER, unit_key
from vantage_orchestration.processing.lookup import find_transactions, listed_as_completed


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
    found = listed_as_completed(client, ids, skill_id=skill, since=pendulum.now("UTC"))
    assert [found[each].page_count for each in ids] == [1, 3]


def test_the_key_can_not_be_shifted():
    assert unit_key("ab", "c", [("n", "d")]) != unit_key("a", "bc", [("n", "d")])
    assert unit_key("a", "b", [("n", "d")]) != unit_key("a", "b", [("nd", "")])
    assert unit_key("a", "b", [("n", "d"), ("m", "e")]) != unit_key("a", "b", [("n", "d")])
    assert unit_key("a", "b", [("p", "q")]) != unit_key("a", "b", [], {"p": "q"})
