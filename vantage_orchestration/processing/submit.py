# SPDX-License-Identifier: Apache-2.0
"""Starts the transactions of a job, each once.

The order makes it safe (contract, sections 5 and 6): create, which is free; record the id; add the
files; check that they arrived, unless the service has just said so; start, after which pages are
charged. A later try continues from any point: a New transaction gets its missing files, a running
one is waited for, a processed one is collected. ``launch`` is not used: if its reply is lost, it
can't be repeated safely.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from vantage_orchestration.errors import (
    BadRequest,
    ConfigurationError,
    Conflict,
    DocumentMismatch,
    FileChanged,
    NotFound,
    ProtocolError,
)
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing.keys import keyed, unit_key
from vantage_orchestration.processing.ledger import Ledger, LedgerEntry
from vantage_orchestration.processing.lookup import find_transactions
from vantage_orchestration.processing.manifest import SourceEntry
from vantage_orchestration.processing.skills import unknown_skill
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.status import Status
from vantage_orchestration.stored import Member, Stored
from vantage_orchestration.text import identifier, named
from vantage_orchestration.upload import SourceFile, parameters

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Transaction
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.inputs import PlannedFile
    from vantage_orchestration.processing.keys import TaskKey
    from vantage_orchestration.processing.plan import Unit

log = logging.getLogger(__name__)

#: Transactions that are created before the ledger is read again.
_CHUNK = 100
#: Held by the one task of the process that creates transactions and notes them.
_making = threading.Lock()
#: Keys of what this process has made lately: the ledger has news of them for a task that read it
#: before.
_made_here: dict[str, None] = {}
_MOST_KEYS = 10_000
#: Seconds after creation during which a 404 must be repeated more often before it is believed.
_SETTLED = 60.0
_MORE_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Part(Stored):
    """A started transaction; a part of a job.

    Attributes:
        transaction_id: Its id.
        key: Its key.
        folder: Name of the folder for its results.
        created: When it was created, or found in the lists, in seconds since the epoch.
        sources: The files that were sent, as far as still known.
        landed: Whether its results have landed in an earlier try.
        earlier: Whether an earlier try has created it.
    """

    transaction_id: Annotated[str, Member(read=identifier)]
    key: str
    folder: str
    created: float
    sources: tuple[SourceEntry, ...]
    landed: bool = False
    earlier: bool = False

    @classmethod
    def of(
        cls, key: str, unit: Unit, transaction_id: str, created: float = 0.0, **state: bool
    ) -> Part:
        """Describe a unit that was sent."""
        return cls(transaction_id, key, unit.name, created, unit.sources, **state)


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
    """

    client: VantageClient
    skill_id: str
    key: TaskKey
    options: Options
    ledger: Ledger = field(default_factory=Ledger)
    origin: str = ""

    def translating(self) -> AbstractContextManager[None]:
        """Return a context that translates errors as the client does."""
        return self.client.translating()

    def entry(self, transaction_id: str, unit: Unit) -> LedgerEntry:
        """Return what the ledger records of a transaction."""
        files = tuple(file.short for file in unit.files)
        return LedgerEntry(transaction_id, time.time(), files, self.origin)


def keyed_units(work: Work, units: Iterable[Unit], scope: str | None = None) -> dict[str, Unit]:
    """Return new units by their keys, see :func:`.keys.unit_key`, by default in the newest scope of
    the task; refuse two with the same files."""
    scope = scope or work.ledger.scopes(work.key)[0]
    by_key: dict[str, Unit] = {}
    for unit in units:
        files = [(each.stored_name, str(each.sha256)) for each in unit.sources]
        key = unit_key(scope, work.skill_id, files, work.options.skill_parameters)
        if by_key.setdefault(key, unit) is not unit:
            raise ConfigurationError(
                "Two transactions would have the same files",
                hint="Leave out files that were given twice",
            )
    return by_key


