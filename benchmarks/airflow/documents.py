# SPDX-License-Identifier: Apache-2.0
"""Measures 500 files through the operator beside a bare loop with ``requests``.

Both run in one process, one after the other in changing order, each time with a new sandbox in a
process of its own. The operator is a task of a real Dag run (``dag.test()``), with a real database
and the real execution API within the same process, in which its ledger is kept. It waits in the
worker (``deferrable=False``), since the bare loop does.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import bare
import psutil
from place import (
    CONN_ID,
    SIZE,
    Account,
    Worker,
    airflow_environment,
    sandbox,
    table,
    write_pages,
)

FILES = 500
PARALLEL = 8
#: Seconds between two looks: the operator's default.
POLL = 10.0

CONTESTANTS = {
    "ours": "VantageProcessDocumentsOperator",
    "bare": "bare loop",
    "looking": "bare loop that looks before each start",
}


@dataclass(frozen=True)
class Scene:
    """What the service is like, and what it is asked to do.

    Attributes:
        title: Title of the table.
        skill: Name of the sandbox's skill.
        together: Whether all files go into one transaction.
        latency: Seconds that each reply takes.
        processing: Seconds that a transaction takes.
    """

    title: str
    skill: str
    together: bool
    latency: float
    processing: float


SCENES = {
    "slow": Scene(
        "A reply takes 50 ms, a transaction 20 s; one transaction for each file",
        "Invoice",
        False,
        0.05,
        20.0,
    ),
    "quick": Scene(
        "A reply takes 50 ms, a transaction 5 s; one transaction for each file",
        "Invoice",
        False,
        0.05,
        5.0,
    ),
    "done": Scene(
        "A reply takes 50 ms, a transaction no time; one transaction for each file",
        "Invoice",
        False,
        0.05,
        0.0,
    ),
    "batch": Scene(
        "A reply takes 50 ms, a transaction no time; one transaction for all files",
        "Default process",
        True,
        0.05,
        0.0,
    ),
    "instant": Scene(
        "Nothing takes time but computing; one transaction for each file",
        "Invoice",
        False,
        0.0,
        0.0,
    ),
}


# ------------------------------------------------------ the process that is measured


class _Airflow:
    """Runs the operator as the task of a Dag run."""

    def __init__(self) -> None:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
        from airflow.models.dagbundle import DagBundleModel
        from airflow.sdk import DAG
        from airflow.utils.db import initdb
        from airflow.utils.session import create_session

        from vantage_orchestration.airflow.operators.vantage import (
            VantageProcessDocumentsOperator,
        )

        took = self.took = _Took()

        class Timed(VantageProcessDocumentsOperator):
            """Takes the time of ``execute``: what is around it is Airflow's work for any task."""

            def execute(self, context: Any) -> Any:
                with took.measured():
                    return super().execute(context)

        initdb()
        with create_session() as session:
            session.merge(DagBundleModel(name="benchmark"))
        names = ("inputs", "output_path", "skill")
        with DAG("benchmark", schedule=None, params=dict.fromkeys(names, "")) as self._dag:
            Timed(
                task_id="documents",
                **{name: f"{{{{ params.{name} }}}}" for name in names},
                abbyy_vantage_conn_id=CONN_ID,
                parallel=PARALLEL,
                poke_interval=POLL,
                deferrable=False,
            )
        bag = DagBag("/dev/null", bundle_name="benchmark")
        bag.bag_dag(self._dag)
        sync_bag_to_db(bag, "benchmark", None)

    def run(self, **params: str) -> None:
        run = self._dag.test(run_conf=params)
        if str(run.state) != "success":
            raise RuntimeError(f"the run is {run.state}")


class _Took:
    """Wall and CPU seconds of this process for one thing."""

    wall = cpu = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu


