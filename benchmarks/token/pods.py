# SPDX-License-Identifier: Apache-2.0
"""A day of a fleet of short-lived pods, simulated with the package's own token source and store.

Nothing sleeps: the clock is a number. ``python pods.py "30 days"`` prints one line of JSON
per case with tokens that live so long.

A pod is a process of its own: a new TokenSource that knows nothing but what its store holds. It
lives one minute and asks for the token at its start, after 20 and after 40 seconds. A pod whose
store is on its own disk begins with an empty one.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import FileStore, Store
from vantage_orchestration.token import TokenSource, cache
from vantage_orchestration.token.access import Clock
from vantage_orchestration.token.request import Grant, renewal_margin

DAY = 86400.0
PODS = 10_000
HOSTS = 20
#: Pods start in waves of this many, within so many seconds.
WAVE, WAVE_SECONDS = 100, 5.0
LIFETIMES = {"3600 s": 3600.0, "30 days": 30 * DAY}
STORES = ("memory", "file, on the pod", "file, one shared host", "file, 20 hosts", "orchestrator")
#: Stores that no other pod sees.
ALONE = STORES[:2]

_CONFIG = VantageConfig.from_fields(
    {
        "region": "custom",
        "base_url": "http://127.0.0.1:9",
        "username": "user@example.com",
        "password": "simulated-password",
        "client_id": "simulated-client",
        "client_secret": "simulated-client-secret",
    }
)


class OrchestratorStore:
    """A table that all hosts share. It has no locks: a host claims the login by an entry."""

    label = "orchestrator"

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """Return an entry."""
        return self._entries.get(name)

    def write(self, name: str, value: bytes) -> None:
        """Keep an entry."""
        self._entries[name] = value

    def delete(self, name: str) -> None:
        """Remove an entry."""
        self._entries.pop(name, None)

    def create(self, name: str, value: bytes) -> bool:
        """Keep an entry if there is none."""
        return self._entries.setdefault(name, value) is value


class Fleet:
    """One day.

    Args:
        store: One of STORES.
        lifetime: Seconds of a token's life.
        waves: Whether pods start in waves, or else at random moments.
        folder: Where the stores keep their files.
    """

    def __init__(self, store: str, lifetime: float, *, waves: bool, folder: Path) -> None:
        self._store = store
        self._lifetime = lifetime
        self._folder = folder
        self._random = random.Random(2024)  # noqa: S311 - a simulation
        self._starts = sorted(self._waves() if waves else self._evenly())
        self._now = 0.0
        self._clock = Clock(steady=lambda: self._now, wall=lambda: self._now + 1.7e9)
        self._logins = 0
        self._shared = OrchestratorStore()
        self._hosts = [FileStore(str(folder / f"host-{n}")) for n in range(HOSTS)]

    def _evenly(self) -> Iterator[float]:
        return (self._random.uniform(0, DAY) for _ in range(PODS))

    def _waves(self) -> Iterator[float]:
        for wave in range(PODS // WAVE):
            begin = DAY * WAVE * wave / PODS
            for _ in range(WAVE):
                yield begin + self._random.uniform(0, WAVE_SECONDS)

    def run(self) -> int:
        """Return the logins of the day."""
        order = itertools.count()
        # The moment, something to break a tie, the pod's number, and the source once it is there.
        events: list[tuple[float, int, int, TokenSource | None, int]] = [
            (start, next(order), pod, None, 0) for pod, start in enumerate(self._starts)
        ]
        heapq.heapify(events)
        while events:
            self._now, _, pod, source, asked = heapq.heappop(events)
            source = source or self._pod(pod)
            source.get()
            if asked < 2:
                heapq.heappush(events, (self._now + 20, next(order), pod, source, asked + 1))
            elif self._store == "file, on the pod":
                shutil.rmtree(self._folder / f"pod-{pod}")
        return self._logins

    def _pod(self, number: int) -> TokenSource:
        return TokenSource(
            _CONFIG, store=self._store_of(number), log_in=self._log_in, clock=self._clock
        )

    def _store_of(self, number: int) -> Store | None:
        if self._store == "memory":
            return None
        if self._store == "orchestrator":
            return self._shared
        if self._store == "file, on the pod":
            return FileStore(str(self._folder / f"pod-{number}"))
        return self._hosts[number % HOSTS if self._store == "file, 20 hosts" else 0]

    def _log_in(self, config: VantageConfig) -> Grant:
        self._logins += 1
        return Grant(Secret(f"token-{self._logins}"), self._lifetime)


def on_paper(store: str, lifetime: float, *, waves: bool) -> tuple[float, float]:
    """Return the least and the most logins a day, in the long run.

    A host logs in when a pod starts and finds less than the margin left. The margin is spread by
    the half of itself, and a pod has to start at all.
    """
    if store in ALONE:
        return PODS, PODS
    hosts = HOSTS if store == "file, 20 hosts" else 1
    # Pods come in waves for every host alike, or else one by one.
    gap = DAY * (WAVE if waves else hosts) / PODS
    soonest = lifetime - renewal_margin(lifetime, 1.0)
    latest = lifetime - renewal_margin(lifetime, 0.0) + gap
    return hosts * DAY / latest, hosts * DAY / soonest


def main() -> None:
    """Simulate every case of the lifetime that is named."""
    # Each pod derives a key. How long that takes changes nothing here.
    cache.KEY_COST = 2
    name = sys.argv[1]
    lifetime = LIFETIMES[name]
    for store in STORES:
        # Pods that share nothing do not care when the others start.
        for waves in (False,) if store in ALONE else (False, True):
            with tempfile.TemporaryDirectory() as folder:
                fleet = Fleet(store, lifetime, waves=waves, folder=Path(folder))
                case = {
                    "store": store,
                    "lifetime": name,
                    "waves": waves,
                    "logins": fleet.run(),
                    "paper": on_paper(store, lifetime, waves=waves),
                }
            sys.stdout.write(json.dumps(case) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
