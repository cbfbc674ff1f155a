# SPDX-License-Identifier: Apache-2.0
"""``vantage-orchestration token --of airflow:ID``: the command finds Airflow by its entry point."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from test_airflow.installation import Airflow, columns_of

pytestmark = pytest.mark.slow


def command(airflow: Airflow, sandbox, *words: str) -> subprocess.CompletedProcess[str]:
    connection = columns_of(sandbox)
    environment = {**airflow.environment, **airflow.cache()}
    environment["AIRFLOW_CONN_BY_NAME"] = json.dumps(connection)
    code = "import sys; from vantage_orchestration.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "token", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_reads_an_airflow_connection(airflow: Airflow, sandbox) -> None:
    done = command(airflow, sandbox, "status", "--of", "airflow:by_name")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\(file store in .*\): nothing", done.stdout)
    account = sandbox.credentials
    for secret in (account["password"], account["client_secret"]):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["airflow:no_such_connection", "luigi:x"])
def test_a_name_that_is_not_there_is_said_without_a_traceback(
    airflow: Airflow, sandbox, name: str
) -> None:
    done = command(airflow, sandbox, "forget", "--of", name)
    assert done.returncode == 1
    assert name.split(":")[0 if name.startswith("luigi") else 1] in done.stderr
    assert "Traceback" not in done.stderr
