# SPDX-License-Identifier: Apache-2.0
"""Error replies and JSON replies (contract, sections 3 and 6)."""

from __future__ import annotations

import hashlib
import http
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

_SECTIONS = {400: "6.5.1", 403: "6.5.3", 404: "6.5.4", 405: "6.5.5", 409: "6.5.8", 413: "6.5.11"}
_JSON_TYPES = ("application/json", "text/json", "text/plain")


class Problem(Exception):
    """A request that is refused with a ProblemDetails body.

    Args:
        status: HTTP status.
        detail: Text for people.
        errors: Texts per wrong member, as the framework of the service writes them.
    """

    def __init__(
        self, status: int, detail: str | None = None, errors: Mapping[str, list[str]] | None = None
    ) -> None:
        super().__init__(detail or http.HTTPStatus(status).phrase)
        self.status = status
        self.detail = detail
        self.errors = dict(errors or {})


def problem_body(status: int, detail: str | None = None, path: str = "") -> dict[str, Any]:
    """Return a ProblemDetails object."""
    try:
        title = http.HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body: dict[str, Any] = {
        "type": f"https://tools.ietf.org/html/rfc7231#section-{_SECTIONS.get(status, '6.6.1')}",
        "title": title,
        "status": status,
        "traceId": f"00-{hashlib.sha256(path.encode()).hexdigest()[:32]}-00",
    }
    if detail is not None:
        body["detail"] = detail
    return body


def json_reply(request: Request, value: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return json_text_reply(request, json.dumps(value, ensure_ascii=False), status)


def json_text_reply(request: Request, text: str, status: int = 200) -> Response:
    """Answer with JSON text. ``Accept: text/plain`` changes only the label (section 10)."""
    label = _JSON_TYPES[0]
    for part in request.headers.get("accept", "").split(","):
        name = part.split(";")[0].strip().lower()
        if name in _JSON_TYPES or name in ("*/*", "application/*"):
            label = name if name in _JSON_TYPES else label
            break
    return Response(text.encode(), status, {"Content-Type": f"{label}; charset=utf-8"})


def problem_reply(request: Request, problem: Problem) -> Response:
    """Answer with the ProblemDetails of a refused request."""
    body = problem_body(problem.status, problem.detail, request.url.path)
    if problem.errors:
        body["title"] = "One or more validation errors occurred."
        body["errors"] = problem.errors
    return json_reply(request, body, problem.status)


def empty_reply() -> Response:
    """Answer 200 without a body."""
    return Response(None, 200)


def without_nulls(value: Any) -> Any:
    """Return the data without the object members that are null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
