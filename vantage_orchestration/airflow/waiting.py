# SPDX-License-Identifier: Apache-2.0
"""How operators and sensors wait: deferred to the triggerer, or in the worker."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.errors import (
    ConfigurationError,
    ProcessingError,
    ProtocolError,
    ReviewNeeded,
    ServiceUnavailable,
    TransactionCanceled,
    TransactionFailed,
    VantageError,
    WaitTimeout,
)
from vantage_orchestration.models import ENDED

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.processing.manifest import Manifest
    from vantage_orchestration.watching import Observation

__all__ = [
    "ON_REVIEW",
    "REVIEW_TIMEOUT",
    "OnReview",
    "Outcome",
    "WaitingMixin",
    "check_outcome",
    "deferrable_by_default",
    "ids_of",
]

OnReview = Literal["wait", "return", "fail"]
ON_REVIEW = ("wait", "return", "fail")
_OVER = ENDED | {"Gone"}
#: A review can take days; people go on holiday for longer than a week, but results live 14 days.
REVIEW_TIMEOUT = 7 * 86_400.0


def deferrable_by_default() -> bool:
    """Tell whether tasks defer where nobody said so.

    They do: a transaction takes seconds to days, and every Airflow 3 has a triggerer, but one from
    which it was taken away. There ``AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE=False`` in the workers'
    environment turns it off. The same option in ``airflow.cfg`` says nothing: Airflow writes it
    into every new file, as false.
    """
    value = os.environ.get("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "")
    return value.strip().lower() not in ("false", "f", "0")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the waiting ended.

    Attributes:
        statuses: Transaction id to status.
        in_review: Ids that wait for a person.
        timed_out: Why it ended too early, else None.
    """

    statuses: Mapping[str, str]
    in_review: tuple[str, ...] = ()
    timed_out: str | None = None

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


class WaitingMixin:
    """What operators and sensors that wait for transactions have in common.

    A subclass is an Airflow operator, has the attributes below, calls :meth:`_wait` at the end of
    ``execute`` and goes on in :meth:`_ended`.
    """

    abbyy_vantage_conn_id: str
    skill_id: str | None
    review_timeout: float
    on_review: str
    poke_interval: float
    max_poke_interval: float
    deferrable: bool | None
    delete_on_kill: bool
    review_notifiers: Sequence[Any]

    if TYPE_CHECKING:
        defer: Callable[..., NoReturn]
        log: Any

        @cached_property
        def hook(self) -> VantageHook: ...

    def _check_waiting(self) -> None:
        """Refuse arguments that make no sense; what is templated is checked when it is used."""
        if self.on_review not in ON_REVIEW:
            raise ValueError(
                f"on_review is {self.on_review!r}; it is one of {', '.join(ON_REVIEW)}"
            )
        for name in ("review_timeout", "poke_interval", "max_poke_interval"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; it is a number of seconds")
        if self.poke_interval < 1:
            raise ValueError("poke_interval is below 1; ABBYY Vantage asks for a second or more")

    def _ended(self, context: Context, outcome: Outcome) -> Any:
        """Do what comes after the waiting, and return the task's result."""
        raise NotImplementedError

    # -- both ways

    def _wait(self, context: Context, ids: Sequence[str], timeout: float) -> Any:
        """Wait until all have ended, or a limit is reached; then go on in :meth:`_ended`.

        Args:
            context: Context of the task.
            ids: Transactions.
            timeout: Seconds that the service may take.
        """
        if ids and self._defers():
            self._defer(ids, deadline=time.time() + timeout)
        return self._ended(context, self._wait_here(context, ids, timeout))

    def _defers(self) -> bool:
        return deferrable_by_default() if self.deferrable is None else self.deferrable

    # -- in the triggerer

    def _defer(
        self,
        ids: Sequence[str],
        *,
        deadline: float,
        in_review: Sequence[str] = (),
        review_deadline: float | None = None,
        known: Mapping[str, str] | None = None,
    ) -> NoReturn:
        from vantage_orchestration.airflow.triggers.transactions import VantageTransactionsTrigger

        self.log.info("Waiting for %d transactions in the triggerer", len(ids))
        self.defer(
            trigger=VantageTransactionsTrigger(
                transaction_ids=list(ids),
                conn_id=self.abbyy_vantage_conn_id,
                skill_id=self.skill_id,
                deadline=deadline,
                review_deadline=review_deadline,
                in_review=list(in_review),
                report_review=True,
                poke_interval=self.poke_interval,
                max_poke_interval=self.max_poke_interval,
                delete_on_kill=self.delete_on_kill,
            ),
            method_name="execute_complete",
            kwargs={
                "deadline": deadline,
                "review_deadline": review_deadline,
                "known": dict(known or {}),
            },
            # The trigger has the deadline: Airflow's own would fail the task without its code.
            timeout=None,
        )

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any] | None = None,
        deadline: float = 0.0,
        review_deadline: float | None = None,
        known: Mapping[str, str] | None = None,
    ) -> Any:
        """Go on after the trigger has fired.

        Args:
            context: Context of the task.
            event: Payload of the trigger's event.
            deadline: Until when the service may work, in seconds since the epoch.
            review_deadline: Until when a person may take, once one is needed.
            known: Status of transactions that are not waited for any more.
        """
        if not isinstance(event, dict) or not isinstance(event.get("transactions"), dict):
            failure: VantageError = ProtocolError(
                "The trigger gave an event that says nothing",
                hint="Are worker and triggerer of the same version of this package?",
            )
            raise translate(failure)
        statuses = {str(each): str(status) for each, status in event["transactions"].items()}
        before = dict(known or {})
        in_review = tuple(str(each) for each in event.get("in_review") or ())
        status, message = event.get("status"), event.get("message")
        if status == "error":
            retryable = bool(event.get("retryable"))
            kind = ServiceUnavailable if retryable else ProcessingError
            raise translate(kind(str(message or "The trigger could not ask ABBYY Vantage")))
        if status == "review":
            if review_deadline is None:
                review_deadline = time.time() + self.review_timeout
            self._needs_person(context, in_review, review_deadline)
            if self.on_review == "wait":
                self._defer(
                    list(statuses),
                    deadline=deadline,
                    in_review=in_review,
                    review_deadline=review_deadline,
                )
            rest = [
                each for each, its in statuses.items() if each not in in_review and its not in _OVER
            ]
            if self.on_review == "return" and rest:
                # What is in review is not waited for, but all else is.
                others = {each: its for each, its in statuses.items() if each not in rest}
                self._defer(
                    rest,
                    deadline=deadline,
                    review_deadline=review_deadline,
                    known={**before, **others},
                )
        timed_out = str(message or "Time is over") if status == "timeout" else None
        in_review += tuple(each for each, its in before.items() if its not in _OVER)
        return self._ended(context, Outcome({**before, **statuses}, in_review, timed_out))

    # -- in the worker

    def _wait_here(self, context: Context, ids: Sequence[str], timeout: float) -> Outcome:
        """Wait in the worker. A sensor does it in a way of its own."""
        from vantage_orchestration.watching import Pace, wait_for

        seen: dict[str, Observation] = {}
        told: list[str] = []

        def tell() -> None:
            new = [each for each in ids if _in_review(seen.get(each)) and each not in told]
            if new:
                told.extend(new)
                self._needs_person(context, new, time.time() + self.review_timeout)

        def sleep(seconds: float) -> None:
            tell()  # All reviews of a round together.
            time.sleep(seconds)

        begin, rest, timed_out = time.monotonic(), list(ids), None
        slowest = max(self.poke_interval, self.max_poke_interval)
        try:
            while rest:
                wait_for(
                    self.hook.client,
                    rest,
                    timeout=max(0.0, begin + timeout - time.monotonic()),
                    review_timeout=self.review_timeout,
                    pace=Pace(self.poke_interval, slowest, review=slowest),
                    skill_id=self.skill_id,
                    report_review=self.on_review != "wait",
                    on_change=lambda each: seen.update({each.transaction_id: each}),
                    sleep=sleep,
                )
                tell()
                if self.on_review != "return":
                    break
                # What is in review is not waited for, but all else is.
                rest = [each for each in rest if not (_in_review(seen[each]) or seen[each].ended)]
        except WaitTimeout as error:
            timed_out = error.what
        return Outcome(
            {each: seen[each].status if each in seen else "Unknown" for each in ids},
            tuple(each for each in ids if _in_review(seen.get(each))),
            timed_out,
        )

    # -- what both need

    def _needs_person(
        self, context: Context, in_review: Sequence[str], review_deadline: float | None
    ) -> None:
        from vantage_orchestration.airflow.notifications import notify_review

        self.log.info(
            "%d transactions wait for a manual review: %s", len(in_review), ", ".join(in_review)
        )
        notify_review(context, self.review_notifiers, in_review, review_deadline)


