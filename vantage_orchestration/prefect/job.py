# SPDX-License-Identifier: Apache-2.0
"""What a Prefect run adds to the core's jobs: key, ledger, job token, and reports to Prefect."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from vantage_orchestration import arguments
from vantage_orchestration.prefect.artifacts import (
    BatchProgress,
    DocumentsTable,
    review_began,
    review_ended,
)
from vantage_orchestration.prefect.context import in_run, retried_by_itself, running, task_key
from vantage_orchestration.prefect.events import (
    TOGETHER,
    Happening,
    TransactionEvent,
    emit,
    emitting_behind,
    event_of,
)
from vantage_orchestration.processing.files import files_of
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.manifest import (
    Manifest,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.summary import (
    files_by_id,
    lines_of_start,
    summary,
    summary_of_wait,
)
from vantage_orchestration.status import Status
from vantage_orchestration.waiting.blocking import wait_here
from vantage_orchestration.waiting.machine import PeopleNeeded, Wait
from vantage_orchestration.waiting.poller import wait_in_loop

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.options import OnEmpty, Options
    from vantage_orchestration.processing.submit import Part, Work
    from vantage_orchestration.storage import Location
    from vantage_orchestration.waiting.machine import Observation, Outcome
    from vantage_orchestration.waiting.poller import SharedPoller
    from vantage_orchestration.waiting.rules import WaitRules

#: Seconds after the creation of a transaction within which its events are sent without a query:
#: Prefect's server ignores an event that it has got within the last five minutes.
_FRESH = 240.0


@dataclass(frozen=True, slots=True)
class Caller:
    """The run that processes documents, the same in each try.

    ``number`` is that of the call within the flow run, if Prefect has one.
    """

    work: Work
    number: str = ""

    @property
    def again(self) -> bool:
        """Whether this may be a later try."""
        return self.work.key.since is not None

    @classmethod
    def of_run(
        cls,
        client: VantageClient,
        inputs: Any,
        skill: str,
        options: Options,
        *,
        output: Location | None = None,
        numbered: bool = False,
    ) -> Caller:
        """Return the running task, or the running flow if it makes the call itself.

        If neither runs, there are no retries, and each call is separate. Registration
        parameters are part of the identity: a document sent with others is another order. If
        ``numbered``, the number of the call may identify the inputs, if these change.
        """
        from vantage_orchestration.processing.submit import open_work

        skill_id, given = skill_id_of(client, skill), arguments.items("inputs", inputs)
        if not in_run():
            key = TaskKey(f"prefect/{uuid.uuid4()}")
            return cls(open_work(client, skill_id, key, options, given, noted=False))
        key = task_key(json.dumps(dict(options.registration_parameters), sort_keys=True))
        _, task_run = running()
        number = task_run.dynamic_key if task_run is not None else ""
        number = number if number.isdecimal() else ""
        position = number if numbered else ""
        work = open_work(client, skill_id, key, options, given, position=position, output=output)
        # Failed documents may be sent, and charged, again unless Prefect retries automatically.
        resend = key.since is None or not retried_by_itself()
        return cls(replace(work, resend_failed=resend), number)

    def files(
        self, inputs: Any, on_empty: OnEmpty = "fail", output: Location | None = None
    ) -> list[Location]:
        """Return the files given by the inputs; files that an earlier try sent may be missing."""
        sent = bool(self.work.ledger.load())
        return files_of(inputs, sent_before=sent, on_empty=on_empty, output=output)

    def token(self, output: Location) -> str:
        """Return the token for a job that writes into a folder, see :func:`.job.job_token`.

        Mapped tasks are distinguished by their inputs, since Prefect's numbers of them change
        between tries. If a later try was given other inputs, the number of the call identifies it.
        """
        from vantage_orchestration.processing.job import Job, job_token

        ours = self.work.origin
        token = job_token(self.work.key.scope, f"{ours}-{self.number}")
        job, manifest = Job.load(output), Manifest.load(output)
        for owner in (job.token if job else None, manifest.job if manifest else None):
            task, _, piece = (owner or "").rpartition(".")
            origin, _, number = piece.partition("-")
            again = self.again and number == self.number
            if owner and token.startswith(f"{task}.") and (origin == ours or again):
                return owner
        return token


class Reporter:
    """Reports a run's transactions to Prefect: in its log, as events and as artifacts.

    Outside runs it only logs, and calls no Prefect server. The progress of ``ids`` is shown if
    there are several. ``again`` is whether an earlier try may have reported reviews.
    """

    def __init__(
        self,
        client: VantageClient,
        skill_id: str | None,
        log: Callable[..., object],
        ids: Sequence[str] = (),
        *,
        again: bool = True,
    ) -> None:
        self._client = client
        self._server = client.config.credentials.base_url
        self._skill_id = skill_id
        self._log = log
        self._fresh_until = 0.0
        self._ended: set[str] = set()
        self._files: dict[str, str] = {}
        self._active = in_run()
        self._reviews = again
        self._progress: Any = None
        self._table: DocumentsTable | None = None
        self._emit: Callable[..., None] = emit
        self._landed: list[TransactionManifest] = []
        self._told = 0
        self._lock = threading.Lock()
        if self._active and len(ids) > 1:
            self._progress = BatchProgress(len(ids))

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Send events while the run continues; the end of this context waits for the last."""
        if not self._active:
            yield
            return
        try:
            with emitting_behind() as self._emit:
                yield
        finally:
            self._emit = emit

    def started(self, parts: Sequence[Part], *, shown: bool = False) -> None:
        """Report that transactions were started, by this try or an earlier one.

        If ``shown``, a table of them is shown from now on, until :meth:`finished`.
        """
        self._files = files_by_id(parts)
        for line in lines_of_start(parts):
            self._log("%s", line)
        ids = [part.transaction_id for part in parts if not part.landed]
        new = not any(part.earlier for part in parts)
        if new:
            self._fresh_until = min((part.created for part in parts), default=0.0) + _FRESH
        if self._active and ids:
            events = [self._event("submitted", each, Status.PROCESSING) for each in ids]
            self._emit(events, new=new)
        if self._active and ids and shown:
            self._table = DocumentsTable(
                UnfinishedEntry(each.transaction_id, Status.PROCESSING.value, sources=each.sources)
                for each in parts
                if not each.landed
            )

    def wait(
        self,
        ids: Sequence[str],
        rules: WaitRules,
        on_pause: Callable[..., object] = lambda processed, seconds: None,
    ) -> Outcome:
        """Wait for transactions and report changes. It blocks. See :func:`wait_here`."""
        return wait_here(
            self._client,
            wait := self._wait_for(ids, rules),
            tell=lambda line: self._log("%s", line),
            on_change=self.changed,
            on_people=lambda needed: self.needs_person(wait, needed),
            on_pause=on_pause,
        )

    def _wait_for(self, ids: Sequence[str], rules: WaitRules) -> Wait:
        return Wait(ids, rules, time.time(), files=self._files, skill_id=self._skill_id)

    async def wait_in_loop(
        self, poller: SharedPoller, ids: Sequence[str], rules: WaitRules
    ) -> Outcome:
        """Wait as :meth:`wait` does, without blocking the event loop."""
        wait = self._wait_for(ids, rules)
        while True:
            answer = await wait_in_loop(
                poller,
                wait,
                tell=lambda line: self._log("%s", line),
                on_change=self.changed,
            )
            if not isinstance(answer, PeopleNeeded):
                return answer
            await anyio.to_thread.run_sync(self.needs_person, wait, answer)
            wait.notified(answer)

    def changed(self, seen: Observation) -> None:
        """Report one change."""
        if self._table is not None:
            self._table.change(seen)
        if seen.ended:
            self._ended.add(seen.transaction_id)
            if self._progress is not None:
                self._progress.update(len(self._ended))

    def needs_person(self, wait: Wait, needed: PeopleNeeded) -> None:
        """Report that a person must review transactions."""
        ids = needed.transaction_ids
        self._log("%s", wait.words_of_people(needed))
        self._reviews = True
        if self._active:
            review_began(
                ids,
                server=self._server,
                skill_id=self._skill_id,
                files=wait.files,
                deadlines=wait.review_deadlines,
            )
            if self._table is not None:
                self._table.need_people(wait.review_deadlines)

    def ended(self, outcome: Outcome, *, processed: bool = True) -> None:
        """Report how the wait ended, where no job with a manifest reports more.

        Transactions with results are left out unless ``processed``: downloading them reports more.
        """
        self._log("%s", summary_of_wait(outcome))
        self._reviewed(outcome.statuses.keys() - set(outcome.in_review))
        if self._active:
            failed = [each for each, status in outcome.statuses.items() if status.is_failure]
            done = outcome.with_status(Status.PROCESSED) if processed else []
            events = [self._event("processed", each, Status.PROCESSED) for each in done]
            events += [self._event("failed", each, outcome.statuses[each]) for each in failed]
            self._emit(events, new=self._fresh)

    @property
    def _fresh(self) -> bool:
        """Whether no earlier try can have sent the events, as far as Prefect would not see that."""
        return time.time() < self._fresh_until

    def _event(self, happening: Happening, transaction_id: str, status: Status) -> TransactionEvent:
        return TransactionEvent(happening, transaction_id, self._server, status, self._skill_id)

    def _reviewed(self, ids: Collection[str]) -> None:
        if self._active and self._reviews and ids:
            review_ended(ids)

    def landed(self, entry: TransactionManifest) -> None:
        """Report, in any thread, that results have landed; :meth:`finished` reports the rest."""
        with self._lock:
            self._landed.append(entry)
            if not self._active or len(self._landed) < self._told + TOGETHER:
                return
            new, self._told = self._landed[self._told :], len(self._landed)
        self._emit_ended(new)

    def _emit_ended(self, entries: Iterable[TransactionManifest | UnfinishedEntry]) -> None:
        events = [event_of(each, self._server, self._skill_id) for each in entries]
        self._emit(events, new=self._fresh)

    def finished(self, manifest: Manifest, output: Location) -> None:
        """Report the results of a job."""
        self._log("%s", summary(manifest, output.url))
        if self._active:
            self._reviewed([each.transaction_id for each in manifest.ended])
            told = {each.transaction_id for each in self._landed[: self._told]}
            self._emit_ended(each for each in manifest.ended if each.transaction_id not in told)
            (self._table or DocumentsTable()).finish(manifest, output.url)
