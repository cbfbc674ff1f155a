# SPDX-License-Identifier: Apache-2.0
"""Prefect events about ABBYY Vantage transactions, as a basis for automations.

The names are ``abbyy_vantage.transaction.submitted``, ``.review``, ``.processed`` and ``.failed``.
The resource is the transaction. Automations can match its labels::

    prefect.resource.id        abbyy_vantage.transaction.<transaction id>
    abbyy_vantage.server       https://vantage-eu.abbyy.com
    abbyy_vantage.skill_id     skill, if it is known
    abbyy_vantage.status       Processing, Processed, Failed, Canceled or Gone
    abbyy_vantage.origin       api: sent through the API, by whatever program; input: by mail,
                               scanner, phone and the like

Prefect's own ``emit_event`` hands events to a background thread, which loses them if the process is
killed or the server does not answer. Here a task ends after its events were sent, and each id is
derived from what the event reports: the same report after a crash adds nothing. No event contains a
review link or a token.

Prefect's server keeps events in memory and stores them every few seconds; an automation may group
several or miss one. A flow that must see each transaction should poll, as
:func:`vantage_orchestration.prefect.completed.fetch_completed` does.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import pendulum
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.filters import EventFilter, EventIDFilter

from vantage_orchestration.forks import ModuleLock, after_fork
from vantage_orchestration.parallel import starts
from vantage_orchestration.prefect.context import running
from vantage_orchestration.processing.manifest import TransactionManifest, UnfinishedEntry

log = logging.getLogger(__name__)

Happening = Literal["submitted", "review", "processed", "failed"]

#: Prefix of the event names and resource ids.
PREFIX: Final = "abbyy_vantage.transaction"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, PREFIX)
#: Events in one request; the server returns at most that many.
TOGETHER: Final = 50
#: Seconds between the requests of tasks that run at the same time.
_GATHER: Final = 0.2


@dataclass(frozen=True, slots=True)
class TransactionEvent:
    """Something that happened to a transaction, at the ABBYY Vantage ``server``.

    ``details`` are JSON for the payload, stored and shown, so not secret. The ``occasion``
    distinguishes happenings that may repeat for a transaction.
    """

    happening: Happening
    transaction_id: str
    server: str
    status: str
    skill_id: str | None = None
    origin: Literal["api", "input"] = "api"
    details: Mapping[str, Any] = field(default_factory=dict)
    occasion: str = ""

    @property
    def id(self) -> uuid.UUID:
        """Id of the event, the same each time it is reported."""
        parts = (self.server, self.transaction_id.lower(), self.happening, self.occasion)
        return uuid.uuid5(_NAMESPACE, "\0".join(parts))

    def to_json(self, related: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
        """Return it as Prefect's API takes events, related to these resources."""
        resource = {
            "prefect.resource.id": f"{PREFIX}.{self.transaction_id}",
            "prefect.resource.name": f"ABBYY Vantage transaction {self.transaction_id}",
            "abbyy_vantage.server": self.server,
            "abbyy_vantage.status": self.status,
            "abbyy_vantage.origin": self.origin,
        }
        if self.skill_id:
            resource["abbyy_vantage.skill_id"] = self.skill_id
        payload = {
            "transaction_id": self.transaction_id,
            "skill_id": self.skill_id,
            "status": self.status,
            **self.details,
        }
        return {
            "id": str(self.id),
            "occurred": pendulum.now("UTC").isoformat(),
            "event": f"{PREFIX}.{self.happening}",
            "resource": resource,
            "related": related,
            "payload": payload,
        }


def event_of(
    entry: TransactionManifest | UnfinishedEntry,
    server: str,
    skill_id: str | None,
    by_input: Collection[str] = (),
) -> TransactionEvent:
    """Return the event of an ended transaction, as a manifest describes it.

    ``skill_id`` is that of the job; ``by_input`` holds the ids, in lower case, of transactions that
    came by mail, scanner and the like.
    """
    happening: Happening = "failed"
    name, details = entry.transaction_id, dict[str, Any]()
    if isinstance(entry, TransactionManifest):
        broken = sum(len(document.rule_errors) for document in entry.documents)
        details = {"pages": entry.pages, "documents": len(entry.documents), "rule_errors": broken}
        happening, skill_id = "processed", entry.skill_id or skill_id
    origin: Literal["api", "input"] = "input" if name.lower() in by_input else "api"
    return TransactionEvent(happening, name, server, entry.status, skill_id, origin, details)


