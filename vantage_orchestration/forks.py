# SPDX-License-Identifier: Apache-2.0
"""What a forked child must not share with its parent.

A thread that is not there in the child any more may hold a lock, which nobody would ever release.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def after_fork(renew: Callable[[], object]) -> None:
    """Call a function in each child that is forked from now on. Windows has no forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


class ModuleLock:
    """A reentrant lock that lives as long as the process. It is free in a forked child."""

    def __init__(self) -> None:
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        lock = self._lock
        lock.acquire()
        # The one to release, even if its holder forks.
        self._held = lock

    def __exit__(self, *exc: object) -> None:
        self._held.release()
