# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the ABBYY Vantage processing API (contract, sections 3.1 to 3.3).

Calls are repeated where that is safe, with growing waits (contract, section 6): reading and
deleting always; creating a transaction, since an unused one costs nothing; adding a file, since the
server refuses a second arrival; starting, after the status was read; launching only if the request
can't have arrived. All other failures raise an error whose ``doubtful`` says whether the request
may have arrived.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from vantage_orchestration import errors, local
from vantage_orchestration.errors import ConfigurationError, VantageError
from vantage_orchestration.limits import LONGEST_PAGE
from vantage_orchestration.models import (
    ListedTransaction,
    NewTransaction,
    Page,
    ResultFile,
    Skill,
    SkillParameter,
    Transaction,
    TransactionDocument,
    array,
    id_of,
    pairs,
)
from vantage_orchestration.paging import Chunk, Pages
from vantage_orchestration.reads import reading_in_turn
from vantage_orchestration.reply import LONGEST_IN_MEMORY, Reply
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.secret import Secret
from vantage_orchestration.session import ApiSession, may_repeat_unsent
from vantage_orchestration.status import Status
from vantage_orchestration.text import utc_text
from vantage_orchestration.upload import MultipartBody, SourceFile, check_files, parameters

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_PASSES = 5


class VantageClient(ApiSession):
    """Client of one ABBYY Vantage tenant. Thread-safe.

    Arguments, attributes and errors: :class:`vantage_orchestration.session.ApiSession`.
    """

    # -- skills (3.1)

    def list_skills(self) -> tuple[Skill, ...]:
        """Return the published skills that the caller may use (``GET /skills``)."""
        return self._read("/skills", lambda data: array(data, Skill.read), always_there=True)

    def get_skill(self, skill_id: str) -> Skill:
        """Return a skill with its fields, classes or skills (``GET /skills/{skillId}``).

        Raises:
            NotFound: It is unknown or was never published.
        """
        return self._read(f"/skills/{_encoded('skill_id', skill_id)}", Skill.read)

    # -- transactions (3.2)

    def create_transaction(
        self,
        skill_id: str,
        *,
        registration_parameters: Mapping[str, str] | None = None,
        skill_parameters: Mapping[str, str] | None = None,
        mobile_input_link: bool = False,
    ) -> NewTransaction:
        """Create an empty transaction (``POST /transactions``). It does not run before it is
        started.

        Args:
            skill_id: Skill; an id is not always a UUID.
            registration_parameters: Up to 10 of your own; keys up to 128 and values up to 256
                characters. They can't be changed later.
            skill_parameters: Up to 10; they override the skill's defaults.
            mobile_input_link: Also create a link with which a phone can add files.

        Raises:
            NotFound: The skill is unknown or was never published.
            ConfigurationError: A parameter breaks a limit; nothing was sent.
        """
        body: dict[str, Any] = {"skillId": _id("skill_id", skill_id)}
        if mobile_input_link:
            body["generateMobileInputLink"] = True
        body.update(_parameter_members(registration_parameters, skill_parameters))
        return self._read(
            "/transactions", NewTransaction.read, method="POST", json_body=body, repeat=True
        )

    def add_files(
        self,
        transaction_id: str,
        files: Sequence[str | os.PathLike[str] | bytes | SourceFile],
        *,
        first_index: int = 0,
    ) -> bool:
        """Add files to a transaction before its start (``POST /transactions/{id}/files``).

        Each file is sent in a separate request. Repeating it is safe: the server refuses a second
        file of the same name.

        Args:
            transaction_id: Transaction.
            files: Paths or :class:`SourceFile`.
            first_index: Position of the first file among the documents.

        Returns:
            Whether every request got an answer. Otherwise one may have arrived twice, or late: read
            the transaction to see what it holds.

        Raises:
            ConfigurationError: A file is missing, empty, too large or has the name of another.
            Conflict: The transaction already had a file of that name.
        """
        return self._add_files(_transaction(transaction_id, "/files"), files, first_index)

    def start_transaction(self, transaction_id: str) -> None:
        """Start a transaction (``POST /transactions/{id}/start``). From here on pages are charged.

        The status is read before the request is repeated.

        Raises:
            BadRequest: It has no files, or was started before.
        """
        path = _transaction(transaction_id, "/start")

        unsure = False

        def attempt() -> None:
            nonlocal unsure
            if unsure and self.get_transaction(transaction_id).status is not Status.NEW:
                return  # An earlier try had arrived.
            try:
                self.send_once("POST", path, Reply.nothing)
            except VantageError:
                unsure = True
                raise

        self._repeat(attempt)

    def get_transaction(
        self,
        transaction_id: str,
        *,
        check: Callable[[Transaction], object] | None = None,
        looks: int = LOOKS,
    ) -> Transaction:
        """Return status, review link and results (``GET /transactions/{id}``).

        This may wait: no transaction is read twice within a second.

        Args:
            transaction_id: Transaction.
            check: Called with the transaction. If it raises a :class:`ProtocolError`, the
                transaction is read again, as after other temporary failures.
            looks: How often the server must report it as unknown before that is believed: not all
                machines of the service know of a new transaction at once.

        Raises:
            NotFound: It is unknown or deleted.
            Forbidden: It belongs to another tenant.
        """

        def attempt() -> Transaction:
            found = self.get_transaction_once(transaction_id)
            if check is not None:
                check(found)
            return found

        return self._repeat(attempt, looks=looks)

    def get_transaction_once(self, transaction_id: str) -> Transaction:
        """Read a transaction as :meth:`get_transaction` does, but without retries.

        For callers that poll anyway. Errors are not translated.
        """
        path = _transaction(transaction_id)

        def read(data: Any) -> Transaction:
            found = Transaction.read(data)
            if found.id.lower() != transaction_id.lower():
                raise ValueError("it is about another transaction")
            return found

        with reading_in_turn(self.config.credentials.api_url, transaction_id):
            return self.send_once("GET", path, lambda reply: reply.json(read))

    def delete_transaction(self, transaction_id: str) -> None:
        """Delete a transaction (``DELETE /transactions/{id}``); a missing one counts as deleted.

        The service deletes it within minutes. Charged pages stay charged.
        """
        self._delete(_transaction(transaction_id))

    def launch_transaction(
        self,
        skill_id: str,
        files: Sequence[str | os.PathLike[str] | bytes | SourceFile],
        *,
        registration_parameters: Mapping[str, str] | None = None,
        skill_parameters: Mapping[str, str] | None = None,
    ) -> str:
        """Create, add files and start in one request (``POST /transactions/launch``).

        The vendor advises it for one file below 30 MB. It is never repeated if it may have arrived:
        the pages would be charged twice. Prefer create, add, start.

        Returns:
            The transaction's id.

        Raises:
            ConnectionFailed: If ``doubtful`` is set, the transaction may exist; a registration
                parameter of your own finds it in the lists.
        """
        sources = [SourceFile.of(file) for file in files]
        check_files(sources)
        model: dict[str, Any] = {
            "files": [source.metadata(index) for index, source in enumerate(sources)]
        }
        model.update(_parameter_members(registration_parameters, skill_parameters))
        params = {"skillId": _id("skill_id", skill_id)}
        path = "/transactions/launch"

        def attempt() -> str:
            with closing(MultipartBody(model, sources)) as body:
                return self.send_once(
                    "POST",
                    path,
                    lambda reply: reply.json(NewTransaction.read).id,
                    upload=body,
                    params=params,
                )

        return self._repeat(attempt, may_repeat_unsent)

    def list_active_transactions(
        self,
        *,
        stage_type: str | None = None,
        stage_name: str | None = None,
        limit: int = LONGEST_PAGE,
        offset: int = 0,
        **filters: Any,
    ) -> Page:
        """Return one page of running transactions (``GET /transactions/active``).

        Args:
            stage_type: ``ManualReview``, ``CustomActivity`` or ``Automatic``.
            stage_name: Name of a review stage.
            limit: 1 to 1000.
            offset: Items to skip.
            filters: ``skill_id``, ``skill_version``, ``start_date`` and ``end_date`` (of creation;
                pendulum or other date-times with a time zone), ``parameters`` and
                ``file_parameters`` (all must match; the value None matches any value). The encoding
                of these two is uncertain (contract, section 9), so check what comes back;
                ``parameter_encoding`` is ``json`` (the manual's example, and the default) or
                ``indexed`` (usual for the server's framework).
        """
        query = {"StageType": stage_type, "StageName": stage_name}
        return self._list("active", query, limit, offset, filters)

    def list_completed_transactions(
        self,
        *,
        status: str | None = None,
        limit: int = LONGEST_PAGE,
        offset: int = 0,
        **filters: Any,
    ) -> Page:
        """Return one page of ended transactions (``GET /transactions/completed``).

        Args:
            status: ``Processed``, ``Failed`` or ``Canceled``.
            limit: 1 to 1000.
            offset: Items to skip.
            filters: As for :meth:`list_active_transactions`.
        """
        spelled = None if status is None else Status(status).in_lists
        return self._list("completed", {"TransactionStatus": spelled}, limit, offset, filters)

    def iter_active_transactions(self, **filters: Any) -> Iterator[ListedTransaction]:
        """Yield all running transactions; arguments as :meth:`list_active_transactions`.

        Raises:
            ProtocolError: The list repeats itself, or does not end.
        """
        return _all_pages(self.list_active_transactions, filters)

    def iter_completed_transactions(self, **filters: Any) -> Iterator[ListedTransaction]:
        """Yield all ended transactions; arguments as :meth:`list_completed_transactions`.

        Raises:
            ProtocolError: The list repeats itself, or does not end.
        """
        return _all_pages(self.list_completed_transactions, filters)

    def get_registration_parameters(self, transaction_id: str) -> dict[str, str]:
        """Return the registration parameters
        (``GET /transactions/{id}/registrationParameters``)."""
        return self._read(_transaction(transaction_id, "/registrationParameters"), pairs)

    def get_skill_parameters(self, transaction_id: str) -> tuple[SkillParameter, ...]:
        """Return the skill parameters in effect (``GET /transactions/{id}/skillParameters``)."""
        path = _transaction(transaction_id, "/skillParameters")
        return self._read(path, lambda data: array(data, SkillParameter.read))

    def create_mobile_input_link(self, transaction_id: str) -> Secret:
        """Create a link with which a phone can add files (``POST .../mobileInputLink``).

        Raises:
            BadRequest: The transaction is running or has ended.
        """
        path = _transaction(transaction_id, "/mobileInputLink")

        def read(data: Any) -> Secret:
            link = NewTransaction.read(data).mobile_input_link
            if link is None:
                raise ValueError("the member mobileInputLink is missing")
            return link

        return self._read(path, read, method="POST", repeat=True)

    # -- documents (3.3)

    def create_document(self, transaction_id: str, *, index: int | None = None) -> str:
        """Create an empty document for several source files; Process skills allow more than one.

        Args:
            transaction_id: Transaction that has not been started.
            index: Position among the documents.

        Returns:
            The document's id (``POST /transactions/{id}/documents``).
        """
        path = _transaction(transaction_id, "/documents")
        return self._read(
            path,
            lambda data: id_of(data, "documentId"),
            method="POST",
            json_body={} if index is None else {"index": index},
            repeat=False,
        )

    def list_documents(self, transaction_id: str) -> tuple[TransactionDocument, ...]:
        """Return the documents with their source files (``GET /transactions/{id}/documents``)."""
        path = _transaction(transaction_id, "/documents")
        return self._read(path, lambda data: array(data, TransactionDocument.read))

    def get_document(self, transaction_id: str, document_id: str) -> TransactionDocument:
        """Return one document (``GET /transactions/{id}/documents/{documentId}``)."""
        return self._read(_document(transaction_id, document_id), TransactionDocument.read)

    def delete_document(self, transaction_id: str, document_id: str) -> None:
        """Remove a document before the start; a missing one counts as removed."""
        self._delete(_document(transaction_id, document_id))

    def add_document_files(
        self,
        transaction_id: str,
        document_id: str,
        files: Sequence[str | os.PathLike[str] | bytes | SourceFile],
        *,
        first_index: int = 0,
    ) -> None:
        """Add source files to one document, each in a separate request.

        Arguments and errors as :meth:`add_files` (``POST .../documents/{id}/sourceFiles``).
        """
        sources = [SourceFile.of(file) for file in files]
        if any(each.auto_crop or each.auto_orientation for each in sources):
            raise ConfigurationError(
                "Image processing can't be set for a file of a document",
                hint="Leave auto_crop and auto_orientation out",
            )
        path = _document(transaction_id, document_id, "/sourceFiles")
        self._add_files(path, sources, first_index)

    # -- downloads

    def download_result(
        self, transaction_id: str, file: ResultFile | str, target: str | os.PathLike[str]
    ) -> int:
        """Download a result file to ``target`` (``GET .../files/{fileId}/download``).

        The target appears only when the file is complete.

        Args:
            transaction_id: Transaction.
            file: Result file of a document, or only its id. With a result file, the content is
                checked against its type.
            target: Path to write; an existing file is replaced.

        Returns:
            Number of bytes.

        Raises:
            ConnectionFailed: The download broke, even after retries.
            ProtocolError: Something else arrived, such as a login page, even after retries.
        """
        path, expected = _result(transaction_id, file)
        return self._download_to(path, expected, target)

    def stream_result(self, transaction_id: str, file: ResultFile | str, stream: BinaryIO) -> int:
        """Write a result file into an open file, at its current position.

        Args:
            transaction_id: Transaction.
            file: As for :meth:`download_result`.
            stream: File that can read, seek and truncate, since a broken download starts again.

        Returns:
            Number of bytes.

        Raises:
            ConnectionFailed: The download broke, even after retries.
            ProtocolError: Something else arrived, even after retries.
        """
        path, expected = _result(transaction_id, file)
        return self._download(path, stream, expected)

    def read_result(self, transaction_id: str, file: ResultFile | str) -> bytes:
        """Return a result file's content. Use it for files that fit into memory, such as fields."""
        path, expected = _result(transaction_id, file)
        with io.BytesIO() as stream:
            self._download(path, stream, expected, LONGEST_IN_MEMORY)
            return stream.getvalue()

    def download_source_file(
        self,
        transaction_id: str,
        document_id: str,
        file_id: str,
        target: str | os.PathLike[str],
    ) -> int:
        """Download a source file as it was sent; arguments as for :meth:`download_result`."""
        path = _source(transaction_id, document_id, file_id)
        return self._download_to(path, None, target)

    def stream_source_file(
        self, transaction_id: str, document_id: str, file_id: str, stream: BinaryIO
    ) -> int:
        """Write a source file into an open file; arguments as for :meth:`stream_result`."""
        path = _source(transaction_id, document_id, file_id)
        return self._download(path, stream, None)

    # -- internals: from the call to the request

    def _list(
        self,
        which: str,
        query: dict[str, Any],
        limit: int,
        offset: int,
        filters: dict[str, Any],
    ) -> Page:
        if not 1 <= limit <= LONGEST_PAGE or offset < 0:
            raise ConfigurationError(
                f"A page has 1 to {LONGEST_PAGE} items and starts at 0 or later"
            )
        known = {
            "skill_id": "SkillId",
            "skill_version": "SkillVersion",
            "start_date": "StartDate",
            "end_date": "EndDate",
            "parameters": "TransactionParameters",
            "file_parameters": "DocumentParameters",
        }
        encoding = filters.pop("parameter_encoding", "json")
        for name, value in filters.items():
            if name not in known:
                raise ConfigurationError(f"{name!r} is not a filter of the lists of transactions")
            if value is None:
                continue
            if name.endswith("_date"):
                import pendulum

                if getattr(value, "tzinfo", None) is None:
                    hint = "Give a pendulum DateTime"
                    raise ConfigurationError(f"The {name} has no time zone", hint=hint)
                query[known[name]] = utc_text(pendulum.instance(value))
            elif name.endswith("parameters"):
                query |= parameter_filter(known[name], value, encoding)
            else:
                query[known[name]] = value
        query |= {"Limit": limit, "Offset": offset}
        params = {name: value for name, value in query.items() if value is not None}
        return self._read(f"/transactions/{which}", Page.read, params=params, always_there=True)

    def _delete(self, path: str) -> None:
        try:
            # A missing transaction is as good as a deleted one.
            self._repeat(lambda: self.send_once("DELETE", path, Reply.nothing), looks=2)
        except errors.NotFound:
            log.info("%s is gone already", path)

    def _add_files(
        self,
        path: str,
        files: Sequence[str | os.PathLike[str] | bytes | SourceFile],
        first_index: int,
    ) -> bool:
        """Send files one by one; return whether no try was doubtful."""
        sources = [SourceFile.of(file) for file in files]
        check_files(sources)
        answered = [self._add_file(path, *each) for each in enumerate(sources, first_index)]
        return all(answered)

    def _add_file(self, path: str, index: int, source: SourceFile) -> bool:
        """Send one file. A 409 after a doubtful try means that it had arrived."""
        model, unsure = {"files": [source.metadata(index)]}, False

        def attempt() -> None:
            nonlocal unsure
            try:
                with closing(MultipartBody(model, [source])) as body:
                    self.send_once("POST", path, Reply.nothing, upload=body)
            except errors.Conflict:
                if not unsure:
                    raise
                log.info("%s: the file had arrived with an earlier try", path)
            except VantageError as error:
                unsure = unsure or error.doubtful
                raise

        self._repeat(attempt)
        return not unsure

    def _download_to(
        self,
        path: str,
        expected: ResultFile | None,
        target: str | os.PathLike[str],
    ) -> int:
        return local.write_whole(
            os.path.abspath(target), None, lambda stream: self._download(path, stream, expected)
        )


