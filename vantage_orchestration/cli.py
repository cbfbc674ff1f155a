# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration``.

Its subcommands come from the entry point group ``vantage_orchestration.commands``: each is a module
with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``. Only the chosen one is loaded
completely.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

from vantage_orchestration import __version__
from vantage_orchestration.errors import ConfigurationError, VantageError

__all__ = ["main"]

GROUP = "vantage_orchestration.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 for success, 1 for a failure, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="vantage-orchestration",
        description="ABBYY Vantage for Apache Airflow and Prefect.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(commands, entry)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except VantageError as error:
        print(f"vantage-orchestration: {error}", file=sys.stderr)
        return 1


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
        parser.set_defaults(run=lambda args: _raise(failure))
        return
    parser = commands.add_parser(entry.name, help=module.HELP, description=module.HELP)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _raise(failure: VantageError) -> NoReturn:
    raise failure
