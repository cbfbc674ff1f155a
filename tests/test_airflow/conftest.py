# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the tests of the Airflow side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_airflow.installation import Airflow, columns_of, template_of

from vantage_orchestration.sandbox import SandboxServer


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """One Airflow for all tests; they keep apart by connection ids and run ids."""
    installation = Airflow(tmp_path_factory.mktemp("airflow"), template_of(tmp_path_factory))
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()


@pytest.fixture
def connect(airflow: Airflow) -> Callable[..., str]:
    """Store a connection to a sandbox in the database and return its id."""

    def store(sandbox: SandboxServer, **changes: Any) -> str:
        conn_id = f"vantage_{next(_numbers)}"
        airflow("add_connection", conn_id=conn_id, **columns_of(sandbox, **changes))
        return conn_id

    return store


_numbers = itertools.count()
