# SPDX-License-Identifier: Apache-2.0
"""A credential's own place in a store: sealed, locked, and never a reason to fail.

Whatever goes wrong with a store, the token still comes, by a login of its own. Each trouble is said
once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import VantageError
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.entries import (
    Moment,
    Refusal,
    read_entry,
    write_refusal,
    write_token,
)
from vantage_orchestration.token.seal import Seal
from vantage_orchestration.token.store import MemoryStore, StoreError, TokenStore

__all__ = ["LOCK_PATIENCE", "Vault"]

log = logging.getLogger(__name__)

#: Seconds to wait for another process that logs in with the same credential. One that dies gives
#: its lock back at once; this is for one that hangs.
LOCK_PATIENCE = 90.0


class Vault:
    """Reads and writes the entry of one credential.

    Args:
        store: The store.
        credentials: The credential.
        clock: The clocks.
        trust: Under which trust it was obtained; each has an entry of its own.
    """

    def __init__(
        self,
        store: TokenStore,
        credentials: Credentials,
        clock: Clock,
        trust: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._trust: tuple[str, ...] = trust
        self._clock = clock
        self._seal: Seal | None = None
        self._credentials: Credentials | None = credentials
        self._warned = False
        # Not for the file lock, which is between processes; deriving keys takes a moment.
        self._lock = threading.Lock()

    @property
    def keeps_nothing(self) -> bool:
        """Whether there is no store behind this."""
        return isinstance(self._store, MemoryStore)

    def start_afresh(self) -> None:
        """Take a new mutex; a forked child has none of its parent's threads."""
        self._lock = threading.Lock()

    def load(self, jitter: float) -> AccessToken | Refusal | None:
        """Return what the store holds, or None if it holds nothing of use.

        Raises:
            StoreError: There is no store, or what it holds can't be read.
        """
        opened = self._opened()
        found = None if opened is None else read_entry(opened, self._clock, jitter)
        if opened is not None and found is None:
            raise StoreError("the entry is of no use")
        return found

    def save_token(self, token: AccessToken, begun: Moment) -> None:
        """Keep a token for the other processes."""
        self._save(write_token(token, begun))

    def save_refusal(self, error: VantageError, hold: float) -> bool:
        """Keep a refusal, so that nobody sends the same login again; return whether it is kept."""
        return self._save(write_refusal(error, hold, Moment.now(self._clock)))

    def forget(self) -> None:
        """Remove the entry."""
        seal = self._ready()
        if seal is not None:
            with self._forgiving():
                self._store.forget(seal.name)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the others from logging in meanwhile; give up waiting after LOCK_PATIENCE."""
        seal = self._ready()
        with contextlib.ExitStack() as stack:
            if seal is not None:
                with self._forgiving():
                    held = stack.enter_context(self._store.lock(seal.name, LOCK_PATIENCE))
                    if not held:
                        log.warning(
                            "Another process has been logging in to ABBYY Vantage for %.0f s; not"
                            " waiting any longer",
                            LOCK_PATIENCE,
                        )
            yield

    def _opened(self) -> bytes | None:
        seal = self._ready()
        if seal is not None:
            with self._forgiving():
                entry = self._store.load(seal.name)
                if entry is None:
                    return None
                if (opened := seal.open(entry)) is not None:
                    return opened
        raise StoreError(f"the {self._store.label} store can't be used")

    def _save(self, data: bytes) -> bool:
        seal = self._ready()
        if seal is not None:
            with self._forgiving():
                self._store.save(seal.name, seal.close(data))
                return True
        return False

    def _ready(self) -> Seal | None:
        if self.keeps_nothing:
            return None
        with self._lock:
            if self._seal is None and self._credentials is not None:
                credentials, self._credentials = self._credentials, None
                try:
                    self._seal = Seal(credentials, self._trust)
                except ImportError:
                    self._warn("the package cryptography is not installed")
                except ValueError as error:
                    self._warn(str(error))
            return self._seal

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        trouble = None
        try:
            yield
        except StoreError as error:
            trouble = str(error)
        except Exception as error:  # A store of an orchestrator can fail in any way.
            trouble = type(error).__name__
        if trouble is not None:
            self._warn(trouble)

    def _warn(self, trouble: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "The token of ABBYY Vantage is kept in this process alone, since its %s store"
                " can't be used: %s",
                self._store.label,
                trouble,
            )
