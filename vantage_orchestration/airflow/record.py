# SPDX-License-Identifier: Apache-2.0
"""What a task records of its transactions in an XCom, for the page about them.

The page needs what ABBYY Vantage does not report, or no longer reports once a transaction was
deleted: names of files, pages, deadlines of reviews, and where results have landed. The record
contains no field values and no review link. Users may write XComs, so its content is only shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.processing.summary import pages_of
from vantage_orchestration.text import clean, named, read_json

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
    from vantage_orchestration.waiting.machine import Outcome, Wait

__all__ = ["Details", "Record", "record_of_job", "record_of_outcome", "record_of_wait"]

#: Transactions whose details are recorded. The ids of all are.
_MOST: Final = 200
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class Details:
    """What is recorded of one transaction. None and empty values are unknown.

    Attributes:
        files: Names of its files.
        classes: Names of the classes of its documents.
        pages: Its pages.
        rules: Number of business rules that its documents break.
        reason: Why it failed, as reported by the service.
        folder: Folder of its results.
        deadline: When the task stops waiting for its review, in seconds since the epoch.
    """

    files: str = ""
    classes: str = ""
    pages: int | None = None
    rules: int | None = None
    reason: str = ""
    folder: str = ""
    deadline: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is known as JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if value not in ("", None)}

    @classmethod
    def read(cls, data: Any) -> Details:
        """Read the result of :meth:`to_json`, or what somebody else has written."""
        known: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        texts = {
            name: str(known.get(name, ""))[:_LONGEST]
            for name in ("files", "classes", "reason", "folder")
            if isinstance(known.get(name), str)
        }
        pages, rules, deadline = (_number(known.get(n)) for n in ("pages", "rules", "deadline"))
        return cls(
            **texts,
            pages=None if pages is None else int(pages),
            rules=None if rules is None else int(rules),
            deadline=deadline,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """What a task has recorded.

    Attributes:
        transaction_ids: All of its transactions, each once.
        details: What is recorded of them, by id.
        results: Folder of the results; empty before they have landed.
        pages: Their pages, by skill and class; empty before results have landed.
        over: Whether all of the transactions have ended.
    """

    transaction_ids: tuple[str, ...] = ()
    details: Mapping[str, Details] = field(default_factory=dict)
    results: str = ""
    pages: str = ""
    over: bool = False

    def of(self, transaction_id: str) -> Details:
        """Return what is recorded of a transaction."""
        return self.details.get(transaction_id, Details())

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        shown = {each: self.details[each] for each in self.transaction_ids if each in self.details}
        details = {each: item.to_json() for each, item in list(shown.items())[:_MOST]}
        return {
            "transaction_ids": list(self.transaction_ids),
            **({"details": details} if details else {}),
            **({"results": self.results} if self.results else {}),
            **({"pages": self.pages} if self.pages else {}),
            **({"over": True} if self.over else {}),
        }

    @classmethod
    def read(cls, value: Any) -> Record:
        """Read the value of an XCom, an object or its JSON text; anything else is empty."""
        if isinstance(value, str):
            try:
                value = read_json(value)
            except ValueError:
                return cls()
        ids = value.get("transaction_ids") if isinstance(value, Mapping) else None
        if not isinstance(ids, list) or not all(isinstance(each, str) and each for each in ids):
            return cls()
        details, results, pages = (value.get(n) for n in ("details", "results", "pages"))
        if not isinstance(details, Mapping):
            details = {}
        return cls(
            tuple(dict.fromkeys(ids)),
            {str(each): Details.read(item) for each, item in details.items()},
            results[:_LONGEST] if isinstance(results, str) else "",
            pages[:_LONGEST] if isinstance(pages, str) else "",
            value.get("over") is True,
        )


def record_of_wait(wait: Wait) -> Record:
    """Return what is known during a wait: names of files and deadlines of reviews."""
    deadlines = wait.review_deadlines
    return Record(
        tuple(wait.transaction_ids),
        {
            each: Details(files=wait.files.get(each, ""), deadline=deadlines.get(each))
            for each in wait.transaction_ids
            if each in wait.files or each in deadlines
        },
    )


def record_of_outcome(outcome: Outcome) -> Record:
    """Return what is known after a wait of a task that fetches no results."""
    details = {each: Details(files=text) for each, text in outcome.files.items()}
    return Record(tuple(outcome.statuses), details, over=not outcome.open)


def record_of_job(manifest: Manifest, results: str) -> Record:
    """Return what is known after results have landed.

    Args:
        manifest: Manifest of the job.
        results: Path or URL of its folder.
    """
    unfinished = {
        each.transaction_id: Details(
            files=named([source.name for source in each.sources]),
            reason=clean(each.error or ""),
        )
        for each in (*manifest.failed, *manifest.pending)
    }
    landed = {each.transaction_id: _landed(each) for each in manifest.transactions}
    details = {**landed, **unfinished}
    pages = "; ".join((str(manifest.counts["pages"]), *pages_of(manifest)))
    return Record(tuple(details), details, results, pages, not manifest.pending)


def _landed(entry: TransactionManifest) -> Details:
    names = dict.fromkeys(each.class_name for each in entry.documents if each.class_name)
    return Details(
        files=named([source.name for source in entry.sources]),
        classes=clean(", ".join(names)),
        pages=entry.pages,
        rules=sum(len(each.rule_errors) for each in entry.documents),
        folder=", ".join(dict.fromkeys(each.folder or entry.folder for each in entry.documents)),
    )


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Enough for years up to 9999 and for any number of pages.
    return value if known and math.isfinite(value) and 0 <= value < 2.5e11 else None
