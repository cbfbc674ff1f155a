# SPDX-License-Identifier: Apache-2.0
"""The connection handling of the server, opened up so that faults can close a connection.

An ASGI application has no way to hang up. The subclass hands the transport of each connection to
the application through the ASGI state, where the gate finds it.
"""

from __future__ import annotations

import asyncio

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_TRANSPORT = "sandbox.transport"


class SandboxProtocol(H11Protocol):
    """HTTP/1.1 whose transport the application can reach."""

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Remember the transport before anything is read from it."""
        self.app_state = {**self.app_state, _TRANSPORT: transport}
        super().connection_made(transport)


def transport_of(scope: Scope) -> asyncio.Transport:
    """Return the transport a request came in on."""
    transport: asyncio.Transport = scope["state"][_TRANSPORT]
    return transport
