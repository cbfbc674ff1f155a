# SPDX-License-Identifier: Apache-2.0
"""Where Airflow tasks keep the notes of their transactions.

First as files below ``[abbyy_vantage] state_path``, then in Airflow's task state store if it exists
(3.3 and later). That store survives retries, deferral, and currently *Clear*.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any, Final

from vantage_orchestration.airflow.compat import conf, require
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.storage import location_of
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.ledger import FolderLedgers, LedgerStore, NumberedLedgers

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Section of airflow.cfg.
SECTION: Final = "abbyy_vantage"
#: Prefix of the keys in the task state store. Changing it loses running transactions.
_PREFIX: Final = "abbyy_vantage."
#: The service keeps a transaction for 14 days; one more because clocks differ.
_RETENTION: Final = datetime.timedelta(days=15)


def ledger_stores(context: Mapping[str, Any], state_path: Any = None) -> tuple[LedgerStore, ...]:
    """Return the places for a task's notes, besides its output folder."""
    stores: list[LedgerStore] = []
    path = state_path or conf.get(SECTION, "state_path", fallback="")
    if path:
        stores.append(FolderLedgers(location_of(path)))
    state = context.get("task_state_store")
    if state is not None:
        attempt = context["ti"].try_number
        stores.append(NumberedLedgers(TaskState(state), attempt, of_one_instance=True))
    return tuple(stores)


def check_place(state_path: Any) -> None:
    """Refuse a task that will have no place for notes, while its DAG is parsed."""
    if not (state_path or conf.get(SECTION, "state_path", fallback="")):
        require(
            (3, 3),
            "A durable VantageSubmitOperator without a state_path, of its own or in the section"
            f" [{SECTION}] of airflow.cfg,",
        )


def check_stores(stores: tuple[LedgerStore, ...]) -> None:
    """Refuse a running task that has no place for notes."""
    if not stores:
        error = ConfigurationError(
            "This task has no place where a later try finds the transactions that it starts",
            hint=f"Set state_path in the section [{SECTION}] of airflow.cfg, or"
            f" AIRFLOW__{SECTION.upper()}__STATE_PATH, to a folder that all workers can access: a"
            " path, or a URL such as s3://conn_id@bucket/folder",
        )
        raise translate(error)


class TaskState:
    """``context["task_state_store"]`` as :class:`vantage_orchestration.state.Values`.

    Airflow keeps it by run, task and map index.
    """

    label = "Airflow's task state store"

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, name: str) -> bytes | None:
        """Return a value; see :class:`vantage_orchestration.state.Values`."""
        value = self._store.get(_PREFIX + name)
        return None if value is None else json.dumps(value).encode()

    def write(self, name: str, value: bytes) -> None:
        """Write a value; see :class:`vantage_orchestration.state.Values`."""
        # As JSON data, which people can read in Airflow's web interface.
        self._store.set(_PREFIX + name, json.loads(value), retention=_RETENTION)
