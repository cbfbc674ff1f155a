# SPDX-License-Identifier: Apache-2.0
"""A scheduled flow fetches each completed transaction once, whenever it is killed or retried."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from pdfs import make_invoice
from prefect import flow
from test_prefect.seen import artifacts, told, told_in_the_end

from vantage_orchestration.completed import inbox
from vantage_orchestration.completed.notes import Notes
from vantage_orchestration.errors import LowQuality
from vantage_orchestration.options import Options
from vantage_orchestration.prefect import completed as module
from vantage_orchestration.prefect.artifacts import DOCUMENTS_KEY
from vantage_orchestration.prefect.completed import fetch_completed
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.processing import TaskKey
from vantage_orchestration.processing.document import submit_one
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.processing.submit import Work
from vantage_orchestration.sandbox import SandboxServer

pytestmark = pytest.mark.slow


class Killed(BaseException):
    pass


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A sandbox whose transactions the Prefect server does not know from another test."""
    with SandboxServer(seed=secrets.randbelow(2**31), processing_polls=0) as server:
        yield server


@pytest.fixture
def fetch(save_block: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a flow that fetches, as a deployment does."""
    block = save_block()

    @flow(name="fetch", log_prints=False)
    def run(**changes: Any) -> dict[str, Any]:
        return fetch_completed.with_options(retries=0)(
            block, changes.pop("output", tmp_path / "out"), **changes
        )

    return run


def listed(sandbox: SandboxServer) -> int:
    return sandbox.control.count(path_regex="/transactions/completed")


def names(result: dict[str, Any]) -> list[str]:
    """Return the ids of what a run has fetched, by its manifest."""
    if result["manifest"] is None:
        return []
    manifest = Path(result["manifest"])
    entries = json.loads(manifest.read_text())["transactions"]
    assert all((manifest.parent / each["folder"] / "manifest.json").exists() for each in entries)
    return [each["transaction_id"] for each in entries]


def test_each_is_fetched_once_and_the_list_is_read_once(
    fetch: Callable[..., dict[str, Any]],
    sandbox: SandboxServer,
    account: dict[str, Any],
    prefect_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control, days = sandbox.control, 3
    before = control.receive_many(20, "Invoice")
    assert Counter(names(fetch())) == Counter(before)
    control.advance(days * 86400)
    now = inbox.now
    monkeypatch.setattr(inbox, "now", lambda: now() + days * 86400)

    scan = make_invoice(tmp_path / "scan.pdf", extra_lines=["Manual review required"]).read_bytes()
    reviewed = control.receive("Invoice", {"scan.pdf": scan}, source="Scanner")
    mails = control.receive_many(2, "Invoice")
    make_invoice(tmp_path / "a.pdf")
    skill = control.skill_id("Invoice")
    with VantageCredentials(**account).get_client() as client:
        work = Work(client, skill, TaskKey("t"), Options())
        own = submit_one(work, tmp_path / "a.pdf").transaction_id
    assert sorted(names(fetch())) == sorted(mails)
    requests = listed(sandbox)
    nothing = fetch()
    assert (nothing["manifest"], nothing["transactions"]) == (None, 0)
    assert listed(sandbox) == requests + 2, "one page of what is new, and one number of the rest"
    control.finish_review(reviewed)
    assert names(fetch()) == [reviewed]
    assert names(fetch()) == []
    assert control.count("GET", "/download$") == 2 * 23

    told_in_the_end(3, *mails, reviewed)
    events = told(*mails, reviewed, own)
    assert Counter(each.payload["transaction_id"] for each in events) == Counter([*mails, reviewed])
    for each in events:
        assert each.event == "abbyy_vantage.transaction.processed"
        assert each.resource["abbyy_vantage.origin"] == "input"
        assert each.resource["abbyy_vantage.skill_id"] == skill
        assert each.payload["pages"] == 1
    hidden = [*control.issued_secrets(), account["password"], account["client_secret"]]
    database = prefect_server.database
    places = {p.name: p for p in database.parent.glob(f"{database.name}*")}
    assert find_leaks(hidden, {**places, "out": tmp_path / "out"}) == []


def test_each_run_has_tables_of_its_own_and_is_judged(
    fetch: Callable[..., dict[str, Any]], sandbox: SandboxServer, tmp_path: Path
) -> None:
    settings = {"tables": "jsonl", "required_fields": ["Nothing"], "output": tmp_path / "{class}"}
    manifests = []
    for number in (1, 2):
        sandbox.control.receive_many(number, "Receipt")
        with pytest.raises(LowQuality, match=f"{number} of {number} documents"):
            fetch(**settings)
        manifests = sorted(tmp_path.glob("manifest-*.json"), key=lambda each: each.stat().st_mtime)
        opened = Manifest.open(manifests[-1])
        assert len(list(opened.rows())) == number
        assert {each.folder for entry in opened.transactions for each in entry.documents} == {
            f"unclassified/{entry.transaction_id}" for entry in opened.transactions
        }
    assert len(list(tmp_path.glob("tables/*/Receipt/documents.jsonl"))) == 2
    shown = [
        {row["Transaction"] for row in json.loads(each.data)} for each in artifacts(DOCUMENTS_KEY)
    ]
    for path in manifests:
        ids = {f"`{each.transaction_id}`" for each in Manifest.open(path).transactions}
        assert ids in shown


def test_the_function_alone_needs_no_run_and_no_server(
    sandbox: SandboxServer, account: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "emit", None)
    ids = sandbox.control.receive_many(2, "Receipt")
    result = fetch_completed.fn(VantageCredentials(**account), tmp_path / "out")
    assert sorted(names(result)) == sorted(ids)


def test_a_run_that_is_retried_returns_all_that_it_has_fetched(
    save_block: Callable[..., str],
    sandbox: SandboxServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also what an earlier try has fetched and noted, and could not return."""
    block, ids = save_block(), sandbox.control.receive_many(3, "Receipt")
    tries = []
    real = module.run_logger

    def before_it_returns() -> Any:
        if not tries:
            tries.append(1)
            raise RuntimeError("the process ends here")
        return real()

    monkeypatch.setattr(module, "run_logger", before_it_returns)

    @flow(name="retried", retries=1)
    def run() -> list[list[str]]:
        task = fetch_completed.with_options(retries=0)
        found = [names(task(block, tmp_path / "out"))]
        more = sandbox.control.receive_many(1, "Receipt")
        found.append(names(task(block, tmp_path / "out")))
        assert found[1] == more, "each call takes what is due then"
        return found

    first, _ = run()
    assert tries
    assert sorted(first) == sorted(ids)
    assert sandbox.control.count("GET", "/download$") == 2 * 4


def test_each_is_fetched_once_whenever_a_run_is_killed(
    fetch: Callable[..., dict[str, Any]], sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run, which is another one, makes up for it."""
    assert names(fetch()) == []

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    real = Notes.add

    def after_it_is_noted(self: Notes, *arguments: Any) -> None:
        real(self, *arguments)
        raise Killed

    for name, function in (("take", killed), ("add", killed), ("add", after_it_is_noted)):
        ids = sandbox.control.receive_many(2, "Invoice")
        before = sandbox.control.count("GET", "/download$")
        with monkeypatch.context() as patch:
            patch.setattr(Notes, name, function)
            with pytest.raises(Killed):
                fetch()
        found = names(fetch())
        assert sorted(found) == ([] if function is after_it_is_noted else sorted(ids))
        assert sandbox.control.count("GET", "/download$") == before + 4
        assert names(fetch()) == []


def test_what_is_fetched_follows_the_arguments(
    fetch: Callable[..., dict[str, Any]], sandbox: SandboxServer, tmp_path: Path
) -> None:
    control = sandbox.control
    receipt = control.receive("Receipt")
    invoice = control.receive("Invoice")
    assert names(fetch(skill="Receipt", consumer="receipts")) == [receipt]
    other = tmp_path / "other"
    state = tmp_path / "out"
    assert sorted(names(fetch(output=other, state_path=state))) == sorted([receipt, invoice])
    failed = control.receive("Receipt", parameters={"SandboxOutcome": "Failed"})
    assert names(fetch(skill="Receipt", consumer="receipts")) == []
    both = {"skill": "Receipt", "consumer": "receipts", "statuses": ["Processed", "Failed"]}
    result = fetch(**both)
    assert (result["transactions"], result["failed"]) == (0, 1)
    assert fetch(**both)["manifest"] is None
    (event,) = told_in_the_end(1, failed)
    assert (event.event, event.payload["status"]) == (
        "abbyy_vantage.transaction.failed",
        "Failed",
    )
    for wrong in ({"statuses": ["Done"]}, {"since": "yesterday"}, {"overlap": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fetch(**wrong)