def _id(name: str, value: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"The {name} is empty")
    return value


def _encoded(name: str, value: str) -> str:
    """Return an id as part of a path; that of a file may begin with a dot."""
    if value in (".", ".."):
        raise ConfigurationError(f"{value!r} is not a valid {name}")
    return quote(_id(name, value), safe="")


def _transaction(transaction_id: str, rest: str = "") -> str:
    return f"/transactions/{_encoded('transaction_id', transaction_id)}{rest}"


def _document(transaction_id: str, document_id: str, rest: str = "") -> str:
    return _transaction(transaction_id, f"/documents/{_encoded('document_id', document_id)}{rest}")


def _source(transaction_id: str, document_id: str, file_id: str) -> str:
    rest = f"/sourceFiles/{_encoded('file_id', file_id)}/download"
    return _document(transaction_id, document_id, rest)


def _result(transaction_id: str, file: ResultFile | str) -> tuple[str, ResultFile | None]:
    """Return the path of a result file, and the file itself if more than its id was given."""
    file_id, expected = (file, None) if isinstance(file, str) else (file.id, file)
    rest = f"/files/{_encoded('file_id', file_id)}/download"
    return _transaction(transaction_id, rest), expected


def _parameter_members(
    registration: Mapping[str, str] | None, skill: Mapping[str, str] | None
) -> dict[str, Any]:
    members = {}
    if registration:
        members["registrationParameters"] = parameters(registration)
    if skill:
        members["skillParameters"] = parameters(skill, limited=False)
    return members


