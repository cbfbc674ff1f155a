# SPDX-License-Identifier: Apache-2.0
"""Runs watchers of completed transactions, and runs of the Dags that they wake.

Run by ``zygote``, like ``inside``; arguments and results are plain JSON.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from foreign import foreign

from vantage_orchestration.airflow.triggers import completed
from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger
from vantage_orchestration.sandbox import SandboxControl


def watch(
    kwargs: dict[str, Any],
    looks: int,
    url: str = "",
    actions: dict[str, list[list[Any]]] | None = None,
    seconds: float = 60.0,
) -> dict[str, Any]:
    """Let a watcher look some times.

    Args:
        kwargs: Arguments of the trigger.
        looks: Number of looks.
        url: Address of the sandbox.
        actions: What is done before a look, the first being 0: names and arguments of functions of
            its control client; or ``fetch`` with a folder and a run.
        seconds: It ends then at the latest.

    Returns:
        What each look has found, with the events by the number of the look that they belong to.
    """
    trigger = VantageTransactionCompletedTrigger(**kwargs)
    trigger.poke_interval = 0.01
    found: list[Any] = []
    events: dict[int, dict[str, Any]] = {}
    real = completed.CompletedPoller.due

    async def due(self: Any) -> Any:
        if len(found) == looks:
            over.set()
            await asyncio.Event().wait()
        for name, arguments in (actions or {}).get(str(len(found)), []):
            if name == "fetch":
                await asyncio.to_thread(fetch, kwargs, **arguments)
            else:
                await asyncio.to_thread(getattr(SandboxControl(url), name), **arguments)
        names = await real(self)
        found.append(None if names is None else sorted(names))
        return names

    async def run() -> None:
        async for event in trigger.run():
            events[len(found) - 1] = json.loads(json.dumps(event.payload))

    async def live() -> None:
        task = asyncio.create_task(run())
        waiting = [task, asyncio.create_task(over.wait())]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    completed.CompletedPoller.due = due  # type: ignore[method-assign]
    over = asyncio.Event()
    asyncio.run(live())
    return {"looks": found, "events": {str(number): each for number, each in events.items()}}


def fetch(kwargs: dict[str, Any], run: str, consumer: str = "dag.fetch", **wanted: Any) -> None:
    """Fetch what is due, as the operator does."""
    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.completed.fetching import fetch_due
    from vantage_orchestration.completed.inbox import CompletedFilter, Inbox
    from vantage_orchestration.options import Options
    from vantage_orchestration.processing.routing import Output
    from vantage_orchestration.storage import Location

    state = Location.of(kwargs["state_path"])
    client = VantageHook(kwargs["abbyy_vantage_conn_id"]).client
    who = Inbox(client, state, kwargs["skill"]).consumer(
        consumer, CompletedFilter.of(Options.of(**wanted))
    )
    output = Output(state.child("out"))
    fetch_due(client, who, output, run=run, label=run, options=Options())


def arguments() -> dict[str, Any]:
    """Make triggers of good and of wrong arguments, and send one through Airflow's storage."""
    import sys

    from airflow.models.trigger import Trigger
    from airflow.sdk import Asset, AssetWatcher
    from airflow.serialization.decoders import smart_decode_trigger_kwargs
    from airflow.serialization.encoders import encode_trigger
    from airflow.triggers.base import BaseEventTrigger

    from vantage_orchestration.airflow.operators.vantage import VantageFetchCompletedOperator

    wrong: list[dict[str, Any]] = [
        {"poke_interval": 0.5},
        {"poke_interval": float("nan")},
        {"overlap": -1},
        {"overlap": float("inf")},
        {"abbyy_vantage_conn_id": ""},
        {"state_path": " "},
    ]
    wrong_tasks: list[dict[str, Any]] = [
        {"statuses": ()},
        {"statuses": "Processed"},
        {"statuses": ("Done",)},
        {"since": "yesterday"},
        {"since": "P1D"},
        {"overlap": -1},
        {"output_path": "/out/{{ run_id }}"},
    ]
    refused = []
    for each in wrong:
        try:
            VantageTransactionCompletedTrigger(**{"state_path": "/state", **each})
        except ValueError as error:
            # A triggerer that gets them from the database survives no other error.
            if isinstance(error, TypeError):
                refused.append(each)
    for each in wrong_tasks:
        try:
            VantageFetchCompletedOperator(task_id="t", **{"output_path": "/out", **each})
        except ValueError:
            refused.append(each)
    trigger = VantageTransactionCompletedTrigger("s3://c@b/state", "Receipt", "c", 30.0, 60.0)
    Asset(name="a", uri="x-b://c", watchers=[AssetWatcher(name="w", trigger=trigger)])
    encoded = encode_trigger(trigger)
    row = Trigger(encoded["classpath"], encoded["kwargs"])
    again = {
        key: smart_decode_trigger_kwargs(value)
        for key, value in foreign(Trigger, "_decrypt_kwargs")(row.encrypted_kwargs).items()
    }
    hashes = {
        BaseEventTrigger.hash(encoded["classpath"], kwargs)
        for kwargs in (
            encoded["kwargs"],
            again,
            VantageTransactionCompletedTrigger(**again).serialize()[1],
        )
    }
    return {
        "wrong": json.loads(json.dumps([*wrong, *wrong_tasks])),
        "refused": json.loads(json.dumps(refused)),
        "kwargs": trigger.serialize()[1],
        "again": VantageTransactionCompletedTrigger(**again).serialize()[1],
        "same": len(hashes) == 1,
        "client_loaded": "vantage_orchestration.client" in sys.modules,
    }


def add_events(asset: str, extras: list[dict[str, Any]]) -> None:
    """Store events of an asset, and start nothing."""
    from airflow import settings
    from airflow.models.asset import AssetEvent, AssetModel
    from sqlalchemy import select

    session = settings.Session()
    found = session.scalars(select(AssetModel).where(AssetModel.name == asset)).one()
    session.add_all(AssetEvent(asset_id=found.id, extra=extra) for extra in extras)
    session.commit()
