# SPDX-License-Identifier: Apache-2.0
"""Manifests describe results: the ``manifest.json`` of a transaction, and that of a whole job.

They contain names, digests, classes and rule errors, never field values, review links or tokens.
The same results give the same bytes: nothing depends on when or by which try they were fetched.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.limits import RETENTION_DAYS
from vantage_orchestration.models import Skill
from vantage_orchestration.processing.names import MANIFEST, UNCLASSIFIED
from vantage_orchestration.storage import Location
from vantage_orchestration.stored import Member, Stored, StoredFile
from vantage_orchestration.text import clean, identifier

if TYPE_CHECKING:
    import pyarrow as pa
    from pendulum import DateTime

    from vantage_orchestration.models import BusinessRuleError, Classification, Transaction
    from vantage_orchestration.storage import AnyPath
    from vantage_orchestration.tables.build import OpenTable
    from vantage_orchestration.tables.values import ValueFormat

#: Class name for transactions with documents of several classes.
SEVERAL = "several classes"
#: Name of the skill of transactions of which it is not known.
UNKNOWN_SKILL = "unknown skill"
#: A manifest of a job, or of one of the runs that share an output folder.
_MANIFEST = re.compile(r"manifest(-.+)?\.json")
_FOLDER = re.compile(r"((?!\.\.?(/|$))[^/\\\x00-\x1f]+(/|$))+(?<!/)")
_PATH = re.compile(r"[1-9][0-9]*/(?!\.\.?$)[^/\\\x00-\x1f]+")


def _path(data: Any) -> str:
    # Files are removed according to a manifest, and anybody may have written it.
    if not isinstance(data, str) or not _PATH.fullmatch(data):
        raise ValueError("a path leads out of the folder")
    return data


def _size(data: Any) -> int:
    if type(data) is not int or data < 0:
        raise ValueError("a size is not a number of bytes")
    return data


def folder_in(path: Any) -> str:
    """Return the path of a folder in the output, from a file that may have been changed by anyone.

    Raises:
        ValueError: It would lead out of the output.
    """
    if not isinstance(path, str) or not _FOLDER.fullmatch(path):
        raise ValueError("a folder leads elsewhere")
    return path


def folders_in(paths: Any) -> tuple[str, ...]:
    """Return the paths of folders, see :func:`folder_in`."""
    return tuple(map(folder_in, paths))


_Id = Annotated[str, Member(read=identifier)]
_NEEDED = Member(needed=True)


@dataclass(frozen=True, slots=True)
class SourceEntry(Stored):
    """A file, from the plan to the manifests.

    Attributes:
        name: Its original name.
        stored_name: Its name in the service.
        path: Original path or URL; None if no longer known, as the next two.
        size: Size in bytes.
        sha256: Hex digest of the content.
        duplicates: Paths of files with equal content that were not sent.
    """

    name: str
    stored_name: str
    path: str | None = None
    size: int | None = None
    sha256: str | None = None
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileEntry(Stored):
    """A result file that has landed.

    Attributes:
        name: Its name in the service.
        path: Path from the folder of the transaction, such as ``1/Invoice.json``.
        type: Type in the service, such as ``FieldsJson``.
        size: Size in bytes.
        sha256: Hex digest of the received content.
    """

    name: str
    path: Annotated[str, Member(read=_path)]
    type: str
    size: Annotated[int, Member(read=_size)]
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentEntry(Stored):
    """A document found by the service.

    Attributes:
        document_id: Its UUID in the transaction.
        classification: Its class: ``id``, ``name``, ``confidence`` (0 to 100), ``is_confident``.
            None if no Classification skill was applied.
        rule_errors: Broken rules: ``type``, ``message``, ``rule_id``, ``field_id``.
        files: Its result files, by name.
        sources: Names in the service of its source files, if the transaction has several.
        folder: If its class has a folder, the folder of its files, relative to the output folder.
            None for the folder of the transaction.
    """

    document_id: str
    classification: Annotated[Mapping[str, Any] | None, Member("class")]
    rule_errors: tuple[Mapping[str, Any], ...]
    files: tuple[FileEntry, ...]
    sources: Annotated[tuple[str, ...], Member(sparse=True)] = ()
    folder: Annotated[str | None, Member(read=folder_in, sparse=True)] = None

    @property
    def class_name(self) -> str | None:
        """Name of its class; the class's id if it has no name."""
        known = self.classification or {}
        return known.get("name") or known.get("id")

    def place(self, of_transaction: Location) -> Location:
        """Return the folder in which the paths of its files begin.

        Args:
            of_transaction: Folder of the transaction.
        """
        return below(of_transaction, self.folder)


