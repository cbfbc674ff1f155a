# SPDX-License-Identifier: Apache-2.0
"""### Documents from mail, scanner or phone

Starts when ABBYY Vantage has processed documents that came in by mail, scanner or phone, manual
review included, and downloads their results into a folder: one subfolder for each transaction,
named by its id, and a `manifest-...json` for each run that names what it has fetched.

* The service has no webhooks. A watcher in the triggerer reads its list of completed transactions
  once a minute, while this Dag is not paused. Transactions that were sent through the API, such as
  those of other Dags, are ignored.
* A run fetches all ended transactions that were not fetched before, whichever event has started it.
  So none is lost or fetched twice if many end at once, if some end during a run, or if the Dag is
  paused or Airflow is down for less than two weeks: the service keeps transactions for 14 days. The
  first run fetches all of these; set `SINCE` to exclude older ones.
* A folder `.abbyy-vantage` below `STATE` records what was fetched. Workers and triggerers must be
  able to reach it. To fetch the same in a second Dag, give it the same asset and `STATE`, and a
  separate `OUTPUT`.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Asset, AssetWatcher, dag

from vantage_orchestration.airflow.operators.vantage import VantageFetchCompletedOperator
from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger

#: Id or exact name of the skill.
SKILL = "workspace.default.processing"
CONN_ID = "abbyy_vantage_default"
#: Folder for the results: a path or URL that every worker can reach.
OUTPUT = "/var/lib/abbyy-vantage/completed"
#: Folder for the records of what was fetched, which every worker and triggerer can reach.
STATE = OUTPUT
#: Only transactions that were created since then, such as "2026-03-01T00:00:00Z"; None for all.
SINCE: str | None = None

completed_transactions = Asset(
    name="abbyy_vantage_completed_transactions",
    uri="x-abbyy-vantage://completed-transactions",
    watchers=[
        AssetWatcher(
            name="abbyy_vantage_completed_transactions",
            trigger=VantageTransactionCompletedTrigger(
                state_path=STATE, skill=SKILL, abbyy_vantage_conn_id=CONN_ID, poke_interval=60.0
            ),
        )
    ],
)
results = Asset(name="abbyy_vantage_results", uri="x-abbyy-vantage://results")


@dag(
    dag_id="abbyy_vantage_watcher",
    doc_md=__doc__,
    schedule=[completed_transactions],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["abbyy-vantage", "documents"],
)
def abbyy_vantage_watcher() -> None:
    VantageFetchCompletedOperator(
        task_id="fetch",
        output_path=OUTPUT,
        state_path=STATE,
        skill=SKILL,
        since=SINCE,
        abbyy_vantage_conn_id=CONN_ID,
        outlets=[results],
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
    )


abbyy_vantage_watcher()
