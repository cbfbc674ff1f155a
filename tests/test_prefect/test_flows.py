# SPDX-License-Identifier: Apache-2.0
"""The flows of the package on a real Prefect server."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from leaks import find_leaks
from pdfs import make_invoice
from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError, Pause, PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.task_runners import ProcessPoolTaskRunner
from pydantic import TypeAdapter

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.prefect import VantageCredentials, tasks
from vantage_orchestration.prefect.flows import process_documents, process_folder
from vantage_orchestration.prefect.tasks import process_document
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

QUICK = {"poke_interval": 1.0, "max_poke_interval": 1.0}


@dataclass
class Case:
    """Invoices in a folder whose name holds signs of a glob, a sandbox, and a block for it."""

    sandbox: SandboxServer
    block: str
    folder: Path
    output: Path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            "output_path": str(self.output),
            "skill": "Invoice",
            "credentials": self.block,
            **QUICK,
            **changes,
        }

    def check(self) -> None:
        """Each file was started once, and its results lie where the manifest says."""
        digests = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.glob("*.pdf")
        }
        started = Counter(
            file["sha256"]
            for each in self.sandbox.control.transactions()
            if each["started"]
            for file in each["files"]
        )
        assert started == Counter(digests.values())
        manifest = Manifest.load(Location.of(self.output))
        sources = [source for each in manifest.transactions for source in each.sources]
        assert {source.path: source.sha256 for source in sources} == digests
        for each in manifest.transactions:
            for file in each.files:
                data = (self.output / each.folder / file.path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file.sha256


@pytest.fixture
def case(sandbox: SandboxServer, save_block: Callable[..., str], tmp_path: Path) -> Case:
    sandbox.control.set(processing_polls=0)
    found = Case(sandbox, save_block(), tmp_path / "in [1]*", tmp_path / "out")
    found.folder.mkdir()
    for name in ("a", "b [2]", "c é"):
        make_invoice(found.folder / f"{name}.pdf", f"INV-{name}")
    (found.folder / "notes.txt").write_text("not a document")
    return found


def test_a_folder_in_a_subflow_whose_parent_is_retried(case: Case) -> None:
    results: list[dict[str, Any]] = []

    @flow(retries=1)
    def above() -> None:
        results.append(process_folder(str(case.folder), **case.arguments(delete_after=True)))
        if len(results) == 1:
            # Deleted in ABBYY Vantage by now, but the results are there.
            raise RuntimeError("once more")

    above()
    assert results[0] == results[1]
    assert (results[0]["documents"], results[0]["transactions"]) == (3, 3)
    assert case.sandbox.control.count("POST", "/start$") == 3


@pytest.mark.parametrize("how", ["folder", "glob", "list"])
def test_nothing_is_lost_when_files_go(case: Case, how: str) -> None:
    tries: list[Any] = []
    files = sorted(map(str, case.folder.glob("*.pdf")))

    def send(**changes: Any) -> Any:
        arguments = case.arguments(**changes)
        if how == "folder":
            return process_folder(str(case.folder), **arguments)
        # The signs of a glob in the folder's name stand for themselves in a list.
        glob = str(case.folder.with_name("in ?1??") / "*.pdf")
        return process_documents(files if how == "list" else glob, **arguments)

    @flow(retries=1)
    def above() -> Any:
        tries.append(1)
        if len(tries) == 1:
            case.sandbox.control.set(processing_polls=1000)
            send(timeout=0.0)  # Submitted, and given up at once.
        case.sandbox.control.set(processing_polls=0)
        for path in case.folder.glob("*.pdf"):
            path.rename(path.with_suffix(".done"))
        return send()

    quick = tasks.process_documents.with_options(retries=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "process_documents", quick)
        assert above()["documents"] == 3


def test_an_empty_folder_is_no_error(case: Case) -> None:
    case.folder = case.folder.with_name("nothing")
    result = process_folder(str(case.folder), **case.arguments())
    assert (result["documents"], result["failed"], result["pending"]) == (0, 0, 0)
    assert Path(result["manifest"]).is_file()


def test_suspended_run_goes_on_after_the_review(case: Case) -> None:
    with pytest.raises(ConfigurationError, match="has no deployment"):
        process_documents(
            f"{case.folder}/*.pdf", **case.arguments(on_review="suspend", output_path="unused")
        )
    control = case.sandbox.control
    assert control.transactions() == []
    make_invoice(case.folder / "d.pdf", "INV-D", extra_lines=["Manual review required"])
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(process_folder), "of-a-test")
        arguments = case.arguments(on_review="suspend", folder=str(case.folder))
        run = client.create_flow_run_from_deployment(deployment, parameters=arguments)
        with pytest.raises(Pause):
            run_flow(process_folder, flow_run=run, parameters=arguments)
        # All else has landed.
        assert Manifest.load(Location.of(case.output)).counts["documents"] == 3
        (waiting,) = (each["id"] for each in control.transactions() if each["in_review"])
        # Somebody resumes it too early.
        resume_flow_run(run.id)
        with pytest.raises(Pause):
            run_flow(process_folder, flow_run=client.read_flow_run(run.id), parameters=arguments)
        control.finish_review(waiting)
        resume_flow_run(run.id)
        result = run_flow(
            process_folder, flow_run=client.read_flow_run(run.id), parameters=arguments
        )
    assert (result["documents"], result["in_review"]) == (4, 0)
    case.check()


def test_blocks_and_documents_in_other_processes(case: Case) -> None:
    credentials = VantageCredentials.load(case.block)
    files = sorted(map(str, case.folder.glob("*.pdf")))

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def above() -> list[Any]:
        return process_document.map(unmapped(credentials), files, "Invoice", **QUICK).result()

    rows = above()
    assert [row["file"] for (row,) in rows] == files
    assert case.sandbox.control.count("POST", "connect/token") == 1


def test_nothing_secret_is_left(
    case: Case,
    account: dict[str, Any],
    prefect_server: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    control = case.sandbox.control
    make_invoice(case.folder / "d.pdf", "INV-D", extra_lines=["Manual review required"])
    control.add_fault(operation="getTransaction", after=2, revoke="all", status=401)
    caplog.set_level(logging.DEBUG)
    credentials = VantageCredentials.load(case.block)

    @flow(persist_result=True)
    def above() -> Any:
        found = process_documents(
            f"{case.folder}/*.pdf".replace("in [1]*", "in ?1?*"),
            **case.arguments(on_review="return"),
        )
        a = str(case.folder / "a.pdf")
        # Not by its name: the block itself must not be written anywhere.
        rows = process_document.with_options(persist_result=True)(
            credentials, a, "Invoice", **QUICK
        )
        return found["in_review"], rows

    assert above()[0] == 1
    issued = control.issued_secrets()
    assert len(issued) > control.count("POST", "connect/token")  # A review link as well.
    secrets = [*issued, account["password"], account["client_secret"]]
    results = Path(PREFECT_LOCAL_STORAGE_PATH.value())
    assert list(results.iterdir())
    places = {
        "log": caplog.text,
        "server": prefect_server.database.parent,
        "results": results,
        "output": case.output,
    }
    assert find_leaks(secrets, places) == []


def test_paths_and_a_saved_block_become_text(case: Case) -> None:
    arguments = case.arguments(output_path=case.output, quarantine_path=case.output.parent / "bad")
    block = VantageCredentials.load(case.block)
    result = process_folder(case.folder, **{**arguments, "credentials": block})
    assert result["documents"] == 3
    files = sorted(case.folder.glob("*.pdf"))
    given = {"inputs": files, "output_path": case.output, "skill": "Invoice"}
    for inputs in (files, tuple(files), [files[:1], files[1:]]):
        found = process_documents.validate_parameters({**given, "inputs": inputs})
        assert found["inputs"] == [str(each) for each in files]
    assert found["output_path"] == str(case.output)
    unsaved = VantageCredentials.model_validate(block.model_dump(exclude={"block_type_slug"}))
    for wrong, words in (
        # Prefect has read it by then, so a run would find nothing to process, and succeed.
        ({"inputs": case.folder.glob("*.pdf")}, "can be read only once"),
        ({"inputs": {"a": "b"}}, "a list is expected"),
        ({"credentials": unsaved}, "is not saved"),
    ):
        with pytest.raises(ParameterTypeError, match=words):
            process_documents(**case.arguments(**{**given, **wrong}))
    assert case.sandbox.control.count("POST", "/start$") == 3


def test_server_takes_for_a_deployment_what_its_form_says(case: Case) -> None:
    arguments = case.arguments(folder=case.folder, quarantine_path=case.output.parent / "bad")
    pairs = {"batch": 4711, "urgent": True, "note": "x"}
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(process_folder)

        def run(name: str, enforce: bool, **changes: Any) -> Any:
            deployment = client.create_deployment(
                flow_id,
                name,
                parameter_openapi_schema=process_folder.parameters.model_dump_for_openapi(),
                enforce_parameter_schema=enforce,
            )
            given = {**arguments, "registration_parameters": pairs, **changes}
            stored = client.create_flow_run_from_deployment(deployment, parameters=given)
            return process_folder.validate_parameters(stored.parameters)

        found = run("strict", True, max_files=5, result_types=["FieldsJson"])
        assert found["registration_parameters"] == {"batch": "4711", "urgent": "Yes", "note": "x"}
        assert found["quarantine_path"] == str(arguments["quarantine_path"])
        for text in ({"timeout": "90"}, {"delete_after": "true"}, {"result_types": "Json"}):
            with pytest.raises(PrefectHTTPStatusError, match="Validation failed for field"):
                run("strict", True, **text)
            name = next(iter(text))
            assert run("lax", False, **text)[name] in (90.0, True, ("Json",), ["Json"])


def test_options_of_a_flow_are_checked_when_it_is_called() -> None:
    given = {"inputs": "a", "output_path": "b", "skill": "c"}
    found = process_documents.validate_parameters(
        {**given, "timeout": timedelta(minutes=2), "result_types": ["fieldsjson"]}
    )
    assert (found["timeout"], list(found["result_types"])) == (120.0, ["FieldsJson"])
    for texts, values in (
        ({"timeout": "90.5", "poke_interval": "PT1M30S"}, (90.5, 90.0)),
        ({"parallel": "4", "max_files": "1000"}, (4, 1000)),
        ({"delete_after": "false", "day_first": "true"}, (False, True)),
        ({"min_confidence": "0.5", "tables": "csv"}, (0.5, "csv")),
    ):  # As environments, and deployments whose server does not check types, give them.
        found = process_documents.validate_parameters({**given, **texts})
        assert tuple(found[name] for name in texts) == values
    in_an_hour = json.loads(TypeAdapter(dict).dump_json({"timeout": timedelta(hours=1)}))
    assert (
        process_folder.validate_parameters(
            {"folder": "a", "output_path": "b", "skill": "c", **in_an_hour}
        )["timeout"]
        == 3600.0
    )
    for wrong in (
        {"timeout": "a minute"},
        {"timeout": "nan"},
        {"parallel": "0"},
        {"parallel": "1.5"},
        {"delete_after": "maybe"},
        {"result_types": ["Jso"]},
        {"on_review": "x"},
    ):
        with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
            process_documents.validate_parameters({**given, **wrong})
    schema = process_folder.parameters.properties
    assert schema["timeout"]["type"] == "number"
    assert schema["on_empty"]["default"] == "skip"
    assert schema["parallel"]["description"] == "Concurrent requests."
