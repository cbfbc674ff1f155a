# SPDX-License-Identifier: Apache-2.0
"""Small Dags that tests run: each does one thing with the hook."""

from __future__ import annotations

import logging

import pendulum
from airflow.sdk import Param, dag, task

OPTIONS = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "params": {"conn_id": Param("abbyy_vantage_default", type="string")},
}
log = logging.getLogger(__name__)


@dag("count_skills", **OPTIONS)
def count_skills():
    @task(retries=3, retry_delay=pendulum.duration(seconds=1))
    def count(conn_id: str) -> int:
        from vantage_orchestration.airflow.hooks.vantage import VantageHook

        return len(VantageHook(conn_id).client.list_skills())

    count("{{ params.conn_id }}")


@dag("count_skills_async", **OPTIONS)
def count_skills_async():
    @task
    async def count(conn_id: str) -> str:
        from vantage_orchestration.airflow.hooks.vantage import VantageHook

        token = await VantageHook(conn_id).aget_token()
        # On purpose: the log must show a mask here.
        log.info("async token [%s]", token.reveal())
        print(f"async printed [{token.reveal()}]")
        return repr(token)

    count("{{ params.conn_id }}")


@dag("careless", **OPTIONS)
def careless():
    @task
    def show(conn_id: str) -> str:
        """Show what must not be shown, to prove masking, and that the search finds a secret."""
        from vantage_orchestration.airflow.hooks.vantage import VantageHook

        hook = VantageHook(conn_id)
        token = hook.get_token()
        credentials = hook.client.config.credentials
        for secret in (token.reveal(), *(item.reveal() for item in credentials.secrets)):
            log.info("logged [%s]", secret)
            print(f"printed [{secret}]")
        return token.reveal()

    show("{{ params.conn_id }}")


@dag("show_key", **OPTIONS)
def show_key():
    @task(retries=5, retry_delay=pendulum.duration(seconds=1))
    def key(part: str) -> list[str | None]:
        from vantage_orchestration.airflow.context import task_key

        own, named = task_key(), task_key(part)
        assert own.since == named.since
        return [own.scope, named.scope, own.since.isoformat() if own.since else None]

    key.expand(part=["a", "b"])


count_skills()
count_skills_async()
careless()
show_key()
