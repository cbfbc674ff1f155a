# SPDX-License-Identifier: Apache-2.0
"""### Documents that people review, with a deadline

Sends files to a skill of ABBYY Vantage and, where the skill asks for a manual review, tells
somebody and waits for three days. Results land in a folder of the run.

* The time that ABBYY Vantage itself may take (`timeout`) and the time that people may take
  (`review_timeout`) are two limits. The task is deferred all the time and takes no worker slot.
* Whoever is told gets the address of a page in Airflow with a button for each review. A review link
  of ABBYY Vantage itself would open the review for everybody who has it, so it is sent to nobody.
* When the three days are over, the task fails, once; the results of all other documents have
  landed. Clear it when the review is done: it goes on from there and sends nothing again.
* `on_review="return"` ends the task without the documents in review, `"fail"` fails it as soon as
  one needs a person.
* The account is in an Airflow Connection of the type `abbyy_vantage`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pendulum
from airflow.sdk import ExceptionRetryPolicy, Param, RetryAction, RetryRule, dag

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator
from vantage_orchestration.errors import WaitTimeout

if TYPE_CHECKING:
    from airflow.sdk import Context

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
    params={
        "inputs": Param(type="string", minLength=1, title="Path, glob or URL of the documents"),
        "skill": Param(type="string", minLength=1, title="Id or exact name of the skill"),
        "output": Param(type="string", minLength=1, title="Folder for the results of all runs"),
        "conn_id": Param(
            "abbyy_vantage_default", type="string", minLength=1, title="Id of the connection"
        ),
    },
)
def abbyy_vantage_review() -> None:
    VantageProcessDocumentsOperator(
        task_id="process",
        inputs="{{ params.inputs }}",
        output_path="{{ params.output }}/{{ run_id }}",
        skill="{{ params.skill }}",
        abbyy_vantage_conn_id="{{ params.conn_id }}",
        timeout=3600.0,
        on_review="wait",
        review_timeout=REVIEW_TIMEOUT,
        review_notifiers=[tell],
        retries=5,
        retry_delay=pendulum.duration(seconds=30),
        retry_exponential_backoff=2,
        max_retry_delay=pendulum.duration(minutes=10),
        # Each further try would give people three days more.
        retry_policy=ExceptionRetryPolicy(
            rules=[RetryRule(exception=WaitTimeout, action=RetryAction.FAIL)]
        ),
    )


abbyy_vantage_review()
