# SPDX-License-Identifier: Apache-2.0
"""A real Airflow for tests: its database, its Dag files, its API and its task supervisor."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from processes import kill_session

from vantage_orchestration.sandbox import SandboxServer

if TYPE_CHECKING:
    # The trials on several hosts run without it.
    import pytest

HERE = Path(__file__).parent
DAGS = HERE.parents[1] / "dags"
#: Hard for whoever pastes it into a form or a URI unescaped.
AWKWARD = "päß&w+rd %41=/?#@:x z"


def airflow_environment(home: Path) -> dict[str, str]:
    """Return an environment for Airflow in a folder of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("AIRFLOW", "_AIRFLOW", "ABBYY_VANTAGE"))
        and not name.upper().endswith("_PROXY")
    }
    bundles = [
        {
            "name": name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(path)},
        }
        for name, path in (("shipped", home / "dags"), ("tests", HERE / "test_dags"))
    ]
    settings = {
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(b"a fernet key that is for tests__").decode(),
        "CORE__TEST_CONNECTION": "Enabled",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__DAGS_FOLDER": str(home / "dags"),
        "API_AUTH__JWT_SECRET": "a key for tests that is long enough, and more than that",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "LOGGING__LOGGING_LEVEL": "DEBUG",
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "LOGGING__COLORED_CONSOLE_LOG": "False",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # The folders of tests lie anywhere.
        "ABBYY_VANTAGE_DAGS_RESULTS": "/",
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }


def copy_dags(home: Path) -> None:
    """Copy the shipped Dags, so that what they keep is kept below ``home``."""
    (home / "dags").mkdir()
    for path in DAGS.glob("*.py"):
        text = path.read_text().replace("/var/lib/abbyy-vantage", str(home / "var"))
        (home / "dags" / path.name).write_text(text)


def migrate(environment: Mapping[str, str]) -> None:
    """Make the database of an Airflow."""
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def copy_migrated(home: Path, template: Path) -> None:
    """Copy the database of an Airflow on which nothing was done yet, with its configuration.

    Args:
        home: Folder that gets the copy.
        template: Folder that all tests of a run share. Who comes first makes it.
    """
    made = template / "made"
    with FileLock(f"{template}.lock"):
        if not made.exists():
            template.mkdir(exist_ok=True)
            migrate(airflow_environment(template))
            made.touch()
    shutil.copy(template / "airflow.db", home)
    settings = (template / "airflow.cfg").read_text()
    (home / "airflow.cfg").write_text(settings.replace(str(template), str(home)))


def template_of(factory: pytest.TempPathFactory) -> Path:
    """Return the folder for :func:`copy_migrated` that the processes of a test run share."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "migrated"


class Airflow:
    """An Airflow installation in a folder, whose functions are in ``inside``.

    Args:
        home: Empty folder for everything it writes.
        template: Its database is a copy of the one that is kept there.
    """

    def __init__(self, home: Path, template: Path) -> None:
        self.home = home
        self.template = template
        self.environment = airflow_environment(home)
        self._answers = (home / f"answer-{number}.json" for number in itertools.count())
        self._process: subprocess.Popen[str] | None = None

    @property
    def output(self) -> Path:
        """All that Airflow has written to stdout and stderr."""
        return self.home / "output.txt"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"

    def start(self) -> None:
        copy_dags(self.home)
        copy_migrated(self.home, self.template)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py"), str(self.output)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._line() != "ready":
            raise RuntimeError(f"Airflow did not start:\n{self.output.read_text()[-8000:]}")

    def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(timeout=30)
            # A task's process ends at once; what it has started, such as a listener's, does not.
            kill_session(self._process.pid)

    def __call__(
        self, function: str, environment: dict[str, str] | None = None, **arguments: Any
    ) -> Any:
        """Call a function of ``inside`` and return its result."""
        answer = next(self._answers)
        call = {
            "function": function,
            "arguments": arguments,
            # Tokens that one test has stored must not be found by the next.
            "environment": {**self.cache(), **(environment or {})},
            "answer": str(answer),
        }
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        child = int(self._line())
        try:
            code = self._line()
        except BaseException:
            # The test's time is over: its call must not answer in the place of the next one's.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self._line()
            raise
        told = json.loads(answer.read_text()) if answer.exists() else {"failure": f"exit {code}"}
        answer.unlink(missing_ok=True)
        if "failure" in told:
            raise RuntimeError(f"{function} failed:\n{told['failure']}")
        return told["result"]

    def cache(self) -> dict[str, str]:
        """Return what makes a process use the running test's folder for stored tokens."""
        return {key: value for key, value in os.environ.items() if key == "XDG_CACHE_HOME"}

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def log_text(self, dag_id: str, run_id: str) -> str:
        """Return all task logs of a run."""
        folder = self.logs / f"dag_id={dag_id}" / f"run_id={run_id}"
        return "\n".join(
            path.read_text() for path in sorted(folder.rglob("*.log")) if path.is_file()
        )


def fixed(**values: Any) -> dict[str, str]:
    """Return what the shipped DAGs have fixed, as the environment of the workers sets it.

    Args:
        values: ``conn_id``, ``inputs``, ``outputs``.
    """
    return {f"ABBYY_VANTAGE_DAGS_{name.upper()}": str(value) for name, value in values.items()}


#: In a server (API server, ``airflow connections``) hooks read the database themselves.
SERVER = {"_AIRFLOW_PROCESS_CONTEXT": "server"}


def columns_of(sandbox: SandboxServer, **changes: Any) -> dict[str, Any]:
    """Return the columns of a connection to a sandbox.

    Args:
        sandbox: Sandbox.
        changes: Columns of the connection, or members of its extra.
    """
    account = sandbox.credentials
    columns: dict[str, Any] = {
        "conn_type": "abbyy_vantage",
        "host": sandbox.url,
        "login": account["username"],
        "password": account["password"],
    }
    extra = {
        "region": "custom",
        "client_id": account["client_id"],
        "client_secret": account["client_secret"],
    }
    for name, value in changes.items():
        (columns if name in {*columns, "port", "schema"} else extra)[name] = value
    return {**columns, "extra": json.dumps(extra)}


def logins(sandbox: SandboxServer) -> int:
    """Return the number of token requests."""
    return sandbox.control.count("POST", "/connect/token$")
