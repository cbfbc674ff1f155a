# SPDX-License-Identifier: Apache-2.0
"""A Prefect that runs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres import Postgres
from test_prefect.live.running import Running


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """The database of the server."""
    engine = Postgres()
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def running(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server and two workers, for all tests of this folder."""
    prefect = Running(tmp_path_factory.mktemp("live"), database.url)
    try:
        prefect.start()
        yield prefect
    finally:
        prefect.stop()
