# SPDX-License-Identifier: Apache-2.0
"""A running Airflow: API server, scheduler with LocalExecutor, Dag processor and triggerer.

Each is a process of its own, started as ``airflow ...`` starts it, with a home folder, a database
and a port that nothing else uses. Tests speak with it over its REST API, kill its processes, and
start them anew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests
from cryptography.fernet import Fernet
from patience import wait_until
from processes import Component, Processes, free_port
from test_airflow.installation import airflow_environment, columns_of, copy_migrated, migrate

from vantage_orchestration.sandbox import SandboxServer

HERE = Path(__file__).parent
#: Commands of the processes that make up an Airflow. The API is served by two: requests of users
#: write to the database from the event loop, and with sqlite that would wait for ever for a task's
#: request that the same loop has to finish.
COMPONENTS = {
    "api-server": ("api-server", "--apps", "core", "--host", "127.0.0.1", "--workers", "1"),
    "execution-api": ("api-server", "--apps", "execution", "--host", "127.0.0.1", "--workers", "1"),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
#: The one task of each Dag.
TASK = "process"
#: Those that listen.
SERVERS = ("api-server", "execution-api")
#: Seconds without a sign of life after which a task counts as lost. A machine that is busy must
#: not reach it: each task whose supervisor is killed waits that long.
TASK_HEARTBEAT_TIMEOUT = 12


def environment_of(
    home: Path, dags: Path, ports: Mapping[str, int], postgres: str | None
) -> dict[str, str]:
    """Return the environment of an Airflow that runs in that folder and notices things soon."""
    base, execution = (
        f"http://127.0.0.1:{ports[name]}" for name in ("api-server", "execution-api")
    )
    bundle = {
        "name": "live",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(dags)},
    }
    settings = {
        "API__BASE_URL": base,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__DAGS_FOLDER": dags,
        "CORE__EXECUTION_API_SERVER_URL": f"{execution}/execution/",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 16,
        "CORE__MAX_ACTIVE_RUNS_PER_DAG": 100,
        "CORE__MAX_ACTIVE_TASKS_PER_DAG": 100,
        # Several processes write to one file; each waits for its turn.
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database_of(home)}?timeout=60",
        "DATABASE__SQL_ALCHEMY_POOL_SIZE": 50,
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
        "DAG_PROCESSOR__PARSING_PROCESSES": 1,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 600,
        "SCHEDULER__ENABLE_HEALTH_CHECK": False,
        "SCHEDULER__JOB_HEARTBEAT_SEC": 2,
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": TASK_HEARTBEAT_TIMEOUT,
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 1,
        "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
        # Triggers of a triggerer that is dead are taken over by another after this time.
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 8,
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 2,
    }
    if postgres is not None:
        settings["DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2:{postgres}"
        settings["DATABASE__SQL_ALCHEMY_POOL_SIZE"] = 5
    return {
        **airflow_environment(home),
        **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        # Dag files know their neighbours, and no stored token of this machine's user.
        "PYTHONPATH": str(HERE.parents[1]),
        "XDG_CACHE_HOME": str(home / "cache"),
    }


def database_of(home: Path) -> Path:
    return home / "airflow.db"


class Running(Processes):
    """An Airflow that runs.

    Args:
        home: Empty folder for everything it writes.
        dags: Folder with its Dag files.
        postgres: Address of its database, without the driver; else it has a file of its own.
        environment: More of its environment.
        template: Folder whose migrated database is copied, see ``copy_migrated``; else it makes
            its own.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        postgres: str | None = None,
        environment: Mapping[str, str] | None = None,
        template: Path | None = None,
    ) -> None:
        ports = {name: free_port() for name in SERVERS}
        environment = {
            **environment_of(home.resolve(), dags, ports, postgres),
            **(environment or {}),
        }
        self.postgres = postgres
        self.template = template
        components = {}
        for name, command in COMPONENTS.items():
            port = ("--port", str(ports[name])) if name in ports else ()
            components[name] = Component(
                [sys.executable, "-m", "airflow", *command, *port], environment
            )
        super().__init__(home, components)
        self.dags = dags
        self.ports = ports
        self.environment = environment
        self._headers: dict[str, str] = {}
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._tasks: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._taken = 0.0

    @property
    def database(self) -> Path:
        return database_of(self.home)

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    # ------------------------------------------------------------ processes

    def migrate(self) -> None:
        """Make the database."""
        if self.template is None:
            migrate(self.environment)
        else:
            copy_migrated(self.home, self.template)
        if self.postgres is None:
            with contextlib.closing(sqlite3.connect(self.database)) as connection:
                # Readers and a writer at the same time. The file keeps this setting.
                connection.execute("PRAGMA journal_mode=WAL")

    def start(self) -> None:
        """Start everything; returns when all Dags can be run."""
        self.migrate()
        for name in self.components:
            if not self.is_begun(name):
                self.begin(name)
        wait_until(self._log_in, "the API server")
        expected = len([path for path in self.dags.glob("*.py") if not path.name.startswith("_")])
        wait_until(
            lambda: self._parsed() >= expected and self._all_healthy(),
            lambda: f"a healthy Airflow with the Dags of {expected} files:\n{self.told()}",
        )

    def worker_of(self, task: dict[str, Any]) -> tuple[psutil.Process, psutil.Process]:
        """Return the process that runs a task, and the executor's process that supervises it.

        Args:
            task: Task instance in state ``running``, as the API shows it.
        """
        runner = psutil.Process(task["pid"])
        supervisor = runner.parent()
        if supervisor is None or supervisor.ppid() != self.pid("scheduler"):
            raise RuntimeError(f"process {task['pid']} is no task of this Airflow")
        return runner, supervisor

    def stored_triggers(self) -> list[str]:
        """Return the arguments of all triggers in the database, as text."""
        fernet = Fernet(self.environment["AIRFLOW__CORE__FERNET_KEY"])
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            rows = [row[0] for row in connection.execute("SELECT kwargs FROM trigger")]
        # Those of deferred tasks are not encrypted.
        return [row if row.startswith("{") else fernet.decrypt(row).decode() for row in rows]

    # ------------------------------------------------------------------ API

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the REST API and return the reply's JSON."""
        self.check()
        # One change at a time, for the reason given above.
        turn = contextlib.nullcontext() if method == "GET" else self._writing
        with turn, requests.Session() as session:
            session.trust_env = False
            reply = session.request(
                method,
                f"http://127.0.0.1:{self.ports['api-server']}/api/v2/{path}",
                headers=self._headers,
                timeout=60,
                json=body if method != "GET" else None,
                params=body if method == "GET" else None,
            )
        if not reply.ok:
            raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json() if reply.content else None

    def _log_in(self) -> bool:
        self.check()
        core, execution = (f"http://127.0.0.1:{port}" for port in self.ports.values())
        try:
            with requests.Session() as session:
                session.trust_env = False
                reply = session.get(f"{core}/auth/token", timeout=60)
                ready = session.get(f"{execution}/execution/health/ping", timeout=60)
        except requests.ConnectionError:
            return False
        if not (reply.ok and ready.ok):
            return False
        self._headers = {"Authorization": f"Bearer {reply.json()['access_token']}"}
        return True

    def _parsed(self) -> int:
        """Return the number of files that Dags were found in."""
        errors = self.api("GET", "importErrors")["import_errors"]
        if errors:
            raise RuntimeError("\n".join(each["stack_trace"] for each in errors))
        return len({each["fileloc"] for each in self.api("GET", "dags")["dags"]})

    def _all_healthy(self) -> bool:
        told = self.api("GET", "monitor/health")
        names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(told[name]["status"] == "healthy" for name in names)

    def tasks(self, since: float) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Return all task instances by Dag, run and task, as they were seen a moment ago.

        Args:
            since: Reading of the steady clock; nothing is returned that was seen before.
        """
        # Many threads ask for one task each, all the time: one request serves them all.
        with self._reading:
            if self._taken < max(since, time.monotonic() - 1.0):
                taken = time.monotonic()
                shown = self.api("GET", "dags/~/dagRuns/~/taskInstances", limit=100)
                if shown["total_entries"] > len(shown["task_instances"]):
                    raise RuntimeError("there are more tasks than one page shows")
                names = ("dag_id", "dag_run_id", "task_id")
                self._tasks = {
                    tuple(task[name] for name in names): task for task in shown["task_instances"]
                }
                self._taken = taken
            return self._tasks

    def connect(self, name: str, sandbox: SandboxServer, **changes: Any) -> str:
        """Store a connection to a sandbox and return its id."""
        columns = columns_of(sandbox, **changes)
        self.api("POST", "connections", connection_id=name, **columns)
        return name

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> Run:
        """Make a run, as *Trigger* does."""
        self.api("POST", f"dags/{dag_id}/dagRuns", dag_run_id=run_id, logical_date=None, conf=conf)
        return Run(self, dag_id, run_id)

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear the task of a run, or all that it was mapped to, as the button *Clear* does."""
        self.api(
            "POST",
            f"dags/{dag_id}/clearTaskInstances",
            dag_run_id=run_id,
            task_ids=[TASK],
            dry_run=False,
            only_failed=False,
            reset_dag_runs=True,
        )


