# SPDX-License-Identifier: Apache-2.0
"""Extra link of a task instance to the page about its ABBYY Vantage transactions.

The link leads to a page in Airflow's own API server (:mod:`vantage_orchestration.airflow.pages`)
and is not a credential. One XCom holds the ids of the transactions, another the link. Users may
write XComs, so the page uses the connection that the task itself declares in its field
``abbyy_vantage_conn_id``. A review link, which holds a token, is never stored: the page requests
one from ABBYY Vantage when somebody opens the review.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

from vantage_orchestration.airflow.compat import BaseXCom, conf
from vantage_orchestration.airflow.record import Record

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

#: Key of the XCom that holds a :class:`.record.Record`.
RECORD_KEY: Final = "abbyy_vantage"
#: Where the API server serves the pages.
URL_PREFIX: Final = "/abbyy-vantage"


class TaskInstanceLike(Protocol):
    """The identity of a task instance, as tasks, keys and database rows have it."""

    @property
    def dag_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def map_index(self) -> int | None: ...


class VantageTransactionLink(BaseOperatorLink):
    """A task instance's button to the page about its transactions.

    For operators: ``operator_extra_links = (VantageTransactionLink(),)``, the connection's id as
    the template field ``abbyy_vantage_conn_id``, and a call of :func:`record_transactions` as soon
    as the transactions are known. Without that call there is no button.
    """

    name = "ABBYY Vantage transactions"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the link; empty if the task has recorded no transactions.

        Airflow calls this in the worker at the end of a try, and stores the result.
        """
        found = BaseXCom.get_value(ti_key=cast("Any", ti_key), key=RECORD_KEY)
        return page_url(ti_key) if Record.read(found).transaction_ids else ""


def record_transactions(context: Context, record: Record | Iterable[str]) -> None:
    """Record the transactions of the running task for the link and its page.

    Call it as soon as they are known: Airflow itself pushes links only when a process of the task
    ends normally, and deletes all XComs of a task at the start of its next try. A second call
    replaces the first.

    Args:
        context: Context of the running task.
        record: All transactions of the task, with what is known of them; or their ids.
    """
    task: TaskInstanceLike = context["ti"]
    if not isinstance(record, Record):
        record = Record(tuple(dict.fromkeys(record)))
    _push(task, RECORD_KEY, record.to_json())
    if record.transaction_ids:
        _push(task, VantageTransactionLink().xcom_key, page_url(task))


def page_path(task: TaskInstanceLike) -> str:
    """Return the page's path below the address of the API server."""
    index = str(_map_index(task))
    parts = ("dags", task.dag_id, "runs", task.run_id, "tasks", task.task_id, index)
    return "/".join([URL_PREFIX, *(quote(part, safe="") for part in parts)])


def page_url(task: TaskInstanceLike) -> str:
    """Return the page's address below Airflow's ``[api] base_url``.

    If that is not set, the result is a path, which works in Airflow's own pages as well.
    """
    base: str = conf.get("api", "base_url", fallback="") or ""
    return base.rstrip("/") + page_path(task)


def _push(task: TaskInstanceLike, key: str, value: Any) -> None:
    # With the base class, as Airflow pushes links: another XCom backend may store a mere reference,
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
