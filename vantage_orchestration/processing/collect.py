# SPDX-License-Identifier: Apache-2.0
"""Downloads the result files of a transaction into a folder, completely or not visibly at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from vantage_orchestration.errors import (
    ConfigurationError,
    ConnectionFailed,
    NotFound,
    ProtocolError,
    StateDamaged,
    VantageError,
    translated,
)
from vantage_orchestration.models import same_id
from vantage_orchestration.parallel import requesting
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    FileEntry,
    SourceEntry,
    TransactionManifest,
    below,
    class_of,
    folders_in,
    rule_error_of,
)
from vantage_orchestration.processing.names import LANDED, MANIFEST, UniqueNames, folded, safe_name
from vantage_orchestration.processing.routing import Output, class_folder
from vantage_orchestration.results import check_types, with_results
from vantage_orchestration.state import reading
from vantage_orchestration.status import Status
from vantage_orchestration.storage import is_part
from vantage_orchestration.stored import Member, StoredFile

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import (
        ExtractedDocument,
        ListedTransaction,
        ResultFile,
        Transaction,
    )
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.submit import Part
    from vantage_orchestration.storage import Location

log = logging.getLogger(__name__)

#: A warning is logged this many days before the service deletes results.
_LAST_DAYS = 2
#: Single bad files after which the rest is not fetched.
_MOST_FAILURES = 3
#: Files and bytes that are not noted one by one.
_FEW, _SMALL = 4, 1_000_000
#: What landed files cost, in bytes: the request for one, and its line in each note.
_REQUEST, _LINE = 50_000, 1000
_CHUNK = 1024 * 1024
_NUMBER = re.compile("[1-9][0-9]*")


@translated
def fetch(
    client: VantageClient, transaction: Transaction, output: Output, part: Part, options: Options
) -> None:
    """Download the result files of a transaction without writing a manifest; :func:`collect` finds
    them. Arguments and errors are the same."""
    types, target = options.result_types or None, output.folder.child(part.folder)
    check_types(transaction, types)
    wanted = _wanted(transaction, types, output, part)
    landing = _Landed(target, transaction, wanted, TransactionManifest.load(target))
    if landing.missing:
        landing.fetch(client, options.parallel)
        landing.keep()


@translated
def collect(
    client: VantageClient,
    transaction: Transaction,
    output: Output,
    part: Part,
    options: Options,
    *,
    row: ListedTransaction | None = None,
    skill_id: str | None = None,
) -> TransactionManifest:
    """Download the result files of a transaction and write their manifest, which is returned as
    that of a job contains it: with its folder.

    The files of the first document land in ``FOLDER/1`` and so on, each only when complete.
    ``FOLDER/manifest.json`` comes last: if it exists, everything it names exists. Collecting again,
    after a crash or without one, gives the same bytes. Files that have landed are not downloaded
    again: until the manifest exists, ``landed.json`` names them. Remains of an earlier transaction
    or a killed try are removed, so use the folder for nothing else, and collect into it with one
    process at a time.

    The transaction must be ``Processed``. What the manifest needs besides comes from its ``part``,
    its ``row`` in a list and the ``skill_id``; what is unknown is kept from an earlier manifest.
    """
    if transaction.status != Status.PROCESSED:
        raise ConfigurationError(
            f"The transaction is {transaction.status}; only one that was Processed has results",
            transaction_id=transaction.id,
        )
    types, target = options.result_types or None, output.folder.child(part.folder)
    transaction = with_results(client, transaction)
    check_types(transaction, types)
    found = TransactionManifest.load(target)
    before = found if found is not None and same_id(found.transaction_id, transaction.id) else None
    wanted = _wanted(transaction, types, output, part)
    landing = _Landed(target, transaction, wanted, found)
    missing = landing.missing
    if missing:
        landing.fetch(client, options.parallel)
    origins = _origins(client, transaction)

    of_document: defaultdict[int, list[_Download]] = defaultdict(list)
    for each in wanted:
        of_document[each.number].append(each)

    def known(*found: Any) -> Any:
        return next((each for each in found if each not in (None, "")), None)

    manifest = TransactionManifest(
        transaction.id,
        known(skill_id, row and row.skill_id, before and before.skill_id),
        transaction.status.value,
        known(row and row.created_at, before and before.created_at),
        known(row and row.page_count, before and before.pages),
        _sources(transaction, part.sources or None, before),
        tuple(
            DocumentEntry(
                document.id,
                class_of(document.classification),
                tuple(rule_error_of(error) for error in document.business_rule_errors),
                tuple(landing.there[each.key] for each in of_document[number]),
                origins.get(document.id.lower(), ()),
                _folder_of(document, output, part),
            )
            for number, document in enumerate(transaction.documents, 1)
        ),
        key=known(part.key, before and before.key),
    )
    if missing or before is None or before.to_json() != manifest.to_json():
        manifest.write(target)
    landing.end(manifest)
    _warn_if_late(manifest)
    return replace(manifest, folder=part.folder)


def landed(manifest: TransactionManifest, target: Location) -> bool:
    """Return whether ``manifest.json`` and every file that it names exist with the right sizes, so
    that the transaction may be deleted. A folder that can't be read is StateUnavailable."""
    folders = {None, *(each.folder for each in manifest.documents)}
    try:
        with reading(target):
            sizes = {each: below(target, each).sizes() for each in folders}
    except FileNotFoundError:
        return False
    return MANIFEST in sizes[None] and all(
        sizes[document.folder].get(file.path) == file.size
        for document in manifest.documents
        for file in document.files
    )


