# SPDX-License-Identifier: Apache-2.0
"""Arguments as templates and XComs give them, under the real supervisor: one run of a Dag."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pdfs import make_invoice
from test_airflow.installation import Airflow, columns_of

from vantage_orchestration.sandbox import SandboxServer

DAG, RUN = "arguments", "arguments__1"
pytestmark = pytest.mark.slow


@dataclass
class Done:
    """What is there after the run."""

    airflow: Airflow
    sandbox: SandboxServer
    output: Path
    tasks: dict[str, list[Any]]
    xcoms: dict[str, dict[str, Any]]

    def result(self, task: str) -> Any:
        return self.xcoms.get(f"{task}[-1]", {}).get("return_value")

    def log(self, task: str) -> str:
        told = []
        folder = self.airflow.logs / f"dag_id={DAG}" / f"run_id={RUN}" / f"task_id={task}"
        for path in sorted(folder.glob("*.log")):
            for line in map(json.loads, path.read_text().splitlines()):
                told.append(line["event"])
                told += [error["exc_value"] for error in line.get("error_detail") or ()]
        return "\n".join(told)


@pytest.fixture(scope="module")
def done(
    airflow: Airflow,
    sandbox_factory: Callable[..., SandboxServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Done:
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for number in (1, 2):
        make_invoice(folder / f"rendered-{number}.pdf", f"INV-{number}")
    sandbox = sandbox_factory(seed=510, processing_polls=0)
    airflow("add_connection", conn_id="arguments", **columns_of(sandbox))
    skill = sandbox.control.skill_id("Invoice")
    conf = {"folder": str(folder), "output": str(output), "skill": skill, "conn_id": "arguments"}
    run = {"dag_id": DAG, "run_id": RUN}
    own = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    told = airflow("inside_operators.run", own, **run, conf=conf)
    xcoms = airflow("inside_operators.xcoms", **run)
    return Done(airflow, sandbox, output, told["tasks"], xcoms)


def test_arguments_that_were_rendered_to_text(done: Done) -> None:
    ids = done.result("rendered")
    sent = {each["id"]: each for each in done.sandbox.control.transactions()}
    assert [sent[each]["files"][0]["name"] for each in ids] == ["rendered-1.pdf", "rendered-2.pdf"]
    assert len(sent) == 2
    assert done.result("rendered_sense") == dict.fromkeys(ids, "Processed")
    assert done.result("rendered_download")["files"] == 2
    names = [path.name for path in (done.output / "rendered_download").glob("*/1/*")]
    assert len(names) == 2
    assert all(name.endswith("_fields.json") for name in names)
    assert done.result("rendered_delete") == 2
    assert [sent[each]["deleted"] for each in ids] == [True, True]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("rendered_wrong", "transaction_ids is 'the'; that is not a transaction id"),
        ("rendered_object", "transaction_ids is 'range(0, 2)'; this is the text of an object"),
        ("no_connection", "The conn_id `nobody_knows` isn't defined"),
    ],
)
def test_what_is_wrong_is_said_once(done: Done, task: str, text: str) -> None:
    assert done.tasks[f"{task}[-1]"] == ["failed", 1], done.log(task)
    assert text in done.log(task)
    assert "charged" not in done.log(task)


@pytest.mark.parametrize(
    ("task", "state", "result"),
    [
        ("nothing_process", "skipped", None),
        ("nothing_fits", "skipped", None),
        ("nothing_submit", "skipped", None),
        ("nothing_download", "skipped", None),
        ("nothing_sense", "success", {}),
        ("nothing_delete", "success", 0),
    ],
)
def test_nothing_to_do_is_no_failure(done: Done, task: str, state: str, result: object) -> None:
    assert done.tasks[f"{task}[-1]"][0] == state, done.log(task)
    assert done.result(task) == result
    # Airflow looks for it at the end of each task, and logs an error if it is missing.
    assert done.xcoms[f"{task}[-1]"]["abbyy_vantage"] == {"transaction_ids": []}


def test_what_an_older_airflow_cannot_do_is_refused_when_the_dag_is_parsed(
    airflow: Airflow,
) -> None:
    told = airflow("inside_operators.refused_below", version=[3, 2])
    assert all(each.endswith("needs Airflow 3.3 or later; this is 3.2") for each in told)
    assert [each.partition(" needs ")[0] for each in told] == [
        "A durable VantageSubmitOperator without a state_path, of its own or in the section"
        " [abbyy_vantage] of airflow.cfg,",
        "A deferrable task with delete_on_kill",
        "A deferrable task with delete_on_kill",
        "A sensor in the mode 'reschedule' with review_notifiers",
    ]
    assert airflow("inside_operators.refused_below", version=[3, 3]) == []
    folder = {"AIRFLOW__ABBYY_VANTAGE__STATE_PATH": "/state"}
    assert len(airflow("inside_operators.refused_below", folder, version=[3, 2])) == 3
