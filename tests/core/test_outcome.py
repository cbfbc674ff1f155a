# SPDX-License-Identifier: Apache-2.0
"""Waiting as ``on_review`` says, in a thread and in a coroutine, and what its end means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from core.conftest import config_of
from pdfs import make_invoice

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import (
    ConfigurationError,
    NotFound,
    ReviewNeeded,
    TransactionCanceled,
    TransactionFailed,
    WaitTimeout,
)
from vantage_orchestration.options import Options
from vantage_orchestration.processing import TaskKey, process_document
from vantage_orchestration.processing.job import begin, submit_files
from vantage_orchestration.processing.outcome import Outcome, check_outcome
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.waiting import await_outcome, wait_for_outcome
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location
from vantage_orchestration.watching import Pace, SharedPoller

OFTEN = Pace(1.0, 1.0, 1.0)


def waited(way: str, sandbox: SandboxServer, ids: list[str], **options: Any) -> Any:
    """Wait in one way; return the outcome, and what was told of reviews."""
    told: list[list[str]] = []

    async def tell(new: Sequence[str]) -> None:
        told.append(list(new))

    async def main() -> Outcome:
        poller = SharedPoller(lambda: VantageClient(config_of(sandbox)))
        return await await_outcome(poller, ids, pace=OFTEN, on_needed=tell, **options)

    if way == "coroutine":
        return asyncio.run(main()), told
    with VantageClient(config_of(sandbox)) as client:
        outcome = wait_for_outcome(
            client, ids, pace=OFTEN, on_needed=lambda new: told.append(list(new)), **options
        )
    return outcome, told


@pytest.fixture
def ids(sandbox: SandboxServer) -> list[str]:
    """One that waits for a person, and one that takes its time."""
    sandbox.control.set(processing_polls=0, review=True)
    (first,) = sandbox.control.receive_many(1, "Invoice")
    with VantageClient(config_of(sandbox)) as client:
        # Processing goes on when somebody looks.
        assert client.get_transaction(first).waits_for_review
    sandbox.control.set(processing_polls=3, review=False)
    return [first, *sandbox.control.receive_many(1, "Receipt")]


@pytest.mark.parametrize("way", ["thread", "coroutine"])
class TestWaiting:
    def test_return_waits_for_all_but_people(
        self, way: str, sandbox: SandboxServer, ids: list[str]
    ) -> None:
        outcome, told = waited(way, sandbox, ids, on_review="return")
        assert outcome.statuses == {ids[0]: "Processing", ids[1]: "Processed"}
        assert (outcome.in_review, outcome.timed_out) == ((ids[0],), None)
        assert told == [[ids[0]]]
        check_outcome(outcome, on_review="return")

    def test_fail_stops_at_the_first_review(
        self, way: str, sandbox: SandboxServer, ids: list[str]
    ) -> None:
        sandbox.control.set(processing_polls=1000)
        outcome, told = waited(way, sandbox, ids, on_review="fail")
        assert (outcome.in_review, told) == ((ids[0],), [[ids[0]]])
        with pytest.raises(ReviewNeeded, match=ids[0]):
            check_outcome(outcome, on_review="fail")

    def test_limits(self, way: str, sandbox: SandboxServer, ids: list[str]) -> None:
        outcome, told = waited(way, sandbox, ids, review_timeout=0.0)
        assert "manual review" in outcome.timed_out
        with pytest.raises(WaitTimeout, match="next try finds them"):
            check_outcome(outcome)
        sandbox.control.set(processing_polls=1000)
        (late,) = sandbox.control.receive_many(1, "Receipt")
        outcome, told = waited(way, sandbox, [late], timeout=0.0)
        assert "has not ended" in outcome.timed_out
        assert told == []

    def test_nothing_to_wait_for(self, way: str, sandbox: SandboxServer) -> None:
        outcome, told = waited(way, sandbox, [])
        assert (outcome.statuses, outcome.timed_out, told) == ({}, None, [])


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ({"a": "Processed", "b": "Failed", "c": "Canceled"}, TransactionFailed),
        ({"a": "Gone"}, TransactionFailed),
        ({"a": "Processed", "c": "Canceled"}, TransactionCanceled),
    ],
)
def test_failures_come_first(statuses: dict[str, str], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        check_outcome(Outcome(statuses, ("d",), "time is over"), on_review="fail")


def test_skills_by_id_and_by_exact_name(sandbox: SandboxServer) -> None:
    uuid = sandbox.control.skill_id("Invoice")
    with VantageClient(config_of(sandbox)) as client:
        assert skill_id_of(client, uuid) == uuid
        assert sandbox.control.count("GET", "/skills") == 0
        assert skill_id_of(client, " Invoice ") == uuid
        assert skill_id_of(client, "Receipt") == sandbox.control.skill_id("Receipt")
        asked = sandbox.control.count("GET", "/skills")
        # The process remembers, also for another client of the account.
        with VantageClient(config_of(sandbox)) as other:
            assert skill_id_of(other, "Invoice") == uuid
        assert sandbox.control.count("GET", "/skills") == asked
        with pytest.raises(NotFound, match=f"'invoice'.*Did you mean 'Invoice' .{uuid}"):
            skill_id_of(client, "invoice")
        with pytest.raises(NotFound, match="Published for this user are '"):
            skill_id_of(client, "zzz")
        for wrong in (None, "", "None", 4.5, ["Invoice"]):
            with pytest.raises(ConfigurationError, match="skill"):
                skill_id_of(client, wrong)


def test_an_unknown_id_is_answered_with_those_that_come_near(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    known = sandbox.control.skill_id("Invoice")
    wrong = known[:-1] + ("0" if known[-1] != "0" else "1")
    file = make_invoice(tmp_path / "a.pdf", "INV-1")
    with VantageClient(config_of(sandbox)) as client:
        with pytest.raises(NotFound, match=f"Did you mean 'Invoice' .{known}"):
            submit_files(client, [Location.of(file)], TaskKey("t"), wrong, Options())
        with pytest.raises(NotFound, match=f"Did you mean 'Invoice' .{known}"):
            process_document(client, file, wrong, TaskKey("t"))


def test_who_may_not_list_skills_may_use_one_by_its_id(sandbox: SandboxServer) -> None:
    sandbox.control.add_fault(operation="listSkills", status=403, times=0)
    with VantageClient(config_of(sandbox)) as client:
        assert skill_id_of(client, "Receipt") == "Receipt"


def test_a_classification_skill_is_not_asked_for_files(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    skill = sandbox.control.skill_id("Document type")
    files, output = [Location.of(make_invoice(tmp_path / "a.pdf", "INV-1"))], tmp_path / "out"
    with VantageClient(config_of(sandbox)) as client, pytest.raises(ConfigurationError) as caught:
        begin(
            client,
            files,
            Location.of(output),
            TaskKey("t"),
            skill,
            Options.of(result_types=["FieldsJson"]),
            token="t.",
        )
    assert "'Document type' is a Classification skill" in str(caught.value)
    assert sandbox.control.transactions() == []
