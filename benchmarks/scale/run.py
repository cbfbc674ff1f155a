# SPDX-License-Identifier: Apache-2.0
"""Measures what other people's transactions cost, and writes RESULTS.md and growth.svg.

``python benchmarks/scale/run.py``, in an environment with ``.[airflow,prefect,sandbox]`` and the
dependency group ``benchmark``. See the README beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import loop
import pendulum
import plot
from place import table

from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.options import Options
from vantage_orchestration.processing.host_notes import forget_all
from vantage_orchestration.processing.job import begin, finish, job_token
from vantage_orchestration.processing.keys import KEY_PARAMETER, TaskKey
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.processing.submit import Work
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.sandbox.inbox import small_pdf
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import Wait
from vantage_orchestration.waiting.poller import SharedPoller, Watch
from vantage_orchestration.waiting.rules import WaitRules
from vantage_orchestration.waiting.watcher import Watcher

HERE = Path(__file__).resolve().parent
PARTS = ("memory", "tenants", "loop")
NUMBERS = (0, 20_000, 100_000)
#: Ours: of a job, waited for together, and asked for by a triggerer.
DOCUMENTS, RUNNING, TRIGGERS = 60, 3_000, 10_000
#: Tasks that look for one key each.
TASKS = 37
SKILL, TOKEN = "Invoice", job_token("run")
DAY = 86400.0


@dataclass(frozen=True)
class Tenant:
    """Other people's transactions, and how the server reads filters.

    Attributes:
        name: What the table calls it.
        seconds: Time over which theirs were created, up to now.
        parameter_filter: Setting of the sandbox.
        order: Setting of the sandbox.
        others: What theirs carry.
    """

    name: str
    seconds: float
    parameter_filter: str = "both"
    order: str = "oldest"
    others: dict[str, Any] = field(default_factory=lambda: {"source": "PublicAPI"})


TENANTS = (
    Tenant("over 14 days", 14 * DAY),
    Tenant("over 14 days, newest first", 14 * DAY, order="newest"),
    Tenant("a burst: in the last five minutes", 300.0, order="mixed"),
    Tenant("the filter is misread", 14 * DAY, "misread"),
    Tenant("the filter can't be proved: by mail, nothing of ours listed", 14 * DAY, others={}),
)


@dataclass(frozen=True)
class Found:
    """What was measured among N transactions of others: requests, but for what says otherwise."""

    first: int
    first_seconds: float
    further: float
    pages: int
    known: int
    rounds: tuple[int, int]
    per_document: float

    def cells(self) -> list[str]:
        """Return the cells of a row."""
        return [
            f"{self.first}, {self.first_seconds:.2f} s",
            f"{self.further:.0f}",
            f"{self.pages}, {self.known} of {DOCUMENTS}",
            f"{self.rounds[0]}, {self.rounds[1]}",
            f"{self.per_document:.2f}",
        ]

    def growth(self) -> dict[str, float]:
        """Return what is drawn, by the title of its panel."""
        return {
            "first look-up of a host": self.first,
            "look-up of a further task": self.further,
            "page numbers": self.pages,
            "a further round of waiting": self.rounds[1],
        }


def _pieces(count: int, most: int) -> list[int]:
    """Return the sizes of calls that each take a moment."""
    return [min(most, count - begin) for begin in range(0, count, most)]


class Case:
    """A sandbox with other people's transactions, and what is measured in it."""

    def __init__(self, tenant: Tenant, count: int, folder: Path) -> None:
        self.tenant = tenant
        self.count = count
        self.folder = folder
        self.server = SandboxServer(
            processing_polls=0, parameter_filter=tenant.parameter_filter, list_order=tenant.order
        )

    def __enter__(self) -> Case:
        self.server.start()
        self.skill = self.server.control.skill_id(SKILL)
        self.server.control.set(processing_seconds=DAY)
        theirs = {"seconds": self.tenant.seconds, **self.tenant.others}
        for size in _pieces(self.count, 10_000):
            for ended in (True, False):
                self.server.control.add_others(size, SKILL, ended=ended, **theirs)
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()

    def receive(self, count: int) -> list[str]:
        """Let transactions of ours run, a few hundred in each call."""
        receive, key = self.server.control.receive_many, {KEY_PARAMETER: "0" * 64}
        pieces = _pieces(count, 500)
        return [each for size in pieces for each in receive(size, SKILL, parameters=key)]

    def client(self) -> VantageClient:
        """Return a client of a process that knows nothing yet."""
        forget_all()
        account = {k: v for k, v in self.server.credentials.items() if k != "tenant_id"}
        store = {"store": "file", "store_path": str(self.folder / "tokens")}
        return VantageClient(
            VantageConfig.from_fields(
                {"region": "custom", "base_url": self.server.url, **account, **store}
            )
        )

    @contextmanager
    def counted(self, into: list[int]) -> Iterator[None]:
        """Count the requests that are sent meanwhile, but for logins."""
        before = self.server.control.count("GET", "/api/")
        yield
        into.append(self.server.control.count("GET", "/api/") - before)


