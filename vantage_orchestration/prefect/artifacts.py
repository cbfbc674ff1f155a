# SPDX-License-Identifier: Apache-2.0
"""Artifacts that show a run's documents in Prefect's user interface.

* a table of the documents, which changes while they are processed: class, confidence, pages,
  broken rules, why one failed, until when a review is waited for, and where results are; never
  field values;
* the progress of a batch;
* a link for each transaction in review, as long as the review lasts. It leads to ABBYY Vantage,
  where the reviewer logs in. The service's own review link holds a token, and artifacts are stored
  and widely visible.

The interface renders Markdown. External text (names of files, classes, messages, ids) is shown as
code, so it can't become a link, an image or HTML.

Failures here are only logged as warnings: a document must not fail because it could not be shown.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

import pendulum
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ObjectNotFound

from vantage_orchestration.prefect.context import run_ids
from vantage_orchestration.prefect.events import TransactionEvent, emit
from vantage_orchestration.prefect.paging import listed_of
from vantage_orchestration.processing.summary import summary
from vantage_orchestration.status import Status
from vantage_orchestration.text import shortened

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import (
        Manifest,
        SourceEntry,
        TransactionManifest,
        UnfinishedEntry,
    )
    from vantage_orchestration.waiting.machine import Observation

log = logging.getLogger(__name__)

DOCUMENTS_KEY: Final = "abbyy-vantage-documents"
PROGRESS_KEY: Final = "abbyy-vantage-progress"
_REVIEW_KEY: Final = "abbyy-vantage-review"
#: Rows of a table that a browser shows without problems.
_MOST_ROWS: Final = 1000
#: An empty row, with its columns in their order.
_ROW: Final = dict.fromkeys(
    (
        *("File", "Document", "Status", "Class", "Confidence", "Sure", "Pages", "Broken rules"),
        *("Reason", "Review until", "Results", "Transaction"),
    ),
    "",
)
#: Characters of a text from outside; a longer one is cut.
_LONGEST: Final = 300
#: Line ends, changes of the writing direction, and invisible characters.
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]+"
)
#: Characters of an address that have no meaning in Markdown.
_IN_ADDRESSES: Final = ":/[]%.~-"
#: Seconds between two updates of a progress bar.
_UPDATE_EVERY: Final = 2.0


class _Artifact:
    """An artifact that changes during a run. Used by one thread at a time."""

    def __init__(self, kind: str, key: str, name: str, clock: Callable[[], float]) -> None:
        self._kind, self._key, self._name, self._clock = kind, key, name, clock
        self._next = 0.0
        self._id: UUID | None = None

    def _may_change(self) -> bool:
        return self._clock() >= self._next

    def _publish(self, data: Any, text: str, pause: float = _UPDATE_EVERY) -> None:
        """Create or change it. The next change should come after so many seconds."""
        self._next = self._clock() + pause
        with _shown(self._name):
            if self._id is None:
                self._id = _create(self._kind, self._key, data, text)
            else:
                _update(self._id, data, text)


class DocumentsTable(_Artifact):
    """A table artifact of the documents of a job. Used by one thread at a time.

    ``entries`` are the transactions of the job at its start. Without them there is no table before
    the job has ended. Tables of several runs with the same key become its versions.
    """

    def __init__(
        self,
        entries: Iterable[UnfinishedEntry] = (),
        *,
        key: str = DOCUMENTS_KEY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = {each.transaction_id: each for each in entries}
        self._open = set(self._entries)
        self._deadlines: dict[str, float] = {}
        super().__init__("table", key, "the table of documents", clock)
        self._show_state()

    def change(self, seen: Observation) -> None:
        """Show what has become of a transaction. Cheap to call: not every change is sent at once.

        The more rows there are, the seldomer it is sent. The last change always is.
        """
        entry = self._entries.get(seen.transaction_id)
        if entry is not None:
            self._entries[seen.transaction_id] = replace(
                entry, status=seen.status.value, in_review=seen.in_review
            )
            if seen.ended:
                self._open.discard(seen.transaction_id)
            if self._may_change() or not self._open:
                self._show_state()

    def need_people(self, deadlines: Mapping[str, float]) -> None:
        """Show until when reviews are waited for, in seconds since the epoch."""
        self._deadlines.update(deadlines)
        self._show_state()

    def _show_state(self) -> None:
        rows = [
            _unfinished(each, self._deadlines.get(name)) for name, each in self._entries.items()
        ]
        if rows:
            ended = len(rows) - len(self._open)
            text = f"ABBYY Vantage: {ended} of {len(rows)} transactions have ended."
            self._show(rows, text)

    def finish(self, manifest: Manifest, output: str = "") -> None:
        """Show what came of the job. ``output`` is the path or URL of its folder."""
        self._show(rows_of(manifest), f"ABBYY Vantage: {summary(manifest, output, literal)}.")

    def _show(self, rows: Sequence[Mapping[str, Any]], text: str) -> None:
        if len(rows) > _MOST_ROWS:
            text += f" The first {_MOST_ROWS} rows; manifest.json has all {len(rows)}."
        data = json.dumps(_without_empty(rows[:_MOST_ROWS]), allow_nan=False)
        self._publish(data, text, max(_UPDATE_EVERY, len(rows) / 100))


class BatchProgress(_Artifact):
    """A progress artifact for the transactions of a batch. Use it in one thread at a time."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        super().__init__("progress", PROGRESS_KEY, "the progress", clock)
        self._shown = 0
        self._show(0)

    def update(self, done: int) -> None:
        """Show how many have ended. Calls are cheap: it sends at most one update every two seconds.

        The last update, when all have ended, is always sent.
        """
        if self._id is None or done == self._shown:
            return
        if done >= self._total or self._may_change():
            self._show(done)

    def _show(self, done: int) -> None:
        self._shown = done
        text = f"ABBYY Vantage: {done} of {self._total} transactions have ended."
        self._publish(self.percent(done), text)

    def percent(self, done: int) -> float:
        return round(min(100.0, 100.0 * done / self._total), 1) if self._total > 0 else 100.0


