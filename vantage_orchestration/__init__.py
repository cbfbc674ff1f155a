# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage document processing for Apache Airflow and Prefect.

The names below are loaded on first use, so importing this package costs almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.config import HttpSettings, VantageConfig
    from vantage_orchestration.credentials import Credentials
    from vantage_orchestration.errors import VantageError
    from vantage_orchestration.secret import Secret
    from vantage_orchestration.token import AccessToken, TokenSource

__all__ = [
    "AccessToken",
    "Credentials",
    "HttpSettings",
    "Secret",
    "TokenSource",
    "VantageClient",
    "VantageConfig",
    "VantageError",
    "__version__",
]

_HOMES = {
    "AccessToken": "token",
    "Credentials": "credentials",
    "HttpSettings": "config",
    "Secret": "secret",
    "TokenSource": "token",
    "VantageClient": "client",
    "VantageConfig": "config",
    "VantageError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
