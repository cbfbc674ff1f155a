# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration token``: shows and clears the stored state of a
credential."""

from __future__ import annotations

import argparse
import sys

from vantage_orchestration.cli import add_credential_option, load_credential
from vantage_orchestration.errors import ConfigurationError, StateUnavailable
from vantage_orchestration.token.access import SYSTEM_CLOCK, AccessToken, Refusal
from vantage_orchestration.token.cache import TokenCache

HELP = "show or clear the stored token or refusal of a credential"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("action", choices=("status", "forget"), help="action")
    add_credential_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command. It never prints a token."""
    config, orchestrator = load_credential(args.of)
    store = config.open_store(orchestrator)
    cache = TokenCache(store, config.credentials, SYSTEM_CLOCK, trust=config.trust)
    place = f"{store.label if store is not None else 'memory'} store"
    forgets = args.action == "forget"
    try:
        folder = getattr(store, "folder", None)
        place += f" in {folder}" if folder is not None else ""
        found = None if forgets else cache.load(jitter=0.0)
    except StateUnavailable as error:
        raise ConfigurationError(
            f"The token store of this credential can't be read: {error.what}",
            hint="The token is kept in the memory of each process",
        ) from None
    if forgets:
        cache.forget()
        sys.stdout.write(f"Nothing is stored for this credential any more ({place}).\n")
        return 0
    if isinstance(found, AccessToken):
        left = found.ends_at - SYSTEM_CLOCK.steady()
        end = found.expires_at.to_iso8601_string()
        state = f"a token, valid until {end}" if left > 0 else f"a token that expired at {end}"
    elif isinstance(found, Refusal):
        left = found.until - SYSTEM_CLOCK.steady()
        when = f"not retried for {left:.0f} s" if left > 0 else "which may be retried now"
        state = f"a refused login, {when}\n{found.error}"
    else:
        state = "nothing"
    sys.stdout.write(f"Stored for this credential ({place}): {state}\n")
    return 0
