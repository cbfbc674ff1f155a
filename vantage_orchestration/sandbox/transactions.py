# SPDX-License-Identifier: Apache-2.0
"""Transactions and their states (contract, sections 3.2, 3.3, 4, 5).

Only the server's event loop touches this state. No method yields between a check and the
change that depends on it, apart from :meth:`Transactions.settle`, which checks again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pendulum

from .bodies import CreateModel, FileModel, Parameter, UploadModel
from .clock import Clock
from .ids import Ids, blob
from .problems import Problem
from .results import DocumentJob, Job, Outcome, ResultFile, produce
from .settings import OUTCOMES, SandboxSettings
from .skills import Skill, Skills
from .uploads import Upload, UploadedFile

NEW, PROCESSING, PROCESSED, FAILED, CANCELED = (
    "New",
    "Processing",
    "Processed",
    "Failed",
    "Canceled",
)
ENDED = frozenset({PROCESSED, FAILED, CANCELED})
WAITING, FINISHED = "waiting", "finished"
#: Where a transaction is while it waits for a person; its status stays ``Processing``.
IN_REVIEW = "InReview"
#: Source of the transactions that come in through the API.
PUBLIC_API = "PublicAPI"

#: Registration parameters that steer the sandbox; the real service gives them no meaning.
OUTCOME_PARAMETER = "SandboxOutcome"
REVIEW_PARAMETER = "SandboxReview"


@dataclass
class SourceFile:
    """An uploaded file of a document."""

    id: str
    upload: UploadedFile
    index: int
    parameters: tuple[Parameter, ...]


@dataclass
class Document:
    """One document: a group of source files."""

    id: str
    index: int | None
    image_options: dict[str, str] = field(default_factory=dict)
    files: list[SourceFile] = field(default_factory=list)


@dataclass
class Transaction:
    """One transaction with everything known about it."""

    id: str
    tenant_id: str
    skill: Skill
    created: pendulum.DateTime
    created_at: float
    registration: tuple[Parameter, ...]
    skill_parameters: tuple[Parameter, ...]
    documents: list[Document] = field(default_factory=list)
    status: str = NEW
    error: str | None = None
    looks: int = 0
    start_calls: int = 0
    started_at: float = 0.0
    work: asyncio.Future[Outcome] | None = None
    outcome: Outcome | None = None
    review: str | None = None
    review_status: str = PROCESSED
    review_links: list[tuple[str, float]] = field(default_factory=list, repr=False)
    mobile_links: list[str] = field(default_factory=list, repr=False)
    deleted_at: float | None = None
    delete_looks: int = 0
    source: str = PUBLIC_API
    phases: list[tuple[float, str]] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict, repr=False)
    """List entries as JSON text by phase. Only kept once nothing in them can change any more."""

    def phase(self, at: float) -> str | None:
        """Return where the transaction was at a moment of the clock, None before it was made.

        That is a status, or ``IN_REVIEW``.
        """
        for since, name in reversed(self.phases):
            if since <= at:
                return name
        return None

    @property
    def files(self) -> list[SourceFile]:
        """All source files in the order of their documents."""
        return [item for document in self.ordered() for item in document.files]

    @property
    def in_review(self) -> bool:
        """Whether the transaction waits for a person."""
        return self.status == PROCESSING and self.review == WAITING

    @property
    def page_count(self) -> int:
        """Pages that are charged: those found once processing has begun, even on failure."""
        return self.outcome.page_count if self.outcome is not None else 0

    def ordered(self) -> list[Document]:
        """Return the documents by index; those without one come last, in order of creation."""
        return sorted(self.documents, key=lambda d: (d.index is None, d.index or 0))

    def document(self, document_id: str) -> Document:
        """Find a document.

        Raises:
            Problem: 404.
        """
        for item in self.documents:
            if item.id == document_id.lower():
                return item
        raise Problem(404, "There is no such document.")

    def listed_parameters(self) -> list[Parameter]:
        """Registration parameters with the one the service adds to what came through the API."""
        if self.source != PUBLIC_API:
            return list(self.registration)
        return [Parameter("App", PUBLIC_API), *self.registration]

    def file_parameters(self) -> list[Parameter]:
        """Parameters of all files with those the service adds."""
        found = []
        for item in self.files:
            own = {parameter.key for parameter in item.parameters}
            added = {
                "Index": str(item.index),
                "SourceFileName": item.upload.name,
                "SourceType": self.source,
            }
            found += [Parameter(key, value) for key, value in added.items() if key not in own]
            found += item.parameters
        return found

    def result_file(self, file_id: str) -> ResultFile | None:
        """Find a result file; only ended transactions have any."""
        if self.status != PROCESSED or self.outcome is None:
            return None
        files = (item for document in self.outcome.documents for item in document.files)
        return next((item for item in files if item.id == file_id), None)


class Transactions:
    """All transactions of a sandbox, of all tenants."""

    def __init__(
        self,
        ids: Ids,
        clock: Clock,
        skills: Skills,
        folder: Path,
        settings: Callable[[], SandboxSettings],
    ) -> None:
        self._ids = ids
        self._clock = clock
        self._skills = skills
        self._folder = folder
        self._settings = settings
        self._all: dict[str, Transaction] = {}
        self._secrets: list[str] = []

    # ---- finding -------------------------------------------------------------------------

    def all(self) -> list[Transaction]:
        """Return every transaction that still exists, in order of creation."""
        self._sweep()
        return list(self._all.values())

    def find(self, transaction_id: str, tenant_id: str, *, write: bool = False) -> Transaction:
        """Find a transaction for a caller.

        Args:
            transaction_id: Its id.
            tenant_id: Tenant of the caller.
            write: Whether it is going to be changed; one being deleted can only be read.

        Raises:
            Problem: 404, there is none (any more). 403, it belongs to another tenant.
        """
        self._sweep()
        try:
            key = str(uuid.UUID(transaction_id))
        except ValueError:
            key = ""
        found = self._all.get(key)
        if found is None or (write and found.deleted_at is not None):
            raise Problem(404, "There is no such transaction.")
        if found.tenant_id != tenant_id:
            raise Problem(403, "The transaction belongs to another tenant.")
        return found

    def skill_for(self, skill_id: str) -> Skill:
        """Find a skill that is going to be used.

        Raises:
            Problem: 404, it is unknown or unpublished. 403, the caller lacks the right.
        """
        skill = self._skills.find(skill_id)
        if skill is None or not skill.published:
            raise Problem(404, "There is no such skill, or it is not published.")
        if skill.restricted:
            raise Problem(403, "The API client has no right to this skill.")
        return skill

    # ---- changing ------------------------------------------------------------------------

    def create(self, tenant_id: str, model: CreateModel, source: str = PUBLIC_API) -> Transaction:
        """Make an empty transaction."""
        skill = self.skill_for(model.skill_id)
        made = Transaction(
            self._ids.new("transaction"),
            tenant_id,
            skill,
            self._clock.now(),
            self._clock.monotonic(),
            model.registration,
            model.skill,
            source=source,
        )
        self._enter(made, NEW)
        self._all[made.id] = made
        return made

    def launch(
        self,
        tenant_id: str,
        skill_id: str,
        model: UploadModel,
        upload: Upload,
        source: str = PUBLIC_API,
    ) -> Transaction:
        """Make a transaction with files and start it.

        Args:
            tenant_id: Tenant it belongs to.
            skill_id: Skill that processes it.
            model: What is said about the transaction and its files.
            upload: The files.
            source: Where it came in.

        Raises:
            Problem: 400, the files are not acceptable (a launch declares no 409).
        """
        made = self.create(
            tenant_id, CreateModel(skill_id, False, model.registration, model.skill), source
        )
        try:
            self.add_files(made, model.files, upload)
            self.start(made)
        except Problem as problem:
            del self._all[made.id]
            status = 400 if problem.status == 409 else problem.status
            raise Problem(status, problem.detail, problem.errors) from problem
        return made

    def add_others(
        self,
        tenant_id: str,
        skill_id: str,
        count: int,
        *,
        ended: bool,
        seconds: float,
        parameters: tuple[Parameter, ...],
        source: str,
    ) -> None:
        """Add transactions of other people, which can only be listed.

        Args:
            tenant_id: Tenant they belong to.
            skill_id: Skill.
            count: How many.
            ended: Whether they were processed; otherwise they run for ever.
            seconds: Period in which they were created, up to now, at equal intervals.
            parameters: Their registration parameters.
            source: Where they came in.
        """
        skill, phase = self.skill_for(skill_id), PROCESSED if ended else PROCESSING
        now, at = self._clock.now(), self._clock.monotonic()
        made = {}
        for number in range(count):
            age = seconds * (count - number) / count
            other = Transaction(
                self._ids.new("transaction"),
                tenant_id,
                skill,
                now.subtract(seconds=age),
                at - age,
                parameters,
                (),
                status=phase,
                source=source,
                phases=[(at - age, phase)],
            )
            made[other.id] = other
        # The lists begin with the oldest.
        self._all = {**made, **self._all}

    def check_open(self, transaction: Transaction) -> None:
        """Refuse changes to a transaction that has been started.

        Raises:
            Problem: 400.
        """
        if transaction.status != NEW:
            raise Problem(400, "The transaction has been started already.")

    def add_files(
        self, transaction: Transaction, models: Sequence[FileModel], upload: Upload
    ) -> None:
        """Add files; each becomes a document of its own.

        Raises:
            Problem: 400 or 409. Nothing is added then.
        """
        self._check_files(transaction, models, upload)
        count = len(transaction.documents) + len(upload.files)
        if count > 1 and not transaction.skill.many_documents:
            raise Problem(409, "Skills other than Process skills take one document only.")
        for place, item in enumerate(upload.files):
            model = models[place] if place < len(models) else FileModel()
            document = Document(
                self._ids.new("document"),
                model.index if model.index is not None else len(transaction.documents),
                model.image_options,
            )
            document.files.append(self._source_file(item, model, document.index or 0))
            transaction.documents.append(document)

    def add_source_files(
        self,
        transaction: Transaction,
        document: Document,
        models: Sequence[FileModel],
        upload: Upload,
    ) -> None:
        """Add files to one document.

        Raises:
            Problem: 400 or 409. Nothing is added then.
        """
        self._check_files(transaction, models, upload)
        for place, item in enumerate(upload.files):
            model = models[place] if place < len(models) else FileModel()
            index = model.index if model.index is not None else len(document.files)
            document.files.append(self._source_file(item, model, index))
        document.files.sort(key=lambda file: file.index)

    def add_document(self, transaction: Transaction, model: FileModel) -> Document:
        """Add an empty document.

        Raises:
            Problem: 400, the skill takes one document only, or the transaction was started.
        """
        self.check_open(transaction)
        if transaction.documents and not transaction.skill.many_documents:
            raise Problem(400, "Skills other than Process skills take one document only.")
        index = model.index if model.index is not None else len(transaction.documents)
        document = Document(self._ids.new("document"), index, model.image_options)
        transaction.documents.append(document)
        return document

    def remove_document(self, transaction: Transaction, document: Document) -> None:
        """Remove a document and its files before the start.

        Raises:
            Problem: 400, the transaction was started.
        """
        self.check_open(transaction)
        transaction.documents.remove(document)
        for item in document.files:
            item.upload.path.unlink(missing_ok=True)

    def start(self, transaction: Transaction) -> None:
        """Start a transaction.

        Raises:
            Problem: 400, it has been started before or has no files.
        """
        transaction.start_calls += 1
        self.check_open(transaction)
        if not transaction.files:
            raise Problem(400, "The transaction can't be started: it has no files.")
        if any(not document.files for document in transaction.documents):
            raise Problem(400, "The transaction can't be started: a document has no files.")
        transaction.status = PROCESSING
        transaction.started_at = self._clock.monotonic()
        self._enter(transaction, PROCESSING)
        loop = asyncio.get_running_loop()
        job = self._job(transaction)
        transaction.work = loop.run_in_executor(None, produce, job, self._skills, self._ids)

    def delete(self, transaction: Transaction) -> None:
        """Ask for deletion; it is carried out later."""
        if transaction.deleted_at is None:
            transaction.deleted_at = self._clock.monotonic()
        self._sweep()

    def finish_review(self, transaction_id: str, status: str) -> None:
        """End a manual review.

        Raises:
            ValueError: A transaction can't end with this status.
            LookupError: No such transaction waits for a review.
        """
        if status not in OUTCOMES:
            raise ValueError(f"status must be one of {', '.join(OUTCOMES)}")
        found = self._all.get(transaction_id.lower())
        if found is None or not found.in_review:
            raise LookupError("no such transaction waits for a manual review")
        found.review = FINISHED
        found.review_status = status
        self._end(found, status)

    # ---- reading -------------------------------------------------------------------------

    async def settle(self, transaction: Transaction) -> None:
        """Read a transaction: count the read, and continue processing if it is due."""
        settings = self._settings()
        if transaction.status != PROCESSING or transaction.review == WAITING:
            return
        elapsed = self._clock.monotonic() - transaction.started_at
        # What came by mail and the like is processed whether or not somebody reads it.
        by_looks = transaction.source == PUBLIC_API
        if (
            (by_looks and transaction.looks < settings.processing_polls)
            or elapsed < settings.processing_seconds
            or transaction.work is None
        ):
            transaction.looks += 1
            return
        at = None if by_looks else transaction.started_at + settings.processing_seconds
        # Shielded: several readers may wait for the same work, and each may go away.
        outcome = await asyncio.shield(transaction.work)
        if transaction.status != PROCESSING or transaction.outcome is not None:
            return  # another reader was faster
        transaction.outcome = outcome
        settings = self._settings()
        wanted = self._steered(transaction, OUTCOME_PARAMETER, settings.outcome)
        if outcome.error is not None:
            self._end(transaction, FAILED, outcome.error, at)
        elif self._needs_review(transaction, outcome, settings):
            transaction.review = WAITING
            self._enter(transaction, IN_REVIEW, at)
        else:
            self._end(transaction, wanted, at=at)

    async def go_on(self) -> None:
        """Continue processing of all that came by mail and the like, as far as it is due."""
        for item in list(self._all.values()):
            if item.source != PUBLIC_API:
                await self.settle(item)

    def look_at_deleted(self, transaction: Transaction) -> None:
        """Count a read of a transaction that is being deleted."""
        if transaction.deleted_at is not None:
            transaction.delete_looks += 1

    def new_review_link(self, transaction: Transaction, base_url: str) -> str | None:
        """Return a new link for a waiting review, else None. It is good for 168 hours."""
        if not transaction.in_review:
            return None
        token = self._ids.secret("review")
        self._secrets.append(token)
        transaction.review_links.append((token, self._clock.monotonic() + 168 * 3600))
        documents = ",".join(document.id for document in transaction.ordered())
        return (
            f"{base_url}/manual-review?transactionId={transaction.id}&documentIds={documents}"
            f"&jobId={self._ids.fixed('job', transaction.id)}&accessToken={token}"
        )

    def by_review_token(self, token: str) -> Transaction | None:
        """Find the transaction a good review token belongs to."""
        now = self._clock.monotonic()
        for item in self.all():
            if any(text == token and now < ends for text, ends in item.review_links):
                return item
        return None

    def new_mobile_link(self, transaction: Transaction, base_url: str) -> str:
        """Return a new link for a phone.

        Raises:
            Problem: 400, the transaction has been started.
        """
        self.check_open(transaction)
        token = self._ids.secret("mobile")
        self._secrets.append(token)
        transaction.mobile_links.append(token)
        return f"{base_url}/mobile-input?token={token}"

    def issued_secrets(self) -> list[str]:
        """Return every token ever put into a review or mobile link."""
        return list(self._secrets)

    def clear(self) -> None:
        """Remove all transactions and their files."""
        for item in list(self._all.values()):
            self._remove(item)

    # ---- inside --------------------------------------------------------------------------

    def _check_files(
        self, transaction: Transaction, models: Sequence[FileModel], upload: Upload
    ) -> None:
        settings = self._settings()
        self.check_open(transaction)
        if not upload.files:
            raise Problem(400, "There are no files in the request.")
        if len(models) > len(upload.files):
            raise Problem(400, errors={"files": ["There are more entries than files."]})
        if len(transaction.files) + len(upload.files) > settings.max_files:
            raise Problem(409, f"A transaction takes at most {settings.max_files} files.")
        size = sum(item.upload.size for item in transaction.files)
        if size + sum(item.size for item in upload.files) > settings.max_upload_bytes:
            raise Problem(
                400, f"The files are larger than {settings.max_upload_bytes} bytes together."
            )
        names = {item.upload.name for item in transaction.files}
        for item in upload.files:
            if item.name in names:
                raise Problem(409, f"The transaction already has a file named {item.name}.")
            names.add(item.name)

    def _source_file(self, item: UploadedFile, model: FileModel, index: int) -> SourceFile:
        return SourceFile(blob(self._ids.new("source")), item, index, model.parameters)

    def _job(self, transaction: Transaction) -> Job:
        settings = self._settings()
        skill = transaction.skill
        return Job(
            transaction.id,
            skill,
            tuple(
                DocumentJob(document.id, tuple(item.upload for item in document.files))
                for document in transaction.ordered()
            ),
            tuple(transaction.registration),
            tuple(settings.exports.get(skill.id, skill.exports)),
            tuple(dict(item) for item in settings.rule_errors),
            settings.wrap_json,
            settings.wrap_ocr_json,
            self._folder,
        )

    def _steered(self, transaction: Transaction, key: str, default: str) -> str:
        return next((item.value for item in transaction.registration if item.key == key), default)

    def _needs_review(
        self, transaction: Transaction, outcome: Outcome, settings: SandboxSettings
    ) -> bool:
        if transaction.review == FINISHED:
            return False
        text = settings.review_text.lower()
        return (
            settings.review
            or transaction.skill.id in settings.review_skills
            or bool(text and text in outcome.text.lower())
            or self._steered(transaction, REVIEW_PARAMETER, "").lower() in ("yes", "true", "1")
        )

    def _end(
        self,
        transaction: Transaction,
        status: str,
        error: str | None = None,
        at: float | None = None,
    ) -> None:
        transaction.status = status if status in ENDED else PROCESSED
        self._enter(transaction, transaction.status, at)
        if status == FAILED:
            transaction.error = error or self._settings().outcome_error

    def _enter(self, transaction: Transaction, phase: str, at: float | None = None) -> None:
        """Note that a phase begins, now or at an earlier moment of the clock."""
        transaction.phases.append((self._clock.monotonic() if at is None else at, phase))

    def _sweep(self) -> None:
        """Carry out due deletions: asked for, or by age."""
        settings, now = self._settings(), self._clock.monotonic()
        oldest = now - settings.retention_days * 86400
        due = [
            item
            for item in self._all.values()
            if item.created_at <= oldest
            or (
                item.deleted_at is not None
                and item.delete_looks >= settings.delete_polls
                and now - item.deleted_at >= settings.delete_seconds
            )
        ]
        for item in due:
            self._remove(item)

    def _remove(self, transaction: Transaction) -> None:
        self._all.pop(transaction.id, None)

        def unlink(_: Any = None) -> None:
            for source in transaction.files:
                source.upload.path.unlink(missing_ok=True)
            work = transaction.work
            if work is not None and not work.cancelled() and work.exception() is None:
                for document in work.result().documents:
                    for result in document.files:
                        result.path.unlink(missing_ok=True)

        if transaction.work is None or transaction.work.done():
            unlink()
        else:
            transaction.work.add_done_callback(unlink)