def _work() -> None:
    """Be that process: it reads a line of JSON for each go, and answers with another."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Airflow's log.
    airflow = _Airflow()
    took = airflow.took
    for line in sys.stdin:
        order = json.loads(line)
        account = Account(**order["account"])
        inputs, output, skill_id = Path(order["inputs"]), order["output"], order["skill_id"]
        server = psutil.Process(account.process)
        before = server.cpu_times()
        if order["contestant"] == "ours":
            os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = account.connection()
            airflow.run(inputs=f"{inputs}/*", output_path=output, skill=skill_id)
        else:
            with took.measured():
                files = sorted(inputs.iterdir())
                bare.process(
                    account,
                    [files] if order["together"] else [[file] for file in files],
                    skill_id,
                    Path(output),
                    parallel=PARALLEL,
                    interval=POLL,
                    look=order["contestant"] == "looking",
                )
        after = server.cpu_times()
        served = after.user + after.system - before.user - before.system
        answers.write(json.dumps({"wall": took.wall, "cpu": took.cpu, "server": served}) + "\n")


# ---------------------------------------------------------------- the measurement


def _go(worker: Worker, key: str, scene: Scene, inputs: Path, output: Path) -> dict[str, Any]:
    """Let one contestant process all files once, and look whether it has."""
    settings: dict[str, Any] = {"processing_polls": 0, "processing_seconds": scene.processing}
    with sandbox(latency=scene.latency, **settings) as account:
        found = worker(
            contestant=key,
            account=asdict(account),
            inputs=str(inputs),
            output=str(output),
            skill_id=account.control.skill_id(scene.skill),
            together=scene.together,
        )
        journal = account.control.journal()
    asked = Counter(f"{each['method']} {_kind(each['path'])}" for each in journal)
    results = [path.read_text() for path in output.rglob("*.json") if path.parent.name.isdigit()]
    sources = Counter(re.findall(r"page-[0-9]{4}\.jpg", "".join({*results})))
    if asked["POST start"] != (1 if scene.together else len(list(inputs.iterdir()))) or len(
        sources
    ) != len(list(inputs.iterdir())):
        raise RuntimeError(f"{key}: not every file was processed once")
    return {**found, "requests": len(journal), "asked": asked}


def _kind(path: str) -> str:
    """Return the last part of a path that is no id."""
    if path.endswith("/download"):
        return "download"
    parts = [each for each in path.split("/") if not re.search("[0-9a-f]{8}-", each)]
    return parts[-1] + ("/{id}" if parts[-1] != path.rpartition("/")[2] else "")


def _measure(
    worker: Worker, scene: Scene, inputs: Path, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in CONTESTANTS}
    order = list(CONTESTANTS)
    for _ in range(rounds):
        random.shuffle(order)
        for key in order:
            with tempfile.TemporaryDirectory(dir=inputs.parent) as output:
                went = _go(worker, key, scene, inputs, Path(output))
            found[key].append(went)
            # It takes long: show how far it is.
            sys.stderr.write(
                f"{scene.title}: {key} {went['wall']:.1f} s, CPU {went['cpu']:.1f} s\n"
            )
    return found


def report(files: int = FILES, rounds: int = 5, scenes: tuple[str, ...] = tuple(SCENES)) -> str:
    """Measure and return the result in Markdown.

    Args:
        files: Number of files.
        rounds: Goes of each contestant in each scene.
        scenes: Keys of :data:`SCENES`.
    """
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_pages(Path(folder, "inputs"), files)
        worker = Worker(Path(folder, "log.txt"), airflow_environment(folder), __file__)
        try:
            # What is imported and connected once in a process is not measured.
            _measure(worker, SCENES["instant"], inputs, 1)
            for key in scenes:
                parts.append(_section(SCENES[key], _measure(worker, SCENES[key], inputs, rounds)))
        finally:
            worker.close()
    return f"""## {files} files through the operator and through a bare loop

{files} files of {SIZE // 1000} kB, {PARALLEL} connections for each, and the operator's default\
 pause of {POLL:.0f} s between looks
for each. Medians of {rounds} goes each, in changing order, after one that does not count. A ratio
is that of two neighbouring goes of the same round; its spread is in brackets. CPU is that of the
process that is measured, and of the sandbox, which is another process and no part of the first.

{"".join(parts)}"""


def _section(scene: Scene, found: dict[str, list[dict[str, Any]]]) -> str:
    def ratios(key: str, other: str) -> str:
        each = sorted(
            one["wall"] / two["wall"] for one, two in zip(found[key], found[other], strict=True)
        )
        return f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"

    rows = []
    for key, title in CONTESTANTS.items():
        middle = {
            name: median(go[name] for go in found[key])
            for name in ("wall", "cpu", "server", "requests")
        }
        walls = sorted(go["wall"] for go in found[key])
        rows.append(
            [
                f"**{title}**" if key == "ours" else title,
                ratios(key, "bare"),
                ratios(key, "looking"),
                f"{middle['wall']:.1f} s ({walls[0]:.1f} to {walls[-1]:.1f})",
                f"{middle['requests']:.0f}",
                f"{middle['cpu']:.1f} s",
                f"{middle['server']:.1f} s",
            ]
        )
    head = [
        "",
        "wall time, ratio to the bare loop",
        "to the bare loop that looks",
        "wall time",
        "requests",
        "CPU",
        "CPU of the sandbox",
    ]
    asked = {key: found[key][-1]["asked"] for key in ("ours", "bare")}
    differing = [
        f"`{name}` {asked['ours'][name]} and {asked['bare'][name]}"
        for name in sorted({*asked["ours"], *asked["bare"]})
        if asked["ours"][name] != asked["bare"][name]
    ]
    return f"""### {scene.title}

{table(head, rows)}

Requests of which there is not the same number (the operator's, then the bare loop's, in the last
go): {", ".join(differing)}.

"""


if __name__ == "__main__":
    _work()
