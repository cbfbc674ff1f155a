# SPDX-License-Identifier: Apache-2.0
"""Releases the worker while a person reviews documents, and resumes the run afterwards.

A run that waits for a person is suspended: its process ends, and its worker is free. The run has
two labels, the name of its credentials block and the transactions in review. The flow
:func:`resume_reviewed`, deployed on a schedule, reads the suspended runs with these labels and
resumes each run whose transactions are no longer in review. All state is in the runs themselves, so
it may run twice at once, be killed, or find that a run was already resumed.

A run that somebody resumes by hand too early finds its documents still in review and suspends
itself again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import resume_flow_run, suspend_flow_run

from vantage_orchestration.errors import ConfigurationError, VantageError
from vantage_orchestration.prefect.artifacts import review_ended
from vantage_orchestration.prefect.context import running
from vantage_orchestration.prefect.credentials import load_credentials
from vantage_orchestration.prefect.paging import listed
from vantage_orchestration.waiting.watcher import Watcher

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

#: Labels of a suspended flow run.
_BLOCK, IN_REVIEW = "abbyy_vantage.block", "abbyy_vantage.in_review"
#: When the run was first suspended for each transaction, in seconds since the epoch.
SINCE = "abbyy_vantage.in_review_since"
#: Prefix of the keys of our suspensions. A run suspended for another reason is ignored, even if it
#: has labels of an earlier review.
_KEY: Final = "abbyy-vantage-review-"


def check_can_suspend(block: str) -> FlowRun:
    """Refuse to begin a run that could not be suspended later. Call it before anything is sent.

    ``block`` is the name of the credentials block; empty if it is not a saved one.
    """
    flow_run, task_run = running()
    if flow_run is None or task_run is not None:
        trouble = "it runs in a task or outside any flow"
    elif flow_run.parent_task_run_id is not None:
        trouble = "it is a subflow"
    elif flow_run.deployment_id is None:
        trouble = "it has no deployment"
    elif not block:
        trouble = "its credentials block is not saved"
    else:
        return flow_run
    raise ConfigurationError(
        f"This run can't be suspended while a person reviews documents: {trouble}",
        hint='Deploy the flow and name a saved block, or choose on_review="wait"',
    )


def suspend_for_review(
    transaction_ids: Iterable[str], *, block: str, timeout: float | None = None
) -> None:
    """Suspend the running flow until these transactions are no longer in review.

    It does not return: Prefect ends the process here. A resumed run begins at its first line, so
    tasks without persisted results run again and must find what they have done.

    After ``timeout`` seconds Prefect fails the run. They count for each transaction from the run's
    first suspension for it: a run that was resumed too early does not extend them.
    """
    flow_run, now = check_can_suspend(block), time.time()
    since = clocks_of(flow_run.labels, transaction_ids, now)
    labels: dict[str, bool | int | float | str] = {
        _BLOCK: block,
        IN_REVIEW: ",".join(since),
        SINCE: ",".join(f"{each:.0f}" for each in since.values()),
    }
    # Before the suspension: a suspended run without labels would never be resumed.
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, labels)
    # Prefect accepts each key once, and a run may have to be suspended again.
    suspend_flow_run(
        timeout=None
        if timeout is None
        else max(1, round(min(since.values(), default=now) + timeout - now)),
        key=f"{_KEY}{uuid.uuid4()}",
    )


def clocks_of(
    labels: Mapping[str, object], transaction_ids: Iterable[str], now: float
) -> dict[str, float]:
    """Return for each transaction since when the run has been waiting for a person."""
    names, moments = (str(labels.get(key, "")).split(",") for key in (IN_REVIEW, SINCE))
    known = {
        name: float(since) for name, since in zip(names, moments, strict=False) if since.isdecimal()
    }
    return {each: known.get(each, now) for each in dict.fromkeys(transaction_ids)}


@flow(name="abbyy-vantage-resume-reviewed")
def resume_reviewed() -> int:
    """Resume the flow runs whose documents have been reviewed. Deploy it on a schedule.

    Returns:
        How many were resumed.

    Raises:
        VantageError: ABBYY Vantage could not be queried for some of them; the others were handled.
            The next run makes up for it.
        ValueError: A block no longer exists.
    """
    log = get_run_logger()
    waiting: dict[str, list[tuple[FlowRun, list[str]]]] = {}
    for run, block, ids in suspended_runs():
        waiting.setdefault(block, []).append((run, ids))
    resumed, failure = 0, None
    for block, runs in waiting.items():
        try:
            over = _reviewed(block, {each for _, ids in runs for each in ids})
        except (VantageError, ValueError) as error:
            # A failure with one block must not keep the runs of all others waiting.
            log.warning("%d runs stay suspended: %s", len(runs), error)
            failure = error
            continue
        for run, ids in runs:
            if over.issuperset(ids):
                review_ended(ids)
                resumed += _resume(run, log)
    if failure is not None:
        raise failure
    log.info("Resumed %d of %d suspended runs", resumed, sum(map(len, waiting.values())))
    return resumed


def suspended_runs() -> Iterator[tuple[FlowRun, str, list[str]]]:
    """Yield the runs that are suspended for a review, with their block and transactions."""
    suspended = FlowRunFilter(
        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"]))
    )
    order = FlowRunSort.EXPECTED_START_TIME_ASC
    with get_client(sync_client=True) as client:
        for run in listed(client.read_flow_runs, flow_run_filter=suspended, sort=order):
            key = run.state.state_details.pause_key if run.state is not None else None
            block, names = run.labels.get(_BLOCK), run.labels.get(IN_REVIEW)
            if key and key.startswith(_KEY) and block and names:
                yield run, str(block), str(names).split(",")


def _reviewed(block: str, transaction_ids: set[str]) -> set[str]:
    """Return the transactions that do not wait for a person now."""
    with load_credentials(block).get_client() as client:
        # These transactions are old: an unknown one was deleted, and is not too new to be known.
        sighting = Watcher(client, settle=0.0).look(transaction_ids)
    over = {name for name, each in sighting.seen.items() if each.ended or not each.in_review}
    # If a single transaction can't be read, the resumed run reports the reason.
    return over | sighting.failures.keys()


def _resume(run: FlowRun, log: Any) -> bool:
    try:
        resume_flow_run(run.id)
    except FlowPauseTimeout:
        log.warning("The run %s was reviewed too late and has failed", run.name)
    except (NotPausedError, ObjectNotFound, RuntimeError):
        # It was resumed, cancelled or deleted meanwhile.
        log.info("The run %s is no longer suspended", run.name)
    else:
        log.info("The documents of the run %s have been reviewed; it was resumed", run.name)
        return True
    return False
