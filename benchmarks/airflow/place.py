# SPDX-License-Identifier: Apache-2.0
"""Where the benchmarks run: a sandbox in a process of its own, and an Airflow in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONN_ID = "benchmark"


@dataclass(frozen=True)
class Account:
    """A running sandbox and how to log in to it."""

    url: str
    username: str
    password: str
    client_id: str
    client_secret: str
    #: Id of the sandbox's process.
    process: int

    def connection(self, **extra: Any) -> str:
        """Return an Airflow Connection as JSON."""
        return json.dumps(
            {
                "conn_type": "abbyy_vantage",
                "host": self.url,
                "login": self.username,
                "password": self.password,
                "extra": {
                    "region": "custom",
                    "client_id": self.client_id,
                    "client_secret": self.client_secret,
                    **extra,
                },
            }
        )


@contextlib.contextmanager
def sandbox(**settings: Any) -> Iterator[Account]:
    """Run a sandbox in a process of its own.

    Args:
        settings: Those of the sandbox; and ``latency``, seconds that each reply takes longer.
    """
    process = subprocess.Popen(  # noqa: S603 - this very script
        [sys.executable, __file__, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Account(**json.loads(process.stdout.readline()), process=process.pid)
    finally:
        process.communicate(timeout=30)


def airflow_environment(home: str) -> dict[str, str]:
    """Return an environment for Airflow in a folder of its own."""
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


def _serve(latency: float = 0.0, **settings: Any) -> None:
    """Be the sandbox: it ends when its standard input does."""
    from vantage_orchestration.sandbox import SandboxServer

    with SandboxServer(token_lifetime=10**6, **settings) as server:
        if latency:
            server.control.add_fault(path_regex="^/(api|auth2)/", times=0, delay=latency)
        account = {name: it for name, it in server.credentials.items() if name != "tenant_id"}
        sys.stdout.write(json.dumps({"url": server.url, **account}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _serve(**json.loads(sys.argv[1]))
