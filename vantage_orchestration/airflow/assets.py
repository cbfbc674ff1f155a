# SPDX-License-Identifier: Apache-2.0
"""Asset events and lineage of tasks, and how a Dag takes each event once.

Airflow's OpenLineage provider calls ``get_openlineage_facets_on_start`` and
``get_openlineage_facets_on_complete`` of an operator, which return the result of :func:`datasets`.
Without that provider they are not called, so it need not be installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.airflow.context import scope_of
from vantage_orchestration.urls import StorageUrl

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Asset, AssetAlias, Context
    from airflow.sdk.definitions.asset import AssetRef

#: Seconds by which events may become visible after their timestamp.
_LATE: Final = 3600.0


def emit(context: Context, output: str, extra: Mapping[str, Any]) -> None:
    """Attach counts to the events of the running task's outlets.

    Airflow sends the events itself if the task succeeds. A deferred task must call this after it
    was resumed. An outlet that is an asset gets its event under its own address; an ``AssetAlias``
    gets one for the folder of the results. ``extra`` is stored and shown, so it must not be secret.
    """
    from airflow.sdk import Asset, AssetAlias
    from airflow.sdk.definitions.asset import AssetRef

    events = context["outlet_events"]
    for outlet in context["task"].outlets:
        # Other kinds, such as tables for lineage, have no events.
        if isinstance(outlet, AssetAlias):
            events[outlet].add(Asset(StorageUrl.of(output).url), extra=dict(extra))
        elif isinstance(outlet, (Asset, AssetRef)):
            events[outlet].extra.update(extra)


def take_events(
    asset: Asset | AssetAlias | AssetRef, *, state_path: Any, consumer: str | None = None
) -> list[dict[str, Any]]:
    """Return the events of an asset that no earlier run of the running task has taken.

    Use it in place of ``triggering_asset_events``. If events arrive together, such as those of
    mapped tasks, Airflow gives only the first to a run; the others go to a later run, or to none.
    This function reads all events of the asset and records which it has returned. A retried or
    cleared run gets the same events again, and newer ones.

    Call it in a task that has the asset as inlet: ``@task(inlets=[results])``. Events that arrive
    while a Dag is paused start no run: schedule the Dag by time as well (``AssetOrTimeSchedule``).

    Args:
        asset: Asset, as in the task's inlets: also ``Asset.ref(name="...")`` or an ``AssetAlias``.
        state_path: Folder for the record of taken events, a path or URL; the same in each run.
        consumer: Name under which events are recorded, by default Dag and task. Each name gets all
            events of the last 14 days.

    Returns:
        The ``extra`` of each event, the oldest first.

    Raises:
        Overtaken: Another run is taking events at this moment. A retry helps.
    """
    from airflow.sdk import get_current_context

    from vantage_orchestration.airflow.storage import location_of
    from vantage_orchestration.completed.inbox import STATE, now
    from vantage_orchestration.completed.listing import HOUR, KEPT_DAYS
    from vantage_orchestration.completed.notes import Notes
    from vantage_orchestration.errors import Overtaken
    from vantage_orchestration.processing.names import safe_name

    context = get_current_context()
    task = context["ti"]
    name = consumer or f"{task.dag_id}.{task.task_id}"
    run = scope_of(task)
    names = [getattr(asset, each, None) for each in ("name", "uri")]  # References have one.
    digest = hashlib.sha256(json.dumps([*names, name]).encode()).hexdigest()[:8]
    notes = Notes(location_of(state_path).child(STATE, "events", f"{safe_name(name)}-{digest}"))
    with notes.lease(run) as lease:
        if lease is None:
            raise Overtaken("Another run is taking events of the asset at this moment")
        before = notes.taken(run)
        floor = max(float(notes.read("after") or 0), now() - KEPT_DAYS * 86_400)
        begin = min([floor, *(hour * HOUR for _, hour in before)])
        events = {str(event.id): event for event in _events_after(context, asset, begin)}
        hours = {key: int(event.timestamp.timestamp()) // HOUR for key, event in events.items()}
        new = [key for key in notes.unknown(hours.items()) if hours[key] * HOUR + HOUR > floor]
        if new:
            notes.take(run, [(key, hours[key]) for key in new])
            notes.add(run, [(key, hours[key]) for key in new])
            latest = max(event.timestamp.timestamp() for event in events.values())
            notes.write("after", max(floor, latest - _LATE))
            notes.prune()
    mine = {*new, *(key for key, _ in before)}
    return [dict(event.extra or {}) for key, event in events.items() if key in mine]


def _events_after(context: Context, asset: Asset | AssetAlias | AssetRef, begin: float) -> Any:
    import pendulum

    events = context["inlet_events"][asset]
    # Older releases of Airflow lack this filter.
    after = getattr(events, "after", None)
    return events if after is None else after(pendulum.from_timestamp(begin).to_iso8601_string())


def datasets(inputs: Iterable[str], output: str | None) -> OperatorLineage[Any, Any]:
    """Return the datasets of a task: its files, each once, and the folder of its results, if any.

    Call it only from the methods named above: it needs the OpenLineage provider.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.extractors import OperatorLineage

    read = dict.fromkeys(dataset_name(url) for url in inputs)
    written = [] if output is None else [dataset_name(output)]
    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=name) for namespace, name in read],
        outputs=[Dataset(namespace=namespace, name=name) for namespace, name in written],
    )


def dataset_name(url: str) -> tuple[str, str]:
    """Return namespace and name of a file or folder by OpenLineage's naming conventions.

    Local files have the namespace ``file`` and the absolute path as name. HDFS names keep the
    leading slash too; in buckets the name is the key. Credentials and queries are left out.
    """
    place = StorageUrl.of(url)
    if place.scheme == "file":
        return (f"file://{place.authority}" if place.authority else "file"), place.path
    namespace = f"{place.scheme}://{place.authority}" if place.authority else place.scheme
    if place.scheme == "hdfs":
        return namespace, place.path
    return namespace, place.path.lstrip("/") or "/"
