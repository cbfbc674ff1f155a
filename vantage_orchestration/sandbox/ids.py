# SPDX-License-Identifier: Apache-2.0
"""Ids that follow from the seed, and secrets that no two sandboxes have."""

from __future__ import annotations

import base64
import hashlib
import secrets
import uuid
from collections import Counter


class Ids:
    """Makes ids that look random but are the same for the same seed and the same history.

    Secrets differ from sandbox to sandbox: no server gives a token that another one has given, and
    a client that has kept one must not find it given anew.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self._own = secrets.token_hex(16)

    def _digest(self, *parts: str) -> bytes:
        return hashlib.sha256("\x00".join((str(self._seed), *parts)).encode()).digest()

    def fixed(self, *parts: str) -> str:
        """Return the UUID that belongs to these parts; the same on each call."""
        return str(uuid.UUID(bytes=self._digest("fixed", *parts)[:16], version=4))

    def new(self, kind: str) -> str:
        """Return a UUID not returned before."""
        self._counts[kind] += 1
        return str(uuid.UUID(bytes=self._digest(kind, str(self._counts[kind]))[:16], version=4))

    def secret(self, kind: str) -> str:
        """Return a text of 43 URL-safe characters not returned before."""
        self._counts[kind] += 1
        digest = self._digest("secret", self._own, kind, str(self._counts[kind]))
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def rank(self, *parts: str) -> bytes:
        """Return a sort key that puts things into a fixed but meaningless order."""
        return self._digest("rank", *parts)


def blob(identifier: str) -> str:
    """Return the file id made from a UUID; files of ABBYY Vantage have such ids (7.1)."""
    return f".blob.{identifier}"
