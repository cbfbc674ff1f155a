# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage document processing for Apache Airflow and Prefect.

The names below are loaded on first use, so importing this package costs almost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.lazy import on_first_use

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

__getattr__ = on_first_use(
    __name__,
    {
        "AccessToken": "token",
        "Credentials": "credentials",
        "HttpSettings": "config",
        "Secret": "secret",
        "TokenSource": "token",
        "VantageClient": "client",
        "VantageConfig": "config",
        "VantageError": "errors",
    },
)
