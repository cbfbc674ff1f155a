# SPDX-License-Identifier: Apache-2.0
"""Routes of the pages, and access control.

Reading a page requires the right to read the DAG's task instances. Opening a review also requires
the right to answer the DAG's required actions, which is Airflow's own right for decisions by a
person: the link lets its holder change the documents, so users who may only view a run must not get
it. Airflow's auth manager checks both, with the cookie or bearer token that every part of the API
server uses.

The connection is the one that the task itself declares. XComs, which hold the ids of the
transactions, can be written by users; the rendered fields of a task can't.

A review link is fetched on request and sent to the browser in a header, which is not logged. It is
not in any body, page, store or log. Airflow's audit log records who requested which.

The routes are coroutines. Blocking work runs elsewhere: Airflow's database in the API server's own
threads, as for its other routes, and ABBYY Vantage in the threads of :mod:`.service`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.configuration import conf
from airflow.models.dag import DagModel
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException as StarletteHTTPException

from vantage_orchestration.airflow.compat import dag_details, review_right
from vantage_orchestration.airflow.connection import CONN_NAME_ATTR
from vantage_orchestration.airflow.links import RECORD_KEY, URL_PREFIX, Record, page_path
from vantage_orchestration.airflow.pages import html
from vantage_orchestration.airflow.pages.service import (
    PAGE_SIZE,
    Busy,
    ConnectionKey,
    Overview,
    PageError,
    Row,
    TransactionService,
)

_PAGE: Final = "/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/{map_index}"
_TITLES: Final = {
    401: ("Log in first", "This page is for users of this Airflow."),
    403: ("Not allowed", "You lack the right for this, or the request came from another site."),
    404: ("Nothing here", "This task instance has no such ABBYY Vantage transaction."),
    409: (
        "No review is waiting",
        "The transaction is not in review now: the review is over or has not begun.",
    ),
    503: ("Too busy", "Too many of these pages are requested now. Try again in a few seconds."),
}
_UNKNOWN: Final = (
    "The connection of this task is unknown: the task does not declare it in its field"
    f" {CONN_NAME_ATTR}, or Airflow has not kept the rendered fields of this run"
)

# No OpenAPI description: the pages are not an API.
app = FastAPI(title="ABBYY Vantage", openapi_url=None, docs_url=None, redoc_url=None)
desk = TransactionService()


class TaskTransactions(NamedTuple):
    """What is known of a task instance."""

    #: Its transactions; not empty.
    record: Record
    #: Its connection; None if unknown.
    connection: ConnectionKey | None
    #: Whether the reader may open a review.
    may_review: bool


@dataclass(frozen=True)
class Address:
    """The task instance of a page, from the page's path."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    def look_up(self, user: Any) -> TaskTransactions:
        """Return what Airflow's database knows of the task instance, for this reader.

        Raises:
            HTTPException: The task instance has recorded no transactions.
        """
        # A short session of its own, so that none is open while ABBYY Vantage is called.
        with create_session(scoped=False) as session:
            stored = self._one(session, XComModel.value, XComModel, XComModel.key == RECORD_KEY)
            record = Record.read(stored)
            if not record.transaction_ids:
                raise HTTPException(404)
            conn_id = self._declared(session)
        teams = conf.getboolean("core", "multi_team", fallback=False)
        team = DagModel.get_team_name(self.dag_id) if teams else None
        may_review = get_auth_manager().is_authorized_dag(
            method="PUT",
            access_entity=review_right(),
            details=dag_details(self.dag_id, team),
            user=user,
        )
        return TaskTransactions(
            record, ConnectionKey(conn_id, team) if conn_id else None, may_review
        )

    def _declared(self, session: Session) -> str | None:
        """Return the rendered connection that the task declares; None if unknown."""
        fields = RenderedTaskInstanceFields
        rendered = self._one(session, fields.rendered_fields, fields)
        found = rendered.get(CONN_NAME_ATTR) if isinstance(rendered, dict) else None
        if found is None:
            # Airflow keeps rendered fields for some runs only. Otherwise use the value in the DAG
            # file.
            version = self._one(session, TaskInstance.dag_version_id, TaskInstance)
            query = select(SerializedDagModel).where(SerializedDagModel.dag_version_id == version)
            stored = session.scalar(query)
            task = stored.dag.task_dict.get(self.task_id) if stored is not None else None
            found = getattr(task, "partial_kwargs", {}).get(CONN_NAME_ATTR)
            found = found if found is not None else getattr(task, CONN_NAME_ATTR, None)
        # A template that was not rendered is useless.
        return found if isinstance(found, str) and found and "{" not in found else None

    def _one(self, session: Session, column: Any, table: Any, *conditions: Any) -> Any:
        return session.scalar(
            select(column).where(
                table.dag_id == self.dag_id,
                table.run_id == self.run_id,
                table.task_id == self.task_id,
                table.map_index == self.map_index,
                *conditions,
            )
        )


