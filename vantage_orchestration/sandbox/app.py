# SPDX-License-Identifier: Apache-2.0
"""The routes of the stand-in (contract, sections 2, 3.1, 3.2, 3.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from . import bodies, listing
from .accounts import Tenant
from .control import control_routes
from .gate import ENTRY, Gate
from .journal import JournalEntry
from .problems import (
    Problem,
    empty_reply,
    json_reply,
    json_text_reply,
    problem_reply,
    without_nulls,
)
from .review_page import review_routes
from .state import SandboxState
from .tokens import OAuthError, Token, user_hash
from .transactions import PROCESSED, PROCESSING, Transaction
from .uploads import Upload, read_upload

API = "/api/publicapi/v1"
_ONE = API + "/transactions/{transactionId}"
_DOCUMENT = _ONE + "/documents/{documentId}"
_MAX_JSON = 4 * 1024 * 1024
_MAX_FORM = 64 * 1024
_PIECE = 64 * 1024

Handler = Callable[[Request, Token], Awaitable[Response]]


def build_app(state: SandboxState, host: str = "") -> ASGIApp:
    """Return the ASGI application of a sandbox that listens on ``host``."""
    routes: list[BaseRoute] = [
        *TokenRoutes(state).routes(),
        *ApiRoutes(state).routes(),
        *review_routes(state),
        *control_routes(state, host),
    ]
    state.faults.operations = frozenset(r.name for r in routes if isinstance(r, Route))
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return Gate(app, routes, state)


def _entry(request: Request) -> JournalEntry:
    entry: JournalEntry = request.scope[ENTRY]
    return entry


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise Problem(400, "The body is too large.")
    return bytes(body)


class TokenRoutes:
    """Token endpoints and discovery."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        """Return the routes; their names are the operation names of the contract."""
        tenant = "/auth2/{tenantId}"
        return [
            Route("/auth2/connect/token", self.token, methods=["POST"], name="requestToken"),
            Route(
                f"{tenant}/connect/token", self.token, methods=["POST"], name="requestTenantToken"
            ),
            Route(
                f"{tenant}/.well-known/openid-configuration",
                self.discovery,
                methods=["GET"],
                name="getDiscoveryDocument",
            ),
        ]

    async def token(self, request: Request) -> Response:
        """Answer a token request."""
        entry = _entry(request)
        tenant: Tenant | None = None
        if "tenantId" in request.path_params:
            tenant = self._state.accounts.tenant(request.path_params["tenantId"])
            if tenant is None:
                entry.outcome = "unknown tenant"
                return Response(None, 404)
        try:
            value = await self._issue(request, tenant, entry)
        except OAuthError as error:
            entry.outcome = error.error
            reply = json_reply(request, error.body(), 400)
        else:
            entry.outcome = "issued"
            reply = json_reply(request, value)
        reply.headers["Cache-Control"] = "no-store"
        reply.headers["Pragma"] = "no-cache"
        return reply

    async def _issue(
        self, request: Request, tenant: Tenant | None, entry: JournalEntry
    ) -> dict[str, Any]:
        content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            raise OAuthError("invalid_request", "the body must be form-urlencoded")
        try:
            text = (await _body(request, _MAX_FORM)).decode()
        except (Problem, UnicodeDecodeError) as error:
            raise OAuthError("invalid_request", "the form can't be read") from error
        pairs = parse_qsl(text, keep_blank_values=True)
        form = dict(pairs)
        grant = form.get("grant_type", "")
        known = ("password", "client_credentials", "authorization_code", "refresh_token")
        entry.grant = grant if grant in known else ("other" if grant else None)
        if form.get("username"):
            entry.user_hash = user_hash(form["username"])
        return self._state.tokens.issue(
            pairs, request.headers.get("authorization", ""), tenant, self._state.settings
        )

    async def discovery(self, request: Request) -> Response:
        """Answer with the discovery document of a tenant."""
        tenant = self._state.accounts.tenant(request.path_params["tenantId"])
        if tenant is None:
            return Response(None, 404)
        base = f"{_base_url(request)}/auth2/{tenant.id}"
        return json_reply(
            request,
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/connect/authorize",
                "token_endpoint": f"{base}/connect/token",
                "scopes_supported": ["openid", "permissions", "global.wildcard"],
                "grant_types_supported": ["password", "client_credentials"],
                "code_challenge_methods_supported": ["S256"],
            },
        )


class ApiRoutes:
    """Everything under ``/api/publicapi/v1``."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        """Return the routes; their names are the operation names of the contract."""
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", f"{API}/skills", "listSkills", self.list_skills),
            ("GET", f"{API}/skills/{{skillId}}", "getSkill", self.get_skill),
            ("POST", f"{API}/transactions", "createTransaction", self.create),
            ("POST", f"{API}/transactions/launch", "launchTransaction", self.launch),
            ("GET", f"{API}/transactions/active", "listActiveTransactions", self.active),
            ("GET", f"{API}/transactions/completed", "listCompletedTransactions", self.completed),
            ("GET", _ONE, "getTransaction", self.get),
            ("DELETE", _ONE, "deleteTransaction", self.delete),
            ("POST", f"{_ONE}/files", "addFiles", self.add_files),
            ("POST", f"{_ONE}/start", "startTransaction", self.start),
            ("POST", f"{_ONE}/mobileInputLink", "createMobileInputLink", self.mobile_link),
            ("GET", f"{_ONE}/files/{{fileId}}/download", "downloadResultFile", self.download),
            (
                "GET",
                f"{_ONE}/registrationParameters",
                "getRegistrationParameters",
                self.registration_parameters,
            ),
            ("GET", f"{_ONE}/skillParameters", "getSkillParameters", self.skill_parameters),
            ("POST", f"{_ONE}/documents", "createDocument", self.create_document),
            ("GET", f"{_ONE}/documents", "listDocuments", self.list_documents),
            ("GET", _DOCUMENT, "getDocument", self.get_document),
            ("DELETE", _DOCUMENT, "deleteDocument", self.delete_document),
            ("POST", f"{_DOCUMENT}/sourceFiles", "addDocumentFiles", self.add_source_files),
            (
                "GET",
                f"{_DOCUMENT}/sourceFiles/{{fileId}}/download",
                "downloadSourceFile",
                self.download_source,
            ),
        ]
        return [
            Route(path, self._guarded(handler), methods=[method], name=name)
            for method, path, name, handler in table
        ]

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Check the token, note the transaction in the journal, and answer refusals."""

        async def endpoint(request: Request) -> Response:
            entry = _entry(request)
            entry.transaction_id = request.path_params.get("transactionId")
            token = self._state.tokens.check(request.headers.get("authorization", ""))
            if token is None:
                return Response(None, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
            try:
                return await handler(request, token)
            except Problem as problem:
                return problem_reply(request, problem)

        return endpoint

    # ---- skills --------------------------------------------------------------------------

    async def list_skills(self, request: Request, token: Token) -> Response:
        """GET /skills."""
        return json_reply(request, [skill.listed() for skill in self._state.skills.usable()])

    async def get_skill(self, request: Request, token: Token) -> Response:
        """GET /skills/{skillId}."""
        skill = self._state.transactions.skill_for(request.path_params["skillId"])
        _entry(request).skill_id = skill.id
        return json_reply(request, skill.shown())

    # ---- transactions --------------------------------------------------------------------

    async def create(self, request: Request, token: Token) -> Response:
        """POST /transactions."""
        value = await self._json(request)
        if value is None:
            raise Problem(400, errors={"body": ["A non-empty request body is required."]})
        model = bodies.read_create(value)
        _entry(request).skill_id = model.skill_id[:200]
        made = self._state.transactions.create(token.tenant_id, model)
        _entry(request).transaction_id = made.id
        reply: dict[str, Any] = {"transactionId": made.id}
        if model.mobile_link:
            reply["mobileInputLink"] = self._state.transactions.new_mobile_link(
                made, _base_url(request)
            )
        return json_reply(request, reply, 201)

    async def launch(self, request: Request, token: Token) -> Response:
        """POST /transactions/launch."""
        skill_id = listing.Query(request.query_params.multi_items()).one("skillId")
        if skill_id is None:
            raise Problem(400, "skillId is not specified")
        _entry(request).skill_id = skill_id[:200]
        self._state.transactions.skill_for(skill_id)
        upload = await self._upload(request)
        try:
            model = bodies.read_launch(_model(upload))
            made = self._state.transactions.launch(token.tenant_id, skill_id, model, upload)
        except Problem:
            upload.discard()
            raise
        _entry(request).transaction_id = made.id
        return json_reply(request, {"transactionId": made.id}, 201)

    async def active(self, request: Request, token: Token) -> Response:
        """GET /transactions/active."""
        return await self._list(request, token, active=True)

    async def completed(self, request: Request, token: Token) -> Response:
        """GET /transactions/completed."""
        return await self._list(request, token, active=False)

    async def _list(self, request: Request, token: Token, *, active: bool) -> Response:
        filters = listing.read_filter(
            listing.Query(request.query_params.multi_items()),
            self._state.clock.now(),
            self._state.settings,
            active=active,
        )
        found = [
            item
            for item in self._state.transactions.all()
            if item.tenant_id == token.tenant_id and filters.fits(item)
        ]
        for item in found:
            if item.status == PROCESSING:
                await self._state.transactions.settle(item)
        at = self._state.clock.monotonic() - self._state.settings.list_lag
        return json_text_reply(request, listing.page(found, filters, at))

    async def get(self, request: Request, token: Token) -> Response:
        """GET /transactions/{transactionId}."""
        item = self._find(request, token)
        self._state.transactions.look_at_deleted(item)
        await self._state.transactions.settle(item)
        value = {
            "id": item.id,
            "status": item.status,
            "manualReviewLink": self._state.transactions.new_review_link(item, _base_url(request)),
            "documents": self._documents(item),
            "error": item.error,
            "sourceFiles": [_source_file(file.id, file.upload.name) for file in item.files],
        }
        return json_reply(
            request, without_nulls(value) if self._state.settings.omit_nulls else value
        )

    async def delete(self, request: Request, token: Token) -> Response:
        """DELETE /transactions/{transactionId}."""
        self._state.transactions.delete(self._find(request, token))
        return empty_reply()

    async def add_files(self, request: Request, token: Token) -> Response:
        """POST .../files."""
        item = self._find(request, token, write=True)
        self._state.transactions.check_open(item)
        upload = await self._upload(request)
        try:
            model = bodies.read_files(_model(upload))
            item = self._find(request, token, write=True)
            self._state.transactions.add_files(item, model.files, upload)
        except Problem:
            upload.discard()
            raise
        return empty_reply()

    async def start(self, request: Request, token: Token) -> Response:
        """POST .../start."""
        self._state.transactions.start(self._find(request, token, write=True))
        return empty_reply()

    async def mobile_link(self, request: Request, token: Token) -> Response:
        """POST .../mobileInputLink."""
        item = self._find(request, token, write=True)
        link = self._state.transactions.new_mobile_link(item, _base_url(request))
        return json_reply(request, {"transactionId": item.id, "mobileInputLink": link})

    async def download(self, request: Request, token: Token) -> Response:
        """GET .../files/{fileId}/download."""
        item = self._find(request, token)
        found = item.result_file(request.path_params["fileId"])
        if found is None:
            raise Problem(404, "There is no such file.")
        return _download(found.path)

    async def registration_parameters(self, request: Request, token: Token) -> Response:
        """GET .../registrationParameters."""
        item = self._find(request, token)
        return json_reply(
            request, [{"key": p.key, "value": p.value} for p in item.listed_parameters()]
        )

    async def skill_parameters(self, request: Request, token: Token) -> Response:
        """GET .../skillParameters. Values given with the transaction win over the skill's."""
        item = self._find(request, token)
        found = {key: (value, kind) for key, value, kind in item.skill.parameters}
        for parameter in item.skill_parameters:
            kind = found.get(parameter.key, ("", "String"))[1]
            found[parameter.key] = (parameter.value, kind)
        return json_reply(
            request,
            [{"key": key, "value": value, "type": kind} for key, (value, kind) in found.items()],
        )

    # ---- documents -----------------------------------------------------------------------

    async def create_document(self, request: Request, token: Token) -> Response:
        """POST .../documents."""
        item = self._find(request, token, write=True)
        value = await self._json(request)
        model = bodies.FileModel() if value is None else bodies.read_document(value)
        document = self._state.transactions.add_document(item, model)
        return json_reply(request, {"documentId": document.id}, 201)

    async def list_documents(self, request: Request, token: Token) -> Response:
        """GET .../documents."""
        item = self._find(request, token)
        return json_reply(request, [_document(document.id, item) for document in item.ordered()])

    async def get_document(self, request: Request, token: Token) -> Response:
        """GET .../documents/{documentId}."""
        item = self._find(request, token)
        return json_reply(request, _document(request.path_params["documentId"], item))

    async def delete_document(self, request: Request, token: Token) -> Response:
        """DELETE .../documents/{documentId}."""
        item = self._find(request, token, write=True)
        document = item.document(request.path_params["documentId"])
        self._state.transactions.remove_document(item, document)
        return empty_reply()

    async def add_source_files(self, request: Request, token: Token) -> Response:
        """POST .../sourceFiles."""
        item = self._find(request, token, write=True)
        item.document(request.path_params["documentId"])
        self._state.transactions.check_open(item)
        upload = await self._upload(request)
        try:
            model = bodies.read_source_files(_model(upload))
            item = self._find(request, token, write=True)
            document = item.document(request.path_params["documentId"])
            self._state.transactions.add_source_files(item, document, model.files, upload)
        except Problem:
            upload.discard()
            raise
        return empty_reply()

    async def download_source(self, request: Request, token: Token) -> Response:
        """GET .../sourceFiles/{fileId}/download."""
        item = self._find(request, token)
        for file in item.document(request.path_params["documentId"]).files:
            if file.id == request.path_params["fileId"]:
                return _download(file.upload.path)
        raise Problem(404, "There is no such file.")

    # ---- inside --------------------------------------------------------------------------

    def _find(self, request: Request, token: Token, *, write: bool = False) -> Transaction:
        item = self._state.transactions.find(
            request.path_params["transactionId"], token.tenant_id, write=write
        )
        _entry(request).skill_id = item.skill.id
        return item

    async def _json(self, request: Request) -> Any:
        """Return the JSON body, or None if there is none."""
        text = await _body(request, _MAX_JSON)
        if not text:
            return None
        name = request.headers.get("content-type", "").split(";")[0].strip().lower()
        fits = name in ("application/json", "text/json") or (
            name.startswith("application/") and name.endswith("+json")
        )
        if not fits:
            raise Problem(400, "The content type must be application/json.")
        return bodies.read_json(text, "body")

    async def _upload(self, request: Request) -> Upload:
        upload = await read_upload(
            request.headers.get("content-type", ""),
            request.stream(),
            self._state.folder,
            self._state.ids.new,
            self._state.settings.max_upload_bytes,
        )
        _entry(request).files = [
            {"name": file.name, "size": file.size, "sha256": file.sha256} for file in upload.files
        ]
        return upload

    def _documents(self, item: Transaction) -> list[dict[str, Any]] | None:
        if item.status == PROCESSED and item.outcome is not None:
            return [
                {
                    "id": document.id,
                    "resultFiles": [
                        {"fileId": file.id, "fileName": file.name, "type": file.type}
                        for file in document.files
                    ],
                    "classification": document.classification,
                    "businessRulesErrors": [dict(error) for error in document.rule_errors],
                }
                for document in item.outcome.documents
            ]
        return [] if item.status in ("New", PROCESSING) else None


def _model(upload: Upload) -> Any:
    return bodies.read_json(upload.model, "Model") if upload.model else {}


def _source_file(identifier: str, name: str) -> dict[str, str]:
    return {"id": identifier, "name": name}


def _document(document_id: str, item: Transaction) -> dict[str, Any]:
    document = item.document(document_id)
    return {
        "documentId": document.id,
        "sourceFiles": [_source_file(file.id, file.upload.name) for file in document.files],
    }


def _download(path: Path) -> Response:
    """Answer with a file, piece by piece."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise Problem(404, "There is no such file.") from error

    async def pieces() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
                await asyncio.sleep(0)

    return StreamingResponse(
        pieces(), 200, {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
    )
