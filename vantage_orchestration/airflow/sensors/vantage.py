# SPDX-License-Identifier: Apache-2.0
"""Sensor that waits until transactions have ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, overload

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from vantage_orchestration.airflow.compat import AirflowSensorTimeout, require
from vantage_orchestration.airflow.connection import CONN_NAME_ATTR, DEFAULT_CONN_ID
from vantage_orchestration.airflow.context import TaskState
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.links import (
    VantageTransactionLink,
    record_of_outcome,
    record_transactions,
)
from vantage_orchestration.airflow.waiting import WaitingMixin, check_outcome
from vantage_orchestration.errors import ConfigurationError, WaitTimeout, translating
from vantage_orchestration.options import Sensing, takes
from vantage_orchestration.processing.summary import summary_of_wait
from vantage_orchestration.waiting.machine import Outcome, Wait
from vantage_orchestration.waiting.rules import WaitRules
from vantage_orchestration.waiting.watcher import Watcher

if TYPE_CHECKING:
    from airflow.sdk import Context
    from typing_extensions import Unpack


#: Name in the task state store: the state of the wait, without what each poll shows.
_STATE: Final = "wait"


class VantageTransactionsSensor(WaitingMixin, BaseSensorOperator):
    """Waits until transactions have been processed.

    Args:
        transaction_ids: One or several, or what ``VantageSubmitOperator`` returned (templated). If
            there are none the sensor succeeds at once.
        skill: Id or exact name of the skill of all transactions, if known: polling then takes fewer
            requests (templated).
        abbyy_vantage_conn_id: Connection (templated).
        delete_on_kill: Delete the transactions if somebody ends the task while it is deferred. It
            needs Airflow 3.3, and is refused if the sensor does not defer.
        deferrable: Wait in the triggerer, which is the default; see
            :func:`vantage_orchestration.airflow.waiting.deferrable_by_default`.
        review_notifiers: Called with the context when a person is needed.
        kwargs: Arguments of every sensor: ``timeout``, ``mode``, ``soft_fail``, ... The ``timeout``
            stops while all open transactions wait for people. In the mode ``reschedule`` let the
            ``poke_interval`` be 10 seconds or more: a busy scheduler may fail a task that it has
            to start again earlier. Below Airflow 3.3 both limits count from the first poll in
            that mode, because no state is kept between polls.

    Returns:
        Transaction id to status: ``Processed``, or ``Processing`` with ``on_review="return"``.

    Raises:
        TransactionFailed: One of them failed.
        AirflowSensorTimeout: A limit was reached.
    """

    option_group = Sensing
    template_fields: Sequence[str] = ("transaction_ids", "skill", CONN_NAME_ATTR)
    operator_extra_links = (VantageTransactionLink(),)

    if TYPE_CHECKING:  # See ArgumentsMixin.

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
        self._keep(delete_on_kill=delete_on_kill, deferrable=deferrable)
        self.review_notifiers = review_notifiers
        self._check_kill()
        if delete_on_kill and not self.defers():
            raise ValueError("delete_on_kill of a sensor works only with deferrable=True")
        if review_notifiers and self.reschedule and not self.defers():
            require((3, 3), "A sensor in the mode 'reschedule' with review_notifiers")
        self._service_timeout = float(self.timeout)

    def _rules(self) -> WaitRules:
        return WaitRules.of(self.options, timeout=self._service_timeout)

    def execute(self, context: Context) -> Any:
        """Wait, deferred or in this worker."""
        ids = self._argument("transaction_ids")
        record_transactions(context, ids)
        if not ids:
            self.log.info("There are no transactions, so there is nothing to wait for")
            return {}
        if self.defers():
            return self._wait(context, ids)
        # Airflow's own clock would keep running during reviews; the wait has its own limits.
        self.timeout = math.inf
        return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once, in the modes ``poke`` and ``reschedule``."""
        wait = self._wait_of(context)
        seen = self.watcher.observe(wait.open, skill_id=wait.skill_id)
        for line in wait.lines(wait.note(seen.values(), time.time())):
            self.log.info("%s", line)
        answer = self._next(context, wait)
        self._store(context, wait)
        if isinstance(answer, Outcome):
            return PokeReturnValue(True, self._ended(context, answer))
        return PokeReturnValue(False)

    @cached_property
    def watcher(self) -> Watcher:
        # In the mode ``reschedule`` each poll is another process without memory.
        if self.reschedule:
            return Watcher(self.hook.client, settle=0.0)
        return Watcher(self.hook.client)

    #: The wait, once this process has started or loaded it.
    _wait_here: Wait | None = None
    _stored: dict[str, Any] | None = None

    def _wait_of(self, context: Context) -> Wait:
        """Return the wait of this try."""
        if self._wait_here is None:
            ids, now = self._argument("transaction_ids"), time.time()
            state = self._read(context, ids, now) if self.reschedule else None
            credentials = self.hook.client.config.credentials
            with translating(translate):
                credentials.check_place((state or {}).get("place"))
            skill_id, place = self.skill_if_known(), credentials.place
            self._wait_here = Wait(
                ids, self._rules(), now, skill_id=skill_id, place=place, state=state
            )
        return self._wait_here

    def _read(self, context: Context, ids: Sequence[str], now: float) -> dict[str, Any] | None:
        """Return the state that earlier polls have left; None at the first poll."""
        ti: Any = context["ti"]
        store: Any = context.get("task_state_store")
        if store is not None:
            self._stored = json.loads(TaskState(store).read(_STATE) or "null")
            # A new try gives the service and people the whole time again.
            ours = isinstance(self._stored, dict) and self._stored.get("try") == ti.try_number
            return {"statuses": {}, **(self._stored or {})} if ours else None
        if self.review_notifiers:
            raise translate(
                ConfigurationError(
                    "In the mode 'reschedule' this Airflow can't store whether people were"
                    " notified",
                    hint="Use deferrable=True, mode='poke', or Airflow 3.3 or later",
                )
            )
        first = ti.get_first_reschedule_date(context)
        begin = now if first is None else first.timestamp()
        review = {"since": begin, "notified": True, "over": now}
        return {
            "statuses": {},
            "reviews": dict.fromkeys(ids, review),
            "deadline": begin + self._service_timeout,
            "left": None,
            "timed_out": None,
        }

    def _store(self, context: Context, wait: Wait) -> None:
        store: Any = context.get("task_state_store")
        if not self.reschedule or store is None:
            return
        state = wait.to_json()
        kept = {each: state[each] for each in ("reviews", "deadline", "left", "timed_out", "place")}
        kept["try"] = context["ti"].try_number
        if kept != self._stored:
            TaskState(store).write(_STATE, json.dumps(kept).encode())
            self._stored = kept

    def _ended(self, context: Context, outcome: Outcome) -> dict[str, str]:
        record_transactions(context, record_of_outcome(outcome))
        self.log.info("%s", summary_of_wait(outcome))
        try:
            check_outcome(outcome, on_review=self.options.on_review, client=self.hook.client)
        except WaitTimeout as error:
            # As every sensor raises; it is not retried.
            message = str(error)
        else:
            return {each: status.value for each, status in outcome.statuses.items()}
        raise AirflowSensorTimeout(message)