def landed_in(
    output: Location, folder: str, transaction_id: str | None = None
) -> TransactionManifest | None:
    """Return the manifest in a folder of the output, with that folder, if everything has landed,
    and it is of this transaction."""
    found = TransactionManifest.load(place := output.child(folder))
    if found is None or (transaction_id and not same_id(found.transaction_id, transaction_id)):
        return None
    return replace(found, folder=folder) if landed(found, place) else None


# ------------------------------------------------------------- what to fetch


@dataclass(frozen=True, slots=True)
class _Download:
    """A result file and its target."""

    number: int
    file: ResultFile
    path: str
    folder: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.path, self.file.name, self.file.type)


def _key(file: FileEntry) -> tuple[str, str, str]:
    return (file.path, file.name, file.type)


def _folder_of(document: ExtractedDocument, output: Output, part: Part) -> str | None:
    if output.by_class is None:
        return None
    found = class_of(document.classification) or {}
    return f"{class_folder(output.by_class, found.get('name') or found.get('id'))}/{part.folder}"


def _wanted(
    transaction: Transaction,
    types: Collection[str] | None,
    output: Output,
    part: Part,
) -> list[_Download]:
    wanted = []
    for number, document in enumerate(transaction.documents, 1):
        folder = _folder_of(document, output, part)
        names = UniqueNames()
        # Sorted, since the service does not define an order; named before some are left out, so
        # that a file has the same name whatever else is requested.
        for file in sorted(document.result_files, key=lambda each: (each.name, each.type, each.id)):
            path = f"{number}/{names.take(safe_name(file.name))}"
            if types is None or file.type in types:
                wanted.append(_Download(number, file, path, folder))
    return wanted


