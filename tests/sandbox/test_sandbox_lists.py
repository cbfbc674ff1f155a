# SPDX-License-Identifier: Apache-2.0
"""What the lists may do that the contract leaves open, and transactions from other sources."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vantage_orchestration.sandbox.control_client import SandboxControlError
from vantage_orchestration.sandbox.inbox import small_pdf


def listed(api: Any, kind: str, **query: Any) -> list[str]:
    reply = api.get(f"/transactions/{kind}", params={"Limit": 1000, **query}, strict=True)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["totalItemCount"] == len(body["items"])
    return [item["transactionId"] for item in body["items"]]


def stages(api: Any) -> dict[str, str]:
    items = api.get("/transactions/active?Limit=1000", strict=True).json()["items"]
    return {item["transactionId"]: item["stage"] for item in items}


# ---- new transactions on the active list ----


def test_new_transactions_on_the_active_list(make_api: Any, invoice: bytes) -> None:
    api = make_api(list_new=True, processing_polls=9)
    new, running = api.create(), api.launch([("a.pdf", invoice)])
    assert stages(api) == {new: "Automatic", running: "Automatic"}
    assert listed(api, "active", StageType="Automatic") == [new, running]
    assert listed(api, "active", StageType="ManualReview") == []
    assert listed(api, "completed") == []
    assert api.read(new)["status"] == "New"
    api.control.set(list_new=False)
    assert listed(api, "active") == [running]


def test_files_added_to_a_listed_new_transaction_are_shown(make_api: Any, invoice: bytes) -> None:
    api = make_api(list_new=True)
    new = api.create()
    (before,) = api.get("/transactions/active?Limit=9").json()["items"]
    assert (before["documentCount"], before["fileParameters"]) == (0, [])
    api.upload(f"/transactions/{new}/files", [("a.pdf", invoice)])
    (after,) = api.get("/transactions/active?Limit=9").json()["items"]
    assert after["documentCount"] == 1
    assert {"isReadOnly": True, "key": "SourceFileName", "value": "a.pdf"} in after[
        "fileParameters"
    ]


# ---- lists that lag ----


def test_lists_lag_behind(make_api: Any, invoice: bytes) -> None:
    api = make_api(list_lag=30, list_new=True, processing_polls=0, review=True)
    api.control.set(processing_seconds=20)
    key = api.create()
    assert stages(api) == {}
    api.control.advance(30)
    assert stages(api) == {key: "Automatic"}
    api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)])
    api.control.set(list_new=False)
    api.post(f"/transactions/{key}/start")
    assert stages(api) == {}, "for the list it is new still"
    api.control.advance(20)
    assert api.read(key)["manualReviewLink"]
    api.control.advance(10)
    assert stages(api) == {key: "Automatic"}
    assert listed(api, "active", StageType="ManualReview") == []
    api.control.advance(20)
    assert stages(api) == {key: "ManualReview"}
    assert listed(api, "active", StageName="Review") == [key]
    api.control.finish_review(key, "Canceled")
    assert api.read(key)["status"] == "Canceled"
    assert stages(api) == {key: "ManualReview"}
    assert listed(api, "completed") == []
    api.control.advance(30)
    assert stages(api) == {}
    assert listed(api, "completed") == [key]
    assert listed(api, "completed", TransactionStatus="Cancelled") == [key]
    api.control.set(list_lag=60)
    assert listed(api, "completed") == []
    assert stages(api) == {key: "ManualReview"}
    api.control.set(list_lag=0)
    assert listed(api, "completed") == [key]


def test_pages_of_a_list_that_lags(make_api: Any, invoice: bytes) -> None:
    api = make_api(list_lag=60, processing_polls=0)
    old = [api.launch([("a.pdf", invoice)]) for _ in range(3)]
    assert {api.read(key)["status"] for key in old} == {"Processed"}
    api.control.advance(60)
    new = api.launch([("a.pdf", invoice)])
    assert api.read(new)["status"] == "Processed"
    reply = api.get("/transactions/completed?Limit=2&Offset=2").json()
    assert reply["totalItemCount"] == 3
    assert [item["transactionId"] for item in reply["items"]] == old[2:]


# ---- filters by parameters ----

PAIR = {"key": "Order", "value": "A 1"}
JSON = {"TransactionParameters": json.dumps(PAIR)}
INDEXED = {f"TransactionParameters[0].{name}": value for name, value in PAIR.items()}
FILE_JSON = {"DocumentParameters": json.dumps({"key": "SourceFileName", "value": "b.pdf"})}


@pytest.mark.parametrize(
    ("understood", "by_json", "by_index", "by_file"),
    [
        ("both", "first", "first", "second"),
        ("json", "first", "all", "second"),
        ("indexed", "all", "first", "all"),
        ("none", "all", "all", "all"),
        ("misread", "nothing", "nothing", "nothing"),
    ],
)
def test_encodings_of_filters(
    make_api: Any, invoice: bytes, understood: str, by_json: str, by_index: str, by_file: str
) -> None:
    api = make_api(parameter_filter=understood, processing_polls=0)
    first = api.launch([("a.pdf", invoice)], model={"registrationParameters": [PAIR]})
    second = api.launch([("b.pdf", invoice)])
    found = {"all": [first, second], "first": [first], "second": [second], "nothing": []}
    assert listed(api, "completed") == found["all"]
    assert listed(api, "completed", **JSON) == found[by_json]
    assert listed(api, "completed", **FILE_JSON) == found[by_file]
    reply = api.get("/transactions/completed", params={"Limit": 10, **INDEXED})
    assert [item["transactionId"] for item in reply.json()["items"]] == found[by_index]


def test_filters_can_be_refused(make_api: Any, invoice: bytes) -> None:
    api = make_api(parameter_filter="refused", processing_polls=0)
    key = api.launch([("a.pdf", invoice)], model={"registrationParameters": [PAIR]})
    assert listed(api, "completed") == [key]
    for kind in ("active", "completed"):
        for query in (JSON, INDEXED, FILE_JSON):
            reply = api.get(f"/transactions/{kind}", params={"Limit": 10, **query})
            assert reply.status_code == 400
            assert reply.json()["errors"]


def test_broken_filters_do_not_matter_where_they_are_not_understood(make_api: Any) -> None:
    api = make_api(parameter_filter="none")
    assert api.get("/transactions/active?Limit=1&TransactionParameters=x").status_code == 200


# ---- transactions from other sources ----


def test_received_by_mail(api: Any, pdf: Any) -> None:
    data = pdf(number="INV-7", pages=2)
    api.control.set(processing_seconds=30.0)
    key = api.control.receive("Invoice", {"a&b.pdf": data}, parameters={"Mailbox": "in"})
    assert [api.read(key)["status"] for _ in range(3)] == ["Processing"] * 3
    api.control.advance(30)
    assert api.fields(key)[0]["Invoice Number"] == "INV-7"
    (item,) = api.get("/transactions/completed?Limit=10", strict=True).json()["items"]
    assert item["transactionId"] == key
    assert item["pageCount"] == 2
    parameters = {p["key"]: p["value"] for p in item["transactionParameters"]}
    assert parameters == {"Mailbox": "in"}
    of_files = {p["key"]: p["value"] for p in item["fileParameters"]}
    assert of_files == {"Index": "0", "SourceFileName": "a_b.pdf", "SourceType": "Mail"}
    own = api.get(f"/transactions/{key}/registrationParameters", strict=True).json()
    assert own == [{"key": "Mailbox", "value": "in"}]
    view = api.control.transaction(key)
    assert (view["source"], view["started"]) == ("Mail", 1)
    assert api.control.count("POST", "/transactions") == 0, "it did not come through the API"


def test_what_came_by_mail_goes_on_without_anybody_looking(make_api: Any) -> None:
    """Its time alone counts, also for lists that lag and for reviews; looks count for the API's."""
    api = make_api(processing_polls=50, processing_seconds=60, list_lag=100)
    done = api.control.receive("Receipt")
    waiting = api.control.receive("Receipt", parameters={"SandboxReview": "yes"})
    api.control.advance(59)
    assert {item["status"] for item in api.control.transactions()} == {"Processing"}
    api.control.advance(1)
    assert api.control.transaction(done)["status"] == "Processed"
    assert api.control.transaction(waiting)["in_review"]
    api.control.finish_review(waiting)
    assert listed(api, "completed") == []
    api.control.advance(100)
    assert sorted(listed(api, "completed")) == sorted([done, waiting])
    # The lists show it at once, although no request came before they had caught up.
    late = api.control.receive("Receipt")
    api.control.advance(160)
    assert late in listed(api, "completed")


