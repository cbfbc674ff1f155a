# SPDX-License-Identifier: Apache-2.0
"""Records which result files of a transaction have landed, until all have.

A later try fetches only the rest, even if the process was killed in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vantage_orchestration.errors import StateDamaged
from vantage_orchestration.models import same_id
from vantage_orchestration.processing.manifest import FileEntry, folders_in
from vantage_orchestration.processing.names import LANDED
from vantage_orchestration.stored import Member, StoredFile

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

#: Files and bytes that are not noted one by one.
_FEW, _SMALL = 4, 1_000_000


@dataclass(frozen=True, slots=True)
class _Note(StoredFile):
    file = LANDED

    transaction_id: str
    documents: tuple[str, ...]
    files: tuple[FileEntry, ...]
    folders: Annotated[tuple[str, ...], Member(read=folders_in, sparse=True)] = ()


class Landing:
    """The file ``landed.json`` of a transaction. Thread-safe.

    Attributes:
        files: What has landed.
        written: Whether there is such a file now.

    Args:
        target: Folder of the transaction.
        transaction_id: Transaction.
        documents: Ids of its documents in their order, which the service does not define. The
            folders of files are numbered by it.
        expected: Number of files that are to land. The last needs no note: the manifest follows.
        folders: Folders of classes into which they land. They are noted before any file lands:
            nothing else leads to them if the document is sent again.
    """

    def __init__(
        self,
        target: Location,
        transaction_id: str,
        documents: Sequence[str],
        expected: int,
        folders: Iterable[str] = (),
    ) -> None:
        self._target = target
        self._transaction_id = transaction_id
        self._documents = tuple(documents)
        self._expected = expected
        self._folders = tuple(sorted(folders))
        self._noted = 0
        self.written = False
        self._lock = threading.Lock()
        self.files: list[FileEntry] = []

    def read(self) -> tuple[list[FileEntry], set[str]]:
        """Return the files that an earlier try has noted for this transaction, and the folders of
        classes into which it was to land files of whichever transaction."""
        self.written = True
        try:
            note = _Note.load(self._target)
        except StateDamaged:
            note = None  # Nothing is lost but time.
        if note is None:
            return [], set()
        same = same_id(note.transaction_id, self._transaction_id)
        files = note.files if same and note.documents == self._documents else ()
        return list(files), set(note.folders)

    def begin(self, files: Iterable[FileEntry]) -> None:
        """Note existing files."""
        self.files.extend(files)
        if self.files or self._folders:
            self._write()

    def add(self, file: FileEntry) -> None:
        """Note a landed file, together with those of other threads. Fetching a few small files
        again takes no longer than noting each."""
        self.files.append(file)
        with self._lock:
            new = self.files[self._noted :]
            many = self._expected > _FEW or sum(each.size for each in new) > _SMALL
            if new and many and len(self.files) < self._expected:
                self._write()

    def keep(self) -> None:
        """Note what has landed, before an error or a longer break."""
        if self._noted < len(self.files):
            self._write()

    def end(self) -> None:
        """Remove the note: a manifest names everything now."""
        if self.written:
            self._target.child(LANDED).remove()

    def _write(self) -> None:
        files = tuple(self.files)
        _Note(self._transaction_id, self._documents, files, self._folders).write(self._target)
        self._noted, self.written = len(files), True
