# SPDX-License-Identifier: Apache-2.0
"""A Dag in which each task uses an operator or the sensor in another way.

A task takes the files whose names begin with its own, and writes into a folder of that name.
"""

from __future__ import annotations

import logging
from typing import Any

import pendulum
from airflow.sdk import Asset, Context, Param, dag

from vantage_orchestration.airflow.operators.vantage import (
    VantageDeleteTransactionsOperator,
    VantageDownloadResultsOperator,
    VantageProcessDocumentsOperator,
    VantageSubmitOperator,
)
from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor

CONNECTION = {"abbyy_vantage_conn_id": "{{ params.conn_id }}"}
SENDING = {**CONNECTION, "skill": "{{ params.skill }}"}
QUICK = {"poke_interval": 1, "max_poke_interval": 1}
FILES = "{{ params.folder }}/{{ task.task_id }}-*.pdf"
OUTPUT = "{{ params.output }}/{{ task.task_id }}"
PROCESS = {**SENDING, **QUICK, "output_path": OUTPUT}


def told(context: Context) -> None:
    review = context["abbyy_vantage_review"]
    logging.getLogger(__name__).info("told of %d reviews", len(review["transaction_ids"]))


def process(task_id: str, **options: Any) -> VantageProcessDocumentsOperator:
    return VantageProcessDocumentsOperator(
        task_id=task_id, **{**PROCESS, "inputs": FILES, "review_notifiers": [told], **options}
    )


def sensor(task_id: str, ids: Any, **options: Any) -> VantageTransactionsSensor:
    return VantageTransactionsSensor(
        task_id=task_id,
        transaction_ids=ids,
        review_notifiers=[told],
        **{**CONNECTION, **QUICK, **options},
    )


@dag(
    dag_id="operators",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": pendulum.duration(hours=1)},
    params={name: Param(type="string") for name in ("folder", "output", "skill", "conn_id")},
)
def operators() -> None:
    process(
        "deferred",
        inputs=["{{ params.folder }}/deferred-2.pdf", FILES],
        outlets=[Asset("x-operators://results")],
        registration_parameters={"Batch": "{{ run_id }}"},
        skill_parameters={"Note": "{{ task.task_id }}"},
    )
    process("in_worker", deferrable=False, on_review="return", result_types=["{{ 'Fields' }}Json"])
    process("waits")
    process("returns", on_review="return")
    process("fails", on_review="fail")
    process("not_durable", on_review="fail", durable=False)
    process(
        "moves",
        abbyy_vantage_conn_id="{{ params.conn_id }}{{ '_moved' if ti.try_number > 1 else '' }}",
        output_path=OUTPUT + "/{{ ti.try_number }}",
    )
    process("late", review_timeout=0)
    process("gone", review_timeout=0, inputs=["{{ params.folder }}/gone-1.pdf", FILES])
    process("rules", fail_on_rule_errors=True)
    process("deletes", delete_after=True, output_path=OUTPUT + "/{class}")
    process("failing")
    VantageProcessDocumentsOperator.partial(task_id="collide", **PROCESS).expand(
        inputs=["{{ params.folder }}/collide-1.pdf", "{{ params.folder }}/collide-2.pdf"]
    )
    refused: list[dict[str, Any]] = [
        {"inputs": "{{ params.folder }}/nowhere.pdf"},
        {"inputs": "{{ params.folder }}"},
        {"skill": " "},
        {"registration_parameters": {f"Key {number}": "x" for number in range(10)}},
        {"result_types": "fieldjson"},
        {"quarantine_path": "{{ params.folder }}"},
        {"output_path": "{{ params.output }}/{skill}"},
    ]
    VantageProcessDocumentsOperator.partial(task_id="refused", **QUICK).expand_kwargs(
        [
            {
                **SENDING,
                "inputs": "{{ params.folder }}/refused-1.pdf",
                "output_path": OUTPUT + "/{{ ti.map_index }}",
                **each,
            }
            for each in refused
        ]
    )

    steps = VantageSubmitOperator(task_id="steps", inputs=FILES, **SENDING)
    download = VantageDownloadResultsOperator(
        task_id="download",
        transaction_ids=steps.output,
        output_path=OUTPUT + "/{class}",
        **CONNECTION,
    )
    delete = VantageDeleteTransactionsOperator(
        task_id="delete", transaction_ids=steps.output, **CONNECTION
    )
    sensor("sense", steps.output, skill="{{ params.skill }}") >> download >> delete

    more = VantageSubmitOperator(task_id="more", inputs=FILES, **SENDING)
    first, second = (f"{{{{ ti.xcom_pull(task_ids='more')[{number}] }}}}" for number in (0, 1))
    more >> sensor("poke", first, deferrable=False)
    more >> sensor("reschedule", second, deferrable=False, mode="reschedule")

    bad = VantageSubmitOperator(task_id="bad", inputs=FILES, **SENDING)
    first, second = (f"{{{{ ti.xcom_pull(task_ids='bad')[{number}] }}}}" for number in (0, 1))
    bad >> sensor("sense_failed", first)
    bad >> sensor("sense_late", second, review_timeout=0)


def arguments_as_text() -> None:
    """Use arguments that Jinja has rendered to texts, and a skill by its name."""
    files = "[params.folder ~ '/rendered-1.pdf', params.folder ~ '/rendered-2.pdf']"
    rendered = VantageSubmitOperator(
        task_id="rendered",
        inputs=f"{{{{ {files} }}}}",
        skill="{{ 'Invoice' }}",
        skill_parameters={"Note": 5},
        **CONNECTION,
    )
    ids = "{{ ti.xcom_pull(task_ids='rendered') }}"
    download = VantageDownloadResultsOperator(
        task_id="rendered_download",
        transaction_ids=ids,
        output_path=OUTPUT,
        result_types="{{ ['fieldsjson'] }}",
        **CONNECTION,
    )
    delete = VantageDeleteTransactionsOperator(
        task_id="rendered_delete", transaction_ids=ids, **CONNECTION
    )
    sense = sensor("rendered_sense", ids, skill="Invoice", deferrable=False)
    rendered >> sense >> download >> delete
    sensor("rendered_wrong", "{{ 'the ids' }}")
    VantageDeleteTransactionsOperator(
        task_id="rendered_object", transaction_ids="{{ range(2) }}", **CONNECTION
    )
    VantageDeleteTransactionsOperator(
        task_id="no_connection",
        transaction_ids="0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f",
        abbyy_vantage_conn_id="nobody_knows",
        retries=0,
    )


def nothing_to_do() -> None:
    """Give each operator an empty list, as templates and tasks that were skipped give them."""
    process("nothing_process", inputs=[])
    process("nothing_fits", inputs="{{ params.folder }}/none-*.pdf", on_empty="skip")
    submit = VantageSubmitOperator(task_id="nothing_submit", inputs="{{ [] }}", **SENDING)
    VantageDownloadResultsOperator(
        task_id="nothing_download", transaction_ids=[], output_path=OUTPUT, **CONNECTION
    )
    sensor("nothing_sense", "{{ [] }}")
    ids = "{{ ti.xcom_pull(task_ids='nothing_submit') }}"
    submit >> VantageDeleteTransactionsOperator(
        task_id="nothing_delete", transaction_ids=ids, trigger_rule="all_done", **CONNECTION
    )


@dag(
    dag_id="arguments",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": pendulum.duration(hours=1)},
    params={name: Param(type="string") for name in ("folder", "output", "skill", "conn_id")},
)
def arguments() -> None:
    arguments_as_text()
    nothing_to_do()


operators()
arguments()
