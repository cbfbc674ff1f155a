# SPDX-License-Identifier: Apache-2.0
"""A token server on 127.0.0.1 that takes its time, counts, refuses and revokes.

``python server.py`` prints its port as the first line and serves until its standard input ends.

- ``POST /auth2/connect/token``: the grants ``password`` and ``client_credentials``. A password or
  client secret that begins with ``wrong`` is refused with 400. Every reply waits for the latency.
- ``GET /api``: 200 for a live token, 401 for any other.
- ``GET /tenant/.well-known/openid-configuration``: for clients that can't do without discovery.
- ``POST /control``: sets the latency, or revokes tokens after a number of API requests.
- ``GET /control?client=...``: what was counted for a client id.

Everything is counted per client id, so that each measurement takes a client id of its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN_PATH = "/auth2/connect/token"  # noqa: S105 - a path
LIFETIME = 3600
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}

Reply = tuple[int, dict[str, Any]]


class Client:
    """What the server knows of one client id."""

    def __init__(self) -> None:
        self.granted = 0
        self.refused = 0
        self.api_ok = 0
        self.api_denied = 0
        self.alive: set[str] = set()
        self.revoke_after: int | None = None

    def counts(self) -> dict[str, int]:
        """Return the counters."""
        names = ("granted", "refused", "api_ok", "api_denied")
        return {name: getattr(self, name) for name in names}

    def call_api(self) -> None:
        """Count a good API request, and revoke everything if this one was the last before."""
        self.api_ok += 1
        if self.revoke_after is not None and self.api_ok >= self.revoke_after:
            self.alive.clear()
            self.revoke_after = None


class Server:
    """All state. One thread, so nothing needs a lock."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.clients: dict[str, Client] = {}
        self.owners: dict[str, Client] = {}

    def client(self, name: str) -> Client:
        """Return the client of this id, new if need be."""
        return self.clients.setdefault(name, Client())

    async def token(self, headers: dict[str, str], body: bytes) -> Reply:
        """Answer a token request."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        kind, _, encoded = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            name, _, secret = base64.b64decode(encoded).decode().partition(":")
            form |= {"client_id": unquote(name), "client_secret": unquote(secret)}
        client = self.client(form.get("client_id", ""))
        await asyncio.sleep(self.latency)
        grant = form.get("grant_type")
        if grant not in ("password", "client_credentials"):
            client.refused += 1
            return 400, {"error": "unsupported_grant_type"}
        needed = (
            ["client_secret"] if grant == "client_credentials" else ["client_secret", "password"]
        )
        if any(form.get(name, "wrong").startswith("wrong") for name in needed):
            client.refused += 1
            error = "invalid_client" if grant == "client_credentials" else "invalid_grant"
            return 400, {"error": error, "error_description": "The login was refused."}
        client.granted += 1
        token = base64.urlsafe_b64encode(os.urandom(600)).decode()
        client.alive.add(token)
        self.owners[token] = client
        return 200, {
            "access_token": token,
            "expires_in": LIFETIME,
            "token_type": "Bearer",
            "scope": form.get("scope", "openid permissions global.wildcard"),
        }

    def api(self, headers: dict[str, str]) -> Reply:
        """Answer a request that needs a token."""
        token = headers.get("authorization", "").removeprefix("Bearer ")
        owner = self.owners.get(token)
        if owner is None or token not in owner.alive:
            if owner is not None:
                owner.api_denied += 1
            return 401, {"error": "invalid_token"}
        owner.call_api()
        return 200, {}

    def control(self, body: bytes) -> Reply:
        """Change how the server behaves."""
        order = json.loads(body)
        if "latency" in order:
            self.latency = order["latency"]
        if "revoke_after" in order:
            self.client(order["client"]).revoke_after = order["revoke_after"]
        return 200, {}

    def discovery(self, headers: dict[str, str]) -> Reply:
        """Answer with an OpenID discovery document. It says https, as its readers demand."""
        address = f"https://{headers.get('host', '')}"
        return 200, {
            "issuer": f"{address}/tenant",
            "authorization_endpoint": f"{address}/tenant/authorize",
            "token_endpoint": f"{address}{TOKEN_PATH}",
        }

    async def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        """Answer any request."""
        address = urlsplit(target)
        route = (method, address.path)
        if route == ("POST", TOKEN_PATH):
            return await self.token(headers, body)
        if route == ("GET", "/api"):
            return self.api(headers)
        if route == ("GET", "/tenant/.well-known/openid-configuration"):
            return self.discovery(headers)
        if route == ("POST", "/control"):
            return self.control(body)
        if route == ("GET", "/control"):
            return 200, self.client(parse_qs(address.query)["client"][0]).counts()
        return 404, {"error": "not_found"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after another."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = (line.split(":", 1) for line in head[1:] if line)
                headers = {name.strip().lower(): value.strip() for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, reply = await self.answer(method, target, headers, body)
                data = json.dumps(reply).encode()
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(data)}\r\n\r\n".encode()
                    + data
                )
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main(latency: float) -> None:
    """Serve until standard input ends: the server never outlives who started it."""
    server = Server(latency)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=watch, daemon=True).start()
    await ended.wait()
    listening.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.05))
