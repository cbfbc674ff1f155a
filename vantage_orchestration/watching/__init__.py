# SPDX-License-Identifier: Apache-2.0
"""Watches transactions until they end, need a person, or time is over. Knows no orchestrator.

* :class:`Watcher` looks once at any number of transactions, with as few requests as that takes.
* :func:`wait_for` looks again and again, and blocks; for workers.
* :class:`SharedPoller` does so for all coroutines of an event loop at once, and blocks none.
"""

from __future__ import annotations

from vantage_orchestration.watching.blocking import wait_for
from vantage_orchestration.watching.limits import Limits
from vantage_orchestration.watching.observation import GONE, Observation
from vantage_orchestration.watching.pace import Pace
from vantage_orchestration.watching.poller import SharedPoller, Watch
from vantage_orchestration.watching.watcher import Watcher

__all__ = [
    "GONE",
    "Limits",
    "Observation",
    "Pace",
    "SharedPoller",
    "Watch",
    "Watcher",
    "wait_for",
]
