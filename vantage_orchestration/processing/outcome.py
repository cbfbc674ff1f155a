# SPDX-License-Identifier: Apache-2.0
"""What the end of the waiting means: results, a failure, or a person who is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import (
    ConfigurationError,
    ReviewNeeded,
    RulesBroken,
    TransactionCanceled,
    TransactionFailed,
    VantageError,
    WaitTimeout,
)

if TYPE_CHECKING:
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.processing.manifest import Manifest
    from vantage_orchestration.storage import Location

__all__ = [
    "REVIEW_TIMEOUT",
    "TIMEOUT",
    "Outcome",
    "check_outcome",
    "check_rules",
    "ids_of",
    "result_of",
]

#: Seconds that the service may take.
TIMEOUT = 3600.0
#: A review can take days; people go on holiday for longer than a week, but results live 14 days.
REVIEW_TIMEOUT = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the waiting ended.

    Attributes:
        statuses: Transaction id to status.
        in_review: Ids that wait for a person.
        timed_out: Why it ended too early, else None.
        processed: Processed transactions in full, if this process has seen them end: their results
            can be fetched without asking for them again.
    """

    statuses: Mapping[str, str]
    in_review: tuple[str, ...] = ()
    timed_out: str | None = None
    processed: Mapping[str, Transaction] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, manifest: Manifest, timed_out: str | None = None) -> Outcome:
        """Return what a manifest says, which was asked for later than the waiting ended.

        Args:
            manifest: Manifest of the job.
            timed_out: Why the waiting ended too early, if it did.
        """
        rest = [*manifest.pending, *manifest.failed]
        landed = [each.transaction_id for each in manifest.transactions]
        late = [each for each in manifest.pending if not each.in_review]
        if late and timed_out is None:
            timed_out = f"{len(late)} transactions have not ended"
        return cls(
            {**dict.fromkeys(landed, "Processed"), **{e.transaction_id: e.status for e in rest}},
            tuple(each.transaction_id for each in manifest.pending if each.in_review),
            timed_out,
        )

    def with_status(self, *statuses: str) -> list[str]:
        """Return the ids that have one of these statuses."""
        return [each for each, status in self.statuses.items() if status in statuses]


def check_outcome(outcome: Outcome, *, on_review: str = "return") -> None:
    """Raise what the outcome of a task calls for.

    Args:
        outcome: How the waiting ended.
        on_review: What the task does when a person is needed; ``fail`` makes that an error.

    Raises:
        TransactionFailed: One or more ended as Failed, or were deleted meanwhile.
        TransactionCanceled: One or more were cancelled.
        ReviewNeeded: A person is needed and ``on_review`` is ``fail``.
        WaitTimeout: A limit was reached; a new try goes on.
    """
    failure: VantageError | None = None
    if failed := outcome.with_status("Failed", "Gone"):
        failure = TransactionFailed(
            f"{len(failed)} of {len(outcome.statuses)} transactions failed or were deleted:"
            f" {_some(failed)}",
            hint="Their pages may have been charged, so they are not sent again by themselves."
            " Check files and skill, then clear or run the task again; only these are sent anew",
            transaction_id=failed[0],
        )
    elif canceled := outcome.with_status("Canceled"):
        failure = TransactionCanceled(
            f"{len(canceled)} of {len(outcome.statuses)} transactions were cancelled in ABBYY"
            f" Vantage: {_some(canceled)}",
            hint="Clear or run the task again to send these anew",
            transaction_id=canceled[0],
        )
    elif outcome.in_review and on_review == "fail":
        # Before a limit: others may not have ended, since the waiting stopped at the first review.
        failure = ReviewNeeded(
            f"{len(outcome.in_review)} transactions wait for a manual review:"
            f" {_some(outcome.in_review)}",
            hint="Review them in ABBYY Vantage, then clear or run the task again; it goes on from"
            " there",
            transaction_id=outcome.in_review[0],
        )
    elif outcome.timed_out is not None:
        failure = WaitTimeout(outcome.timed_out, hint="They go on; the next try finds them")
    if failure is not None:
        raise failure


def result_of(manifest: Manifest, output: Location) -> dict[str, Any]:
    """Return what a task tells of its job: ``manifest`` (its URL), and the numbers of all things.

    Args:
        manifest: Manifest of the job.
        output: The folder it is in.
    """
    from vantage_orchestration.processing.names import MANIFEST

    return {"manifest": output.child(MANIFEST).url, **manifest.counts}


def check_rules(result: Mapping[str, Any]) -> None:
    """Raise if a document breaks a business rule.

    Args:
        result: What :func:`result_of` returned.

    Raises:
        RulesBroken: One does. The results are there nevertheless.
    """
    if broken := result["rule_errors"]:
        raise RulesBroken(
            f"The documents break business rules {broken} times",
            hint=f"The results have landed; {result['manifest']} names the rules",
        )


def ids_of(value: Any) -> list[str]:
    """Return transaction ids from a task's argument: one, several, or what a task returned.

    Raises:
        ConfigurationError: There is none, or it is something else.
    """
    if isinstance(value, Mapping) and "transaction_ids" in value:
        value = value["transaction_ids"]
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, Sequence) or not all(isinstance(each, str) for each in ids):
        raise ConfigurationError("transaction_ids is no list of texts")
    found = list(dict.fromkeys(each.strip() for each in ids if each.strip()))
    if not found:
        raise ConfigurationError("There are no transaction ids")
    return found


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
