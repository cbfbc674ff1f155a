# SPDX-License-Identifier: Apache-2.0
"""How operators and sensors wait: deferred to the triggerer, or in the worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.errors import (
    ProcessingError,
    ServiceUnavailable,
    VantageError,
    translating,
)
from vantage_orchestration.models import ENDED
from vantage_orchestration.processing import outcome as core
from vantage_orchestration.processing.outcome import Outcome

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.options import Options

__all__ = [
    "Outcome",
    "WaitingMixin",
    "check_outcome",
    "deferrable_by_default",
]

_OVER = ENDED | {"Gone"}


def deferrable_by_default() -> bool:
    """Tell whether tasks defer where nobody said so.

    They do: a transaction takes seconds to days, and every Airflow 3 has a triggerer, but one from
    which it was taken away. There ``AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE=False`` in the workers'
    environment turns it off. The same option in ``airflow.cfg`` says nothing: Airflow writes it
    into every new file, as false.
    """
    value = os.environ.get("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "")
    return value.strip().lower() not in ("false", "f", "0")


class WaitingMixin:
    """What operators and sensors that wait for transactions have in common.

    A subclass is an Airflow operator, has the attributes below, calls :meth:`_wait` at the end of
    ``execute`` and goes on in :meth:`_ended`.
    """

    skill: str | None
    deferrable: bool | None
    delete_on_kill: bool
    review_notifiers: Sequence[Any]

    if TYPE_CHECKING:
        defer: Callable[..., NoReturn]
        log: Any

        @cached_property
        def hook(self) -> VantageHook: ...

        @property
        def options(self) -> Options: ...

        def _skill_id(self) -> str: ...

    @property
    def _timeout(self) -> float:
        """Seconds that the service may take."""
        return self.options.timeout

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
                conn_id=self.hook.abbyy_vantage_conn_id,
                skill_id=self._skill_id() if self.skill is not None else None,
                deadline=deadline,
                review_deadline=review_deadline,
                in_review=list(in_review),
                report_review=True,
                poke_interval=self.options.poke_interval,
                max_poke_interval=self.options.max_poke_interval,
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
        deadline: float | None = None,
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
            failure: VantageError = ProcessingError(
                "The trigger gave an event that says nothing",
                hint="Are worker and triggerer of the same version of this package?",
            )
            raise translate(failure)
        if deadline is None:
            # What ``defer`` was given for this is lost in ``dag.test()``.
            deadline = time.time() + self._timeout
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
                review_deadline = time.time() + self.options.review_timeout
            self._needs_person(context, in_review, review_deadline)
            if self.options.on_review == "wait":
                self._defer(
                    list(statuses),
                    deadline=deadline,
                    in_review=in_review,
                    review_deadline=review_deadline,
                )
            rest = [
                each for each, its in statuses.items() if each not in in_review and its not in _OVER
            ]
            if self.options.on_review == "return" and rest:
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
        from vantage_orchestration.processing.waiting import limits_of, wait_for_outcome

        options = self.options
        return wait_for_outcome(
            self.hook.client,
            ids,
            **{**limits_of(options), "timeout": timeout},
            skill_id=self._skill_id() if self.skill is not None else None,
            on_needed=lambda new: self._needs_person(
                context, new, time.time() + options.review_timeout
            ),
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


def check_outcome(outcome: Outcome, **options: Any) -> None:
    """Raise, in Airflow's words, what :func:`vantage_orchestration.processing.outcome` finds."""
    with translating(translate):
        core.check_outcome(outcome, **options)
