# SPDX-License-Identifier: Apache-2.0
"""Stores the notes of Prefect tasks about their transactions in Prefect's result storage.

Prefect writes a persisted result when its task has ended: a killed task has none. These notes are
written after a transaction is created and before it is started, so the next try finds what a killed
one has started. They are in the result storage of the task, or of its flow. Workers that do not
share a disk need a shared result storage, as they do for results.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from prefect.filesystems import SMB, LocalFileSystem, RemoteFileSystem
from prefect.results import get_default_result_storage

from vantage_orchestration.processing.ledger import (
    FOLDER,
    Change,
    FolderLedgers,
    Ledger,
    LedgerStore,
    NumberedLedgers,
)
from vantage_orchestration.storage import Location

if TYPE_CHECKING:
    from prefect.results import ResultStore

#: Prefix of the names in a storage that can't list. Changing it loses running transactions.
_PREFIX: Final = "abbyy-vantage-"


class RunStore:
    """The :class:`vantage_orchestration.processing.ledger.LedgerStore` of a task run or flow run.

    It also records which ledgers the run has written to, see :meth:`used`. ``attempt`` is how
    often the root flow run has begun.
    """

    of_one_instance = False

    def __init__(self, results: ResultStore, run_id: str, attempt: int) -> None:
        self._results = results
        self._run = f"run-{run_id}"
        self._attempt = attempt
        self._used: dict[str, None] = {}
        self._listed: set[str] = set()

    def changes(self, name: str) -> list[Change]:
        """See :class:`vantage_orchestration.processing.ledger.LedgerStore`."""
        self._used[name] = None
        return self._ledgers.changes(name)

    def append(self, name: str, change: Change) -> None:
        """See :class:`vantage_orchestration.processing.ledger.LedgerStore`.

        The names of the ledgers are noted first, so that none is written to and not listed.
        """
        self._used[name] = None
        new = tuple(each for each in self._used if each not in self._listed)
        if new:
            self._ledgers.append(self._run, Change(ledgers=new))
            self._listed.update(new)
        self._ledgers.append(name, change)

    def used(self) -> list[Ledger]:
        """Return the ledgers that the run itself has written to, in all of its tries.

        Tasks and subflows that it called are runs of their own.
        """
        changes = self._ledgers.changes(self._run)
        names = dict.fromkeys(name for change in changes for name in change.ledgers)
        return [Ledger((self._ledgers, name)) for name in names]

    def note_undone(self) -> None:
        """Note that the transactions of the run and of all runs it called were deleted."""
        self._ledgers.append(self._run, Change(undone=True))

    def times_undone(self) -> int:
        """Return how often that was noted."""
        return sum(each.undone for each in self._ledgers.changes(self._run))

    @cached_property
    def _ledgers(self) -> LedgerStore:
        return _store_in(self._results, self._attempt)


def _store_in(results: ResultStore, attempt: int) -> LedgerStore:
    storage: Any = results.result_storage
    if storage is None:
        storage = get_default_result_storage(_sync=True)  # type: ignore[call-arg]
    if isinstance(storage, SMB):
        storage = storage.filesystem
    if isinstance(storage, LocalFileSystem):
        return FolderLedgers(Location.of(storage.basepath or ".").child(FOLDER))
    if isinstance(storage, RemoteFileSystem):
        return FolderLedgers(Location.of(storage.basepath, **storage.settings).child(FOLDER))
    return NumberedLedgers(StorageBlock(storage), attempt)


class StorageBlock:
    """Any other storage block of Prefect, as :class:`vantage_orchestration.state.Values`."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.label = f"The storage block {type(storage).__name__}"

    def read(self, name: str) -> bytes | None:
        """Return a value; see :class:`vantage_orchestration.state.Values`."""
        try:
            # As Prefect calls it for results, also where an event loop is running.
            return cast(bytes, self._storage.read_path(_PREFIX + name, _sync=True))
        except Exception as error:
            if _says_missing(error):
                return None
            raise

    def write(self, name: str, value: bytes) -> None:
        """Write a value; see :class:`vantage_orchestration.state.Values`."""
        self._storage.write_path(_PREFIX + name, content=value, _sync=True)


def _says_missing(error: BaseException | None) -> bool:
    """Return whether an error of a storage block, or a cause of it, means that the file does not
    exist. Blocks have no common way to report that. An unrecognised error counts as a failure."""
    if error is None:
        return False
    if isinstance(error, FileNotFoundError):
        return True
    if isinstance(error, ValueError) and "does not exist" in str(error):
        return True  # As Prefect's own blocks say it.
    # The clients of S3, of Google Cloud Storage, and of Azure.
    reply = getattr(error, "response", None)
    details = cast("dict[str, Any]", reply.get("Error") or {}) if isinstance(reply, dict) else {}
    codes = (details.get("Code"), getattr(error, "code", None), getattr(error, "status_code", None))
    missing = any(code in ("404", 404, "NoSuchKey") for code in codes)
    return missing or _says_missing(error.__cause__ or error.__context__)
