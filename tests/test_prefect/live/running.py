# SPDX-License-Identifier: Apache-2.0
"""A running Prefect: a server, and process workers on several machines.

Each is a process of its own, started as ``prefect ...`` starts it. A machine is a folder for
Prefect's results and for stored tokens that no other machine has. Tests speak with the server over
its REST API, as the user interface does, kill processes, and start them anew.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import requests
from patience import wait_until
from processes import Component, Processes, free_port

from vantage_orchestration.sandbox import SandboxServer

#: The machine that stays, the one that is lost, and the one that takes its place.
STAYS, LOST, NEXT = "worker-stays", "worker-lost", "worker-next"
#: Work pools of the machines; two of them have the same.
POOLS = {STAYS: "steady", LOST: "moving", NEXT: "moving"}
#: States of a flow run that failed for good, if nobody retries it.
BAD = ("Failed", "TimedOut", "Crashed", "Cancelled")


class Running(Processes):
    """A Prefect that runs.

    Args:
        home: Empty folder for everything it writes.
        postgres: Address of its database, without the driver; else it has a file of its own. A
            SQLite file lets one process write at a time: a machine with two cores that runs many
            flows at once makes it wait for minutes.
    """

    def __init__(self, home: Path, postgres: str | None = None) -> None:
        home = home.resolve()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "ABBYY_VANTAGE"))
            and not name.upper().endswith("_PROXY")
        }
        common = {
            **kept,
            # The folders of tests lie anywhere, and each test has a block of its own.
            "ABBYY_VANTAGE_FLOWS_BLOCKS": "*",
            "ABBYY_VANTAGE_FLOWS_INPUTS": "/",
            "ABBYY_VANTAGE_FLOWS_OUTPUTS": "/",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1",
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        server = {
            **common,
            "PREFECT_HOME": str(home / "server"),
            # It says which block types are registered, and does not follow from the home.
            "PREFECT_MEMO_STORE_PATH": str(home / "server" / "memo.toml"),
            "PREFECT_SERVER_UI_ENABLED": "false",
            # Many processes write at the same time; each waits for its turn.
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        }
        if postgres is not None:
            server["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg:{postgres}"
        worker = {
            **common,
            "DASK_TEMPORARY_DIRECTORY": str(home / "dask"),
            "PREFECT_API_REQUEST_TIMEOUT": "120",
            # A server on sqlite that is busy for long runs out of connections, and answers 500.
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "vantage_orchestration,urllib3,requests",
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        prefect = [sys.executable, "-m", "prefect"]
        listening = ["--host", "127.0.0.1", "--port", str(port)]
        components = {"server": Component([*prefect, "server", "start", *listening], server)}
        for name, pool in POOLS.items():
            components[name] = Component(
                [*prefect, "worker", "start", "--type", "process", "--pool", pool, "--name", name],
                {
                    **worker,
                    "PREFECT_HOME": str(home / name),
                    # It does not follow from the home.
                    "PREFECT_LOCAL_STORAGE_PATH": str(home / name / "storage"),
                    "XDG_CACHE_HOME": str(home / name / "cache"),
                },
            )
        super().__init__(home, components)
        #: Processes that start at the same time keep two cores and the database busy enough.
        self._starting = threading.BoundedSemaphore(4)
        self._connecting, self._reading = threading.Lock(), threading.Lock()
        self._runs: dict[str, dict[str, Any]] = {}
        self._taken = 0.0

    def machine(self, name: str) -> Path:
        """Return the folder that only that machine has."""
        return self.home / name

    def start(self) -> None:
        """Start everything; returns when flows can be run."""
        self.begin("server")
        wait_until(self.answers, lambda: f"the server:\n{self.told('server')}")
        for pool in set(POOLS.values()):
            self.api("POST", "work_pools/", name=pool, type="process")
        for name in (STAYS, LOST):
            self.begin(name)

    def process_of(self, run_id: str) -> psutil.Process:
        """Return the process in which a flow run is executed."""
        for child in self._processes_of(run_id):
            return child
        raise RuntimeError(f"no process executes the run {run_id}")

    def quiet(self, run_id: str) -> bool:
        """Return whether no process executes a flow run."""
        return not any(child.is_running() for child in self._processes_of(run_id))

    def _processes_of(self, run_id: str) -> Iterator[psutil.Process]:
        for name in POOLS:
            with contextlib.suppress(psutil.Error, KeyError):
                for child in psutil.Process(self.pid(name)).children():
                    with contextlib.suppress(psutil.Error):
                        if child.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                            yield child

    # ------------------------------------------------------------------ API

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the REST API and return the reply's JSON."""
        [reply] = wait_until(lambda: self._replies(method, path, body), f"{method} {path}")
        if not reply.ok:
            raise RuntimeError(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json() if reply.content else None

    def _replies(self, method: str, path: str, body: dict[str, Any]) -> list[requests.Response]:
        """Return one reply; none if the database was in use by others, and nothing was done."""
        self.check()
        with requests.Session() as session:
            session.trust_env = False
            json = body if method != "GET" else None
            reply = session.request(method, f"{self.url}/{path}", timeout=120, json=json)
        return [] if reply.status_code in (500, 503) else [reply]

    def all(self, path: str, **filters: Any) -> list[Any]:
        """Return all objects of a kind that fit."""
        found: list[Any] = []
        while page := self.api("POST", path, limit=200, offset=len(found), **filters):
            found += page
        return found

    def answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return bool(self.api("GET", "health"))
        return False

    def runs(self, since: float) -> dict[str, dict[str, Any]]:
        """Return all flow runs by their ids, as they were seen a moment ago.

        Args:
            since: Reading of the steady clock; nothing is returned that was seen before.
        """
        # Many threads ask for one run each, all the time: one request serves them all.
        with self._reading:
            if self._taken < max(since, time.monotonic() - 1.0):
                taken = time.monotonic()
                self._runs = {each["id"]: each for each in self.all("flow_runs/filter")}
                self._taken = taken
            return self._runs

    def connect(self, name: str, sandbox: SandboxServer, **changes: Any) -> None:
        """Save a credentials block for a sandbox, as the user interface does."""
        kind = self.api("GET", "block_types/slug/abbyy-vantage-credentials")["id"]
        wanted = {"block_type_id": {"any_": [kind]}}
        [schema] = self.api("POST", "block_schemas/filter", block_schemas=wanted)
        account = sandbox.credentials
        data = {
            "region": "custom",
            "base_url": sandbox.url,
            **{key: account[key] for key in ("username", "password", "client_id")},
            "client_secret": account["client_secret"],
            **changes,
        }
        # A server that has no block yet makes its key for encryption, and refuses a second one.
        with self._connecting:
            self.api(
                "POST",
                "block_documents/",
                name=name,
                data=data,
                block_type_id=kind,
                block_schema_id=schema["id"],
            )

    def deploy(self, name: str, entrypoint: str, pool: str, **more: Any) -> str:
        """Make a deployment of a flow, and return its id.

        Args:
            name: Name.
            entrypoint: ``FILE:FLOW``, or a flow's full name in its module.
            pool: Work pool.
            more: What else belongs to it, such as its schedules.
        """
        flow = self.api("POST", "flows/", name=entrypoint.rpartition("/")[2].replace(":", "."))
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(self.home)}}
        deployment = self.api(
            "POST",
            "deployments/",
            name=name,
            flow_id=flow["id"],
            entrypoint=entrypoint,
            pull_steps=[step],
            work_pool_name=pool,
            # All processes of this Prefect are known by their folder.
            job_variables={"working_dir": str(self.home)},
            enforce_parameter_schema=False,
            **more,
        )
        return str(deployment["id"])

    def run(self, deployment_id: str, name: str, *parameters: dict[str, Any]) -> list[Run]:
        """Make a flow run for each set of parameters; returns when all of them run."""
        path = f"deployments/{deployment_id}/create_flow_run"
        with self._starting:
            made = [self.api("POST", path, name=name, parameters=each) for each in parameters]
            runs = [Run(self, each["id"], name) for each in made]
            for run in runs:
                run.goes_on(0)
        return runs

    def retry(self, run: Run) -> None:
        """Let a run that ended run once more, as the button *Retry* does; returns when it runs."""
        with self._starting:
            run.goes_on(run.count)


