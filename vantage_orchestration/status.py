# SPDX-License-Identifier: Apache-2.0
"""The status of a transaction (contract, section 4)."""

from __future__ import annotations

from enum import Enum

#: Stage of a running transaction that waits for a person.
MANUAL_REVIEW = "ManualReview"


class Status(str, Enum):
    """Status of a transaction. It equals its word and prints as it.

    ``Status(word)`` accepts any word: both spellings of ``Canceled``, and any case. An unknown word
    is kept as it is and counts as not ended.
    """

    NEW = "New"
    PROCESSING = "Processing"
    PROCESSED = "Processed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    #: The service does not know the transaction: it was deleted or never created.
    GONE = "Gone"
    #: The transaction has not been read yet.
    UNKNOWN = "Unknown"

    @classmethod
    def _missing_(cls, value: object) -> Status | None:
        if not isinstance(value, str):
            return None
        word = value.strip().lower()
        word = "canceled" if word == "cancelled" else word
        for member in cls:
            if member.value.lower() == word:
                return member
        other = str.__new__(cls, value)
        other._name_, other._value_ = "OTHER", value
        return other

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @property
    def is_terminal(self) -> bool:
        """Whether the transaction has ended and its status is final."""
        return self in ENDED or self is Status.GONE

    @property
    def is_success(self) -> bool:
        """Whether the transaction was processed and has results."""
        return self is Status.PROCESSED

    @property
    def is_failure(self) -> bool:
        """Whether the transaction has ended without results."""
        return self.is_terminal and not self.is_success

    @property
    def is_known(self) -> bool:
        """Whether this version knows the word."""
        return self.name != "OTHER"

    @property
    def in_lists(self) -> str:
        """The word as the lists spell it (``Cancelled`` with two l's)."""
        return "Cancelled" if self is Status.CANCELED else self.value


#: The statuses of ended transactions in the service.
ENDED = frozenset({Status.PROCESSED, Status.FAILED, Status.CANCELED})
