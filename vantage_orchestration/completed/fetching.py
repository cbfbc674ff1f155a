# SPDX-License-Identifier: Apache-2.0
"""Fetches what is due for a consumer: each transaction once, whatever is killed at any time.

A run records what it takes, fetches it, and notes each transaction after its results have landed. A
later try of the run continues with the same transactions. So a kill loses nothing, a landed file is
not fetched again, and a run returns all that it has taken, whichever try fetched it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.completed.inbox import Consumer, entry_of, sent_through_api
from vantage_orchestration.completed.notes import Entry, Lease
from vantage_orchestration.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    Overtaken,
    ProcessingError,
    TransactionFailed,
    VantageError,
    WaitTimeout,
    translated,
)
from vantage_orchestration.parallel import requesting
from vantage_orchestration.processing.collect import collect, landed_in
from vantage_orchestration.processing.files import check_quarantine
from vantage_orchestration.processing.manifest import (
    Manifest,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.processing.names import TABLES, safe_name
from vantage_orchestration.processing.outcome import result_of
from vantage_orchestration.processing.skills import names_of_skills
from vantage_orchestration.processing.submit import Part
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.status import Status
from vantage_orchestration.tables.job import complete
from vantage_orchestration.text import shortened

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.routing import Output
    from vantage_orchestration.storage import Location

log = logging.getLogger(__name__)

#: Seconds between two writes of the notes. A kill in between costs a few requests.
_NOTE_EVERY: Final = 5.0
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a run has fetched."""

    manifest: Manifest
    #: Where the manifest is; None if nothing was due.
    place: Location | None = None
    #: Ids of transactions that came by mail, scanner and the like, as far as known.
    by_input: frozenset[str] = frozenset()

    @property
    def result(self) -> dict[str, Any]:
        """The result of the task."""
        return result_of(self.manifest, self.place)


@translated
def fetch_due(
    client: VantageClient,
    consumer: Consumer,
    output: Output,
    *,
    run: str,
    label: str,
    options: Options,
) -> Fetched:
    """Fetch what is due, each transaction into a folder of the output named by its id.

    The output also gets a manifest, which covers all tries of the run, and the run's tables if the
    options ask for them. The result is empty if nothing is due or another run is at work. ``run``
    identifies the run in each of its tries; ``label`` is for people.

    If results could not be fetched, the error is raised when all others have landed. A transaction
    that no retry can help is no longer due: it stays with this run, and clearing the run tries it
    again.
    """
    check_quarantine(options.quarantine_path, output.folder)
    with consumer.notes.lease(run) as lease:
        taken = consumer.notes.taken(run)
        if lease is None:
            if taken:
                raise Overtaken(
                    "Another run is fetching at this moment",
                    hint="Allow one active run at a time (max_active_runs=1); a retry of this run"
                    " continues",
                )
            log.info("Another run is fetching at this moment")
            return Fetched(Manifest(None))
        consumer.register()
        items = {item.id.lower(): item for page in consumer.due() for item in page}
        entries = dict(taken) | dict(entry_of(item) for item in items.values())
        entries = {name.lower(): hour for name, hour in entries.items()}
        if not entries:
            consumer.settle()
            return Fetched(Manifest(None))
        consumer.notes.take(run, entries.items())
        work = _Work(client, consumer, lease, output, run, items, dict(taken), options)
        work.do(entries)
        name = f"{safe_name(label)}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
        folder, tables = output.folder, f"{TABLES}/{name}"
        manifest = complete(client, work.manifest(), folder, options, tables_in=tables)
        place = manifest.write(folder, f"manifest-{name}.json")
        work.conclude()
    by_input = frozenset(
        name
        for name in entries
        if not consumer.wanted.include_api or (name in items and not sent_through_api(items[name]))
    )
    return Fetched(manifest, place, by_input)


