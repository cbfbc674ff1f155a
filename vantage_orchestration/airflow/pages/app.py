# SPDX-License-Identifier: Apache-2.0
"""Routes of the pages, and who may use them.

Reading a page takes the right to read the Dag's task instances. Opening a review also takes the
right to answer the Dag's required actions: that is Airflow's own right for "a person decides
something for a task", the link lets its holder change the documents, and whoever may only look at
a run must not get it. Both are asked of Airflow's auth manager, with the cookie or bearer token
that every part of the API server uses.

A review link is fetched when it is asked for and sent to the browser in a header, which nothing
logs. It is not in any body, page, store or log. Airflow's audit log notes who asked for which.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote, urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.configuration import conf
from airflow.models.dag import DagModel
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from sqlalchemy import select
from starlette.exceptions import HTTPException as StarletteHTTPException

from vantage_orchestration.airflow.links import RECORD_KEY, URL_PREFIX, Recorded, page_path
from vantage_orchestration.airflow.pages import html, service
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import VantageError

__all__ = ["app"]

_PAGE: Final = "/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/{map_index}"
_TITLES: Final = {
    401: ("Log in first", "This page is for users of this Airflow."),
    403: ("Not allowed", "You lack the right for this, or the request came from another site."),
    404: ("Nothing here", "This task instance has noted no such ABBYY Vantage transaction."),
    409: (
        "No review is waiting",
        "The transaction does not wait for a person now: the review is over, or has not begun.",
    ),
}

# Its own description of itself would be of no use to anybody: the pages are no API.
app = FastAPI(title="ABBYY Vantage", openapi_url=None, docs_url=None, redoc_url=None)


class Address:
    """Which task instance a page is about, out of the page's path."""

    def __init__(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.task_id = task_id
        self.map_index = map_index

    def recorded(self) -> Recorded:
        """Return what the task instance has noted.

        Raises:
            HTTPException: Nothing.
        """
        query = select(XComModel.value).where(
            XComModel.dag_id == self.dag_id,
            XComModel.run_id == self.run_id,
            XComModel.task_id == self.task_id,
            XComModel.map_index == self.map_index,
            XComModel.key == RECORD_KEY,
        )
        # A session of its own, so that none is kept busy while ABBYY Vantage is asked.
        with create_session(scoped=False) as session:
            found = Recorded.read(session.scalar(query))
        if found is None:
            raise HTTPException(404)
        return found

    def open_client(self, recorded: Recorded) -> VantageClient:
        """Return a client for the connection that the task used."""
        return service.open_client(recorded.conn_id, self.team_name())

    def team_name(self) -> str | None:
        """Return the team that the Dag belongs to, where Airflow keeps teams apart."""
        if not conf.getboolean("core", "multi_team"):
            return None
        return DagModel.get_team_name(self.dag_id)


AddressDep = Annotated[Address, Depends()]


def _check_site(request: Request) -> None:
    """Refuse a form that another site has sent.

    The login cookie is ``SameSite=lax``, so a browser does not add it to such a form anyway; this
    is the second line, and it also keeps out other hosts of the same domain.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        # Browsers leave the header out where the connection is not encrypted, but always say
        # where a form comes from. A program that sends neither has no cookie to be abused.
        origin = request.headers.get("origin")
        own = {request.headers.get("host", ""), _host(conf.get("api", "base_url", fallback=""))}
        allowed = origin is None or _host(origin) in own - {""}
    if not allowed:
        raise HTTPException(403)


def _host(url: str | None) -> str:
    """Return host and port of an address, empty if it has none."""
    try:
        return urlsplit(url or "").netloc
    except ValueError:
        return ""


_MAY_READ: Final = Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))
_MAY_REVIEW: Final = Depends(requires_access_dag("PUT", DagAccessEntity.HITL_DETAIL))


# These are plain functions, which run in threads: asking ABBYY Vantage blocks.
@app.get(_PAGE, dependencies=[_MAY_READ])
def show_transactions(
    request: Request,
    address: AddressDep,
    user: GetUserDep,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """Show the transactions of a task instance with their present status."""
    recorded = address.recorded()
    ids = recorded.transaction_ids
    targets: tuple[str, ...] = ("https:",)
    try:
        with address.open_client(recorded) as client:
            found = service.look(client, ids, page)
            if urlsplit(client.config.credentials.base_url).scheme == "http":
                targets = ("https:", "http:")
    except VantageError as error:
        rows = tuple(service.Row(each, None) for each in ids[: service.PAGE_SIZE])
        found = service.Overview(rows, 1, 1, str(error))
    details = DagDetails(id=address.dag_id, team_name=address.team_name())
    may_review = get_auth_manager().is_authorized_dag(
        method="PUT", access_entity=DagAccessEntity.HITL_DETAIL, details=details, user=user
    )
    facts = {
        "Dag": address.dag_id,
        "Run": address.run_id,
        "Task": address.task_id,
        **({"Map index": str(address.map_index)} if address.map_index >= 0 else {}),
        "Connection": recorded.conn_id,
        "Transactions": str(len(ids)),
    }
    text = html.overview(
        facts,
        found,
        path=_root(request) + page_path(address),
        back=_root(request) + _airflow_path(address),
        may_review=may_review,
    )
    return HTMLResponse(text, headers=html.headers(form_targets=targets))


@app.post(
    _PAGE + "/transactions/{transaction_id}/review",
    dependencies=[
        Depends(_check_site),
        _MAY_READ,
        _MAY_REVIEW,
        Depends(action_logging("abbyy_vantage_open_review")),
    ],
)
def open_review(address: AddressDep, transaction_id: str) -> Response:
    """Send the browser to a fresh review link of a transaction that waits for a person."""
    recorded = address.recorded()
    if transaction_id not in recorded.transaction_ids:
        raise HTTPException(404)
    try:
        with address.open_client(recorded) as client:
            link = service.review_link(client, transaction_id)
    except VantageError as error:
        text = html.message("ABBYY Vantage could not be asked", str(error))
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


# Of Starlette, which raises it for unknown paths; FastAPI's own is made of it.
@app.exception_handler(StarletteHTTPException)
def _refuse(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, StarletteHTTPException) else 500
    title, text = _TITLES.get(status, ("This did not work", f"Status {status}."))
    link = None
    # A form can't be sent again after the login; its page is above it.
    if status == 401 and request.method == "GET":
        back = _root(request) + page_path(Address(**request.path_params))
        link = (f"{_root(request)}/api/v2/auth/login?{urlencode({'next': back})}", "Log in")
    return HTMLResponse(
        html.message(title, text, link=link), status_code=status, headers=html.headers()
    )


@app.exception_handler(RequestValidationError)
def _not_found(request: Request, error: Exception) -> Response:
    return _refuse(request, HTTPException(404))


def _root(request: Request) -> str:
    """Return the path below which the API server itself is reached."""
    root: str = request.scope.get("root_path", "")
    return quote(root.removesuffix(URL_PREFIX), safe="/")


def _airflow_path(address: Address) -> str:
    parts = ["dags", address.dag_id, "runs", address.run_id, "tasks", address.task_id]
    if address.map_index >= 0:
        parts += ["mapped", str(address.map_index)]
    return "".join("/" + quote(part, safe="") for part in parts)
