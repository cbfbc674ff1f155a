# SPDX-License-Identifier: Apache-2.0
"""One process of the benchmark: reads orders as lines of JSON and answers each with one line.

``python worker.py CONTESTANT`` imports the library and then says how it fared with each order:

- ``tasks``: run so many tasks in so many threads; each gets a token and calls the API with it.
- ``time``: how long one valid token takes, in nanoseconds.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import sys
import threading
import timeit
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from contestants import CONTESTANTS, TIMED_TOO, Contestant, Locked, Setting

#: The loopback server speaks plain http; both libraries refuse that without these.
os.environ.update(OAUTHLIB_INSECURE_TRANSPORT="1", AUTHLIB_INSECURE_TRANSPORT="1")


class Denied(Exception):
    """The API did not accept a token that was just handed out."""


class Worker:
    """Keeps one shared object per setting, as a process does that runs many tasks."""

    def __init__(self, kind: type[Contestant]) -> None:
        self.kind = kind
        self._made: dict[tuple[Any, ...], Contestant | Locked] = {}

    def contestant(self, setting: dict[str, str], *, locked: bool) -> Contestant | Locked:
        """Return the shared object for this setting."""
        key = (locked, *sorted(setting.items()))
        if key not in self._made:
            plain = self.kind(Setting(**setting))
            self._made[key] = Locked(plain) if locked else plain
        return self._made[key]

    def tasks(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run the tasks of this process."""
        contestant = self.contestant(order["setting"], locked=order["locked"])
        address = urlsplit(order["setting"]["base_url"])
        left, outcomes, lock = [order["tasks"]], Counter[str](), threading.Lock()

        def run() -> None:
            connection = http.client.HTTPConnection(address.hostname or "", address.port)
            while True:
                with lock:
                    if not left[0]:
                        break
                    left[0] -= 1
                outcome = _task(contestant, connection)
                with lock:
                    outcomes[outcome] += 1
            connection.close()

        threads = [threading.Thread(target=run) for _ in range(order["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"outcomes": outcomes}

    def time(self, order: dict[str, Any]) -> dict[str, Any]:
        """Time one valid token: the fastest of some short runs, against noise."""
        kind = TIMED_TOO.get(order["contestant"], self.kind)
        contestant = kind(Setting(**order["setting"]))
        contestant.get()
        timer = timeit.Timer(kind.statement, globals={"self": contestant, "it": contestant.it})
        number = max(1, round(order["seconds"] * 100 / timer.timeit(100)))
        return {"ns": min(timer.repeat(3, number)) / number * 1e9}


def _task(contestant: Contestant | Locked, connection: http.client.HTTPConnection) -> str:
    """Do what a task does: get a token and use it; once more if the server has revoked it."""
    try:
        for _ in range(2):
            token = contestant.get()
            connection.request("GET", "/api", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return "ok"
            contestant.reject(token)
    except Exception as error:
        # Each library has its own errors; the report says which came how often.
        return type(error).__name__
    return Denied.__name__


def main() -> None:
    """Answer orders until there are no more."""
    logging.disable(logging.CRITICAL)
    kind = CONTESTANTS[sys.argv[1]]
    kind.load()
    worker = Worker(kind)
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        _say({"tasks": worker.tasks, "time": worker.time}[order["do"]](order))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
