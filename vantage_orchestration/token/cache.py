# SPDX-License-Identifier: Apache-2.0
"""What is stored of one credential for other processes: encrypted, locked, never a reason to fail.

Whatever goes wrong with a store, the process still gets a token by its own login. Each problem is
logged once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Final

from vantage_orchestration.config import Trust
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import StateUnavailable, VantageError
from vantage_orchestration.state import FileStore, Store
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.entry import (
    EntryCipher,
    Refusal,
    read_entry,
    write_refusal,
    write_token,
)

log = logging.getLogger(__name__)

#: Seconds to wait for another process that logs in with the same credential. A process that dies
#: releases its lock at once; this is for one that hangs.
LOCK_PATIENCE = 90.0


#: Seconds after which an unchanged claim is taken over, because its holder has died. A login takes
#: a second or two; if the server has problems, a second host that tries does no harm.
_STALE: Final = 30.0
#: Seconds between two reads of another host's claim, shortest and longest.
_PAUSES: Final = (0.2, 0.6)
_random = random.SystemRandom()


class TokenCache:
    """Reads and writes the entry of one credential.

    Args:
        store: The store; None where nothing is kept.
        credentials: The credential.
        clock: The clocks.
        trust: The trust under which the token is obtained.
        locks: Files of this host to lock, for a store that several hosts share and that has no
            locks. There a host also claims the login.
    """

    def __init__(
        self,
        store: Store | None,
        credentials: Credentials,
        clock: Clock,
        trust: Trust | None = None,
        locks: FileStore | None = None,
    ) -> None:
        self._store = store
        self._locks = store if isinstance(store, FileStore) else locks
        self._trust = trust
        self._clock = clock
        self._cipher: EntryCipher | None = None
        self._credentials: Credentials | None = credentials
        self._warned = False
        self._unread = False

    @property
    def keeps_nothing(self) -> bool:
        """Whether there is no store behind this."""
        return self._store is None

    def load(self, jitter: float) -> AccessToken | Refusal | None:
        """Return what is stored; None if there is nothing.

        Raises:
            StateUnavailable: There is no store, or what it holds can't be read.
        """
        cipher, what = self._ready(), "the token store can't be used"
        if cipher is not None and self._store is not None:
            with self._forgiving():
                self._unread = True
                entry = self._store.read(cipher.name)
                self._unread = False
                if entry is None:
                    return None
                data = cipher.decrypt(entry)
                found = None if data is None else read_entry(data, self._clock, jitter)
                if found is not None:
                    return found
                what = "the entry can't be used"
        raise StateUnavailable(what)

    def save_token(self, token: AccessToken) -> None:
        """Store a token for the other processes."""
        self._save(write_token(token, self._clock))

    def save_refusal(self, error: VantageError, hold: float) -> bool:
        """Store a refusal, so that the same login is not sent again; return whether it is
        stored."""
        return self._save(write_refusal(error, hold, self._clock))

    def _save(self, data: bytes) -> bool:
        cipher = self._ready()
        # An unreadable entry is not overwritten: it may be a refusal with a long remaining time.
        if cipher is not None and self._store is not None and not self._unread:
            with self._forgiving():
                self._store.write(cipher.name, cipher.encrypt(data))
                return True
        return False

    def forget(self) -> None:
        """Remove the entry.

        Raises:
            StateUnavailable: The store can't be used. It may still contain the entry.
        """
        cipher = self._ready()
        if cipher is None or self._store is None:
            return
        with self._forgiving():
            self._store.delete(cipher.name)
            return
        raise StateUnavailable(
            f"The {self._store.label} store of tokens did not remove the entry",
            hint="What it contains stays in use. Mend the store, then repeat this",
        )

    @contextlib.contextmanager
    def locked(self, served: Callable[[], bool]) -> Iterator[None]:
        """Keep other processes from logging in meanwhile; wait for them for LOCK_PATIENCE at most.

        Args:
            served: Returns whether the store already contains the result of the login.
        """
        cipher = self._ready()
        with contextlib.ExitStack() as stack:
            if cipher is not None and self._locks is not None:
                # A worker may have no folder of its own. A store that hosts share works without.
                warn = self._locks is self._store
                with self._forgiving() if warn else contextlib.suppress(Exception):
                    if not stack.enter_context(self._locks.lock(cipher.name, LOCK_PATIENCE)):
                        log.warning(
                            "Another process has been logging in to ABBYY Vantage for %.0f s; not"
                            " waiting any longer",
                            LOCK_PATIENCE,
                        )
            if cipher is not None and self._store is not None and self._store is not self._locks:
                stack.enter_context(claimed(self._store, cipher.name, LOCK_PATIENCE, served))
            yield

    def _ready(self) -> EntryCipher | None:
        """Return the cipher, derived at first use; None where nothing can be stored."""
        # Two threads may derive it at once, with the same result. A mutex could be lost in a fork.
        credentials = self._credentials
        if self._store is not None and credentials is not None:
            try:
                self._cipher = EntryCipher(credentials, self._trust)
            except ImportError:
                self._warn("the package cryptography is not installed")
            except StateUnavailable as error:
                self._warn(error.what)
            self._credentials = None
        return self._cipher

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except StateUnavailable as error:
            self._warn(error.what)
        except Exception as error:  # A store of an orchestrator can fail in any way.
            self._warn(type(error).__name__)

    def _warn(self, trouble: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "The token of ABBYY Vantage is kept in this process alone, since its %s store"
                " can't be used: %s",
                self._store.label if self._store is not None else "token",
                trouble,
            )


@contextlib.contextmanager
def claimed(store: Store, name: str, patience: float, served: Callable[[], bool]) -> Iterator[None]:
    """Hold the claim to an entry: a value of the store, which only one host creates.

    Whatever goes wrong with the store, the context still begins.

    Args:
        store: Store that several hosts share.
        name: Name of the entry.
        patience: Seconds to wait for other hosts.
        served: Returns whether another host has done the work. Then the claim is not needed.
    """
    place = hashlib.sha256(f"claim {name}".encode()).hexdigest()
    own = secrets.token_hex(16).encode()
    # If the store fails, it may have written the claim all the same.
    held = True
    try:
        held = _take(store, place, own, time.monotonic() + patience, served)
    except Exception as error:  # A store of an orchestrator can fail in any way.
        log.debug("Hosts do not wait for each other: %s", type(error).__name__)
    try:
        yield
    finally:
        if held:
            # If it can't be removed, it is taken over when it is stale.
            with contextlib.suppress(Exception):
                _remove(store, place, own)


def _take(store: Store, place: str, own: bytes, until: float, served: Callable[[], bool]) -> bool:
    """Wait for the claim and return whether it is held."""
    known, since = None, 0.0
    while not store.create(place, own):
        now, other = time.monotonic(), store.read(place)
        if other == own:  # An earlier try wrote it, although it failed.
            return True
        if served():
            return False
        if other != known:
            known, since = other, now
        elif other is not None and now - since >= _STALE:
            log.warning("A host that was logging in to ABBYY Vantage has died; taking over")
            _remove(store, place, other)
            continue
        if now >= until:
            log.warning(
                "Other hosts have been logging in to ABBYY Vantage for too long; not waiting any"
                " longer"
            )
            return False
        time.sleep(_random.uniform(*_PAUSES))
    return True


def _remove(store: Store, place: str, claim: bytes) -> None:
    if store.read(place) == claim:
        store.delete(place)
