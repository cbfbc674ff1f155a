# SPDX-License-Identifier: Apache-2.0
"""Loads a block by name, for the command ``vantage-orchestration token --of prefect:NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.token.stores import StoreFactory

__all__ = ["load"]


def load(name: str) -> tuple[VantageConfig, StoreFactory]:
    """Return the credential of a saved block, and a factory for the token store of its server.

    Args:
        name: Name of the block.

    Raises:
        ConfigurationError: No block has this name, it can't be used, or the Prefect API does not
            answer.
        TypeError: It was called from a coroutine.
    """
    import httpx

    from vantage_orchestration.prefect.credentials import VantageCredentials

    try:
        block = VantageCredentials.load(name)
        if not isinstance(block, VantageCredentials):  # A coroutine, where an event loop runs.
            block.close()
            raise TypeError("this can't be called from a coroutine")
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        trouble = type(error).__name__
    else:
        return block._loader()(), block._orchestrator_store()
    raise ConfigurationError(
        f"The block {name!r} could not be read from Prefect ({trouble})",
        hint="Check the block's name and PREFECT_API_URL",
    )
