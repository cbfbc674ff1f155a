# SPDX-License-Identifier: Apache-2.0
"""Where the benchmarks run: the service and what is measured, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vantage_orchestration.sandbox import SandboxControl

CONN_ID = "benchmark"
#: Bytes of a file: a scanned page.
SIZE = 100_000


@dataclass(frozen=True)
class Account:
    """A running sandbox, and how to log in to it.

    Attributes:
        url: Its address.
        username: User.
        password: The user's password.
        client_id: API client.
        client_secret: Its secret.
        process: Id of the sandbox's process.
    """

    url: str
    username: str
    password: str
    client_id: str
    client_secret: str
    process: int

    @property
    def control(self) -> SandboxControl:
        """The sandbox's controls."""
        from vantage_orchestration.sandbox import SandboxControl

        return SandboxControl(self.url)

    def connection(self) -> str:
        """Return an Airflow Connection as JSON."""
        extra = {
            "region": "custom",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
        }
        return json.dumps(
            {
                "conn_type": "abbyy_vantage",
                "host": self.url,
                "login": self.username,
                "password": self.password,
                "extra": extra,
            }
        )


@contextlib.contextmanager
def sandbox(*, latency: float = 0.0, received: int = 0, **settings: Any) -> Iterator[Account]:
    """Run a sandbox in a process of its own.

    Args:
        latency: Seconds that each reply takes longer.
        received: Transactions that run already.
        settings: Those of the sandbox.
    """
    order = json.dumps([latency, received, settings])
    process = subprocess.Popen(  # noqa: S603 - this very script
        [sys.executable, __file__, order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Account(**json.loads(process.stdout.readline()), process=process.pid)
    finally:
        process.communicate(timeout=30)


class Worker:
    """A process that is measured: it reads a line of JSON for each go, and answers with another.

    Args:
        log: File for what it writes besides.
        environment: All of its environment.
        command: Script and its arguments.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], *command: str) -> None:
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a script of this folder
                [sys.executable, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def __call__(self, **order: Any) -> dict[str, Any]:
        """Send an order; return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._log.read_text(errors="replace")[-5000:])
        return dict(json.loads(line))

    def close(self) -> None:
        """End it, by the end of its orders."""
        self._process.communicate(timeout=120)


def write_pages(folder: Path, files: int) -> Path:
    """Make a folder with scanned pages, and return it."""
    folder.mkdir()
    for number in range(files):
        noise = random.Random(number).randbytes(SIZE)  # noqa: S311 - no secret
        (folder / f"page-{number:04}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + noise)
    return folder


def airflow_environment(home: str) -> dict[str, str]:
    """Return an environment for an Airflow in a folder of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if "AIRFLOW" not in name.upper() and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "AIRFLOW_HOME": home,
        "XDG_CACHE_HOME": f"{home}/cache",
        "XDG_RUNTIME_DIR": f"{home}/runtime",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown whose first column is text and whose others are numbers."""
    align = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, align, *rows])


def _serve(latency: float, received: int, settings: dict[str, Any]) -> None:
    """Be the sandbox: it ends when its standard input does."""
    from vantage_orchestration.sandbox import SandboxServer

    with SandboxServer(token_lifetime=10**6, **settings) as server:
        if received:
            server.control.receive_many(received, "Invoice")
        if latency:
            server.control.add_fault(path_regex="^/(api|auth2)/", times=0, delay=latency)
        account = {name: text for name, text in server.credentials.items() if name != "tenant_id"}
        sys.stdout.write(json.dumps({"url": server.url, **account}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
