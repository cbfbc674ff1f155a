# SPDX-License-Identifier: Apache-2.0
"""Where a token rests between processes: the protocol, and the store that keeps nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["MemoryStore", "StoreError", "TokenStore"]


class StoreError(Exception):
    """A store can't be used. The token comes without it."""


class TokenStore(Protocol):
    """Keeps sealed entries under opaque names.

    What it keeps is encrypted and authenticated before it gets here
    (:mod:`vantage_orchestration.token.seal`), so a store needs no secrets and is trusted with none.
    """

    #: What warnings call it.
    label: str

    def load(self, name: str) -> bytes | None:
        """Return the entry, or None if there is none.

        Args:
            name: 64 hex digits.

        Raises:
            StoreError: The store can't be read.
        """

    def save(self, name: str, entry: bytes) -> None:
        """Put the entry in place of what is there.

        Raises:
            StoreError: The store can't be written.
        """

    def forget(self, name: str) -> None:
        """Remove the entry; one that is not there counts as removed.

        Raises:
            StoreError: The store can't be written.
        """

    def lock(self, name: str, timeout: float) -> AbstractContextManager[bool]:
        """Return a context in which nobody else who uses this store holds the lock of ``name``.

        Args:
            name: 64 hex digits.
            timeout: Seconds to wait for it. When they are over, the context begins all the same,
                with False: a holder that hangs must not hold up everybody.

        Raises:
            StoreError: There is no lock to be had.
        """


class MemoryStore:
    """Keeps nothing: tokens live in the memory of the process alone."""

    label = "memory"

    def load(self, name: str) -> bytes | None:
        """Return None."""
        return None

    def save(self, name: str, entry: bytes) -> None:
        """Do nothing."""

    def forget(self, name: str) -> None:
        """Do nothing."""

    def lock(self, name: str, timeout: float) -> AbstractContextManager[bool]:
        """Return a context without a lock."""
        return nullcontext(True)
