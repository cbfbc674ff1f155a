# SPDX-License-Identifier: Apache-2.0
"""Finds out which transactions have ended since the last look. Knows no orchestrator.

* :class:`CompletedList` reads the service's list, as little of it as each look needs.
* :class:`Cursor` remembers which of them were dealt with, in a store of small values.
* :class:`Teller` decides which of them are told, each once.
"""

from __future__ import annotations

from vantage_orchestration.completed.cursor import Cursor, Overtaken, Store
from vantage_orchestration.completed.listing import CompletedList
from vantage_orchestration.completed.telling import (
    FULL_EVERY,
    Look,
    Teller,
    Wanted,
    facts,
    sent_through_api,
)

__all__ = [
    "FULL_EVERY",
    "CompletedList",
    "Cursor",
    "Look",
    "Overtaken",
    "Store",
    "Teller",
    "Wanted",
    "facts",
    "sent_through_api",
]
