# SPDX-License-Identifier: Apache-2.0
"""The trigger that waits for transactions while their task occupies no worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from vantage_orchestration import reads
from vantage_orchestration.airflow.compat import AirflowNotFoundException
from vantage_orchestration.airflow.hooks.vantage import VantageHook
from vantage_orchestration.airflow.supervisor import (
    KILLED,
    let_threads_of_triggerer_ask,
    state_of_task,
)
from vantage_orchestration.airflow.triggers import serialized
from vantage_orchestration.errors import VantageError
from vantage_orchestration.parallel import in_thread
from vantage_orchestration.waiting.machine import PeopleNeeded, Wait
from vantage_orchestration.waiting.poller import SharedPoller, wait_in_loop

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

#: Seconds to wait for deletions; Airflow gives ``on_kill`` 30.
_DELETE_SECONDS: Final = 25.0
#: Seconds in which a trigger does not fire. If a task is resumed before the scheduler has read that
#: the deferring worker has exited, the scheduler takes it for killed and fails it ("state
#: mismatch"). Public reports show schedulers that are up to 7 s late.
QUIET_SECONDS = 10.0


class VantageTransactionsTrigger(BaseTrigger):
    """Waits until transactions have ended, need a person, or reach a limit.

    All triggers of a triggerer with the same connection and server share one client and poll their
    transactions together, see :class:`vantage_orchestration.waiting.poller.SharedPoller`. No
    request is made on the event loop.

    The arguments are stored in Airflow's database as plain text and contain no secret.

    Args:
        wait: State of the wait: what :meth:`vantage_orchestration.waiting.machine.Wait.to_json`
            returned.
        abbyy_vantage_conn_id: Id of a connection of the type ``abbyy_vantage``.
        delete_on_kill: Delete the open transactions when somebody ends the task, that is, marks it
            as failed, success or skipped. A cleared task keeps them, since its new try continues
            with them. Deleting can't be undone, and charged pages stay charged.
        notes: Output path of the task, and the name of its ledger there. A later try does not
            continue with transactions that were deleted.

    It ends with one event, whose payload has

    * ``status``: ``over``; ``review`` if people must be notified; or ``error``,
    * ``wait``: the state of the wait,
    * ``message``: for ``error`` the message, otherwise None,
    * ``retryable``: for ``error``, whether a retry of the task can help.
    """

    def __init__(
        self,
        *,
        wait: Mapping[str, Any],
        abbyy_vantage_conn_id: str,
        delete_on_kill: bool = False,
        notes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Read in run(). Another version of this package may have stored it, and of an error in a
        # trigger's constructor, unless it is a TypeError, Airflow's whole triggerer dies.
        self.wait = wait
        self.abbyy_vantage_conn_id = abbyy_vantage_conn_id
        self.delete_on_kill = delete_on_kill
        self.notes = notes
        self._wait: Wait | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class, and arguments for an equal trigger."""
        names = ("wait", "abbyy_vantage_conn_id", "delete_on_kill", "notes")
        return serialized(self, *names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        let_threads_of_triggerer_ask()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            wait = self._wait = Wait.from_json(self.wait, time.time())
            # Triggers of an earlier server still use its client if the connection was changed.
            key = ("airflow", self.abbyy_vantage_conn_id, wait.place)
            poller = SharedPoller.of(key, self.connect)
            answer = await wait_in_loop(poller, wait, tell=lambda line: self.log.info("%s", line))
            event = self._event("review" if isinstance(answer, PeopleNeeded) else "over")
        except Exception as error:
            event = self._failed(error)
        # The worker that continues reads the transactions again, but not within a second of this
        # poll.
        await asyncio.sleep(max(reads.LEAST_PAUSE, QUIET_SECONDS - (loop.time() - begun)))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Delete the open transactions, if ``delete_on_kill`` is set and somebody ended the task.

        Airflow also calls this for a cleared task, whose new try continues with the transactions.
        So the state of the task is read, and unless it is certain that somebody ended the task,
        nothing is deleted.
        """
        left = self._wait.open if self._wait is not None else []
        if not self.delete_on_kill or not left:
            return
        state = await self._state_of_task()
        if state not in KILLED:
            self.log.info("The task's state is %s: %d transactions are kept", state, len(left))
            return
        self.log.info("The task's state is %s: deleting %d transactions", state, len(left))
        work = in_thread(lambda: self._delete(left), "abbyy-vantage-delete")
        try:
            failures = await asyncio.wait_for(work, _DELETE_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):  # Two classes before Python 3.11.
            self.log.warning("Not all transactions were deleted within %.0f s", _DELETE_SECONDS)
            return
        for name, error in failures.items():
            self.log.warning("Transaction %s was not deleted: %s", name, error)

    def connect(self) -> VantageClient:
        # In a thread: loading the connection calls Airflow and blocks.
        client = VantageHook(self.abbyy_vantage_conn_id).client
        if self._wait is not None:
            client.config.credentials.check_place(self._wait.place)
        return client

    def _event(
        self, status: str, message: str | None = None, *, retryable: bool = False
    ) -> dict[str, Any]:
        return {
            "status": status,
            "wait": self.wait if self._wait is None else self._wait.to_json(),
            "message": message,
            "retryable": retryable,
        }

    def _failed(self, error: Exception) -> dict[str, Any]:
        """Return the event for an error. Messages of unknown errors could contain anything."""
        retryable = True
        if isinstance(error, VantageError):
            message, retryable = str(error), error.retryable
        elif isinstance(error, AirflowNotFoundException):
            # Airflow reports the same if its API server gives no answer.
            name = self.abbyy_vantage_conn_id
            message = f"Airflow has no connection {name!r}, or can't read it at present"
        elif self._wait is None:
            message = (
                "The state of the wait can't be read: worker and triggerer may have different"
                " versions of this package, or the task has start_from_trigger, which it can't have"
            )
        else:
            message = f"Waiting failed with {type(error).__name__}"
        self.log.error("Waiting for transactions failed: %s", message)
        return self._event("error", message, retryable=retryable)

    async def _state_of_task(self) -> str | None:
        """Return the state of the task in Airflow's database; None if it can't be read."""
        task = self.task_instance
        if task is None:
            return None
        try:
            # Not from this thread: the call to the supervisor needs this event loop.
            return await in_thread(lambda: state_of_task(task), "abbyy-vantage-state")
        except Exception as error:
            self.log.warning("The task's state is unknown: %s", type(error).__name__)
            return None

    def _delete(self, ids: Sequence[str]) -> dict[str, VantageError]:
        from vantage_orchestration.airflow.storage import output_of
        from vantage_orchestration.processing.deleting import undo_transactions
        from vantage_orchestration.processing.ledger import Ledger, in_output

        ledgers = []
        if self.notes is not None:
            place, name = self.notes
            ledgers.append(Ledger((in_output(output_of(place).folder), name)))
        with self.connect() as client:
            return undo_transactions(client, ids, ledgers)
