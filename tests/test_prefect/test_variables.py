# SPDX-License-Identifier: Apache-2.0
"""The token store in Prefect Variables, on a real Prefect server and between processes."""

from __future__ import annotations

import argparse
import base64
import contextlib
import contextvars
import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from leaks import database_bytes, find_leaks
from prefect import flow, settings, task
from prefect.client.orchestration import get_client
from prefect.context import get_settings_context

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import (
    ConfigurationError,
    CredentialsRejected,
    StateUnavailable,
)
from vantage_orchestration.prefect import VantageCredentials, variables
from vantage_orchestration.prefect.credentials import load_config
from vantage_orchestration.prefect.variables import PrefectVariables
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import FileStore
from vantage_orchestration.token import command, source
from vantage_orchestration.token.access import SYSTEM_CLOCK, AccessToken, Clock
from vantage_orchestration.token.cache import TokenCache

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

NAME = "0123456789abcdef" * 4

#: Reports that it has loaded its block, waits for a line, and gets a token.
WORKER = """
    import json, sys
    from vantage_orchestration import errors
    from vantage_orchestration.prefect import VantageCredentials

    block = VantageCredentials.load(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(json.dumps(block.get_token().reveal()[-24:]))
    except errors.VantageError as error:
        print(json.dumps(type(error).__name__))
"""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget the process's token sources now, and whenever it is called: as another process."""

    def forget() -> None:
        monkeypatch.setattr(source, "registry", {})

    forget()
    return forget


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A sandbox with secrets of its own: other tests leave some on the server on purpose."""
    secrets = {
        "password": "password of these tests",
        "client_secret": "client secret of these tests",
    }
    with SandboxServer(seed=4712, **secrets) as server:
        yield server


@pytest.fixture
def store() -> PrefectVariables:
    """The store of the real server."""
    return PrefectVariables.here()


def logins(sandbox: SandboxServer) -> int:
    return sandbox.control.count(path_regex="connect/token")


def stored() -> dict[str, Any]:
    """Return the Variables of this store: name to value."""
    with get_client(sync_client=True) as client:
        found = client.read_variables()
    return {one.name: one.value for one in found if one.name.startswith(variables.PREFIX)}


def overwrite(name: str, value: Any) -> None:
    with get_client(sync_client=True) as client:
        client.request("PATCH", f"/variables/name/{name}", json={"value": value})


@pytest.fixture(autouse=True)
def no_variables(prefect_server: Any) -> None:
    for name in stored():
        with get_client(sync_client=True) as client:
            client.delete_variable_by_name(name)


@pytest.fixture
def run_workers(prefect_server: Any) -> Iterator[Callable[..., list[str]]]:
    """Let processes get a token at the same moment; returns what each of them says."""
    with contextlib.ExitStack() as stack:

        def run(name: str, count: int = 2) -> list[str]:
            workers = []
            for _ in range(count):
                worker = subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(WORKER), name],
                    env=prefect_server.environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.enter_context(worker)
                stack.callback(worker.kill)
                workers.append(worker)
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "ready\n"
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
            return [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]

        yield run


# ------------------------------------------------------------ the store alone


def test_entry_comes_back_is_overwritten_and_forgotten(store: PrefectVariables) -> None:
    assert store.read(NAME) is None
    store.delete(NAME)
    store.write(NAME, b"\x00first\xff")
    assert store.read(NAME) == b"\x00first\xff"
    assert stored() == {f"abbyy_vantage_token_{NAME}": base64.b64encode(b"\x00first\xff").decode()}
    store.write(NAME, b"second")
    assert store.read(NAME) == b"second"
    assert len(stored()) == 1
    store.delete(NAME)
    assert store.read(NAME) is None
    assert stored() == {}


def test_longest_entry_is_what_the_server_takes(
    store: PrefectVariables, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = os.urandom((5000 - 2) // 4 * 3)
    store.write(NAME, longest)
    assert store.read(NAME) == longest
    longer = longest + b"!"
    with pytest.raises(StateUnavailable, match=r"takes 5002 characters, and Prefect allows 5000"):
        store.write(NAME, longer)
    # Prefect does refuse it, and then its words, which quote the value, are not repeated.
    monkeypatch.setattr(variables, "LONGEST_VALUE", 10**6)
    with pytest.raises(StateUnavailable) as caught:
        store.write(NAME, longer)
    assert base64.b64encode(longer[:30]).decode() not in str(caught.value)
    assert store.read(NAME) == longest


def test_token_of_3500_characters_fits_and_a_longer_one_is_said_once(
    store: PrefectVariables, account: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    credentials = VantageConfig.from_fields(account).credentials

    def cache() -> TokenCache:
        return TokenCache(store, credentials, SYSTEM_CLOCK)

    def token(length: int) -> AccessToken:
        text = base64.urlsafe_b64encode(os.urandom(length))[:length].decode()
        begun, begun_wall = SYSTEM_CLOCK.steady(), SYSTEM_CLOCK.wall()
        return AccessToken(
            Secret(text), lifetime=86400.0, margin=60.0, begun=begun, begun_wall=begun_wall
        )

    fits = token(3500)
    cache().save(fits)
    found = cache().load(0.0)
    assert isinstance(found, AccessToken)
    assert found.reveal() == fits.reveal()
    assert _warnings(caplog) == []
    too_long = cache()
    for _ in range(2):
        too_long.save(token(4000))
    (warning,) = _warnings(caplog)
    assert "and Prefect allows 5000" in warning


@pytest.mark.parametrize("value", ["", "no base64!", "ä", 7, {"token": 1}, None, ["x"]])
def test_foreign_value_counts_as_none_or_as_another_s(store: PrefectVariables, value: Any) -> None:
    store.write(NAME, b"mine")
    overwrite(variables.PREFIX + NAME, value)
    assert not store.read(NAME)
    store.write(NAME, b"mine again")
    assert store.read(NAME) == b"mine again"


def test_two_that_create_it_at_once_both_succeed(
    store: PrefectVariables, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = variables.update, []

    def update(client: Any, name: str, text: str) -> bool:
        if not calls:  # The other one comes between the look and the creation.
            calls.append(1)
            PrefectVariables.here().write(NAME, b"the other's")
            return False
        return real(client, name, text)

    monkeypatch.setattr(variables, "update", update)
    store.write(NAME, b"mine")
    assert store.read(NAME) == b"mine"


def test_one_of_several_hosts_creates_a_value(store: PrefectVariables) -> None:
    begin = threading.Barrier(4)

    def create(number: int) -> bool:
        begin.wait(30)
        return PrefectVariables.here().create(NAME, f"host {number}".encode())

    with ThreadPoolExecutor(4) as pool:
        context = contextvars.copy_context
        made = [pool.submit(context().run, create, number) for number in range(4)]
        won = [number for number, each in enumerate(made) if each.result()]
    assert len(won) == 1
    assert store.read(NAME) == f"host {won[0]}".encode()
    store.delete(NAME)
    assert store.create(NAME, b"again")


# ------------------------------------------------------------ which server is meant


def test_stores_of_one_server_are_equal_and_show_no_user() -> None:
    assert repr(PrefectVariables.here()) == repr(PrefectVariables.here())
    here = PrefectVariables.here()
    changes = {
        settings.PREFECT_API_URL: "http://someone:made-up-password@127.0.0.1:9/api",
        settings.PREFECT_API_KEY: "made-up-api-key",
    }
    with settings.temporary_settings(changes):
        other = PrefectVariables.here()
    assert repr(other) != repr(here)
    assert "127.0.0.1:9/api" in repr(other)
    assert find_leaks(["made-up-password", "made-up-api-key"], {"repr": repr(other)}) == []


def test_a_thread_without_settings_uses_the_server_of_the_caller(
    store: PrefectVariables, prefect_server: Any
) -> None:
    outcome: list[Any] = []

    def work() -> None:  # A new thread has an empty context: no server is set there.
        outcome.append(settings.PREFECT_API_URL.value())
        store.write(NAME, b"from the thread")
        outcome.append(settings.PREFECT_API_URL.value())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(outcome) == 2
    assert prefect_server.api_url not in outcome
    assert list(stored()) == [variables.PREFIX + NAME]


def test_a_flow_s_task_uses_it(
    save_block: Callable[..., str], sandbox: SandboxServer, fresh_process: Callable[[], None]
) -> None:
    name = save_block(store="orchestrator")

    @task
    def skills() -> int:
        with VantageCredentials.load(name).get_client() as client:
            return len(client.list_skills())

    @flow
    def ask() -> int:
        first = skills()
        fresh_process()
        assert skills() == first
        return first

    assert ask() > 0
    assert len(stored()) == 1
    assert logins(sandbox) == 1


# ------------------------------------------------------------ two processes


def test_two_processes_on_two_hosts_or_one_log_in_once_and_nothing_leaks(
    save_block: Callable[..., str],
    run_workers: Callable[..., list[str]],
    account: dict[str, Any],
    sandbox: SandboxServer,
    prefect_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name = save_block(store="orchestrator")
    first, second = run_workers(name)
    assert first == second
    assert logins(sandbox) == 1
    # Another cache folder, as on another host: what is shared is the Variable alone.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-host"))
    assert run_workers(name, 1) == [first]
    assert logins(sandbox) == 1

    ((variable, sealed),) = stored().items()
    tokens = [text for text in sandbox.control.issued_secrets() if text not in account.values()]
    assert any(text.endswith(first) for text in tokens)
    secrets = [*tokens, account["password"], account["client_secret"]]
    database = prefect_server.database
    places = {path.name: path for path in database.parent.glob(f"{database.name}*")}
    assert find_leaks(secrets, places) == []
    assert find_leaks([variable], places)  # The search does find what is there.
    # Prefect itself notes the plain fields of a block, among them the user's name, in an event when
    # a block is saved or loaded. The rows of the Variable must not hold even that.
    rows = [row for row in database_bytes(database).splitlines() if variable.encode() in row]
    assert rows
    parts = {"rows": b"\n".join(rows), "value": base64.b64decode(sealed)}
    assert find_leaks([*secrets, account["username"], account["client_id"]], parts) == []


@pytest.mark.parametrize("changes", [{}, {"password": "a wrong password"}])
def test_hosts_that_start_at_the_same_moment_make_one_request(
    account: dict[str, Any], sandbox: SandboxServer, tmp_path: Path, changes: dict[str, str]
) -> None:
    config = VantageConfig.from_fields({**account, **changes, "store": "orchestrator"})
    together, found = threading.Barrier(8), []

    def host(number: int) -> None:
        locks = FileStore(tmp_path / str(number))
        tokens = source.TokenSource(config, store=stores[number], locks=locks)
        together.wait()
        try:
            found.append(tokens.get().reveal())
        except CredentialsRejected as error:
            found.append(type(error).__name__)

    # Made here: a plain thread does not know which server is meant.
    stores = [PrefectVariables.here() for _ in range(8)]
    threads = [threading.Thread(target=host, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert logins(sandbox) == 1
    assert len(stored()) == 1


def test_wrong_password_in_two_processes_makes_one_request(
    save_block: Callable[..., str],
    run_workers: Callable[..., list[str]],
    sandbox: SandboxServer,
) -> None:
    name = save_block(store="orchestrator", password="a wrong password")
    assert run_workers(name) == ["CredentialsRejected"] * 2
    assert run_workers(name, 1) == ["CredentialsRejected"]
    assert logins(sandbox) == 1
    assert len(stored()) == 1


def test_broken_value_is_replaced(
    account: dict[str, Any], sandbox: SandboxServer, fresh_process: Callable[[], None]
) -> None:
    block = VantageCredentials(**account, store="orchestrator")
    first = block.get_token().reveal()
    ((variable, sealed),) = stored().items()
    for count, value in enumerate(["broken", sealed[:-8] + "AAAAAAA=", {"a": 1}], start=2):
        overwrite(variable, value)
        fresh_process()
        second = block.get_token().reveal()
        assert second != first
        assert logins(sandbox) == count
        fresh_process()
        assert block.get_token().reveal() == second
        assert logins(sandbox) == count


# ------------------------------------------------------------ a server in trouble


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("vantage_orchestration")
    ]


def test_unreachable_server_costs_one_warning(
    account: dict[str, Any], sandbox: SandboxServer, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Not listening: a connection is refused.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        with settings.temporary_settings({settings.PREFECT_API_URL: url}):
            block = VantageCredentials(**account, store="orchestrator")
            token = block.get_token()
            sandbox.control.revoke_tokens()
            with block.get_client() as client:
                assert client.list_skills()
    assert token.reveal() in sandbox.control.issued_secrets()
    assert logins(sandbox) == 2
    assert _warnings(caplog) == [
        "The token of ABBYY Vantage is kept in this process alone, since its Prefect Variable"
        " store can't be used: the Prefect API did not answer (ConnectError)"
    ]


class _Answer(BaseHTTPRequestHandler):
    """Answers everything as its server says: the statuses in turn, the last one from then on."""

    def _answer(self) -> None:
        statuses = self.server.statuses
        status = statuses[min(len(self.server.asked), len(statuses) - 1)]
        self.server.asked.append(self.path)
        if not status:  # The connection breaks instead.
            self.close_connection = True
            return
        self.send_response(status)
        for header, text in self.server.headers.items():
            self.send_header(header, text)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def troubled() -> Iterator[Callable[..., Any]]:
    """Start a server that answers nothing but statuses."""
    with contextlib.ExitStack() as stack:

        def start(*statuses: int, **headers: str) -> Any:
            server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
            server.statuses, server.asked = statuses, []
            server.headers = {name.replace("_", "-"): text for name, text in headers.items()}
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds to wait before another try, instead of waiting."""
    waited: list[float] = []
    policy = dataclasses.replace(variables.RETRIES, sleep=waited.append)
    monkeypatch.setattr(variables, "RETRIES", policy)
    return waited


