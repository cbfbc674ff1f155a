# SPDX-License-Identifier: Apache-2.0
"""Fetches what ended in ABBYY Vantage, whatever its origin.

The service has no webhooks. A scheduled flow calls :func:`fetch_completed`, which polls the
service's list of completed transactions and fetches those that were not fetched before. It records
them in a folder, so the flow may run on any worker that can access it. No event has to arrive: the
next run makes up for one that was missed, cancelled or killed.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext

from vantage_orchestration.options import Completed, Options, takes
from vantage_orchestration.prefect.artifacts import DocumentsTable
from vantage_orchestration.prefect.context import in_run, run_logger, task_key
from vantage_orchestration.prefect.credentials import VantageCredentials, load_credentials
from vantage_orchestration.prefect.events import emit, event_of
from vantage_orchestration.prefect.retries import RETRIES
from vantage_orchestration.processing.outcome import check_quality
from vantage_orchestration.processing.routing import output_of
from vantage_orchestration.processing.summary import summary
from vantage_orchestration.storage import Location

if TYPE_CHECKING:
    from typing_extensions import Unpack


@task(**RETRIES, cache_policy=NO_CACHE)
@takes(Completed)
def fetch_completed(
    credentials: VantageCredentials | str,
    output_path: Any,
    *,
    skill: str | None = None,
    state_path: Any = None,
    consumer: str | None = None,
    **options: Unpack[Completed],
) -> dict[str, Any]:
    """Fetch transactions that ended in ABBYY Vantage, sent by mail, scanner and the like, each
    once.

    Deploy its flow on a schedule, one run at a time. A run fetches all ended transactions that
    match the arguments and were not fetched by an earlier run. A transaction is recorded when its
    results have landed. A retried run continues, and returns all that it has fetched.

    Args:
        credentials: The credentials block, or the name of a saved one.
        output_path: Folder for the results of all runs, a path or URL. Each transaction gets a
            subfolder named by its id. Each run that fetches something writes a
            ``manifest-...json``, and its tables into a subfolder of ``tables/``.
        skill: Id or exact name of the skill; None for all accessible skills.
        state_path: Folder for the record of fetched transactions, the same in each run. By default
            ``output_path``.
        consumer: Name under which they are recorded, by default that of the flow. Each name gets
            all transactions.

    Returns:
        ``manifest`` (the URL of the run's manifest, None if nothing was due) and numbers:
        ``transactions``, ``documents``, ``files``, ``pages``, ``rule_errors`` and so on.

    For each transaction the event ``abbyy_vantage.transaction.processed`` or ``.failed`` is emitted
    when its results have landed.

    Raises:
        ValueError: An argument is invalid, or the block does not exist.
        TransactionFailed: A transaction was deleted before its results were fetched.
        RulesBroken, LowQuality: Documents are not good enough, and ``on_low_quality`` is ``fail``.
        VantageError: Results could not be fetched; all others have landed.
    """
    from vantage_orchestration.completed.fetching import fetch_due
    from vantage_orchestration.completed.inbox import consumer_of

    chosen, output = Options.of(**options), output_of(output_path)
    state = output.folder if state_path is None else Location.of(state_path)
    run, flow, label = _running()
    with load_credentials(credentials).get_client() as client:
        reader = consumer_of(client, state, skill, consumer or flow, chosen)
        fetched = fetch_due(client, reader, output, run=run, label=label, options=chosen)
        if fetched.place is not None and in_run():
            server, manifest = client.config.credentials.base_url, fetched.manifest
            emit(
                event_of(each, server, manifest.skill_id, fetched.by_input)
                for each in manifest.ended
            )
            DocumentsTable().finish(fetched.manifest, output.folder.url)
    result = fetched.result
    run_logger().info(summary(fetched.manifest, output.folder.url))
    check_quality(fetched.manifest, str(result["manifest"]), chosen)
    return result


def _running() -> tuple[str, str, str]:
    """Return an identifier of the run that is the same in each try, the flow's name, and a display
    name."""

    flow, running = FlowRunContext.get(), TaskRunContext.get()
    if running is None and flow is None:
        return str(uuid.uuid4()), fetch_completed.name, fetch_completed.name
    if flow is None or flow.flow_run is None:
        return task_key().scope, fetch_completed.name, fetch_completed.name
    # A flow may fetch several times. Prefect gives each call a random key. A later try of the flow
    # identifies the call by its position among the calls, which are counted where Prefect counts
    # calls.
    calls = flow.task_run_dynamic_keys
    prefix = "abbyy-vantage-fetch/"
    own = f"{prefix}{running.task_run.id if running is not None else uuid.uuid4()}"
    number = calls.setdefault(own, sum(key.startswith(prefix) for key in calls))
    name = flow.flow.name if flow.flow is not None else fetch_completed.name
    return task_key(str(number)).scope, name, flow.flow_run.name
