# SPDX-License-Identifier: Apache-2.0
"""A real Prefect server in a process and folder of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

__all__ = ["Server", "environment_of", "server"]

_PATIENCE = 180.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        api: Address of its API.
        process: Id of its process.
    """

    api: str
    process: int


def environment_of(home: str) -> dict[str, str]:
    """Return an environment for Prefect in a folder of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PREFECT") and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": home,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_CACHE_HOME": f"{home}/cache",
        "XDG_RUNTIME_DIR": f"{home}/runtime",
    }


@contextlib.contextmanager
def server(home: str) -> Iterator[Server]:
    """Run a server as ``prefect server start`` does."""
    from processes import free_port  # Not where only the environment is wanted.

    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    path = Path(home, "server.txt")
    command = ["-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1"]
    with path.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, *command, "--port", str(port)],
            env=environment_of(home),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + _PATIENCE
        while not _answers(f"{api}/health"):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(path.read_text(errors="replace")[-5000:])
            time.sleep(0.3)
        yield Server(api, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with requests.Session() as http:
            http.trust_env = False
            return http.get(url, timeout=10).ok
    except requests.RequestException:
        return False
