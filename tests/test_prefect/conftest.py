# SPDX-License-Identifier: Apache-2.0
"""A real Prefect server for these tests, started when the first test asks for it.

Prefect keeps its settings in context variables and changes the root logger. The server is
therefore started in a context of its own, and each test gets the settings for itself alone, so that
tests of other packages in the same process see nothing of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vantage_orchestration.sandbox import SandboxServer

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # On a busy machine its sqlite would give up, and answer 503.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
}

# The folders of tests lie anywhere, and each test has a block of its own.
os.environ |= {f"ABBYY_VANTAGE_FLOWS_{name}": "/" for name in ("INPUTS", "OUTPUTS")}
os.environ["ABBYY_VANTAGE_FLOWS_BLOCKS"] = "*"


@dataclass(frozen=True)
class PrefectServer:
    """Where the server and its files are.

    Attributes:
        api_url: Address of its API.
        home: PREFECT_HOME of server and tests.
        database: File of its database.
        type_at_start: What it knew about our block type before anybody used that.
    """

    api_url: str
    home: Path
    database: Path
    type_at_start: dict[str, Any]

    def environment(self) -> dict[str, str]:
        """Return the environment for a process that uses this server."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        return {
            **kept,
            **_QUIET,
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
        }


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


with _root_logger_kept():
    import prefect.main  # noqa: F401 - its import gives the root logger a handler


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    from prefect import settings
    from prefect.client.orchestration import get_client
    from prefect.logging.configuration import setup_logging
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect-home")
    stack = contextlib.ExitStack()

    def start() -> PrefectServer:
        stack.enter_context(settings.temporary_settings({settings.PREFECT_HOME: home}))
        stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        database = settings.PREFECT_API_DATABASE_CONNECTION_URL.value()
        path = database.get_secret_value() if hasattr(database, "get_secret_value") else database
        with get_client(sync_client=True) as client:
            reply = client.request("GET", "/block_types/slug/abbyy-vantage-credentials")
        return PrefectServer(
            settings.PREFECT_API_URL.value(),
            home,
            Path(path.removeprefix("sqlite+aiosqlite:///")),
            reply.json(),
        )

    context = contextvars.copy_context()
    with _root_logger_kept():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in _QUIET.items():
                patch.setenv(name, value)
            server = context.run(start)
            context.run(setup_logging)
        yield server
        context.run(stack.close)


@pytest.fixture
def prefect_server(
    _server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrefectServer]:
    """The server, with the settings of this process pointing to it for one test."""
    from prefect import settings

    for name, value in _QUIET.items():
        monkeypatch.setenv(name, value)
    changes = {
        settings.PREFECT_HOME: _server.home,
        settings.PREFECT_API_URL: _server.api_url,
        settings.PREFECT_LOCAL_STORAGE_PATH: tmp_path / "prefect-results",
        settings.PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
    }
    with _root_logger_kept(), settings.temporary_settings(changes):
        yield _server


@pytest.fixture
def account(sandbox: SandboxServer) -> dict[str, Any]:
    """The fields of a block that logs in to the sandbox, with the grant for users."""
    return {
        "region": "custom",
        "base_url": sandbox.url,
        "username": sandbox.credentials["username"],
        "password": sandbox.credentials["password"],
        "client_id": sandbox.credentials["client_id"],
        "client_secret": sandbox.credentials["client_secret"],
    }


@pytest.fixture
def save_block(prefect_server: PrefectServer, account: dict[str, Any]) -> Callable[..., str]:
    """Save a block for the sandbox, with other values where given; returns its name."""
    from vantage_orchestration.prefect import VantageCredentials

    def save(**changes: Any) -> str:
        name = f"vantage-{uuid.uuid4().hex[:8]}"
        VantageCredentials(**{**account, **changes}).save(name)
        return name

    return save
