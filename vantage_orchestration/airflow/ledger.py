# SPDX-License-Identifier: Apache-2.0
"""Notes a task's transactions in Airflow's task state store (3.3 and later).

The store is kept by run, task and map index. It survives retries, deferral and *Clear*, unlike an
XCom, which is cleared before each try. It can't be reached from triggers.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from vantage_orchestration.processing.ledger import Record

__all__ = ["STATE_KEY", "StateStore", "TaskStateLedger"]

log = logging.getLogger(__name__)

#: Key in the store; further pieces have a number behind it. Renaming it loses what runs.
STATE_KEY = "abbyy_vantage"
_VERSION = 1
#: Characters in one value. Airflow warns above 65,535 bytes.
_LARGEST = 48_000
#: The service keeps a transaction for 14 days; a day more for clocks that differ.
_RETENTION = datetime.timedelta(days=15)


class StateStore(Protocol):
    """What is used of ``context["task_state_store"]``."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        ...

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        """Store a value."""
        ...


class TaskStateLedger:
    """A :class:`vantage_orchestration.processing.ledger.Ledger` of one task instance.

    Args:
        store: ``context["task_state_store"]``.
        fingerprint: Tells what the transactions depend on. Notes with another one are passed over:
            *Clear* keeps the store, also after the task was changed.
    """

    def __init__(self, store: StateStore, fingerprint: str) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._pieces: list[dict[str, list[Any]]] | None = None

    def load(self) -> Mapping[str, Record]:
        """Return what this try and earlier ones have noted."""
        found: dict[str, Record] = {}
        for piece in self._read():
            for key, data in piece.items():
                try:
                    found[key] = Record.from_json(data)
                except ValueError:
                    log.warning("A note about an earlier transaction can't be read; passed over")
        return found

    def add(self, records: Mapping[str, Record]) -> None:
        """Note records; when this returns, they are stored."""
        pieces, changed = self._read(), set()
        place = {key: number for number, piece in enumerate(pieces) for key in piece}
        for key, record in records.items():
            data = record.to_json()
            number = place.get(key, len(pieces) - 1)
            if key not in place and _size(pieces[number]) + _size({key: data}) > _LARGEST:
                pieces.append({})
                number += 1
            pieces[number][key] = data
            changed.add(number)
        self._write(changed)

    def drop(self, keys: Collection[str]) -> None:
        """Forget records."""
        changed = set()
        for number, piece in enumerate(self._read()):
            for key in keys:
                if piece.pop(key, None) is not None:
                    changed.add(number)
        self._write(changed)

    def _read(self) -> list[dict[str, list[Any]]]:
        if self._pieces is None:
            self._pieces = []
            while (value := self._store.get(_name(len(self._pieces)))) is not None:
                ours = (
                    isinstance(value, dict)
                    and value.get("version") == _VERSION
                    and value.get("fingerprint") == self._fingerprint
                    and isinstance(value.get("transactions"), dict)
                )
                self._pieces.append(dict(value["transactions"]) if ours else {})
            if not self._pieces:
                self._pieces.append({})
        return self._pieces

    def _write(self, numbers: Collection[int]) -> None:
        for number in sorted(numbers):
            value = {
                "version": _VERSION,
                "fingerprint": self._fingerprint,
                "transactions": self._read()[number],
            }
            self._store.set(_name(number), value, retention=_RETENTION)


def _name(number: int) -> str:
    return f"{STATE_KEY}.{number}" if number else STATE_KEY


def _size(value: Any) -> int:
    return len(json.dumps(value))
