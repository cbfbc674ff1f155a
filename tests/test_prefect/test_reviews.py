# SPDX-License-Identifier: Apache-2.0
"""Runs give back their worker while a person reviews, and go on when that is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run, suspend_flow_run
from test_prefect.seen import artifacts

from vantage_orchestration.errors import ConfigurationError, CredentialsRejected
from vantage_orchestration.prefect import reviews
from vantage_orchestration.prefect.artifacts import review_began, review_ended
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.prefect.reviews import (
    check_can_suspend,
    resume_reviewed,
    suspend_for_review,
)
from vantage_orchestration.sandbox import SandboxServer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@flow
def reviewing(block: str, names: list[str], timeout: float | None = None) -> list[str]:
    """Wait for reviews in the simplest way; return the final states."""
    credentials = VantageCredentials.load(block)
    with credentials.get_client() as client:
        found = [client.get_transaction(name) for name in names]
        waiting = [each.id for each in found if each.waits_for_review]
        review_ended(set(names).difference(waiting))
        if waiting:
            review_began(waiting, server=client.config.credentials.base_url)
            suspend_for_review(waiting, block=block, timeout=timeout)
    return [each.status for each in found]


class Runs:
    """Runs of a deployed flow, in this process in place of a worker's."""

    def __init__(self) -> None:
        with get_client(sync_client=True) as client:
            flow_id = client.create_flow(reviewing)
            self._deployment = client.create_deployment(flow_id, "of-a-test")
            self._made: list[UUID] = []

    def start(self, **parameters: Any) -> UUID:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(self._deployment, parameters=parameters)
        self._made.append(run.id)
        return run.id

    def work(self, run_id: UUID) -> Any:
        """Do what a worker does with a scheduled run."""
        return run_flow(
            reviewing, flow_run=self.read(run_id), parameters=self.read(run_id).parameters
        )

    def suspend(self, **parameters: Any) -> UUID:
        run_id = self.start(**parameters)
        with pytest.raises(Pause):
            self.work(run_id)
        assert self.state(run_id) == "Suspended"
        return run_id

    def read(self, run_id: UUID) -> FlowRun:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run_id)

    def state(self, run_id: UUID) -> str:
        return self.read(run_id).state.name

    def forget(self) -> None:
        with get_client(sync_client=True) as client:
            for run_id in self._made:
                try:
                    client.delete_flow_run(run_id)
                except ObjectNotFound:
                    continue


@pytest.fixture
def runs() -> Any:
    found = Runs()
    yield found
    found.forget()


@pytest.fixture
def in_review(sandbox: SandboxServer) -> list[str]:
    """Two transactions that wait for a person."""
    sandbox.control.set(processing_polls=0, review=True)
    return sandbox.control.receive_many(2, "Invoice")


def test_run_goes_on_when_all_of_its_reviews_have_ended(
    runs: Runs, in_review: list[str], save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    block = save_block()
    run_id = runs.suspend(block=block, names=in_review)
    assert [len(artifacts(f"abbyy-vantage-review-{each}")) for each in in_review] == [1, 1]
    assert resume_reviewed() == 0
    sandbox.control.finish_review(in_review[0])
    assert resume_reviewed() == 0
    assert runs.state(run_id) == "Suspended"
    # Somebody is too early: the documents are still in review.
    resume_flow_run(run_id)
    with pytest.raises(Pause):
        runs.work(run_id)
    assert runs.state(run_id) == "Suspended"
    assert resume_reviewed() == 0
    sandbox.control.finish_review(in_review[1], "Failed")
    assert resume_reviewed() == 1
    assert [artifacts(f"abbyy-vantage-review-{each}") for each in in_review] == [[], []]
    assert runs.state(run_id) == "Resuming"
    assert resume_reviewed() == 0
    assert runs.work(run_id) == ["Processed", "Failed"]
    assert runs.state(run_id) == "Completed"
    assert resume_reviewed() == 0


def test_deleted_transactions_keep_no_run_waiting(
    runs: Runs, in_review: list[str], save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    sandbox.control.set(delete_polls=0)
    block = save_block()
    run_id = runs.suspend(block=block, names=in_review[:1])
    with VantageCredentials.load(block).get_client() as client:
        client.delete_transaction(in_review[0])
    assert resume_reviewed() == 1
    assert runs.state(run_id) == "Resuming"


def test_what_somebody_else_has_done_is_left_alone(
    runs: Runs, in_review: list[str], save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    block = save_block()
    run_id = runs.suspend(block=block, names=in_review)
    for name in in_review:
        sandbox.control.finish_review(name)
    resume_flow_run(run_id)

    @flow
    def suspended_by_hand() -> None:
        suspend_flow_run(flow_run_id=run_id)

    with get_client(sync_client=True) as client:
        from prefect.states import Running

        client.set_flow_run_state(run_id, Running(), force=True)
    suspended_by_hand()
    assert runs.state(run_id) == "Suspended"
    assert runs.read(run_id).labels["abbyy_vantage.block"] == block
    assert resume_reviewed() == 0
    assert runs.state(run_id) == "Suspended"


def test_trouble_with_one_block_keeps_no_other_run_waiting(
    runs: Runs, in_review: list[str], save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    good, bad, gone = save_block(), save_block(), save_block()
    ids = {block: runs.suspend(block=block, names=in_review) for block in (bad, gone, good)}
    for name in in_review:
        sandbox.control.finish_review(name)
    changed = VantageCredentials.load(bad)
    changed.password = "another"
    changed.save(bad, overwrite=True)
    VantageCredentials.delete(gone)
    with pytest.raises((CredentialsRejected, ValueError)):
        resume_reviewed()
    assert runs.state(ids[good]) == "Resuming"
    assert runs.state(ids[bad]) == "Suspended"
    assert runs.state(ids[gone]) == "Suspended"


def test_run_that_could_not_be_resumed_is_not_begun(save_block: Callable[..., str]) -> None:
    @task
    def in_task() -> None:
        check_can_suspend("block")

    @flow
    def without_deployment(how: str) -> None:
        if how == "task":
            in_task()
        elif how == "subflow":
            without_deployment("itself")
        else:
            check_can_suspend("block")

    for how, words in [
        ("itself", "it has no deployment"),
        ("task", "it runs in a task"),
        ("subflow", "it is a subflow"),
    ]:
        with pytest.raises(ConfigurationError, match=f"{words}.*on_review=.wait."):
            without_deployment(how)


def test_a_run_that_suspends_itself_again_keeps_the_clock_of_each_review() -> None:
    """A since day 0, B since day 6; A is over, so B has its own time."""
    labels: dict[str, Any] = {}
    assert reviews.clocks_of(labels, ["a"], 100.0) == {"a": 100.0}
    labels = {reviews.IN_REVIEW: "a", reviews.SINCE: "100"}
    assert reviews.clocks_of(labels, ["a", "b"], 600.0) == {"a": 100.0, "b": 600.0}
    labels = {reviews.IN_REVIEW: "a,b", reviews.SINCE: "100,600"}
    assert reviews.clocks_of(labels, ["b", "b"], 700.0) == {"b": 600.0}
    assert reviews.clocks_of({reviews.IN_REVIEW: "a"}, ["a"], 7.0) == {"a": 7.0}
