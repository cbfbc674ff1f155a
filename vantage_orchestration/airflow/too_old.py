# SPDX-License-Identifier: Apache-2.0
"""The entry of ``airflow providers hooks`` if Airflow is too old for the hook.

Airflow 2 shows an import error of a hook class only as "Error when importing hook!". So its
provider manager gets an importable class whose name says what is wrong.
"""

from __future__ import annotations

from typing import Any

from vantage_orchestration.airflow.connection import CONN_NAME_ATTR, CONN_TYPE, HOOK_NAME
from vantage_orchestration.host import airflow_version


def _refusal() -> str:
    try:
        airflow_version()
    except ImportError as error:
        return str(error)
    return ""


class VantageHook:
    """Stands in for the hook.

    Raises:
        ImportError: Airflow is too old or not installed.
    """

    conn_name_attr = CONN_NAME_ATTR
    conn_type = CONN_TYPE
    hook_name = f"{HOOK_NAME}: {_refusal()}"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        airflow_version()
