# SPDX-License-Identifier: Apache-2.0
"""Measures 500 files through flows, beside the same flows with a task that does nothing.

All run in one process, one after the other in changing order, each time with a new sandbox in a
process of its own. The Prefect server is another process. The loop with ``requests`` is that of the
Airflow side's benchmark.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import bare
import psutil
from place import SIZE, Account, Worker, sandbox, table, write_pages
from server import Server, environment_of, server

BLOCK = "benchmark"
SKILL = "Invoice"
FILES = 500
PARALLEL = 8
#: Seconds between two looks.
POLL = 10.0

CONTESTANTS = {
    "bare": "bare loop",
    "looking": "bare loop that looks before each start",
    "batch": "**flow with one task for all files**",
    "batch_nothing": "that flow with a task that does nothing",
    "mapped": "**flow with a task for each file**",
    "mapped_nothing": "that flow with tasks that do nothing",
}


@dataclass(frozen=True)
class Scene:
    """What the service is like, and who meets it.

    Attributes:
        title: Title of the table.
        latency: Seconds that each reply takes.
        processing: Seconds that a transaction takes.
        contestants: Keys of :data:`CONTESTANTS`.
    """

    title: str
    latency: float
    processing: float
    contestants: tuple[str, ...]


SCENES = {
    "instant": Scene("Nothing takes time but computing", 0.0, 0.0, tuple(CONTESTANTS)),
    "service": Scene(
        "A reply takes 50 ms, a transaction 5 s", 0.05, 5.0, ("bare", "looking", "batch")
    ),
}


# ------------------------------------------------------ the process that is measured


def _flows() -> dict[str, Callable[[list[str], str, str], object]]:
    """Return what is measured of Prefect: it takes files, a folder for results, and a skill."""
    from prefect import flow, task, unmapped
    from prefect.cache_policies import NO_CACHE
    from prefect.task_runners import ThreadPoolTaskRunner

    from vantage_orchestration.prefect import tasks

    runner: Any = ThreadPoolTaskRunner(max_workers=PARALLEL)

    @task(cache_policy=NO_CACHE)
    def nothing(credentials: str, document: object, skill: str) -> list[object]:
        return []

    @flow(name="batch")
    def batch(files: list[str], output: str, skill: str) -> object:
        return tasks.process_documents(
            BLOCK, files, output, skill, parallel=PARALLEL, poke_interval=POLL
        )

    @flow(name="batch-nothing")
    def batch_nothing(files: list[str], output: str, skill: str) -> object:
        return nothing(BLOCK, files, skill)

    @flow(name="mapped", task_runner=runner)
    def mapped(files: list[str], output: str, skill: str) -> object:
        return tasks.process_document.map(unmapped(BLOCK), files, unmapped(skill)).result()

    @flow(name="mapped-nothing", task_runner=runner)
    def mapped_nothing(files: list[str], output: str, skill: str) -> object:
        return nothing.map(unmapped(BLOCK), files, unmapped(skill)).result()

    return {
        "batch": batch,
        "batch_nothing": batch_nothing,
        "mapped": mapped,
        "mapped_nothing": mapped_nothing,
    }


@contextmanager
def _measured(found: dict[str, float], *others: psutil.Process) -> Iterator[None]:
    """Take the wall and CPU seconds of this process, and the CPU seconds of others."""

    def spent() -> float:
        times = [each.cpu_times() for each in others]
        return sum(each.user + each.system for each in times)

    wall, cpu, other = time.perf_counter(), time.process_time(), spent()
    yield
    found["wall"] = time.perf_counter() - wall
    found["cpu"] = time.process_time() - cpu
    found["others"] = spent() - other


def _work() -> None:
    """Be that process: it reads a line of JSON for each go, and answers with another."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from vantage_orchestration.prefect import VantageCredentials

    flows = _flows()
    logging.getLogger().setLevel(logging.WARNING)
    prefect_server = psutil.Process(int(sys.argv[1]))
    for line in sys.stdin:
        order = json.loads(line)
        account = Account(**order["account"])
        fields = {
            name: it for name, it in asdict(account).items() if name not in ("url", "process")
        }
        VantageCredentials(region="custom", base_url=account.url, **fields).save(
            BLOCK, overwrite=True
        )
        files = sorted(str(path) for path in Path(order["inputs"]).iterdir())
        key, output, skill = order["contestant"], order["output"], order["skill"]
        found: dict[str, float] = {}
        with _measured(found, prefect_server):
            if key in flows:
                flows[key](files, output, skill)
            else:
                bare.process(
                    account,
                    [[Path(file)] for file in files],
                    skill,
                    Path(output),
                    parallel=PARALLEL,
                    interval=POLL,
                    look=key == "looking",
                )
        answers.write(json.dumps(found) + "\n")


# ------------------------------------------------------------------- outside of it


