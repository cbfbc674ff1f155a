# SPDX-License-Identifier: Apache-2.0
"""Evaluates the end of a wait: results, a failure, or a person who is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import (
    LowQuality,
    ReviewNeeded,
    RulesBroken,
    TransactionCanceled,
    TransactionFailed,
    VantageError,
    WaitTimeout,
)
from vantage_orchestration.processing.names import MANIFEST
from vantage_orchestration.status import Status
from vantage_orchestration.text import clean, counted, named, shortened
from vantage_orchestration.waiting.machine import Outcome

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.manifest import Manifest, UnfinishedEntry
    from vantage_orchestration.storage import Location

#: Transactions or documents named in an error, and broken rules of each; the rest is counted.
_SHOWN = 5
_RULES = 3


def outcome_of(manifest: Manifest, timed_out: str | None = None) -> Outcome:
    """Return the outcome described by a manifest that was written after the wait. A reached limit
    is ignored if all have ended since."""
    rest = [*manifest.pending, *manifest.failed]
    landed = [each.transaction_id for each in manifest.transactions]
    late = [each for each in manifest.pending if not each.in_review]
    if late and timed_out is None:
        timed_out = f"{counted(len(late), 'transaction has', 'transactions have')} not ended"
    return Outcome(
        {
            **dict.fromkeys(landed, Status.PROCESSED),
            **{each.transaction_id: Status(each.status) for each in rest},
        },
        tuple(each.transaction_id for each in manifest.pending if each.in_review),
        timed_out if manifest.pending else None,
        details={each.transaction_id: each for each in rest},
    )


def check_outcome(
    outcome: Outcome,
    *,
    on_review: str = "return",
    on_failed: str = "fail",
    client: VantageClient | None = None,
) -> None:
    """Raise the error for the outcome of a task, if there is one. The client reads files and
    reasons that the outcome lacks, for the error's text."""
    kind: type[VantageError]
    canceled = outcome.with_status(Status.CANCELED)
    count = len(outcome.statuses)
    if on_failed == "fail" and (ids := outcome.with_status(Status.FAILED, Status.GONE)):
        gone = outcome.with_status(Status.GONE)
        verbs = ["failed"] * (len(gone) < len(ids)) + ["do not exist"] * bool(gone)
        kind, what = TransactionFailed, f"{len(ids)} of {count} transactions {' or '.join(verbs)}"
        if canceled:
            what += f" (and {counted(len(canceled), 'was', 'were')} cancelled)"
        hint = (
            "Their pages may have been charged, so they are not sent again automatically. Check"
            " files and skill, then clear or run the task again; only these are sent again"
        )
        if gone:
            hint += (
                ". What does not exist was deleted, or was sent to another server or tenant than"
                " this credential's"
            )
    elif on_failed == "fail" and (ids := canceled):
        kind = TransactionCanceled
        what = f"{len(ids)} of {count} transactions were cancelled in ABBYY Vantage"
        hint = "Clear or run the task again to send these again"
    elif outcome.in_review and on_review == "fail":
        # Checked before a limit: others may not have ended, since the wait stopped at the first
        # review.
        ids = list(outcome.in_review)
        kind = ReviewNeeded
        what = f"{counted(len(ids), 'transaction waits', 'transactions wait')} for a manual review"
        hint = (
            "Review them in ABBYY Vantage, then clear or run the task again; it continues from"
            " there"
        )
    elif outcome.timed_out is not None:
        ids = outcome.open
        kind, what = WaitTimeout, outcome.timed_out
        hint = (
            "ABBYY Vantage continues, and the next try finds them again. Manual reviews are done"
            " in ABBYY Vantage"
        )
    else:
        return
    details = dict(outcome.details)
    if client is not None:
        from vantage_orchestration.processing.manifest import UnfinishedEntry

        for each in ids[:_SHOWN]:
            if each not in details:
                with contextlib.suppress(VantageError):  # The message does without it.
                    details[each] = UnfinishedEntry.of(each, client.get_transaction_once(each))
    alone = details.get(ids[0]) if len(ids) == 1 else None
    raise kind(
        what + _told(ids, outcome.statuses, details),
        hint=hint,
        transaction_id=ids[0] if ids else None,
        server_message=alone.error if alone is not None else None,
    )