@dataclass
class _Work:
    """The fetching of one try of a run."""

    _client: VantageClient
    _consumer: Consumer
    _lease: Lease
    _output: Output
    _run: str
    _items: Mapping[str, ListedTransaction]
    _taken: Collection[str]
    _options: Options

    def __post_init__(self) -> None:
        self._earlier = 0
        self._landed: list[TransactionManifest] = []
        self._ended: list[UnfinishedEntry] = []
        self._failures: list[tuple[Entry, Exception]] = []
        #: Of these, failures of transactions that no later run can fetch.
        self._final: list[Exception] = []
        self._in_a_row = 0
        self._stopped = False
        self._unnoted: list[Entry] = []
        self._noted_at = time.monotonic()
        self._lock = threading.Lock()

    def do(self, entries: Mapping[str, int]) -> None:
        """Fetch all transactions, several at a time, and note which have landed.

        One failure does not keep others from being fetched. After many in a row the cause is not a
        single transaction, and the rest is left to the next try.
        """
        parallel = self._options.parallel

        def fetch(entry: Entry) -> None:
            if self._stopped:
                return
            failure: Exception | None = None
            try:
                self._fetch(entry[0])
            except Exception as error:
                failure = error
            with self._lock:
                self._settle(entry, failure)

        # Shuffled, so that earlier failures do not always block the same other transactions.
        shuffled = list(entries.items())
        _random.shuffle(shuffled)
        requesting(fetch, shuffled, parallel if self._output.folder.concurrent else 1)
        final = self._final_failures()
        self._final = [failure for _, failure in final]
        self._unnoted += [entry for entry, _ in final]
        self._note()

    def _fetch(self, name: str) -> None:
        there = landed_in(self._output.folder, name, name)
        if there is not None and name in self._taken:
            self._landed.append(there)
            self._earlier += 1
            return
        try:
            # A landed transaction may have been deleted since.
            looks = LOOKS if there is None else 1
            transaction = self._client.get_transaction(name, looks=looks)
        except NotFound:
            if there is not None:
                self._landed.append(there)
            else:
                self._ended.append(UnfinishedEntry(name, Status.GONE.value))
            return
        status = transaction.status
        if status.is_terminal and not self._consumer.wanted.asks_for(status):
            # The list did not say how it ended.
            log.info("Transaction %s ended as %s, which is not asked for", name, status)
            return
        if status.is_success:
            entry = collect(
                self._client,
                transaction,
                self._output,
                Part(name, folder=name),
                replace(self._options, parallel=1),
                row=self._items.get(name),
            )
            self._landed.append(entry)
        elif status.is_failure or not status.is_known:
            if not status.is_known:
                text = "Transaction %s ended with the unknown status %r: it counts as failed"
                log.warning(text, name, status.value)
            self._ended.append(UnfinishedEntry.of(name, transaction))
        else:
            raise WaitTimeout(
                f"The transaction is listed as ended, but its status is {status}",
                hint="The next try reads it again",
                transaction_id=name,
            )

    def _settle(self, entry: Entry, failure: Exception | None) -> None:
        if failure is None:
            self._in_a_row = 0
            self._unnoted.append(entry)
        else:
            # Messages of other libraries may contain secrets.
            text = failure if isinstance(failure, VantageError) else type(failure).__name__
            log.warning("The results of transaction %s were not fetched: %s", entry[0], text)
            self._failures.append((entry, failure))
            self._in_a_row += 1
            self._stopped = self._stopped or self._in_a_row >= 2 * self._options.parallel
        if time.monotonic() - self._noted_at >= _NOTE_EVERY:
            self._note()

    def _final_failures(self) -> list[tuple[Entry, Exception]]:
        """Return the failures of transactions that no later run can fetch, as opposed to a problem
        of all of them that can be solved, such as a refused login or a firewall."""

        def of(*kinds: type[VantageError]) -> list[tuple[Entry, Exception]]:
            return [
                (entry, error)
                for entry, error in self._failures
                if isinstance(error, kinds) and not error.retryable
            ]

        if refused := of(BadRequest, Forbidden, NotFound):
            try:
                self._client.list_completed_transactions(limit=1)
            except VantageError:
                refused = []
        return of(ProcessingError) + refused

    def _note(self) -> None:
        self._lease.check()
        self._consumer.notes.add(self._run, self._unnoted)
        self._unnoted.clear()
        self._noted_at = time.monotonic()

    def manifest(self) -> Manifest:
        """Return the manifest of all that the run has taken."""
        skills = {each.skill_id for each in self._landed}
        return Manifest(
            next(iter(skills)) if len(skills) == 1 else None,
            transactions=tuple(sorted(self._landed, key=lambda each: each.transaction_id)),
            failed=tuple(sorted(self._ended, key=lambda each: each.transaction_id)),
            skill_names=names_of_skills(self._client, filter(None, skills)),
            earlier=self._earlier,
        )

    def conclude(self) -> None:
        """Raise the failures; if there are none, let the next poll start after this one."""
        temporary = [failure for _, failure in self._failures if failure not in self._final]
        if not temporary and not self._stopped:
            self._consumer.settle()
        for failure in (*temporary, *self._final):
            raise failure
        if gone := [each.transaction_id for each in self._ended if each.status == Status.GONE]:
            raise TransactionFailed(
                f"{len(gone)} transactions were deleted before their results were fetched:"
                f" {shortened(gone)}",
                hint="Delete transactions only after all consumers have fetched them",
                transaction_id=gone[0],
            )
