# SPDX-License-Identifier: Apache-2.0
"""Starts the transactions of a job, each once.

The order makes it safe (contract, sections 5 and 6): create, which is free; record the id; add the
files; check that they arrived, unless the service has just said so; start, after which pages are
charged. A later try continues from any point: a New transaction gets its missing files, a running
one is waited for, a processed one is collected. ``launch`` is not used: if its reply is lost, it
can't be repeated safely.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from vantage_orchestration.errors import (
    BadRequest,
    Conflict,
    DocumentMismatch,
    FileChanged,
    NotFound,
    ProtocolError,
)
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.parallel import requesting
from vantage_orchestration.processing.keys import digest_of, keyed, unit_key
from vantage_orchestration.processing.ledger import Ledger, LedgerEntry, open_ledger
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.manifest import SourceEntry
from vantage_orchestration.processing.names import folded
from vantage_orchestration.processing.skills import unknown_skill
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.status import Status
from vantage_orchestration.stored import Member, Stored
from vantage_orchestration.text import identifier, named
from vantage_orchestration.upload import SourceFile, parameters

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.inputs import PlannedFile
    from vantage_orchestration.processing.keys import TaskKey
    from vantage_orchestration.processing.plan import Unit
    from vantage_orchestration.storage import Location

    #: Transactions to continue with, by their keys, with their states.
    _Known = dict[str, tuple[LedgerEntry, Transaction]]

log = logging.getLogger(__name__)

#: Transactions that are created before the ledger is read again.
_CHUNK = 100
#: Held by the one task of the process that creates transactions and notes them.
_making = ModuleLock()
#: Keys of what this process has made lately: the ledger has news of them for a task that read it
#: before.
_made_here: dict[str, None] = {}
_MOST_KEYS = 10_000
#: Seconds after creation during which a 404 must be repeated more often before it is believed.
_SETTLED = 60.0
_MORE_LOOKS = 5


_NEEDED = Member(needed=True)


@dataclass(frozen=True, slots=True)
class Part(Stored):
    """A started transaction; a part of a job.

    Attributes:
        transaction_id: Its id.
        key: Its key; empty if unknown.
        folder: Name of the folder for its results.
        created: When it was created, or found in the lists, in seconds since the epoch by this
            machine's clock; 0 if unknown.
        sources: The files that were sent, as far as still known.
        landed: Whether its results have landed in an earlier try.
        earlier: Whether an earlier try has created it.
    """

    transaction_id: Annotated[str, Member(read=identifier)]
    key: Annotated[str, _NEEDED] = ""
    folder: Annotated[str, _NEEDED] = ""
    created: Annotated[float, _NEEDED] = 0.0
    sources: Annotated[tuple[SourceEntry, ...], _NEEDED] = ()
    landed: bool = False
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a task does with documents, the same in each try.

    Attributes:
        client: Client.
        skill_id: Skill that processes them.
        key: Key of the task, the same in each try.
        options: Options of the task.
        ledger: Records ids before the start, see :func:`.ledger.open_ledger`; by default nothing is
            recorded.
        origin: See :class:`.ledger.LedgerEntry`.
        resend_failed: Whether to create transactions that failed or were cancelled again. Otherwise
            they are returned as they are, for a caller that reports failures and then forgets them.
    """

    client: VantageClient
    skill_id: str
    key: TaskKey
    options: Options
    ledger: Ledger = field(default_factory=Ledger)
    origin: str = ""
    resend_failed: bool = True

    def translating(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that translates errors as the client does."""
        return self.client.translating()

    def entry(self, transaction_id: str, unit: Unit) -> LedgerEntry:
        """Return what the ledger records of a transaction."""
        files = tuple(file.short for file in unit.files)
        return LedgerEntry(transaction_id, time.time(), files, self.origin)


def open_work(
    client: VantageClient,
    skill_id: str,
    key: TaskKey,
    options: Options,
    inputs: Iterable[Any],
    *,
    position: str = "",
    output: Location | None = None,
    noted: bool = True,
) -> Work:
    """Return the work of a task with its ledger, see :func:`.ledger.open_ledger`; unless ``noted``,
    nothing is recorded. ``inputs`` are those of the task as given."""
    given = digest_of([str(each) for each in inputs])
    settings = (key, client, skill_id, options.skill_parameters)
    ledger = Ledger()
    if noted:
        ledger = open_ledger(*settings, inputs=given, position=position, output=output)
    return Work(client, skill_id, key, options, ledger, given[:8])


def keyed_units(work: Work, units: Iterable[Unit], scope: str | None = None) -> dict[str, Unit]:
    """Return new units by their keys, see :func:`.keys.unit_key`, by default in the newest scope of
    the task."""
    scope = scope or work.ledger.scopes(work.key)[0]
    return {
        unit_key(
            scope,
            work.skill_id,
            [(each.stored_name, str(each.sha256)) for each in unit.sources],
            work.options.skill_parameters,
        ): unit
        for unit in units
    }


def submit(work: Work, units: Mapping[str, Unit]) -> tuple[Part, ...]:
    """Start a transaction for each unit, or find the one that an earlier try created; return them
    in their order.

    A file that changed since the plan, or a server that does not hold what was sent, is an error,
    and its transaction is not started. After another error the next try finds the started ones.
    """
    # Before anything is sent; the creation checks the same, after a login and a search.
    parameters(work.options.skill_parameters or {}, limited=False)
    keyed(work.options.registration_parameters, "0" * 64)
    known = _known(work, units)
    line = _Line(work, units, known)
    line.run()
    entries = line.made | {key: entry for key, (entry, _) in known.items()}
    return tuple(
        Part(
            entries[key].transaction_id,
            key,
            unit.name,
            entries[key].created,
            unit.sources,
            earlier=key in known,
        )
        for key, unit in units.items()
    )


# --------------------------------------------------- what exists already


def _known(work: Work, units: Mapping[str, Unit]) -> _Known:
    """Return the transactions to continue with."""
    noted = {key: entry for key, entry in work.ledger.load().items() if key in units}
    known = _alive(work, units, noted)
    gone = noted.keys() - known.keys()
    if work.key.since is not None:
        ids = find_transactions(
            work.client, units.keys() - known.keys(), skill_id=work.skill_id, since=work.key.since
        )
        found = _alive(work, units, {key: work.entry(ids[key], units[key]) for key in ids})
        if found:
            work.ledger.add({key: entry for key, (entry, _) in found.items()})
        known |= found
        gone -= found.keys()
    if gone:
        work.ledger.drop(gone)
    for key, (entry, transaction) in known.items():
        log.info(
            "Continuing with transaction %s of an earlier try for %s (%s)",
            entry.transaction_id,
            named(units[key].sources) or "files that are gone",
            transaction.status,
        )
    return known


def _alive(work: Work, units: Mapping[str, Unit], entries: Mapping[str, LedgerEntry]) -> _Known:
    """Return those of the recorded transactions to continue with."""
    client = work.client

    def look(key: str) -> Transaction | None:
        states = []
        # Not all machines of the service know of a new transaction at once, and one that is taken
        # for gone is sent, and charged, again.
        fresh = time.time() - entries[key].created < _SETTLED
        for each in entries[key].transaction_ids:
            with contextlib.suppress(NotFound):
                states.append(client.get_transaction(each, looks=_MORE_LOOKS if fresh else LOOKS))
        # Of several, continue with the one whose pages are charged.
        best = min(states, key=_rank, default=None)
        if best is None or (best.status.is_failure and work.resend_failed):
            return None
        names = {folded(each.stored_name) for each in units[key].sources}
        there = {folded(each.name) for each in best.source_files}
        if best.status is Status.NEW and not there <= names:
            # It holds a file that is not sent now. For example, an earlier try sent the file under
            # another name, and another one of several equal files is chosen now.
            client.delete_transaction(best.id)
            return None
        return best

    states = requesting(look, entries, work.options.parallel)
    return {
        key: (replace(entry, transaction_id=state.id), state)
        for (key, entry), state in zip(entries.items(), states, strict=True)
        if state is not None
    }


def _rank(transaction: Transaction) -> int:
    if transaction.status.is_failure:
        return 3
    return {Status.PROCESSED: 0, Status.NEW: 2}.get(transaction.status, 1)


# --------------------------------------------------------------- sending


class Sending:
    """The upload of one unit. The thread that adds its last file starts it.

    It needs no look before the start (``_sure``) if this try has created it, and its only file was
    accepted at once. If the service has not got the file after all, it refuses the start. Of
    several files it would not miss one.
    """

    def __init__(
        self,
        work: Work,
        key: str,
        unit: Unit,
        transaction_id: str,
        state: Transaction | None = None,
    ) -> None:
        self._work, self._key, self._unit, self._name = work, key, unit, transaction_id
        self._resumed = state is not None
        self._sure = state is None and len(unit.files) == 1
        there = {folded(file.name) for file in state.source_files} if state is not None else set()
        self.missing = [
            (index, file)
            for index, file in enumerate(unit.files)
            if folded(file.entry.stored_name) not in there
        ]
        self._left = len(self.missing)
        self._lock = threading.Lock()

    def send(self, missing: tuple[int, PlannedFile] | None) -> None:
        """Add a missing file, if there is one; after the last, start the transaction."""
        if missing is not None:
            self._add(*missing)
        with self._lock:
            self._left -= 1
            last = self._left <= 0
        if last:
            self._start()

    def _add(self, index: int, file: PlannedFile) -> None:
        source, sent = _hashed(file.source)
        try:
            answered = self._work.client.add_files(self._name, [source], first_index=index)
            self._sure = self._sure and answered
        except (BadRequest, Conflict) as error:
            # An upload of a killed try may arrive late, or another try that still works was faster.
            # The key stands for names and contents, so it is the same file. A server that does not
            # list files before the start can only show this by its refusal.
            state = self._work.client.get_transaction(self._name)
            names = {folded(each.name) for each in state.source_files}
            hidden = self._resumed and not names
            there = isinstance(error, Conflict) and (folded(source.name) in names or hidden)
            if state.status is Status.NEW and not there:
                raise
            self._sure = False
            return
        if sent() != file.entry.sha256:
            # A later try must not find it either.
            self._give_up()
            raise FileChanged(
                f"The file {file.entry.name!r} changed while it was read",
                hint="It was not processed. Wait until it is complete; the next try sends it",
                transaction_id=self._name,
            )

    def _start(self) -> None:
        """Start it, which is final. If in doubt, check before that the files are there."""
        client = self._work.client
        if not self._sure:
            state = client.get_transaction(self._name)
            if state.status is not Status.NEW:
                return  # Two tries at the same time: the other was faster.
            self._check_files(state)
        try:
            client.start_transaction(self._name)
        except BadRequest as error:
            state = client.get_transaction(self._name)
            if state.status is not Status.NEW:
                return  # The other was faster by less than a look takes.
            self._check_files(state, error)
            raise
        log.info("Started transaction %s for %s", self._name, named(self._unit.sources))

    def _check_files(self, state: Transaction, error: BadRequest | None = None) -> None:
        """Give it up if it does not hold the sent files once each, so that the next try does not
        find it; ``error`` is the refusal of its start."""
        wanted = {folded(each.stored_name): each.stored_name for each in self._unit.sources}
        names = sorted(file.name for file in state.source_files)
        # Some servers do not list the files before the start. If it is refused, perhaps the
        # transaction has none of them, and a proxy answered when they were sent.
        if sorted(map(folded, names)) == sorted(wanted) or not (names or error):
            return
        self._give_up()
        strange = named([each for each in names if folded(each) not in wanted])
        raise DocumentMismatch(
            f"The transaction holds {len(names)} files, not the {len(wanted)} that were sent:"
            f" {named(sorted(wanted.values()))}" + (f"; nobody sent {strange}" if strange else ""),
            hint="It was not started and is deleted; the next try creates a new one",
            transaction_id=self._name,
            server_message=error.server_message if error else None,
        ) from None

    def _give_up(self) -> None:
        """Delete it. It was not started, so nothing was charged."""
        try:
            self._work.client.delete_transaction(self._name)
        finally:
            # Deleting takes the service minutes; no other try may continue with it meanwhile.
            with _making:
                self._work.ledger.drop([self._key])


class _Line:
    """Sends units: while some threads create the next transactions, others send files.

    Transactions are created in groups of that many, and noted group by group; none may be started
    before that. A kill in between leaves empty transactions that nobody finds again. They cost
    nothing, but there should be few: one in a task of one document, whatever its process does
    besides, and a group in a job. ``known`` is what to continue with, completed by what another try
    creates meanwhile; ``made`` is what was created and noted.
    """

    def __init__(self, work: Work, units: Mapping[str, Unit], known: _Known) -> None:
        self.made: dict[str, LedgerEntry] = {}
        self._work, self._units, self._known = work, units, known
        self._missing = deque(key for key in units if key not in known)
        #: What was created since the ledger was read. Searching the lists takes time as well.
        self._unread = 0 if work.key.since is None else _CHUNK
        self._steps: deque[Callable[[], None]] = deque()
        self._making = False
        #: Of the group: keys to create, calls that create now, and what they have created.
        self._group: deque[str] = deque()
        self._creating, self._unnoted = 0, dict[str, LedgerEntry]()
        self._ids = {entry.transaction_id for entry, _ in known.values()}
        self._failure: BaseException | None = None
        self._over = False
        self._turn = threading.Condition()
        self._resume(known)

    def _resume(self, known: _Known) -> None:
        """Add the missing files of transactions that were not started, and start them."""
        for key, (_, state) in known.items():
            if state.status is Status.NEW:
                self._add(key, state.id, state)

    def _add(self, key: str, transaction_id: str, state: Transaction | None = None) -> None:
        """Send the files of a transaction that is noted."""
        sending = Sending(self._work, key, self._units[key], transaction_id, state)
        self._steps.extend(partial(sending.send, each) for each in sending.missing or (None,))

    def run(self) -> None:
        """Send everything, or raise the first error after all calls have ended."""
        steps = len(self._steps) + sum(len(self._units[key].files) for key in self._missing)
        try:
            requesting(lambda _: self._drain(), range(steps), self._work.options.parallel)
        finally:
            self._end()  # After an interruption, nothing more begins.

    def _end(self) -> None:
        with self._turn:
            self._over = True
            self._turn.notify_all()

    def _drain(self) -> None:
        try:
            while (step := self._next()) is not None:
                step()
        except BaseException:
            self._end()
            raise

    def _next(self) -> Callable[[], None] | None:
        """Return what to do next; None if nothing is left."""
        with self._turn:
            while not self._over:
                if key := self._taken():
                    return partial(self._create, key)
                # A group is begun while there is still something to send.
                few = len(self._steps) < self._work.options.parallel
                if self._missing and few and not self._making:
                    self._making = True
                    return self._make
                if self._steps:
                    return self._steps.popleft()
                if not self._making:
                    return None
                self._turn.wait()
        return None

    def _taken(self) -> str | None:
        if self._over or not self._group:
            return None
        self._creating += 1
        return self._group.popleft()

    def _make(self) -> None:
        """Create and note a group, together with the threads that are free."""
        with _making:
            self._look()
            with self._turn:
                size = min(len(self._missing), self._work.options.parallel)
                group = [self._missing.popleft() for _ in range(size)]
                self._group.extend(group)
                self._turn.notify_all()
                key = self._taken()
            while key:
                self._create(key)
                with self._turn:
                    key = self._taken()
            with self._turn:
                self._turn.wait_for(lambda: not self._creating)
                # Later tries take them in the order of the notes.
                made = {key: self._unnoted[key] for key in group if key in self._unnoted}
                self._unnoted.clear()
            if made:  # After an error too, so that the next try finds them.
                self._work.ledger.add(made)
                _made_here.update(dict.fromkeys(made))
                while len(_made_here) > _MOST_KEYS:
                    del _made_here[next(iter(_made_here))]
        if self._failure is not None:
            raise self._failure
        with self._turn:
            for key, entry in made.items():
                self._add(key, entry.transaction_id)
            self.made |= made
            self._unread += len(made)
            self._making = False
            self._turn.notify_all()

    def _look(self) -> None:
        """Continue with what another try, or another task with the same work in this process, has
        created since the ledger was read."""
        nexts = itertools.islice(self._missing, self._work.options.parallel)
        if self._unread < _CHUNK and _made_here.keys().isdisjoint(nexts):
            return
        self._unread, missing = 0, frozenset(self._missing)
        entries = self._work.ledger.load()
        noted = {key: entry for key, entry in entries.items() if key in missing}
        theirs = _alive(self._work, self._units, noted)
        with self._turn:
            self._known |= theirs
            self._missing = deque(key for key in self._missing if key not in theirs)
            self._resume(theirs)

    def _create(self, key: str) -> None:
        try:
            name = _created(self._work, key)
            with self._turn:
                if name in self._ids:
                    raise ProtocolError(
                        "A new transaction has the id of another one",
                        hint="A proxy may have answered with an earlier reply. The next try"
                        " continues with what was started",
                        transaction_id=name,
                    )
                self._ids.add(name)
                self._unnoted[key] = self._work.entry(name, self._units[key])
        except BaseException as error:
            self._failure = self._failure or error
            self._over = True
        finally:
            with self._turn:
                self._creating -= 1
                self._turn.notify_all()


def _created(work: Work, key: str) -> str:
    """Create a transaction and return its id."""
    try:
        return work.client.create_transaction(
            work.skill_id,
            registration_parameters=keyed(work.options.registration_parameters, key),
            skill_parameters=work.options.skill_parameters,
        ).id
    except NotFound as error:
        failure = unknown_skill(work.client, work.skill_id, error)
    raise failure


def _hashed(source: SourceFile) -> tuple[SourceFile, Any]:
    """Return the source and a function that returns the SHA-256 of what was last read."""
    digests: list[Any] = []

    def open_hashed() -> BinaryIO:
        digests.append(hashlib.sha256())
        return _HashingReader(source.open(), digests[-1])  # type: ignore[return-value]

    return replace(source, open=open_hashed), lambda: digests[-1].hexdigest()


class _HashingReader:
    """Computes a digest of a file that is read once from start to end."""

    def __init__(self, stream: BinaryIO, digest: Any) -> None:
        self._stream = stream
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
