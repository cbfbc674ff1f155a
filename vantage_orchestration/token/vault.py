# SPDX-License-Identifier: Apache-2.0
"""The stored entry of a credential: sealed, locked, and never a reason to fail.

Whatever goes wrong with a store, the process still gets a token by its own login. Each problem is
logged once.

The store is useless without the credential. The name of an entry and the key that seals it are both
derived from the credential's own secrets. So only those who could log in anyway can find and read
an entry; a changed password or client secret leads to another name and another key.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vantage_orchestration import errors
from vantage_orchestration.config import Trust
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import StateUnavailable, VantageError, frameless
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import Store
from vantage_orchestration.text import read_json
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.claim import claimed
from vantage_orchestration.token.request import LONGEST_LIFETIME, renewal_margin
from vantage_orchestration.token.stores import FileStore

__all__ = [
    "LOCK_PATIENCE",
    "LONGEST_HOLD",
    "SHORTEST_SECRET",
    "Moment",
    "Refusal",
    "Seal",
    "Vault",
    "read_entry",
    "write_refusal",
    "write_token",
]

log = logging.getLogger(__name__)

#: Seconds to wait for another process that logs in with the same credential. A process that dies
#: releases its lock at once; this is for one that hangs.
LOCK_PATIENCE = 90.0


class Vault:
    """Reads and writes the entry of one credential.

    Args:
        store: The store; None where nothing is kept.
        credentials: The credential.
        clock: The clocks.
        trust: The trust under which tokens are obtained; each has its own entry.
        locks: Where the processes of this host lock entries; by default the store, if it can.
            Stores that hosts share have no lock; there a host claims the login, see :mod:`.claim`.
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
        self._seal: Seal | None = None
        self._credentials: Credentials | None = credentials
        self._warned = False
        self._unread = False
        # Not related to the file lock between processes; deriving keys takes a moment.
        self._lock = threading.Lock()

    @property
    def keeps_nothing(self) -> bool:
        """Whether there is no store behind this."""
        return self._store is None

    def start_afresh(self) -> None:
        """Take a new mutex; a forked child has none of its parent's threads."""
        self._lock = threading.Lock()

    def load(self, jitter: float) -> AccessToken | Refusal | None:
        """Return the stored state; None if there is none that can be used.

        Raises:
            StateUnavailable: There is no store, or what it holds can't be read.
        """
        opened = self._opened()
        found = None if opened is None else read_entry(opened, self._clock, jitter)
        if opened is not None and found is None:
            raise StateUnavailable("the entry can't be used")
        return found

    def save_token(self, token: AccessToken, begun: Moment) -> None:
        """Store a token for the other processes."""
        self._save(write_token(token, begun))

    def save_refusal(self, error: VantageError, hold: float) -> bool:
        """Store a refusal, so that the same login is not sent again; return whether it is
        stored."""
        return self._save(write_refusal(error, hold, Moment.now(self._clock)))

    def forget(self) -> None:
        """Remove the entry.

        Raises:
            StateUnavailable: The store can't be used. It may still contain the entry.
        """
        seal = self._ready()
        if seal is None or self._store is None:
            return
        removed = False
        with self._forgiving():
            self._store.delete(seal.name)
            removed = True
        if not removed:
            raise StateUnavailable(
                f"The {self._store.label} store of tokens did not remove the entry",
                hint="What it contains stays in use. Mend the store, then repeat this",
            )

    @contextlib.contextmanager
    def alone(self, served: Callable[[], bool]) -> Iterator[None]:
        """Keep other processes from logging in meanwhile; wait for them for LOCK_PATIENCE at most.

        Args:
            served: Returns whether the store already contains the result of the login.
        """
        seal = self._ready()
        with contextlib.ExitStack() as stack:
            if seal is not None and self._locks is not None:
                # A worker may have no folder of its own. A store that hosts share works without.
                warn = self._locks is self._store
                with self._forgiving() if warn else contextlib.suppress(Exception):
                    held = stack.enter_context(self._locks.lock(seal.name, LOCK_PATIENCE))
                    if not held:
                        log.warning(
                            "Another process has been logging in to ABBYY Vantage for %.0f s; not"
                            " waiting any longer",
                            LOCK_PATIENCE,
                        )
            if seal is not None and self._store is not None and self._store is not self._locks:
                stack.enter_context(claimed(self._store, seal.name, LOCK_PATIENCE, served))
            yield

    def _opened(self) -> bytes | None:
        seal = self._ready()
        if seal is not None and self._store is not None:
            with self._forgiving():
                self._unread = True
                entry = self._store.read(seal.name)
                self._unread = False
                if entry is None:
                    return None
                if (opened := seal.open(entry)) is not None:
                    return opened
        raise StateUnavailable("the token store can't be used")

    def _save(self, data: bytes) -> bool:
        seal = self._ready()
        # An unreadable entry is not overwritten: it may be a refusal with a long remaining time.
        if seal is not None and self._store is not None and not self._unread:
            with self._forgiving():
                self._store.write(seal.name, seal.close(data))
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
                except StateUnavailable as error:
                    self._warn(error.what)
            return self._seal

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        trouble = None
        try:
            yield
        except StateUnavailable as error:
            trouble = error.what
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
                self._store.label if self._store is not None else "token",
                trouble,
            )


