# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vantage_orchestration.sandbox import SandboxServer

# What tests share may assert as well.
pytest.register_assert_rewrite("scenes", "test_airflow.live.scene", "test_prefect.live.scene")


#: Folders whose files share an orchestrator that starts slowly. Each half of the files has one, and
#: is run by one process. The later half begins with this name: they take about the same time.
HALVED = ("tests/test_airflow", "tests/test_prefect")
LATER = "test_l"
#: What is run by one process at a time, and begins first, in this order: what takes longest. All
#: other files are run by whoever is free. The file of the core waits most of its time.
FIRST = (
    "tests/test_airflow later",
    "tests/test_airflow first",
    "tests/test_prefect first",
    "tests/test_prefect later",
    "tests/test_prefect/live",
    "tests/core/test_job.py",
    "tests/test_airflow/live/test_crash_matrix.py",
    "tests/test_airflow/live/test_inbox.py",
)


def _scope(nodeid: str) -> str:
    """Return the half of a folder, the folder or the file that a test is run with."""
    file = nodeid.partition("::")[0]
    folder, _, name = file.rpartition("/")
    if folder in HALVED:
        return f"{folder} {'first' if name < LATER else 'later'}"
    return folder if folder in FIRST else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let processes that run at the same time (``-n 4``) take a folder or file each.

    Marks can't say so: the plugin's groups have no effect with this pytest, which does not let it
    rename tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scopes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    # Else those with the most tests come first, which are over soon.
    config.option.loadscopereorder = False
    return Scopes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests for processes that run at the same time: none ends long after the others."""
    if not hasattr(config, "workerinput"):
        return
    slow = {_scope(item.nodeid) for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        scope = _scope(item.nodeid)
        return FIRST.index(scope) if scope in FIRST else len(FIRST) + (scope not in slow)

    items.sort(key=place)


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