def check_outcome(outcome: Outcome, *, on_review: str = "return") -> None:
    """Raise what the outcome of a task calls for.

    Args:
        outcome: How the waiting ended.
        on_review: As the argument of the operators.

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
            " Check files and skill, then clear the task; only these are sent anew",
            transaction_id=failed[0],
        )
    elif canceled := outcome.with_status("Canceled"):
        failure = TransactionCanceled(
            f"{len(canceled)} of {len(outcome.statuses)} transactions were cancelled in ABBYY"
            f" Vantage: {_some(canceled)}",
            hint="Clear the task to send these anew",
            transaction_id=canceled[0],
        )
    elif outcome.timed_out is not None:
        failure = WaitTimeout(outcome.timed_out, hint="They go on; the next try finds them")
    elif outcome.in_review and on_review == "fail":
        failure = ReviewNeeded(
            f"{len(outcome.in_review)} transactions wait for a manual review:"
            f" {_some(outcome.in_review)}",
            hint="Review them in ABBYY Vantage, then clear the task; it goes on from there",
            transaction_id=outcome.in_review[0],
        )
    if failure is not None:
        raise translate(failure)


def _in_review(seen: Observation | None) -> bool:
    return seen is not None and seen.in_review and not seen.ended


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def ids_of(value: Any) -> list[str]:
    """Return transaction ids from a templated argument: one, several, or what a task returned.

    Raises:
        ConfigurationError: There is none, or it is something else.
    """
    if isinstance(value, Mapping) and "transaction_ids" in value:
        value = value["transaction_ids"]
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, Sequence) or not all(isinstance(each, str) for each in ids):
        raise translate(ConfigurationError("transaction_ids is no list of texts"))
    found = list(dict.fromkeys(each.strip() for each in ids if each.strip()))
    if not found:
        raise translate(ConfigurationError("There are no transaction ids"))
    return found
