# SPDX-License-Identifier: Apache-2.0
"""The example flows as they are deployed: by `prefect deploy` and a worker."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pdfs import make_invoice
from prefect import settings
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint
from test_prefect.seen import artifacts, events_named, told, until

from vantage_orchestration.prefect.assets import results_asset
from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = {
    f"{each['entrypoint'].rpartition(':')[2]}/{each['name']}": each
    for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}

pytestmark = pytest.mark.slow


def example(entrypoint: str) -> Any:
    """Load a flow as a worker does."""
    return load_flow_from_entrypoint(f"{ROOT}/flows/{entrypoint}", use_placeholder_flow=False)


def cli(server: Any, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=server.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def deployed(_server: Any) -> Iterator[dict[str, DeploymentResponse]]:
    """What `prefect deploy --all` makes of prefect.yaml, by function and name."""
    from prefect.client.schemas.actions import WorkPoolCreate

    with contextlib.ExitStack() as stack:
        stack.enter_context(
            settings.temporary_settings({settings.PREFECT_API_URL: _server.api_url})
        )
        client = stack.enter_context(get_client(sync_client=True))
        client.create_work_pool(WorkPoolCreate(name="default", type="process"))
        cli(_server, "deploy", "--all")
        found = {
            f"{each.entrypoint.rpartition(':')[2]}/{each.name}": each
            for each in client.read_deployments()
            if each.work_pool_name == "default"
        }
    # The settings are each test's own.
    yield found
    with (
        settings.temporary_settings({settings.PREFECT_API_URL: _server.api_url}),
        get_client(sync_client=True) as client,
    ):
        for each in found.values():
            client.delete_deployment(each.id)
        client.delete_work_pool("default")


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A sandbox whose transactions the Prefect server does not know from another test."""
    with SandboxServer(seed=secrets.randbelow(2**31), processing_polls=0) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    make_invoice(folder / "a.pdf", "INV-1")
    make_invoice(folder / "b.pdf", "INV-2")
    return folder


def test_files_that_serve_their_flows_do_so(prefect_server: Any, tmp_path: Path) -> None:
    names = {
        "abbyy-vantage-process-documents/review",
        "abbyy-vantage-resume-reviewed/every-five-minutes",
        "abbyy-vantage-inbox/every-minute",
    }
    # Before anything is deployed under the same names.
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(get_client(sync_client=True))
        for name in ("review", "inbox"):
            log = stack.enter_context((tmp_path / name).open("wb"))
            process = subprocess.Popen(
                [sys.executable, f"flows/abbyy_vantage_{name}.py"],
                env=prefect_server.environment(),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)

        def served() -> list[DeploymentResponse]:
            found = [each for each in client.read_deployments() if each.work_pool_name is None]
            flows = {each.id: each.name for each in client.read_flows()}
            return [each for each in found if f"{flows[each.flow_id]}/{each.name}" in names]

        found = until(lambda: found if len(found := served()) == len(names) else None)
        for each in found:
            assert bool(each.schedules) == each.name.startswith("every")
            client.delete_deployment(each.id)


def test_each_flow_of_the_file_is_deployed(deployed: dict[str, DeploymentResponse]) -> None:
    assert set(deployed) == set(DEPLOYMENTS)
    files = {
        entrypoint.rpartition(":")[0]
        for entrypoint in (each["entrypoint"] for each in DEPLOYMENTS.values())
    }
    assert files == {f"flows/{path.name}" for path in (ROOT / "flows").glob("*.py")}
    for name, each in deployed.items():
        assert bool(each.schedules) == ("schedules" in DEPLOYMENTS[name])
        assert "properties" in each.parameter_openapi_schema
        if each.schedules:
            assert each.global_concurrency_limit.limit == 1
            assert each.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    assert deployed["process_documents/review"].parameters == {"on_review": "suspend"}