class Run:
    """One flow run."""

    def __init__(self, prefect: Running, run_id: str, name: str) -> None:
        self.prefect = prefect
        self.id = run_id
        self.name = name
        self._changed = 0.0

    @property
    def state(self) -> str:
        """Name of its state; empty if it was made a moment ago."""
        return str(self._shown().get("state_name") or "")

    def _shown(self, since: float = 0.0) -> dict[str, Any]:
        """Return the flow run as the API shows it, see :meth:`Running.runs`."""
        return self.prefect.runs(max(since, self._changed)).get(self.id, {})

    def when(self, *states: str) -> dict[str, Any]:
        """Wait until the run is in one of these states; return it as the API shows it."""
        begin = time.monotonic()

        def there() -> dict[str, Any] | None:
            seen = self._shown(begin)
            state = seen.get("state_name")
            if state in BAD and state not in states:
                raise AssertionError(f"{self.name}: the run is {state}\n{self.log()}")
            return seen if state in states else None

        return wait_until(
            there,
            lambda: (
                f"{self.name}: the run is {self.state}, not {' or '.join(states)}\n{self.log()}"
            ),
        )

    def completed(self) -> None:
        """Wait until it has completed, and no process executes it any more.

        A worker may execute a run twice at once: its second report of a crash can come after the
        retry was submitted, and then the run is submitted once more. The second process writes the
        same results, and may still do so when the first has ended.
        """
        self.when("Completed")
        wait_until(
            lambda: self.prefect.quiet(self.id),
            lambda: f"{self.name}: a process still executes the run\n{self.log()}",
        )

    def set_state(self, kind: str, name: str) -> None:
        """Set the state, as the user interface and automations do."""
        path = f"flow_runs/{self.id}/set_state"
        state = {"type": kind, "name": name, "message": "set by hand"}
        reply = self.prefect.api("POST", path, state=state, force=kind == "CRASHED")
        assert reply["status"] == "ACCEPT", reply
        self._changed = time.monotonic()

    @property
    def count(self) -> int:
        """How often it has begun to run."""
        return int(self._shown().get("run_count") or 0)

    def goes_on(self, count: int) -> None:
        """Wait until it has begun to run once more.

        A process worker tells of a crash twice. Its second word may come after *Retry* was pressed,
        and undo that: then it has to be pressed again.

        Args:
            count: How often it had begun to run before.
        """

        def more() -> bool:
            if self.count > count:
                return True
            if self.state in BAD:
                self.set_state("SCHEDULED", "AwaitingRetry")
            return False

        wait_until(more, lambda: f"{self.name}: the run does not go on\n{self.log()}")

    def log(self) -> str:
        """Return what the server has of its log."""
        wanted = {"flow_run_id": {"any_": [self.id]}}
        lines = self.prefect.all("logs/filter", logs=wanted, sort="TIMESTAMP_ASC")
        return "\n".join(f"{line['timestamp']} {line['message']}" for line in lines)
