# SPDX-License-Identifier: Apache-2.0
"""Sensor: waits until transactions have ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from vantage_orchestration.airflow.arguments import ArgumentsMixin
from vantage_orchestration.airflow.compat import AirflowSensorTimeout
from vantage_orchestration.airflow.connection import CONN_NAME_ATTR, DEFAULT_CONN_ID
from vantage_orchestration.airflow.links import VantageTransactionLink, record_transactions
from vantage_orchestration.airflow.waiting import Outcome, WaitingMixin, check_outcome
from vantage_orchestration.errors import WaitTimeout
from vantage_orchestration.options import Sensing, takes

if TYPE_CHECKING:
    from airflow.sdk import Context
    from typing_extensions import Unpack

    from vantage_orchestration.watching import Watcher

__all__ = ["VantageTransactionsSensor"]

#: Key in the task state store: ids whose review was told.
_TOLD = "abbyy_vantage.reviews"


class VantageTransactionsSensor(ArgumentsMixin, WaitingMixin, BaseSensorOperator):
    """Waits until transactions have been processed.

    Args:
        transaction_ids: One or several, or what ``VantageSubmitOperator`` returned (templated). If
            there are none the sensor succeeds at once.
        skill: Id or exact name of the skill of all of them, if it is known: looking takes fewer
            requests (templated).
        abbyy_vantage_conn_id: Connection (templated).
        delete_on_kill: Delete the transactions if somebody ends the task while it is deferred.
        deferrable: Wait in the triggerer, which is the default; see
            :func:`vantage_orchestration.airflow.waiting.deferrable_by_default`.
        review_notifiers: Called with the context when a person is needed.
        kwargs: Arguments of every sensor: ``timeout``, ``mode``, ``soft_fail``, ... Deferred, a
            review does not count for ``timeout``; in the modes ``poke`` and ``reschedule`` it does.

    Returns:
        Transaction id to status: ``Processed``, or ``Processing`` with ``on_review="return"``.

    Raises:
        TransactionFailed: One of them failed.
        AirflowSensorTimeout: A limit was reached.
    """

    option_group = Sensing
    template_fields: Sequence[str] = ("transaction_ids", "skill", CONN_NAME_ATTR)
    operator_extra_links = (VantageTransactionLink(),)

    if TYPE_CHECKING:  # Editors and type checkers read the options here.

        @overload
        def __init__(
            self,
            *,
            transaction_ids: Any,
            skill: str | None = None,
            abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
            delete_on_kill: bool = False,
            deferrable: bool | None = None,
            review_notifiers: Sequence[Any] = (),
            **options: Unpack[Sensing],
        ) -> None: ...

        @overload
        def __init__(self, *, transaction_ids: Any, **kwargs: Any) -> None: ...

    @takes(Sensing)
    def __init__(
        self,
        *,
        transaction_ids: Any,
        skill: str | None = None,
        abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
        delete_on_kill: bool = False,
        deferrable: bool | None = None,
        review_notifiers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        options = self._pop_options(kwargs)
        super().__init__(**kwargs)
        self._keep(
            transaction_ids=transaction_ids,
            skill=skill,
            abbyy_vantage_conn_id=abbyy_vantage_conn_id,
            **options,
        )
        self.delete_on_kill = delete_on_kill
        self.deferrable = deferrable
        self.review_notifiers = review_notifiers
        self._told: list[str] = []

    @property
    def _timeout(self) -> float:
        return float(self.timeout)

    def execute(self, context: Context) -> Any:
        """Wait, deferred or in this worker."""
        ids = self._argument("transaction_ids")
        if not ids:
            self.log.info("There are no transactions, so there is nothing to wait for")
            return {}
        record_transactions(context, ids)
        if self._defers():
            return self._wait(context, ids, self._timeout)
        return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once, in the modes ``poke`` and ``reschedule``."""
        ids = self._argument("transaction_ids")
        seen = self._watcher.observe(
            ids, skill_id=self._skill_id() if self.skill is not None else None
        )
        in_review = [each for each, state in seen.items() if state.in_review]
        self._tell_new_reviews(context, in_review)
        outcome = Outcome(
            {each: seen[each].status if each in seen else "Unknown" for each in ids},
            tuple(in_review),
        )
        check_outcome(outcome, on_review=self.options.on_review, client=self.hook.client)
        open_ids = {each for each in ids if each not in seen or not seen[each].ended}
        if self.options.on_review == "return":
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
            check_outcome(outcome, on_review=self.options.on_review, client=self.hook.client)
        except WaitTimeout as error:
            # What every sensor raises then; it is not retried.
            message = str(error)
        else:
            return dict(outcome.statuses)
        raise AirflowSensorTimeout(message)
