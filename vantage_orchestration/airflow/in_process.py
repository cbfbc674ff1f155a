# SPDX-License-Identifier: Apache-2.0
"""Requests to the supervisor of ``dag.test()``, which runs in the process of its tasks.

Each request hides this supervisor from all threads until it is answered. Of two requests at the
same time the second one leaves it hidden, and the task fails. So our threads take turns there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

__all__ = ["in_turn", "is_in_process"]

_turn = threading.RLock()
_seen = threading.Event()


def is_in_process() -> bool:
    """Return whether ``dag.test()`` runs the tasks of this process.

    It is remembered, since the supervisor is hidden while another thread asks it.
    """
    if not _seen.is_set():
        runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
        supervisor = getattr(runner, "SUPERVISOR_COMMS", None)
        if type(supervisor).__name__ == "InProcessSupervisorComms":
            _seen.set()
    return _seen.is_set()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Keep our other threads from asking the supervisor of ``dag.test()`` meanwhile.

    Elsewhere this does nothing: there the supervisor is another process, and Airflow lets threads
    ask it one after the other, or :func:`.compat.patch_worker` does.
    """
    with _turn if is_in_process() else contextlib.nullcontext():
        yield
