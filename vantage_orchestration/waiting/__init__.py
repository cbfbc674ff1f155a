# SPDX-License-Identifier: Apache-2.0
"""Waits for transactions until they end, need a person, or reach a limit. Knows no orchestrator.

* :class:`Wait` is the state machine. It decides what to do next and performs no I/O.
* :class:`Watcher` polls any number of transactions with as few requests as possible.
* :func:`wait_here` waits in a worker and blocks. :func:`wait_in_loop` waits in a coroutine; all
  coroutines of an event loop share the rounds of one :class:`SharedPoller`.

The names below are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.lazy import on_first_use

if TYPE_CHECKING:
    from vantage_orchestration.waiting.blocking import wait_here
    from vantage_orchestration.waiting.machine import (
        LookAgain,
        Observation,
        Outcome,
        Over,
        PeopleNeeded,
        Wait,
    )
    from vantage_orchestration.waiting.poller import SharedPoller, wait_in_loop
    from vantage_orchestration.waiting.rules import WaitRules
    from vantage_orchestration.waiting.watcher import Watcher

__all__ = [
    "LookAgain",
    "Observation",
    "Outcome",
    "Over",
    "PeopleNeeded",
    "SharedPoller",
    "Wait",
    "WaitRules",
    "Watcher",
    "wait_here",
    "wait_in_loop",
]

__getattr__ = on_first_use(
    __name__,
    {
        **dict.fromkeys(__all__, "machine"),
        "SharedPoller": "poller",
        "WaitRules": "rules",
        "Watcher": "watcher",
        "wait_here": "blocking",
        "wait_in_loop": "poller",
    },
)