# ------------------------------------------------------------ what is in an entry

#: Longest time in seconds for which a refused login is held.
LONGEST_HOLD = 86400.0
#: Seconds by which the clocks of two hosts may differ.
_SKEW = 120.0

_KINDS: dict[str, type[VantageError]] = {
    kind.__name__: kind
    for kind in (
        errors.CredentialsRejected,
        errors.ClientRejected,
        errors.GrantNotAllowed,
        errors.ScopeRejected,
        errors.Throttled,
        errors.AuthProtocolError,
        errors.AuthUnavailable,
        errors.ConfigurationError,
    )
}


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    """Return an identifier of the current boot, or an empty text if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment on both clocks. The steady one is valid only within one boot of one machine.

    Args:
        wall: Seconds since 1970.
        steady: Monotonic seconds.
        boot: Identifier of the boot to which ``steady`` belongs.
    """

    wall: float
    steady: float
    boot: str

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        """Return this moment."""
        return cls(clock.wall(), clock.steady(), _boot())

    def age(self, clock: Clock) -> float | None:
        """Return the seconds since then, or None if the clocks contradict it.

        If the steady clock can be used, a wall clock that was set back changes nothing; one that
        was set forward makes the moment older, since either clock may mark it as stale.
        """
        by_wall = clock.wall() - self.wall
        if self.boot and self.boot == _boot():
            by_steady = clock.steady() - self.steady
            return None if by_steady < 0 else max(by_steady, by_wall)
        return None if by_wall < -_SKEW else max(by_wall, 0.0)

    @classmethod
    def read(cls, data: Any) -> Moment:
        """Read what :func:`_moment` wrote."""
        return cls(float(data["wall"]), float(data["steady"]), str(data["boot"]))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused login that all callers get until its time is over.

    Args:
        error: The refusal.
        remaining: Seconds until the login may be retried; 0 or less when its time is over.
        hold: Total seconds for which it is held; the next refusal is held twice as long.
        stored: Whether it is also in the store.
    """

    error: VantageError
    remaining: float
    hold: float
    stored: bool = False


def write_token(token: AccessToken, begun: Moment) -> bytes:
    """Return the entry for a token.

    Args:
        token: The token.
        begun: The moment from which its lifetime counts.
    """
    kept = max(token.kept_until - begun.steady, 0.0)
    return _write(begun, {"token": token.reveal(), "lifetime": token.lifetime, "kept": kept})


def write_refusal(error: VantageError, hold: float, now: Moment) -> bytes:
    """Return the entry for a refused login.

    Args:
        error: The refusal.
        hold: Seconds for which it is held.
        now: This moment.
    """
    details = {name: value for name, value in error.details().items() if value is not None}
    return _write(
        now,
        {"refused": type(error).__name__, "what": error.what, "details": details, "hold": hold},
    )


def _write(moment: Moment, members: dict[str, Any]) -> bytes:
    at = {"wall": moment.wall, "steady": moment.steady, "boot": moment.boot}
    return json.dumps({"at": at, **members}).encode()


def read_entry(data: bytes, clock: Clock, jitter: float) -> AccessToken | Refusal | None:
    """Return the current meaning of an entry.

    Args:
        data: An entry that was opened with its seal.
        clock: The clocks.
        jitter: Jitter of this process, see
            :func:`vantage_orchestration.token.request.renewal_margin`.

    Returns:
        A token (which may have expired), a refusal (whose time may be over), or None if the entry
        can't be used.
    """
    try:
        members = read_json(data)
        begun = Moment.read(members["at"])
        age = begun.age(clock)
        if age is None:
            return None
        if "token" in members:
            lifetime = min(float(members["lifetime"]), LONGEST_LIFETIME)
            return AccessToken(
                Secret(str(members["token"])),
                lifetime=lifetime,
                margin=renewal_margin(lifetime, jitter),
                begun=clock.steady() - age,
                begun_wall=clock.wall() - age,
                kept_until=clock.steady() - age + min(float(members.get("kept", 0)), lifetime),
            )
        hold = min(float(members["hold"]), LONGEST_HOLD)
        kind = _KINDS[members["refused"]]
        error = kind(str(members["what"]), **members["details"])
        return Refusal(error, hold - age, hold, stored=True)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


# ------------------------------------------------------------------- the seal

#: Shortest client secret, in characters, with which anything is stored: a shorter one could be
#: guessed by trying each against a stolen entry.
SHORTEST_SECRET = 20

#: Part of every name and key. A version with another format uses another text here, so that two
#: versions that share a store never read each other's entries.
_FORMAT = b"vantage-orchestration token entry 2"
_NONCE = 12
#: Cost of scrypt: 16 MB and about 50 ms for each guess of a password.
_COST = 2**14


class Seal:
    """Names and seals the entries of one credential.

    Args:
        credentials: The credential.
        trust: The trust under which tokens are obtained; each has its own name.

    Name and key are derived from the secrets by scrypt: with the store and the client secret,
    guesses of a password could be checked, and scrypt makes each guess slow.

    Raises:
        ImportError: The package ``cryptography`` is not installed.
        StateUnavailable: The client secret is too short to be safe at rest, or there is no scrypt.
    """

    __slots__ = ("_key", "name")

    @frameless
    def __init__(self, credentials: Credentials, trust: Trust | None = None) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        secret = credentials.client_secret.reveal()
        if len(secret) < SHORTEST_SECRET:
            raise StateUnavailable(
                f"the client secret has fewer than {SHORTEST_SECRET} characters and could be"
                " guessed from a stored entry"
            )
        public = _pack(
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
            derived = Scrypt(_FORMAT + public, length=64, n=_COST, r=8, p=1).derive(
                _pack(secret, credentials.password.reveal(), *kind)
            )
        except (UnsupportedAlgorithm, MemoryError) as error:
            raise StateUnavailable(f"scrypt can't be used ({type(error).__name__})") from None
        #: Name of the entry, 64 hex digits.
        self.name = derived[:32].hex()
        self._key = derived[32:]

    def close(self, data: bytes) -> bytes:
        """Return ``data`` sealed: encrypted with AES-256-GCM and bound to its name."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._key).encrypt(nonce, data, self._bound)

    def open(self, entry: bytes) -> bytes | None:
        """Return the sealed data, or None if the entry belongs to another seal, is damaged or was
        changed."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self._key).decrypt(entry[:_NONCE], entry[_NONCE:], self._bound)
        except (InvalidTag, ValueError):
            return None

    @property
    def _bound(self) -> bytes:
        return _FORMAT + self.name.encode()

    def __repr__(self) -> str:
        return f"Seal({self.name[:8]}…)"


def _pack(*texts: str) -> bytes:
    """Join texts so that no part of one can be moved into its neighbour."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
