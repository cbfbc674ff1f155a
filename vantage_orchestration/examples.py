# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration examples``: copies the example DAGs and flows."""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
from pathlib import Path

from vantage_orchestration.errors import ConfigurationError

HELP = "copy the example DAGs and flows into a folder"
#: Folders of examples.
KINDS = ("dags", "flows")
_DISTRIBUTION = "vantage-orchestration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--to",
        metavar="FOLDER",
        required=True,
        help="folder in which to create the folders dags and flows",
    )
    parser.add_argument(
        "--only", choices=KINDS, action="append", help="copy only these; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    for path in copy_examples(Path(args.to), tuple(args.only or KINDS)):
        sys.stdout.write(f"{path}\n")
    return 0


def copy_examples(target: Path, kinds: tuple[str, ...] = KINDS) -> list[Path]:
    """Copy examples of the given kinds into folders below ``target``; return the created files.
    Existing files are never overwritten."""
    files = [(source, target / kind / source.name) for kind in kinds for source in _sources(kind)]
    for _, copy in files:
        if copy.exists():
            raise ConfigurationError(f"{copy} already exists", hint="Give another folder")
    for source, copy in files:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    return [copy for _, copy in files]


def _sources(kind: str) -> list[Path]:
    """Return the example files of the checkout, or those installed from the wheel."""
    found = list(Path(__file__).parents[1].glob(f"{kind}/abbyy_vantage_*.py"))
    if not found:
        place = ("share", _DISTRIBUTION, kind)
        installed = importlib.metadata.files(_DISTRIBUTION) or ()
        found = [Path(str(each.locate())) for each in installed if each.parts[-4:-1] == place]
    if not found:
        raise ConfigurationError(
            "The examples are not installed", hint="Install vantage-orchestration from its wheel"
        )
    return sorted(found)
