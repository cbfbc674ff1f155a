# SPDX-License-Identifier: Apache-2.0
"""Reads fields from result files (contract, section 7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import ProtocolError, ResultsMissing, translated
from vantage_orchestration.models import BusinessRuleError
from vantage_orchestration.tables.reading import (
    Entry,
    content_of_json,
    is_group,
    members,
    values_by_name,
)
from vantage_orchestration.text import MISFIT, read_json

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ExtractedDocument, Transaction


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """The fields of one document.

    Attributes:
        document_id: UUID of the document in its transaction.
        fields: Field name to text, to an object (group) or to a list of them (repeated).
        class_name: Class of the document, if a Classification skill was applied.
        rule_errors: Broken business rules.
    """

    document_id: str
    fields: Mapping[str, Any]
    class_name: str | None
    rule_errors: tuple[BusinessRuleError, ...]

    def row(self, transaction_id: str) -> dict[str, Any]:
        """Return a plain dictionary, suitable for JSON Lines and for an orchestrator's results.

        Args:
            transaction_id: The document's transaction.
        """
        return {
            "transaction_id": transaction_id,
            "document_id": self.document_id,
            "class": self.class_name,
            "fields": dict(self.fields),
            "rule_errors": [error.message or error.error_type for error in self.rule_errors],
        }


@translated
def with_results(client: VantageClient, transaction: Transaction) -> Transaction:
    """Return a processed transaction in which every document has results. A charged transaction
    without results is implausible, so it is read again for a while."""
    try:
        _check_documents(transaction)
    except ProtocolError:
        return client.get_transaction(transaction.id, check=_check_documents)
    return transaction


def _check_documents(transaction: Transaction) -> None:
    documents = transaction.documents
    without = [
        number
        for number, document in enumerate(documents, 1)
        if not document.result_files and document.classification is None
    ]
    twice = len({document.id for document in documents}) < len(documents)
    if documents and not without and not twice:
        return
    what = "a document is listed twice" if twice else "it has no documents"
    if without:
        what = f"document {without[0]} of {len(documents)} has no result"
    raise ProtocolError(
        f"The transaction of {transaction.file_names} was processed, but {what}",
        hint="Nothing was deleted. The list may not be complete yet: the next try reads it again."
        " If this persists, check in ABBYY Vantage what the skill exports",
        transaction_id=transaction.id,
    )


def check_types(transaction: Transaction, types: Collection[str] | None) -> None:
    """Refuse result types (None for all) if a document has result files, but none of these types.

    A document without any result files, as from a Classification skill, still has its class.
    """
    for number, document in enumerate(transaction.documents, 1):
        there = sorted({file.type for file in document.result_files})
        if types is not None and there and not any(each in types for each in there):
            raise ResultsMissing(
                f"Document {number} of {len(transaction.documents)} made of"
                f" {transaction.file_names} has no result file of the types"
                f" {', '.join(types) or '(none)'}; it has {', '.join(there)}",
                hint="Nothing was deleted. Set result_types to one of these, or omit it to fetch"
                " all; then clear or run the task again",
                transaction_id=transaction.id,
            )


@translated
def fetch_fields(client: VantageClient, transaction: Transaction) -> tuple[DocumentFields, ...]:
    """Download the fields of every document of a processed transaction.

    Args:
        client: Client.
        transaction: A transaction whose status is ``Processed``.

    Returns:
        One entry for each document, in the server's order. A document whose skill exports neither
        ``FieldsJson`` nor ``Json`` (a Classification or OCR skill) has no fields.

    Raises:
        ProtocolError: A result file does not fit its type, or a document has no result.
    """
    transaction = with_results(client, transaction)
    return tuple(
        DocumentFields(
            document.id,
            _fields_of(client, transaction.id, document),
            document.classification.class_name if document.classification else None,
            document.business_rule_errors,
        )
        for document in transaction.documents
    )


def _fields_of(
    client: VantageClient, transaction_id: str, document: ExtractedDocument
) -> dict[str, Any]:
    # By type, not by position: the order of result files is undefined.
    of_document = partial(fields_of_json, document_id=document.id)
    for kind, read in (("FieldsJson", fields_of_values), ("Json", of_document)):
        for file in document.result_files:
            if file.type != kind:
                continue
            try:
                return read(read_json(client.read_result(transaction_id, file)))
            except MISFIT as error:
                reason = type(error).__name__
            raise ProtocolError(
                f"The result file {file.name!r} can't be read as {kind} ({reason})",
                transaction_id=transaction_id,
            )
    return {}


def fields_of_values(data: Any) -> dict[str, Any]:
    """Return the fields of a ``FieldsJson`` file (contract, section 7.2)."""
    fields = data.get("Fields") if isinstance(data, Mapping) else None
    if not isinstance(fields, Mapping):
        raise ValueError("the member Fields is missing")
    return dict(fields)


def fields_of_json(data: Any, document_id: str = "") -> dict[str, Any]:
    """Return the fields of a document in a ``Json`` file (contract, section 7.3): the one of this
    id, or the only one.

    The object may be wrapped in ``Transaction``. Values have the form of :func:`fields_of_values`:
    a group is an object, a field with several values a list.

    Raises:
        ValueError: It has another shape.
    """
    inner = data.get("Transaction") if isinstance(data, Mapping) else None
    known = inner if isinstance(inner, Mapping) else data
    if not isinstance(known, Mapping) or not known.get("Documents"):
        raise ValueError("the member Documents is missing")
    return _fields(content_of_json(data, document_id).entries)


def _fields(entries: Sequence[Entry]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, items in values_by_name(entries).items():
        values = [
            _fields(members(value)) if is_group(value) else value
            for value in (item.get("Value") for item in items)
        ]
        fields[name] = values[0] if len(values) == 1 else values or None
    return fields
