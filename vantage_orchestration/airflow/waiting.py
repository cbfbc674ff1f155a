# SPDX-License-Identifier: Apache-2.0
"""How operators and sensors wait: deferred to the triggerer, or in the worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vantage_orchestration.airflow.arguments import ArgumentsMixin
from vantage_orchestration.airflow.compat import require
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.links import record_of_wait, record_transactions
from vantage_orchestration.errors import (
    ProcessingError,
    ServiceUnavailable,
    StateUnavailable,
    translating,
)
from vantage_orchestration.processing import outcome as core
from vantage_orchestration.text import MISFIT
from vantage_orchestration.waiting.machine import Outcome, PeopleNeeded, Wait
from vantage_orchestration.waiting.rules import WaitRules

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vantage_orchestration.models import Transaction


def deferrable_by_default() -> bool:
    """Return whether tasks defer by default.

    They do: a transaction takes seconds to days, and Airflow 3 normally has a triggerer. Without
    one, set ``AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE=False`` in the workers' environment. The same
    option in ``airflow.cfg`` is ignored, since Airflow writes it into every new file, as false.
    """
    value = os.environ.get("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "")
    return value.strip().lower() not in ("false", "f", "0")


class WaitingMixin(ArgumentsMixin):
    """Base of operators and sensors that wait for transactions.

    A subclass calls :meth:`_wait` at the end of ``execute`` and continues in :meth:`_ended`.
    """

    skill: str | None
    deferrable: bool | None
    delete_on_kill: bool
    review_notifiers: Sequence[Any]

    if TYPE_CHECKING:
        defer: Callable[..., NoReturn]
        log: Any

    def _rules(self) -> WaitRules:
        return WaitRules.of(self.options)

    def skill_if_known(self) -> str | None:
        return None if self.skill is None else self._skill_id()

    def _ended(self, context: Context, outcome: Outcome) -> Any:
        """Finish the task after the wait, and return its result."""
        raise NotImplementedError

    def _ahead(self, context: Context) -> Callable[[Mapping[str, Transaction], float], object]:
        """Return what to do in the pauses of a wait in the worker."""
        return lambda processed, seconds: None

    # -- how it waits

    def _wait(
        self, context: Context, ids: Sequence[str], files: Mapping[str, str] | None = None
    ) -> Any:
        # The names of files are for the log.
        skill_id, place = self.skill_if_known(), self.hook.client.config.credentials.place
        now, rules = time.time(), self._rules()
        wait = Wait(ids, rules, now, files=files, skill_id=skill_id, place=place)
        return self._go_on(context, wait)

    def _go_on(self, context: Context, wait: Wait) -> Any:
        """Wait until the transactions have ended or a limit is reached, then :meth:`_ended`."""
        answer = self._next(context, wait)
        if isinstance(answer, Outcome):
            return self._ended(context, answer)
        if self.defers():
            self._defer(context, wait)
        from vantage_orchestration.waiting.blocking import wait_here

        outcome = wait_here(
            self.hook.client,
            wait,
            tell=lambda line: self.log.info("%s", line),
            on_people=lambda needed: self._needs_person(context, wait, needed),
            on_pause=self._ahead(context),
        )
        return self._ended(context, outcome)

    def _next(self, context: Context, wait: Wait) -> Any:
        """Return what to do next. If people are needed, notify them."""
        while isinstance(answer := wait.next(time.time()), PeopleNeeded):
            self._needs_person(context, wait, answer)
            wait.notified(answer)
        return answer

    def _check_kill(self) -> None:
        """Refuse ``delete_on_kill`` where Airflow does not notify the triggerer."""
        if self.delete_on_kill and self.defers():
            require((3, 3), "A deferrable task with delete_on_kill")

    def defers(self) -> bool:
        return deferrable_by_default() if self.deferrable is None else self.deferrable

    def _notes(self, context: Context) -> tuple[str, str] | None:
        """Return output path and name of the task's ledger; None if the task has none."""
        return None

    def _defer(self, context: Context, wait: Wait) -> NoReturn:
        from vantage_orchestration.airflow.triggers.transactions import VantageTransactionsTrigger

        self.log.info("Waiting in the triggerer: %s", wait.progress)
        self.defer(
            trigger=VantageTransactionsTrigger(
                wait=wait.to_json(),
                abbyy_vantage_conn_id=self.hook.abbyy_vantage_conn_id,
                delete_on_kill=self.delete_on_kill,
                notes=self._notes(context) if self.delete_on_kill else None,
            ),
            method_name="execute_complete",
            # The trigger knows the limits. Airflow's own timeout would fail the task without
            # running its code.
            timeout=None,
        )

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Continue after the trigger has fired.

        Raises:
            StateUnavailable: It is not an event of this version's trigger. A retry continues.
            VantageError: The trigger could not query ABBYY Vantage.
        """
        with translating(translate):
            try:
                wait = Wait.from_json(event["wait"], time.time())
            except MISFIT:
                raise StateUnavailable(
                    "The event of the trigger can't be read",
                    hint="Worker and triggerer may have different versions of this package, or the"
                    " task has start_from_trigger, which it can't have. The next try continues with"
                    " the same transactions",
                ) from None
            if event.get("status") == "error":
                kind = ServiceUnavailable if event.get("retryable") else ProcessingError
                raise kind(str(event.get("message") or "The trigger could not query ABBYY Vantage"))
            self.hook.client.config.credentials.check_place(wait.place)
        return self._go_on(context, wait)

    def _needs_person(self, context: Context, wait: Wait, needed: PeopleNeeded) -> None:
        from vantage_orchestration.airflow.notifications import notify_review

        record_transactions(context, record_of_wait(wait))
        self.log.info("%s", wait.words_of_people(needed))
        notify_review(context, self.review_notifiers, needed.transaction_ids, needed.until)


def check_outcome(outcome: Outcome, **options: Any) -> None:
    """Check an outcome as the core does, and raise exceptions of Airflow."""
    with translating(translate):
        core.check_outcome(outcome, **options)
