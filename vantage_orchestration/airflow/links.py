# SPDX-License-Identifier: Apache-2.0
"""Extra link of a task instance to the page about its ABBYY Vantage transactions.

The link leads to a page in Airflow's own API server (:mod:`vantage_orchestration.airflow.pages`)
and is no credential. What the page needs is noted in two XComs: the connection's id with the ids
of the transactions, and the link. A review link, which holds a token, is in neither of them: the
page asks ABBYY Vantage for one at the moment in which somebody opens the review.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from vantage_orchestration.airflow.compat import BaseXCom, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

__all__ = [
    "RECORD_KEY",
    "URL_PREFIX",
    "Recorded",
    "TaskInstanceLike",
    "VantageTransactionLink",
    "page_path",
    "page_url",
    "record_transactions",
]

#: Key of the XCom that holds what :class:`Recorded` says.
RECORD_KEY: Final = "abbyy_vantage"
#: Where the API server serves the pages.
URL_PREFIX: Final = "/abbyy-vantage"


class TaskInstanceLike(Protocol):
    """What tells one task instance from all others; tasks, keys and the database have it."""

    @property
    def dag_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def map_index(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """The transactions of a task instance, and the id of the connection they belong to."""

    conn_id: str
    transaction_ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"conn_id": self.conn_id, "transaction_ids": list(self.transaction_ids)}

    @classmethod
    def read(cls, value: Any) -> Recorded | None:
        """Read what an XCom holds, an object or its JSON text; None if it is anything else."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        if not isinstance(value, Mapping):
            return None
        conn_id, ids = value.get("conn_id"), value.get("transaction_ids")
        if not isinstance(conn_id, str) or not isinstance(ids, list):
            return None
        if not conn_id or not all(isinstance(each, str) and each for each in ids):
            return None
        return cls(conn_id, tuple(dict.fromkeys(ids)))


class VantageTransactionLink(BaseOperatorLink):
    """Button of a task instance that leads to the page about its transactions.

    For operators: ``operator_extra_links = (VantageTransactionLink(),)``, and a call of
    :func:`record_transactions` as soon as the transactions are known. Without that call there is
    no button.
    """

    name = "ABBYY Vantage transactions"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the link, or nothing if the task has noted no transactions.

        Airflow calls this in the worker at the end of a try, and stores the result.
        """
        found = BaseXCom.get_value(ti_key=cast("Any", ti_key), key=RECORD_KEY)
        recorded = Recorded.read(found)
        return page_url(ti_key) if recorded is not None and recorded.transaction_ids else ""


def record_transactions(context: Context, conn_id: str, transaction_ids: Iterable[str]) -> None:
    """Note the transactions of the running task, so that the link and its page show them.

    Call it as soon as they are known: Airflow itself pushes links only when a process of the task
    ends in an orderly way, and deletes all XComs of a task at the begin of its next try. A second
    call replaces the first.

    Args:
        context: Context of the running task.
        conn_id: Id of the connection.
        transaction_ids: All transactions of the task.
    """
    task: TaskInstanceLike = context["ti"]
    recorded = Recorded(conn_id, tuple(dict.fromkeys(transaction_ids)))
    _push(task, RECORD_KEY, recorded.to_json())
    if recorded.transaction_ids:
        _push(task, VantageTransactionLink().xcom_key, page_url(task))


def page_path(task: TaskInstanceLike) -> str:
    """Return the page's path below the address of the API server."""
    index = str(_map_index(task))
    parts = ("dags", task.dag_id, "runs", task.run_id, "tasks", task.task_id, index)
    return "/".join([URL_PREFIX, *(quote(part, safe="") for part in parts)])


def page_url(task: TaskInstanceLike) -> str:
    """Return the page's address by Airflow's setting ``[api] base_url``.

    Where that is not set, the result is a path. Airflow's own pages understand it as well.
    """
    base: str = conf.get("api", "base_url", fallback="") or ""
    return base.rstrip("/") + page_path(task)


def _push(task: TaskInstanceLike, key: str, value: Any) -> None:
    # By the base class, as Airflow pushes links: another XCom backend may store a mere reference,
    # which the API server does not resolve.
    BaseXCom.set(
        key=key,
        value=value,
        dag_id=task.dag_id,
        task_id=task.task_id,
        run_id=task.run_id,
        map_index=_map_index(task),
    )


def _map_index(task: TaskInstanceLike) -> int:
    return -1 if task.map_index is None else task.map_index