def test_received_by_others(api: Any, invoice: bytes) -> None:
    scanned = api.control.receive(
        PROCESS, [("1.pdf", invoice), ("2.pdf", invoice)], source="Scanner"
    )
    api.finish(scanned)
    (item,) = api.get("/transactions/completed?Limit=10").json()["items"]
    kinds = [p["value"] for p in item["fileParameters"] if p["key"] == "SourceType"]
    assert kinds == ["Scanner", "Scanner"]
    assert item["documentCount"] == 2


PROCESS = "workspace.default.processing"


def test_many_at_once(make_api: Any) -> None:
    api = make_api(processing_polls=0)
    keys = api.control.receive_many(1200, "Receipt", source="Mobile")
    assert len(set(keys)) == 1200
    first = api.get("/transactions/completed?Limit=1000").json()
    second = api.get("/transactions/completed?Limit=1000&Offset=1000", strict=True).json()
    items = first["items"] + second["items"]
    assert [item["transactionId"] for item in items] == keys
    assert first["totalItemCount"] == second["totalItemCount"] == 1200
    assert {(item["status"], item["pageCount"]) for item in items} == {("Processed", 1)}


def test_the_small_pdf_can_be_read(api: Any) -> None:
    assert small_pdf() == small_pdf()
    (fields,) = api.fields(api.control.receive("Invoice"))
    assert fields["Source Size"] == str(len(small_pdf()))
    assert fields["Page Count"] == "1"