def _told(
    ids: Sequence[str], statuses: Mapping[str, Status], details: Mapping[str, UnfinishedEntry]
) -> str:
    """Return the documents and the service's reasons, after a colon."""

    def told(each: str) -> str:
        entry = details.get(each)
        names = named(entry.sources) if entry is not None else ""
        text = f"{names} (transaction {each})" if names else f"transaction {each}"
        if statuses.get(each) is Status.GONE:
            text += " does not exist"
        if entry is not None and entry.error is not None and len(ids) > 1:
            text += f' failed with "{entry.error}"'
        return text

    return f": {shortened(ids, told, most=_SHOWN, between='; ')}" if ids else ""


def final_result(
    manifest: Manifest,
    output: Location,
    options: Options,
    *,
    on_review: str = "fail",
    timed_out: str | None = None,
) -> dict[str, Any]:
    """Return the result of a task that has landed results, or raise what is wrong with them."""
    outcome = outcome_of(manifest, timed_out)
    check_outcome(outcome, on_review=on_review, on_failed=options.on_failed)
    result = result_of(manifest, output.child(MANIFEST))
    check_quality(manifest, result["manifest"], options)
    return result


def result_of(manifest: Manifest, place: Location | None) -> dict[str, Any]:
    """Return the result of a task: ``manifest`` (its URL, None if there is none) and the counts."""
    return {
        "manifest": None if place is None else place.url,
        **manifest.counts,
        "by_class": manifest.by_class,
        "pages_by_class": manifest.pages_by_class,
        "pages_by_skill": manifest.pages_by_skill,
    }


def check_quality(manifest: Manifest, place: str, options: Options) -> None:
    """Raise if documents are not good enough and the task is set to fail in that case. The results
    have landed."""
    if options.on_low_quality != "fail":
        return
    if options.fail_on_rule_errors:
        check_rules(manifest, place)
    found: dict[tuple[str, int], list[str]] = {}
    for each in manifest.findings:
        text = f"{each.field}: {each.reason}" if each.field else each.reason
        found.setdefault((each.transaction_id, each.document_index), []).append(text)
    if found:
        raise LowQuality(
            _documents(manifest, found, "are not good enough"),
            hint=f"The results have landed; {place} names all findings. To continue with them, set"
            " on_low_quality to flag or quarantine",
        )


def check_rules(manifest: Manifest, place: str) -> None:
    """Raise RulesBroken if a document breaks a business rule. The results have landed."""
    broken = {
        (entry.transaction_id, number): [
            str(each["message"] or each["type"] or "no reason") for each in document.rule_errors
        ]
        for entry in manifest.transactions
        for number, document in enumerate(entry.documents, 1)
        if document.rule_errors
    }
    if broken:
        raise RulesBroken(
            _documents(manifest, broken, "break business rules"),
            hint=f"The results have landed; {place} names all rules",
        )


def _documents(manifest: Manifest, found: Mapping[tuple[str, int], list[str]], what: str) -> str:
    """Return a sentence about documents, given by transaction and number, with what was said of
    each."""
    entries = {each.transaction_id: each for each in manifest.transactions}

    def told(document: tuple[tuple[str, int], list[str]]) -> str:
        (transaction_id, number), said = document
        entry = entries[transaction_id]
        which = f"document {number} of " if len(entry.documents) > 1 else ""
        name = named(entry.sources) or transaction_id
        return f"{which}{name}: {shortened(said, clean, most=_RULES)}"

    texts = shortened(list(found.items()), told, most=_SHOWN, between="; ")
    return f"{len(found)} of {manifest.counts['documents']} documents {what}: {texts}"
