# SPDX-License-Identifier: Apache-2.0
"""A local stand-in for the ABBYY Vantage service.

The sandbox is a real HTTP server that keeps the public REST contract of ABBYY Vantage: tokens,
skills, transactions, documents, results. It is meant for tests and for trying things out
without an account. Nothing leaves the machine and nothing is recognised by real OCR: results
are derived from the bytes that were uploaded (text layer and page count of a PDF, SHA-256 and
size of every file).

Faults (status codes, lost connections, slow or cut replies, revoked tokens) are switched on
through control routes below ``/sandbox/``, which answer only to the same machine.

Use :class:`SandboxServer` inside a test, or the command ``vantage-orchestration sandbox``.
The package needs the extra ``vantage-orchestration[sandbox]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control_client import SandboxControl
    from .server import SandboxServer
    from .settings import SandboxSettings

__all__ = ["SandboxControl", "SandboxServer", "SandboxSettings"]

_HOMES = {
    "SandboxControl": "control_client",
    "SandboxServer": "server",
    "SandboxSettings": "settings",
}


def __getattr__(name: str) -> Any:
    """Import the public classes at first use, since they need large libraries."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
