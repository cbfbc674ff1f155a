# SPDX-License-Identifier: Apache-2.0
"""Names that have moved between the releases of Airflow 3.

Each branch says with which lowest version of Airflow it may go.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vantage_orchestration.host import airflow_version

__all__ = [
    "AIRFLOW",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "BaseHook",
    "BaseXCom",
    "change_method",
    "conf",
    "dag_details",
    "mask_here",
    "mask_secret",
    "require",
    "review_right",
    "server_connection",
]

#: Major and minor version of the Airflow that is installed.
AIRFLOW = airflow_version()[:2]


def require(version: tuple[int, int], what: str) -> None:
    """Refuse a feature, the subject of a sentence, that the installed Airflow lacks. Raised while a
    DAG is parsed, the ValueError is shown as its import error."""
    if version > AIRFLOW:
        raise ValueError(
            f"{what} needs Airflow {version[0]}.{version[1]} or later;"
            f" this is {AIRFLOW[0]}.{AIRFLOW[1]}"
        )


if TYPE_CHECKING or AIRFLOW >= (3, 2):
    from airflow.sdk import BaseXCom, conf
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )
else:  # May go with 3.2.
    from airflow.configuration import conf
    from airflow.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )
    from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING or AIRFLOW >= (3, 1):
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret
else:  # May go with 3.1.
    from airflow.hooks.base import BaseHook
    from airflow.sdk.execution_time.secrets_masker import mask_secret

if TYPE_CHECKING or AIRFLOW >= (3, 1):
    from airflow.sdk._shared.secrets_masker import mask_secret as mask_here
else:  # May go with 3.1.

    def mask_here(secret: Any, name: str | None = None) -> None:
        """Mask a secret in this process alone; Airflow's own function also sends it."""
        from airflow.sdk.execution_time.secrets_masker import _secrets_masker

        _secrets_masker().add_mask(secret, name)


def change_method(kind: Any, name: str, change: Callable[..., Any]) -> bool:
    """Call ``change``, with the method and its arguments, in place of a method of an Airflow class.

    A class is changed once. Return whether it exists: it may be None.
    """
    # Its own method only: that of a base class may have been changed in another way.
    if kind is not None and not hasattr(vars(kind).get(name), "abbyy_vantage"):
        method = getattr(kind, name)

        @functools.wraps(method)
        def changed(*args: Any, **kwargs: Any) -> Any:
            return change(method, *args, **kwargs)

        changed.abbyy_vantage = True  # type: ignore[attr-defined]
        setattr(kind, name, changed)
    return kind is not None


def server_connection(conn_id: str, team: str | None = None) -> Any:
    """Return a connection as Airflow's servers find it: environment, secrets backends, database.
    Airflow takes a team from 3.2 on."""
    from airflow.models import Connection

    return Connection.get_connection_from_secrets(conn_id, *((team,) if team else ()))


def review_right() -> Any:
    """Return what of a Dag somebody must be allowed to change to answer for a person.

    That is the Dag's required actions, and below 3.1, which has none, its task instances.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

    return DagAccessEntity.HITL_DETAIL if AIRFLOW >= (3, 1) else DagAccessEntity.TASK_INSTANCE


def dag_details(dag_id: str, team: str | None) -> Any:
    """Return what names a Dag to an auth manager; Airflow has teams from 3.1 on."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

    return DagDetails(id=dag_id, team_name=team) if AIRFLOW >= (3, 1) else DagDetails(id=dag_id)
