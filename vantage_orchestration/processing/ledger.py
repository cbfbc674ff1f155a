# SPDX-License-Identifier: Apache-2.0
"""Where a job notes the transactions it has made, before it starts them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Ledger", "MemoryLedger", "Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One transaction of a job.

    Attributes:
        transaction_id: Its id.
        created: When it was made, in seconds since the epoch, by this machine's clock.
        files: Short digests of its files (:attr:`.plan.PlannedFile.short`), so that a later try
            puts the same files together.
        origin: Short digest of the inputs as the task was given them, globs not resolved. If none
            of the files is there any more, it tells files that went away from a task that was
            given other work.
    """

    transaction_id: str
    created: float
    files: tuple[str, ...] = ()
    origin: str = ""

    def to_json(self) -> list[Any]:
        """Return it as JSON data, small: an orchestrator's state is not made for much."""
        return [self.transaction_id, round(self.created), "".join(self.files), self.origin]

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """Read what :meth:`to_json` returned.

        Raises:
            ValueError: It is something else.
        """
        try:
            transaction_id, created, files, origin = data
            digests = tuple(files[at : at + 16] for at in range(0, len(files), 16))
            return cls(str(transaction_id), float(created), digests, str(origin))
        except (TypeError, ValueError) as error:
            raise ValueError("this is no record of a transaction") from error


class Ledger(Protocol):
    """A store of records that the next try of the same task reads, and no other task.

    One that fails raises what it likes: a job that can't note its transactions must not start them.
    """

    def load(self) -> Mapping[str, Record]:
        """Return all records by the transactions' keys."""
        ...

    def add(self, records: Mapping[str, Record]) -> None:
        """Note more records; one with the same key is replaced."""
        ...

    def drop(self, keys: Collection[str]) -> None:
        """Forget records, so that the next try makes these transactions anew."""
        ...


class MemoryLedger:
    """A ledger that lives as long as the process, for jobs without durable state."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def load(self) -> Mapping[str, Record]:
        """See :class:`Ledger`."""
        return dict(self._records)

    def add(self, records: Mapping[str, Record]) -> None:
        """See :class:`Ledger`."""
        self._records |= records

    def drop(self, keys: Collection[str]) -> None:
        """See :class:`Ledger`."""
        for key in keys:
            self._records.pop(key, None)
