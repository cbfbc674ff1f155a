# SPDX-License-Identifier: Apache-2.0
"""Artifacts that show a run's documents in Prefect's user interface.

* a table of the documents: class, confidence and broken rules, never field values;
* the progress of a batch;
* a link for each transaction in review, as long as the review lasts. It leads to ABBYY Vantage,
  where the reviewer logs in. The service's own review link holds a token, and artifacts are stored
  and widely visible.

The interface renders Markdown. External text (names of files, classes, messages, ids) is shown as
code, so it can't become a link, an image or HTML.

Failures here are only logged as warnings: a document must not fail because it could not be shown.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

from vantage_orchestration.paging import Chunk, Pages
from vantage_orchestration.prefect.events import TransactionEvent, emit
from vantage_orchestration.prefect.markdown import literal
from vantage_orchestration.status import Status

if TYPE_CHECKING:
    from vantage_orchestration.processing.manifest import (
        Manifest,
        SourceEntry,
        TransactionManifest,
        UnfinishedEntry,
    )

__all__ = [
    "DOCUMENTS_KEY",
    "PROGRESS_KEY",
    "BatchProgress",
    "review_began",
    "review_ended",
    "show_documents",
]

log = logging.getLogger(__name__)

DOCUMENTS_KEY: Final = "abbyy-vantage-documents"
PROGRESS_KEY: Final = "abbyy-vantage-progress"
_REVIEW_KEY: Final = "abbyy-vantage-review"
#: Rows of a table that a browser shows without problems.
_MOST_ROWS: Final = 1000
#: Broken rules named in a document's row; the rest is counted.
_MOST_RULES: Final = 10
#: Characters of an address that have no meaning in Markdown.
_IN_ADDRESSES: Final = ":/[]%.~-"
#: Seconds between two updates of a progress bar.
_UPDATE_EVERY: Final = 2.0
#: Artifacts per page of Prefect's API.
_TOGETHER: Final = 100


def show_documents(manifest: Manifest, *, key: str = DOCUMENTS_KEY) -> None:
    """Show the documents of a job as a table artifact.

    Args:
        manifest: Manifest of the job.
        key: Key of the artifact; tables of several runs with the same key become its versions.
            Characters that Prefect does not allow in a key become dashes.
    """
    rows = _rows(manifest)
    counts = manifest.counts
    parts = [
        f"{counts['documents']} documents from {counts['transactions']} transactions",
        f"{counts['pages']} pages",
    ]
    parts += [
        f"{counts[name]} {text}"
        for name, text in (
            ("rule_errors", "broken rules"),
            ("in_review", "in review"),
            ("failed", "failed"),
        )
        if counts[name]
    ]
    text = f"ABBYY Vantage: {', '.join(parts)}."
    if len(rows) > _MOST_ROWS:
        text += f" The first {_MOST_ROWS} rows; manifest.json has all {len(rows)}."
    with _shown("the table of documents"):
        _create("table", key, json.dumps(rows[:_MOST_ROWS], allow_nan=False), text)


class BatchProgress:
    """A progress artifact for the transactions of a batch. Use it in one thread at a time.

    Args:
        total: Number of transactions.
        key: Key of the artifact.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        total: int,
        *,
        key: str = PROGRESS_KEY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._clock = clock
        self._shown = 0
        self._next = clock() + _UPDATE_EVERY
        self._id: UUID | None = None
        with _shown("the progress"):
            self._id = _create("progress", key, self._percent(0), self._text(0))

    def update(self, done: int) -> None:
        """Show how many have ended. Calls are cheap: it sends at most one update every two seconds.

        The last update, when all have ended, is always sent.
        """
        now = self._clock()
        last = done >= self._total
        if self._id is None or done == self._shown or (now < self._next and not last):
            return
        self._shown, self._next = done, now + _UPDATE_EVERY
        with _shown("the progress"):
            _update(self._id, self._percent(done), self._text(done))

    def _percent(self, done: int) -> float:
        return round(min(100.0, 100.0 * done / self._total), 1) if self._total > 0 else 100.0

    def _text(self, done: int) -> str:
        return f"ABBYY Vantage: {done} of {self._total} transactions have ended."


