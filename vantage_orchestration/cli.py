# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration``, and how its subcommands load a stored credential by name.

Its subcommands come from the entry point group ``vantage_orchestration.commands``: each is a module
with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``. Only the chosen one is loaded
completely.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, NoReturn

from vantage_orchestration import __version__
from vantage_orchestration.config import ENVIRONMENT_PREFIX, VantageConfig
from vantage_orchestration.errors import ConfigurationError, VantageError

if TYPE_CHECKING:
    from vantage_orchestration.state import Store

GROUP = "vantage_orchestration.commands"
#: Entry points that load a credential of an orchestrator by name: ``load(name)`` returns the
#: configuration and the orchestrator's own store.
_CREDENTIALS = "vantage_orchestration.credentials"

Loader = Callable[[str], "tuple[VantageConfig, Store]"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 for success, 1 for a failure, 2 for wrong usage, and what
    shells expect of a command that was interrupted (130) or whose reader has gone (141)."""
    parser = argparse.ArgumentParser(
        prog="vantage-orchestration",
        description="ABBYY Vantage for Apache Airflow and Prefect.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(commands, entry)
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Names may have letters it lacks.
    try:
        result = int(args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python would write what is left at its exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (VantageError, OSError) as error:
        print(f"vantage-orchestration: {error}", file=sys.stderr)
        return 1
    return result


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], entry: EntryPoint) -> None:
    try:
        module = entry.load()
    except ImportError as error:
        # A missing extra disables only its own command.
        failure = ConfigurationError(
            f"{entry.name} is not available ({error})",
            hint=f"Install it with pip install 'vantage-orchestration[{entry.name}]'",
        )
        parser = commands.add_parser(entry.name, help=f"not available: {error}")

        def refuse(args: argparse.Namespace) -> NoReturn:
            raise failure

        parser.set_defaults(run=refuse)
        return
    parser = commands.add_parser(entry.name, help=module.HELP, description=module.HELP)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def add_credential_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--of``."""
    parser.add_argument(
        "--of",
        metavar="ORCHESTRATOR:NAME",
        default="",
        help="credential to take: airflow:CONNECTION_ID or prefect:BLOCK_NAME; by default the"
        f" environment's {ENVIRONMENT_PREFIX}*",
    )


def load_credential(name: str) -> tuple[VantageConfig, Store | None]:
    """Return the credential that ``--of`` names, and its orchestrator's own token store. Without a
    name it is the environment's."""
    if not name:
        return VantageConfig.from_env(), None
    orchestrator, _, credential = name.partition(":")
    for entry in entry_points(group=_CREDENTIALS, name=orchestrator):
        loader: Loader = entry.load()
        return loader(credential)
    raise ConfigurationError(
        f"{orchestrator!r} is not a known orchestrator",
        hint="Give airflow:CONNECTION_ID or prefect:BLOCK_NAME",
    )