def below(of_transaction: Location, folder: str | None) -> Location:
    """Return a folder of the output, by its path from there; None is that of the transaction."""
    return of_transaction if folder is None else of_transaction.parent.child(folder)


class _Manifest(StoredFile):
    """Content of a ``manifest.json``."""

    __slots__ = ()
    version = 1
    file = MANIFEST


@dataclass(frozen=True, slots=True)
class TransactionManifest(_Manifest):
    """The results of one transaction and their location.

    Attributes:
        transaction_id: Its UUID.
        skill_id: Skill that processed it, if known.
        status: Its status, ``Processed``.
        created_at: When it was created, if known.
        pages: Number of charged pages, if known.
        sources: The files that were sent.
        documents: The documents, in the service's order. The files of the first are in the folder
            ``1`` and so on, below the folder of the transaction or of the document's class.
        folder: In the manifest of a job: its folder, relative to that manifest. Otherwise empty.
        key: Key by which a later try finds the transaction, if it has one.
    """

    shown: ClassVar = ("expires_at",)

    transaction_id: _Id
    skill_id: str | None
    status: _Id
    created_at: DateTime | None
    pages: int | None
    sources: tuple[SourceEntry, ...]
    documents: tuple[DocumentEntry, ...]
    folder: Annotated[str, Member(read=folder_in, sparse=True)] = ""
    key: str | None = None

    @property
    def expires_at(self) -> DateTime | None:
        """When the service deletes the transaction: 14 days after its creation (section 5)."""
        return None if self.created_at is None else self.created_at.add(days=RETENTION_DAYS)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The result files of all documents."""
        return tuple(file for document in self.documents for file in document.files)


@dataclass(frozen=True, slots=True)
class UnfinishedEntry(Stored):
    """A transaction without results: it has not ended, or it failed.

    Attributes:
        transaction_id: Its UUID.
        status: Last known status, such as ``Processing`` or ``Failed``.
        in_review: Whether a person must review it.
        error: Why it failed, as reported by the service: one line without secrets.
        sources: The files that were sent.
    """

    transaction_id: _Id
    status: str
    in_review: bool = False
    error: str | None = None
    sources: tuple[SourceEntry, ...] = ()

    def __post_init__(self) -> None:
        if self.error is not None:  # Anybody may have written it.
            object.__setattr__(self, "error", clean(self.error))

    @classmethod
    def of(
        cls, transaction_id: str, state: Transaction, sources: Iterable[SourceEntry] = ()
    ) -> UnfinishedEntry:
        """Describe a transaction as the service reports it.

        Args:
            transaction_id: Its id, as the caller spells it.
            state: Its state.
            sources: The files that were sent; by default as the service names them.
        """
        known = tuple(sources) or tuple(SourceEntry(f.name, f.name) for f in state.source_files)
        return cls(transaction_id, state.status.value, state.waits_for_review, state.error, known)


@dataclass(frozen=True, slots=True)
class FindingEntry(Stored):
    """A finding of the quality gate.

    Attributes:
        transaction_id: The document's transaction.
        document_index: Its position in the transaction, from 1.
        field: Path of the field; empty for the whole document.
        reason: What is wrong.
    """

    transaction_id: str
    document_index: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class TableEntry(Stored):
    """A table that was written.

    Attributes:
        skill: Name of the skill whose documents it holds.
        name: Name of the table, such as ``documents`` or ``documents.Items``.
        path: Path from the output folder.
        rows: Number of its rows.
        columns: Column name to Arrow type.
    """

    skill: str
    name: str
    path: str
    rows: int
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest(_Manifest):
    """The results of all transactions of a job.

    Attributes:
        skill_id: Skill that processed them, if known and the same for all.
        job: Identifies the job among others that write into the same folder, if that matters.
        transactions: Transactions whose results have landed, each with its ``folder``.
        pending: Transactions that still run or wait for a review.
        failed: Transactions that failed, were cancelled or are gone.
        skills: The skill with its fields, followed by the Document skills of a Process skill.
        written_tables: The tables that were written, if any.
        findings: Findings of the quality gate.
        quarantined: Addresses of the copies of documents that failed or are not good enough.
        skill_names: Names of the skills by id, as far as known.
        table_options: Options with which its tables are made: ``date_format``, ``day_first``,
            ``decimal`` and ``on_low_quality``. Empty for the defaults.
        folder: The folder in which it was opened.
        earlier: Number of transactions found from an earlier try. It is not written.
    """

    shown: ClassVar = ("counts", "by_class", "pages_by_class", "pages_by_skill")

    skill_id: str | None
    job: Annotated[str | None, _NEEDED] = None
    transactions: Annotated[tuple[TransactionManifest, ...], _NEEDED] = ()
    pending: Annotated[tuple[UnfinishedEntry, ...], _NEEDED] = ()
    failed: Annotated[tuple[UnfinishedEntry, ...], _NEEDED] = ()
    skills: tuple[Skill, ...] = ()
    written_tables: Annotated[tuple[TableEntry, ...], Member("tables")] = ()
    findings: tuple[FindingEntry, ...] = ()
    quarantined: tuple[str, ...] = ()
    skill_names: Mapping[str, str] = field(default_factory=dict)
    table_options: Annotated[Mapping[str, Any], Member(sparse=True)] = field(default_factory=dict)
    folder: Location | None = field(default=None, compare=False, repr=False)
    earlier: int = field(default=0, compare=False, repr=False)

    @classmethod
    def open(cls, place: AnyPath) -> Manifest:
        """Open the results of a job.

        Args:
            place: The output folder, or the manifest in it that a task's result names: a path,
                URL, path object or Location.

        Raises:
            ConfigurationError: There is no manifest.
            StateUnavailable: It can't be read now.
            StateDamaged: It is something else, or of another version.
        """
        folder, name = Location.of(place), MANIFEST
        if _MANIFEST.fullmatch(folder.name):
            folder, name = folder.parent, folder.name
        manifest = cls.load(folder, name)
        if manifest is None:
            raise ConfigurationError(
                f"There is no {name} in {folder}",
                hint="Give the output folder of a finished job, or its manifest",
            )
        return replace(manifest, folder=folder)

    @property
    def in_review(self) -> tuple[UnfinishedEntry, ...]:
        """The transactions that wait for a person."""
        return tuple(each for each in self.pending if each.in_review)

    @property
    def ended(self) -> tuple[UnfinishedEntry | TransactionManifest, ...]:
        """The transactions that have ended: failed ones, then those with results."""
        return (*self.failed, *self.transactions)

    def tables(
        self, skill: str | None = None, *, values: ValueFormat | None = None
    ) -> dict[str, pa.Table]:
        """Return the results as Arrow tables by name: ``documents``, ``fields`` and so on.

        pandas (``table.to_pandas()``), polars (``pl.from_arrow(table)``) and DuckDB accept them
        directly. They need the extra ``tables``.

        Args:
            skill: Name of the skill, if a Process skill applied several.
            values: Format of dates and numbers. By default the one used when the tables were
                written.

        Raises:
            ConfigurationError: pyarrow is not installed, or ``skill`` is required.
            OSError: A file can't be read at present.
        """
        import pyarrow as pa

        with self._opened(skill, values) as tables:
            return {
                name: pa.Table.from_batches(table.batches(), schema=table.schema)
                for name, table in tables.items()
            }

    def rows(
        self,
        table: str = "documents",
        *,
        skill: str | None = None,
        values: ValueFormat | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table as dictionaries.

        Args:
            table: Name of the table, such as ``documents.Items``. A table that no document filled
                has no rows.
            skill: See :meth:`tables`.
            values: See :meth:`tables`.

        Raises:
            ConfigurationError, OSError: See :meth:`tables`.
        """
        with self._opened(skill, values) as tables:
            if table in tables:
                for batch in tables[table].batches():
                    yield from batch.to_pylist()

    @property
    def opened_in(self) -> Location:
        """The folder in which it was opened.

        Raises:
            ConfigurationError: It was not opened with :meth:`open`.
        """
        if self.folder is None:
            raise ConfigurationError("Open the manifest with Manifest.open to read its results")
        return self.folder

    @contextlib.contextmanager
    def _opened(
        self, skill: str | None, values: ValueFormat | None
    ) -> Iterator[Mapping[str, OpenTable]]:
        from vantage_orchestration.tables.build import opened_tables, tables_of_skill

        with opened_tables(self, self.opened_in, values) as tables:
            yield tables_of_skill(tables, skill)

    @property
    def counts(self) -> dict[str, int]:
        """Totals; ``transactions`` counts those with results, ``pages`` adds up known page
        numbers."""
        documents = [document for each in self.transactions for document in each.documents]
        sources = [source for each in self.transactions for source in each.sources]
        sources += [source for each in (*self.pending, *self.failed) for source in each.sources]
        return {
            "transactions": len(self.transactions),
            "documents": len(documents),
            "files": sum(len(document.files) for document in documents),
            "pages": sum(each.pages or 0 for each in self.transactions),
            "rule_errors": sum(len(document.rule_errors) for document in documents),
            "duplicates": sum(len(source.duplicates) for source in sources),
            "pending": len(self.pending),
            "in_review": sum(each.in_review for each in self.pending),
            "failed": len(self.failed),
            "low_quality": len({(f.transaction_id, f.document_index) for f in self.findings}),
            "quarantined": len(self.quarantined),
        }

    @property
    def skill_ids(self) -> set[str]:
        """Ids of the skills that have processed the transactions, as far as they are known."""
        return {each for each in map(self._skill_of, self.transactions) if each is not None}

    def _skill_of(self, entry: TransactionManifest) -> str | None:
        return entry.skill_id or self.skill_id

    @property
    def pages_by_skill(self) -> dict[str, int]:
        """Number of pages of each skill, by its name, or by its id where no name is known."""
        ids = [(self._skill_of(each), each.pages or 0) for each in self.transactions]
        return _added(
            (self.skill_names.get(skill_id, skill_id) if skill_id else UNKNOWN_SKILL, pages)
            for skill_id, pages in ids
        )

    @property
    def by_class(self) -> dict[str, int]:
        """Number of documents per class; documents without a class count as ``unclassified``."""
        return _added(
            (document.class_name or UNCLASSIFIED, 1)
            for each in self.transactions
            for document in each.documents
        )

    @property
    def pages_by_class(self) -> dict[str, int]:
        """Number of pages per class, for transactions with documents of one class."""
        classes = [
            {document.class_name or UNCLASSIFIED for document in each.documents}
            for each in self.transactions
        ]
        return _added(
            (names.pop() if len(names) == 1 else SEVERAL, each.pages or 0)
            for names, each in zip(classes, self.transactions, strict=True)
        )


def class_of(classification: Classification | None) -> dict[str, Any] | None:
    """Describe the class of a document."""
    if classification is None:
        return None
    wanted = (classification.class_id, classification.class_name)
    confidences = (
        each.confidence
        for each in classification.confidences
        if (each.id, each.name) == wanted
        or (each.id is not None and each.id == wanted[0])
        or (wanted[0] is None and each.name == wanted[1])
    )
    return {
        "id": classification.class_id,
        "name": classification.class_name,
        "confidence": next(confidences, None),
        "is_confident": classification.is_confident,
    }


def rule_error_of(error: BusinessRuleError) -> dict[str, Any]:
    """Describe a broken rule."""
    return {
        "type": error.error_type,
        "message": error.message,
        "rule_id": error.rule_id,
        "field_id": error.field_id,
    }


def _added(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Add up numbers by name, sorted."""
    found: dict[str, int] = {}
    for name, number in pairs:
        found[name] = found.get(name, 0) + number
    return dict(sorted(found.items()))
