# SPDX-License-Identifier: Apache-2.0
"""The block as a document on a real Prefect server."""

from __future__ import annotations

import asyncio
import http.server
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import pytest
from leaks import find_leaks, find_leaks_in_frames
from prefect import flow, settings, task
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.prefect import VantageCredentials, credentials, events
from vantage_orchestration.prefect.credentials import client_of, load_credentials
from vantage_orchestration.sandbox import SandboxServer

SLUG = "abbyy-vantage-credentials"
#: Another login of the same tenant.
_SERVICE = {
    "client_id": "service-client",
    "username": "",
    "password": "",
    "grant_type": "client_credentials",
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


class VantageJob(Block):
    """A block that holds another one."""

    _block_type_slug = "abbyy-vantage-test-job"
    credentials: VantageCredentials


def _get(path: str, **options: Any) -> Any:
    with get_client(sync_client=True) as client:
        reply = client.request(options.pop("method", "GET"), path, **options)
        reply.raise_for_status()
        return reply.json()


def _edit(name: str, **values: Any) -> None:
    """Change a block's document as the form of the user interface does."""
    document = _get(f"/block_types/slug/{SLUG}/block_documents/name/{name}")
    with get_client(sync_client=True) as client:
        client.request(
            "PATCH",
            f"/block_documents/{document['id']}",
            json={"data": values, "merge_existing_data": True},
        ).raise_for_status()


def _as_service(name: str) -> None:
    _edit(name, **_SERVICE)


def test_type_is_there_without_any_code_of_the_user(prefect_server: Any) -> None:
    # The server found it by the entry point when it started.
    shown = prefect_server.type_at_start
    assert _get(f"/block_types/slug/{SLUG}")["id"] == shown["id"]
    assert shown["name"] == "ABBYY Vantage Credentials"
    assert "VantageCredentials.load" in shown["code_example"]
    schemas = _get(
        "/block_schemas/filter",
        method="POST",
        json={"block_schemas": {"block_type_id": {"any_": [shown["id"]]}}},
    )
    fields = schemas[0]["fields"]
    assert fields["properties"]["region"]["enum"] == ["us", "eu", "au", "custom"]
    assert fields["secret_fields"] == ["password", "client_secret", "proxy"]
    assert fields["properties"]["password"]["format"] == "password"


def test_round_trip(account: dict[str, Any]) -> None:
    values = {
        **account,
        "password": "späß \"ei'n\\\\%&+=日本",
        "read_timeout": 7.5,
        "verify": False,
    }
    VantageCredentials(**values).save("round-trip")

    for block in (
        VantageCredentials.load("round-trip"),
        asyncio.run(VantageCredentials.aload("round-trip")),
        Block.load(f"{SLUG}/round-trip"),
    ):
        assert isinstance(block, VantageCredentials)
        assert block.password.get_secret_value() == values["password"]
        assert (block.read_timeout, block.verify, block.region) == (7.5, False, "custom")


def test_api_and_copies_from_it_show_no_secret(
    save_block: Callable[..., str], account: dict[str, Any]
) -> None:
    name = save_block(proxy="http://someone:proxy-password@127.0.0.1:9")
    path = f"/block_types/slug/{SLUG}/block_documents/name/{name}"
    document = _get(path)

    secrets = [account["password"], account["client_secret"], "proxy-password"]
    assert find_leaks(secrets, {"reply": repr(document)}) == []
    assert find_leaks(secrets, {"reply": repr(_get(path, params={"include_secrets": True}))})
    copied = {key: value for key, value in document["data"].items() if key in account}
    with pytest.raises(ConfigurationError, match="masked display"):
        VantageCredentials.model_validate(copied).get_client()


def test_incomplete_document_of_the_form_loads_and_is_refused_when_used() -> None:
    kind = _get(f"/block_types/slug/{SLUG}")
    with get_client(sync_client=True) as client:
        schema = client.get_most_recent_block_schema_for_block_type(kind["id"])
        client.request(
            "POST",
            "/block_documents/",
            json={
                "name": "half-filled",
                "data": {"region": "eu"},
                "block_type_id": kind["id"],
                "block_schema_id": str(schema.id),
            },
        ).raise_for_status()
    block = VantageCredentials.load("half-filled")
    with pytest.raises(ConfigurationError, match="has no username, password, client_id"):
        block.get_client()


def _in_this_thread(client: VantageClient) -> None:
    client.list_skills()


def _in_a_thread_of_the_user(client: VantageClient) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            client.list_skills()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def _in_an_event_loop(client: VantageClient) -> None:
    async def work() -> None:
        client.list_skills()
        assert (await client.aget_token()).reveal()

    asyncio.run(work())


def _in_a_task(client: VantageClient) -> None:
    @task
    def ask() -> None:
        client.list_skills()

    @flow
    def asking() -> None:
        ask.submit().result()

    asking()


def _in_an_async_flow(client: VantageClient) -> None:
    @task
    async def ask() -> None:
        client.list_skills()

    @flow
    async def asking() -> None:
        await ask()

    asyncio.run(asking())


@pytest.mark.parametrize(
    "use",
    [
        _in_this_thread,
        _in_a_thread_of_the_user,
        _in_an_event_loop,
        _in_a_task,
        _in_an_async_flow,
    ],
)
def test_running_client_uses_a_changed_block(
    use: Callable[[VantageClient], None], save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    name = save_block()
    with VantageCredentials.load(name).get_client() as client:
        client.list_skills()
        assert client.config.credentials.client_id == "example-client"
        _as_service(name)
        sandbox.control.revoke_tokens()

        use(client)
        assert client.config.credentials.client_id == "service-client"
    assert sandbox.control.count("POST", "connect/token") == 2


@pytest.mark.parametrize("how", ["assigned", "copied"])
def test_block_that_code_has_changed_is_not_replaced_by_the_stored_one(
    how: str, save_block: Callable[..., str], account: dict[str, Any], sandbox: SandboxServer
) -> None:
    name = save_block(**_SERVICE)
    own = {each: account[each] for each in ("client_id", "username", "password")}
    own["grant_type"] = "password"
    block = VantageCredentials.load(name)
    if how == "copied":
        block = block.model_copy(update=own)
    else:
        for field, value in own.items():
            setattr(block, field, value)
    assert block.saved_name == cloudpickle.loads(cloudpickle.dumps(block)).saved_name == ""
    with block.get_client() as client:
        client.list_skills()
        sandbox.control.revoke_tokens()
        client.list_skills()
        # The stored one would be another user, who sees other transactions.
        assert client.config.credentials.client_id == account["client_id"]
    block.save(overwrite=True)
    assert block.saved_name == name
    assert VantageCredentials.load(name).client_id == account["client_id"]


def test_client_that_outlives_its_run_reads_the_block_again_too(
    save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    name = save_block()
    made: list[VantageClient] = []

    @flow
    def making() -> None:
        made.append(VantageCredentials.load(name).get_client())
        made[0].list_skills()

    making()
    _as_service(name)
    sandbox.control.revoke_tokens()
    with made[0] as client:
        client.list_skills()
        assert client.config.credentials.client_id == "service-client"


def test_block_made_and_saved_here_is_read_again_too(
    account: dict[str, Any], sandbox: SandboxServer
) -> None:
    block = VantageCredentials(**account)
    block.save("made-here")
    with block.get_client() as client:
        client.list_skills()
        _as_service("made-here")
        sandbox.control.revoke_tokens()
        client.list_skills()
        assert client.config.credentials.client_id == "service-client"


def test_block_that_was_replaced_under_its_name_is_found(
    save_block: Callable[..., str], account: dict[str, Any], sandbox: SandboxServer
) -> None:
    name = save_block()
    with VantageCredentials.load(name).get_client() as client:
        client.list_skills()
        VantageCredentials.delete(name)
        VantageCredentials(**{**account, **_SERVICE}).save(name)
        sandbox.control.revoke_tokens()
        client.list_skills()
        assert client.config.credentials.client_id == "service-client"


def test_deleted_block_is_not_used_on(
    save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    name = save_block()
    with VantageCredentials.load(name).get_client() as client:
        client.list_skills()
        VantageCredentials.delete(name)
        sandbox.control.revoke_tokens()
        with pytest.raises(ConfigurationError, match="was deleted"):
            client.list_skills()


def test_earlier_values_serve_while_prefect_is_away(
    save_block: Callable[..., str],
    sandbox: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = VantageCredentials.load(save_block())
    away = {
        settings.PREFECT_API_URL: "http://127.0.0.1:1/api",
        settings.PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with settings.temporary_settings(away):
        client = block.get_client()
    with client:
        client.list_skills()
        sandbox.control.revoke_tokens()
        assert client.list_skills()
    assert "could not be read again (ConnectError)" in caplog.text


class _Broken(http.server.BaseHTTPRequestHandler):
    """Sends half of a block's document."""

    def do_GET(self) -> None:
        data = b'{"data": {"password": "made-up-password", "client'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        pass


def test_an_answer_that_breaks_off_is_retried_and_shows_nothing() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        with (
            settings.temporary_settings({settings.PREFECT_API_URL: url}),
            pytest.raises(httpx.HTTPError, match="'abbyy-vantage' is not JSON") as caught,
        ):
            load_credentials("abbyy-vantage")
        server.shutdown()
    assert find_leaks(["made-up-password"], {"error": repr(vars(caught.value))}) == []
    assert find_leaks_in_frames(["made-up-password"], caught.value) == []


def test_nested_block_is_a_reference(
    save_block: Callable[..., str], sandbox: SandboxServer
) -> None:
    name = save_block()
    VantageJob(credentials=VantageCredentials.load(name)).save("job", overwrite=True)
    documents = _get(f"/block_types/slug/{VantageJob.get_block_type_slug()}/block_documents")
    assert list(documents[0]["block_document_references"]) == ["credentials"]

    with VantageJob.load("job").credentials.get_client() as client:
        client.list_skills()
        _as_service(name)
        sandbox.control.revoke_tokens()
        client.list_skills()
        assert client.config.credentials.client_id == "service-client"
    assert VantageJob.load("job").credentials.client_id == "service-client"


def test_token_that_a_task_returns_is_not_stored(
    save_block: Callable[..., str],
    sandbox: SandboxServer,
    prefect_server: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = save_block()

    @task(persist_result=True)
    def careless() -> Any:
        return VantageCredentials.load(name).get_token()

    @task(persist_result=True)
    def control() -> str:
        return "text that is stored"

    @flow
    def returning() -> None:
        careless()
        control()

    returning()
    assert "Failed to serialize object of type 'AccessToken'" in caplog.text
    tokens = sandbox.control.issued_secrets()
    places = {"results": tmp_path, "log": caplog.text, "server": prefect_server.database.parent}
    assert len(tokens) == 1
    assert find_leaks(tokens, places) == []
    assert find_leaks(["text that is stored"], {"results": tmp_path})


def test_tasks_of_a_run_that_overlap_share_a_client(
    save_block: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, found = save_block(), list[tuple[VantageClient, VantageClient]]()

    @task
    def work() -> None:
        with client_of(name) as first:
            with client_of(name) as second:
                found.append((first, second))
            first.list_skills()
            with pytest.raises(ConfigurationError), client_of("nobody"):
                pass

    @flow
    def running() -> None:
        work()
        work()
        monkeypatch.setattr(credentials, "_KEPT", -1.0)  # As a minute later.
        work()

    running()
    assert [one is other for one, other in found] == [True, True, False]
    # Nothing of an earlier task or run is left.
    assert len({id(one) for pair in found for one in pair}) == 4
    assert credentials.shared == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_client_and_no_report_of_its_parent(
    save_block: Callable[..., str],
) -> None:
    """A thread may be making the one or sending the other, and would never end in the child."""
    name = save_block()

    @flow
    def running() -> int:
        with client_of(name):
            events.deliver([events.TransactionEvent("submitted", "t", "https://a", "Processing")])
            assert credentials.shared
            assert events.outboxes
            child = os.fork()
            if child == 0:
                os._exit(1 if credentials.shared else 2 if events.outboxes else 7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert running() == 7


def test_missing_block_is_prefects_own_error() -> None:
    with pytest.raises(ValueError, match="Unable to find block document named no-such"):
        VantageCredentials.load("no-such")
    with get_client(sync_client=True) as client, pytest.raises(ObjectNotFound):
        client.read_block_document_by_name("no-such", SLUG)
