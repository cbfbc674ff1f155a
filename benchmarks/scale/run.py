# SPDX-License-Identifier: Apache-2.0
"""Measures what other people's transactions cost, and writes RESULTS.md.

``python benchmarks/scale/run.py``, in an environment with ``.[sandbox]``. See the README beside it.
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

import pendulum

from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.options import Options
from vantage_orchestration.processing.job import begin, finish, job_token
from vantage_orchestration.processing.key_filter import forget_proofs
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.skills import forget_skills
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.sandbox.inbox import small_pdf
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting import Wait, WaitRules, Watcher, wait_here
from vantage_orchestration.waiting.poller import SharedPoller

HERE = Path(__file__).resolve().parent
NUMBERS = (0, 5_000, 20_000, 100_000)
#: Ours: of a job, waited for together, and asked for by a triggerer.
DOCUMENTS, RUNNING, TRIGGERS = 60, 3_000, 10_000
#: Tasks that look for one key each.
TASKS = 37
SKILL, TOKEN = "Invoice", job_token("run")
DAY = 86400.0
_PIECE = 500


@dataclass(frozen=True)
class Tenant:
    """Other people's transactions, and how the server reads filters.

    Attributes:
        name: What the table calls it.
        seconds: Time over which theirs were created, up to now.
        parameter_filter: Setting of the sandbox.
        order: Setting of the sandbox.
        most: Largest number of theirs that is measured: there both lists are read once.
        others: What theirs carry.
    """

    name: str
    seconds: float
    parameter_filter: str = "both"
    order: str = "oldest"
    most: int = 10**6
    others: dict[str, Any] = field(default_factory=lambda: {"source": "PublicAPI"})


TENANTS = (
    Tenant("over 14 days", 14 * DAY),
    Tenant("in the last five minutes", 300.0, order="mixed"),
    Tenant("filter misread", 14 * DAY, "misread", most=20_000),
    Tenant("by mail, nothing of ours listed", 14 * DAY, most=20_000, others={}),
    Tenant("newest first", 14 * DAY, order="newest"),
)


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
        for ended in (True, False):
            if self.count:
                theirs = {"seconds": self.tenant.seconds, **self.tenant.others}
                self.server.control.add_others(self.count, SKILL, ended=ended, **theirs)
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()

    def receive(self, count: int) -> list[str]:
        """Let transactions of ours run, a few hundred in each call."""
        sizes = [min(_PIECE, count - begin) for begin in range(0, count, _PIECE)]
        return [each for size in sizes for each in self.server.control.receive_many(size, SKILL)]

    def client(self) -> VantageClient:
        """Return a client of a process that knows nothing yet."""
        forget_proofs()
        forget_skills()
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


def measure(case: Case) -> list[str]:
    """Return the cells of a row."""
    looked, first_look = _look_ups(case)
    rounds = _rounds(case)
    pages, found, per_document = _documents(case)
    return [
        f"{looked[0]}, {first_look:.2f} s",
        f"{median(looked[1:]):.0f}",
        f"{pages}, {found} of {DOCUMENTS}",
        f"{rounds[0]}, {rounds[1]}",
        f"{per_document:.2f}",
    ]


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


def _rounds(case: Case) -> list[int]:
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
    return requests


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
        job = begin(client, files, output, TaskKey("run"), case.skill, options, token=TOKEN)
        wait = Wait(job.transaction_ids, WaitRules(poke_interval=1.0), time.time())
        outcome = wait_here(client, wait, skill_id=case.skill)
        listed = r"/transactions/completed$"
        lists = case.server.control.count("GET", listed)
        manifest = finish(
            client, output, case.skill, options, token=TOKEN, processed=outcome.processed
        )
        pages = case.server.control.count("GET", listed) - lists
        sent = case.server.control.count(path_regex="/api/") - before
    known = sum(entry.pages is not None for entry in manifest.transactions)
    return pages, known, sent / DOCUMENTS


def memory() -> float:
    """Return the megabytes that a process needs more for waits of many triggers."""

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
        return asyncio.run(watch(case, ids))


@contextmanager
def _all(
    poller: SharedPoller, ids: Sequence[str], rules: WaitRules, skill_id: str
) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for each in ids:
            stack.enter_context(poller.watch(Wait([each], rules, time.time()), skill_id=skill_id))
        yield


def plot(name: str, values: Sequence[tuple[int, float]]) -> str:
    """Return the growth as bars of text."""
    most = max(value for _, value in values) or 1.0
    bars = [
        f"{count:>8,} {'#' * max(1, round(40 * value / most))} {value:g}" for count, value in values
    ]
    return "\n".join([name, *bars])


def tables(numbers: Sequence[int], say: Callable[[str], object]) -> Iterator[str]:
    """Measure one tenant after the other; yield table and plot of each."""
    for tenant in TENANTS:
        rows, growth = [], []
        for count in (each for each in numbers if each <= tenant.most):
            with tempfile.TemporaryDirectory() as folder, Case(tenant, count, Path(folder)) as case:
                cells = measure(case)
            say(f"{tenant.name}, {count}: {cells}")
            rows.append(f"| {count:,} | " + " | ".join(cells) + " |")
            growth.append((count, float(cells[0].partition(",")[0])))
        shown = plot("requests of the first look-up", growth)
        yield _TABLE.format(name=tenant.name, rows="\n".join(rows)) + f"\n```text\n{shown}\n```\n\n"


_TABLE = """## {name}

| N ended and N running of others | look-up of a key that was never sent, first on the host | \
each further task | page numbers after success | a round of waiting, first and further | \
requests a document |
|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS, help="%(default)s")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="%(default)s")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    megabytes = memory()
    say(f"{megabytes:.1f} MB")
    head = _HEAD.format(
        cores=os.cpu_count(),
        python=platform.python_version(),
        documents=DOCUMENTS,
        running=RUNNING,
        tasks=TASKS,
        triggers=TRIGGERS,
        megabytes=megabytes,
    )
    parts = [head]
    for part in tables(arguments.numbers, say):
        parts.append(part)
        arguments.output.write_text("".join(parts).rstrip() + "\n")
    sys.stdout.write(f"{arguments.output}\n")


_HEAD = """# Other people's transactions, measured

Made by `run.py` on {cores} cores, with Python {python}. The service is the
sandbox on 127.0.0.1, in the same process. Requests are what counts; times belong to one machine.

{tasks} tasks look for one key each, as processes of one host that know nothing yet. {documents}
documents are processed, then their pages are read. {running} of ours run and are looked at twice.

| | |
|---|---|
| memory for {triggers} waits of triggers in one process | {megabytes:.0f} MB |

"""


if __name__ == "__main__":
    main()