def worker_of(home: str, server: Server) -> Worker:
    """Start that process.

    Args:
        home: Folder of its own.
        server: Prefect's server.
    """
    environment = {
        **environment_of(home),
        "PREFECT_API_URL": server.api,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(Path(bare.__file__).parent),
    }
    return Worker(Path(home, "worker.txt"), environment, __file__, str(server.process))


def _go(worker: Worker, key: str, scene: Scene, inputs: Path, output: Path) -> dict[str, Any]:
    """Let one contestant process all files once, and look whether it has."""
    settings: dict[str, Any] = {"processing_polls": 0, "processing_seconds": scene.processing}
    with sandbox(latency=scene.latency, **settings) as account:
        found = worker(
            contestant=key,
            account=asdict(account),
            inputs=str(inputs),
            output=str(output),
            skill=account.control.skill_id(SKILL),
        )
        asked = Counter(each["path"].rpartition("/")[2] for each in account.control.journal())
        ended = [each["status"] for each in account.control.transactions()]
    files = 0 if key.endswith("nothing") else len(list(inputs.iterdir()))
    if asked["start"] != files or ended != ["Processed"] * files or asked["download"] < files:
        raise RuntimeError(f"{key}: not every file was processed once: {asked}")
    return {**found, "requests": sum(asked.values())}


def _measure(
    worker: Worker, scene: Scene, inputs: Path, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in scene.contestants}
    order = list(scene.contestants)
    for _ in range(rounds):
        random.shuffle(order)
        for key in order:
            with tempfile.TemporaryDirectory(dir=inputs.parent) as output:
                found[key].append(_go(worker, key, scene, inputs, Path(output)))
    return found


def report(files: int = FILES, rounds: int = 5, scenes: tuple[str, ...] = tuple(SCENES)) -> str:
    """Measure and return the result in Markdown.

    Args:
        files: Number of files.
        rounds: Goes of each contestant in each scene.
        scenes: Keys of :data:`SCENES`.
    """
    parts = []
    with tempfile.TemporaryDirectory() as folder, server(folder) as prefect_server:
        few = write_pages(Path(folder, "few"), min(files, 3 * PARALLEL))
        inputs = write_pages(Path(folder, "inputs"), files)
        worker = worker_of(folder, prefect_server)
        try:
            # What is imported and connected once in a process is not measured.
            _measure(worker, SCENES["instant"], few, 1)
            for key in scenes:
                found = _measure(worker, SCENES[key], inputs, rounds)
                parts.append(_section(SCENES[key], found, files))
        finally:
            worker.close()
    return f"""## {files} files through flows and through a bare loop

{files} files of {SIZE // 1000} kB, a transaction for each, {PARALLEL} connections or threads for\
 each contestant. Medians of
{rounds} goes each, in changing order, after a small one that does not count; the spread is in\
 brackets. CPU
is user and system time of the flow's process, per file. The Prefect server and the sandbox are
other processes; the last column is the CPU time of the Prefect server, per file.

{"".join(parts)}"""


def _section(scene: Scene, found: dict[str, list[dict[str, Any]]], files: int) -> str:
    def spread(values: list[float], form: str) -> str:
        ordered = sorted(values)
        low, middle, high = (
            format(each, form) for each in (ordered[0], median(ordered), ordered[-1])
        )
        return f"{middle} ({low} to {high})"

    def per_file(key: str, name: str, less: tuple[str, ...] = ()) -> list[float]:
        """Return milliseconds per file, less those of other contestants in the same round."""
        return [
            1000 / files * (go[name] - sum(found[other][number][name] for other in less))
            for number, go in enumerate(found[key])
        ]

    rows = []
    for key in scene.contestants:
        rows.append(
            [
                CONTESTANTS[key],
                f"{spread([go['wall'] for go in found[key]], '.1f')} s",
                f"{spread(per_file(key, 'cpu'), '.1f')} ms",
                f"{median(go['requests'] for go in found[key]) / files:.1f}",
                f"{median(per_file(key, 'others')):.1f} ms",
            ]
        )
    head = ["", "wall time", "CPU", "requests to the service", "CPU of the Prefect server"]
    text = f"### {scene.title}\n\n{table(head, rows)}\n\n"
    shares = []
    for key in ("batch", "mapped"):
        nothing = f"{key}_nothing"
        if nothing in found:
            shares.append(
                [
                    CONTESTANTS[key],
                    f"{spread(per_file(key, 'cpu', (nothing,)), '.1f')} ms",
                    f"{spread(per_file(key, 'cpu', (nothing, 'bare')), '.1f')} ms",
                ]
            )
    if shares:
        head = ["CPU per file", "above the flow that does nothing", "and above the bare loop"]
        text += f"""{table(head, shares)}

The first column holds the requests to the service, which the bare loop has to send as well. The
second is this package's own share, for which the aim is 10 ms or less.

"""
    return text


if __name__ == "__main__":
    _work()
