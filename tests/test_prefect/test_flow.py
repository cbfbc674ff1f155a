# SPDX-License-Identifier: Apache-2.0
"""The example flow, run for real, and tried again in each way that Prefect knows."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from leaks import find_leaks
from patience import PATIENCE, wait_while_running
from pdfs import make_invoice
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run, suspend_flow_run
from prefect.states import Crashed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.variables import Variable

from vantage_orchestration.prefect import VantageCredentials, task_key
from vantage_orchestration.prefect.caching import OncePerRun
from vantage_orchestration.processing import TaskKey, process_document
from vantage_orchestration.sandbox import SandboxServer

FLOW_FILE = Path(__file__).parents[2] / "flows" / "abbyy_vantage_documents.py"
#: Runs the flow file as its main(), but with a short pause between the tries of a task.
DRIVER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("the_flow", sys.argv.pop(1))
module = importlib.util.module_from_spec(spec)
sys.modules["the_flow"] = module
spec.loader.exec_module(module)
module.extract_fields = module.extract_fields.with_options(retry_delay_seconds=1)
module.main()
"""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The flow file as a module of its own."""
    spec = importlib.util.spec_from_file_location("the_flow", FLOW_FILE)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "the_flow", found)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three invoices of different size, and a file that is not an invoice."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number, pages in ((2, 1), (10, 3), (1, 2)):
        make_invoice(folder / f"invoice-{number}.pdf", f"INV-{number}", pages=pages)
    (folder / "notes.txt").write_text("not a document")
    return folder


@pytest.fixture
def skill(sandbox: SandboxServer) -> str:
    sandbox.control.set(processing_polls=0)
    return sandbox.control.skill_id("Invoice")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _started(sandbox: SandboxServer) -> Counter[str]:
    """Return how many transactions were started for each content of a file."""
    return Counter(
        file["sha256"]
        for item in sandbox.control.transactions()
        if item["started"]
        for file in item["files"]
    )


def _once_each(folder: Path) -> Counter[str]:
    return Counter(_sha256(path) for path in folder.glob("*.pdf"))


def _check_output(output: Path, folder: Path) -> None:
    """Compare what came back with the files: each in its row, in the order of the names."""
    files = sorted(folder.glob("*.pdf"))
    rows = _rows(output)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    for row, path in zip(rows, files, strict=True):
        assert row["sha256"] == _sha256(path)
        assert _sha256(path) in json.dumps(row["fields"]["Source SHA-256"])
        assert row["fields"]["Invoice Number"] == path.stem.replace("invoice", "INV")
    assert [path.name for path in output.parent.glob(".*")] == []


def _break_a_download(sandbox: SandboxServer) -> None:
    """Let one document's task fail after the start: the client does not wait for so long."""
    sandbox.control.add_fault(
        operation="downloadResultFile", times=1, status=503, retry_after=99999
    )


