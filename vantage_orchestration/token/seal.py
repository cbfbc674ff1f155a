# SPDX-License-Identifier: Apache-2.0
"""Seals what rests in a store: who has the store without the credential has nothing.

The name of an entry and the key that seals it both come from the credential's own secrets. So an
entry can be found and read by those who could log in anyway, and by nobody else; a changed
password or client secret finds another name and another key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vantage_orchestration.credentials import Credentials

__all__ = ["SHORTEST_SECRET", "Seal"]

#: Characters of the client secret below which nothing is stored: a short one could be guessed by
#: trying each against a stolen entry.
SHORTEST_SECRET = 20

#: Part of every name and key. A version with another format takes another word here, so that two
#: versions that share a store never read each other's entries.
_FORMAT = b"vantage-orchestration token entry 1"
_NONCE = 12


class Seal:
    """Names and seals the entries of one credential.

    Args:
        credentials: The credential.
        trust: Under which trust it was obtained, see
            :meth:`vantage_orchestration.config.Trust.identity`; each has its own name.

    Raises:
        ImportError: The package ``cryptography`` is not installed.
        ValueError: The client secret is too short to be safe at rest.
    """

    __slots__ = ("_key", "name")

    def __init__(self, credentials: Credentials, trust: tuple[str, ...] = ()) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.hmac import HMAC
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        secret = credentials.client_secret.reveal()
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(
                f"the client secret has fewer than {SHORTEST_SECRET} characters and could be"
                " guessed from a stored entry"
            )
        material = _pack(secret, credentials.password.reveal())

        def derive(what: bytes) -> bytes:
            info = b"\0".join((_FORMAT, what))
            return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(material)

        keyed = HMAC(derive(b"name"), SHA256())
        keyed.update(
            _pack(
                credentials.token_url,
                credentials.tenant_id,
                credentials.username,
                credentials.client_id,
                credentials.grant_type,
                credentials.scope,
                credentials.client_auth,
                *trust,
            )
        )
        #: Name of the entry, 64 hex digits.
        self.name = keyed.finalize().hex()
        self._key = derive(b"key")

    def close(self, data: bytes) -> bytes:
        """Return ``data`` sealed: encrypted with AES-256-GCM, and bound to its name."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._key).encrypt(nonce, data, self._bound)

    def open(self, entry: bytes) -> bytes | None:
        """Return what was sealed, or None if the entry is another's, damaged or was changed."""
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
    """Join texts so that none can be shifted into its neighbour."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
