# SPDX-License-Identifier: Apache-2.0
"""The servers whose pages are shown: a real Airflow and a real Prefect, each with its interface."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import requests
from processes import free_port

__all__ = ["airflow", "answers", "environment_of", "prefect", "wait_until"]

T = TypeVar("T")
_PREFIXES = ("AIRFLOW", "_AIRFLOW", "PREFECT", "ABBYY_VANTAGE")


def wait_until(
    condition: Callable[[], T], what: str | Callable[[], str], patience: float = 120
) -> T:
    """Return the first true result of ``condition``, within so many seconds."""
    end = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise TimeoutError(f"not within {patience:.0f} s: {text}")
        time.sleep(0.3)
    return found


def answers(url: str) -> bool:
    """Tell whether a page is there."""
    try:
        with requests.Session() as http:
            http.trust_env = False
            return http.get(url, timeout=30).ok
    except requests.RequestException:
        return False


def environment_of(home: Path, settings: dict[str, object]) -> dict[str, str]:
    """Return an environment that knows nothing of this user's settings and stored tokens."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_PREFIXES) and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "NO_PROXY": "127.0.0.1",
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_RUNTIME_DIR": str(home / "runtime"),
        **{name: str(value) for name, value in settings.items()},
    }


@contextlib.contextmanager
def _served(
    command: list[str], environment: dict[str, str], home: Path, health: str
) -> Iterator[None]:
    path = home / "server.txt"
    with path.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, *command],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or answers(health), f"{command}, see {path}", 180
        )
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended:\n{path.read_text(errors='replace')[-4000:]}")
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def airflow(home: Path) -> Iterator[str]:
    """Run Airflow's API server, which has the interface, with a database of its own.

    Args:
        home: Empty folder.

    Returns:
        The address, where everybody is an admin.
    """
    base = f"http://127.0.0.1:{(port := free_port())}"
    environment = environment_of(
        home,
        {
            "AIRFLOW_HOME": home,
            "AIRFLOW__API__BASE_URL": base,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_FOLDER": home / "dags",
            "AIRFLOW__CORE__LOAD_EXAMPLES": False,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": False,
        },
    )
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env=environment,
        check=True,
        capture_output=True,
    )
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = ["-m", "airflow", "api-server", "--apps", "core", *options]
    with _served(command, environment, home, f"{base}/api/v2/version"):
        yield base


@contextlib.contextmanager
def prefect(home: Path) -> Iterator[str]:
    """Run a Prefect server with its interface and a database of its own.

    Args:
        home: Empty folder.

    Returns:
        The address; its API is below ``/api``.
    """
    base = f"http://127.0.0.1:{(port := free_port())}"
    environment = environment_of(
        home,
        {
            "DO_NOT_TRACK": 1,
            "PREFECT_HOME": home,
            "PREFECT_SERVER_ANALYTICS_ENABLED": False,
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": port,
            "PREFECT_SERVER_UI_API_URL": f"{base}/api",
        },
    )
    command = ["-m", "prefect", "server", "start"]
    with _served(command, environment, home, f"{base}/api/health"):
        yield base
