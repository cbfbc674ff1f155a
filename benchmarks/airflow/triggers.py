# SPDX-License-Identifier: Apache-2.0
"""Measures how many requests, how much memory and how much of an event loop waiting triggers take.

It starts a sandbox in a process of its own, and for each contestant a process with one event loop
that runs 1000 triggers, as a triggerer does.

Contestants are the trigger of this package, and the usual design, in which each trigger asks for
its own transaction: by a blocking client in a thread, or by an asynchronous one. Both are given
what they usually lack: one client, one connection pool and one token for all triggers, and requests
that are spread evenly over the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from place import CONN_ID, airflow_environment, sandbox, table

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.sandbox import SandboxControl

COUNT = 1000
#: Seconds between two looks at a transaction.
INTERVAL = 10.0
#: Seconds between two samples of the event loop's lag.
SAMPLE = 0.005

Wait = Callable[[str], Awaitable[str]]


# -------------------------------------------------------------- contestants


@contextlib.asynccontextmanager
async def nothing(interval: float) -> AsyncIterator[Wait]:
    """Ask for nothing at all: what this machine does by itself."""

    async def wait(name: str) -> str:
        await asyncio.Event().wait()
        return name

    yield wait


@contextlib.asynccontextmanager
async def ours(interval: float) -> AsyncIterator[Wait]:
    """Run this package's trigger, one for each transaction."""
    from vantage_orchestration.airflow.triggers.transactions import VantageTransactionsTrigger
    from vantage_orchestration.waiting.machine import Wait as OurWait
    from vantage_orchestration.waiting.rules import WaitRules

    rules = WaitRules(poke_interval=interval, max_poke_interval=interval)

    async def wait(name: str) -> str:
        state = OurWait([name], rules, time.time()).to_json()
        trigger = VantageTransactionsTrigger(wait=state, abbyy_vantage_conn_id=CONN_ID)
        async for event in trigger.run():
            return str(event.payload["wait"]["statuses"][name])
        raise RuntimeError("the trigger has ended without an event")

    yield wait


def _client() -> VantageClient:
    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    return VantageHook(CONN_ID).client


async def _spread(interval: float) -> None:
    """Wait for a while: the tasks of a day have not all begun at the same moment."""
    await asyncio.sleep(random.uniform(0, interval))  # noqa: S311 - no secret


@contextlib.asynccontextmanager
async def in_threads(interval: float) -> AsyncIterator[Wait]:
    """Ask for each transaction by a blocking client in a thread."""
    client = await asyncio.to_thread(_client)

    async def wait(name: str) -> str:
        await _spread(interval)
        while True:
            await asyncio.sleep(interval)
            transaction = await asyncio.to_thread(client.get_transaction, name)
            if transaction.ended:
                return transaction.status

    yield wait


@contextlib.asynccontextmanager
async def asynchronous(interval: float) -> AsyncIterator[Wait]:
    """Ask for each transaction by an asynchronous client."""
    import httpx

    client = await asyncio.to_thread(_client)
    token = await client.aget_token()
    api = client.config.credentials.api_url
    headers = {"Authorization": f"Bearer {token.reveal()}"}
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits) as http:

        async def wait(name: str) -> str:
            await _spread(interval)
            while True:
                await asyncio.sleep(interval)
                reply = await http.get(f"{api}/transactions/{name}")
                reply.raise_for_status()
                status = str(reply.json()["status"])
                if status in ("Processed", "Failed", "Canceled"):
                    return status

        yield wait


CONTESTANTS: dict[str, tuple[str, Callable[[float], Any]]] = {
    "nothing": ("nothing but an idle event loop", nothing),
    "ours": ("VantageTransactionsTrigger", ours),
    "in_threads": ("one request a trigger, blocking, in threads", in_threads),
    "asynchronous": ("one request a trigger, asynchronous (httpx)", asynchronous),
}


# -------------------------------------------------------------- measurement


