# SPDX-License-Identifier: Apache-2.0
"""Airflow on several hosts: CeleryExecutor, PostgreSQL, Redis, two workers and two triggerers.

A host is a home, a folder for temporary files, a cache, logs and Dag files that no other host has.
All hosts have the database, the broker and the bucket in common, and nothing else. Workers of the
Edge executor have the API and the bucket alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import requests
from engines import BUCKET, KEY, Bucket, begin_engines, own, redis
from patience import wait_until
from postgres import Postgres
from processes import Component, free_port
from test_airflow.live.running import Running

HERE = Path(__file__).resolve().parent
WORKERS = ("worker-1", "worker-2")
#: Workers of the Edge executor; they run in the scenario that needs them.
EDGES = ("edge-1", "edge-2")
EDGE = "airflow.providers.edge3"
TRIGGERERS = ("triggerer-1", "triggerer-2")
#: Tasks that a worker runs at the same time.
SLOTS = 4
#: Seconds without a sign of life after which a task, or a triggerer, counts as lost.
LOST_AFTER = 25
#: Seconds after which a task that no worker has begun is queued anew. Airflow does so twice, then
#: the task has failed for good, whatever its retries: a busy machine must not reach it.
QUEUED_AFTER = 60
#: A component that ends more often than that is not started again.
RESTARTS = 10


class AirflowCluster(Running):
    """An Airflow on several hosts.

    Args:
        home: Empty folder for everything it writes.
    """

    def __init__(self, home: Path) -> None:
        self.engine = Postgres()
        self.bucket = Bucket()
        self.broker_port = free_port()
        #: Components that have ended by themselves and were started again, as a supervisor does.
        self.restarted: list[str] = []
        extra = {"endpoint_url": self.bucket.url, "region_name": "us-east-1"}
        account = {"conn_type": "aws", "login": KEY, "password": KEY, "extra": extra}
        settings = {
            "CELERY__BROKER_URL": f"redis://127.0.0.1:{self.broker_port}/0",
            "CELERY__RESULT_BACKEND": f"db+postgresql:{self.engine.url}",
            "CELERY__SYNC_PARALLELISM": "1",
            "CELERY__WORKER_CONCURRENCY": str(SLOTS),
            "CORE__EXECUTOR": f"CeleryExecutor,EdgeExecutor:{EDGE}.executors.EdgeExecutor",
            "CORE__HOSTNAME_CALLABLE": "host_name.name",
            # No task is queued while all slots are taken: it would wait in the broker.
            "CORE__PARALLELISM": str(SLOTS * len(WORKERS)),
            "DATABASE__EXTERNAL_DB_MANAGERS": f"{EDGE}.models.db.EdgeDBManager",
            "EDGE__API_ENABLED": "True",
            "EDGE__HEARTBEAT_INTERVAL": "5",
            "EDGE__JOB_POLL_INTERVAL": "2",
            "LOGGING__LOGGING_LEVEL": "INFO",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(LOST_AFTER),
            # A task whose worker is gone before it ran it stays "queued" until then.
            "SCHEDULER__TASK_QUEUED_TIMEOUT": str(QUEUED_AFTER),
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(LOST_AFTER),
        }
        path = os.pathsep.join((str(HERE), str(HERE.parent)))
        environment = {
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(account),
            "CLUSTER_HOST": "center",
            "C_FORCE_ROOT": "1",
            "PYTHONPATH": path,
        }
        super().__init__(home, HERE / "dags", self.engine.url, environment)
        central = dict(self.components)
        listening = central.pop("triggerer").command
        self.components = {
            "redis": redis(self.home, self.broker_port),
            "bucket": self.bucket.component,
            **central,
        }
        airflow = [sys.executable, "-m", "airflow"]
        for name in WORKERS:
            command = ["celery", "worker", "--celery-hostname", name, "--skip-serve-logs"]
            quiet = ["--without-gossip", "--without-mingle"]
            self.components[name] = Component([*airflow, *command, *quiet], self._on(name))
        for name in TRIGGERERS:
            self.components[name] = Component(listening, self._on(name))

    def begin_edge(self, name: str) -> None:
        """Start a worker of the Edge executor, which has no access to the database."""
        api = f"http://127.0.0.1:{self.ports['api-server']}/edge_worker/v1/rpcapi"
        environment = {
            **self._on(name),
            "AIRFLOW__EDGE__API_URL": api,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody@127.0.0.1:9/none",
        }
        command = ["edge", "worker", "--edge-hostname", name, "--concurrency", str(SLOTS)]
        self.components[name] = Component([sys.executable, "-m", "airflow", *command], environment)
        self.begin(name)

    def _on(self, host: str) -> dict[str, str]:
        """Return the environment of a process on a host, and lay its folders."""
        own_environment = own(self.home, host)
        folder = self.home / host
        shutil.copytree(self.dags, folder / "dags", dirs_exist_ok=True)
        bundles = self.environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]
        return {
            **self.environment,
            **own_environment,
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundles.replace(
                str(self.dags), str(folder / "dags")
            ),
        }

    def start(self) -> None:
        """Start everything; returns when all Dags can be run on all workers."""
        self.engine.start()
        begin_engines(self, {"redis": self.broker_port, "bucket": self.bucket.port})
        self.bucket.make()
        super().start()

    def stop(self) -> None:
        """End all processes, and remove the database."""
        super().stop()
        self.engine.stop()

    def has_ended(self, name: str, code: int) -> None:
        """Start a component again, as systemd and Kubernetes do."""
        if name in ("redis", "bucket") or self.restarted.count(name) >= RESTARTS:
            super().has_ended(name, code)
        self.restarted.append(name)
        self.spawn(name)

    def answers(self) -> bool:
        """Return whether the API reaches the database."""
        try:
            return bool(self.api("GET", "monitor/health")["metadatabase"]["status"] == "healthy")
        except (RuntimeError, requests.RequestException):
            return False

    # ------------------------------------------------------------------ runs

    def run(self, dag_id: str, order: str) -> MappedRun:
        """Start a run for an order; its connection has the name of the order."""
        self.trigger(dag_id, order, {"order": order, "conn_id": order})
        return MappedRun(self, dag_id, order)

    def log(self, run_id: str) -> str:
        """Return the errors of all tries of a run, on whichever host."""
        lines = []
        for path in sorted(self.home.glob(f"*/logs/*/run_id={run_id}/**/*.log*")):
            for line in path.read_text(errors="replace").splitlines():
                if '"level":"error"' in line.replace(" ", ""):
                    lines.append(f"{path.relative_to(self.home)}: {line[:2000]}")
        return "\n".join(lines[-12:])


class MappedRun:
    """A run of a Dag with one mapped task."""

    def __init__(self, airflow: AirflowCluster, dag_id: str, run_id: str) -> None:
        self.airflow = airflow
        self.run_id = run_id
        self._dag = dag_id

    def tasks(self) -> list[dict[str, Any]]:
        """Return all task instances."""
        path = f"dags/{self._dag}/dagRuns/{self.run_id}/taskInstances"
        found: list[dict[str, Any]] = self.airflow.api("GET", path, limit=100)["task_instances"]
        return found

    def on(self, host: str) -> set[str]:
        """Return the map indexes of the tasks that a worker runs."""
        return {
            str(each["map_index"])
            for each in self.tasks()
            if each["hostname"] == host and each["state"] == "running"
        }

    def hosts(self) -> set[str]:
        """Return the workers that have run one of its tasks."""
        return {each["hostname"] for each in self.tasks() if each["hostname"]}

    def states(self) -> dict[str, int]:
        """Return how many tasks are in which state."""
        states = [str(each["state"]) for each in self.tasks()]
        return {state: states.count(state) for state in sorted(set(states))}

    def when(self, *states: str, number: int, patience: float = 300) -> None:
        """Wait until so many tasks are in one of these states."""
        wait_until(
            lambda: sum(self.states().get(state, 0) for state in states) >= number,
            lambda: (
                f"{self.run_id}: {self.states()}, not {number} {' or '.join(states)}\n"
                f"{self.airflow.log(self.run_id)}\n{self.airflow.told()}"
            ),
            patience,
        )

    def end(self, number: int) -> None:
        """Wait until all tasks have ended well."""
        self.when("success", "failed", number=number, patience=400)
        assert self.states() == {"success": number}, (
            f"{self.states()}\n{self.airflow.log(self.run_id)}"
        )

    def clear(self) -> None:
        """Clear all tasks."""
        self.airflow.clear(self._dag, self.run_id)


__all__ = ["BUCKET", "SLOTS", "TRIGGERERS", "WORKERS", "AirflowCluster", "MappedRun"]
