# SPDX-License-Identifier: Apache-2.0
"""Lines for the log of a task: the transactions it has started, and one line at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vantage_orchestration.processing.names import UNCLASSIFIED
from vantage_orchestration.status import Status
from vantage_orchestration.text import clean, counted, named, shortened

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import Manifest, UnfinishedEntry
    from vantage_orchestration.processing.submit import Part
    from vantage_orchestration.waiting.machine import Outcome

#: Transactions named in lines; the rest is counted.
_LINES = 20


def files_by_id(parts: Iterable[Part]) -> dict[str, str]:
    """Return for each transaction of a job the names of its files, as :func:`.text.named` does."""
    return {part.transaction_id: named(part.sources) for part in parts if part.sources}


def lines_of_start(parts: Sequence[Part]) -> Iterator[str]:
    """Yield a line with id and files for each transaction that was started or found."""
    for part in parts[:_LINES]:
        files = f" for {named(part.sources)}" if part.sources else ""
        if part.landed:
            yield f"The results of transaction {part.transaction_id}{files} are there already"
        elif part.earlier:
            yield f"Continuing with transaction {part.transaction_id} of an earlier try{files}"
        else:
            yield f"Started transaction {part.transaction_id}{files}"
    if len(parts) > _LINES:
        yield f"... and {len(parts) - _LINES} more transactions"


def summary_of_start(parts: Sequence[Part]) -> str:
    """Return the last line of a task that has started transactions."""
    files = sum(len(part.sources) for part in parts)
    transactions = counted(len(parts), "transaction", "transactions")
    text = f"{counted(files, 'file', 'files')} in {transactions}"
    return f"{text}{_earlier(sum(part.earlier for part in parts))}"


def summary_of_wait(outcome: Outcome) -> str:
    """Return the last line of a task that has waited."""
    total = len(outcome.statuses)
    done = (
        f"{total - len(outcome.open)} of {counted(total, 'transaction has', 'transactions have')}"
    )
    text = f"{done} ended"
    failed = [each for each, status in outcome.statuses.items() if status.is_failure]
    for ids, what in ((failed, "failed"), (outcome.in_review, "in review")):
        if ids:
            names = shortened(ids, lambda each: outcome.files.get(each, each))
            text += f"; {len(ids)} {what}: {names}"
    return text


def summary(manifest: Manifest, place: str, literal: Callable[[str], str] = str) -> str:
    """Return the last line of a task that has fetched results: numbers, their location, classes and
    skills, failures with reasons, reviews, and how many transactions an earlier try had started.

    Args:
        manifest: The results.
        place: Path or URL of their folder; empty to leave it out.
        literal: Escapes texts that come from outside, for a page in another format than text.
    """
    counts = manifest.counts
    transactions = counted(counts["transactions"], "transaction", "transactions")
    text = (
        f"{counted(counts['documents'], 'document', 'documents')} with"
        f" {counted(counts['pages'], 'page', 'pages')} of {transactions}"
        f"{f' in {literal(place)}' if place else ''}"
    )
    if _classified(manifest):
        text += f"; by class: {_numbers(manifest.by_class, literal)}"
    text = "; ".join((text, *pages_of(manifest, literal)))
    for name, one, many in (
        ("rule_errors", "broken rule", "broken rules"),
        ("low_quality", "not good enough", "not good enough"),
        ("quarantined", "file copied to the quarantine", "files copied to the quarantine"),
    ):
        if counts[name]:
            text += f"; {counted(counts[name], one, many)}"
    reviews = manifest.in_review
    late = [each for each in manifest.pending if not each.in_review]
    for entries, what in (
        (manifest.failed, "failed"),
        (reviews, "in review"),
        (late, "not ended"),
    ):
        if entries:
            told = shortened(entries, lambda each: literal(_told(each)))
            text += f"; {len(entries)} {what}: {told}"
    return text + _earlier(manifest.earlier)


def pages_of(manifest: Manifest, literal: Callable[[str], str] = str) -> list[str]:
    """Return the pages by skill and, if documents have classes, by class."""
    kinds = [("skill", manifest.pages_by_skill)] if manifest.transactions else []
    kinds += [("class", manifest.pages_by_class)] if _classified(manifest) else []
    return [f"pages by {what}: {_numbers(found, literal)}" for what, found in kinds]


def _classified(manifest: Manifest) -> bool:
    return bool(manifest.by_class.keys() - {UNCLASSIFIED})


def _numbers(found: Mapping[str, int], literal: Callable[[str], str]) -> str:
    return ", ".join(f"{literal(clean(name))} {number}" for name, number in found.items())


def _told(entry: UnfinishedEntry) -> str:
    """Return the files of a transaction without results, and the reason."""
    names = named(entry.sources) or f"transaction {entry.transaction_id}"
    status = Status(entry.status)
    if entry.error is not None:
        return f"{names} ({entry.error})"
    if status is Status.GONE:
        return f"{names} (deleted)"
    return f"{names} (cancelled)" if status is Status.CANCELED else names


def _earlier(number: int) -> str:
    return f"; {number} found from an earlier try" if number else ""
