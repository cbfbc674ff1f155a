# SPDX-License-Identifier: Apache-2.0
"""Asset events of a task: what Dags that are scheduled by its outlets get to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vantage_orchestration.urls import Place

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["emit"]


def emit(context: Context, output: str, extra: Mapping[str, Any]) -> None:
    """Put counts and the like into the events of the running task's outlets.

    Airflow sends the events itself if the task succeeds. A task that was deferred has to call
    this after it was resumed.

    Args:
        context: Context of the running task.
        output: URL or local path of the folder with the results. An outlet that is an asset gets
            its event under its own address; an ``AssetAlias`` gets one for this folder.
        extra: JSON to go along with each event. Nothing secret: it is stored and shown.
    """
    from airflow.sdk import Asset, AssetAlias
    from airflow.sdk.definitions.asset import AssetRef

    events = context["outlet_events"]
    for outlet in context["task"].outlets:
        # Other kinds (tables for lineage, for example) have no events.
        if isinstance(outlet, AssetAlias):
            events[outlet].add(Asset(Place.of(output).url), extra=dict(extra))
        elif isinstance(outlet, (Asset, AssetRef)):
            events[outlet].extra.update(extra)
