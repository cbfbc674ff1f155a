# SPDX-License-Identifier: Apache-2.0
"""What a task records of its transactions in an XCom, for the page about them.

The page needs what ABBYY Vantage does not report, or no longer reports once a transaction was
deleted: names of files, pages, deadlines of reviews, and where results have landed. The record
contains no field values and no review link. Users may write XComs, so its content is only shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticUseDefault

from vantage_orchestration.processing.summary import pages_of
from vantage_orchestration.text import clean, named, read_json

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
    from vantage_orchestration.waiting.machine import Outcome, Wait

#: Transactions whose details are recorded. The ids of all are.
_MOST: Final = 200
_LONGEST: Final = 300


def _or_default(value: Any, check: Any) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise PydanticUseDefault from None


def _or_nothing(value: Any, check: Any) -> Details:
    try:
        return cast("Details", check(value))
    except ValidationError:
        return Details()


# Somebody else may have written them. What is wrong counts as unknown.
_Ignored = WrapValidator(_or_default)
_Text = Annotated[str, AfterValidator(lambda text: text[:_LONGEST]), _Ignored]
_Count = Annotated[int | None, Field(strict=True, ge=0, lt=2.5e11), _Ignored]
#: Seconds since the epoch, for years up to 9999.
_Moment = Annotated[float | None, Field(strict=True, ge=0, lt=2.5e11), _Ignored]
_Ids = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    AfterValidator(lambda ids: tuple(dict.fromkeys(ids))),
    _Ignored,
]


@dataclass(frozen=True, slots=True)
class Details:
    """What is recorded of one transaction. None and empty values are unknown."""

    #: Names of its files, and of the classes of its documents.
    files: _Text = ""
    classes: _Text = ""
    pages: _Count = None
    #: Number of business rules that its documents break.
    rules: _Count = None
    #: Why it failed, as reported by the service.
    reason: _Text = ""
    #: Folder of its results.
    folder: _Text = ""
    #: When the task stops waiting for its review, in seconds since the epoch.
    deadline: _Moment = None


@dataclass(frozen=True, slots=True)
class Record:
    """What a task has recorded."""

    #: All of its transactions, each once.
    transaction_ids: _Ids = ()
    details: Annotated[Mapping[str, Annotated[Details, WrapValidator(_or_nothing)]], _Ignored] = (
        field(default_factory=dict)
    )
    #: Folder of the results, and their pages by skill and class; empty before they have landed.
    results: _Text = ""
    pages: _Text = ""
    #: Whether all of the transactions have ended.
    over: Annotated[bool, Field(strict=True), _Ignored] = False

    def of(self, transaction_id: str) -> Details:
        """Return what is recorded of a transaction."""
        return self.details.get(transaction_id, Details())

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        known = [each for each in self.transaction_ids if each in self.details]
        shown = replace(self, details={each: self.details[each] for each in known[:_MOST]})
        found = _RECORD.dump_python(shown, mode="json", exclude_defaults=True)
        return {"transaction_ids": [], **found}

    @classmethod
    def read(cls, value: Any) -> Record:
        """Read the value of an XCom, an object or its JSON text; anything else is empty."""
        try:
            return _RECORD.validate_python(read_json(value) if isinstance(value, str) else value)
        except ValueError:  # Of pydantic, too.
            return cls()


_RECORD: Final = TypeAdapter(Record)


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
    """Return what is known after results have landed in a folder, given by path or URL."""
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
