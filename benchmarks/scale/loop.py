# SPDX-License-Identifier: Apache-2.0
"""Measures documents through the operator and a flow, beside a bare loop, all in one run.

The operator and the loop run in one process, the flow in another, and the service in a third, which
is a new one for each go: the lists would show what another contestant has sent with our key. The
contestants alternate. They are those of the Airflow and the Prefect benchmark.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent / "airflow"), str(HERE.parent / "prefect")]
sys.path.append(str(HERE.parents[1] / "tests"))

import documents  # noqa: E402
from place import SIZE, Account, Worker, airflow_environment, sandbox, table, write_pages  # noqa: E402
from server import server  # noqa: E402

import flows  # noqa: E402

FILES, ROUNDS = 1_000, 2
#: Seconds that a reply takes.
LATENCY = 0.05
#: Ratio to the bare loop that is aimed at, by the seconds that a transaction takes.
AIMS = {5.0: 1.05, 0.0: 1.25}
#: The title, the worker, and what the worker calls it.
CONTESTANTS = {
    "bare loop": ("airflow", "bare"),
    "operator": ("airflow", "ours"),
    "flow": ("prefect", "batch"),
}
Goes = dict[str, list[dict[str, float]]]


def report(files: int, rounds: int, say: Callable[[str], object]) -> str:
    """Measure and return the result in Markdown.

    Args:
        files: Number of files.
        rounds: Goes of each contestant, for each time that a transaction takes.
        say: Is told how far it is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("airflow", "prefect"):
            (folder / each).mkdir()
        few, inputs = write_pages(folder / "few", 16), write_pages(folder / "inputs", files)
        with server(str(folder / "prefect")) as prefect_server:
            airflow_home = str(folder / "airflow")
            log = folder / "airflow" / "log.txt"
            workers = {
                "airflow": Worker(log, airflow_environment(airflow_home), documents.__file__),
                "prefect": flows.worker_of(str(folder / "prefect"), prefect_server),
            }
            try:
                # What is imported and connected once in a process is not measured.
                _round(workers, 0.0, few, say)
                rows = [
                    row
                    for seconds, aim in AIMS.items()
                    for row in _rows(
                        seconds, aim, [_round(workers, seconds, inputs, say) for _ in range(rounds)]
                    )
                ]
            finally:
                for worker in workers.values():
                    worker.close()
    head = ["", "wall time", "ratio to the bare loop", "aim", "requests a document"]
    return _TEXT.format(
        files=files,
        size=SIZE // 1000,
        parallel=documents.PARALLEL,
        pause=documents.POLL,
        latency=LATENCY * 1000,
        rounds=rounds,
        table=table([*head, "CPU a document"], rows),
    )


_TEXT = """## {files:,} documents of ours beside a bare loop

{files:,} files of {size} kB, a transaction for each. Each contestant has {parallel} connections and
pauses {pause:.0f} s between looks; a reply takes {latency:.0f} ms. The loop sends the requests of
the protocol by `requests`, repeats none and knows of no earlier try. Medians of {rounds} goes; a
ratio is that of two goes of the same round, its spread is in brackets.

{table}
"""


def _round(
    workers: Mapping[str, Worker], seconds: float, inputs: Path, say: Callable[[str], object]
) -> dict[str, dict[str, float]]:
    """Let all contestants process all files once, in any order."""
    settings: dict[str, Any] = {"processing_polls": 0, "processing_seconds": seconds}
    goes = {}
    for title in random.sample(list(CONTESTANTS), len(CONTESTANTS)):
        with sandbox(latency=LATENCY, **settings) as account:
            goes[title] = _go(workers, title, account, inputs)
        say(f"{inputs.name}, {seconds:g} s: {title} {goes[title]['wall']:.1f} s")
    return goes


def _go(
    workers: Mapping[str, Worker], title: str, account: Account, inputs: Path
) -> dict[str, float]:
    """Let one contestant process all files, and look whether it has."""
    name, contestant = CONTESTANTS[title]
    count = len(list(inputs.iterdir()))
    with tempfile.TemporaryDirectory(dir=inputs.parent) as output:
        found = workers[name](
            contestant=contestant,
            account=asdict(account),
            inputs=str(inputs),
            output=output,
            skill=(skill := account.control.skill_id(flows.SKILL)),
            skill_id=skill,
            together=False,
        )
    asked = Counter(each["path"].rpartition("/")[2] for each in account.control.journal())
    ended = [each["status"] for each in account.control.transactions()]
    if asked["start"] != count or ended != ["Processed"] * count or asked["download"] < count:
        raise RuntimeError(f"{title}: not every file was processed once: {asked}")
    return {
        "wall": found["wall"],
        "cpu": 1000 * found["cpu"] / count,
        "requests": sum(asked.values()) / count,
    }


def _rows(
    seconds: float, aim: float, rounds: Sequence[Mapping[str, Mapping[str, float]]]
) -> list[list[str]]:
    takes = f"a transaction takes {seconds:g} s" if seconds else "it takes no time"
    rows = []
    for title in CONTESTANTS:
        goes = [each[title] for each in rounds]
        ratios = [each[title]["wall"] / each["bare loop"]["wall"] for each in rounds]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        measured = title != "bare loop"
        rows.append(
            [
                f"{takes}: {title}",
                f"{median(each['wall'] for each in goes):.1f} s",
                spread if measured else "1",
                f"{aim:.2f}" if measured else "",
                f"{median(each['requests'] for each in goes):.2f}",
                f"{median(each['cpu'] for each in goes):.1f} ms",
            ]
        )
    return rows
