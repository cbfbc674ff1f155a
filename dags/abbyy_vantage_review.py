# SPDX-License-Identifier: Apache-2.0
"""### Documents that people review, with a deadline

Sends files to a skill of ABBYY Vantage and, where the skill requires a manual review,
notifies people and waits for three days. Results land in a folder of the run.

* The time that ABBYY Vantage itself may take (`timeout`) and the time that people may take
  (`review_timeout`) are two limits. The task is deferred meanwhile and takes no worker slot.
* The notification contains the address of a page in Airflow with a button for each review. It does
  not contain ABBYY Vantage's own review link, which opens the review for anyone who has it.
* After three days the task fails, without retries; the results of all other documents have landed.
  Clear it when the review is done: it continues and sends nothing again.
* `on_review="return"` ends the task without the documents in review, `"fail"` fails it as soon as
  one needs a person.
* Connection and folders are set at the top of the file. Anyone who may trigger the DAG can choose
  what is below these folders, but no other file and no other account. Folders are paths, or URLs of
  any store that Airflow's object storage supports, such as `s3://CONNECTION@BUCKET/in`.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

import pendulum
from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, dag

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator
from vantage_orchestration.airflow.storage import below
from vantage_orchestration.errors import WaitTimeout

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Anyone who may trigger this DAG chooses its params. So the connection and the folders are fixed
#: here, or in the environment of the workers, and the params only name what is below them.
CONN_ID = os.environ.get("ABBYY_VANTAGE_DAGS_CONN_ID", "abbyy_vantage_default")
INPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_INPUTS", "/var/lib/abbyy-vantage/in")
OUTPUTS = os.environ.get("ABBYY_VANTAGE_DAGS_OUTPUTS", "/var/lib/abbyy-vantage/out")
#: Seconds that people may take, from when the first of them is needed.
REVIEW_TIMEOUT = 3 * 86_400.0


def tell(context: Context) -> None:
    """Say that somebody is needed.

    Any of Airflow's notifiers can be in this place, with `{{ abbyy_vantage_review.page }}` in its
    text, for example `SmtpNotifier` or `SlackWebhookNotifier`.
    """
    review = context["abbyy_vantage_review"]
    logging.getLogger(__name__).warning(
        "%d documents wait for a review until %s: %s",
        len(review["transaction_ids"]),
        review["deadline"],
        review["page"],
    )


@dag(
    dag_id="abbyy_vantage_review",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["abbyy-vantage", "documents"],
    user_defined_macros={"inputs": partial(below, INPUTS), "outputs": partial(below, OUTPUTS)},
    params={
        "folder": Param("", type="string", title="Folder with the documents, below INPUTS"),
        "pattern": Param("*.pdf", type="string", minLength=1, title="Names of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
    },
)
def abbyy_vantage_review() -> None:
    VantageProcessDocumentsOperator(
        task_id="process",
        inputs="{{ inputs(params.folder, params.pattern) }}",
        output_path="{{ outputs(run_id) }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id=CONN_ID,
        timeout=3600.0,
        on_review="wait",
        review_timeout=REVIEW_TIMEOUT,
        review_notifiers=[tell],
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
        # Each retry would give people three more days.
        retry_policy=ExceptionRetryPolicy(
            rules=[RetryRule(exception=WaitTimeout, action=RetryAction.FAIL)]
        ),
    )


abbyy_vantage_review()