def submit(
    work: Work, units: Mapping[str, Unit], *, resend_failed: bool = True
) -> tuple[Part, ...]:
    """Start a transaction for each unit, or find the one that an earlier try created; return them
    in their order.

    Recorded ones that failed or were cancelled are created again, or with ``resend_failed`` off
    returned as they are, for a caller that reports failures and then forgets them. A file that
    changed since the plan, or a server that does not hold what was sent, is an error, and its
    transaction is not started. After another error the next try finds the started ones.
    """
    parameters(work.options.skill_parameters or {}, limited=False)
    keyed(work.options.registration_parameters, "0" * 64)
    known = _known(work, units, resend_failed)
    line = _Line(work, units, known, resend_failed)
    line.run()
    entries = line.made | {key: entry for key, (entry, _) in known.items()}
    return tuple(
        Part.of(key, unit, entries[key].transaction_id, entries[key].created, earlier=key in known)
        for key, unit in units.items()
    )


# --------------------------------------------------- what exists already


def _known(
    work: Work,
    units: Mapping[str, Unit],
    resend_failed: bool,
) -> dict[str, tuple[LedgerEntry, Transaction]]:
    """Return the transactions to continue with."""
    noted, known = _noted(work, units, units, resend_failed)
    gone = noted.keys() - known.keys()
    if work.key.since is not None:
        # Failed transactions are listed as well, and ignored there too.
        ids = find_transactions(
            work.client, units.keys() - known.keys(), skill_id=work.skill_id, since=work.key.since
        )
        found = {
            each: work.entry(transaction_id, units[each]) for each, transaction_id in ids.items()
        }
        found_alive = _alive(work, found)
        _give_up_foreign(work, units, found_alive)
        if found_alive:
            work.ledger.add({each: entry for each, (entry, _) in found_alive.items()})
        known |= found_alive
        gone -= found_alive.keys()
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


def _noted(
    work: Work, units: Mapping[str, Unit], keys: Collection[str], resend_failed: bool
) -> tuple[dict[str, LedgerEntry], dict[str, tuple[LedgerEntry, Transaction]]]:
    """Return what the ledger has of these keys, and which of that to continue with."""
    noted = {key: entry for key, entry in work.ledger.load().items() if key in keys}
    known = _alive(work, noted, also_failed=not resend_failed)
    _give_up_foreign(work, units, known)
    return noted, known


def _give_up_foreign(
    work: Work, units: Mapping[str, Unit], known: dict[str, tuple[LedgerEntry, Transaction]]
) -> None:
    """Remove and delete unstarted transactions with a file that is not sent now.

    For example, an earlier try sent the file under another name, and another one of several equal
    files is chosen now.
    """
    for key, (entry, state) in list(known.items()):
        names = {each.stored_name for each in units[key].sources}
        if state.status is Status.NEW and any(
            file.name not in names for file in state.source_files
        ):
            del known[key]
            work.client.delete_transaction(entry.transaction_id)


def _alive(
    work: Work,
    entries: Mapping[str, LedgerEntry],
    *,
    also_failed: bool = False,
) -> dict[str, tuple[LedgerEntry, Transaction]]:
    def look(entry: LedgerEntry) -> Transaction | None:
        states = [_state(work.client, entry, each) for each in entry.transaction_ids]
        # Of several, continue with the one whose pages are charged.
        best = min((each for each in states if each is not None), key=_rank, default=None)
        if best is None or (best.status.is_failure and not also_failed):
            return None
        return best

    states = in_parallel(look, entries.values(), work.options.parallel)
    return {
        key: (replace(entry, transaction_id=state.id), state)
        for (key, entry), state in zip(entries.items(), states, strict=True)
        if state is not None
    }


def _state(client: VantageClient, entry: LedgerEntry, transaction_id: str) -> Transaction | None:
    # Not all machines of the service know of a new transaction at once, and one that is taken for
    # gone is sent, and charged, again.
    looks = _MORE_LOOKS if time.time() - entry.created < _SETTLED else LOOKS
    try:
        return client.get_transaction(transaction_id, looks=looks)
    except NotFound:
        return None


def _rank(transaction: Transaction) -> int:
    if transaction.status.is_failure:
        return 3
    return {Status.PROCESSED: 0, Status.NEW: 2}.get(transaction.status, 1)


# --------------------------------------------------------------- sending


