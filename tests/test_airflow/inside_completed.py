# SPDX-License-Identifier: Apache-2.0
"""Runs watchers of completed transactions as the triggerer does.

Run by ``zygote``, like ``inside``; arguments and results are plain JSON.

The shared stream is Airflow's own. What is here in its place are the triggerer's two processes: one
asks the trigger for events, the other stores them and says so. Both, and the store of the cursor,
can be killed at any step: from then on nothing that they do has an effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pendulum
from airflow.triggers.shared_stream import SharedStreamManager

from vantage_orchestration.airflow.triggers import completed
from vantage_orchestration.airflow.triggers.completed import VantageTransactionCompletedTrigger
from vantage_orchestration.completed import Cursor, listing
from vantage_orchestration.sandbox import SandboxControl


class Killed(BaseException):
    """The process was killed."""


class World:
    """What outlives a triggerer: stored events, and the stored cursor of each watcher."""

    def __init__(self, stores: dict[str, dict[str, Any]]) -> None:
        self.stores = stores
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.kill_at: int | None = None
        self.steps = 0

    @property
    def dead(self) -> bool:
        return self.kill_at is not None and self.steps >= self.kill_at

    def step(self) -> None:
        if self.dead:
            raise Killed
        self.steps += 1


class AssetStore:
    """The asset state store of one asset."""

    _total = 1

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._values = world.stores.setdefault(name, {})

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(0)
        return copy.deepcopy(self._values.get(key, default))

    async def aset(self, key: str, value: Any) -> None:
        self._world.step()
        await asyncio.sleep(0)
        assert len(json.dumps(value)) < 64 * 1024
        self._values[key] = copy.deepcopy(value)
        self._world.step()

    async def adelete(self, key: str) -> None:
        self._world.step()
        self._values.pop(key, None)


class Triggerer:
    """One life of a triggerer with some watchers.

    Args:
        world: What outlives it.
        after_round: Called with the number of rounds that have ended.
        rounds: Rounds that each watcher has to end before the life is over.
    """

    def __init__(
        self, world: World, rounds: int = 1, after_round: Callable[[int], None] | None = None
    ) -> None:
        self.world = world
        self.rounds = rounds
        self.after_round = after_round
        self.manager = SharedStreamManager()
        self.outbound: deque[tuple[str, dict[str, Any], int | None]] = deque()
        self.done: dict[str, int] = {}
        self.errors: dict[str, BaseException] = {}

    async def watch(self, number: int, name: str, kwargs: dict[str, Any], join_after: int) -> None:
        trigger = VantageTransactionCompletedTrigger(**kwargs)
        trigger.asset_state_store = AssetStore(self.world, name)  # type: ignore[assignment]
        while join_after and max(self.done.values()) < join_after:
            await asyncio.sleep(0.005)
        key = trigger.shared_stream_key()
        raw = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)

        async def counted() -> Any:
            async for looks, look in raw:
                yield looks, look
                if look.last:
                    self.done[name] += 1
                    if self.after_round and number == 1:
                        await asyncio.to_thread(self.after_round, self.done[name])

        try:
            async for event in trigger.filter_shared_stream(counted()):
                self.world.step()
                json.dumps(event.payload)
                seq = self.manager.bind_pending_event(trigger_id=number, key=key)
                self.outbound.append((name, event.payload, seq))
        except (Exception, Killed) as error:
            self.errors[name] = error
        finally:
            await self.manager.unsubscribe(number, key)

    async def store_events(self) -> None:
        while True:
            stored = []
            while self.outbound:
                name, payload, seq = self.outbound.popleft()
                self.world.step()
                self.world.events.append((name, payload))
                self.world.step()
                stored.append(seq)
            self.manager.confirm_persisted(seq for seq in stored if seq is not None)
            await asyncio.sleep(0.001)

    async def live(self, watchers: list[dict[str, Any]], seconds: float) -> None:
        self.done = {watcher["name"]: 0 for watcher in watchers}
        tasks = [
            asyncio.create_task(
                self.watch(number, watcher["name"], watcher["kwargs"], watcher.get("join_after", 0))
            )
            for number, watcher in enumerate(watchers, 1)
        ]
        database = asyncio.create_task(self.store_events())
        end = asyncio.get_running_loop().time() + seconds
        while (
            not self.world.dead
            and not database.done()
            and any(n < self.rounds and name not in self.errors for name, n in self.done.items())
            and asyncio.get_running_loop().time() < end
        ):
            await asyncio.sleep(0.002)
        for task in [*tasks, database]:
            task.cancel()
        for task in [*tasks, database]:
            with contextlib.suppress(asyncio.CancelledError, Killed):
                await task
        await self.manager.stop_all()


def watch(
    watchers: list[dict[str, Any]],
    state: str,
    rounds: int = 1,
    seconds: float = 60.0,
    url: str = "",
    actions: dict[str, list[list[Any]]] | None = None,
    ahead: float = 0.0,
) -> dict[str, Any]:
    """Let watchers live for some rounds.

    Args:
        watchers: For each ``name``, ``kwargs``, and ``join_after``: rounds before it comes.
        state: File that keeps what the stores hold between two lives.
        rounds: Rounds of each watcher.
        seconds: The life ends then at the latest.
        url: Address of the sandbox.
        actions: What is done after a round: names and arguments of functions of its control
            client; ``usurp`` opens the cursor of a watcher in a second process.
        ahead: Seconds by which the watchers' clock is ahead, like that of the sandbox.
    """
    listing._now = lambda: pendulum.now("UTC").add(microseconds=round(ahead * 1e6))
    file = Path(state)
    world = World(json.loads(file.read_text()) if file.exists() else {})

    def act(number: int) -> None:
        for name, arguments in (actions or {}).get(str(number), []):
            if name == "usurp":
                kwargs = watchers[0]["kwargs"]
                scope = f"{kwargs['conn_id']}\0{kwargs['skill_id']}"
                store = AssetStore(world, watchers[0]["name"])
                asyncio.run(Cursor([store], scope).open())  # type: ignore[list-item]
            else:
                getattr(SandboxControl(url), name)(**arguments)

    triggerer = Triggerer(world, rounds, act)
    asyncio.run(triggerer.live(watchers, seconds))
    file.write_text(json.dumps(world.stores))
    return {
        "events": world.events,
        "rounds": triggerer.done,
        "errors": {name: type(error).__name__ for name, error in triggerer.errors.items()},
    }


def kill_everywhere(
    kwargs: dict[str, Any], url: str, count: int, first_look: bool, together: int
) -> dict[str, Any]:
    """Kill a watcher at each of its steps, once per life, and let another one go on.

    Args:
        kwargs: Arguments of the trigger.
        url: Address of the sandbox.
        count: Transactions that end before the life that is killed.
        first_look: Kill the watcher at its very first look, else at its second.
        together: Transactions that are handed over together.
    """
    completed._TOGETHER = together
    before: dict[str, dict[str, Any]] = {}

    def life(world: World, kill_at: int | None) -> None:
        world.steps, world.kill_at = 0, kill_at
        watchers = [{"name": "asset", "kwargs": kwargs}]
        asyncio.run(Triggerer(world).live(watchers, 60.0))

    if not first_look:
        empty = World(before)
        life(empty, None)
        assert empty.events == []
    SandboxControl(url).receive_many(count, kwargs["skill_id"])
    found = []
    kill_at = 0
    while True:
        world = World(copy.deepcopy(before))
        life(world, kill_at)
        killed = world.dead
        told = len(world.events)
        life(world, None)
        again = len(world.events)
        life(world, None)
        found.append(
            {
                "killed_at": kill_at,
                "told": [payload["transaction_id"] for _, payload in world.events],
                "marked": [
                    payload["transaction_id"] for _, payload in world.events if payload["repeated"]
                ],
                "before": told,
                "after_third": len(world.events) - again,
            }
        )
        if not killed:
            return {"lives": found, "steps": kill_at}
        kill_at += 1


def arguments() -> dict[str, Any]:
    """Make triggers of good and of wrong arguments, and send one through Airflow's storage."""
    import sys

    from airflow.models.trigger import Trigger
    from airflow.sdk import Asset, AssetWatcher
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors
    from airflow.serialization.decoders import smart_decode_trigger_kwargs
    from airflow.serialization.encoders import encode_trigger
    from airflow.triggers.base import BaseEventTrigger

    wrong: list[dict[str, Any]] = [
        {"statuses": ()},
        {"statuses": "Processed"},
        {"statuses": ("Done",)},
        {"poke_interval": 0.5},
        {"poke_interval": float("nan")},
        {"overlap": -1},
        {"overlap": float("inf")},
        {"since": "yesterday"},
        {"since": "P1D"},
        {"conn_id": ""},
    ]
    refused = []
    for each in wrong:
        try:
            VantageTransactionCompletedTrigger("Receipt", **each)
        except ValueError:
            refused.append(each)
    trigger = VantageTransactionCompletedTrigger(
        "Receipt", "c", ("Processed", "Failed"), 30.0, True, "2026-03-01T00:00:00Z", 60.0
    )
    Asset(name="a", uri="x-b://c", watchers=[AssetWatcher(name="w", trigger=trigger)])
    encoded = encode_trigger(trigger)
    row = Trigger(encoded["classpath"], encoded["kwargs"])
    again = {
        key: smart_decode_trigger_kwargs(value)
        for key, value in Trigger._decrypt_kwargs(row.encrypted_kwargs).items()
    }
    hashes = {
        BaseEventTrigger.hash(encoded["classpath"], kwargs)
        for kwargs in (
            encoded["kwargs"],
            again,
            VantageTransactionCompletedTrigger(**again).serialize()[1],
        )
    }
    stores = []
    for names in (["b"], ["b", "a"]):
        accessors = AssetStateStoreAccessors([Asset(name=n, uri=f"x-{n}://c") for n in names])
        stores.append([repr(each) for each in completed._stores_of(accessors)])
    return {
        "stores": stores,
        "wrong": json.loads(json.dumps(wrong)),
        "refused": json.loads(json.dumps(refused)),
        "kwargs": trigger.serialize()[1],
        "again": VantageTransactionCompletedTrigger(**again).serialize()[1],
        "same": len(hashes) == 1,
        "client_loaded": "vantage_orchestration.client" in sys.modules,
    }


def run_for_events(
    dag_id: str, asset: str, run_id: str, extras: list[dict[str, Any]], conf: dict[str, Any]
) -> dict[str, Any]:
    """Run a Dag as the scheduler does for events of an asset.

    Args:
        dag_id: Dag.
        asset: Name of the asset.
        run_id: Run.
        extras: What the events hold.
        conf: Parameters of the run.
    """
    import inside
    from airflow import settings
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select

    inside.start_run(dag_id, run_id, conf)
    session = settings.Session()
    found = session.scalars(select(AssetModel).where(AssetModel.name == asset)).one()
    run = session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one()
    for extra in extras:
        event = AssetEvent(asset_id=found.id, extra=extra)
        session.add(event)
        run.consumed_asset_events.append(event)
    session.commit()
    return inside.work(dag_id, run_id)
