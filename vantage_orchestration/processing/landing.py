# SPDX-License-Identifier: Apache-2.0
"""Notes which result files of a transaction have landed before all of them have.

A later try fetches only the rest, also if the process was killed in between.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from vantage_orchestration.models import same_id
from vantage_orchestration.processing.manifest import FileEntry
from vantage_orchestration.processing.names import LANDED

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

__all__ = ["Landing"]


class Landing:
    """The file ``landed.json`` of a transaction. Usable from several threads.

    Attributes:
        files: What has landed.
        noted: How many of these the file names.

    Args:
        target: Folder of the transaction.
        transaction_id: Transaction.
        expected: Number of files that are to land. The last needs no note: the manifest follows.
    """

    def __init__(self, target: Location, transaction_id: str, expected: int) -> None:
        self._place = target.child(LANDED)
        self._transaction_id = transaction_id
        self._expected = expected
        self.noted = 0
        self._lock = threading.Lock()
        self.files: list[FileEntry] = []

    def read(self) -> list[FileEntry]:
        """Return what an earlier try has noted of the same transaction."""
        try:
            data = json.loads(self._place.read_bytes())
            if not same_id(data["transaction_id"], self._transaction_id):
                return []
            return [FileEntry.read(item) for item in data["files"]]
        except (AttributeError, FileNotFoundError, KeyError, TypeError, ValueError):
            return []  # Nothing is lost but time.

    def begin(self, files: Iterable[FileEntry]) -> None:
        """Note what is there already."""
        self.files.extend(files)
        if self.files:
            self._write()

    def add(self, file: FileEntry) -> None:
        """Note a file that has landed, together with those of other threads."""
        self.files.append(file)
        with self._lock:
            if self.noted < len(self.files) < self._expected:
                self._write()

    def end(self) -> None:
        """Remove the note: a manifest names everything now."""
        self._place.remove()

    def _write(self) -> None:
        files = self.files[:]
        data = {
            "transaction_id": self._transaction_id,
            "files": [asdict(file) for file in files],
        }
        self._place.write_text(json.dumps(data, ensure_ascii=False))
        self.noted = len(files)
