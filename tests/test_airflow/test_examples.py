# SPDX-License-Identifier: Apache-2.0
"""The shipped Dags: they parse without anything, and each runs by ``dag.test()``."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pdfs import make_invoice
from test_airflow.installation import DAGS, Airflow, columns_of, fixed, logins

from vantage_orchestration.sandbox import SandboxServer

FILES = sorted(DAGS.glob("*.py"))
ASSET = "x-abbyy-vantage://results"
pytestmark = pytest.mark.slow
_numbers = itertools.count()


class Case:
    """Three invoices and a sandbox.

    The connection is in the environment: a trigger that runs within ``dag.test()`` finds no other.
    """

    def __init__(self, airflow: Airflow, sandbox: SandboxServer, folder: Path) -> None:
        self.airflow, self.sandbox = airflow, sandbox
        self.folder, self.output = folder / "in", folder / "out"
        self.folder.mkdir()
        self.files = [self.add(f"{name}.pdf") for name in ("a", "b [1]", "c é")]
        self.conn_id = f"example_{next(_numbers)}"
        self.conf = {
            "skill": sandbox.control.skill_id("Invoice"),
        }
        self.inputs = str(self.folder)
        self.more: dict[str, str] = {}

    def add(self, name: str, **changes: Any) -> Path:
        return make_invoice(self.folder / name, f"INV-{name}", **changes)

    @property
    def environment(self) -> dict[str, str]:
        columns = columns_of(self.sandbox)
        connection = {**columns, "extra": json.loads(columns["extra"])}
        return {
            f"AIRFLOW_CONN_{self.conn_id.upper()}": json.dumps(connection),
            **fixed(conn_id=self.conn_id, inputs=self.inputs, outputs=self.output),
            **self.more,
        }

    def test(self, dag_id: str, conf: dict[str, Any], fetch: tuple[str, ...] = ()) -> Any:
        told = self.airflow(
            "inside_examples.dag_test",
            self.environment,
            dag_id=dag_id,
            conf={**self.conf, **conf},
            fetch=list(fetch),
        )
        assert told["state"] == "success", (told, self.airflow.output.read_text()[-8000:])
        return told

    def starts(self) -> dict[str, int]:
        """Return how often each file was started, and so charged, by its digest."""
        counts: dict[str, int] = {}
        for item in self.sandbox.control.transactions():
            for file in item["files"]:
                counts[file["sha256"]] = counts.get(file["sha256"], 0) + item["started"]
        return counts

    def landed(self, folder: Path) -> dict[str, str]:
        """Return what is in a folder by its manifest: digest of each document to its name."""
        found = {}
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["transactions"]:
            (source,), (document,) = entry["sources"], entry["documents"]
            for file in document["files"]:
                data = (folder / entry["folder"] / file["path"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file["sha256"]
                if file["type"] == "FieldsJson":
                    digest = json.loads(data)["Fields"]["Source SHA-256"]
            assert source["sha256"] in (None, digest), "the fields of another document"
            found[digest] = source["name"]
        return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def case(airflow: Airflow, sandbox_factory: Callable[..., SandboxServer], tmp_path: Path) -> Case:
    # Secrets of their own: ``dag.test()`` writes them to stdout, unmasked, at the level DEBUG.
    sandbox = sandbox_factory(
        seed=next(_numbers) + 400,
        password="the password of the examples",
        client_secret="the client secret of the examples",
        processing_polls=0,
    )
    return Case(airflow, sandbox, tmp_path)


def wanted(*files: Path) -> dict[str, str]:
    return {sha256(file): file.name for file in files}


def test_all_parse_without_anything(airflow: Airflow) -> None:
    found = airflow("inside_examples.parse", paths=[str(path) for path in FILES])
    assert found["touched"] == {path.name: [] for path in FILES}
    assert found["clients"] == []
    told = airflow("inside_examples.examples")
    assert told["errors"] == {}
    assert {each["file"] for each in told["dags"].values()} == {path.name for path in FILES}
    for dag_id, dag in told["dags"].items():
        assert dag["file"] == f"{dag_id}.py"
        assert dag["doc"].startswith("### ")
        assert not dag["catchup"]
        assert dag["zone"] == "UTC"
        assert "abbyy-vantage" in dag["tags"]


def test_one_operator(case: Case) -> None:
    case.inputs = f"file://{case.folder}"
    told = case.test("abbyy_vantage_process", {})
    assert case.landed(case.output / told["run_id"]) == wanted(*case.files)
    assert set(case.starts().values()) == {1}
    assert logins(case.sandbox) == 1


def test_a_night_from_documents_to_rows(case: Case) -> None:
    import dlt
    import duckdb

    aside, database = case.folder.parent / "aside", case.folder.parent / "invoices.duckdb"
    case.more = {
        # The store's connection is part of the addresses.
        **fixed(aside=f"file://the_store@{aside}", outputs=f"file://the_store@{case.output}"),
        "DESTINATION__DUCKDB__CREDENTIALS": str(database),
        "DLT_DATA_DIR": str(case.folder.parent / "dlt"),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    case.add("no total.pdf", total="")
    (case.folder / "broken.pdf").write_bytes(b"%PDF-1.4 this is no PDF")
    work = case.folder.parent / "dlt" / "pipelines"
    place = dlt.destinations.duckdb(str(database))
    killed = dlt.pipeline("invoices", destination=place, pipelines_dir=str(work))
    for step in (killed.run, killed.extract):  # The first load of all would drop what is left.
        step([{"number": 1}], table_name="left_by_a_killed_load")
    case.test("abbyy_vantage_nightly", {})
    with duckdb.connect(str(database)) as connection:
        sql = "select source_name, invoice_number, total from invoices_dataset.documents order by 1"
        rows = connection.sql(sql).fetchall()
        items = connection.sql("select count(*) from invoices_dataset.documents_items").fetchall()
    assert [row[:2] for row in rows] == [(file.name, f"INV-{file.name}") for file in case.files]
    assert {row[2] for row in rows} == {120}
    assert items == [(2 * len(rows),)]
    names = {path.name.rpartition("-")[0] for path in aside.glob("*.pdf")}
    assert names == {"no total", "broken"}
    assert set(case.starts().values()) == {1}


def test_mapped_over_object_storage(case: Case) -> None:
    # A connection of the store is part of the address, and must stay with each file.
    case.inputs = f"file://the_store@{case.folder.parent}"
    told = case.test("abbyy_vantage_mapped", {"folder": "in"}, ("list_files", "total"))
    assert told["names"] == [file.name for file in case.files]
    for number, file in enumerate(case.files):
        assert case.landed(case.output / told["run_id"] / str(number)) == wanted(file)
    assert set(case.starts().values()) == {1}
    assert told["results"]["total"] == {
        "transactions": 3,
        "documents": 3,
        "files": 6,
        "rule_errors": 0,
    }
    listed = [each["__data__"]["conn_id"] for each in told["results"]["list_files"]]
    assert listed == ["the_store"] * 3


def test_mapped_and_cleared_with_one_file_more(case: Case) -> None:
    case.files.pop().unlink()
    run = {"dag_id": "abbyy_vantage_mapped", "run_id": f"cleared_{case.conn_id}"}
    conf = case.conf
    told = case.airflow("inside_operators.run", case.environment, **run, conf=conf)
    assert told["state"] == "success", told
    before = case.starts()
    first = case.add("0.pdf")
    case.airflow("clear", **run)
    told = case.airflow("inside_operators.work", case.environment, **run)
    assert told["state"] == "success", told
    for number, file in enumerate([first, *case.files]):
        assert case.landed(case.output / run["run_id"] / str(number)) == wanted(file)
    assert case.starts() == {**before, sha256(first): 1}


def test_submit_and_sensor(case: Case) -> None:
    case.sandbox.control.set(processing_polls=1)  # Who does not wait comes too early.
    told = case.test(
        "abbyy_vantage_submit_and_wait",
        {"pattern": case.files[0].name},
        ("submit", "wait"),
    )
    (transaction_id,) = told["results"]["submit"]
    assert told["results"]["wait"] == {transaction_id: "Processed"}
    folder = case.output / told["run_id"]
    assert case.landed(folder) == wanted(case.files[0])
    assert (folder / transaction_id / "manifest.json").exists()
    assert case.starts() == {sha256(case.files[0]): 1}


@pytest.fixture
def people(case: Case) -> Iterator[list[str]]:
    """People who do each review as soon as it is reported; the ids that they have done."""
    done: list[str] = []
    over = threading.Event()
    begin = case.airflow.output.stat().st_size

    def review() -> None:
        control = case.sandbox.control
        while not over.wait(0.2):
            waiting = [item["id"] for item in control.transactions() if item["in_review"]]
            with case.airflow.output.open("rb") as output:
                output.seek(begin)
                told = b"1 documents wait for a review until" in output.read()
            for transaction_id in waiting if told else ():
                control.finish_review(transaction_id)
                done.append(transaction_id)

    thread = threading.Thread(target=review)
    thread.start()
    yield done
    over.set()
    thread.join()


def test_review(case: Case, people: list[str]) -> None:
    file = case.add("d.pdf", extra_lines=["Manual review required"])
    told = case.test("abbyy_vantage_review", {})
    assert len(people) == 1
    assert case.landed(case.output / told["run_id"]) == wanted(*case.files, file)
    assert set(case.starts().values()) == {1}


def test_deadline_of_a_review_is_not_retried(case: Case) -> None:
    """The time that people may take is over: one try, and the other documents have landed."""
    case.add("d.pdf", extra_lines=["Manual review required"])
    run = {"dag_id": "abbyy_vantage_review", "run_id": f"late_{case.conn_id}"}
    conf = case.conf
    told = case.airflow(
        "inside_operators.run", case.environment, **run, conf=conf, retries=True, late=True
    )
    assert told["tasks"] == {"process[-1]": ["failed", 1]}
    assert case.landed(case.output / run["run_id"]) == wanted(*case.files)
    (waiting,) = [each for each in case.sandbox.control.transactions() if each["in_review"]]
    case.sandbox.control.finish_review(waiting["id"])
    case.airflow("clear", **run)
    told = case.airflow("inside_operators.work", case.environment, **run)
    assert told["state"] == "success"
    assert len(case.landed(case.output / run["run_id"])) == 4
    assert set(case.starts().values()) == {1}


def test_consumer_starts_by_the_asset(case: Case) -> None:
    """From the producer's event by way of the scheduler to the fields of each document."""
    dag_id = "abbyy_vantage_consumer"
    case.airflow("inside_examples.pause", dag_id=dag_id, paused=False)
    try:
        produced = case.test("abbyy_vantage_process", {})
        (told,) = case.airflow("inside_examples.runs_by_assets", dag_id=dag_id)
    finally:
        case.airflow("inside_examples.pause", dag_id=dag_id, paused=True)
    assert told["state"] == "success", told
    run = {"dag_id": dag_id, "run_id": told["run_id"]}
    manifest = f"{case.output}/{produced['run_id']}/manifest.json"
    # The first run gets what other tests have produced as well.
    events = case.airflow("xcom", **run, task_id="received")
    (index,) = (n for n, event in enumerate(events) if event["manifest"] == manifest)
    assert events[index] == {
        **events[index],
        "manifest": manifest,
        "transactions": 3,
        "documents": 3,
        "files": 6,
        "pages": 3,
        "rule_errors": 0,
        "duplicates": 0,
        "in_review": 0,
        "pending": 0,
        "failed": 0,
    }
    assert manifest in told["names"]
    assert case.airflow("xcom", **run, task_id="take", map_index=index) == 3
    assert "Invoice_fields.json: " in case.airflow.log_text(**run)
    # Events can be made by hand, with any address in them: it must be below the folder of results.
    case.airflow("clear", **run, task_ids=["take"])
    told = case.airflow("work", fixed(results=case.folder), **run)
    taken = [state for name, (state, _) in told["tasks"].items() if name.startswith("take[")]
    assert set(taken) == {"failed"}


