# SPDX-License-Identifier: Apache-2.0
"""Measures this package's token handling beside six other libraries and writes RESULTS.md.

``python benchmarks/token/run.py``, in an environment with ``benchmarks/token/requirements.txt``.
See the README beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import report
from contestants import CONTESTANTS, TIMED_TOO, Contestant

HERE = Path(__file__).resolve().parent
LATENCY = 0.05
PROCESSES, THREADS = 16, 8
#: Seconds of one run of the timer.
TIMED = 0.01


class Process:
    """A child that answers each order, a line of JSON, with another."""

    def __init__(self, *command: str) -> None:
        self._child = subprocess.Popen(  # noqa: S603 - this benchmark's own scripts
            [sys.executable, *command],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, order: dict[str, Any]) -> None:
        """Give an order without waiting for the answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()

    def read(self) -> Any:
        """Wait for the next answer."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a child of the benchmark ended with {self._child.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Let the child end, which it does when there is nothing more to read."""
        self._child.communicate(timeout=30)


class Server:
    """The token server, in a process of its own."""

    def __init__(self) -> None:
        self._process = Process("server.py", str(LATENCY))
        self.port: int = self._process.read()
        self.base_url = f"http://127.0.0.1:{self.port}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body else None)
            return json.loads(connection.getresponse().read())

    def set(self, **orders: Any) -> None:
        """Set the latency, or when to revoke the tokens of a client."""
        self._ask("POST", "/control", orders)

    def counts(self, client_id: str) -> dict[str, int]:
        """Return what was counted for this client id."""
        return self._ask("GET", f"/control?client={client_id}")  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self._process.close()


