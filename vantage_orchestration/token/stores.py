# SPDX-License-Identifier: Apache-2.0
"""Chooses the store that a connection or block asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.token.store import MemoryStore, TokenStore

__all__ = ["StoreFactory", "store_of"]

log = logging.getLogger(__name__)

StoreFactory = Callable[[], TokenStore]


def store_of(config: VantageConfig, orchestrator: StoreFactory | None = None) -> TokenStore:
    """Return the store that ``config`` names.

    Args:
        config: The configuration.
        orchestrator: Makes the orchestrator's own store, where there is an orchestrator.
    """
    if config.tokens.store == "orchestrator":
        if orchestrator is not None:
            return orchestrator()
        log.warning(
            "The token of ABBYY Vantage is kept in this process alone: there is no orchestrator"
            " whose store could be used"
        )
    if config.tokens.store == "file":
        from vantage_orchestration.token.file_store import FileStore

        return FileStore(config.tokens.store_path)
    return MemoryStore()