def test_what_came_by_mail_reaches_the_consumer(case: Case) -> None:
    """From the service's list by way of the watcher's Dag to the fields of each document."""
    airflow, control = case.airflow, case.sandbox.control
    airflow("add_connection", conn_id="abbyy_vantage_default", **columns_of(case.sandbox))
    ids = control.receive_many(3, "workspace.default.processing")
    consumer = {"dag_id": "abbyy_vantage_consumer", "run_id": f"by_hand_{case.conn_id}"}
    airflow("inside.run", **consumer, conf={})  # What other tests have produced.
    watcher = {"dag_id": "abbyy_vantage_watcher", "conf": {}}
    told = airflow("inside.run", **watcher, run_id=f"first_{case.conn_id}")
    assert told["state"] == "success", told
    again = airflow("inside.run", **watcher, run_id=f"second_{case.conn_id}")
    assert {state for state, _ in again["tasks"].values()} == {"skipped"}
    airflow("clear", **consumer)
    told = airflow("inside.work", **consumer)
    assert told["state"] == "success", told
    events = airflow("xcom", **consumer, task_id="received")
    manifest = json.loads(Path(events[-1]["manifest"]).read_text())
    assert sorted(each["folder"] for each in manifest["transactions"]) == sorted(ids)
    index = len(events) - 1
    assert airflow("xcom", **consumer, task_id="take", map_index=index) == 3
    last = airflow("inside.run", **{**consumer, "run_id": f"last_{case.conn_id}"}, conf={})
    assert {state for state, _ in last["tasks"].values()} == {"skipped"}


