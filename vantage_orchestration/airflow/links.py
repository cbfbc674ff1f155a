# SPDX-License-Identifier: Apache-2.0
"""Extra link of a task instance to the page about its ABBYY Vantage transactions.

The link leads to a page in Airflow's own API server (:mod:`vantage_orchestration.airflow.pages`)
and is not a credential. One XCom holds the ids of the transactions, another the link. Users may
write XComs, so the page uses the connection that the task itself declares in its field
``abbyy_vantage_conn_id``. A review link, which holds a token, is never stored: the page requests
one from ABBYY Vantage when somebody opens the review.

The page needs what ABBYY Vantage does not report, or no longer reports once a transaction was
deleted: names of files, pages, deadlines of reviews, and where results have landed. The record of
that contains no field values and no review link, and is only shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticUseDefault

from vantage_orchestration.airflow.compat import BaseXCom, conf
from vantage_orchestration.processing.summary import pages_of
from vantage_orchestration.text import clean, named, read_json

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
    from vantage_orchestration.waiting.machine import Outcome, Wait

#: Key of the XCom that holds a :class:`Record`.
RECORD_KEY: Final = "abbyy_vantage"
#: Where the API server serves the pages.
URL_PREFIX: Final = "/abbyy-vantage"
#: Transactions whose details are recorded. The ids of all are.
_MOST: Final = 200
_LONGEST: Final = 300


class TaskInstanceLike(Protocol):
    """The identity of a task instance, as tasks, keys and database rows have it."""

    @property
    def dag_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def map_index(self) -> int | None: ...


class VantageTransactionLink(BaseOperatorLink):
    """A task instance's button to the page about its transactions.

    For operators: ``operator_extra_links = (VantageTransactionLink(),)``, the connection's id as
    the template field ``abbyy_vantage_conn_id``, and a call of :func:`record_transactions` as soon
    as the transactions are known. Without that call there is no button.
    """

    name = "ABBYY Vantage transactions"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the link; empty if the task has recorded no transactions.

        Airflow calls this in the worker at the end of a try, and stores the result.
        """
        found = BaseXCom.get_value(ti_key=cast("Any", ti_key), key=RECORD_KEY)
        return page_url(ti_key) if Record.read(found).transaction_ids else ""


def record_transactions(context: Context, record: Record | Iterable[str]) -> None:
    """Record the transactions of the running task for the link and its page.

    Call it as soon as they are known: Airflow itself pushes links only when a process of the task
    ends normally, and deletes all XComs of a task at the start of its next try. A second call
    replaces the first.

    Args:
        context: Context of the running task.
        record: All transactions of the task, with what is known of them; or their ids.
    """
    task: TaskInstanceLike = context["ti"]
    if not isinstance(record, Record):
        record = Record(tuple(dict.fromkeys(record)))
    _push(task, RECORD_KEY, record.to_json())
    if record.transaction_ids:
        _push(task, VantageTransactionLink().xcom_key, page_url(task))


def page_path(task: TaskInstanceLike) -> str:
    """Return the page's path below the address of the API server."""
    index = str(_map_index(task))
    parts = ("dags", task.dag_id, "runs", task.run_id, "tasks", task.task_id, index)
    return "/".join([URL_PREFIX, *(quote(part, safe="") for part in parts)])


def page_url(task: TaskInstanceLike) -> str:
    """Return the page's address below Airflow's ``[api] base_url``.

    If that is not set, the result is a path, which works in Airflow's own pages as well.
    """
    base: str = conf.get("api", "base_url", fallback="") or ""
    return base.rstrip("/") + page_path(task)


def _push(task: TaskInstanceLike, key: str, value: Any) -> None:
    # With the base class, as Airflow pushes links: another XCom backend may store a mere reference,
    # which the API server does not resolve.
    BaseXCom.set(
        key=key,
        value=value,
        dag_id=task.dag_id,
        task_id=task.task_id,
        run_id=task.run_id,
        map_index=_map_index(task),
    )


def _map_index(task: TaskInstanceLike) -> int:
    return -1 if task.map_index is None else task.map_index


# ------------------------------------------------------------ the record


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


# Other code may have written them. A wrong value counts as unknown.
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
            files=named(each.sources),
            reason=each.error or "",
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
        files=named(entry.sources),
        classes=clean(", ".join(names)),
        pages=entry.pages,
        rules=sum(len(each.rule_errors) for each in entry.documents),
        folder=", ".join(dict.fromkeys(each.folder or entry.folder for each in entry.documents)),
    )
