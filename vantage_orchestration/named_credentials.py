# SPDX-License-Identifier: Apache-2.0
"""Loads a stored credential by name, for commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from vantage_orchestration.config import ENVIRONMENT_PREFIX, VantageConfig
from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from vantage_orchestration.token.stores import StoreFactory

__all__ = ["GROUP", "add_credential_option", "load_credential"]

#: Entry points that load a credential of an orchestrator by name: ``load(name)`` returns the
#: configuration and a factory for the orchestrator's own store.
GROUP = "vantage_orchestration.credentials"

Loader = Callable[[str], "tuple[VantageConfig, StoreFactory]"]


def add_credential_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--of``."""
    parser.add_argument(
        "--of",
        metavar="ORCHESTRATOR:NAME",
        default="",
        help="credential to take: airflow:CONNECTION_ID or prefect:BLOCK_NAME; by default the"
        f" environment's {ENVIRONMENT_PREFIX}*",
    )


def load_credential(name: str) -> tuple[VantageConfig, StoreFactory | None]:
    """Return a credential, and a factory for its orchestrator's own token store.

    The name is the value of ``--of``; empty for the environment.

    Raises:
        ConfigurationError: There is no such credential.
    """
    if not name:
        return VantageConfig.from_env(), None
    orchestrator, _, credential = name.partition(":")
    for entry in entry_points(group=GROUP, name=orchestrator):
        loader: Loader = entry.load()
        return loader(credential)
    raise ConfigurationError(
        f"{orchestrator!r} is not a known orchestrator",
        hint="Give airflow:CONNECTION_ID or prefect:BLOCK_NAME",
    )
