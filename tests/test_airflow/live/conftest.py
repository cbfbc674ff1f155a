# SPDX-License-Identifier: Apache-2.0
"""An Airflow that runs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_airflow.installation import template_of
from test_airflow.live.running import Running

DAGS = Path(__file__).parent / "dags"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """API server, scheduler, Dag processor and triggerer, for all tests of a module."""
    airflow = Running(tmp_path_factory.mktemp("live"), DAGS, template=template_of(tmp_path_factory))
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()
