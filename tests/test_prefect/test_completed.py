# SPDX-License-Identifier: Apache-2.0
"""The watcher tells each completed transaction once, whenever it is killed and started again."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pendulum
import pytest
from leaks import find_leaks
from pdfs import make_invoice
from prefect.client.orchestration import get_client
from test_prefect.seen import told, told_in_the_end

from vantage_orchestration.completed import listing
from vantage_orchestration.prefect import completed as module
from vantage_orchestration.prefect.completed import watch_completed
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.processing import TaskKey, submit_document
from vantage_orchestration.sandbox import SandboxServer

pytestmark = pytest.mark.slow


class Killed(BaseException):
    pass


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A sandbox whose transactions no other test has told the Prefect server of."""
    with SandboxServer(seed=secrets.randbelow(2**31), processing_polls=0) as server:
        yield server


@pytest.fixture
def variables(prefect_server: Any) -> Iterator[Callable[[], dict[str, Any]]]:
    """What the watcher keeps; none of it at the end."""

    def read() -> dict[str, Any]:
        with get_client(sync_client=True) as client:
            found = client.read_variables(limit=200)
        return {each.name: each.value for each in found if each.name.startswith("abbyy_vantage_c")}

    yield read
    with get_client(sync_client=True) as client:
        for name in read():
            client.delete_variable_by_name(name)


@pytest.fixture
def look(save_block: Callable[..., str], variables: Any) -> Callable[..., int]:
    """Look once, as a new run does."""
    import asyncio

    block = save_block()

    def run(**changes: Any) -> int:
        return asyncio.run(watch_completed(**{"credentials": block, **changes}))

    return run


def listed(sandbox: SandboxServer) -> int:
    return sandbox.control.count(path_regex="/transactions/completed")


def test_each_is_told_once_and_the_list_is_read_once(
    look: Callable[..., int],
    variables: Callable[[], dict[str, Any]],
    sandbox: SandboxServer,
    account: dict[str, Any],
    prefect_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = sandbox.control.receive_many(950, "Invoice")
    days = 3
    sandbox.control.advance(days * 86400)
    monkeypatch.setattr(listing, "_now", lambda: pendulum.now("UTC").add(days=days))
    assert look() == 0, "what had ended before the first look is not told"

    scan = make_invoice(tmp_path / "scan.pdf", extra_lines=["Manual review required"]).read_bytes()
    reviewed = sandbox.control.receive("Invoice", {"scan.pdf": scan}, source="Scanner")
    mails = sandbox.control.receive_many(2, "Invoice", parameters={"Subject": "Bill"})
    make_invoice(tmp_path / "a.pdf")
    skill = sandbox.control.skill_id("Invoice")
    with VantageCredentials(**account).get_client() as client:
        own, _ = submit_document(client, tmp_path / "a.pdf", skill, TaskKey("t"))
    assert look() == 2
    requests = listed(sandbox)
    assert look() == 0
    assert listed(sandbox) == requests + 2, "one page of what is new, and one number of the rest"
    sandbox.control.finish_review(reviewed)
    assert look() == 1
    assert look() == 0

    events = told(*mails, reviewed, own, *before[:10])
    assert Counter(each.payload["transaction_id"] for each in events) == Counter([*mails, reviewed])
    for each in events:
        assert each.event == "abbyy_vantage.transaction.processed"
        assert each.resource["abbyy_vantage.origin"] == "input"
        assert each.resource["abbyy_vantage.skill_id"] == skill
        assert each.payload["pages"] == 1
        assert each.payload["credentials"].startswith("vantage-")
    assert events[0].payload["parameters"]["Subject"] == "Bill"

    kept = variables()
    assert len(kept) < 12, "one for each day, and more for a day with many"
    assert all(len(json.dumps(value)) <= 5000 for value in kept.values())
    hidden = [*sandbox.control.issued_secrets(), account["password"], account["client_secret"]]
    database = prefect_server.database
    assert find_leaks(hidden, {p.name: p for p in database.parent.glob(f"{database.name}*")}) == []


def test_each_is_told_once_whenever_the_watcher_is_killed(
    look: Callable[..., int], sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look() == 0
    real, keep = module.deliver, module._Variables.aset

    def before_it_is_told(*_: Any, **__: Any) -> None:
        raise Killed

    def before_it_is_stored(events: Any, **_: Any) -> None:
        real(events)
        raise Killed

    def before_it_is_noted(events: Any, **options: Any) -> None:
        real(events, **options)
        raise Killed

    ids = []
    for killed in (before_it_is_told, before_it_is_stored, before_it_is_noted):
        ids += sandbox.control.receive_many(2, "Invoice")
        with monkeypatch.context() as patch:
            patch.setattr(module, "deliver", killed)
            with pytest.raises(Killed):
                look()
        assert look() == 2

    async def at_the_end(self: Any, key: str, value: Any) -> None:
        if key.endswith("/list"):
            raise Killed
        await keep(self, key, value)

    ids += sandbox.control.receive_many(2, "Invoice")
    with monkeypatch.context() as patch:
        patch.setattr(module._Variables, "aset", at_the_end)
        with pytest.raises(Killed):
            look()
    assert look() == 0
    found = told_in_the_end(len(ids), *ids)
    assert Counter(each.payload["transaction_id"] for each in found) == Counter(ids)


def test_what_is_told_follows_the_arguments(
    look: Callable[..., int], sandbox: SandboxServer
) -> None:
    skill = "Receipt"
    sandbox.control.receive("Receipt")
    sandbox.control.receive("Invoice")
    assert look(skill=skill, since="2020-01-01T00:00:00Z") == 1
    sandbox.control.set(outcome="Failed")
    failed = sandbox.control.receive("Receipt")
    assert look(skill=skill, since="2020-01-01T00:00:00Z") == 0
    # A change holds for what ends from then on.
    assert look(skill=skill, statuses=["Processed", "Failed"]) == 0
    later = sandbox.control.receive("Receipt")
    assert look(skill=skill, statuses=["Processed", "Failed"]) == 1
    (event,) = told(failed, later)
    assert (event.event, event.payload["status"]) == (
        "abbyy_vantage.transaction.failed",
        "Failed",
    )
    for wrong in ({"statuses": ["Done"]}, {"since": "yesterday"}, {"overlap": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            look(**wrong)
