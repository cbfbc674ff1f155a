# SPDX-License-Identifier: Apache-2.0
"""No secret is in what Airflow writes at DEBUG, and the search would find one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from pdfs import make_invoice
from test_airflow.installation import Airflow, fixed

from vantage_orchestration.sandbox import SandboxServer

DAG = "abbyy_vantage_documents"
pytestmark = pytest.mark.slow


def secrets_of(sandbox: SandboxServer) -> list[str]:
    account = sandbox.credentials
    return [account["password"], account["client_secret"], *sandbox.control.issued_secrets()]


def places(airflow: Airflow) -> dict[str, Any]:
    return {"home": airflow.home, "output": airflow.output, "database": airflow.database}


def test_nothing_leaks(
    airflow: Airflow, connect: Callable[..., str], sandbox_factory: Any, tmp_path: Path
) -> None:
    sandbox = sandbox_factory(
        seed=71,
        processing_polls=1,
        password="a made-up password & more %41",
        client_secret="a made-up secret + more",
    )
    folder, output = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    make_invoice(folder / "plain.pdf")
    make_invoice(folder / "review.pdf", number="2", extra_lines=["Manual review required"])
    conf = {"skill": sandbox.control.skill_id("Invoice"), "output": output.name}
    own = fixed(conn_id=connect(sandbox), inputs=folder, outputs=tmp_path)
    told = airflow("run", own, dag_id=DAG, run_id="leaks", conf=conf)
    # The document waits for a person: the reply holds a link with a token in it.
    assert told["tasks"]["process[1]"] == ["up_for_retry", 1]
    waiting = [
        item["id"] for item in sandbox.control.transactions() if item["status"] != "Processed"
    ]
    assert len(waiting) == 1
    # Meanwhile tokens are revoked, and the first login of the next try fails in a noisy way.
    sandbox.control.revoke_tokens()
    sandbox.control.add_fault(
        path_regex="/connect/token$",
        status=400,
        json={
            "error": "invalid_request",
            "error_description": f"echo {sandbox.credentials['password']}",
        },
    )
    told = airflow("work", own, dag_id=DAG, run_id="leaks", retries=True)
    assert told["tasks"]["process[1]"] == ["failed", 2]
    for item in waiting:
        sandbox.control.finish_review(item)
    # A person has seen to the login, and clears what is remembered of it, and the task.
    for stored in Path(airflow.cache()["XDG_CACHE_HOME"]).rglob("*"):
        if stored.is_file():
            stored.unlink()
    airflow("clear", dag_id=DAG, run_id="leaks", task_ids=["process", "collect"])
    told = airflow("work", own, dag_id=DAG, run_id="leaks", retries=True)
    assert told["state"] == "success"
    assert len(output.read_text().splitlines()) == 2
    # A second Dag fails with a wrong password.
    wrong = "a made-up wrong password"
    airflow(
        "run",
        dag_id="count_skills",
        run_id="leaks",
        conf={"conn_id": connect(sandbox, password=wrong)},
        retries=True,
    )

    links = [link for link in sandbox.control.issued_secrets() if not link.startswith("eyJ")]
    assert links
    log = airflow.log_text(DAG, "leaks")
    assert '"level":"debug"' in log
    assert "Starting new HTTP connection" in log
    assert airflow("rendered", dag_id=DAG, run_id="leaks")
    searched = {**places(airflow), "written": output}
    assert find_leaks([*secrets_of(sandbox), wrong], searched) == []


def test_the_search_finds_what_leaks(
    airflow: Airflow, connect: Callable[..., str], sandbox_factory: Any
) -> None:
    """A task that logs and prints everything is masked; what it returns is stored, and found."""
    sandbox = sandbox_factory(
        seed=72, password="another made-up password", client_secret="another made-up secret"
    )
    conf = {"conn_id": connect(sandbox)}
    assert airflow("run", dag_id="careless", run_id="leaks", conf=conf)["state"] == "success"
    log = airflow.log_text("careless", "leaks")
    assert log.count("logged [") == log.count("printed [") == 3
    token, *others = sandbox.control.issued_secrets()
    assert others == []
    assert find_leaks(secrets_of(sandbox), {"logs": airflow.logs}) == []
    found = find_leaks([token], places(airflow))
    assert "database: airflow.db (rows)" in found
    assert "output: output.txt" in found  # Airflow's supervisor shows XComs at DEBUG.
    # The passwords are in the database as well, but encrypted, and in the output, but masked.
    account = sandbox.credentials
    assert find_leaks([account["password"], account["client_secret"]], places(airflow)) == []
