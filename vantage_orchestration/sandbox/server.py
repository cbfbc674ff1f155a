# SPDX-License-Identifier: Apache-2.0
"""The sandbox as a server in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from .app import build_app
from .control_client import SandboxControl
from .protocol import SandboxProtocol
from .settings import SandboxSettings
from .state import SandboxState

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class SandboxServer:
    """Runs a sandbox in a daemon thread; a context manager.

    Args:
        settings: Settings to begin with.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        changes: Single settings in place of those in ``settings``.

    Attributes:
        url: Base address, once started.
        control: Client for the control routes, once started.
        credentials: The main account: ``username``, ``password``, ``client_id``,
            ``client_secret``, ``tenant_id``.

    Example::

        with SandboxServer(processing_polls=0) as sandbox:
            print(sandbox.url, sandbox.credentials["username"])
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **changes: Any,
    ) -> None:
        if settings is None:
            settings = SandboxSettings(**changes)
        elif changes:
            settings = settings.changed(changes)
        self._host = host
        self._port = port
        self.settings = settings
        self.state: SandboxState | None = None
        self._server: _Server | None = None
        self.thread: threading.Thread | None = None
        self.url = ""
        self.control = SandboxControl("")

    @property
    def credentials(self) -> dict[str, str]:
        """The main account."""
        if self.state is None:
            raise RuntimeError("the sandbox has not been started")
        shown = self.state.accounts.shown()
        names = ("username", "password", "client_id", "client_secret", "tenant_id")
        return {name: shown[name] for name in names}

    def start(self) -> SandboxServer:
        """Start listening; returns when requests are answered.

        Raises:
            OSError: The address can't be used.
            RuntimeError: The server did not come up.
        """
        listener = _listen(self._host, self._port)
        self.state = SandboxState(self.settings)
        host, port = listener.getsockname()[:2]
        config = uvicorn.Config(
            build_app(self.state, self._host),
            http=SandboxProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
        )
        self._server = _Server(config, self.state)
        self.thread = threading.Thread(
            target=self._server.run, args=([listener],), name="vantage-sandbox", daemon=True
        )
        self.thread.start()
        if not self._server.ready.wait(_START_SECONDS) or not self._server.started:
            self.stop()
            raise RuntimeError("the sandbox did not start")
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.control = SandboxControl(self.url)
        return self

    def stop(self) -> None:
        """Close all connections, end the thread and remove all files."""
        if self._server is not None and self.thread is not None:
            self._server.stop()
            self.thread.join(_STOP_SECONDS)
            self._server = self.thread = None
        if self.state is not None:
            self.state.close()

    def __enter__(self) -> SandboxServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's delay off only then.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """The server with a prompt start signal and a prompt, silent stop."""

    def __init__(self, config: uvicorn.Config, state: SandboxState) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.state = state
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until :meth:`stop`."""
        try:
            super().run(sockets)
        finally:
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for the end; the tick keeps the Date header right."""
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 10) % 864000
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.state.closing.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything at once: requests of a test that is over need no answer."""
        for server in self.servers:
            server.close()
        for item in sockets or []:
            item.close()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
        await asyncio.sleep(0)

    def stop(self) -> None:
        """Ask the server to end; may be called from any thread."""
        self.should_exit = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.state.closing.set)