def _create(work: Work, unit: Unit, key: str) -> LedgerEntry:
    try:
        transaction = work.client.create_transaction(
            work.skill_id,
            registration_parameters=keyed(work.options.registration_parameters, key),
            skill_parameters=work.options.skill_parameters,
        )
    except NotFound as error:
        failure = unknown_skill(work.client, work.skill_id, error)
    else:
        return work.entry(transaction.id, unit)
    raise failure


class _Sending:
    """The upload of one unit. The thread that adds its last file starts it.

    Attributes:
        sure: Whether it needs no look before the start: this try has created it, and its only file
            was accepted at once. If the service has not got the file after all, it refuses the
            start. Of several files it would not miss one.
    """

    def __init__(
        self, key: str, unit: Unit, transaction_id: str, state: Transaction | None = None
    ) -> None:
        self.key = key
        self.unit = unit
        self.transaction_id = transaction_id
        self.resumed = state is not None
        self.given_up = False
        self.sure = state is None and len(unit.files) == 1
        there = {file.name for file in state.source_files} if state is not None else set()
        self.missing = [
            (index, file)
            for index, file in enumerate(unit.files)
            if file.entry.stored_name not in there
        ]
        self._left = len(self.missing)
        self._lock = threading.Lock()

    def give_up(self, client: VantageClient) -> None:
        """Delete the transaction. It was not started, so nothing was charged."""
        self.given_up = True
        client.delete_transaction(self.transaction_id)

    def one_arrived(self) -> bool:
        """Count a file; return whether it was the last."""
        with self._lock:
            self._left -= 1
            return self._left <= 0


class _Line:
    """Sends units with as many threads as requests may run at a time, none of which waits for the
    others: while some create the next transactions, others send files.

    Transactions are created in groups of that many, and noted group by group; none may be started
    before that. A kill in between leaves empty transactions that nobody finds again. They cost
    nothing, but there should be few: one in a task of one document, whatever its process does
    besides, and a group in a job. ``known`` is what to continue with, completed by what another try
    creates meanwhile; ``made`` is what was created and noted.
    """

    def __init__(
        self,
        work: Work,
        units: Mapping[str, Unit],
        known: dict[str, tuple[LedgerEntry, Transaction]],
        resend_failed: bool,
    ) -> None:
        self.made: dict[str, LedgerEntry] = {}
        self._work, self._units, self._known = work, units, known
        self._resend_failed = resend_failed
        self._missing = deque(key for key in units if key not in known)
        #: What was created since the ledger was read. Searching the lists takes time as well.
        self._unread = 0 if work.key.since is None else _CHUNK
        self._sendings: list[_Sending] = []
        self._steps: deque[tuple[_Sending, tuple[int, PlannedFile] | None]] = deque()
        self._making = False
        #: Of the group: keys to create, calls that create now, and what they have created.
        self._group: deque[str] = deque()
        self._creating, self._unnoted = 0, dict[str, LedgerEntry]()
        self._ids = {entry.transaction_id for entry, _ in known.values()}
        self._failure: BaseException | None = None
        self._over = False
        self._turn = threading.Condition()
        self._resume(known)

    def _resume(self, known: Mapping[str, tuple[LedgerEntry, Transaction]]) -> None:
        """Add the missing files of transactions that were not started, and start them."""
        for key, (_, state) in known.items():
            if state.status is Status.NEW:
                self._add(_Sending(key, self._units[key], state.id, state))

    def _add(self, sending: _Sending) -> None:
        """Send the files of a transaction that is noted."""
        self._sendings.append(sending)
        self._steps.extend((sending, each) for each in (tuple(sending.missing) or (None,)))

    def run(self) -> None:
        """Send everything, or raise the first error after all calls have ended."""
        steps = len(self._steps) + sum(len(self._units[key].files) for key in self._missing)
        threads = range(min(self._work.options.parallel, steps))
        try:
            in_parallel(lambda _: self._drain(), threads, len(threads))
        finally:
            self._end()  # After an interruption, nothing more begins.
            if given_up := [each.key for each in self._sendings if each.given_up]:
                # Deleting takes the service minutes; no other try may continue with them meanwhile.
                self._work.ledger.drop(given_up)

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
                    return partial(self._send, *self._steps.popleft())
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
                self._add(_Sending(key, self._units[key], entry.transaction_id))
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
        _, theirs = _noted(self._work, self._units, missing, self._resend_failed)
        with self._turn:
            self._known |= theirs
            self._missing = deque(key for key in self._missing if key not in theirs)
            self._resume(theirs)

    def _create(self, key: str) -> None:
        try:
            entry = _create(self._work, self._units[key], key)
            with self._turn:
                if entry.transaction_id in self._ids:
                    raise ProtocolError(
                        "A new transaction has the id of another one",
                        hint="A proxy may have answered with an earlier reply. The next try"
                        " continues with what was started",
                        transaction_id=entry.transaction_id,
                    )
                self._ids.add(entry.transaction_id)
                self._unnoted[key] = entry
        except BaseException as error:
            self._failure = self._failure or error
            self._over = True
        finally:
            with self._turn:
                self._creating -= 1
                self._turn.notify_all()

    def _send(self, sending: _Sending, missing: tuple[int, PlannedFile] | None) -> None:
        if missing is not None:
            _add(self._work, sending, *missing)
        if sending.one_arrived():
            _start(self._work, sending)


