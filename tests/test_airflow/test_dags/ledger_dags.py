# SPDX-License-Identifier: Apache-2.0
"""Dags whose tasks are killed once they have started something, or have no place for notes."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import Context, Param, dag, get_current_context, task

from vantage_orchestration.airflow.operators.vantage import (
    VantageProcessDocumentsOperator,
    VantageSubmitOperator,
)

RETRIES = {"retries": 5, "retry_delay": pendulum.duration(hours=1)}
OPTIONS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": RETRIES,
    "params": {name: Param("", type="string") for name in ("folder", "output", "skill", "conn_id")},
}
SENDING = {"skill": "{{ params.skill }}", "abbyy_vantage_conn_id": "{{ params.conn_id }}"}
FILE = "{{ params.folder }}/{{ task.task_id }}.pdf"


def own(file: str, skill: str, conn_id: str, state_path: str | None = None) -> list[Any]:
    """Process a file as a task of one's own does."""
    from vantage_orchestration.airflow.context import task_key
    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.processing import process_document

    client = VantageHook(conn_id).client
    return process_document(client, file, skill, task_key(file, state_path=state_path)).rows()


class WithoutState:
    """Runs as in an Airflow that has no task state store."""

    def execute(self, context: Context) -> Any:
        context.pop("task_state_store")  # type: ignore[misc]
        return super().execute(context)  # type: ignore[misc]


class BareSubmit(WithoutState, VantageSubmitOperator):
    pass


class BareProcess(WithoutState, VantageProcessDocumentsOperator):
    pass


@dag("killed", **OPTIONS)
def killed() -> None:
    VantageProcessDocumentsOperator(
        task_id="process",
        inputs=FILE,
        output_path="{{ params.output }}/process",
        deferrable=False,
        poke_interval=1,
        **SENDING,
    )
    VantageSubmitOperator.partial(task_id="submit", **SENDING).expand(
        inputs=["{{ params.folder }}/submit-1.pdf", "{{ params.folder }}/submit-2.pdf"]
    )
    task(task_id="own")(own)(
        "{{ params.folder }}/own.pdf", "{{ params.skill }}", "{{ params.conn_id }}"
    )


@dag("without_state", **OPTIONS)
def without_state() -> None:
    @task
    def own_bare(file: str, skill: str, conn_id: str, state_path: str) -> list[dict[str, Any]]:
        get_current_context().pop("task_state_store")
        return own(file, skill, conn_id, state_path or None)

    given = ("{{ params.skill }}", "{{ params.conn_id }}")
    BareSubmit(task_id="submit", inputs=FILE, **SENDING)
    BareSubmit(task_id="submit_to", inputs=FILE, state_path="{{ params.output }}/state", **SENDING)
    BareSubmit(task_id="submit_once", inputs=FILE, durable=False, **SENDING)
    BareProcess(
        task_id="process",
        inputs=FILE,
        output_path="{{ params.output }}/process",
        deferrable=False,
        poke_interval=1,
        **SENDING,
    )
    own_bare.override(task_id="own")("{{ params.folder }}/own.pdf", *given, "")
    own_bare.override(task_id="own_to")(
        "{{ params.folder }}/own_to.pdf", *given, "{{ params.output }}/state"
    )


killed()
without_state()
