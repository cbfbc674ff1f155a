# SPDX-License-Identifier: Apache-2.0
"""Clients that the tasks of a flow run share as long as they overlap.

Mapped tasks would otherwise each read the credentials block from Prefect and open connections of
their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vantage_orchestration.forks import ModuleLock, after_fork
from vantage_orchestration.prefect.context import run_ids
from vantage_orchestration.prefect.credentials import VantageCredentials, load_credentials

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

#: Seconds after which new tasks read the block again, which somebody may have edited.
_KEPT: Final = 60.0


@dataclass
class _Shared:
    """A client and the number of tasks that use it."""

    since: float
    users: int = 0
    client: VantageClient | None = None
    making: threading.Lock = field(default_factory=threading.Lock)


shared: dict[Hashable, _Shared] = {}
_lock = ModuleLock()
# A thread of the parent may be making one of these clients.
after_fork(shared.clear)


@contextmanager
def client_of(credentials: VantageCredentials | str) -> Iterator[VantageClient]:
    """Yield a client; it is closed when the last of the tasks that share it has ended."""
    run, _ = run_ids()
    if run is None:
        with load_credentials(credentials).get_client() as client:
            yield client
        return
    named = isinstance(credentials, str)
    key = (run, credentials if named else load_credentials(credentials).poller_key())
    now = time.monotonic()
    with _lock:
        found = shared.get(key)
        if found is None or now - found.since > _KEPT:
            found = shared[key] = _Shared(now)
        found.users += 1
    try:
        with found.making:
            if found.client is None:
                found.client = load_credentials(credentials).get_client()
        yield found.client
    finally:
        with _lock:
            found.users -= 1
            last = not found.users
            if last and shared.get(key) is found:
                del shared[key]
        if last and found.client is not None:
            found.client.close()