def measure(case: Case) -> Found:
    """Measure one case."""
    looked, first_look = _look_ups(case)
    pages, known, per_document = _documents(case)
    rounds = _rounds(case)
    further = median(looked[1:])
    return Found(looked[0], first_look, further, pages, known, rounds, per_document)


def _look_ups(case: Case) -> tuple[list[int], float]:
    """Look for keys that were never sent, each as a task in a process of its own."""
    requests: list[int] = []
    seconds = 0.0
    for number in range(TASKS):
        with case.client() as client:
            client.get_token()
            begun = time.monotonic()
            with case.counted(requests):
                found = find_transactions(
                    client, [f"key {number}"], skill_id=case.skill, since=pendulum.now("UTC")
                )
            if number == 0:
                seconds = time.monotonic() - begun
            if found:
                raise AssertionError(f"found what was never sent: {found}")
    return requests, seconds


def _rounds(case: Case) -> tuple[int, int]:
    """Look twice at running transactions of ours."""
    requests: list[int] = []
    ids = case.receive(RUNNING)
    with case.client() as client:
        watcher = Watcher(client, clock=iter(range(0, 10**6, 30)).__next__)
        for _ in range(2):
            with case.counted(requests):
                seen = watcher.look(ids, skill_id=case.skill).seen
            if len(seen) != RUNNING:
                raise AssertionError(f"{len(seen)} of {RUNNING} were seen")
    return requests[0], requests[1]


def _documents(case: Case) -> tuple[int, int, float]:
    """Process documents; return requests for pages, how many are known, requests a document."""
    case.server.control.set(processing_seconds=0.0)
    inputs = case.folder / "in"
    inputs.mkdir(exist_ok=True)
    for number in range(DOCUMENTS):
        (inputs / f"{number}.pdf").write_bytes(small_pdf() + b"%% %d" % number)
    output, options = Location.of(case.folder / "out"), Options()
    files = Location.of(inputs).files("*.pdf")
    with case.client() as client:
        client.get_token()
        before = case.server.control.count(path_regex="/api/")
        work = Work(client, case.skill, TaskKey("run"), options)
        job = begin(work, files, output, token=TOKEN)
        rules = WaitRules(poke_interval=1.0)
        wait = Wait(job.transaction_ids, rules, time.time(), skill_id=case.skill)
        outcome = wait_here(client, wait)
        listed = r"/transactions/completed$"
        lists = case.server.control.count("GET", listed)
        manifest = finish(work, Output(output), token=TOKEN, outcome=outcome)
        pages = case.server.control.count("GET", listed) - lists
        sent = case.server.control.count(path_regex="/api/") - before
    case.server.control.set(processing_seconds=DAY)
    known = sum(entry.pages is not None for entry in manifest.transactions)
    return pages, known, sent / DOCUMENTS


