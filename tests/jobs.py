# SPDX-License-Identifier: Apache-2.0
"""A whole job in one call, and its parts, for tests and for the processes that they kill.

It imports nothing but the core, since some tests start dozens of such processes. There is no ledger
and no origin, and nothing is known of a transaction, unless a test gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patience import wait_until
from pendulum import DateTime

from vantage_orchestration.client import VantageClient
from vantage_orchestration.models import ListedTransaction, Transaction
from vantage_orchestration.options import Options
from vantage_orchestration.processing import job
from vantage_orchestration.processing.collect import collect as collect_with
from vantage_orchestration.processing.inputs import inspect_inputs
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import FolderLedgers, Ledger
from vantage_orchestration.processing.manifest import Manifest, SourceEntry, TransactionManifest
from vantage_orchestration.processing.plan import Unit
from vantage_orchestration.processing.plan import plan as plan_of_seen
from vantage_orchestration.processing.routing import Output
from vantage_orchestration.processing.submit import Part, Work
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.machine import Outcome

if TYPE_CHECKING:
    from vantage_orchestration.sandbox import SandboxControl

TOKEN = job.job_token("task", "-1")


def work_of(
    client: VantageClient,
    key: TaskKey,
    skill_id: str,
    options: Options,
    more: dict[str, Any],
) -> Work:
    """Return the work, with what belongs to it taken out of further arguments."""
    ledger = more.pop("ledger", None) or Ledger()
    resend_failed = more.pop("resend_failed", True)
    return Work(client, skill_id, key, options, ledger, more.pop("origin", ""), resend_failed)


def begin(
    client: VantageClient,
    inputs: Any,
    output: Any,
    key: TaskKey,
    skill_id: str,
    options: Options,
    **more: Any,
) -> job.Job:
    more.setdefault("resend_failed", False)
    return job.begin(work_of(client, key, skill_id, options, more), inputs, output, **more)


def submit_files(
    client: VantageClient,
    inputs: Any,
    key: TaskKey,
    skill_id: str,
    options: Options,
    **more: Any,
) -> tuple[Part, ...]:
    return job.submit_files(work_of(client, key, skill_id, options, more), inputs, **more)


def finish(
    client: VantageClient,
    output: Any,
    skill_id: str,
    options: Options,
    *,
    token: str,
    in_review: tuple[str, ...] = (),
    processed: Mapping[str, Transaction] | None = None,
    by_class: str | None = None,
    **more: Any,
) -> Manifest:
    outcome = Outcome({}, in_review, processed=processed or {})
    work = work_of(client, TaskKey("any"), skill_id, options, more)
    return job.finish(work, Output(output, by_class), token=token, outcome=outcome)


def download(
    client: VantageClient, ids: Any, output: Any, options: Options, by_class: str | None = None
) -> Manifest:
    return job.download(client, ids, Output(output, by_class), options)


def collect(
    client: VantageClient,
    transaction: Transaction,
    target: Any,
    *,
    sources: Iterable[SourceEntry] = (),
    key: str = "",
    page_count: int | None = None,
    created_at: DateTime | None = None,
    skill_id: str | None = None,
    **options: Any,
) -> TransactionManifest:
    listed: tuple[Any, ...] = ({}, (), None, None, None, page_count)
    found = collect_with(
        client,
        transaction,
        Output(target.parent),
        Part(transaction.id, key, target.name, 0.0, tuple(sources)),
        Options(**options),
        row=ListedTransaction(transaction.id, None, None, None, created_at, *listed),
        skill_id=skill_id,
    )
    return replace(found, folder="")


def notes(folder: Path | str) -> Ledger:
    """Return a ledger that survives the process."""
    return Ledger((FolderLedgers(Location.of(folder)), "task"))


def plan(inputs: Iterable[Any], **how: Any) -> tuple[Unit, ...]:
    """Return the units of some files."""
    return plan_of_seen(inspect_inputs(list(inputs)), **how)


def files_of(folder: Path) -> list[Location]:
    return Location.of(folder).files("**/*.pdf")


def accepted_starts(control: SandboxControl) -> list[str]:
    """Return the transactions that were started, once for each time: of two tries at the same time
    both may ask for it, and the service refuses one."""
    return [
        each["transaction_id"]
        for each in control.journal("POST", "/start$")
        if each["status"] // 100 == 2
    ]


def until_ended(client: VantageClient, transaction_ids: Iterable[str]) -> None:
    """Wait until all of these transactions have ended."""
    wait_until(
        lambda: all(client.get_transaction(each).ended for each in transaction_ids),
        "the end of the transactions",
        pause=0.01,
    )


def run(client, folder, output, skill, key, *, ledger=None, token=TOKEN, **settings) -> Manifest:
    """Begin and finish, waiting in between."""
    chosen = Options(**settings)
    begun = begin(
        client,
        files_of(folder),
        output,
        key,
        skill,
        chosen,
        token=token,
        origin="o",
        ledger=ledger,
    )
    until_ended(client, begun.transaction_ids)
    return finish(client, output, skill, chosen, token=token, ledger=ledger)