def review_began(
    transaction_ids: Iterable[str], *, server: str, skill_id: str | None = None
) -> None:
    """Show that transactions need a review, and emit the event ``review`` for each.

    It may be called again: a review that is already shown is not reported twice.

    Args:
        transaction_ids: Transactions that wait for a person now.
        server: Base address of ABBYY Vantage, ``client.config.credentials.base_url``.
        skill_id: Their skill.
    """
    names = list(dict.fromkeys(transaction_ids))
    with _shown("the reviews"):
        shown = _reviews(names)
        for name in names:
            if name not in shown:
                text = (
                    f"A person must review the transaction {literal(name)} in ABBYY Vantage. This"
                    " link disappears after the review."
                )
                link = f"[ABBYY Vantage]({quote(server, safe=_IN_ADDRESSES)})"
                shown[name] = [_create("link", _review_key(name), link, text)]
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
    """Remove the links of transactions that are no longer in review. It may be called again.

    Args:
        transaction_ids: Transactions that may have been in review.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with _shown("the reviews"), get_client(sync_client=True) as client:
        for artifacts in _reviews(transaction_ids).values():
            for artifact in artifacts:
                try:
                    client.delete_artifact(artifact)
                except ObjectNotFound:
                    continue  # Another run has been as quick.


# -------------------------------------------------------------------- rows


def _rows(manifest: Manifest) -> list[dict[str, Any]]:
    # Documents that need attention come first.
    rows = [_unfinished(each) for each in (*manifest.failed, *manifest.pending)]
    rows += [row for each in manifest.transactions for row in _documents(each)]
    # Not every skill classifies, and few documents break rules.
    shown = [name for name in (rows or [{}])[0] if any(row[name] != "" for row in rows)]
    return [{name: row[name] for name in shown} for row in rows]


def _documents(entry: TransactionManifest) -> Iterator[dict[str, Any]]:
    files = _files(entry.sources)
    for number, document in enumerate(entry.documents, 1):
        found = document.classification or {}
        rules = [
            literal(error["message"] or error["type"] or "?") for error in document.rule_errors
        ]
        yield {
            "File": files,
            "Document": number,
            "Status": _status(entry.status),
            "Class": literal(found.get("name") or ""),
            "Confidence": _number(found.get("confidence")),
            "Sure": {True: "yes", False: "no"}.get(found.get("is_confident"), ""),  # type: ignore[arg-type]
            "Broken rules": "; ".join(rules),
            "Transaction": literal(entry.transaction_id),
        }


def _unfinished(entry: UnfinishedEntry) -> dict[str, Any]:
    return {
        "File": _files(entry.sources),
        "Document": "",
        "Status": "In review" if entry.in_review else _status(entry.status),
        "Class": "",
        "Confidence": "",
        "Sure": "",
        "Broken rules": "",
        "Transaction": literal(entry.transaction_id),
    }


def _files(sources: Sequence[SourceEntry]) -> str:
    """Name the files of a transaction. The service does not report which file a document came
    from."""
    more = len(sources) - 1
    return "".join(
        [*(literal(each.name) for each in sources[:1]), f" and {more} more" * (more > 0)]
    )


def _status(status: str) -> str:
    # A plain word is easier to read than code.
    return status if re.fullmatch("[A-Za-z]{1,20}", status) else literal(status)


def _number(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return "" if value is None else value
    return literal(value)


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
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.context import FlowRunContext, TaskRunContext

    flow, task = FlowRunContext.get(), TaskRunContext.get()
    flow_run = flow.flow_run if flow is not None else None
    artifact = ArtifactCreate(
        type=kind,
        key=_key(key),
        data=data,
        description=description,
        flow_run_id=flow_run.id if flow_run else task.task_run.flow_run_id if task else None,
        task_run_id=task.task_run.id if task else None,
    )
    with get_client(sync_client=True) as client:
        return client.create_artifact(artifact).id


def _update(artifact_id: UUID, data: Any, description: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactUpdate

    with get_client(sync_client=True) as client:
        client.update_artifact(artifact_id, ArtifactUpdate(data=data, description=description))


def _reviews(transaction_ids: Iterable[str]) -> dict[str, list[UUID]]:
    """Return the review artifacts of those transactions that have one."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    names = {_review_key(each): each for each in transaction_ids}
    keys, found = list(names), dict[str, list[UUID]]()
    with get_client(sync_client=True) as client:
        for place in range(0, len(keys), _TOGETHER):
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=keys[place : place + _TOGETHER]))

            def page(offset: int, wanted: ArtifactFilter = wanted) -> Chunk[Any]:
                read = client.read_artifacts(artifact_filter=wanted, limit=_TOGETHER, offset=offset)
                return Chunk(read, None, _TOGETHER)

            for chunk in Pages(page, lambda artifact: artifact.id):
                for artifact in chunk.items:
                    if artifact.key in names:
                        found.setdefault(names[artifact.key], []).append(artifact.id)
    return found


def _review_key(transaction_id: str) -> str:
    return _key(f"{_REVIEW_KEY}-{transaction_id}")


def _key(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or DOCUMENTS_KEY