def test_equal_bytes_under_other_names(api: Any, invoice: bytes) -> None:
    """What was read from a file is kept for files with the same bytes, but not its name."""
    first = api.control.receive("Invoice", {"a.pdf": invoice})
    second = api.control.receive("Invoice", {"b.pdf": invoice})
    wrong = api.control.receive("Invoice", {"c.txt": invoice})
    assert api.fields(first)[0]["Source File Name"] == "a.pdf"
    assert api.fields(second)[0]["Source File Name"] == "b.pdf"
    assert api.finish(wrong)["status"] == "Failed"


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"skill": "Nothing"}, "no such skill"),
        ({"skill": "Draft"}, "not published"),
        ({"skill": "Invoice", "files": {}}, "no files"),
        ({"skill": "Invoice", "files": {"a.pdf": b"1", "b.pdf": b"2"}}, "one document"),
        ({"skill": "Invoice", "source": "PublicAPI"}, "source must be"),
        ({"skill": "Invoice", "source": ""}, "source must be"),
        ({"skill": "Invoice", "parameters": {"k": ""}}, "at least 1 character"),
    ],
)
def test_what_can_not_come_in(api: Any, order: dict[str, Any], text: str) -> None:
    with pytest.raises(SandboxControlError, match=text):
        api.control.receive(**order)
    assert api.control.transactions() == []
    assert list(api.server.state.folder.iterdir()) == []


@pytest.mark.parametrize("count", [0, -1, 100_001, True, "2"])
def test_wrong_numbers(api: Any, count: Any) -> None:
    with pytest.raises(SandboxControlError, match="count must be"):
        api.control.receive_many(count, "Receipt")


@pytest.mark.parametrize(
    "members",
    [
        {"colour": "red"},
        {"files": [{"name": "a.pdf"}]},
        {"files": [{"name": "a.pdf", "content": "*"}]},
    ],
)
def test_wrong_orders(api: Any, members: dict[str, Any]) -> None:
    with pytest.raises(SandboxControlError, match=r"not known|base64"):
        api.control.call("POST", "transactions", json={"skill": "Receipt", **members})


# ---- other people's transactions ----


def test_others_are_listed_as_those_of_the_service_are(make_api: Any) -> None:
    api = make_api()
    mine = api.create()
    api.control.add_others(3, "Invoice", seconds=3600.0, parameters={"Batch": "7"})
    api.control.add_others(2, "Invoice", ended=False, source="PublicAPI")
    reply = api.get("/transactions/completed", params={"Limit": 1000}, strict=True).json()
    assert reply["totalItemCount"] == 3
    assert [each["transactionParameters"][0]["value"] for each in reply["items"]] == ["7"] * 3
    times = [each["createTimeUtc"] for each in reply["items"]]
    assert times == sorted(times)
    assert len(listed(api, "active")) == 2
    assert len(listed(api, "completed", StartDate=times[1])) == 2
    assert api.read(mine)["status"] == "New"


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": 10**6}, {"count": 1, "colour": "red"}, {"skill": "none"}]
)
def test_others_that_can_not_be_are_refused(make_api: Any, wrong: dict[str, Any]) -> None:
    api = make_api()
    with pytest.raises(SandboxControlError):
        api.control.call(
            "POST", "transactions/others", json={"skill": "Invoice", "count": 1, **wrong}
        )


def test_the_order_of_the_lists(make_api: Any) -> None:
    api = make_api()
    api.control.add_others(20, "Invoice", seconds=3600.0)
    oldest = listed(api, "completed")
    api.control.set(list_order="newest")
    assert listed(api, "completed") == oldest[::-1]
    api.control.set(list_order="mixed")
    assert listed(api, "completed") == sorted(oldest)
    with pytest.raises(SandboxControlError, match="list_order"):
        api.control.set(list_order="alphabetical")
