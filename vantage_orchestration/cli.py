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

from vantage_orchestration import __version__
from vantage_orchestration.errors import VantageError

__all__ = ["main"]

GROUP = "vantage_orchestration.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 for success, 1 for a failure, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="vantage-orchestration",
        description="ABBYY Vantage for Apache Airflow and Prefect.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(commands, entry)
    args = parser.parse_args(arguments)
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
        text, reason = f"not available: {error}", str(error)
        parser = commands.add_parser(entry.name, help=text)
        parser.set_defaults(run=lambda args: _unavailable(entry.name, reason))
        return
    parser = commands.add_parser(entry.name, help=module.HELP, description=module.HELP)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _unavailable(name: str, reason: str) -> int:
    print(
        f"vantage-orchestration: {name} is not available ({reason}). Install it with"
        f" pip install 'vantage-orchestration[{name}]'.",
        file=sys.stderr,
    )
    return 1