def memory() -> str:
    """Measure the megabytes that a process needs more for waits of many triggers."""

    async def watch(case: Case, ids: Sequence[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        poller = SharedPoller(case.client)
        rules = WaitRules(poke_interval=5.0)
        with _all(poller, ids, rules, case.skill):
            while case.server.control.count("GET", "/active$") < len(ids) / 1000:
                await asyncio.sleep(1.0)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    with tempfile.TemporaryDirectory() as folder, Case(TENANTS[0], 0, Path(folder)) as case:
        ids = case.receive(TRIGGERS)
        megabytes = asyncio.run(watch(case, ids))
    return f"Memory for {TRIGGERS:,} waits of triggers in one process: {megabytes:.0f} MB.\n"


@contextmanager
def _all(
    poller: SharedPoller, ids: Sequence[str], rules: WaitRules, skill_id: str
) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for each in ids:
            stack.enter_context(Watch(poller, Wait([each], rules, time.time(), skill_id=skill_id)))
        yield


def tenants(numbers: Sequence[int], chart: Path, say: Callable[[str], object]) -> str:
    """Measure one tenant after the other; return their tables, and draw their growth."""
    parts = []
    growth: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for tenant in TENANTS:
        rows = []
        for count in numbers:
            begin = time.monotonic()
            with tempfile.TemporaryDirectory() as folder, Case(tenant, count, Path(folder)) as case:
                found = measure(case)
            rows.append([f"{count:,}", *found.cells()])
            growth.setdefault(tenant.name, []).append((count, found.growth()))
            took = time.monotonic() - begin
            say(f"{tenant.name}, {count:,}: {', '.join(rows[-1][1:])} ({took:.0f} s)")
        parts.append(f"### {tenant.name}\n\n{table(_HEAD, rows)}\n")
    plot.draw(growth, chart)
    return _TENANTS.format(
        documents=DOCUMENTS,
        running=RUNNING,
        tasks=TASKS,
        chart=chart.name,
        tables="\n".join(parts),
    )


_HEAD = (
    "N ended and N running of others",
    "look-up of a key that was never sent, first on the host",
    "each further task",
    "page numbers after success",
    "a round of waiting, first and further",
    "requests a document",
)
_TENANTS = """## Other people's transactions

{tasks} tasks look for one key each, as processes of one host that know nothing yet. {documents}
documents are processed, then their pages are read. {running} of ours run and are looked at twice.
Where others have started theirs within the minutes before ours, a round of waiting reads one page
of theirs, and then only transactions that carry our key. Where the filter is misread, or can't be
proved, the first look-up of a host reads the last day of both lists.

![requests by the number of other people's transactions]({chart})

{tables}
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts")
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS, help="%(default)s")
    parser.add_argument("--files", type=int, default=loop.FILES, help="of ours (%(default)s)")
    parser.add_argument("--rounds", type=int, default=loop.ROUNDS, help="goes (%(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="%(default)s")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    measured: dict[str, Callable[[], str]] = {
        "memory": memory,
        "tenants": lambda: tenants(
            arguments.numbers, arguments.output.with_name("growth.svg"), say
        ),
        "loop": lambda: loop.report(arguments.files, arguments.rounds, say),
    }
    parts, took = [], []
    for part in (each for each in PARTS if each in arguments.only):
        begin = time.monotonic()
        parts.append(measured[part]())
        took.append(f"{part} {time.monotonic() - begin:.0f} s")
        say(took[-1])
    head = f"""# What other people's transactions cost, measured

Made by `run.py` on {os.cpu_count()} cores, with Python {platform.python_version()}, in one run:\
 {", ".join(took)}.
The service is the sandbox on 127.0.0.1. Compare requests and ratios; times belong to one machine.
"""
    arguments.output.write_text("\n".join([head, *parts]).rstrip() + "\n")
    sys.stdout.write(f"{arguments.output}\n")


if __name__ == "__main__":
    main()