ACTS: dict[str, Callable[[PrefectVariables], Any]] = {
    "read": lambda store: store.read(NAME),
    "write": lambda store: store.write(NAME, b"entry"),
    "create": lambda store: store.create(NAME, b"entry"),
    "delete": lambda store: store.delete(NAME),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize(
    ("status", "headers", "requests"),
    [
        # Prefect's client asks again without end at the first, and in an hour at the second.
        (503, {"Prefect_Maintenance": "true"}, 4),
        (429, {"Retry_After": "3600"}, 1),
        (401, {}, 1),
        (501, {}, 1),
        (500, {}, 4),
        (502, {}, 4),
        (408, {}, 4),
    ],
)
def test_server_that_refuses_is_asked_a_few_times(
    troubled: Callable[..., Any],
    waits: list[float],
    act: Callable[[PrefectVariables], Any],
    status: int,
    headers: dict[str, str],
    requests: int,
) -> None:
    server = troubled(status, **headers)
    url = f"http://127.0.0.1:{server.server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        store = PrefectVariables(get_settings_context())
    with pytest.raises(StateUnavailable, match=rf"the Prefect API answered {status}\.$"):
        act(store)
    assert len(server.asked) == requests
    assert len(waits) == requests - 1
    assert sum(waits) < 5


def test_connection_that_breaks_is_not_opened_again_by_prefects_client(
    troubled: Callable[..., Any],
) -> None:
    server = troubled(0)
    url = f"http://127.0.0.1:{server.server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        store = PrefectVariables(get_settings_context())
    with pytest.raises(StateUnavailable, match="did not answer"):
        store.read(NAME)
    assert len(server.asked) == 1


def test_server_whose_database_is_locked_is_asked_again(
    troubled: Callable[..., Any], waits: list[float]
) -> None:
    server = troubled(503, 503, 404, Retry_After="1")
    url = f"http://127.0.0.1:{server.server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        store = PrefectVariables(get_settings_context())
    assert store.read(NAME) is None
    assert len(server.asked) == 3
    assert waits == [1.0, 1.0]


def test_server_has_as_long_as_its_database_may_take(
    troubled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = troubled(404)
    given: list[dict[str, float]] = []
    send = httpx.Client.send

    def sent(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        given.append(request.extensions["timeout"])
        return send(self, request, **options)

    monkeypatch.setattr(httpx.Client, "send", sent)
    url = f"http://127.0.0.1:{server.server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        assert PrefectVariables(get_settings_context()).read(NAME) is None
    # The driver of SQLite waits for 60 seconds. A host that does not would log in as well.
    (timeout,) = given
    assert timeout["read"] > 60
    # One that is not there must not hold up a login for as long.
    assert timeout["connect"] < 10
    # One that took so long is repeated.
    assert timeout["read"] < variables.RETRIES.budget


def test_silent_server_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    clock = Clock(steady=lambda: now[0], wall=lambda: now[0])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        with settings.temporary_settings({settings.PREFECT_API_URL: url}):
            store = PrefectVariables(get_settings_context(), clock=clock)
        with pytest.raises(StateUnavailable, match="ConnectError"):
            store.read(NAME)
        now[0] += 29.0
        with pytest.raises(StateUnavailable, match="a moment ago"):
            store.write(NAME, b"entry")
        now[0] += 2.0
        with pytest.raises(StateUnavailable, match="ConnectError"):
            store.delete(NAME)


# ------------------------------------------------------------ the entry point


def test_entry_point_reads_the_block_and_its_store(
    save_block: Callable[..., str], account: dict[str, Any]
) -> None:
    name = save_block(store="orchestrator")
    VantageCredentials.load(name).get_token()
    config, store = load_config(name)
    assert config.credentials.username == account["username"]
    assert config.store == "orchestrator"
    ((variable, _),) = stored().items()
    assert store.read(variable.removeprefix(variables.PREFIX))


def test_command_shows_and_clears_the_variable(
    save_block: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = save_block(store="orchestrator")
    token = VantageCredentials.load(name).get_token().reveal()

    def say(action: str) -> str:
        assert command.run(argparse.Namespace(action=action, of=f"prefect:{name}")) == 0
        return capsys.readouterr().out

    shown = say("status")
    assert "(Prefect Variable store): a token, valid until" in shown
    assert find_leaks([token], {"output": shown}) == []
    say("forget")
    assert stored() == {}
    assert say("status").endswith("(Prefect Variable store): nothing\n")


def test_command_says_if_it_could_clear_nothing(
    save_block: Callable[..., str], troubled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save_block(store="orchestrator")
    VantageCredentials.load(name).get_token()
    config, _ = load_config(name)
    url = f"http://127.0.0.1:{troubled(403).server_port}/api"
    with settings.temporary_settings({settings.PREFECT_API_URL: url}):
        refusing = PrefectVariables(get_settings_context())
    monkeypatch.setattr(command, "load_credential", lambda _: (config, refusing))
    with pytest.raises(StateUnavailable, match="Prefect Variable store of tokens did not remove"):
        command.run(argparse.Namespace(action="forget", of=f"prefect:{name}"))
    assert len(stored()) == 1


def test_entry_point_says_that_there_is_no_such_block() -> None:
    with pytest.raises(ConfigurationError, match="'no-such-block' could not be read"):
        load_config("no-such-block")


def test_refusal_is_the_same_in_a_later_process(
    account: dict[str, Any], sandbox: SandboxServer, fresh_process: Callable[[], None]
) -> None:
    block = VantageCredentials(**{**account, "password": "a wrong one"}, store="orchestrator")
    for _ in range(2):
        with pytest.raises(CredentialsRejected):
            block.get_token()
        fresh_process()
    assert logins(sandbox) == 1
