# SPDX-License-Identifier: Apache-2.0
"""Waiting as ``on_review`` says, in a thread and in a coroutine, and what its end means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from core.conftest import config_of

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import (
    ConfigurationError,
    NotFound,
    ReviewNeeded,
    TransactionCanceled,
    TransactionFailed,
    WaitTimeout,
)
from vantage_orchestration.processing.outcome import Outcome, check_outcome, ids_of
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.waiting import await_outcome, wait_for_outcome
from vantage_orchestration.sandbox import SandboxServer
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


def test_ids_of_what_a_task_is_given() -> None:
    assert ids_of("a") == ids_of(["a", " a "]) == ids_of({"transaction_ids": ["a"]}) == ["a"]
    for wrong in ([], " ", None, [1], {"a": "b"}):
        with pytest.raises(ConfigurationError):
            ids_of(wrong)


def test_skills_by_id_and_by_exact_name(sandbox: SandboxServer) -> None:
    uuid = sandbox.control.skill_id("Invoice")
    with VantageClient(config_of(sandbox)) as client:
        assert skill_id_of(client, uuid) == uuid
        assert sandbox.control.count("GET", "/skills") == 0
        assert skill_id_of(client, " Invoice ") == uuid
        assert skill_id_of(client, "Receipt") == sandbox.control.skill_id("Receipt")
        with pytest.raises(NotFound, match="'invoice'"):
            skill_id_of(client, "invoice")
