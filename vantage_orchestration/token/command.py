# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration token``: shows and clears what is stored for a credential."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

from vantage_orchestration.config import ENVIRONMENT_PREFIX, VantageConfig
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.token.access import SYSTEM_CLOCK, AccessToken
from vantage_orchestration.token.entries import Refusal
from vantage_orchestration.token.store import StoreError
from vantage_orchestration.token.stores import StoreFactory, store_of
from vantage_orchestration.token.vault import Vault

__all__ = ["GROUP", "HELP", "add_arguments", "run"]

HELP = "show or clear the token, or the refusal, that is stored for a credential"
#: Entry points that read a credential of an orchestrator by its name: ``load(name)`` returns the
#: configuration and what makes the orchestrator's own store.
GROUP = "vantage_orchestration.credentials"

Loader = Callable[[str], "tuple[VantageConfig, StoreFactory]"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("action", choices=("status", "forget"), help="what to do")
    parser.add_argument(
        "--of",
        metavar="ORCHESTRATOR:NAME",
        default="",
        help="credential to take: airflow:CONNECTION_ID or prefect:BLOCK_NAME; by default the"
        f" environment's {ENVIRONMENT_PREFIX}*",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command. It never prints a token.

    Returns:
        0.

    Raises:
        ConfigurationError: There is no such credential.
    """
    config, orchestrator = _load(args.of)
    store = store_of(config, orchestrator)
    vault = Vault(store, config.credentials, SYSTEM_CLOCK, trust=config.trust.identity())
    place = f"{store.label} store"
    try:
        folder = getattr(store, "folder", None)
        place += f" in {folder}" if folder is not None else ""
        if args.action == "forget":
            vault.forget()
            _say(f"Nothing is stored any more for this credential ({place}).")
            return 0
        found = vault.load(jitter=0.0)
    except StoreError as error:
        raise ConfigurationError(
            f"The token store of this credential can't be read: {error}",
            hint="The token lives in the memory of each process",
        ) from None
    if isinstance(found, AccessToken):
        left = found.ends_at - SYSTEM_CLOCK.steady()
        end = found.expires_at.to_iso8601_string()
        state = f"a token, valid until {end}" if left > 0 else f"a token that ended at {end}"
    elif isinstance(found, Refusal):
        state = (
            f"a refused login, not tried again for {found.remaining:.0f} s"
            if found.remaining > 0
            else "a refused login, which may be tried again now"
        )
        state += f"\n{found.error}"
    else:
        state = "nothing"
    _say(f"Stored for this credential ({place}): {state}")
    return 0


def _load(name: str) -> tuple[VantageConfig, StoreFactory | None]:
    if not name:
        return VantageConfig.from_env(), None
    orchestrator, _, credential = name.partition(":")
    for entry in entry_points(group=GROUP, name=orchestrator):
        loader: Loader = entry.load()
        return loader(credential)
    raise ConfigurationError(
        f"{orchestrator!r} is no orchestrator that is known",
        hint="Give airflow:CONNECTION_ID or prefect:BLOCK_NAME",
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
