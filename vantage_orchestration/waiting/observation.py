# SPDX-License-Identifier: Apache-2.0
"""The observed state of a transaction."""

from __future__ import annotations

from dataclasses import dataclass

from vantage_orchestration.status import Status

__all__ = ["Observation"]


@dataclass(frozen=True, slots=True)
class Observation:
    """State of a transaction at one moment (contract, section 4).

    Attributes:
        transaction_id: Transaction, spelled as given by the caller.
        status: Its status.
        in_review: Whether a person must review it. Manual review is not a status.
    """

    transaction_id: str
    status: Status
    in_review: bool = False

    @property
    def ended(self) -> bool:
        """Whether the transaction is in a final state."""
        return self.status.is_terminal

    def __str__(self) -> str:
        # The review link is a credential and never leaves the client.
        waits = ", waiting for manual review" if self.in_review else ""
        return f"Transaction {self.transaction_id}: {self.status}{waits}"