def _add(work: Work, sending: _Sending, index: int, file: PlannedFile) -> None:
    source, sent = _hashed(file.source)
    try:
        answered = work.client.add_files(sending.transaction_id, [source], first_index=index)
        sending.sure = sending.sure and answered
    except (BadRequest, Conflict) as error:
        # An upload of a killed try may arrive late, or another try that still works was faster. The
        # key stands for names and contents, so it is the same file. A server that does not list
        # files before the start can only show this by its refusal.
        state = work.client.get_transaction(sending.transaction_id)
        names = {each.name for each in state.source_files}
        hidden = sending.resumed and not names
        there = isinstance(error, Conflict) and (source.name in names or hidden)
        if state.status is Status.NEW and not there:
            raise
        sending.sure = False
        return
    if sent() != file.entry.sha256:
        # A later try must not find it either.
        sending.give_up(work.client)
        raise FileChanged(
            f"The file {file.entry.name!r} changed while it was read",
            hint="It was not processed. Wait until it is complete; the next try sends it",
            transaction_id=sending.transaction_id,
        )


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


def _check_files(
    work: Work, sending: _Sending, state: Transaction, error: BadRequest | None = None
) -> None:
    """Give up a transaction that does not hold the sent files once each, so that the next try does
    not find it; ``error`` is the refusal of its start."""
    wanted = sorted(each.stored_name for each in sending.unit.sources)
    names = sorted(file.name for file in state.source_files)
    # Some servers do not list the files before the start. If it is refused, perhaps the transaction
    # has none of them, and a proxy answered when they were sent.
    if names == wanted or not (names or error):
        return
    sending.give_up(work.client)
    strange = named([each for each in names if each not in wanted])
    raise DocumentMismatch(
        f"The transaction holds {len(names)} files, not the {len(wanted)} that were sent:"
        f" {named(wanted)}" + (f"; nobody sent {strange}" if strange else ""),
        hint="It was not started and is deleted; the next try creates a new one",
        transaction_id=sending.transaction_id,
        server_message=error.server_message if error else None,
    ) from None


def _start(work: Work, sending: _Sending) -> None:
    """Start a transaction, which is final. If in doubt, check before that the files are there."""
    client, name = work.client, sending.transaction_id
    if not sending.sure:
        state = client.get_transaction(name)
        if state.status is not Status.NEW:
            return  # Two tries at the same time: the other was faster.
        _check_files(work, sending, state)
    try:
        client.start_transaction(name)
    except BadRequest as error:
        state = client.get_transaction(name)
        if state.status is not Status.NEW:
            return  # The other was faster by less than a look takes.
        _check_files(work, sending, state, error)
        raise
    log.info("Started transaction %s for %s", name, named(sending.unit.sources))


def _after_fork() -> None:
    global _making
    _making = threading.Lock()  # A thread that is not here any more may hold the old one.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