AddressDep = Annotated[Address, Depends()]


def _look_up(address: AddressDep, user: GetUserDep) -> TaskTransactions:
    # FastAPI calls it in a thread, after the dependencies of the route, which check the rights.
    return address.look_up(user)


TaskDep = Annotated[TaskTransactions, Depends(_look_up)]


def _check_site(request: Request) -> None:
    """Refuse a form sent by another site.

    The login cookie is ``SameSite=lax``, so a browser does not add it to such a form anyway. This
    second check also excludes other hosts of the same domain.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        # Browsers omit the header on unencrypted connections, but always send the origin of a form.
        # A program that sends neither has no cookie to abuse.
        origin = request.headers.get("origin")
        own = {request.headers.get("host", ""), _host(conf.get("api", "base_url", fallback=""))}
        allowed = origin is None or _host(origin) in own - {""}
    if not allowed:
        raise HTTPException(403)


def _host(url: str | None) -> str:
    """Return host and port of an address; empty if it has none."""
    try:
        return urlsplit(url or "").netloc
    except ValueError:
        return ""


_MAY_READ: Final = Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))
_MAY_REVIEW: Final = Depends(requires_access_dag("PUT", review_right()))


@app.get(_PAGE, dependencies=[_MAY_READ])
async def show_transactions(
    request: Request,
    address: AddressDep,
    noted: TaskDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """Show the transactions of a task instance with their current status."""
    record, ids = noted.record, noted.record.transaction_ids
    if noted.connection is not None:
        found = await desk.look(noted.connection, ids, page)
    else:
        rows = tuple(Row(each, None) for each in ids[:PAGE_SIZE])
        found = Overview(rows, 1, 1, _UNKNOWN)
    facts = {
        "DAG": address.dag_id,
        "Run": address.run_id,
        "Task": address.task_id,
        **({"Map index": str(address.map_index)} if address.map_index >= 0 else {}),
        **({"Connection": noted.connection.conn_id} if noted.connection is not None else {}),
        "Transactions": str(len(ids)),
        **({"Pages": record.pages} if record.pages else {}),
        **({"Results": record.results} if record.results else {}),
    }
    text = html.overview(
        facts,
        found.with_notes(record),
        refresh=not found.is_over(record),
        path=_root(request) + page_path(address),
        back=_root(request) + _airflow_path(address),
        may_review=noted.may_review,
    )
    return HTMLResponse(text, headers=html.headers(form_targets=found.targets))


@app.post(
    _PAGE + "/transactions/{transaction_id}/review",
    dependencies=[
        Depends(_check_site),
        _MAY_READ,
        _MAY_REVIEW,
        Depends(action_logging("abbyy_vantage_open_review")),
    ],
)
async def open_review(noted: TaskDep, transaction_id: str) -> Response:
    """Redirect the browser to a fresh review link of a transaction in review."""
    if transaction_id not in noted.record.transaction_ids:
        raise HTTPException(404)
    try:
        if noted.connection is None:
            raise PageError(_UNKNOWN)
        link = await desk.review_link(noted.connection, transaction_id)
    except PageError as trouble:
        text = html.message("The review can't be opened", f"{trouble}.")
        return HTMLResponse(text, status_code=502, headers=html.headers())
    if link is None:
        raise HTTPException(409)
    return Response(
        status_code=303,
        headers={
            "Location": link.reveal(),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        },
    )


async def _refuse(request: Request, error: Exception) -> Response:
    status, more = 404, getattr(error, "headers", None) or {}
    if isinstance(error, StarletteHTTPException):
        status = error.status_code
    elif isinstance(error, Busy):
        status, more = 503, {"Retry-After": "5"}
    title, text = _TITLES.get(status, ("This did not work", f"Status {status}."))
    link = None
    # A form can't be sent again after the login.
    if status == 401 and request.method == "GET":
        back = _root(request) + page_path(Address(**request.path_params))
        link = (f"{_root(request)}/api/v2/auth/login?{urlencode({'next': back})}", "Log in")
    page = html.message(title, text, link=link)
    return HTMLResponse(page, status_code=status, headers={**html.headers(), **more})


# Starlette raises its own exception for unknown paths; that of FastAPI is a subclass.
for kind in (Busy, RequestValidationError, StarletteHTTPException):
    app.add_exception_handler(kind, _refuse)


def _root(request: Request) -> str:
    """Return the path below which the API server itself is served."""
    root: str = request.scope.get("root_path", "")
    return quote(root.removesuffix(URL_PREFIX), safe="/")


def _airflow_path(address: Address) -> str:
    parts = ["dags", address.dag_id, "runs", address.run_id, "tasks", address.task_id]
    if address.map_index >= 0:
        parts += ["mapped", str(address.map_index)]
    return "".join("/" + quote(part, safe="") for part in parts)
