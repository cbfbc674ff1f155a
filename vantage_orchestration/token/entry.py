# SPDX-License-Identifier: Apache-2.0
"""The entry of a credential in a store: a token or a refused login, encrypted.

Name and key of an entry are derived from the credential's own secrets. So only those who could log
in anyway can find and read it; a changed password or client secret leads to another entry.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from typing import Any

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
from vantage_orchestration.text import read_json
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.request import LONGEST_LIFETIME, REFUSALS, renewal_margin

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
#: Seconds by which the clocks of two hosts may differ.
_SKEW = 120.0
_KINDS: dict[str, type[VantageError]] = {
    kind.__name__: kind
    for kind in (*REFUSALS, Throttled, AuthProtocolError, AuthUnavailable, ConfigurationError)
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused login. All callers get it, without another request, until its time is over.

    Attributes:
        error: The refusal.
        until: Steady time at which the login may be retried.
        hold: Total seconds for which it is held; the next refusal is held twice as long.
        stored: Whether it is also in the store, so that clearing the store clears it.
    """

    error: VantageError
    until: float
    hold: float
    stored: bool = False


def write_token(token: AccessToken, clock: Clock) -> bytes:
    """Return the content of an entry for a token."""
    return _write(
        clock.steady() - token.begun,
        clock,
        token=token.reveal(),
        lifetime=token.lifetime,
        kept=max(token.kept_until - token.begun, 0.0),
    )


def write_refusal(error: VantageError, hold: float, clock: Clock) -> bytes:
    """Return the content of an entry for a login that is refused now, held for ``hold`` seconds."""
    details = {name: value for name, value in error.details().items() if value is not None}
    return _write(
        0.0, clock, refused=type(error).__name__, what=error.what, details=details, hold=hold
    )


def _write(age: float, clock: Clock, **members: Any) -> bytes:
    # Steady time counts only within one boot of one machine; other readers use the wall time.
    at = {"wall": clock.wall() - age, "steady": clock.steady() - age, "boot": _boot()}
    return json.dumps({"at": at, **members}).encode()


def read_entry(data: bytes, clock: Clock, jitter: float) -> AccessToken | Refusal | None:
    """Return the current meaning of an entry's content.

    Args:
        data: The content.
        clock: The clocks.
        jitter: Jitter of this process, see :func:`.request.renewal_margin`.

    Returns:
        A token (which may have expired), a refusal (whose time may be over), or None if the content
        can't be used.
    """
    try:
        members = read_json(data)
        age = _age(members["at"], clock)
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
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _age(at: dict[str, Any], clock: Clock) -> float | None:
    """Return the seconds since a stored moment, or None if the clocks contradict it.

    If the steady clock can be used, a wall clock that was set back changes nothing; one that was
    set forward makes the moment older, since either clock may mark it as stale.
    """
    by_wall = clock.wall() - float(at["wall"])
    by_steady = clock.steady() - float(at["steady"])
    if at["boot"] and at["boot"] == _boot():
        return None if by_steady < 0 else max(by_steady, by_wall)
    return None if by_wall < -_SKEW else max(by_wall, 0.0)


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    """Return an identifier of the current boot, or an empty text if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


class EntryCipher:
    """Names and encrypts the entry of one credential.

    Args:
        credentials: The credential.
        trust: The trust under which tokens are obtained; each has its own name.

    Name and key are derived from the secrets by scrypt: with the store and the client secret,
    guesses of a password could be checked, and scrypt makes each guess slow.

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
            derived = Scrypt(_FORMAT + public, length=64, n=KEY_COST, r=8, p=1).derive(
                _pack(secret, credentials.password.reveal(), *kind)
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


def _pack(*texts: str) -> bytes:
    """Join texts so that no part of one can be moved into its neighbour."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
