# SPDX-License-Identifier: Apache-2.0
"""Control routes below ``/sandbox/``.

They need no token and show everything, secrets included. They answer only to callers on the
same machine; for all others they do not exist. They are not in the journal, and faults do not apply
to them.

A browser on the same machine is such a caller too, and it runs pages of other sites. So the
``Host`` header must name this machine or the address that the sandbox was told to listen on (a
page whose name was rebound to 127.0.0.1 sends its own name), requests that a page of another site
has made are refused, and a body must be JSON, which a form can't send.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .inbox import add_others, receive
from .problems import Problem
from .state import SandboxState
from .transactions import Transaction

Handler = Callable[[Request], Awaitable[Any]]


def control_routes(state: SandboxState, host: str = "") -> list[BaseRoute]:
    """Return the control routes of a sandbox.

    Args:
        state: State of the sandbox.
        host: Name or address that it listens on; a ``Host`` header may name it.
    """
    control = _Control(state)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/sandbox/health", control.health),
        ("GET", "/sandbox/journal", control.journal),
        ("GET", "/sandbox/faults", control.faults),
        ("POST", "/sandbox/faults", control.add_fault),
        ("DELETE", "/sandbox/faults", control.clear_faults),
        ("POST", "/sandbox/tokens/revoke", control.revoke),
        ("POST", "/sandbox/accounts/unlock", control.unlock),
        ("GET", "/sandbox/transactions", control.transactions),
        ("POST", "/sandbox/transactions", control.receive),
        ("POST", "/sandbox/transactions/others", control.others),
        ("POST", "/sandbox/transactions/{transactionId}/review", control.finish_review),
        ("GET", "/sandbox/settings", control.settings),
        ("POST", "/sandbox/settings", control.change),
        ("POST", "/sandbox/clock", control.advance),
        ("GET", "/sandbox/skills", control.skills),
        ("GET", "/sandbox/secrets", control.secrets),
        ("GET", "/sandbox/credentials", control.credentials),
        ("POST", "/sandbox/reset", control.reset),
    ]
    return [
        Route(path, _local_only(handler, host), methods=[method]) for method, path, handler in table
    ]


def _local_only(handler: Handler, host: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if not _is_loopback(request.client.host if request.client else ""):
            return Response(None, 404)
        if refusal := _refusal(request, host):
            return JSONResponse({"error": refusal}, 403)
        try:
            return JSONResponse(await handler(request))
        except LookupError as error:
            return JSONResponse({"error": str(error)}, 404)
        except Problem as problem:
            text = problem.detail or json.dumps(problem.errors)
            return JSONResponse({"error": text}, problem.status)
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return endpoint


def _refusal(request: Request, host: str) -> str | None:
    """Return why a request on this machine does not come from a program of its user."""
    headers = request.headers
    name = _name_of(f"//{headers.get('host', '')}")
    if name is None or (name not in ("localhost", host.lower()) and not _is_loopback(name)):
        return "The Host header names another machine; use 127.0.0.1 or localhost"
    # "none": somebody has typed the address. Older browsers send no such header, but an origin.
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        return "A page of another site has made this request"
    if headers.get("origin") not in (None, f"http://{headers.get('host', '')}"):
        return "A page of another site has made this request"
    length = headers.get("content-length", "0")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if (length != "0" or "transfer-encoding" in headers) and kind != "application/json":
        return "The body must be JSON, with Content-Type: application/json"
    return None


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Control:
    """Handlers of the control routes. What they return becomes JSON."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    async def health(self, request: Request) -> Any:
        return {"status": "ok", "pid": os.getpid()}

    async def journal(self, request: Request) -> Any:
        query = request.query_params
        found = self._state.journal.find(
            query.get("method"), query.get("path_regex"), int(query.get("since", "0"))
        )
        return [entry.shown() for entry in found]

    async def faults(self, request: Request) -> Any:
        return self._state.faults.shown()

    async def add_fault(self, request: Request) -> Any:
        return {"id": self._state.faults.add(await _object(request)).id}

    async def clear_faults(self, request: Request) -> Any:
        self._state.faults.clear()
        return {}

    async def revoke(self, request: Request) -> Any:
        sha256 = (await _object(request)).get("sha256")
        return {"revoked": self._state.tokens.revoke(sha256)}

    async def unlock(self, request: Request) -> Any:
        self._state.tokens.unlock()
        return {}

    async def transactions(self, request: Request) -> Any:
        await self._state.transactions.go_on()
        return [_view(item) for item in self._state.transactions.all()]

    async def receive(self, request: Request) -> Any:
        return {"ids": receive(self._state, await _object(request))}

    async def others(self, request: Request) -> Any:
        add_others(self._state, await _object(request))
        return {}

    async def finish_review(self, request: Request) -> Any:
        status = (await _object(request)).get("status", "Processed")
        await self._state.transactions.go_on()
        self._state.transactions.finish_review(request.path_params["transactionId"], status)
        return {}

    async def settings(self, request: Request) -> Any:
        return self._state.settings.shown()

    async def change(self, request: Request) -> Any:
        self._state.settings = self._state.settings.changed(await _object(request))
        return self._state.settings.shown()

    async def advance(self, request: Request) -> Any:
        self._state.clock.advance(float((await _object(request))["seconds"]))
        return {}

    async def skills(self, request: Request) -> Any:
        return [
            {
                **skill.listed(),
                "version": skill.version,
                "published": skill.published,
                "restricted": skill.restricted,
            }
            for skill in self._state.skills
        ]

    async def secrets(self, request: Request) -> Any:
        return {
            "tokens": self._state.tokens.issued(),
            "links": self._state.transactions.issued_secrets(),
            "accounts": sorted(self._state.accounts.secrets()),
        }

    async def credentials(self, request: Request) -> Any:
        return self._state.accounts.shown()

    async def reset(self, request: Request) -> Any:
        self._state.reset()
        return {}


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    value = await request.json() if body else {}
    if not isinstance(value, dict):
        raise TypeError("the body must be a JSON object")
    return value


def _view(item: Transaction) -> dict[str, Any]:
    """Return everything the server knows about a transaction, but no links."""
    return {
        "id": item.id,
        "tenant_id": item.tenant_id,
        "skill_id": item.skill.id,
        "source": item.source,
        "status": item.status,
        "error": item.error,
        "in_review": item.in_review,
        "looks": item.looks,
        "started": item.start_calls,
        "pages": item.page_count,
        "deleted": item.deleted_at is not None,
        "registration_parameters": {p.key: p.value for p in item.registration},
        "skill_parameters": {p.key: p.value for p in item.skill_parameters},
        "documents": [
            {
                "id": document.id,
                "index": document.index,
                "image_options": document.image_options,
                "files": [
                    {
                        "id": file.id,
                        "name": file.upload.name,
                        "size": file.upload.size,
                        "sha256": file.upload.sha256,
                        "index": file.index,
                        "parameters": {p.key: p.value for p in file.parameters},
                    }
                    for file in document.files
                ],
            }
            for document in item.ordered()
        ],
        "files": [
            {"name": f.upload.name, "size": f.upload.size, "sha256": f.upload.sha256}
            for f in item.files
        ],
    }