def review_began(
    transaction_ids: Iterable[str],
    *,
    server: str,
    skill_id: str | None = None,
    files: Mapping[str, str] | None = None,
    deadlines: Mapping[str, float] | None = None,
) -> None:
    """Show that transactions need a review, and emit the event ``review`` for each.

    It may be called again: a review that is already shown is not reported twice. ``deadlines`` are
    those after which the run waits no longer, in seconds since the epoch.
    """
    names = list(dict.fromkeys(transaction_ids))
    with _shown("the reviews"):
        shown = reviews_shown(names)
        for name in names:
            if name not in shown:
                of = f" of {literal(files[name])}" if files and name in files else ""
                limit = (deadlines or {}).get(name)
                by = f", by {_moment(limit)}" if limit is not None else ""
                text = (
                    f"A person must review the transaction {literal(name)}{of} in ABBYY"
                    f" Vantage{by}. This link disappears after the review."
                )
                link = f"[ABBYY Vantage]({quote(server, safe=_IN_ADDRESSES)})"
                shown[name] = [_create("link", review_key(name), link, text)]
        emit(
            TransactionEvent(
                "review",
                name,
                server,
                Status.PROCESSING.value,
                skill_id,
                # Each review of the transaction has its own artifact.
                occasion=str(min(shown[name])),
            )
            for name in names
        )


def review_ended(transaction_ids: Iterable[str]) -> None:
    """Remove the links of transactions that are no longer in review. It may be called again."""
    with _shown("the reviews"), get_client(sync_client=True) as client:
        for artifact in itertools.chain(*reviews_shown(transaction_ids).values()):
            with suppress(ObjectNotFound):  # Another run has been as quick.
                client.delete_artifact(artifact)


# -------------------------------------------------------------------- rows


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    # Documents that need attention come first.
    rows = [_unfinished(each) for each in (*manifest.failed, *manifest.pending)]
    return rows + [row for each in manifest.transactions for row in _documents(each)]


