# SPDX-License-Identifier: Apache-2.0
"""Reads from a Prefect server what people and automations get to see there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from patience import wait_until
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from vantage_orchestration.prefect.events import PREFIX

T = TypeVar("T")


def until(condition: Callable[[], T]) -> T:
    """Wait until a condition holds; return what it gave."""
    return wait_until(condition, "what the server is to show", pause=0.1)


def told(*transaction_ids: str) -> list[Any]:
    """Return the stored events of some transactions, the oldest first."""
    return _events(
        resource=EventResourceFilter(id=[f"{PREFIX}.{each}" for each in transaction_ids])
    )


def told_in_the_end(count: int, *transaction_ids: str) -> list[Any]:
    """Return them when the server has stored that many."""
    return until(lambda: found if len(found := told(*transaction_ids)) >= count else None)


def events_named(name: str, resource_id: str) -> list[Any]:
    """Return the stored events of that name about a resource."""
    return _events(
        event=EventNameFilter(name=[name]), resource=EventResourceFilter(id=[resource_id])
    )


def artifacts(key: str) -> list[Any]:
    """Return all versions of an artifact; the key may end with ``%``."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(like_=key))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return sorted(found, key=lambda each: each.created)


def _events(**filters: Any) -> list[Any]:
    with get_client(sync_client=True) as client:
        found = client.read_events(EventFilter(**filters), limit=50).events
    return sorted(found, key=lambda each: each.occurred)