def _sources(
    transaction: Transaction,
    sources: Sequence[SourceEntry] | None,
    before: TransactionManifest | None,
) -> tuple[SourceEntry, ...]:
    sent = transaction.source_files
    if sources is None:
        return (
            before.sources if before else tuple(SourceEntry(each.name, each.name) for each in sent)
        )
    # Inputs may be missing since they were sent, or have other names; the service still knows them.
    if len(sources) == len(sent) == 1:
        return (replace(sources[0], stored_name=sent[0].name),)
    names = {folded(each.name): each.name for each in sent}
    here = {folded(each.stored_name): each for each in sources}
    if not here.keys() >= names.keys():
        earlier = before.sources if before else ()
        known = {folded(each.stored_name): each for each in earlier} | here
        here = {key: known.get(key) or SourceEntry(name, name) for key, name in names.items()}
    # Under the names that the service gives them, which may write letters in another way.
    return tuple(
        replace(each, stored_name=names.get(key, each.stored_name)) for key, each in here.items()
    )


def _origins(client: VantageClient, transaction: Transaction) -> dict[str, tuple[str, ...]]:
    """Return the source files of each document, if there are several of both."""
    if len(transaction.documents) < 2 or len(transaction.source_files) < 2:
        return {}
    return {
        document.id.lower(): tuple(file.name for file in document.source_files)
        for document in client.list_documents(transaction.id)
    }


@dataclass(frozen=True, slots=True)
class LandedNote(StoredFile):
    """Which result files of a transaction have landed, until all have. A later try fetches only the
    rest, even if the process was killed in between.

    Attributes:
        transaction_id: Transaction.
        documents: Ids of its documents in their order, which the service does not define. The
            folders of files are numbered by it.
        files: What has landed.
        folders: Folders of classes into which files land. They are noted before any file lands:
            nothing else leads to them if the document is sent again.
    """

    file = LANDED

    transaction_id: str
    documents: tuple[str, ...]
    files: tuple[FileEntry, ...] = ()
    folders: Annotated[tuple[str, ...], Member(read=folders_in, sparse=True)] = ()


class _Landed:
    """The result files of a transaction that have landed (``there``), in the folders that they land
    in. Thread-safe. ``found`` is the manifest in its folder, of whichever transaction."""

    def __init__(
        self,
        target: Location,
        transaction: Transaction,
        wanted: Sequence[_Download],
        found: TransactionManifest | None,
    ) -> None:
        self._target, self._wanted = target, wanted
        documents = tuple(each.id for each in transaction.documents)
        folders = {each.folder for each in wanted}
        self._sizes = {each: below(target, each).sizes() for each in {None, *folders}}
        classes = tuple(sorted(filter(None, folders)))
        self._note = LandedNote(transaction.id, documents, (), classes)
        self._written = LANDED in self._sizes[None]
        noted = _noted(target) if self._written else None
        self._stale: set[str | None] = set(noted.folders if noted else ())
        earlier: dict[tuple[str, str, str], FileEntry] = {}
        if found is not None:
            self._stale |= {each.folder for each in found.documents if each.folder is not None}
            same = same_id(found.transaction_id, transaction.id)
            if same and documents == tuple(each.document_id for each in found.documents):
                earlier = {_key(file): file for file in found.files}
        if noted and noted.documents == documents and same_id(noted.transaction_id, transaction.id):
            earlier |= {_key(file): file for file in noted.files}
        self.there = {
            each.key: earlier[each.key]
            for each in wanted
            if each.key in earlier
            and self._sizes[each.folder].get(each.path) == earlier[each.key].size
        }
        self._files, self._noted = list(self.there.values()), 0
        self._lock = threading.Lock()

    @property
    def missing(self) -> list[_Download]:
        """Files that have not landed."""
        return [each for each in self._wanted if each.key not in self.there]

    def fetch(self, client: VantageClient, parallel: int) -> None:
        """Download the missing files. A single bad file does not keep the others from landing."""
        missing, failed = self.missing, list[VantageError]()
        if self.there or self._note.folders:
            self._write()
        if MANIFEST in self._sizes[None]:
            # It must not describe files that are about to change.
            self._target.child(MANIFEST).remove()

        def fetch(each: _Download) -> None:
            if len(failed) < _MOST_FAILURES:
                try:
                    entry = _download(client, self._note.transaction_id, each, self._target)
                except (NotFound, ProtocolError) as error:
                    failed.append(error)
                else:
                    self._add(entry)

        try:
            requesting(fetch, missing, parallel if self._target.concurrent else 1)
            for error in failed:
                raise error
        except Exception:
            with contextlib.suppress(OSError, VantageError):  # The first error is raised.
                self.keep()
            raise
        self.there = {_key(file): file for file in self._files}

    def _add(self, file: FileEntry) -> None:
        """Note a landed file, together with those of other threads. Fetching a few small files
        again takes no longer than noting them, and the last needs no note: a manifest follows."""
        self._files.append(file)
        with self._lock:
            new, expected = self._files[self._noted :], len(self._wanted)
            size = sum(each.size for each in new)
            many = expected > _FEW or size > _SMALL
            worth = size + _REQUEST * len(new) > _LINE * len(self._files)
            if new and many and worth and len(self._files) < expected:
                self._write()

    def keep(self) -> None:
        """Note everything that has landed, before an error or a longer break."""
        if self._noted < len(self._files):
            self._write()

    def _write(self) -> None:
        files = tuple(self._files)
        replace(self._note, files=files).write(self._target)
        self._noted, self._written = len(files), True

    def end(self, manifest: TransactionManifest) -> None:
        """Remove the note, which the manifest replaces, and what the manifest does not name."""
        if self._written:
            self._target.child(LANDED).remove()
        for folder, sizes in self._sizes.items():
            documents = [each for each in manifest.documents if each.folder == folder]
            named = {file.path for each in documents for file in each.files}
            _clear(below(self._target, folder), sizes, named)
        for folder in self._stale - self._sizes.keys():
            place = below(self._target, folder)
            _clear(place, place.sizes(), ())
            place.remove_if_empty()


