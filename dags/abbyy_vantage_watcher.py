# SPDX-License-Identifier: Apache-2.0
"""### What ABBYY Vantage has finished by itself

Starts when ABBYY Vantage has finished transactions that came in by mail, scanner or phone, manual
review included, and brings their results into a folder: one subfolder for each transaction, named
by its id, with a `manifest.json` that tells what is where.

* The service has no webhooks. A watcher in the triggerer looks at its list of completed
  transactions once a minute, while this Dag is not paused. What was sent through the API, by other
  Dags above all, is left out.
* What had ended before the watcher's first look is not brought. From then on each transaction
  starts a run once, also if it ends while Airflow is down for less than two weeks: the service
  keeps transactions for 14 days.
* Several transactions can share a run. After a crash of the triggerer a few may come twice; their
  results are in their place already then, and are not fetched again.
* The account is in an Airflow Connection of the type `abbyy_vantage`. Skill and connection are set
  at the top of the file, since the watcher has to know them before there is a run.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, AssetWatcher, Param, dag, task

from vantage_orchestration.airflow.operators.vantage import VantageDownloadResultsOperator
from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger

#: Id of the skill, as `VantageHook().client.list_skills()` or the address of its page shows it.
SKILL_ID = "workspace.default.processing"
CONN_ID = "abbyy_vantage_default"
#: Folder for the results, a path or URL in reach of every worker.
OUTPUT = "/var/lib/abbyy-vantage/completed"

completed_transactions = Asset(
    name="abbyy_vantage_completed_transactions",
    uri="x-abbyy-vantage://completed-transactions",
    watchers=[
        AssetWatcher(
            name="abbyy_vantage_completed_transactions",
            trigger=VantageTransactionCompletedTrigger(
                skill_id=SKILL_ID, conn_id=CONN_ID, poke_interval=60.0
            ),
        )
    ],
)


@dag(
    dag_id="abbyy_vantage_watcher",
    doc_md=__doc__,
    schedule=[completed_transactions],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["abbyy-vantage", "documents"],
    params={"output": Param(OUTPUT, type="string", minLength=1, title="Folder for the results")},
)
def abbyy_vantage_watcher() -> None:
    @task
    def transactions() -> list[str]:
        """Return the ids of the transactions that started this run, each once."""
        from airflow.sdk import get_current_context
        from airflow.sdk.exceptions import AirflowSkipException

        events = get_current_context()["triggering_asset_events"]
        ids = [
            event.extra["payload"]["transaction_id"]
            for event in events.get(completed_transactions, ())
            if event.extra.get("from_trigger")
        ]
        if not ids:
            raise AirflowSkipException("This run was not started by a transaction")
        return list(dict.fromkeys(ids))

    VantageDownloadResultsOperator(
        task_id="download",
        transaction_ids=transactions(),
        output_path="{{ params.output }}",
        abbyy_vantage_conn_id=CONN_ID,
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    )


abbyy_vantage_watcher()
