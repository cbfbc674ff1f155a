# SPDX-License-Identifier: Apache-2.0
"""Sensor: waits until transactions have ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from vantage_orchestration.airflow.compat import AirflowSensorTimeout
from vantage_orchestration.airflow.connection import DEFAULT_CONN_ID
from vantage_orchestration.airflow.hooks.vantage import VantageHook
from vantage_orchestration.airflow.links import VantageTransactionLink, record_transactions
from vantage_orchestration.airflow.waiting import (
    REVIEW_TIMEOUT,
    OnReview,
    Outcome,
    WaitingMixin,
    check_outcome,
    ids_of,
)
from vantage_orchestration.errors import WaitTimeout

if TYPE_CHECKING:
    from airflow.sdk import Context

    from vantage_orchestration.watching import Watcher

__all__ = ["VantageTransactionSensor"]

#: Key in the task state store: ids whose review was told.
_TOLD = "abbyy_vantage.reviews"


class VantageTransactionSensor(WaitingMixin, BaseSensorOperator):
    """Waits until transactions have been processed.

    Args:
        transaction_ids: One or several, or what ``VantageSubmitOperator`` returned (templated).
        abbyy_vantage_conn_id: Connection (templated).
        skill_id: Skill of all of them, if it is known: looking takes fewer requests (templated).
        timeout: Seconds that the service may take. Deferred, a review does not count; in the modes
            ``poke`` and ``reschedule`` it does.
        review_timeout: Seconds that people may take, from when the first of them is needed; if
            deferred.
        on_review: What to do when a person is needed: ``wait``, ``return`` or ``fail``.
        delete_on_kill: Delete the transactions if somebody ends the task while it is deferred.
        poke_interval: Seconds between two looks at the beginning; they grow if deferred.
        max_poke_interval: Seconds between two looks at the most, if deferred.
        deferrable: Wait in the triggerer, which is the default; see
            :func:`vantage_orchestration.airflow.waiting.deferrable_by_default`.
        review_notifiers: Called with the context when a person is needed.
        kwargs: Arguments of every sensor: ``mode``, ``soft_fail``, ...

    Returns:
        Transaction id to status: ``Processed``, or ``Processing`` with ``on_review="return"``.

    Raises:
        TransactionFailed: One of them failed.
        AirflowSensorTimeout: A limit was reached.
    """

    template_fields: Sequence[str] = ("transaction_ids", "abbyy_vantage_conn_id", "skill_id")
    ui_color = "#ffe3e0"
    operator_extra_links = (VantageTransactionLink(),)

    def __init__(
        self,
        *,
        transaction_ids: Any,
        abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
        skill_id: str | None = None,
        review_timeout: float = REVIEW_TIMEOUT,
        on_review: OnReview = "wait",
        delete_on_kill: bool = False,
        poke_interval: float = 10.0,
        max_poke_interval: float = 60.0,
        deferrable: bool | None = None,
        review_notifiers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.transaction_ids = transaction_ids
        self.abbyy_vantage_conn_id = abbyy_vantage_conn_id
        self.skill_id = skill_id
        self.review_timeout = review_timeout
        self.on_review = on_review
        self.delete_on_kill = delete_on_kill
        self.max_poke_interval = max_poke_interval
        self.deferrable = deferrable
        self.review_notifiers = review_notifiers
        self._told: list[str] = []
        self._check_waiting()

    @cached_property
    def hook(self) -> VantageHook:
        """The hook; nothing is read before it is used."""
        return VantageHook(self.abbyy_vantage_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait, deferred or in this worker."""
        ids = ids_of(self.transaction_ids)
        record_transactions(context, self.abbyy_vantage_conn_id, ids)
        if self._defers():
            return self._wait(context, ids, self.timeout)
        return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once, in the modes ``poke`` and ``reschedule``."""
        ids = ids_of(self.transaction_ids)
        seen = self._watcher.observe(ids, skill_id=self.skill_id)
        in_review = [each for each, state in seen.items() if state.in_review]
        self._tell_new_reviews(context, in_review)
        outcome = Outcome(
            {each: seen[each].status if each in seen else "Unknown" for each in ids},
            tuple(in_review),
        )
        check_outcome(outcome, on_review=self.on_review, client=self.hook.client)
        open_ids = {each for each in ids if each not in seen or not seen[each].ended}
        if self.on_review == "return":
            open_ids -= set(in_review)
        return PokeReturnValue(is_done=not open_ids, xcom_value=dict(outcome.statuses))

    @cached_property
    def _watcher(self) -> Watcher:
        from vantage_orchestration.watching import Watcher

        # In the mode ``reschedule`` each look is another process, which remembers no other one.
        if self.reschedule:
            return Watcher(self.hook.client, settle=0.0)
        return Watcher(self.hook.client)

    def _tell_new_reviews(self, context: Context, in_review: Sequence[str]) -> None:
        """Notify once of each review; in the mode ``reschedule`` each look is another process."""
        store: Any = context.get("task_state_store")
        told = self._told if store is None else store.get(_TOLD, default=[])
        if new := [each for each in in_review if each not in told]:
            self._needs_person(context, new, None)
            self._told = [*told, *new]
            if store is not None:
                store.set(_TOLD, self._told)

    def _ended(self, context: Context, outcome: Outcome) -> dict[str, str]:
        try:
            check_outcome(outcome, on_review=self.on_review, client=self.hook.client)
        except WaitTimeout as error:
            # What every sensor raises then; it is not retried.
            message = str(error)
        else:
            return dict(outcome.statuses)
        raise AirflowSensorTimeout(message)