def _noted(target: Location) -> LandedNote | None:
    try:
        return LandedNote.load(target)
    except StateDamaged:
        return None  # Nothing is lost but time.


# ------------------------------------------------------------------ fetching


def _download(
    client: VantageClient, transaction_id: str, wanted: _Download, target: Location
) -> FileEntry:
    def fill(stream: BinaryIO) -> tuple[int, str]:
        received = client.stream_result(transaction_id, wanted.file, stream)
        stream.seek(0)
        digest, size = hashlib.sha256(), 0
        for chunk in iter(partial(stream.read, _CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
        if size != received:
            raise ConnectionFailed(
                f"{received} bytes of {wanted.file.name!r} arrived, but {size} were written",
                transaction_id=transaction_id,
            )
        return size, digest.hexdigest()

    size, sha256 = below(target, wanted.folder).child(wanted.path).write(fill)
    return FileEntry(wanted.file.name, wanted.path, wanted.file.type, size, sha256)


# ---------------------------------------------------------------- afterwards


def _clear(target: Location, sizes: Mapping[str, int], named: Collection[str]) -> None:
    """Remove what killed tries and earlier transactions have left."""
    emptied = set()
    # A store that ignores case keeps a file under its old name.
    kept = {folded(path) for path in named}
    for path in sizes:
        folder, _, name = path.rpartition("/")
        ours = _NUMBER.fullmatch(folder) is not None
        if (is_part(name) and (ours or not folder)) or (ours and folded(path) not in kept):
            target.child(path).remove()
            emptied.add(folder)
    for folder in emptied - {"", *(path.rpartition("/")[0] for path in named)}:
        target.child(folder).remove_if_empty()


def _warn_if_late(manifest: TransactionManifest) -> None:
    if (expires := manifest.expires_at) is None:
        return
    import pendulum

    left = expires - pendulum.now("UTC")
    if left.total_seconds() < _LAST_DAYS * 86400:
        log.warning(
            "The results of transaction %s were collected shortly before ABBYY Vantage deletes"
            " them (%s)",
            manifest.transaction_id,
            expires.in_timezone("UTC").to_iso8601_string(),
        )
