# SPDX-License-Identifier: Apache-2.0
"""What stands between the socket and the routes: the journal, the faults, lost connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .faults import AFTER, BEFORE, FaultRule
from .journal import JournalEntry
from .protocol import transport_of
from .state import SandboxState

CONTROL_PREFIX = "/sandbox"
ENTRY = "sandbox.entry"
_GARBAGE = b'{"transactionId": "0d0f6b7e-58c0-4b3f", "status": "Proc'


class Gate:
    """Outermost ASGI application of the sandbox.

    Args:
        app: The routes.
        routes: The same routes, to name the operation of a request before it is dispatched.
        state: State of the sandbox.
    """

    def __init__(self, app: ASGIApp, routes: list[BaseRoute], state: SandboxState) -> None:
        self._app = app
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        if len(scope["path"]) > 1:
            # Published clients send trailing slashes (contract, section 8, point 10).
            scope["path"] = scope["path"].rstrip("/") or "/"
        path: str = scope["path"]
        if path == CONTROL_PREFIX or path.startswith(CONTROL_PREFIX + "/"):
            await self._app(scope, receive, send)
            return
        template, operation = self._operation(scope)
        entry = self._state.journal.open(
            scope["method"],
            path,
            parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True),
            _header(scope, b"content-type"),
            (template, operation),
            self._state.secrets(),
        )
        scope[ENTRY] = entry
        rule = self._state.faults.take(scope["method"], path, template, operation)
        if rule is not None:
            entry.fault = rule.kind
        exchange = _Exchange(self._app, self._state, scope, receive, send, entry, rule)
        try:
            await exchange.run()
        except ClientDisconnect:
            entry.outcome = "the client went away"
        finally:
            entry.finished = True

    def _operation(self, scope: Scope) -> tuple[str | None, str | None]:
        partly: str | None = None
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route.path, route.name
            if match is Match.PARTIAL and partly is None:
                partly = route.path
        return partly, None


class _Exchange:
    """One request and its reply, with at most one fault rule applied."""

    def __init__(
        self,
        app: ASGIApp,
        state: SandboxState,
        scope: Scope,
        receive: Receive,
        send: Send,
        entry: JournalEntry,
        rule: FaultRule | None,
    ) -> None:
        self._app = app
        self._state = state
        self._scope = scope
        self._outer_receive = receive
        self._outer_send = send
        self._entry = entry
        self._rule = rule
        self._cut = False
        self._sent = 0
        self._all_read = False

    async def run(self) -> None:
        rule = self._rule
        if rule is None:
            await self._app(self._scope, self._receive, self._send)
            return
        if rule.when == BEFORE and await self._interfere(rule):
            return
        late = rule.when == AFTER and (rule.status is not None or rule.drop or rule.delay > 0)
        if not late and not rule.alters:
            await self._app(self._scope, self._receive, self._send)
            if rule.when == AFTER:
                self._revoke(rule)
        else:
            # The real reply is only kept if it is going to be sent.
            kept = _Kept(keep=not (rule.when == AFTER and (rule.status is not None or rule.drop)))
            await self._app(self._scope, self._receive, kept)
            if rule.when == AFTER and await self._interfere(rule):
                return
            for message in kept.altered(rule):
                await self._send(message)
        if self._cut:
            await self._gone()

    async def _interfere(self, rule: FaultRule) -> bool:
        """Do what the rule says besides or instead of the work. True: the reply is done."""
        self._revoke(rule)
        await self._state.pause(rule.delay)
        if rule.drop:
            await self._read_rest(rule)
            self._entry.outcome = "dropped"
            transport_of(self._scope).abort()
            await self._gone()
            return True
        if rule.status is None:
            return False
        await self._read_rest(rule)
        status, headers, body, length = rule.reply(self._scope["path"])
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if self._scope["method"] != "HEAD" and length:
            await self._send_pieces(body)
        if self._cut:
            await self._gone()
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _send_pieces(self, body: Iterator[bytes]) -> None:
        for piece in body:
            if self._cut:
                return
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    def _revoke(self, rule: FaultRule) -> None:
        if rule.revoke == "all":
            self._state.tokens.revoke()
        elif rule.revoke == "this":
            self._state.tokens.revoke_bearer(_header(self._scope, b"authorization") or "")

    async def _read_rest(self, rule: FaultRule) -> None:
        if not rule.read_body and rule.when == BEFORE:
            return
        while not self._all_read:
            if (await self._receive())["type"] == "http.disconnect":
                return

    async def _gone(self) -> None:
        """Wait until the connection is really closed; the server needs to know before we end."""
        while (await self._outer_receive())["type"] != "http.disconnect":
            pass

    async def _receive(self) -> Message:
        message = await self._outer_receive()
        if message["type"] == "http.request":
            self._entry.request_bytes += len(message.get("body", b""))
            self._all_read = not message.get("more_body", False)
        else:
            self._all_read = True
        return message

    async def _send(self, message: Message) -> None:
        if self._cut:
            return
        if message["type"] == "http.response.start":
            self._entry.status = message["status"]
            await self._outer_send(message)
            return
        rule = self._rule
        body = message.get("body", b"")
        if rule is None or not (rule.chunk_delay > 0 or rule.truncate is not None):
            self._entry.response_bytes += len(body)
            await self._outer_send(message)
            return
        size = rule.chunk_size if rule.chunk_delay > 0 else max(len(body), 1)
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            await self._state.pause(rule.chunk_delay)
            if rule.truncate is not None and self._sent + len(piece) > rule.truncate:
                await self._cut_off(piece[: rule.truncate - self._sent])
                return
            self._sent += len(piece)
            self._entry.response_bytes += len(piece)
            await self._outer_send({**message, "body": piece, "more_body": True})
        if not message.get("more_body", False):
            await self._outer_send({**message, "body": b"", "more_body": False})

    async def _cut_off(self, last: bytes) -> None:
        """Send the last bytes and close the connection in the middle of the body."""
        self._cut = True
        self._entry.response_bytes += len(last)
        self._entry.outcome = "truncated"
        await self._outer_send({"type": "http.response.body", "body": last, "more_body": True})
        transport_of(self._scope).close()


class _Kept:
    """Takes a reply without sending it."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._start: Message = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif self._keep:
            self._body += message.get("body", b"")

    def altered(self, rule: FaultRule) -> list[Message]:
        """Return the messages to send, changed as the rule says."""
        body = bytes(self._body)
        if rule.garbage:
            body = _GARBAGE
        elif rule.alters:
            body = _merged(body, rule.merge_json or {}, rule.remove_json or [])
        headers = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        return [
            {**self._start, "headers": headers},
            {"type": "http.response.body", "body": body, "more_body": False},
        ]


def _merged(body: bytes, members: dict[str, Any], removed: list[str]) -> bytes:
    value = json.loads(body) if body else {}
    if not isinstance(value, dict):
        return body
    kept = {name: item for name, item in value.items() if name not in removed}
    return json.dumps({**kept, **members}).encode()


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found.decode("latin-1")
    return None
