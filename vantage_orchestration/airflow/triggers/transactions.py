# SPDX-License-Identifier: Apache-2.0
"""The trigger that waits for transactions while their task holds no worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vantage_orchestration.airflow.compat import AirflowNotFoundException
from vantage_orchestration.airflow.hooks.vantage import VantageHook
from vantage_orchestration.airflow.killing import KILLED, state_of_task
from vantage_orchestration.errors import VantageError
from vantage_orchestration.watching import Limits, Pace, SharedPoller
from vantage_orchestration.watching.limits import AFTER_REVIEW
from vantage_orchestration.watching.pace import LEAST_PAUSE
from vantage_orchestration.watching.parallel import in_thread

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.watching import Observation

__all__ = ["VantageTransactionsTrigger"]

#: Seconds to wait for deletions; Airflow gives ``on_kill`` 30.
_DELETE_SECONDS: Final = 25.0
#: Seconds after which the wall clock is looked at again, however far the deadline is.
_LONGEST_SLEEP: Final = 600.0


class VantageTransactionsTrigger(BaseTrigger):
    """Waits until transactions have ended, need a person, or time is over.

    All triggers of a triggerer that use the same connection share one client and look at their
    transactions in common rounds, see :class:`vantage_orchestration.watching.SharedPoller`. No
    request is made on the event loop.

    The arguments are stored in Airflow's database as plain text, and hold no secret.

    Args:
        transaction_ids: Transactions.
        conn_id: Id of a connection of the type ``abbyy_vantage``.
        skill_id: Their skill, if all have the same and it is known: makes the list shorter.
        deadline: Seconds since the epoch: when processing has to have ended. It does not run while
            everything that has not ended waits for people. Where ``in_review`` names one, it is ten
            minutes from the start at the least: an earlier copy may have held it.
        review_deadline: Seconds since the epoch: when reviews have to have ended; counts only while
            there are any.
        in_review: Transactions whose review was reported before, and is not again.
        report_review: End as well when a transaction gets into review.
        poke_interval: Seconds before the first look, and after a change.
        max_poke_interval: Seconds to which the pauses grow; also the pause while people are waited
            for.
        delete_on_kill: Delete the transactions that have not ended when somebody ends the task:
            marks it as failed, success or skipped. Not when it is cleared, since the new try goes
            on with them. Deleting can't be undone, and charged pages stay charged.

    It ends with one event, whose payload has

    * ``status``: ``ended``; ``review``, one waits for a person that is not in ``in_review``;
      ``timeout``; or ``error``,
    * ``transactions``: id to status, ``Unknown`` for one that was never seen,
    * ``in_review``: ids that wait for a person,
    * ``message``: for ``timeout`` and ``error``, what to tell the user, else None,
    * ``retryable``: whether a new try of the task can help.
    """

    def __init__(
        self,
        *,
        transaction_ids: Sequence[str],
        conn_id: str,
        skill_id: str | None = None,
        deadline: float | None = None,
        review_deadline: float | None = None,
        in_review: Sequence[str] = (),
        report_review: bool = False,
        poke_interval: float = 10.0,
        max_poke_interval: float = 60.0,
        delete_on_kill: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transaction_ids = list(transaction_ids)
        self.conn_id = conn_id
        self.skill_id = skill_id
        self.deadline = deadline
        self.review_deadline = review_deadline
        self.in_review = list(in_review)
        self.report_review = report_review
        self.poke_interval = poke_interval
        self.max_poke_interval = max_poke_interval
        self.delete_on_kill = delete_on_kill
        self._limits = self._new_limits()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make an equal trigger."""
        return (
            f"{__name__}.{type(self).__qualname__}",
            {
                "transaction_ids": self.transaction_ids,
                "conn_id": self.conn_id,
                "skill_id": self.skill_id,
                "deadline": self.deadline,
                "review_deadline": self.review_deadline,
                "in_review": self.in_review,
                "report_review": self.report_review,
                "poke_interval": self.poke_interval,
                "max_poke_interval": self.max_poke_interval,
                "delete_on_kill": self.delete_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        self._limits = self._new_limits()
        try:
            event = await self._wait()
        except Exception as error:
            event = self._failed(error)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _wait(self) -> dict[str, Any]:
        limits = self._limits
        poller = SharedPoller.of(("airflow", self.conn_id), self._connect)
        pace = Pace.between(max(LEAST_PAUSE, self.poke_interval), self.max_poke_interval)
        with poller.watch(self.transaction_ids, pace, skill_id=self.skill_id) as watch:
            while True:
                now = time.time()
                verdict = limits.verdict(now)
                if verdict == "timeout":
                    message = f"{limits.reason()}, and time is over"
                    return self._event("timeout", message, retryable=True)
                if verdict is not None:
                    return self._event(verdict)
                left = limits.left(now)
                pause = _LONGEST_SLEEP if left is None else min(left, _LONGEST_SLEEP)
                changes = await watch.changes(pause)
                limits.note(changes, time.time())
                for each in changes:
                    self._tell(each)

    async def on_kill(self) -> None:
        """Delete what has not ended, if that was asked for and the task does not go on.

        Airflow calls this also for a cleared task, whose new try goes on with the transactions. So
        the state of the task is asked for, and where it is not known for sure that somebody has
        ended the task, nothing is deleted.
        """
        left = [each for each in self.transaction_ids if each in self._limits.open]
        if not self.delete_on_kill or not left:
            return
        state = await self._state_of_task()
        if state not in KILLED:
            self.log.info(
                "The task's state is %s: %d transactions are left alone", state, len(left)
            )
            return
        self.log.info("The task's state is %s: deleting %d transactions", state, len(left))
        work = in_thread(lambda: self._delete(left), "abbyy-vantage-delete")
        try:
            failures = await asyncio.wait_for(work, _DELETE_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):  # Two classes before Python 3.11.
            self.log.warning("Not all transactions were deleted within %.0f s", _DELETE_SECONDS)
        else:
            for name, error in failures.items():
                self.log.warning("Transaction %s was not deleted: %s", name, error)

    # -- internals

    def _new_limits(self) -> Limits:
        deadline = self.deadline
        if deadline is not None and self.in_review:
            # It may have stood still since: where a triggerer takes over, let it look first.
            deadline = max(deadline, time.time() + AFTER_REVIEW)
        return Limits(
            self.transaction_ids,
            deadline=deadline,
            review_deadline=self.review_deadline,
            report_review=self.report_review,
            in_review=self.in_review,
        )

    def _connect(self) -> VantageClient:
        """Make a client. Runs in a thread: reading the connection asks Airflow, and blocks."""
        return VantageHook(self.conn_id).client

    def _tell(self, seen: Observation) -> None:
        # The review link is a credential, and does not get as far as here.
        waits = ", waiting for manual review" if seen.in_review else ""
        self.log.info("Transaction %s: %s%s", seen.transaction_id, seen.status, waits)

    def _event(
        self, status: str, message: str | None = None, *, retryable: bool = False
    ) -> dict[str, Any]:
        return {
            "status": status,
            "transactions": self._limits.statuses(),
            "in_review": self._limits.in_review,
            "message": message,
            "retryable": retryable,
        }

    def _failed(self, error: Exception) -> dict[str, Any]:
        """Return the event for an error. Texts of errors that are not known could hold anything."""
        retryable = True
        if isinstance(error, VantageError):
            message, retryable = str(error), error.retryable
        elif isinstance(error, AirflowNotFoundException):
            # Airflow says the same where its API server gives no answer.
            message = f"Airflow has no connection {self.conn_id!r}, or can't read it at present"
        else:
            message = f"Waiting has failed with {type(error).__name__}"
        self.log.error("Waiting for transactions has failed: %s", message)
        return self._event("error", message, retryable=retryable)

    async def _state_of_task(self) -> str | None:
        """Return the state of the task in Airflow's database, or None if it can't be had."""
        task = self.task_instance
        if task is None:
            return None
        try:
            # Asks the supervisor, which would need this event loop: not from its thread.
            return await in_thread(lambda: state_of_task(task), "abbyy-vantage-state")
        except Exception as error:
            self.log.warning("The task's state is not known: %s", type(error).__name__)
            return None

    def _delete(self, ids: Sequence[str]) -> dict[str, VantageError]:
        """Delete transactions and return what went wrong. Runs in a thread."""
        from vantage_orchestration.processing.deleting import delete_transactions

        with self._connect() as client:
            return delete_transactions(client, ids)