def _without_empty(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out columns without a value: not each skill classifies, and few rules are broken."""
    shown = [name for name in (rows or [{}])[0] if any(row[name] != "" for row in rows)]
    return [{name: row[name] for name in shown} for row in rows]


def _documents(entry: TransactionManifest) -> Iterator[dict[str, Any]]:
    files = _files(entry.sources)
    for number, document in enumerate(entry.documents, 1):
        found = document.classification or {}
        rules = (literal(each["message"] or each["type"] or "?") for each in document.rule_errors)
        yield {
            **_ROW,
            "File": files,
            "Document": number,
            "Status": _status(entry.status),
            "Class": literal(found.get("name") or ""),
            "Confidence": _number(found.get("confidence")),
            "Sure": {True: "yes", False: "no"}.get(found.get("is_confident"), ""),  # type: ignore[arg-type]
            # Pages are those of the transaction.
            "Pages": _number(entry.pages) if number == 1 else "",
            "Broken rules": "; ".join(rules),
            "Results": literal(folder) if (folder := document.folder or entry.folder) else "",
            "Transaction": literal(entry.transaction_id),
        }


def _unfinished(entry: UnfinishedEntry, deadline: float | None = None) -> dict[str, Any]:
    return {
        **_ROW,
        "File": _files(entry.sources),
        "Status": "In review" if entry.in_review else _status(entry.status),
        "Reason": literal(entry.error) if entry.error else "",
        "Review until": _moment(deadline) if deadline is not None and entry.in_review else "",
        "Transaction": literal(entry.transaction_id),
    }


def _moment(seconds: float) -> str:
    return pendulum.from_timestamp(seconds, tz="UTC").format("YYYY-MM-DD HH:mm [UTC]")


def _files(sources: Sequence[SourceEntry]) -> str:
    """Name the files of a transaction: it is not known which of them a document came from."""
    return shortened(sources, lambda each: literal(each.name), most=1)


def _status(status: str) -> str:
    # A plain word is easier to read than code.
    return status if re.fullmatch("[A-Za-z]{1,20}", status) else literal(status)


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else literal("" if value is None else value)


# ---------------------------------------------------------------- markdown


def literal(text: object) -> str:
    """Return Markdown that shows a text as it is, as code in one line.

    Links (even bare addresses that some renderers turn into links), images, HTML and entities mean
    nothing in code. A pipe would end a table cell even there, so it becomes a broken bar. A long
    text is cut.
    """
    shown = " ".join(_UNSEEN.sub(" ", str(text)).replace("|", "¦").split())
    if len(shown) > _LONGEST:
        shown = shown[: _LONGEST - 1] + "…"
    if not shown:
        return ""
    # Longer than any in the text, and separated from one at its start or end.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{space}{shown}{space}{fence}"


# --------------------------------------------------------------- artifacts


@contextmanager
def _shown(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # A reply could quote what was sent, so only the class is logged.
        log.warning("Prefect could not show %s (%s)", what, type(error).__name__)


def _create(kind: str, key: str, data: Any, description: str) -> UUID:
    """Create an artifact of the running task or flow, also in threads and coroutines."""
    run: dict[str, Any] = dict(zip(("flow_run_id", "task_run_id"), run_ids(), strict=True))
    artifact = ArtifactCreate(type=kind, key=_key(key), data=data, description=description, **run)
    with get_client(sync_client=True) as client:
        return client.create_artifact(artifact).id


def _update(artifact_id: UUID, data: Any, description: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact_id, ArtifactUpdate(data=data, description=description))


def reviews_shown(transaction_ids: Iterable[str]) -> dict[str, list[UUID]]:
    """Return the review artifacts of those transactions that have one."""
    names = {review_key(each): each for each in transaction_ids}
    found: dict[str, list[UUID]] = {}

    def with_keys(keys: list[str]) -> dict[str, Any]:
        return {"artifact_filter": ArtifactFilter(key=ArtifactFilterKey(any_=keys))}

    with get_client(sync_client=True) as client:
        for artifact in listed_of(client.read_artifacts, list(names), with_keys):
            if artifact.key in names:
                found.setdefault(names[artifact.key], []).append(artifact.id)
    return found


def review_key(transaction_id: str) -> str:
    return _key(f"{_REVIEW_KEY}-{transaction_id}")


def _key(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or DOCUMENTS_KEY
