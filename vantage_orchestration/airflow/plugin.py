# SPDX-License-Identifier: Apache-2.0
"""Airflow plugin that adds the pages about ABBYY Vantage transactions to the API server.

Airflow loads plugins in every process, including workers and Dag processors. So the pages are
imported only at the first request.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from vantage_orchestration.airflow.compat import change_method
from vantage_orchestration.airflow.connection import CONN_TYPE
from vantage_orchestration.airflow.links import URL_PREFIX
from vantage_orchestration.airflow.testing import NoteTests

Message = MutableMapping[str, Any]

#: A logger that writes nothing. By a filter, since Airflow enables loggers when it configures them.
_NOBODY = logging.getLogger(f"{__name__}.nobody")
_NOBODY.addFilter(lambda record: False)


async def pages(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Serve the pages, as an ASGI application."""
    app = await asyncio.to_thread(_load)
    await app(scope, receive, send)


def _load() -> Any:
    # In a thread, since the import is slow and the API server must serve others meanwhile.
    from vantage_orchestration.airflow.pages.app import app

    return app


class VantagePlugin(AirflowPlugin):
    """The plugin, entry point group ``airflow.plugins``.

    The provider's metadata does not list it too: with ``[core] lazy_discover_providers`` off,
    Airflow would load it twice and report the second time as an error.
    """

    name = "abbyy_vantage"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - declared like this by Airflow
        {"name": "ABBYY Vantage", "app": pages, "url_prefix": URL_PREFIX}
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012 - declared like this by Airflow
        {"name": "ABBYY Vantage: tests of connections", "middleware": NoteTests}
    ]

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Prepare each process that loads plugins."""
        quieten()


def quieten() -> None:
    """Keep a warning about this package's connection type out of this process's logs.

    Airflow warns about the underscore in a connection type whenever it writes a connection as a
    URI, and its servers do that at each lookup. The URI itself is correct: Airflow replaces the
    underscore with a hyphen.
    """
    # Below 3.2, where workers and triggers write connections as URIs too.
    logging.getLogger("airflow.sdk.definitions.connection").addFilter(_is_another)
    # In servers. Other processes have not loaded it, and must not load it for this.
    kind: Any = getattr(sys.modules.get("airflow.models.connection"), "Connection", None)

    # From 3.1 on, its logger takes no filters.
    def quietly(get_uri: Any, connection: Any) -> Any:
        if connection.conn_type != CONN_TYPE:
            return get_uri(connection)
        own = vars(connection)
        log, own["_log"] = own.get("_log"), _NOBODY
        try:
            return get_uri(connection)
        finally:
            own["_log"] = log

    change_method(kind, "get_uri", quietly)


def _is_another(record: logging.LogRecord) -> bool:
    return record.args != (CONN_TYPE,)
