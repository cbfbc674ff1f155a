# SPDX-License-Identifier: Apache-2.0
"""``python -m vantage_orchestration.sandbox``: the sandbox command without the main program."""

from __future__ import annotations

import argparse
import sys

from .command import HELP, add_arguments, run


def main() -> int:
    """Parse the command line and run the sandbox until a signal ends it."""
    parser = argparse.ArgumentParser(
        prog="python -m vantage_orchestration.sandbox", description=HELP
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
