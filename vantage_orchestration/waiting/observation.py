# SPDX-License-Identifier: Apache-2.0
"""The observed state of a transaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from vantage_orchestration.status import Status


@dataclass(frozen=True, slots=True)
class Observation:
    """State of a transaction at one moment (contract, section 4).

    Attributes:
        transaction_id: Transaction, spelled as given by the caller.
        status: Its status.
        in_review: Whether a person must review it. Manual review is not a status.
        files: Names of its files, as written by :func:`vantage_orchestration.text.named`; empty if
            unknown.
    """

    transaction_id: str
    status: Status
    in_review: bool = False
    files: str = field(default="", compare=False)

    @property
    def ended(self) -> bool:
        """Whether the transaction is in a final state."""
        return self.status.is_terminal

    def __str__(self) -> str:
        # The review link is a credential and never leaves the client.
        waits = ", waiting for manual review" if self.in_review else ""
        files = f" ({self.files})" if self.files else ""
        return f"Transaction {self.transaction_id}{files}: {self.status}{waits}"
