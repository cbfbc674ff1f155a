# SPDX-License-Identifier: Apache-2.0
"""What is stored of one credential for other processes: encrypted, locked, never a reason to fail.

Whatever goes wrong with a store, the process still gets a token by its own login. Each problem is
logged once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from vantage_orchestration.config import Trust
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import (
    AuthProtocolError,
    AuthUnavailable,
    ConfigurationError,
    StateUnavailable,
    Throttled,
    VantageError,
    frameless,
)
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import FileStore, Store
from vantage_orchestration.text import MISFIT, read_json
from vantage_orchestration.token.access import AccessToken, Clock, Refusal
from vantage_orchestration.token.request import LONGEST_LIFETIME, REFUSALS, renewal_margin

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
#: Longest time in seconds for which a refused login is held.
LONGEST_HOLD = 86400.0
#: Shortest client secret, in characters, with which anything is stored: a shorter one could be
#: guessed by trying each against a stolen entry.
SHORTEST_SECRET = 20

#: Part of every name and key. A version with another format uses another text here, so that two
#: versions that share a store never read each other's entries.
_FORMAT = b"vantage-orchestration token entry 2"
_NONCE = 12
#: Cost of scrypt: 16 MB and about 50 ms for each guess of a password.
KEY_COST = 2**14
_KINDS: dict[str, type[VantageError]] = {
    kind.__name__: kind
    for kind in (*REFUSALS, Throttled, AuthProtocolError, AuthUnavailable, ConfigurationError)
}


class TokenCache:
    """Reads and writes the entry of one credential, for tokens obtained under one trust.

    Without a ``store`` nothing is kept. ``locks`` are files of this host to lock, for a store that
    several hosts share and that has no locks. There a host also claims the login.
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
        """Return what is stored; None if there is nothing. It is StateUnavailable if there is no
        store, or what it holds can't be read."""
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

    def save(self, found: AccessToken | Refusal) -> bool:
        """Store a token or a refusal for the other processes; return whether it is stored."""
        cipher = self._ready()
        # An unreadable entry is not overwritten: it may be a refusal with a long remaining time.
        if cipher is not None and self._store is not None and not self._unread:
            with self._forgiving():
                self._store.write(cipher.name, cipher.encrypt(write_entry(found, self._clock)))
                return True
        return False

    def forget(self) -> None:
        """Remove the entry. It is StateUnavailable if the store may still contain it."""
        cipher = self._ready()
        if cipher is None or self._store is None:
            return
        with self._forgiving():
            self._store.delete(cipher.name)
            return
        raise StateUnavailable(
            f"The {self._store.label} store of tokens did not remove the entry",
            hint="The entry stays in use. Repair the store, then repeat this",
        )

    @contextlib.contextmanager
    def locked(self, served: Callable[[], bool]) -> Iterator[None]:
        """Keep other processes from logging in meanwhile; wait for them for LOCK_PATIENCE at most.
        ``served`` returns whether the store already contains the result of the login."""
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

    The context begins whatever goes wrong with the store, after ``patience`` seconds of waiting for
    other hosts, and as soon as ``served`` returns that another host has done the work.
    """
    place = hashlib.sha256(f"claim {name}".encode()).hexdigest()
    own = secrets.token_hex(16).encode()
    # If the store fails, it may still have written the claim.
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


# ------------------------------------------------------------ the entry


def write_entry(found: AccessToken | Refusal, clock: Clock) -> bytes:
    """Return the content of an entry."""
    members: dict[str, Any]
    if isinstance(found, AccessToken):
        begun, kept = found.begun, max(found.kept_until - found.begun, 0.0)
        members = {"token": found.reveal(), "lifetime": found.lifetime, "kept": kept}
    else:
        begun, error = found.until - found.hold, found.error
        details = {name: value for name, value in error.details().items() if value is not None}
        members = {"refused": type(error).__name__, "what": error.what}
        members |= {"details": details, "hold": found.hold}
    return json.dumps({"at": clock.stamp(begun), **members}).encode()


def read_entry(data: bytes, clock: Clock, jitter: float) -> AccessToken | Refusal | None:
    """Return the current meaning of an entry's content: a token (which may have expired), a refusal
    (whose time may be over), or None if it can't be used."""
    try:
        members = read_json(data)
        age = clock.age(members["at"])
        if age is None:
            return None
        begun = clock.steady() - age
        if "token" in members:
            lifetime = min(float(members["lifetime"]), LONGEST_LIFETIME)
            return AccessToken(
                Secret(str(members["token"])),
                lifetime=lifetime,
                margin=renewal_margin(lifetime, jitter),
                begun=begun,
                begun_wall=clock.wall() - age,
                kept_until=begun + min(float(members.get("kept", 0)), lifetime),
            )
        hold = min(float(members["hold"]), LONGEST_HOLD)
        error = _KINDS[members["refused"]](str(members["what"]), **members["details"])
        return Refusal(error, begun + hold, hold, stored=True)
    except MISFIT:
        return None


class EntryCipher:
    """Names and encrypts the entry of one credential, for tokens obtained under one trust.

    Name and key are derived from the credential's own secrets. So only those who could log in
    anyway can find and read it; a changed password or client secret leads to another entry. With
    the store and the client secret, guesses of a password could be checked: scrypt makes each slow.

    Raises:
        ImportError: The package ``cryptography`` is not installed.
        StateUnavailable: The client secret is too short to be safe at rest, or there is no scrypt.
    """

    __slots__ = ("_aead", "name")

    @frameless
    def __init__(self, credentials: Credentials, trust: Trust | None = None) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        secret = credentials.client_secret.reveal()
        if len(secret) < SHORTEST_SECRET:
            raise StateUnavailable(
                f"the client secret has fewer than {SHORTEST_SECRET} characters and could be"
                " guessed from a stored entry"
            )
        public = packed(
            credentials.token_url,
            credentials.tenant_id,
            credentials.username,
            credentials.client_id,
            credentials.grant_type,
            credentials.scope,
            credentials.client_auth,
        )
        kind = trust.identity() if trust is not None else ()
        try:
            derived = Scrypt(_FORMAT + public, length=64, n=KEY_COST, r=8, p=1).derive(
                packed(secret, credentials.password.reveal(), *kind)
            )
        except (UnsupportedAlgorithm, MemoryError) as error:
            raise StateUnavailable(f"scrypt can't be used ({type(error).__name__})") from None
        #: Name of the entry, 64 hex digits.
        self.name = derived[:32].hex()
        self._aead = AESGCM(derived[32:])

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` encrypted with AES-256-GCM and bound to the name of the entry."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, data, self._bound)

    def decrypt(self, entry: bytes) -> bytes | None:
        """Return the data; None if the entry is another credential's, damaged or changed."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(entry[:_NONCE], entry[_NONCE:], self._bound)
        except (InvalidTag, ValueError):
            return None

    @property
    def _bound(self) -> bytes:
        return _FORMAT + self.name.encode()

    def __repr__(self) -> str:
        return f"EntryCipher({self.name[:8]}…)"


def packed(*texts: str) -> bytes:
    """Join texts so that no part of one can be moved into its neighbour."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