class Lag:
    """Samples how much later than asked for the event loop wakes somebody."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    async def sample(self) -> None:
        """Sample for ever."""
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(SAMPLE)
            self.samples.append(time.perf_counter() - begin - SAMPLE)

    def take(self) -> dict[str, float]:
        """Return what was sampled since the last call, in milliseconds."""
        samples, self.samples = sorted(self.samples), []

        def at(part: float) -> float:
            return 1000 * samples[min(len(samples) - 1, int(part * len(samples)))]

        return {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def _memory() -> float:
    """Return the most memory that this process has had, in MB."""
    # In kilobytes on Linux, in bytes on macOS.
    unit = 1024 if sys.platform != "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


async def measure(
    key: str, ids: list[str], interval: float, seconds: float, control: SandboxControl
) -> dict[str, Any]:
    """Run one contestant: let it wait, then let everything end at once."""
    lag = Lag()
    sampler = asyncio.create_task(lag.sample())
    await asyncio.sleep(0.5)
    before = _memory()
    async with CONTESTANTS[key][1](interval) as wait:
        tasks = [asyncio.create_task(wait(each)) for each in ids]
        # The first round: connections, the login, imports.
        await asyncio.sleep(2 * interval)
        first = lag.take()
        counted = await asyncio.to_thread(control.count, "GET", "/transactions")
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        waiting = lag.take()
        cpu = time.process_time() - cpu
        counted = await asyncio.to_thread(control.count, "GET", "/transactions") - counted
        found: dict[str, Any] = {
            "rounds": seconds / interval,
            "requests": counted,
            "cpu": cpu / (seconds / interval),
            "first": first,
            "waiting": waiting,
        }
        if key != "nothing":
            begin = time.perf_counter()
            await asyncio.to_thread(control.advance, 100_000)
            statuses = await asyncio.gather(*tasks)
            found |= {"ending": lag.take(), "seconds": time.perf_counter() - begin}
            if set(statuses) != {"Processed"}:
                raise RuntimeError(f"transactions ended as {sorted(set(statuses))}")
        for task in (*tasks, sampler):
            task.cancel()
    return {**found, "memory": _memory() - before}


def _contestant(key: str, url: str, interval: float, seconds: float) -> None:
    """Be the process of one contestant."""
    import logging

    logging.disable(logging.INFO)
    from vantage_orchestration.airflow.triggers import transactions  # noqa: F401 - not measured
    from vantage_orchestration.client import VantageClient  # noqa: F401 - nor this
    from vantage_orchestration.sandbox import SandboxControl

    control = SandboxControl(url)
    ids = [each["id"] for each in control.transactions()]
    found = asyncio.run(measure(key, ids, interval, seconds, control))
    sys.stdout.write(json.dumps(found) + "\n")


def _run(key: str, count: int, interval: float, seconds: float, home: str) -> dict[str, Any]:
    """Measure one contestant with a sandbox of its own."""
    running = {"processing_polls": 0, "processing_seconds": 50_000}
    with sandbox(received=count, **running) as account:
        environment = {
            **airflow_environment(home),
            f"AIRFLOW_CONN_{CONN_ID.upper()}": account.connection(),
        }
        done = subprocess.run(  # noqa: S603 - this very script
            [sys.executable, __file__, json.dumps([key, account.url, interval, seconds])],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))


def report(count: int = COUNT, interval: float = INTERVAL, rounds: int = 3) -> str:
    """Measure and return the result in Markdown.

    Args:
        count: Triggers.
        interval: Seconds between two looks.
        rounds: Looks that are measured.
    """
    results = {}
    for key in CONTESTANTS:
        # Each finds no token: the first round counts the login as well.
        with tempfile.TemporaryDirectory() as home:
            results[key] = _run(key, count, interval, rounds * interval, home)
    head = [
        "",
        "requests a round",
        "lag p50",
        "p99",
        "max",
        "lag while all end, p99",
        "max",
        "until all know it",
        "memory",
        "CPU a round",
    ]
    rows = []
    for key, found in results.items():
        ending = found.get("ending")
        rows.append(
            [
                CONTESTANTS[key][0],
                f"{found['requests'] / found['rounds']:.1f}",
                *(f"{found['waiting'][name]:.1f} ms" for name in ("p50", "p99", "max")),
                *(f"{ending[name]:.1f} ms" if ending else "" for name in ("p99", "max")),
                f"{found['seconds']:.1f} s" if ending else "",
                f"{found['memory']:.0f} MB",
                f"{1000 * found['cpu']:.0f} ms",
            ]
        )
    return f"""## {count} waiting triggers in one event loop

Each trigger waits for one transaction and looks every {interval:.0f} s. Measured over {rounds}
rounds of waiting, after the first ones; then all transactions end at the same moment, and each
trigger tells so. The lag is that of a coroutine that sleeps for {1000 * SAMPLE:.0f} ms again and\
 again; its own work is
part of the CPU time. Memory is what was added at the most. The sandbox is another process; its work
is in none of the columns.

{table(head, rows)}
"""


if __name__ == "__main__":
    _contestant(*json.loads(sys.argv[1]))
