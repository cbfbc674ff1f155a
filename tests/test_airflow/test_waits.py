# SPDX-License-Identifier: Apache-2.0
"""Tasks wait as the machine says: deferred, in the worker, and rescheduled."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from core.conftest import config_of
from pdfs import make_invoice
from test_airflow.installation import Airflow, columns_of
from waits import DAY, Script, rules, simulate

from vantage_orchestration.client import VantageClient
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.waiting.machine import Wait

WAYS = ["deferred", "poke", "reschedule"]


@pytest.mark.parametrize(
    ("way", "restarts"), [*((way, None) for way in WAYS), ("deferred", DAY + 1000)]
)
def test_each_transaction_has_its_own_review_clock(
    airflow: Airflow, sandbox: SandboxServer, way: str, restarts: float | None
) -> None:
    """A is reviewed on the first day. B needs a person on the sixth, and has a week."""
    ids = []
    # Airflow takes ever longer to mask each new token.
    sandbox.control.set(token_lifetime=int(DAY))
    for seconds in (0, 6 * DAY):
        sandbox.control.set(processing_polls=0, processing_seconds=seconds, review=True)
        ids += sandbox.control.receive_many(1, "Invoice")
        with VantageClient(config_of(sandbox)) as client:
            assert client.get_transaction(ids[-1]).waits_for_review is (seconds == 0)
    columns = columns_of(sandbox)
    connection = json.dumps({**columns, "extra": json.loads(columns["extra"])})
    found = airflow(
        "inside_waits.review_clocks",
        {"AIRFLOW_CONN_CLOCKS": connection},
        way=way,
        conn_id="clocks",
        sandbox=sandbox.url,
        ids=ids,
        restarts=restarts,
    )
    statuses, in_review, timed_out = found["outcome"]
    assert statuses == {ids[0]: "Processed", ids[1]: "Processing"}
    assert (in_review, "604800 s (review_timeout)" in timed_out) == ([ids[1]], True)
    (early, first), (late, second) = found["told"]
    assert (first, second) == (ids[:1], ids[1:])
    assert early <= 3.1 * 3600
    assert 6 * DAY <= late <= 6.5 * DAY
    # Until the first look after the limit; a trigger does not fire in its first seconds.
    slack = 3 * 3600 if way in ("poke", "reschedule") else 60
    assert late + 7 * DAY - 60 <= found["seconds"] <= late + 7 * DAY + slack


def test_a_worker_fetches_results_while_others_are_reviewed(
    airflow: Airflow, sandbox: SandboxServer, tmp_path: Path
) -> None:
    sandbox.control.set(processing_polls=0)
    for number, lines in enumerate(([], [], ["Manual review required"])):
        make_invoice(tmp_path / f"{number}.pdf", f"INV-{number}", extra_lines=lines)
    columns = columns_of(sandbox)
    connection = json.dumps({**columns, "extra": json.loads(columns["extra"])})
    found = airflow(
        "inside_waits.downloads_in_pauses",
        {"AIRFLOW_CONN_PAUSES": connection},
        conn_id="pauses",
        sandbox=sandbox.url,
        inputs=f"{tmp_path}/*.pdf",
        output=str(tmp_path / "out"),
    )
    files, total = found["result"]["files"], sandbox.control.count("GET", "/download$")
    assert found["result"]["documents"] == 3
    assert (found["downloads"][0] * 3, total) == (files * 2, files)


@pytest.mark.parametrize("way", WAYS)
def test_a_task_does_what_the_machine_says(airflow: Airflow, way: str) -> None:
    seeds = list(range(30))
    found = airflow("inside_waits.scripts", way=way, seeds=seeds)
    wrong = [seed for seed, each in zip(seeds, found, strict=True) if each != said(way, seed)]
    assert wrong == []


def said(way: str, seed: int) -> dict[str, Any]:
    """Return what the machine says to a script."""
    limits = rules(seed)
    if limits.timeout is None:
        limits = dataclasses.replace(limits, timeout=30 * DAY)
    deferred = way == "deferred"
    waited = simulate(
        Script.made_up(seed),
        limits,
        look_first=not deferred,
        every=None if deferred else 3600.0,
        hop=(lambda wait, now: (Wait.from_json(wait.to_json(), now), now)) if deferred else None,
    )
    outcome = waited.outcome
    return {
        "outcome": [
            {name: str(status) for name, status in outcome.statuses.items()},
            list(outcome.in_review),
            outcome.timed_out,
        ],
        "told": [[round(at, 2), list(ids)] for at, ids in waited.told],
        "seconds": round(waited.seconds, 2),
    }
