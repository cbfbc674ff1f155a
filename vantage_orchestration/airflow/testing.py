# SPDX-License-Identifier: Apache-2.0
"""Keeps the button *Test* from sending a stored secret to an address of the tester's choice.

Airflow fills in a stored secret where the form shows ``***`` or omits a field, and gives the hook
the result under another id. It protects host and port, but not the proxy, certificates, paths and
other values of the extra. So the values of the request are recorded on the way in, and the hook
compares its configuration with the stored one.

The page sends port 0 for a connection without a port. Airflow compares that with the stored null,
takes it for another port, and answers "Bad Request". So port 0 is removed on the way in.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from vantage_orchestration.airflow.connection import CONN_TYPE, config_of
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.text import read_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PATH: Final = "/connections/test"
_MASK: Final = "***"
_LONGEST: Final = 1024 * 1024

#: The values sent by the tester; None if this is not a test.
_sent: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar(
    "abbyy-vantage-tested", default=None
)


class NoteTests:
    """ASGI middleware of Airflow's API server that records the values of a connection test."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on; record the body of a test and remove port 0 from it."""
        if not (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].rstrip("/").endswith(_PATH)
        ):
            await self._app(scope, receive, send)
            return
        messages, body = [], b""
        while True:
            messages.append(await receive())
            body += messages[-1].get("body", b"")
            if not messages[-1].get("more_body") or len(body) > _LONGEST:
                break

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        sent = dict(_object(body if len(body) <= _LONGEST else b""))
        if sent.get("conn_type") == CONN_TYPE and sent.get("port") == 0:
            del sent["port"]
            text = json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
            # As long as before, since the length was announced.
            whole = text.encode(errors="replace").ljust(len(body))
            messages = [{"type": "http.request", "body": whole}]
        token = _sent.set(sent)
        try:
            await self._app(scope, again, send)
        finally:
            _sent.reset(token)


def refuse_elsewhere(config: VantageConfig) -> None:
    """Refuse a test that would send a stored secret elsewhere than the stored connection does."""
    sent = _sent.get()
    if sent is None or not (used := _not_given(config, sent)):
        return
    from vantage_orchestration.airflow.compat import AirflowNotFoundException, server_connection

    stored = None
    with contextlib.suppress(AirflowNotFoundException, ConfigurationError):
        conn_id = str(sent.get("connection_id"))
        stored = config_of(server_connection(conn_id, sent.get("team_name")))
    now = _way(config)
    before = dict.fromkeys(now) if stored is None else _way(stored)
    if changed := [name for name in now if now[name] != before[name]]:
        raise ConfigurationError(
            f"The test would send the stored {', '.join(used)} to another address than the stored"
            f" connection: {', '.join(changed)} differ",
            hint="Nothing was sent. Enter the secrets again, or save the connection before the"
            " test",
        )


def _not_given(config: VantageConfig, sent: Mapping[str, Any]) -> list[str]:
    """Return the secrets in use that the tester has not entered in plain text."""
    given = {**_object(sent.get("extra") or "{}"), "password": sent.get("password")}
    secrets = {
        "password": config.credentials.password,
        "client_secret": config.credentials.client_secret,
        "proxy": config.http.proxy,
    }
    return [
        name for name, secret in secrets.items() if secret and given.get(name) in (None, "", _MASK)
    ]


def _way(config: VantageConfig) -> dict[str, Any]:
    """Return all values that decide where secrets are sent, by the names of the fields."""
    return {
        "host or region": config.credentials.base_url,
        "tenant_id": config.credentials.tenant_id,
        "auth_path": config.credentials.token_path,
        "api_path": config.credentials.api_path,
        "client_auth": config.credentials.client_auth,
        "verify": config.http.verify,
        "ca_bundle": config.http.ca_bundle,
        "proxy": config.http.proxy,
        "store": config.store,
        "store_path": config.store_path,
    }


def _object(data: bytes | str) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        found = read_json(data)
        if isinstance(found, Mapping):
            return found
    return {}
