# SPDX-License-Identifier: Apache-2.0
"""The processes of an orchestrator that runs: started, killed, ended and started anew by tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from patience import PATIENCE


def free_port() -> int:
    """Return a port on which nobody listens. It is below those that the system gives to others
    meanwhile, and above those that Prefect's own test servers take."""
    while True:
        port = 16_000 + secrets.randbelow(16_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def kill(*processes: psutil.Process) -> None:
    """Kill with -9 and wait for the end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


def kill_all(belongs: Callable[[psutil.Process], bool]) -> None:
    """Kill all processes for which ``belongs`` is true, and those that they start meanwhile."""

    def lives(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and belongs(process)
        except (psutil.Error, OSError):
            return False

    for _ in range(20):
        left = [item for item in psutil.process_iter() if lives(item)]
        if not left:
            return
        kill(*left)


def kill_below(folder: Path) -> None:
    """Kill all processes that work in a folder or below it."""
    folder = folder.resolve()
    kill_all(lambda process: Path(process.cwd()).is_relative_to(folder))


def kill_session(leader: int) -> None:
    """Kill what a process has started that led a session, whoever is its parent by now."""
    kill_all(lambda process: os.getsid(process.pid) == leader)


@dataclass(frozen=True)
class Component:
    """A process that is started by a command.

    Attributes:
        command: The command.
        environment: All of its environment.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


class Processes:
    """Components that belong together.

    Args:
        home: Folder in which all of them work, and nobody else.
        components: Components by name.
    """

    def __init__(self, home: Path, components: Mapping[str, Component]) -> None:
        self.home = home.resolve()
        self.components = dict(components)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        #: Each component is the leader of a session, to which all it starts belong for ever.
        self._sessions: set[int] = set()

    @property
    def outputs(self) -> Path:
        """All that the processes have written to stdout and stderr."""
        return self.home / "outputs"

    def begin(self, name: str) -> None:
        """Start one component; returns at once."""
        self.check()
        self.spawn(name)

    def spawn(self, name: str) -> None:
        """Start one component, whatever has become of the others."""
        component = self.components[name]
        self.outputs.mkdir(exist_ok=True)
        with (self.outputs / f"{name}.txt").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                component.command,
                env=component.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.add(self._processes[name].pid)

    def pid(self, name: str) -> int:
        """Return the process id of a component that runs."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """Kill a component and all processes it has started, as a lost machine does."""
        process = self._processes.pop(name)
        kill(*self._family(process.pid))
        process.wait(PATIENCE)

    def end(self, name: str) -> None:
        """Ask a component to end, and wait until it has."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(PATIENCE)

    def stop(self) -> None:
        """End all processes that belong to this orchestrator."""
        for name in list(self._processes):
            self.kill(name)
        # A killed process leaves children without a parent.
        kill_all(self._is_ours)

    def _family(self, pid: int) -> list[psutil.Process]:
        try:
            parent = psutil.Process(pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether a process is in one of our sessions, and in our folder, which none else has."""
        return os.getsid(process.pid) in self._sessions and Path(process.cwd()) == self.home

    def is_begun(self, name: str) -> bool:
        """Return whether a component was started, and was not killed or ended since."""
        return name in self._processes

    def check(self) -> None:
        """Raise if a component has ended by itself."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None and self._processes.get(name) is process:
                self.has_ended(name, process.returncode)

    def has_ended(self, name: str, code: int) -> None:
        """Raise, since a component has ended by itself."""
        raise RuntimeError(f"{name} ended with {code}:\n{self.told(name)}")

    def told(self, name: str | None = None) -> str:
        """Return the last that a component, or each of them, has written."""
        names = [name] if name else list(self.components)
        parts = []
        for each in names:
            path = self.outputs / f"{each}.txt"
            text = path.read_text(errors="replace")[-4000:] if path.exists() else ""
            parts.append(f"--- {each}\n{text}")
        return "\n".join(parts)
