# SPDX-License-Identifier: Apache-2.0
"""Prefect on several hosts: a server on PostgreSQL, two process workers, and Dask with two more.

A host is a home, a folder for temporary files, a cache and a Prefect folder that no other host has.
All hosts have the server and the bucket in common, and nothing else. Results, and with them the
notes of what was started, lie in the bucket.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from engines import BUCKET, Bucket, begin_engines, listens, own
from patience import wait_until
from postgres import Postgres
from processes import Component, free_port
from test_prefect.live.running import BAD, Run, Running

HERE = Path(__file__).resolve().parent
#: The module of the flows. Dask needs it by its name, also in the scheduler.
FLOWS = "cluster_flows"
WORKERS = ("worker-1", "worker-2")
DASK = ("dask-1", "dask-2")
POOL = "hosts"
#: Flow runs that a worker runs at the same time.
SLOTS = 4
#: A block for results in the bucket, made by whoever runs the hosts.
RESULTS = f"""
from prefect.filesystems import RemoteFileSystem
RemoteFileSystem(basepath="s3://{BUCKET}/results").save("results", overwrite=True)
"""


class PrefectCluster(Running):
    """A Prefect on several hosts.

    Args:
        home: Empty folder for everything it writes.
    """

    def __init__(self, home: Path) -> None:
        self.engine = Postgres()
        super().__init__(home, self.engine.url)
        self.bucket = Bucket()
        self.scheduler_port = free_port()
        self._deployments: dict[str, str] = {}
        server = self.components["server"]
        worker = next(each for name, each in self.components.items() if name != "server")
        dask = [sys.executable, "-m", "dask"]
        scheduler = f"tcp://127.0.0.1:{self.scheduler_port}"
        self._common = {
            **worker.environment,
            **self.bucket.environment,
            "CLUSTER_DASK": scheduler,
            "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "remote-file-system/results",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PYTHONPATH": str(HERE / "flows"),
        }
        listening = ["--host", "127.0.0.1", "--port", str(self.scheduler_port)]
        quiet = ["--dashboard-address", "127.0.0.1:0"]
        self.components = {
            "bucket": self.bucket.component,
            "server": server,
            "scheduler": Component([*dask, "scheduler", *listening, *quiet], self._on("center")),
        }
        prefect = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
        for name in WORKERS:
            command = [*prefect, "--pool", POOL, "--name", name, "--limit", str(SLOTS)]
            self.components[name] = Component(command, self._on(name))
        quiet += ["--nworkers", "1", "--nthreads", "2", "--host", "127.0.0.1"]
        for name in DASK:
            folder = ["--local-directory", str(self.home / name / "tmp"), "--name", name]
            command = [*dask, "worker", scheduler, *quiet, *folder]
            self.components[name] = Component(command, self._on(name))

    def _on(self, host: str) -> dict[str, str]:
        """Return the environment of a process on a host, and lay its folders."""
        folder = self.home / host
        return {
            **self._common,
            **own(self.home, host),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOCAL_STORAGE_PATH": str(folder / "storage"),
        }

    def start(self) -> None:
        """Start everything; returns when flows can be run."""
        self.engine.start()
        begin_engines(self, {"bucket": self.bucket.port})
        self.bucket.make()
        self.begin("server")
        wait_until(self.answers, lambda: f"the server:\n{self.told('server')}")
        environment = self.components["scheduler"].environment
        subprocess.run([sys.executable, "-c", RESULTS], env=environment, check=True)
        self.api("POST", "work_pools/", name=POOL, type="process")
        for name in ("scheduler", *WORKERS, *DASK):
            self.begin(name)
        wait_until(lambda: listens(self.scheduler_port), lambda: self.told("scheduler"))

    def stop(self) -> None:
        """End all processes, and remove the database."""
        super().stop()
        self.engine.stop()

    def order(self, flow: str, *parameters: dict[str, Any]) -> list[Run]:
        """Make runs of a flow of this folder; returns at once."""
        if flow not in self._deployments:
            self._deployments[flow] = self.deploy(flow, f"{FLOWS}.{flow}", POOL)
        path = f"deployments/{self._deployments[flow]}/create_flow_run"
        made = [self.api("POST", path, name=flow, parameters=each) for each in parameters]
        return [Run(self, each["id"], f"{flow} {number}") for number, each in enumerate(made)]

    def on(self, host: str) -> set[str]:
        """Return the ids of the flow runs that a worker runs."""
        found = set()
        for child in psutil.Process(self.pid(host)).children(recursive=True):
            try:
                found.add(child.environ().get("PREFECT__FLOW_RUN_ID", ""))
            except psutil.Error:
                continue  # It has ended meanwhile.
        return found - {""}

    def end_all(self, runs: list[Run], *, retry: bool = False) -> int:
        """Wait until all runs have ended well.

        Args:
            runs: Runs.
            retry: Let those that failed run once more, as somebody does who looks at them.

        Returns:
            How often a run was retried.
        """
        retried: list[str] = []

        def over() -> bool:
            for run in runs:
                if run.state in BAD and retry and retried.count(run.id) < 5:
                    retried.append(run.id)
                    run.set_state("SCHEDULED", "AwaitingRetry")
                assert run.state not in BAD, f"{run.name} is {run.state}:\n{run.log()}"
            return all(run.state == "Completed" for run in runs)

        wait_until(
            over,
            lambda: f"{[run.state for run in runs]}\n{runs[0].log()}\n{self.told()}",
            400,
        )
        return len(retried)
