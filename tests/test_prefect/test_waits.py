# SPDX-License-Identifier: Apache-2.0
"""Prefect tasks and coroutines wait as the machine says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core.conftest import config_of
from pdfs import make_invoice
from waits import DAY, Clock, at_once, review_in_pauses

from vantage_orchestration import reads
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import WaitTimeout
from vantage_orchestration.prefect import job, tasks
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.waiting import blocking, poller, watcher
from vantage_orchestration.waiting.poller import SharedPoller
from vantage_orchestration.waiting.rules import WaitRules

LIMITS: dict[str, Any] = {
    "timeout": 30 * DAY,
    "review_timeout": 7 * DAY,
    "poke_interval": 3600,
    "max_poke_interval": 6 * 3600,
}


@pytest.mark.parametrize("way", ["task", "coroutine"])
def test_each_transaction_has_its_own_review_clock(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A is reviewed on the first day. B needs a person on the sixth, and has a week."""
    clock = Clock()
    for module in (blocking, poller, watcher, job):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(poller, "in_thread", at_once)
    monkeypatch.setattr(reads, "LEAST_PAUSE", 0.0)
    ids = []
    for seconds in (0, 6 * DAY):
        sandbox.control.set(processing_polls=0, processing_seconds=seconds, review=True)
        ids += sandbox.control.receive_many(1, "Invoice")
        with VantageClient(config_of(sandbox)) as client:
            assert client.get_transaction(ids[-1]).waits_for_review is (seconds == 0)
    clock.passed = sandbox.control.advance
    clock.at[DAY] = lambda: sandbox.control.finish_review(ids[0])
    told: list[tuple[float, tuple[str, ...]]] = []
    needs_person = job.Reporter.needs_person

    def noted(self: Any, wait: Any, needed: Any) -> None:
        told.append((clock.elapsed, needed.transaction_ids))
        needs_person(self, wait, needed)

    monkeypatch.setattr(job.Reporter, "needs_person", noted)
    if way == "task":
        account = {key: value for key, value in sandbox.credentials.items() if key != "tenant_id"}
        block = VantageCredentials(region="custom", base_url=sandbox.url, store="memory", **account)
        with pytest.raises(WaitTimeout, match=f"review_timeout.*{ids[1]}"):
            tasks.wait_for_transactions.fn(block, ids, **LIMITS)
    else:

        async def inline(work: Any, *args: Any) -> Any:
            return work(*args)

        monkeypatch.setattr("anyio.to_thread.run_sync", inline)

        async def main() -> Any:
            client = VantageClient(config_of(sandbox))
            shared = SharedPoller(lambda: VantageClient(config_of(sandbox)))
            reporter = job.Reporter(client, None, lambda *_: None)
            return await reporter.wait_in_loop(shared, ids, WaitRules(**LIMITS))

        outcome = clock.run(main())
        assert "604800 s (review_timeout)" in outcome.timed_out
        assert outcome.in_review == (ids[1],)
    ((early, first), (late, second)) = told
    assert (first, second) == ((ids[0],), (ids[1],))
    assert early <= 5000
    assert 6 * DAY <= late <= 6.5 * DAY
    assert late + 7 * DAY - 1 <= clock.elapsed <= late + 7 * DAY + 60


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_task_fetches_results_while_others_are_reviewed(
    sandbox: SandboxServer,
    save_block: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox.control.set(processing_polls=0)
    for number, lines in enumerate(([], [], ["Manual review required"])):
        make_invoice(tmp_path / f"{number}.pdf", f"INV-{number}", extra_lines=lines)
    clock = Clock()
    for module in (blocking, watcher):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(reads, "LEAST_PAUSE", 0.0)
    downloads = review_in_pauses(clock, sandbox.control)
    result = tasks.process_documents(
        save_block(), f"{tmp_path}/*.pdf", str(tmp_path / "out"), "Invoice"
    )
    files, total = result["files"], sandbox.control.count("GET", "/download$")
    assert result["documents"] == 3
    assert (downloads[0] * 3, total) == (files * 2, files)
