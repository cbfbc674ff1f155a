# SPDX-License-Identifier: Apache-2.0
"""Starts a Dag when a transaction ended in ABBYY Vantage, whatever its origin.

An asset event is a wake-up, never the message. Airflow queues one event per asset and Dag: of the
events that arrive before a run is created, the run gets the first; those that arrive meanwhile may
go with it; and those that arrive while the Dag is paused start nothing. So the trigger keeps waking
the Dag while something is due, and a run fetches all that is due
(:class:`vantage_orchestration.airflow.operators.vantage.VantageFetchCompletedOperator`). What is
due follows from the service's list and the notes of the runs, which the trigger reads. It stores
nothing itself, so two triggers may work at the same time, and each may be killed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from vantage_orchestration.airflow.compat import AirflowNotFoundException
from vantage_orchestration.airflow.connection import DEFAULT_CONN_ID
from vantage_orchestration.airflow.supervisor import let_threads_of_triggerer_ask
from vantage_orchestration.airflow.triggers import serialized
from vantage_orchestration.completed.waking import NOBODY, WakeSchedule
from vantage_orchestration.errors import ConfigurationError, VantageError
from vantage_orchestration.options import checked
from vantage_orchestration.retrying import RetryPolicy

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.completed.inbox import Inbox

log = logging.getLogger(__name__)

#: Longest pause in seconds while the login or the service fails.
_LONGEST_PAUSE: Final = 900.0
#: First pause in seconds after a refused login. Many in a row lock an account.
_REFUSED_PAUSE: Final = 60.0
#: A page is retried soon, everything else with the next poll.
_RETRIES: Final = RetryPolicy(attempts=3, first_wait=1.0, max_wait=4.0, budget=15.0)
_random = random.SystemRandom()


class _Refused(ValueError, TypeError):
    """An argument is wrong. Airflow's triggerer dies if the constructor of a stored trigger raises
    anything but a TypeError."""


class VantageTransactionCompletedTrigger(BaseEventTrigger):
    """Wakes the Dags of an asset while ended ABBYY Vantage transactions are due.

    For an ``AssetWatcher``: Dags that are scheduled by the asset start when documents that came in
    by mail, scanner or phone are processed, including a manual review. The service has no webhooks,
    so the trigger polls its list of completed transactions.

    Args:
        state_path: Folder in which the fetching tasks record what they have fetched, a path or URL:
            the ``state_path`` of each :class:`VantageFetchCompletedOperator`, or its
            ``output_path`` if it has none. Workers and triggerers must have access to it.
        skill: Id or exact name of the skill, the same as in those tasks; None for all.
        abbyy_vantage_conn_id: Connection of the type ``abbyy_vantage``.
        poke_interval: Seconds between two polls, at least 1.
        overlap: As for :class:`VantageFetchCompletedOperator`.

    The event is ``{"due": [...], "skill": ...}``, with the names of the tasks for which something
    is due. It does not say what has ended: several events may become one run, and some are lost.

    The trigger wakes the Dags at a poll that finds something due, then with growing pauses of at
    most five polls, until each task that has fetched from this folder in the last days has fetched
    it, but not while one of these tasks works. After that it wakes a few more times, ever more
    rarely, for a Dag that has not run yet. The tasks decide which transactions they fetch.
    """

    def __init__(
        self,
        state_path: str,
        skill: str | None = None,
        abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
        poke_interval: float = 60.0,
        overlap: float = 3600.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not abbyy_vantage_conn_id or not str(state_path).strip():
            raise _Refused("abbyy_vantage_conn_id or state_path is empty")
        self.state_path = str(state_path)
        self.skill = skill
        self.abbyy_vantage_conn_id = abbyy_vantage_conn_id
        try:
            self.poke_interval: float = checked("poke_interval", poke_interval)
            self.overlap: float = checked("overlap", overlap)
        except ConfigurationError as error:
            raise _Refused(str(error)) from None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments; they are stored in plain text and contain no secret."""
        names = ("state_path", "skill", "abbyy_vantage_conn_id", "poke_interval", "overlap")
        return serialized(self, *names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll, and yield an event when something is due."""
        let_threads_of_triggerer_ask()
        poller, wakes = CompletedPoller(self), WakeSchedule()
        try:
            while True:
                due = await poller.due()
                if wakes.look(due):
                    payload = {"due": sorted(due or ()), "skill": self.skill}
                    yield TriggerEvent(payload)  # type: ignore[no-untyped-call]
                # Varied, so as not to be in step with other triggers.
                await asyncio.sleep(poller.pause * _random.uniform(0.9, 1.1))
        finally:
            poller.close()


class CompletedPoller:
    """Polls the list of completed transactions in worker threads."""

    def __init__(self, trigger: VantageTransactionCompletedTrigger) -> None:
        self._trigger = trigger
        self._client: VantageClient | None = None
        self._inbox: Inbox | None = None
        self._failures = 0
        self.pause = trigger.poke_interval

    async def due(self) -> set[str] | None:
        """Return the names of the tasks for which something is due; None if unknown."""
        try:
            found = await asyncio.to_thread(self._due)
        except Exception as error:
            # A trigger that ends would be restarted at once, for ever. Messages of other libraries
            # may contain secrets.
            clean = isinstance(error, (VantageError, AirflowNotFoundException))
            self.close()
            self.pause = self._pause_after(error)
            text = error if clean else type(error).__name__
            log.warning("The next poll of ABBYY Vantage is in %.0f s: %s", self.pause, text)
            return None
        self._failures, self.pause = 0, self._trigger.poke_interval
        return found

    def close(self) -> None:
        """Close the client. A new one loads the connection again, which may have been corrected."""
        client, self._client, self._inbox = self._client, None, None
        if client is not None:
            client.close()

    def _due(self) -> set[str] | None:
        inbox = self._inbox or self._open()
        consumers = inbox.consumers()
        if not consumers:
            return {NOBODY} if inbox.anything() else set()
        waiting = [each for each in consumers if not each.notes.busy()]
        if not waiting:
            return None
        return {each.name for each in waiting if each.waits()}

    def _open(self) -> Inbox:
        """Create the client; the connection is loaded here, in the thread that will use it."""
        from vantage_orchestration.airflow.hooks.vantage import VantageHook
        from vantage_orchestration.airflow.storage import location_of
        from vantage_orchestration.completed.inbox import Inbox
        from vantage_orchestration.processing.skills import skill_id_of

        trigger = self._trigger
        self._client = VantageHook(trigger.abbyy_vantage_conn_id).new_client(retries=_RETRIES)
        skill = None if trigger.skill is None else skill_id_of(self._client, trigger.skill)
        state = location_of(trigger.state_path)
        self._inbox = Inbox(self._client, state, skill, overlap=trigger.overlap)
        return self._inbox

    def _pause_after(self, error: Exception) -> float:
        self._failures += 1
        pause = self._trigger.poke_interval
        if isinstance(error, VantageError) and error.retryable:
            if error.retry_after is not None:
                return min(max(error.retry_after, pause), _LONGEST_PAUSE)
        else:
            pause = max(pause, _REFUSED_PAUSE)
        return min(pause * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
