# SPDX-License-Identifier: Apache-2.0
"""The operators and the sensor, in each way to use them, under the real supervisor.

One run has a task for each way; see ``test_dags/operator_dags.py``. Then reviews are done, some
tasks are cleared, and it is worked on again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from pdfs import make_invoice
from test_airflow.installation import SERVER, Airflow, columns_of

from vantage_orchestration.sandbox import SandboxServer

DAG, RUN = "operators", "operators__1"
CLEARED = ["deletes", "failing", "fails", "moves", "not_durable"]
#: Number of files that begin with the name of a task, and those that a person has to look at.
FILES = {
    "bad": 2,
    "collide": 2,
    "deferred": 2,
    "deletes": 1,
    "failing": 2,
    "fails": 2,
    "gone": 2,
    "in_worker": 2,
    "late": 2,
    "more": 2,
    "moves": 1,
    "not_durable": 1,
    "refused": 1,
    "returns": 2,
    "rules": 1,
    "steps": 2,
    "waits": 2,
}
REVIEWED = {
    "bad-2",
    "fails-2",
    "gone-1",
    "in_worker-2",
    "late-2",
    "not_durable-1",
    "returns-2",
    "steps-2",
    "waits-2",
}
GARBAGE = {"bad-1", "failing-2"}
pytestmark = pytest.mark.slow


@dataclass
class Phase:
    """What is there after the run, or after it was cleared in part."""

    tasks: dict[str, list[Any]]
    triggers: list[dict[str, Any]]
    xcoms: dict[str, dict[str, Any]]
    transactions: list[dict[str, Any]]

    def result(self, task: str) -> Any:
        return self.xcoms[f"{task}[-1]"]["return_value"]

    def of(self, file: str) -> list[dict[str, Any]]:
        """Return the transactions with a file."""
        name = f"{file}.pdf"
        return [
            each for each in self.transactions if name in {one["name"] for one in each["files"]}
        ]

    def starts(self, file: str) -> int:
        """Return how often a file was started, and so charged."""
        return sum(each["started"] for each in self.of(file))


@dataclass
class Scene:
    """The run."""

    airflow: Airflow
    sandbox: SandboxServer
    folder: Path
    output: Path
    phases: list[Phase] = field(default_factory=list)

    def note(self, told: dict[str, Any]) -> None:
        xcoms = self.airflow("inside_operators.xcoms", dag_id=DAG, run_id=RUN)
        transactions = self.sandbox.control.transactions()
        self.phases.append(Phase(told["tasks"], told["triggers"], xcoms, transactions))

    def log(self, task: str, map_index: int = -1) -> str:
        """Return the log of all tries of a task, its errors as ``Class: text``."""
        folder = self.airflow.logs / f"dag_id={DAG}" / f"run_id={RUN}" / f"task_id={task}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        told = []
        for path in sorted(folder.glob("*.log")):
            for line in map(json.loads, path.read_text().splitlines()):
                errors = line.get("error_detail") or ()
                told.append(line["event"])
                told += [f"{error['exc_type']}: {error['exc_value']}" for error in errors]
        return "\n".join(told)

    def landed(self, folder: str, types: int = 2) -> list[str]:
        """Return the names of the files whose results are in a folder, byte by byte."""
        place, names = self.output / folder, []
        manifest = json.loads((place / "manifest.json").read_text())
        for entry in manifest["transactions"]:
            (source,), (document,) = entry["sources"], entry["documents"]
            assert len(document["files"]) == types
            for file in document["files"]:
                data = (
                    place / (document.get("folder") or entry["folder"]) / file["path"]
                ).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file["sha256"]
                if file["type"] == "FieldsJson":
                    sent = hashlib.sha256((self.folder / source["name"]).read_bytes()).hexdigest()
                    assert json.loads(data)["Fields"]["Source SHA-256"] == sent
            names.append(source["name"].removesuffix(".pdf"))
        return names


@pytest.fixture(scope="module")
def scene(
    airflow: Airflow,
    sandbox_factory: Callable[..., SandboxServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for task, number in FILES.items():
        for name in (f"{task}-{each}" for each in range(1, number + 1)):
            lines = ["Manual review required"] if name in REVIEWED else []
            total = {"total": "1.00"} if name == "rules-1" else {}
            make_invoice(folder / f"{name}.pdf", name, extra_lines=lines, **total)
            if name in GARBAGE:
                (folder / f"{name}.pdf").write_text(f"{name} is no PDF file")
    sandbox = sandbox_factory(
        seed=500,
        password="the password of the operators",
        client_secret="the client secret of the operators",
        processing_polls=1,
    )
    airflow("add_connection", conn_id="operators", **columns_of(sandbox))
    other = {"login": "second@example.com", "client_id": "second-client"}
    airflow("add_connection", conn_id="operators_moved", **columns_of(sandbox, **other))
    conf = {
        "folder": str(folder),
        "output": str(output),
        "skill": sandbox.control.skill_id("Invoice"),
        "conn_id": "operators",
    }
    run = {"dag_id": DAG, "run_id": RUN}
    own = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    found = Scene(airflow, sandbox, folder, output)
    found.note(airflow("inside_operators.run", own, **run, conf=conf, people=sandbox.url))
    for item in sandbox.control.transactions():
        if item["in_review"]:
            sandbox.control.finish_review(item["id"])
    for name in ("gone-1", "gone-2"):
        (folder / f"{name}.pdf").unlink()
    airflow("clear", own, **run, task_ids=CLEARED)
    found.note(airflow("inside_operators.work", own, **run, retries=True))
    return found


@pytest.fixture
def first(scene: Scene) -> Phase:
    return scene.phases[0]


@pytest.fixture
def second(scene: Scene) -> Phase:
    return scene.phases[1]


def counts(**changes: int) -> dict[str, Any]:
    names = ("rule_errors", "duplicates", "in_review", "pending", "failed", "low_quality")
    found = dict.fromkeys((*names, "quarantined"), 0) | {
        "transactions": 2,
        "documents": 2,
        "files": 4,
        "pages": 2,
    }
    found |= changes
    return {
        **found,
        "by_class": {"unclassified": found["documents"]},
        "pages_by_class": {"unclassified": found["pages"]},
        "pages_by_skill": {"Invoice": found["pages"]},
    }


def test_a_task_does_not_go_on_at_another_server(
    airflow: Airflow, sandbox: SandboxServer, connect: Callable[..., str]
) -> None:
    """Its transactions would look deleted there."""
    conn_id = connect(sandbox)
    place = ["https://vantage.example.com/api", ""]
    found = airflow("inside_operators.moved", SERVER, conn_id=conn_id, place=place)
    assert [final for final, _ in found] == [True, True]
    assert all("was changed to another server while it was in use" in text for _, text in found)
    assert sandbox.control.count() == 0


def test_a_rescheduled_sensor_does_not_go_on_at_another_server(
    airflow: Airflow, sandbox_factory: Callable[..., SandboxServer]
) -> None:
    """Each poll is another process, which reads the connection again."""
    old, new = sandbox_factory(seed=1), sandbox_factory(seed=2)
    old.control.set(processing_polls=0, processing_seconds=800_000)
    before, after = (
        json.dumps({**columns, "extra": json.loads(columns["extra"])})
        for columns in map(columns_of, (old, new))
    )
    seconds, error = airflow(
        "inside_waits.moved",
        {"AIRFLOW_CONN_LEAVES": before},
        conn_id="leaves",
        sandbox=old.url,
        ids=old.control.receive_many(1, "Invoice"),
        then=after,
    )
    assert (seconds, "was changed to another server" in error) == (2 * 3600, True)
    assert new.control.count() == 0


def test_constructors(airflow: Airflow) -> None:
    found = airflow("inside_operators.construct")
    assert found["touched"] == []
    assert [each for each in found["refused"] if not each[2]] == []
    words = {each[1]: each[2] for each in found["refused"]}
    assert "Did you mean 'FieldsJson'?" in words["{'result_types': ['FieldJson']}"]
    assert "it must be one of skip, send, fail" in words["{'duplicates': 'Skip'}"]
    assert "a number of seconds" in words["{'timeout': '3600'}"]
    for each in ("{'poke_interval': '{{ params.pause }}'}", "{'consumer': '{{ dag.dag_id }}'}"):
        assert "is a template, but it can't be one" in words[each]
    assert "must start in a worker" in words["start_from_trigger"]
    assert found["taken"] == {
        "inputs": ["a", "b"],
        "timeout": 300.0,
        "review_timeout": 86_400.0,
        "poke_interval": 2.0,
        "result_types": ["FieldsJson"],
        "parameters": {"Batch": "{{ run_id }}", "Number": 5},
        "on_review": "fail",
        "parallel": 3,
        "mapped": "OperatorPartial",
        "aside": "Location('/aside')",
    }
    # What the help shows.
    assert {"self", "inputs", "timeout", "on_review", "durable"} <= set(found["signature"])
    assert found["documented"]
    # During an update, a trigger of another version may have sent the event.
    assert found["unread"] == [["StateUnavailable", False]] * 4
    assert found["defers"] == {"": True, "True": True, "False": False, "0": False}


def test_each_once(first: Phase) -> None:
    """In the first run nothing was started twice, and of what was refused nothing was sent."""
    files = {f"{task}-{n}" for task, number in FILES.items() for n in range(1, number + 1)}
    starts = {name: first.starts(name) for name in files}
    assert {name for name, number in starts.items() if number != 1} == {"collide-2", "refused-1"}
    assert not first.of("collide-2")
    assert not first.of("refused-1")
    assert {each["started"] for each in first.transactions} == {1}


def test_deferred(scene: Scene, first: Phase) -> None:
    assert first.tasks["deferred[-1]"] == ["success", 1]
    assert [each["task_id"] for each in first.triggers].count("deferred") == 1
    result = {"manifest": str(scene.output / "deferred" / "manifest.json"), **counts()}
    assert first.result("deferred") == result
    # In the order of the inputs; a file that is given twice is taken once.
    assert scene.landed("deferred") == ["deferred-2", "deferred-1"]
    events = scene.airflow("inside_links.asset_events", run_id=RUN)
    assert events == {"x-operators://results": result}
    (transaction,) = first.of("deferred-1")
    line = f"2 documents with 2 pages of 2 transactions in {scene.output / 'deferred'}"
    assert f"{line}; pages by skill: Invoice 2" in scene.log("deferred")
    assert "Waiting in the triggerer: 0 of 2 transactions have ended" in scene.log("deferred")
    assert f"Started transaction {transaction['id']} for 'deferred-1.pdf'" in scene.log("deferred")
    noted = first.xcoms["deferred[-1]"]["abbyy_vantage"]
    assert noted["details"][transaction["id"]] == {
        "files": "'deferred-1.pdf'",
        "pages": 1,
        "rules": 0,
        "folder": "deferred-1.pdf",
    }
    pages = "2; pages by skill: Invoice 2"
    assert (noted["results"], noted["pages"]) == (str(scene.output / "deferred"), pages)
    assert noted["over"]
    assert transaction["registration_parameters"]["Batch"] == RUN
    assert transaction["skill_parameters"]["Note"] == "deferred"


def test_in_the_worker(scene: Scene, first: Phase) -> None:
    assert first.tasks["in_worker[-1]"] == ["success", 1]
    assert "in_worker" not in {each["task_id"] for each in first.triggers}
    assert scene.landed("in_worker", types=1) == ["in_worker-1"]
    assert first.result("in_worker") == {
        "manifest": str(scene.output / "in_worker" / "manifest.json"),
        **counts(transactions=1, documents=1, files=1, pages=1, in_review=1, pending=1),
    }
    assert scene.log("in_worker").count("told of 1 reviews") == 1
    (reviewed,) = first.of("in_worker-2")
    review = f"1 transaction waits for a manual review: {reviewed['id']} ('in_worker-2.pdf')"
    assert review in scene.log("in_worker")
    assert "('in_worker-1.pdf'): Processed; 1 of 2 transactions have ended" in scene.log(
        "in_worker"
    )
    assert "1 in review: 'in_worker-2.pdf'" in scene.log("in_worker")


def test_review_is_waited_for(scene: Scene, first: Phase) -> None:
    assert first.tasks["waits[-1]"] == ["success", 1]
    assert scene.landed("waits") == ["waits-1", "waits-2"]
    assert scene.log("waits").count("told of 1 reviews") == 1
    waits = [each["kwargs"]["wait"] for each in first.triggers if each["task_id"] == "waits"]
    begin, after = waits
    # The time of the service stands still, as all else has ended; that of people has begun.
    assert begin["deadline"] > time.time()
    assert (begin["reviews"], begin["left"]) == ({}, None)
    assert after["deadline"] is None
    assert 3000 < after["left"] < 3600
    (reviewed,) = first.of("waits-2")
    assert list(after["reviews"]) == [reviewed["id"]]
    review = after["reviews"][reviewed["id"]]
    assert begin["deadline"] - 3600 < review["since"] < time.time()
    assert review["notified"]


def test_review_is_left_behind(scene: Scene, first: Phase) -> None:
    assert first.tasks["returns[-1]"] == ["success", 1]
    assert scene.landed("returns") == ["returns-1"]
    assert first.result("returns") == {
        "manifest": str(scene.output / "returns" / "manifest.json"),
        **counts(transactions=1, documents=1, files=2, pages=1, in_review=1, pending=1),
    }


def test_review_fails_the_task(scene: Scene, first: Phase, second: Phase) -> None:
    assert first.tasks["fails[-1]"] == ["failed", 1]
    text = "ReviewNeeded: 1 transaction waits for a manual review: 'fails-2.pdf'"
    assert text in scene.log("fails")
    # It is done, and somebody clears the task.
    assert second.tasks["fails[-1]"] == ["success", 2]
    assert scene.landed("fails") == ["fails-1", "fails-2"]
    assert (second.starts("fails-1"), second.starts("fails-2")) == (1, 1)


def test_not_durable_starts_anew(first: Phase, second: Phase) -> None:
    assert first.tasks["not_durable[-1]"] == ["failed", 1]
    assert second.starts("not_durable-1") == 2


def test_connection_to_another_tenant(first: Phase, second: Phase) -> None:
    """Cleared with it, a task does not ask there for what it has noted of the first one."""
    assert first.tasks["moves[-1]"] == ["success", 1]
    assert second.tasks["moves[-1]"] == ["success", 2]
    assert len({each["tenant_id"] for each in second.of("moves-1")}) == 2
    assert second.starts("moves-1") == 2


def test_time_of_a_review_is_over(scene: Scene, first: Phase, second: Phase) -> None:
    assert first.tasks["late[-1]"] == ["up_for_retry", 1]
    assert "WaitTimeout" in scene.log("late")
    assert second.tasks["late[-1]"] == ["success", 2]
    assert scene.landed("late") == ["late-1", "late-2"]
    assert (second.starts("late-1"), second.starts("late-2")) == (1, 1)


def test_files_that_were_put_away_once_they_were_sent(first: Phase, second: Phase) -> None:
    assert first.tasks["gone[-1]"] == ["up_for_retry", 1]
    assert second.tasks["gone[-1]"] == ["success", 2]
    assert second.result("gone")["transactions"] == 2
    assert (second.starts("gone-1"), second.starts("gone-2")) == (1, 1)


def test_broken_rules(scene: Scene, first: Phase) -> None:
    assert first.tasks["rules[-1]"] == ["failed", 1]
    text = "RulesBroken: 1 of 1 documents break business rules: 'rules-1.pdf': "
    assert text in scene.log("rules")
    assert scene.landed("rules") == ["rules-1"]
    assert first.result("deferred")["rule_errors"] == 0


def test_deleted_after(scene: Scene, first: Phase, second: Phase) -> None:
    assert first.tasks["deletes[-1]"] == ["success", 1]
    assert [each["deleted"] for each in first.of("deletes-1")] == [True]
    assert scene.landed("deletes") == ["deletes-1"]
    assert (scene.output / "deletes" / "unclassified" / "deletes-1.pdf" / "1").is_dir()
    # What has landed is not sent again when the task is cleared, though the service has forgotten.
    assert second.tasks["deletes[-1]"] == ["success", 2]
    assert not second.of("deletes-1")
    assert second.result("deletes") == first.result("deletes")
    assert "; 1 found from an earlier try" in scene.log("deletes")
    assert {each["id"] for each in first.transactions if each["deleted"]} == {
        each["id"] for name in ("deletes-1", "steps-1", "steps-2") for each in first.of(name)
    }


def test_failed_transaction(scene: Scene, first: Phase, second: Phase) -> None:
    assert first.tasks["failing[-1]"] == ["failed", 1]
    (failed,) = first.of("failing-2")
    text = "TransactionFailed: 1 of 2 transactions failed: 'failing-2.pdf' (transaction "
    assert text + failed["id"] in scene.log("failing")
    assert "clear or run the task again; only these are sent again" in scene.log("failing")
    manifest = json.loads((scene.output / "failing" / "manifest.json").read_text())
    assert scene.landed("failing") == ["failing-1"]
    (entry,) = manifest["failed"]
    assert "can't be opened" in entry["error"] or "Unknown format" in entry["error"]
    assert f"1 failed: 'failing-2.pdf' ({entry['error']})" in scene.log("failing")
    # The next try sends that one, and nothing else.
    assert second.tasks["failing[-1]"] == ["failed", 2]
    assert (second.starts("failing-1"), second.starts("failing-2")) == (1, 2)


def test_mapped_tasks_with_one_output(scene: Scene, first: Phase) -> None:
    assert first.tasks["collide[0]"] == ["success", 1]
    assert first.tasks["collide[1]"] == ["failed", 1]
    assert "{{ ti.map_index }}" in scene.log("collide", 1)
    assert scene.landed("collide") == ["collide-1"]


@pytest.mark.parametrize(
    ("map_index", "text"),
    [
        (0, "There is no file"),
        (1, "is a folder"),
        (2, "The skill is empty"),
        (3, "10 registration parameters were given; 9 are allowed"),
        (4, "Did you mean 'FieldsJson'?"),
        (5, "holds the input"),
        (6, "has the placeholder {skill}"),
    ],
)
def test_refused_before_anything_is_sent(
    scene: Scene, first: Phase, map_index: int, text: str
) -> None:
    assert first.tasks[f"refused[{map_index}]"] == ["failed", 1]
    assert text in scene.log("refused", map_index)
    assert set(first.xcoms[f"refused[{map_index}]"]) == {"_link_VantageTransactionLink"}


def test_steps_one_by_one(scene: Scene, first: Phase) -> None:
    ids = [first.of(name)[0]["id"] for name in ("steps-1", "steps-2")]
    assert first.result("steps") == ids
    assert first.result("sense") == dict.fromkeys(ids, "Processed")
    assert scene.log("sense").count("told of 1 reviews") == 1
    waits = [each["kwargs"]["wait"] for each in first.triggers if each["task_id"] == "sense"]
    assert [list(each["statuses"]) for each in waits] == [ids, ids]
    assert scene.landed("download") == ["steps-1", "steps-2"]
    assert (scene.output / "download" / ids[0] / "manifest.json").exists()
    assert (scene.output / "download" / "unclassified" / ids[0] / "1").is_dir()
    assert "2 of 2 transactions have ended" in scene.log("sense")
    assert "2 files in 2 transactions" in scene.log("steps")
    assert first.result("download") == {
        "manifest": str(scene.output / "download" / "manifest.json"),
        **counts(),
    }
    assert first.result("delete") == 2
    assert first.xcoms["delete[-1]"]["abbyy_vantage"] == {"transaction_ids": ids}
    assert [first.of(name)[0]["deleted"] for name in ("steps-1", "steps-2")] == [True, True]


def test_sensor_in_the_worker(scene: Scene, first: Phase) -> None:
    ids = first.result("more")
    for task, transaction_id in zip(("poke", "reschedule"), ids, strict=True):
        assert first.tasks[f"{task}[-1]"] == ["success", 1]
        assert first.result(task) == {transaction_id: "Processed"}
        assert task not in {each["task_id"] for each in first.triggers}
        looks = scene.sandbox.control.count("GET", f"/transactions/{transaction_id}$")
        assert looks >= 2


def test_sensor_that_fails(scene: Scene, first: Phase) -> None:
    assert first.tasks["sense_failed[-1]"] == ["failed", 1]
    assert "TransactionFailed: 1 of 1 transactions failed" in scene.log("sense_failed")
    assert first.tasks["sense_late[-1]"] == ["failed", 1]
    assert "AirflowSensorTimeout" in scene.log("sense_late")


def test_nothing_secret_and_little_is_passed_on(scene: Scene, first: Phase) -> None:
    for task, values in first.xcoms.items():
        for key, value in values.items():
            assert len(json.dumps(value)) < 1000, (task, key)
    account = scene.sandbox.credentials
    issued = scene.sandbox.control.issued_secrets()
    assert len(issued) > 3, "reviews have links, and each of them holds a token"
    found = find_leaks(
        [account["password"], account["client_secret"], *issued],
        {
            "database": scene.airflow.database,
            "logs": scene.airflow.logs / f"dag_id={DAG}",
            "output": scene.output,
            "triggers": json.dumps([phase.triggers for phase in scene.phases]),
            "xcoms": json.dumps([phase.xcoms for phase in scene.phases]),
        },
    )
    assert found == []


@pytest.mark.parametrize("how", [{}, {"resumed": True}, {"durable": False}])
def test_a_later_try_does_not_continue_with_what_somebody_had_deleted(
    airflow: Airflow,
    sandbox: SandboxServer,
    connect: Callable[..., str],
    tmp_path: Path,
    how: dict[str, bool],
) -> None:
    # The service still shows, and lists, what it is going to delete.
    sandbox.control.set(processing_polls=1000, delete_seconds=600)
    file = make_invoice(tmp_path / "a.pdf", "INV-killed")
    given = {"conn_id": connect(sandbox), "inputs": str(file), "output": str(tmp_path / "out")}
    first, second = airflow("inside_operators.killed", **given, **how)
    deleted = {each["id"]: each["deleted"] for each in sandbox.control.transactions()}
    assert first != second
    assert deleted == {first[0]: True, second[0]: False}


def test_a_task_that_is_ended_where_no_thread_starts_keeps_its_transactions(
    airflow: Airflow, sandbox: SandboxServer, connect: Callable[..., str], tmp_path: Path
) -> None:
    """Airflow calls on_kill in a signal handler: an error would be that of the task."""
    sandbox.control.set(processing_polls=1000)
    file = make_invoice(tmp_path / "a.pdf", "INV-killed")
    given = {"conn_id": connect(sandbox), "inputs": str(file), "output": str(tmp_path / "out")}
    first, second = airflow("inside_operators.killed", **given, threads=False)
    assert first == second
    assert not sandbox.control.transaction(first[0])["deleted"]