def parameter_filter(
    name: str, values: Mapping[str, str | None], encoding: str = "json"
) -> dict[str, Any]:
    """Return the query that filters a list by parameters, see
    :meth:`VantageClient.list_active_transactions`."""
    members = [
        {"key": key} if text is None else {"key": key, "value": text}
        for key, text in values.items()
    ]
    if encoding == "json":
        return {name: [json.dumps(each) for each in members]}
    if encoding != "indexed":
        raise ConfigurationError("parameter_encoding must be 'json' or 'indexed'")
    return {
        f"{name}[{place}].{member}": text
        for place, each in enumerate(members)
        for member, text in each.items()
    }


def _all_pages(
    list_page: Callable[..., Page], filters: dict[str, Any]
) -> Iterator[ListedTransaction]:
    def read(offset: int) -> Chunk[ListedTransaction]:
        page = list_page(limit=LONGEST_PAGE, offset=offset, **filters)
        return Chunk(page.items, page.total, LONGEST_PAGE)

    seen: set[str] = set()
    for _ in range(_MOST_PASSES):
        pages = Pages(read, lambda item: item.id, overlap=1)
        for page in pages:
            for item in page.items:
                if item.id not in seen:
                    seen.add(item.id)
                    yield item
        if pages.gapless:
            return
        # The list became shorter between two pages, and items that moved up were skipped: read it
        # again.