def test_what_came_by_mail_is_fetched(
    deployed: dict[str, DeploymentResponse],
    prefect_server: Any,
    save_block: Callable[..., str],
    sandbox: SandboxServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = sandbox.control.receive_many(2, "Invoice")
    monkeypatch.chdir(tmp_path)
    fetch = example("abbyy_vantage_inbox.py:fetch_inbox")
    parameters = {"credentials": save_block()}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(
            deployed["fetch_inbox/every-minute"].id, parameters=parameters
        )
        result = run_flow(fetch, flow_run=run, parameters=run.parameters)
        assert result["transactions"] == 2
        for name in ids:
            manifest = TransactionManifest.load(Location.of(tmp_path / "inbox" / name))
            assert manifest.transaction_id == name
        assert fetch(**parameters)["manifest"] is None
        client.delete_flow_run(run.id)  # No worker of another test shall find it.


def test_worker_is_free_while_a_person_reviews(
    deployed: dict[str, DeploymentResponse],
    prefect_server: Any,
    save_block: Callable[..., str],
    sandbox: SandboxServer,
    folder: Path,
    tmp_path: Path,
) -> None:
    make_invoice(folder / "c.pdf", "INV-3", extra_lines=["Manual review required"])
    output = tmp_path / "out"
    parameters = {
        "inputs": f"{folder}/*.pdf",
        "output_path": str(output),
        "skill": "Invoice",
        "credentials": save_block(),
        "poke_interval": 1.0,
    }
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(
            deployed["process_documents/review"].id, parameters=parameters
        )

        def work() -> str:
            # It ends when all that was scheduled has ended, or given it back.
            log = cli(prefect_server, "worker", "start", "--pool", "default", "--run-once")
            state = client.read_flow_run(run.id).state
            return state.name if not state.is_failed() else log

        assert work() == "Suspended"
        (waiting,) = (
            each["id"] for each in sandbox.control.transactions() if each["status"] == "Processing"
        )
        assert Manifest.load(Location.of(output)).counts["transactions"] == 2
        resume = example("abbyy_vantage_review.py:resume_reviewed")
        assert resume() == 0
        sandbox.control.finish_review(waiting)
        assert resume() == 1
        assert work() == "Completed"
    manifest = Manifest.load(Location.of(output))
    assert (manifest.counts["transactions"], manifest.counts["pending"]) == (3, 0)
    assert len(sandbox.control.transactions()) == 3
    assert artifacts(f"abbyy-vantage-review-{waiting}") == []
    key = results_asset(output).key
    until(
        lambda: any(
            each.payload["transactions"] == 3
            for each in events_named("prefect.asset.materialization.succeeded", key)
        )
    )


def test_a_folder_becomes_results_a_table_and_an_asset(
    prefect_server: Any, save_block: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    batch = example("abbyy_vantage_batch.py:abbyy_vantage_batch")
    result = batch(str(folder), "Invoice", str(output), credentials=save_block())
    assert result["documents"] == 2
    run = Path(result["manifest"]).parent
    assert run.parent == output
    manifest = Manifest.load(Location.of(run))
    ids = [each.transaction_id for each in manifest.transactions]
    table = next(
        each for each in artifacts("abbyy-vantage-documents") if str(each.flow_run_id) == run.name
    )
    assert [row["Transaction"] for row in json.loads(table.data)] == [f"`{each}`" for each in ids]
    key = results_asset(str(output)).key
    (landed,) = until(lambda: events_named("prefect.asset.materialization.succeeded", key))
    assert landed.payload["documents"] == 2
    names = until(lambda: found if len(found := told(*ids)) >= 4 else None)
    assert sorted(each.event.rpartition(".")[2] for each in names) == [
        *["processed"] * 2,
        *["submitted"] * 2,
    ]


def test_files_are_mapped_over(
    prefect_server: Any, save_block: Callable[..., str], folder: Path
) -> None:
    mapped = example("abbyy_vantage_mapped.py:abbyy_vantage_mapped")
    files = [str(folder / name) for name in ("b.pdf", "a.pdf")]
    rows = mapped(files, "Invoice", credentials=save_block())
    assert [row["file"] for row in rows] == files
