# SPDX-License-Identifier: Apache-2.0
"""Refuses a Prefect that is too old, in words, before a module fails for a name it lacks."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Final

__all__ = ["LOWEST"]

#: The lowest release that this package is tried with.
LOWEST: Final = (3, 4, 25)


def _check() -> None:
    """Look at the version of Prefect.

    Raises:
        ImportError: It is too old for this package, or not installed.
    """
    try:
        version = importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            "Prefect is not installed; install it with pip install 'vantage-orchestration[prefect]'"
        ) from None
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < LOWEST:
        raise ImportError(
            f"vantage-orchestration needs Prefect 3.4.25 or later; this is {version}. Install it"
            " beside a later Prefect, or remove it from this environment"
        )


_check()