def test_hook_alone(case: Case) -> None:
    output = case.output / "rows.jsonl"
    case.test("abbyy_vantage_documents", {"output": output.name})
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["sha256"] for row in rows] == [sha256(file) for file in case.files]
    assert set(case.starts().values()) == {1}


#: What whoever may trigger a run could try in a param.
ELSEWHERE = [
    "/etc",
    "..",
    "../elsewhere",
    "a/../..",
    "s3://bucket/x",
    "file:///etc",
    "link",
    ".",
    "//",
]


@pytest.mark.parametrize("dag_id", ["process", "submit_and_wait", "review", "mapped", "documents"])
def test_params_name_nothing_outside_of_the_folders(case: Case, dag_id: str) -> None:
    """Neither other files of the worker nor another connection are within their reach."""
    elsewhere = case.folder.parent / "elsewhere"
    elsewhere.mkdir()
    make_invoice(elsewhere / "secret.pdf")
    (case.folder / "link").symlink_to(elsewhere)
    kinds = [{"folder": each} for each in ("/etc", "../elsewhere", "link")]
    for number, conf in enumerate([*kinds, {"pattern": "../elsewhere/*.pdf"}]):
        run = {"dag_id": f"abbyy_vantage_{dag_id}", "run_id": f"{case.conn_id}_{dag_id}_{number}"}
        more = {"inputs": f"{elsewhere}/*.pdf", "conn_id": "another", "output": str(elsewhere)}
        conf = {**case.conf, **more, **conf}
        told = case.airflow("inside_operators.run", case.environment, **run, conf=conf)
        assert told["state"] == "failed" or "failed" in {s for s, _ in told["tasks"].values()}, conf
    assert case.sandbox.control.transactions() == []
    assert [path.name for path in elsewhere.iterdir()] == ["secret.pdf"]


def test_what_is_below_a_folder(tmp_path: Path) -> None:
    from vantage_orchestration.airflow.storage import below
    from vantage_orchestration.errors import ConfigurationError

    root = tmp_path / "in"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "inside").symlink_to(root)
    assert below(str(root)) == str(root)
    assert below(str(root), "", "*.pdf") == f"{root}/*.pdf"
    assert below(f"{root}/", "a b/c", 7) == f"{root}/a b/c/7"
    assert below(str(root), "inside", "a.pdf") == f"{root}/inside/a.pdf"
    assert below("s3://conn@bucket/in", "2026", "*.pdf") == "s3://conn@bucket/in/2026/*.pdf"
    for part in [*ELSEWHERE, "a\\..\\b", "a\0b", "a/", "/", "link/x.pdf", "a\nb"]:
        with pytest.raises(ConfigurationError):
            below(str(root), part)
        if not part.startswith("link"):
            with pytest.raises(ConfigurationError):
                below("s3://bucket/in", part)
