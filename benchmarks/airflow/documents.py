# SPDX-License-Identifier: Apache-2.0
"""Measures 500 files through the operator beside a bare loop with ``requests``."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare
import psutil
from place import CONN_ID, Account, airflow_environment, sandbox

FILES = 500
SIZE = 100_000
PARALLEL = 8
POLL = 10.0

CONTESTANTS = {
    "ours": "VantageProcessDocumentsOperator",
    "bare": "a bare loop",
    "looking": "a bare loop that looks before each start",
}


@dataclass(frozen=True)
class Scene:
    """What the service is like, and what it is asked to do."""

    title: str
    skill: str
    latency: float
    processing: float


SCENES = {
    "single": Scene("a transaction for each file", "Invoice", 0.0, 0.0),
    "batch": Scene("all files in one transaction", "Default process", 0.0, 0.0),
    "service": Scene("a transaction for each file, on a slower service", "Invoice", 0.05, 10.0),
    "distant": Scene("a transaction for each file, far away", "Invoice", 0.05, 0.0),
}


# ------------------------------------------------------------ in the process that is measured


class _Airflow:
    """Runs the operator as a task of a real Dag run, in this process."""

    def __init__(self) -> None:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
        from airflow.models.dagbundle import DagBundleModel
        from airflow.sdk import DAG
        from airflow.utils.db import initdb
        from airflow.utils.session import create_session

        from vantage_orchestration.airflow.operators.vantage import (
            VantageProcessDocumentsOperator,
        )

        took = self.took = []

        class Timed(VantageProcessDocumentsOperator):
            """Takes the time of ``execute``, since the rest is Airflow's own work."""

            def execute(self, context: Any) -> Any:
                with _Clock(took):
                    return super().execute(context)

        initdb()
        with create_session() as session:
            session.merge(DagBundleModel(name="benchmark"))
        with DAG("benchmark", schedule=None) as self._dag:
            Timed(
                task_id="documents",
                inputs="{{ params.inputs }}",
                output_path="{{ params.output }}",
                skill_id="{{ params.skill_id }}",
                abbyy_vantage_conn_id=CONN_ID,
                parallel=PARALLEL,
                poke_interval=POLL,
                deferrable=False,
                params={"inputs": "", "output": "", "skill_id": ""}
            )
        self._dag.params.update({"inputs": "", "output": "", "skill_id": ""})
        bag = DagBag("/dev/null", bundle_name="benchmark")
        bag.bag_dag(self._dag)
        sync_bag_to_db(bag, "benchmark", None)

    def run(self, **params: str) -> None:
        run = self._dag.test(run_conf=params)
        if str(run.state) != "success":
            raise RuntimeError(f"the run is {run.state}")


class _Clock:
    """Takes wall and CPU time of this process."""

    def __init__(self, took: list[tuple[float, float]]) -> None:
        self._took = took

    def __enter__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def __exit__(self, *exc: object) -> None:
        self._took.append(
            (time.perf_counter() - self._begin[0], time.process_time() - self._begin[1])
        )


def _work() -> None:
    """Be the process that is measured: a line of JSON in for each go, and one out."""
    import os

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    airflow = _Airflow()
    answers.write("{}\n")
    for line in sys.stdin:
        go = json.loads(line)
        account = Account(**go["account"])
        server = psutil.Process(account.process)
        before = server.cpu_times()
        took: list[tuple[float, float]] = airflow.took
        if go["contestant"] == "ours":
            os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = account.connection()
            airflow.run(inputs=f"{go['inputs']}/*", output=go["output"], skill_id=go["skill_id"])
        else:
            files = sorted(Path(go["inputs"]).iterdir())
            with _Clock(took):
                bare.process(
                    account,
                    [files] if go["together"] else [[file] for file in files],
                    go["skill_id"],
                    Path(go["output"]),
                    parallel=PARALLEL,
                    interval=POLL,
                    look=go["contestant"] == "looking",
                )
        after = server.cpu_times()
        wall, cpu = took.pop()
        served = after.user + after.system - before.user - before.system
        answers.write(json.dumps({"wall": wall, "cpu": cpu, "server": served}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", default="single")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs")
        inputs.mkdir()
        for number in range(a.files):
            rnd = random.Random(number)
            (inputs / f"page-{number:04}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + rnd.randbytes(SIZE))
        scene = SCENES[a.scene]
        child = subprocess.Popen([sys.executable, __file__, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open("/tmp/h/worker.err", "w"), text=True, env=airflow_environment(folder))
        print(child.stdout.readline())
        n = 0
        for r in range(a.rounds + 1):
            keys = list(CONTESTANTS)
            random.shuffle(keys)
            for key in keys:
                n += 1
                out = Path(folder, f"out{n}")
                with sandbox(processing_polls=0, processing_seconds=scene.processing, latency=scene.latency) as account:
                    from vantage_orchestration.sandbox import SandboxControl
                    c = SandboxControl(account.url)
                    sk = c.skill_id(scene.skill)
                    child.stdin.write(json.dumps({"contestant": key, "account": account.__dict__, "inputs": str(inputs), "output": str(out), "skill_id": sk, "together": scene.skill == "Default process"}) + "\n")
                    child.stdin.flush()
                    print(r, key, child.stdout.readline().strip(), len(c.journal()), len(list(out.rglob("*.json"))), flush=True)
                    if r == 0:
                        import collections, re
                        print(collections.Counter((e["method"], re.sub(r"[0-9a-f-]{36}", "*", e["path"])) for e in c.journal()).most_common(20))


if __name__ == "__main__":
    _work() if "--work" in sys.argv else main()
