# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vantage_orchestration.sandbox import SandboxServer

# What tests share may assert as well.
pytest.register_assert_rewrite("scenes", "test_airflow.live.scene", "test_prefect.live.scene")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a folder in one process: they share an orchestrator that starts slowly.

    Processes that run at the same time (``-n 4``) take a folder each. Marks can't say so: the
    plugin's groups have no effect with this pytest, which does not let it rename tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Folders(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0].rpartition("/")[0]

    return Folders(config, log)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test, and the processes it starts, a folder of its own for stored tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture(scope="session")
def sandbox_factory() -> Iterator[Callable[..., SandboxServer]]:
    """Start sandboxes: ``sandbox_factory(processing_polls=0)``. All end with the session.

    A start takes a few milliseconds, so most tests can have a server of their own.
    """
    started: list[SandboxServer] = []

    def start(**settings: Any) -> SandboxServer:
        server = SandboxServer(**settings).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A fresh sandbox with the default settings."""
    with SandboxServer() as server:
        yield server
