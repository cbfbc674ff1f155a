# SPDX-License-Identifier: Apache-2.0
"""Airflow plugin that adds the pages about ABBYY Vantage transactions to the API server.

Airflow loads plugins in every process, including workers and Dag processors. So the pages are
imported only at the first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from vantage_orchestration.airflow.links import URL_PREFIX
from vantage_orchestration.airflow.quiet import quieten
from vantage_orchestration.airflow.testing import NoteTests

Message = MutableMapping[str, Any]


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
