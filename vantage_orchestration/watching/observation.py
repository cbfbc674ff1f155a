# SPDX-License-Identifier: Apache-2.0
"""What is seen of a transaction from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vantage_orchestration.models import ENDED

__all__ = ["GONE", "Observation"]

#: Status of a transaction that is unknown to the service: deleted, or never made.
GONE: Final = "Gone"


@dataclass(frozen=True, slots=True)
class Observation:
    """State of a transaction at one moment (contract, section 4).

    Attributes:
        transaction_id: Transaction, spelled as it was asked for.
        status: ``New``, ``Processing``, ``Processed``, ``Failed``, ``Canceled``, :data:`GONE`, or
            a word that this version does not know; that counts as not ended.
        in_review: Whether a person has to look at it. Manual review is not a status.
        stage: ``ManualReview``, ``CustomActivity`` or ``Automatic``, as far as known.
    """

    transaction_id: str
    status: str
    in_review: bool = False
    stage: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED or self.status == GONE

    def tells_the_same_as(self, other: Observation | None) -> bool:
        """Whether whoever knows the other one learns nothing by this one.

        The stage does not count: a single reply does not tell it.
        """
        return (
            other is not None and self.status == other.status and self.in_review == other.in_review
        )