class Run:
    """One run of a Dag that has one task."""

    def __init__(self, airflow: Running, dag_id: str, run_id: str) -> None:
        self.airflow = airflow
        self.dag_id = dag_id
        self.run_id = run_id
        self._path = f"dags/{dag_id}/dagRuns/{run_id}"
        self._task_path = f"{self._path}/taskInstances/{TASK}"

    @property
    def state(self) -> str:
        return str(self.airflow.api("GET", self._path)["state"])

    def task(self, since: float) -> dict[str, Any]:
        """Return the task instance as the API shows it, see :meth:`Running.tasks`."""
        return self.airflow.tasks(since).get((self.dag_id, self.run_id, TASK), {})

    def when(self, *states: str, try_number: int = 0) -> dict[str, Any]:
        """Wait until the task is in one of these states, in this try or a later one.

        Args:
            states: States.
            try_number: Number of the first try that counts.

        Returns:
            The task instance as the API shows it.
        """
        begin = time.monotonic()
        seen: dict[str, Any] = {}

        def there() -> dict[str, Any] | None:
            seen.clear()
            seen.update(self.task(begin))
            if seen.get("state") == "failed" and seen["try_number"] >= max(try_number, 2):
                assert "failed" in states, f"{self.run_id}: the task has failed\n{self.log()}"
            fits = seen.get("state") in states and seen["try_number"] >= try_number
            return dict(seen) if fits else None

        return wait_until(
            there,
            lambda: (
                f"{self.run_id}: the task is {seen.get('state')} in try {seen.get('try_number')},"
                f" not {' or '.join(states)}\n{self.log()}"
            ),
        )

    def forget_state(self) -> None:
        """Empty Airflow's state store of the task, as *Clear* is going to do; 3.3 has the first."""
        with (
            contextlib.closing(sqlite3.connect(self.airflow.database, timeout=60)) as connection,
            connection,
        ):
            tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
            if ("task_state_store",) not in tables:
                return
            connection.execute("DELETE FROM task_state_store WHERE run_id = ?", (self.run_id,))

    def clear(self) -> None:
        """Clear the task, as the button *Clear* does; its state goes with it."""
        self.forget_state()
        self.airflow.clear(self.dag_id, self.run_id)

    def mark(self, state: str) -> None:
        """Set the task's state, as *Mark state as...* does."""
        self.airflow.api("PATCH", self._task_path, new_state=state)

    def xcom(self) -> Any:
        """Return what the task has returned."""
        path = f"{self._task_path}/xcomEntries/return_value"
        return self.airflow.api("GET", path, deserialize=True)["value"]

    def log(self) -> str:
        """Return the logs of all tries of the task and of their triggers, with whole errors."""
        folder = self.airflow.logs / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        lines = []
        for path in sorted(folder.rglob("*.log*")):
            lines.append(f"--- {path.name}")
            for line in path.read_text(errors="replace").splitlines():
                try:
                    told = json.loads(line)
                except ValueError:
                    lines.append(line)
                    continue
                if told["level"] != "debug":
                    details = {key: told[key] for key in ("error", "error_detail") if key in told}
                    lines.append(f"{told['timestamp']} {told['event']} {details or ''}")
        return "\n".join(lines)