def emit(events: Iterable[TransactionEvent], *, new: bool = False) -> None:
    """Send events, except those already sent. It blocks until the server has them.

    Failures are only logged as warnings: a document must not fail because it could not be reported.
    ``new``: the events can't have been sent before, which saves a query.
    """
    try:
        deliver(list(events), new=new)
    except Exception as error:
        # A reply could quote what was sent, so only the class is logged.
        log.warning(
            "ABBYY Vantage transactions could not be reported to Prefect (%s)", type(error).__name__
        )


@contextmanager
def emitting_behind() -> Iterator[Callable[..., None]]:
    """Yield a function that does what :func:`emit` does in a thread of its own, which has sent
    everything when the context ends."""
    queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def work() -> None:
        while (send := queue.get()) is not None:
            send()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=PREFIX, daemon=True)
    if not starts(thread):
        yield emit
        return
    try:
        yield lambda events, *, new=False: queue.put(partial(emit, events, new=new))
    finally:
        queue.put(None)
        thread.join()


def deliver(events: Sequence[TransactionEvent], *, new: bool = False) -> None:
    """Send events as :func:`emit` does, and raise what fails."""
    if not events:
        return
    related = _related()
    bodies = [event.to_json(related) for event in events]
    own = _Report({body["id"]: body for body in bodies}, new)
    with get_client(sync_client=True) as client:
        with _lock:
            outbox = outboxes.setdefault(client, _Outbox())
        outbox.send(client, own)
    if own.failure is not None:
        raise own.failure


@dataclass(slots=True)
class _Report:
    """Events, by their ids, that a thread waits for until they are sent."""

    events: dict[str, dict[str, Any]]
    new: bool
    over: bool = False
    failure: Exception | None = None


class _Outbox:
    """The reports that go to Prefect through one client.

    A request costs much more than an event. So what several tasks report while a request is under
    way, or soon after another one's request, is sent together. A task that runs alone never waits.
    """

    def __init__(self) -> None:
        self.reports: list[_Report] = []
        self._sending = threading.Lock()
        self._sender, self._sent = 0, -math.inf

    def send(self, client: SyncPrefectClient, own: _Report) -> None:
        """Send a report, unless another thread does; return when it was sent or has failed."""
        self.reports.append(own)
        with self._sending:
            if own.over:
                return
            if self._sender != threading.get_ident():
                time.sleep(max(0.0, self._sent + _GATHER - time.monotonic()))
            together = self.reports[:]
            _send(client, together)
            del self.reports[: len(together)]
            self._sender, self._sent = threading.get_ident(), time.monotonic()


outboxes: WeakKeyDictionary[SyncPrefectClient, _Outbox] = WeakKeyDictionary()
_lock = ModuleLock()
# A thread of the parent may be sending by one of these.
after_fork(outboxes.clear)


def _send(client: SyncPrefectClient, reports: Sequence[_Report]) -> None:
    events = {name: event for each in reports for name, event in each.events.items()}
    doubtful = {name for each in reports if not each.new for name in each.events}
    names, failure = list(events), None
    try:
        for place in range(0, len(names), TOGETHER):
            batch = names[place : place + TOGETHER]
            there = _stored(client, doubtful.intersection(batch))
            if body := [events[name] for name in batch if name not in there]:
                client.request("POST", "/events", json=body)
    except Exception as error:
        failure = error
    for each in reports:
        each.over, each.failure = True, failure


def _stored(client: SyncPrefectClient, names: Collection[str]) -> set[str]:
    """Return the ids for which the server has an event."""
    if not names:
        return set()
    filter_ = EventFilter(id=EventIDFilter(id=[uuid.UUID(name) for name in names]))
    return {str(event.id) for event in client.read_events(filter_, limit=TOGETHER).events}


def _related() -> list[dict[str, str]]:
    """Return the running flow and task in the form in which Prefect relates its own events."""
    flow_run, task_run = running()
    found = []
    if flow_run is not None:
        found.append(_resource("flow-run", flow_run.id, flow_run.name))
        found.append(_resource("flow", flow_run.flow_id))
        if flow_run.deployment_id is not None:
            found.append(_resource("deployment", flow_run.deployment_id))
        found += [_resource("tag", tag) for tag in sorted(flow_run.tags)]
    if task_run is not None:
        if flow_run is None and task_run.flow_run_id is not None:
            found.append(_resource("flow-run", task_run.flow_run_id))
        found.append(_resource("task-run", task_run.id, task_run.name))
    return found


def _resource(kind: str, name: object, shown: str | None = None) -> dict[str, str]:
    resource = {"prefect.resource.id": f"prefect.{kind}.{name}", "prefect.resource.role": kind}
    return {**resource, "prefect.resource.name": shown} if shown else resource