def test_flow_extracts_real_documents(
    module: ModuleType,
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out" / "fields.jsonl"
    name = save_block()
    for _ in range(2):  # A second run replaces the file, and is another run: sent anew.
        summary = module.abbyy_vantage_documents(str(folder), skill, str(output), credentials=name)
        assert summary == {"files": 3, "documents": 3, "output": str(output)}
        _check_output(output, folder)
    assert set(_started(sandbox).values()) == {2}
    assert sandbox.control.count("POST", "connect/token") == 1


def test_empty_folder_gives_an_empty_file(
    module: ModuleType, skill: str, save_block: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "fields.jsonl"
    summary = module.abbyy_vantage_documents(
        str(tmp_path), skill, str(output), credentials=save_block()
    )
    assert summary["files"] == 0
    assert output.read_bytes() == b""


def test_refused_login_is_sent_once_for_all_tasks(
    module: ModuleType,
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
    tmp_path: Path,
) -> None:
    assert module.extract_fields.retries == 3
    output = tmp_path / "fields.jsonl"
    output.write_text("of yesterday\n")
    name = save_block(password="wrong-password")
    with pytest.raises(RuntimeError, match=r"3 of 3 documents failed.*was refused"):
        module.abbyy_vantage_documents(str(folder), skill, str(output), credentials=name)
    assert sandbox.control.count("POST", "connect/token") == 1
    assert output.read_text() == "of yesterday\n"


def test_document_that_fails_for_good_is_charged_once(
    module: ModuleType,
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
    tmp_path: Path,
) -> None:
    sandbox.control.set(outcome="Failed")
    with pytest.raises(RuntimeError, match=r"transactions failed: '.*\.pdf'"):
        module.abbyy_vantage_documents(
            str(folder), skill, str(tmp_path / "fields.jsonl"), credentials=save_block()
        )
    assert _started(sandbox) == _once_each(folder)


@pytest.mark.parametrize("who", ["task", "flow"])
def test_retry_after_a_failure_in_the_middle_starts_nothing_twice(
    who: str,
    module: ModuleType,
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries = 2 if who == "task" else 0
    quick = module.extract_fields.with_options(retries=retries, retry_delay_seconds=0)
    monkeypatch.setattr(module, "extract_fields", quick)
    run = module.abbyy_vantage_documents.with_options(
        retries=2 - retries, task_runner=ThreadPoolTaskRunner(max_workers=1)
    )
    _break_a_download(sandbox)
    output = tmp_path / "fields.jsonl"
    run(str(folder), skill, str(output), credentials=save_block())

    assert sandbox.control.faults()[0]["hits"] == 1
    assert _started(sandbox) == _once_each(folder)
    _check_output(output, folder)


def _send(name: str, path: Path, skill: str) -> str:
    with VantageCredentials.load(name).get_client() as client:
        return process_document(client, path, skill, task_key(path)).transaction_id


def _in_subflow(name: str, path: Path, skill: str) -> Any:
    @flow
    def below() -> str:
        return _send(name, path, skill)

    @flow
    def between() -> str:
        return below()

    @flow(retries=1)
    def above() -> str:
        return between()

    return above


def _in_nested_task(name: str, path: Path, skill: str) -> Any:
    @task
    def inner() -> str:
        return _send(name, path, skill)

    @task(retries=1)
    def outer() -> str:
        return inner()

    @flow
    def above() -> str:
        return outer()

    return above


def _in_async_task(name: str, path: Path, skill: str) -> Any:
    @task(retries=1)
    async def work() -> str:
        credentials = await VantageCredentials.aload(name)
        with credentials.get_client() as client:
            return process_document(client, path, skill, task_key(path)).transaction_id

    @flow
    async def above() -> str:
        return await work()

    return lambda: asyncio.run(above())


@pytest.mark.parametrize("shape", [_in_subflow, _in_nested_task, _in_async_task])
def test_other_shapes_of_runs_start_nothing_twice(
    shape: Callable[..., Any],
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
) -> None:
    path = folder / "invoice-1.pdf"
    _break_a_download(sandbox)
    transaction_id = shape(save_block(), path, skill)()
    assert sandbox.control.faults()[0]["hits"] == 1
    assert [item["id"] for item in sandbox.control.transactions()] == [transaction_id]
    assert _started(sandbox) == {_sha256(path): 1}


def test_task_without_a_flow_starts_nothing_twice(
    sandbox: SandboxServer, skill: str, folder: Path, save_block: Callable[..., str]
) -> None:
    path = folder / "invoice-1.pdf"
    _break_a_download(sandbox)
    task(retries=1)(_send)(save_block(), path, skill)
    assert _started(sandbox) == {_sha256(path): 1}


def test_keys_of_a_run_are_the_same_in_each_try_and_differ_within() -> None:
    seen: list[list[TaskKey]] = []

    @task
    def key(label: str) -> TaskKey:
        return task_key(label)

    @task
    def other(label: str) -> TaskKey:
        return task_key(label)

    @flow
    def below() -> list[TaskKey]:
        return [task_key("a"), key("a")]

    @flow(retries=1)
    def above() -> None:
        mapped = key.map(["a", "b", "x/y", "x%2Fy"]).result()
        seen.append([task_key("a"), *mapped, other("a"), *below(), *below()])
        if len(seen) == 1:
            raise RuntimeError("once more")

    above()
    first, second = seen
    assert [item.scope for item in first] == [item.scope for item in second]
    assert len({item.scope for item in first}) == len(first) == 10
    # A subflow always looks for an earlier try; what stands in the flow itself need not at first.
    assert [item.since is None for item in first] == [True] * 6 + [False] * 4
    begin = second[0].since
    assert all(item.since == begin for item in [*second, *first[6:]])
    assert begin is not None
    assert begin.timezone_name in ("UTC", "+00:00")


def test_a_subflow_reads_its_callers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[uuid.UUID] = []
    reading = SyncPrefectClient.read_task_run

    def noted(self: SyncPrefectClient, task_run_id: uuid.UUID) -> Any:
        read.append(task_run_id)
        return reading(self, task_run_id)

    monkeypatch.setattr(SyncPrefectClient, "read_task_run", noted)

    @task(persist_result=True, cache_policy=OncePerRun(contents="inputs"))
    def key(inputs: str) -> str:
        return task_key().scope

    @flow
    def below() -> list[str]:
        return [
            *key.map([__file__, str(Path(__file__).parent / "seen.py")]).result(),
            key(__file__),
        ]

    @flow
    def between() -> list[str]:
        return below()

    @flow
    def above() -> list[str]:
        return [*between(), *below()]

    scopes = above()
    assert len(read) == len(set(read)) == 3  # Both calls of below, and the one of between.
    assert len(set(scopes)) == 2


def test_resumed_run_looks_for_its_earlier_try() -> None:
    keys: list[TaskKey] = []

    @flow
    def waiting() -> None:
        keys.append(task_key("a"))
        if len(keys) == 1:
            suspend_flow_run(timeout=60)

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(waiting), "of-a-test")
        run = client.create_flow_run_from_deployment(deployment)
        with pytest.raises(Pause):
            run_flow(waiting, flow_run=run)
        resume_flow_run(run.id)
        run_flow(waiting, flow_run=client.read_flow_run(run.id))
        # So the count alone does not identify a first try.
        assert client.read_flow_run(run.id).run_count == 1
    assert len(keys) == 2
    assert keys[0].scope == keys[1].scope
    assert keys[0].since is None
    assert keys[1].since is not None


@contextmanager
def _process(arguments: list[str], environment: dict[str, str], log: Path) -> Any:
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=stream, stderr=stream
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def test_killed_process_goes_on_as_the_same_run(
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    save_block: Callable[..., str],
    tmp_path: Path,
    prefect_server: Any,
) -> None:
    sandbox.control.set(processing_polls=1000)
    output, log = tmp_path / "out" / "fields.jsonl", tmp_path / "process.log"
    name = save_block()
    arguments = [str(FLOW_FILE), str(folder), f"--skill={skill}", f"--output={output}"]
    arguments += ["--credentials", name]
    with _process(arguments, prefect_server.environment(), log) as process:
        wait_while_running(
            process,
            lambda: sum(item["looks"] > 1 for item in sandbox.control.transactions()) == 3,
            log.read_text,
            pause=0.1,
        )
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert not output.exists()
    sandbox.control.set(processing_polls=0)

    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.parameters.get("credentials") == name]
        assert len(runs) == 1
        assert runs[0].state.is_running()  # Nothing has reported the kill to Prefect.
        client.set_flow_run_state(runs[0].id, Crashed(message="killed"), force=True)
    retry = ["-m", "prefect", "flow-run", "retry", str(runs[0].id)]
    retry += ["--entrypoint", f"{FLOW_FILE}:abbyy_vantage_documents"]
    with _process(retry, prefect_server.environment(), log) as process:
        assert process.wait(PATIENCE) == 0, log.read_text()

    assert _started(sandbox) == _once_each(folder)
    _check_output(output, folder)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(runs[0].id)
    assert (run.run_count, run.state.name) == (2, "Completed")


def test_nothing_secret_is_left_anywhere(
    sandbox: SandboxServer,
    skill: str,
    folder: Path,
    account: dict[str, Any],
    save_block: Callable[..., str],
    tmp_path: Path,
    prefect_server: Any,
) -> None:
    control = sandbox.control
    extra = "Manual review required"  # Makes the sandbox give out a review link, with a token.
    make_invoice(folder / "invoice-7.pdf", "INV-7", extra_lines=[extra])
    control.add_fault(operation="getTransaction", after=2, revoke="all", status=401)
    control.add_fault(operation="startTransaction", status=503, retry_after=0)
    output, log, results = tmp_path / "fields.jsonl", tmp_path / "process.log", tmp_path / "results"
    environment = {
        **prefect_server.environment(),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "vantage_orchestration,urllib3,requests",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_LOCAL_STORAGE_PATH": str(results),
    }
    name = save_block()
    arguments = ["-c", DRIVER, str(FLOW_FILE), str(folder), "--skill", skill]
    arguments += ["--output", str(output), "--credentials", name]
    with _process(arguments, environment, log) as process:
        waiting = wait_while_running(
            process,
            lambda: [item["id"] for item in control.transactions() if item["in_review"]],
            log.read_text,
            pause=0.1,
        )
        control.finish_review(waiting[0])
        assert process.wait(PATIENCE) == 0, log.read_text()
    _check_output(output, folder)
    assert _started(sandbox) == _once_each(folder)

    logins = control.count("POST", "connect/token")
    issued = control.issued_secrets()
    assert logins == 2
    assert len(issued) > logins  # Links as well.
    secrets = [*issued, account["password"], account["client_secret"]]
    places = {
        "log": log,
        "server": prefect_server.database.parent,
        "home": prefect_server.home,
        "results": results,
        "output": output,
    }
    assert find_leaks(secrets, places) == []

    # The same search finds what is there: log lines of this package at the server, stored rows.
    known = {name: places[name] for name in ("server", "log")}
    assert {found.split(":")[0] for found in find_leaks(["Started transaction "], known)} == {
        "server",
        "log",
    }
    assert find_leaks(['"POST /auth2/connect/token'], {"log": log})
    assert list(results.iterdir())
    # The block's document is in that database, encrypted; a plain text would have been found.
    assert find_leaks([name], {"server": prefect_server.database})
    # Not the password: what was once in that database would be found by the next search as well.
    control_text = f"leak-control-{uuid.uuid4()}"
    Variable.set("leak_control", control_text)
    try:
        assert find_leaks([control_text], {"server": prefect_server.database.parent})
    finally:
        Variable.unset("leak_control")