class Bench:
    """All measurements. Results gather in plain dictionaries, keyed by contestant."""

    def __init__(self, server: Server, folder: Path, keys: list[str], rounds: int) -> None:
        self._server = server
        self._folder = folder
        self._kinds = {key: CONTESTANTS[key] for key in keys}
        self._rounds = rounds
        self._numbers = itertools.count(1)

    def _setting(self, kind: type[Contestant], *, wrong: bool = False) -> dict[str, str]:
        """Return a credential that nobody has used yet, and an empty folder for its tokens."""
        number = next(self._numbers)
        store = self._folder / f"store-{number}"
        store.mkdir(mode=0o700)
        setting = {
            "base_url": self._server.base_url,
            "client_id": f"client-{number}",
            "client_secret": secrets.token_urlsafe(32),
            "password": secrets.token_urlsafe(16),
            "store": str(store),
        }
        if wrong:
            name = "password" if kind.grant == "password" else "client_secret"
            setting[name] = f"wrong-{setting[name]}"
        return setting

    # -- logins

    def logins(self, tasks: int) -> dict[str, dict[str, Any]]:
        """Count the logins of many tasks in many processes."""
        return {key: self._logins(kind, tasks) for key, kind in self._kinds.items()}

    def _logins(self, kind: type[Contestant], tasks: int) -> dict[str, Any]:
        _say(f"logins: {kind.key}")
        workers = [Process("worker.py", kind.key) for _ in range(PROCESSES)]
        try:
            for worker in workers:
                worker.read()
            result = {"plain": self._phases(kind, workers, tasks, locked=False)}
            # Ours has to hold each time: the worst of several goes is reported.
            for _ in range(self._rounds - 1 if kind.key == "ours" else 0):
                again = self._phases(kind, workers, tasks, locked=False)
                result["plain"] = {name: max(n, again[name]) for name, n in result["plain"].items()}
            if kind.lockable:
                result["locked"] = self._phases(kind, workers, tasks, locked=True)
            return result
        finally:
            for worker in workers:
                worker.close()

    def _phases(
        self, kind: type[Contestant], workers: list[Process], tasks: int, *, locked: bool
    ) -> dict[str, Any]:
        def run(setting: dict[str, str], number: int = tasks) -> Counter[str]:
            """Run so many tasks in all workers at once; return how they ended."""
            shares = [
                number // len(workers) + (n < number % len(workers)) for n in range(PROCESSES)
            ]
            order = {"do": "tasks", "setting": setting, "threads": THREADS, "locked": locked}
            for worker, share in zip(workers, shares, strict=True):
                worker.send({**order, "tasks": share})
            return sum((Counter(worker.read()["outcomes"]) for worker in workers), Counter())

        setting = self._setting(kind)
        client = setting["client_id"]
        outcomes = run(setting)
        cold = self._server.counts(client)["granted"]

        done = self._server.counts(client)["api_ok"]
        self._server.set(client=client, revoke_after=done + tasks // 2)
        outcomes += run(setting)
        revoked = self._server.counts(client)["granted"] - cold

        setting = self._setting(kind)
        outcomes += run(setting, 1)
        outcomes += run(setting)
        warm = self._server.counts(setting["client_id"])["granted"]

        setting = self._setting(kind, wrong=True)
        run(setting)
        counted = self._server.counts(setting["client_id"])
        if counted["granted"]:
            raise RuntimeError("a wrong password was accepted")
        return {
            "cold": cold,
            "revoked": revoked,
            "warm": warm,
            "refused": counted["refused"],
            "failed": sum(outcomes.values()) - outcomes["ok"],
            "errors": ", ".join(sorted(set(outcomes) - {"ok"})),
        }

    # -- times

    def times(self) -> dict[str, float]:
        """Return the nanoseconds that a valid token in memory takes."""
        workers = {key: Process("worker.py", key) for key in self._kinds}
        settings = {key: self._setting(kind) for key, kind in self._kinds.items()}
        # What is timed, and the process that does it.
        timed = {key: key for key in workers} | dict.fromkeys(TIMED_TOO, "ours")
        taken: dict[str, list[float]] = {key: [] for key in timed}
        try:
            for worker in workers.values():
                worker.read()
            for number in range(self._rounds * 4 + 1):
                _say(f"a valid token, round {number}")
                for contestant, key in timed.items():
                    order = {"do": "time", "contestant": contestant, "seconds": TIMED}
                    workers[key].send({**order, "setting": settings[key]})
                    taken[contestant].append(workers[key].read()["ns"])
        finally:
            for worker in workers.values():
                worker.close()
        return {key: median(values[1:]) for key, values in taken.items()}

    def firsts(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the seconds of the first token in a new process.

        Per contestant and case (``login``: log in with the server's latency; ``near``: log in to a
        server that answers at once; ``store``: find the token in the store): ``imported``,
        ``first`` and ``process``, the whole process with the start of Python.
        """
        cases = [
            (key, case)
            for key, kind in self._kinds.items()
            for case in ("login", "near", "store")
            if case != "store" or kind.stores
        ]
        kept = {key: self._setting(kind) for key, kind in self._kinds.items() if kind.stores}
        taken: dict[tuple[str, str], list[tuple[float, ...]]] = {case: [] for case in cases}
        # The first round fills the stores, and the caches of the file system and of bytecode.
        for number in range(self._rounds + 1):
            _say(f"first token in a new process, round {number}")
            for key, case in cases:
                setting = kept[key] if case == "store" else self._setting(self._kinds[key])
                self._server.set(latency=0 if case == "near" else LATENCY)
                taken[key, case].append(_first(key, setting))
        for key, setting in kept.items():
            logins = self._server.counts(setting["client_id"])["granted"]
            if logins != 1:
                raise RuntimeError(f"{key} logged in {logins} times with a warm store")
        self._server.set(latency=LATENCY)
        result: dict[str, dict[str, dict[str, float]]] = {}
        for (key, case), rounds in taken.items():
            columns = [median(column) for column in zip(*rounds[1:], strict=True)]
            names = ("imported", "first", "process")
            result.setdefault(key, {})[case] = dict(zip(names, columns, strict=True))
        return result


def fleet() -> list[dict[str, Any]]:
    """Return the cases of the simulated fleet."""
    import pods

    _say("the fleet")
    running = [
        subprocess.Popen(  # noqa: S603 - this benchmark's own script
            [sys.executable, "pods.py", name], cwd=HERE, stdout=subprocess.PIPE, text=True
        )
        for name in pods.LIFETIMES
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("the simulation failed")
    return [json.loads(line) for output in outputs for line in output.splitlines()]


def _first(key: str, setting: dict[str, str]) -> tuple[float, float, float]:
    """Run a fresh process; return its seconds to import, to the first token, and altogether."""
    begun = time.perf_counter()
    output = subprocess.run(  # noqa: S603 - this benchmark's own script
        [sys.executable, "first.py", key, *setting.values()],
        cwd=HERE,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    process = time.perf_counter() - begun
    imported, first = map(float, output.split())
    return imported, first, process


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def _serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Measure and write the report."""
    parts = ("logins", "times", "firsts", "fleet")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks of the login count")
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME"
    )
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    chosen = parser.parse_args()
    keys = ["ours", *(key for key in chosen.contestants if key != "ours")]

    begun = time.monotonic()
    results = report.Results(
        tasks=chosen.tasks,
        rounds=chosen.rounds,
        processes=PROCESSES,
        threads=THREADS,
        latency=LATENCY,
    )
    with tempfile.TemporaryDirectory() as folder, _serving() as server:
        bench = Bench(server, Path(folder), keys, chosen.rounds)
        if "times" in chosen.only:
            results.times = bench.times()
        if "firsts" in chosen.only:
            results.firsts = bench.firsts()
        if "logins" in chosen.only:
            results.logins = bench.logins(chosen.tasks)
    if "fleet" in chosen.only:
        results.fleet = fleet()
    results.seconds = time.monotonic() - begun
    text = report.write(results)
    chosen.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
