# SPDX-License-Identifier: Apache-2.0
"""A job: files in, a folder with results and a manifest out. Both orchestrators run it.

It has two parts, since the worker may be released while ABBYY Vantage works: :func:`begin` starts
the transactions, :func:`finish` collects those that have ended. In between the output folder
contains ``submitted.json``; at the end it contains ``manifest.json`` and a folder per transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

from vantage_orchestration import arguments
from vantage_orchestration.errors import (
    ConfigurationError,
    Forbidden,
    JobLost,
    NotFound,
    VantageError,
    translated,
)
from vantage_orchestration.parallel import requesting
from vantage_orchestration.processing.collect import collect, fetch, landed, landed_in
from vantage_orchestration.processing.files import check_folders, check_output, check_quarantine
from vantage_orchestration.processing.inputs import inspect_beside
from vantage_orchestration.processing.ledger import FOLDER, LedgerEntry
from vantage_orchestration.processing.manifest import (
    Manifest,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.processing.names import SUBMITTED, folded
from vantage_orchestration.processing.page_numbers import listed_as_completed
from vantage_orchestration.processing.pages import check_pages
from vantage_orchestration.processing.plan import Unit, plan
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.processing.skills import names_of_skills, skill_of
from vantage_orchestration.processing.submit import Part, Work, keyed_units, submit
from vantage_orchestration.retrying import LOOKS
from vantage_orchestration.state import FolderStore, read_value, write_value
from vantage_orchestration.status import Status
from vantage_orchestration.stored import Member, StoredFile
from vantage_orchestration.tables.job import complete
from vantage_orchestration.waiting.machine import Outcome

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import ListedTransaction, Skill, Transaction
    from vantage_orchestration.options import Options
    from vantage_orchestration.storage import Location

log = logging.getLogger(__name__)

_NO_OUTCOME = Outcome({})


@dataclass(frozen=True, slots=True)
class Job(StoredFile):
    """A job whose transactions have been started: the content of ``submitted.json``.

    Attributes:
        token: Distinguishes this job from others that write into the same folder; None if there can
            be no other.
        parts: Its transactions.
        skill: Name of its skill, if it is known.
    """

    version = 1
    file = SUBMITTED

    token: Annotated[str | None, Member("job")]
    parts: Annotated[tuple[Part, ...], Member("transactions", needed=True)] = ()
    skill: str | None = None

    @property
    def transaction_ids(self) -> list[str]:
        """Ids of the transactions to wait for."""
        return [part.transaction_id for part in self.parts if not part.landed]


def job_token(scope: str, piece: str = "") -> str:
    """Return an identifier of a job: of a task in its run, and of an instance of it (a map
    index)."""
    return f"{hashlib.sha256(scope.encode()).hexdigest()[:24]}.{piece}"


# ----------------------------------------------------------------- sending


@translated
def submit_files(
    work: Work, inputs: Iterable[Location], *, most: int | None = None
) -> tuple[Part, ...]:
    """Start the transactions of some files, each once, see :func:`.submit.submit`. Globs in the
    inputs are already resolved.

    Nothing is sent if a file or parameter is invalid, or if more than ``most`` transactions would
    be needed.
    """
    units, _ = _planned(work, list(inputs))
    if most is not None and len(units) > most:
        raise ConfigurationError(
            f"The files need {len(units)} transactions, not {most}",
            hint="Only a Process skill accepts several files in one transaction",
        )
    if work.options.max_pages is not None:
        check_pages(units.values(), work.options.max_pages)
    return submit(work, units)


@translated
def begin(work: Work, inputs: Iterable[Location], output: Location, *, token: str) -> Job:
    """Start the transactions of a job, each once, and record them in the output folder, which
    belongs to this job alone.

    Files whose results have landed in an earlier try are not sent, even if their transactions were
    deleted since. Nothing is sent if a file, a parameter or the output is invalid. See
    :func:`.submit.submit` for other errors.
    """
    check_output(output)
    files, options = list(inputs), work.options
    check_quarantine(options.quarantine_path, output, files)
    manifest, earlier = Manifest.load(output), Job.load(output)
    before = _Earlier(output, manifest)
    units, skill = _planned(work, files, before)
    _claim(output, token, units.keys())
    check_folders(output, (unit.name for unit in units.values()))
    # Find an unwritable output before pages are charged. An existing file stays: an earlier try may
    # still be collecting, and must not find an empty job.
    (earlier if earlier is not None and earlier.token == token else Job(token)).write(output)
    there = before.of(units, units.values())
    missing = {each: unit for each, unit in units.items() if each not in there}
    if options.max_pages is not None:
        known = sum(entry.pages or 0 for entry in there.values())
        check_pages(missing.values(), options.max_pages, known)
    parts = {
        key: Part(entry.transaction_id, key, entry.folder, 0.0, units[key].sources, True, True)
        for key, entry in there.items()
    }
    parts |= {each.key: each for each in submit(work, missing)}
    job = Job(token, tuple(parts[key] for key in units), None if skill is None else skill.name)
    job.write(output)
    return job


def _planned(
    work: Work, inputs: Sequence[Location], landed: _Earlier | None = None
) -> tuple[dict[str, Unit], Skill | None]:
    """Return the units by their keys, and the skill. Files that earlier tries sent together stay
    together."""
    options, ledger = work.options, work.ledger
    if options.max_files is not None and len(inputs) > options.max_files:
        raise ConfigurationError(
            f"There are {len(inputs)} files, and max_files is {options.max_files}",
            hint="Nothing was sent. Give fewer inputs, or raise the limit",
        )
    skill, seen = inspect_beside(lambda: _skill(work), inputs)
    # One file each is right for all skills.
    process_skill = skill is not None and skill.type == "Process"
    while True:
        entries = ledger.load()
        keys = [key for key, entry in entries.items() if entry.files]
        units = plan(
            seen,
            process_skill=process_skill,
            duplicates=options.duplicates,
            known=[entries[key].files for key in keys],
        )
        # None of its files is left, and the task was given other inputs, so it belongs to another
        # task. That happens if a cleared run is mapped over more files than before.
        units = tuple(
            unit
            for unit in units
            if unit.known is None or unit.files or entries[keys[unit.known]].origin == work.origin
        )
        known = {keys[unit.known]: unit for unit in units if unit.known is not None}
        there = landed.of(known, units) if landed is not None else {}
        lost = [
            key
            for key, unit in known.items()
            if unit.missing
            and key not in there
            and not _was_started(work.client, entries[key], also_failed=not work.resend_failed)
        ]
        if not lost:
            break
        # The unit can't be completed. Its remaining files are planned again.
        ledger.drop(lost)
    new = [unit for unit in units if unit.known is None]
    keys = list(keyed_units(work, new))
    if landed is not None:
        for scope in work.ledger.scopes(work.key)[1:]:
            # What has landed before the work was undone keeps its key, and is not sent again.
            before = keyed_units(work, new, scope)
            kept = landed.of(before, units)
            keys = [old if old in kept else key for old, key in zip(before, keys, strict=True)]
    return {**known, **dict(zip(keys, new, strict=True))}, skill


def _skill(work: Work) -> Skill | None:
    """Return the skill; None to one who may not look at it, but may still use it."""
    try:
        skill = skill_of(work.client, work.skill_id)
    except Forbidden:
        return None
    if skill.type == "Classification" and work.options.result_types:
        raise ConfigurationError(
            f"The skill {skill.name!r} is a Classification skill, which creates no result files",
            hint="Nothing was sent. Leave result_types out; the manifest names the class of each"
            " document",
        )
    return skill


def _was_started(client: VantageClient, entry: LedgerEntry, *, also_failed: bool) -> bool:
    started = False
    # Check all of them, so that none that can't be completed is left behind.
    for each in entry.transaction_ids:
        with contextlib.suppress(NotFound):
            status = client.get_transaction(each).status
            if status is Status.NEW:
                client.delete_transaction(each)
            else:
                started = started or also_failed or not status.is_failure
    return started


def _claim(output: Location, token: str, keys: Collection[str]) -> None:
    """Claim a folder for a job, or refuse it if another instance of the same task writes into it.

    Each instance writes its claim before it reads those of others. So of instances that begin at
    the same moment at most one continues, and none sends what would not land.
    """
    task, _, piece = token.rpartition(".")
    claims, folder = FolderStore(output.child(FOLDER)), f"job-{task}"

    def claimed(name: str) -> set[str]:
        return read_value(claims, name, set) or set()

    before = claimed(own := f"{folder}/{piece}.json")
    if before and before == set(keys):
        return
    write_value(claims, own, sorted(keys))
    others = [name for name in claims.names(folder) if name != own]
    # An instance with the same work is this one, before other files were added to the run.
    same = all(claimed(name) <= set(keys) for name in others)
    for name in others if same else [] if before else [own]:
        claims.delete(name)
    if not same:
        raise ConfigurationError(
            f"Two instances of the task write into the same folder {output}",
            hint="Give each a folder of its own: mapped ones can put their map index into its name,"
            " such as {{ ti.map_index }} in Airflow",
        )


class _Earlier:
    """Results that earlier tries have left in the folder of a job. Each is read once."""

    def __init__(self, output: Location, manifest: Manifest | None) -> None:
        self._output = output
        self._read: dict[str, TransactionManifest | None] = {}
        self._folders = {
            entry.key: entry.folder
            for entry in (manifest.transactions if manifest is not None else ())
            if entry.key and entry.folder
        }

    def of(
        self, wanted: Mapping[str, Unit], planned: Iterable[Unit]
    ) -> dict[str, TransactionManifest]:
        """Return the existing results by key, each with its folder. The folder of a planned unit
        belongs to no other unit."""
        names = {folded(unit.name) for unit in planned}
        found = {}
        for key, unit in wanted.items():
            # Its name was different before a file of the same name was added.
            folders = [unit.name]
            if (before := self._folders.get(key)) and folded(before) not in names:
                folders.append(before)
            for folder in folders:
                if folder not in self._read:
                    self._read[folder] = landed_in(self._output, folder)
                if (entry := self._read[folder]) is not None and entry.key == key:
                    found[key] = entry
                    break
        return found


# -------------------------------------------------------------- collecting


def fetch_ahead(
    client: VantageClient, output: Output, options: Options, *, token: str
) -> Callable[[Mapping[str, Transaction], float], None]:
    """Return a function that downloads the results of a job in the pauses of the wait for the
    others; :func:`finish` finds them.

    It gets what was processed, and downloads what it has not tried before. It begins nothing after
    so many seconds, or after an error: :func:`finish` tries again, and raises it.
    """
    begun: set[str] = set()

    def ahead(processed: Mapping[str, Transaction], seconds: float) -> None:
        if processed.keys() <= begun:
            return
        end = time.monotonic() + seconds
        writers, share = _shared(options, output.folder, len(processed))

        def download(part: Part) -> None:
            if time.monotonic() < end:
                begun.add(part.transaction_id)
                fetch(client, processed[part.transaction_id], output, part, share)

        try:
            job = Job.load(output.folder)
            if job is not None and job.token == token:
                wanted = processed.keys() - begun
                parts = [part for part in job.parts if part.transaction_id in wanted]
                requesting(download, parts, writers)
        except Exception as error:
            log.debug("Results are downloaded later: %s", type(error).__name__)

    return ahead


def _shared(options: Options, output: Location, transactions: int) -> tuple[int, Options]:
    """Return how many transactions to write at a time, and the options for each."""
    at_once = max(1, min(options.parallel, transactions))
    share = replace(options, parallel=max(1, options.parallel // at_once))
    return options.parallel if output.concurrent else 1, share


@translated
def finish(
    work: Work,
    output: Output,
    *,
    token: str,
    outcome: Outcome = _NO_OUTCOME,
    on_landed: Callable[[TransactionManifest], object] = lambda entry: None,
) -> Manifest:
    """Collect what was processed, and write the manifest, which also names failed and unfinished
    transactions.

    Failed ones are removed from the ledger, so that the next try creates them again. What the
    ``outcome`` of the wait shows as processed is not read again. ``on_landed`` gets each
    transaction whose results have landed, in any thread. If the folder no longer holds this job, it
    is JobLost.
    """
    job = Job.load(output.folder)
    if job is None or job.token != token:
        raise JobLost(
            f"The folder {output.folder} no longer holds the job that this task has begun",
            hint="Another task or run writes into it, or somebody cleared it. Give each run its"
            " own folder; the next try continues with the transactions",
        )
    manifest = _collect(
        work.client,
        job,
        output,
        work.options,
        outcome,
        skill_id=work.skill_id,
        on_landed=on_landed,
    )
    failed = {each.transaction_id for each in manifest.failed}
    if failed:
        work.ledger.drop([part.key for part in job.parts if part.transaction_id in failed])
    if not manifest.pending:
        output.folder.child(SUBMITTED).remove()
    return manifest


@translated
def download(
    client: VantageClient, transaction_ids: Any, output: Output, options: Options
) -> Manifest:
    """Collect the results of some transactions, each in a folder named by its id, and return the
    manifest, which also names failed and unfinished ones."""
    ids = arguments.transaction_ids(transaction_ids)
    check_output(output.folder)
    check_quarantine(options.quarantine_path, output.folder)
    there = {each: landed_in(output.folder, each, each) is not None for each in ids}
    parts = tuple(Part(each, folder=each, landed=there[each], earlier=there[each]) for each in ids)
    return _collect(client, Job(None, parts), output, options, _NO_OUTCOME)


def _collect(
    client: VantageClient,
    job: Job,
    output: Output,
    options: Options,
    outcome: Outcome,
    *,
    skill_id: str | None = None,
    on_landed: Callable[[TransactionManifest], object] = lambda entry: None,
) -> Manifest:
    parts, folder = job.parts, output.folder

    def gather(part: Part) -> TransactionManifest:
        transaction = states[part.transaction_id]
        if transaction is None:
            entry = there[part.transaction_id]  # It landed earlier and was deleted since.
        else:
            row = rows.get(part.transaction_id.lower())
            entry = collect(client, transaction, output, part, share, row=row, skill_id=skill_id)
        on_landed(entry)
        return entry

    def delete(entry: TransactionManifest) -> None:
        if entry.transaction_id not in there and landed(entry, folder.child(entry.folder)):
            client.delete_transaction(entry.transaction_id)

    writers, share = _shared(options, folder, len(parts))
    states = _states(client, parts, outcome.processed, options.parallel)
    there = {
        part.transaction_id: entry
        for part in parts
        if states[part.transaction_id] is None
        and (entry := landed_in(folder, part.folder, part.transaction_id))
    }
    reviewed = {each.lower() for each in outcome.in_review}
    good, failed, pending = list[Part](), list[UnfinishedEntry](), list[UnfinishedEntry]()
    for part in parts:
        name, state = part.transaction_id, states[part.transaction_id]
        if name in there or (state is not None and state.status.is_success):
            good.append(part)
        elif state is None:
            failed.append(UnfinishedEntry(name, Status.GONE.value, sources=part.sources))
        else:
            rest = UnfinishedEntry.of(name, state, part.sources)
            rest = replace(rest, in_review=rest.in_review or name.lower() in reviewed)
            (failed if state.status.is_failure else pending).append(rest)
    rows = _rows(client, [each for each in good if not each.landed], skill_id)
    entries = tuple(_in_turns(gather, good, writers))
    earlier = sum(part.earlier for part in parts)
    manifest = Manifest(
        skill_id, job.token, entries, tuple(pending), tuple(failed), earlier=earlier
    )
    if skill_id is None:
        names = names_of_skills(client, manifest.skill_ids)
    else:
        names = {skill_id: job.skill} if job.skill else {}
    manifest = replace(manifest, skill_names=names)
    manifest = complete(client, manifest, folder, options)
    manifest.write(folder)
    if options.delete_after:
        # Only now, so that a try after a kill can still fetch everything.
        requesting(delete, entries, writers)
    return manifest


def _in_turns(
    gather: Callable[[Part], TransactionManifest], parts: Sequence[Part], threads: int
) -> list[TransactionManifest]:
    """Gather in parallel. What has landed in the pauses of the wait takes computing, the rest
    waiting: the order mixes both."""
    step = max(1, -(-len(parts) // threads))
    turns = [number for start in range(step) for number in range(start, len(parts), step)]
    found = requesting(lambda number: gather(parts[number]), turns, threads)
    return [entry for _, entry in sorted(zip(turns, found, strict=True), key=itemgetter(0))]


def _states(
    client: VantageClient,
    parts: Sequence[Part],
    processed: Mapping[str, Transaction],
    parallel: int,
) -> dict[str, Transaction | None]:
    """Return what the service says of each transaction; None of one that does not exist."""
    seen = {each.lower(): transaction for each, transaction in processed.items()}

    def look(part: Part) -> Transaction | None:
        if (transaction := seen.get(part.transaction_id.lower())) is not None:
            return transaction
        try:
            # A landed transaction may have been deleted since.
            looks = 1 if part.landed else LOOKS
            return client.get_transaction(part.transaction_id, looks=looks)
        except NotFound:
            return None

    found = requesting(look, parts, parallel)
    return {part.transaction_id: state for part, state in zip(parts, found, strict=True)}


def _rows(
    client: VantageClient, parts: Sequence[Part], skill_id: str | None
) -> Mapping[str, ListedTransaction]:
    """Return the list entries with pages and times. Results are valid without them."""
    try:
        return listed_as_completed(client, parts, skill_id=skill_id)
    except VantageError as error:
        log.warning("The numbers of pages are unknown: %s", error)
        return {}
