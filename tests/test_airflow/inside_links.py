# SPDX-License-Identifier: Apache-2.0
"""What the tests of links, notifications and asset events do with Airflow loaded.

Run by ``zygote``, like ``inside``; arguments and results are plain JSON.
"""

from __future__ import annotations

from typing import Any

import inside
from airflow import settings
from airflow.models.asset import AssetEvent
from airflow.models.log import Log
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.triggers.base import TriggerEvent
from foreign import foreign
from sqlalchemy import delete, select


def tokens(roles: list[str]) -> dict[str, str]:
    """Return a login for a user of each role, as the login page makes it."""
    from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    init_auth_manager()
    users = {role: SimpleAuthManagerUser(username="somebody", role=role or None) for role in roles}
    return {role: get_auth_manager().generate_jwt(user) for role, user in users.items()}


def serve(calls: list[dict[str, Any]], most: int | None = None) -> list[dict[str, Any]]:
    """Send requests to an application that reads its settings now.

    Args:
        calls: ``method`` and ``path``; ``role`` of the user, if there is one; ``headers``.
        most: Requests to ABBYY Vantage that pages may make at the same time.
    """
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    from vantage_orchestration.airflow.pages import app, service

    if most is not None:
        app.desk = service.TransactionService(most=most)

    logins = tokens([call["role"] for call in calls if "role" in call])
    replies = []
    with TestClient(create_app(), follow_redirects=False) as client:
        for call in calls:
            headers = dict(call.get("headers", {}))
            if "role" in call:
                headers["Authorization"] = f"Bearer {logins[call['role']]}"
            reply = client.request(call["method"], call["path"], headers=headers)
            found = {"status": reply.status_code, "text": reply.text}
            replies.append({**found, "headers": dict(reply.headers)})
    return replies


def run_with_backend(folder: str, **run: Any) -> dict[str, Any]:
    """Run a Dag while XComs go into files, and return the result that the database holds."""
    import os

    from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
    from airflow.sdk.execution_time import task_runner

    os.environ["AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH"] = f"file://{folder}"
    os.environ["AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD"] = "0"
    # The class was chosen when the module was loaded, before this call's environment was known.
    task_runner.XCom = XComObjectStorageBackend
    return inside.run(**run)


def fire(dag_id: str, run_id: str) -> None:
    """Let the trigger of the only deferred task of a run end, as the triggerer does."""
    session = settings.Session()
    task = session.scalars(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag_id,
            TaskInstance.run_id == run_id,
            TaskInstance.state == "deferred",
        )
    ).one()
    Trigger.submit_event(task.trigger_id, TriggerEvent("it is time"), session=session)
    session.commit()


def xcoms(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return all XComs of a run, ``map index:key`` to value."""
    rows = settings.Session().scalars(
        select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id == run_id)
    )
    return {f"{row.map_index}:{row.key}": row.value for row in rows}


def set_xcom(dag_id: str, run_id: str, key: str, value: Any) -> None:
    """Change a stored XCom of the task ``watch``."""
    session = settings.Session()
    row = session.scalars(
        select(XComModel).where(
            XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == key
        )
    ).one()
    row.value = value
    session.commit()


def forget_rendered(run_id: str) -> None:
    """Remove the rendered fields of a run, as Airflow does with those of old runs."""
    session = settings.Session()
    fields = RenderedTaskInstanceFields
    session.execute(delete(fields).where(fields.run_id == run_id))
    session.commit()


def audit(event: str, run_id: str) -> list[dict[str, Any]]:
    """Return the entries of the audit log."""
    rows = settings.Session().scalars(select(Log).where(Log.event == event, Log.run_id == run_id))
    return [
        {"owner": row.owner, "dag_id": row.dag_id, "task_id": row.task_id, "extra": row.extra}
        for row in rows
    ]


def asset_events(run_id: str) -> dict[str, Any]:
    """Return the asset events that a run has sent, address of the asset to extra."""
    rows = settings.Session().scalars(select(AssetEvent).where(AssetEvent.source_run_id == run_id))
    return {row.asset.uri: row.extra for row in rows}


def plugins() -> dict[str, Any]:
    """Load all plugins as an API server does, and return what became of this package's."""
    from airflow import plugins_manager

    settings.LAZY_LOAD_PROVIDERS = False
    loaded, problems = foreign(plugins_manager, "_get_plugins")()
    apps, _ = plugins_manager.get_fastapi_plugins()
    return {
        "names": [plugin.name for plugin in loaded],
        "problems": problems,
        "prefixes": [item["url_prefix"] for item in apps],
    }


def known_links() -> list[str]:
    """Return the classes of extra links that providers have registered."""
    from airflow.providers_manager import ProvidersManager

    return list(ProvidersManager().extra_links_class_names)
