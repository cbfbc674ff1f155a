# SPDX-License-Identifier: Apache-2.0
"""A real Prefect fetches what came by mail: each transaction once, and none is left.

Many end in the same second, some while a run is at work; a run is killed, and the schedule paused.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import wait_until
from processes import kill
from test_prefect.live.running import POOLS, STAYS, Run, Running

from vantage_orchestration.sandbox import SandboxServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
FLOW = Path(__file__).parents[3] / "flows" / "abbyy_vantage_inbox.py"
FILES = 2  # Result files of a receipt.


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(seed=710) as server:
        yield server


def test_each_is_fetched_once_and_none_is_left(
    running: Running, sandbox: SandboxServer, tmp_path: Path
) -> None:
    control, ids = sandbox.control, list[str]()
    running.connect("inbox", sandbox)
    # The run is at work until it is killed.
    control.add_fault(operation="downloadResultFile", after=12, delay=25, times=0)
    ids += control.receive_many(50, "Receipt")
    deployment = running.deploy(
        "inbox",
        f"{FLOW}:fetch_inbox",
        POOLS[STAYS],
        parameters={"credentials": "inbox", "output": str(tmp_path), "skill": "Receipt"},
        concurrency_limit=1,
        concurrency_options={"collision_strategy": "CANCEL_NEW"},
    )
    # In place of a schedule, whose runs may come at any moment.
    ticks, over = threading.Event(), threading.Event()

    def tick() -> None:
        while not over.wait(6):
            if ticks.is_set():
                running.api("POST", f"deployments/{deployment}/create_flow_run")

    clock = threading.Thread(target=tick)
    clock.start()
    ticks.set()

    def complete() -> bool:
        return all((tmp_path / name / "manifest.json").exists() for name in ids)

    def runs(*states: str) -> list[str]:
        found = running.all("flow_runs/filter")
        ours = [each for each in found if each["deployment_id"] == deployment]
        return [each["id"] for each in ours if each["state_name"] in states]

    def told() -> str:
        found = running.all("flow_runs/filter")
        ours = [each for each in found if each["deployment_id"] == deployment]
        logs = [Run(running, each["id"], "").log() for each in ours[:2]]
        return "\n".join([*(str(each["state_name"]) for each in ours), *logs])

    try:
        wait_until(lambda: control.count("GET", "/download$") > 8, told, 200)
        ids += control.receive_many(5, "Receipt")
        (name,) = runs("Running")
        kill(running.process_of(name))
        killed = Run(running, name, "killed")
        killed.when("Crashed")
        control.clear_faults()
        running.retry(killed)
        killed.completed()
        wait_until(complete, "all that has ended")
        ticks.clear()
        ids += control.receive_many(3, "Receipt")
        wait_until(lambda: not runs("Running", "Pending", "Scheduled", "Late"), "the runs to end")
        ticks.set()
        wait_until(complete, "what has ended meanwhile")
        before = len(runs("Completed"))
        wait_until(lambda: len(runs("Completed")) > before, "one more look")
    finally:
        over.set()
        clock.join()
    found = Counter(
        each["transaction_id"]
        for path in tmp_path.glob("manifest-*.json")
        for each in json.loads(path.read_text())["transactions"]
    )
    assert found == Counter(ids), "each is returned by one run"
    # What was cut off is fetched again: that of 12 threads, which share 8 requests at a time.
    assert 0 <= control.count("GET", "/download$") - FILES * len(ids) <= 12 * FILES
