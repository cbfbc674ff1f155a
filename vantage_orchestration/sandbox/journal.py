# SPDX-License-Identifier: Apache-2.0
"""The record of every request. It never holds a secret, a token, or an Authorization header."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .clock import Clock, utc_text

_LIMIT = 100_000


@dataclass
class JournalEntry:
    """One request, as far as it has got."""

    seq: int
    time: str
    method: str
    path: str
    template: str | None
    operation: str | None
    query: dict[str, list[str]]
    content_type: str | None
    status: int | None = None
    fault: str | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    skill_id: str | None = None
    transaction_id: str | None = None
    grant: str | None = None
    user_hash: str | None = None
    outcome: str | None = None
    finished: bool = False

    def shown(self) -> dict[str, Any]:
        """Return the entry as JSON data."""
        return dict(vars(self))


class Journal:
    """Keeps the latest 100,000 requests in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[JournalEntry] = deque(maxlen=_LIMIT)
        self._seq = 0

    def open(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]],
        content_type: str | None,
        operation: tuple[str | None, str | None],
        secrets: Iterable[str],
    ) -> JournalEntry:
        """Add a request that has just arrived.

        Args:
            method: HTTP method.
            path: Decoded path.
            query: Decoded members of the query.
            content_type: Content type of the request.
            operation: Path template and operation name of the contract, if the path is known.
            secrets: Texts that must not get into the journal, wherever a client put them.
        """
        hidden = [text for text in secrets if text]

        def clean(text: str) -> str:
            for secret in hidden:
                text = text.replace(secret, "***")
            return text

        members: dict[str, list[str]] = {}
        for name, value in query:
            members.setdefault(clean(name), []).append(clean(value))
        self._seq += 1
        entry = JournalEntry(
            self._seq,
            utc_text(self._clock.now()),
            method,
            clean(path),
            *operation,
            members,
            clean(content_type) if content_type else None,
        )
        self._entries.append(entry)
        return entry

    def find(
        self, method: str | None = None, path_regex: str | None = None, since: int = 0
    ) -> list[JournalEntry]:
        """Return entries after number ``since`` whose method and path match."""
        pattern = re.compile(path_regex) if path_regex else None
        return [
            entry
            for entry in self._entries
            if entry.seq > since
            and (method is None or entry.method == method.upper())
            and (pattern is None or pattern.search(entry.path))
        ]

    def clear(self) -> None:
        """Forget all entries; numbers continue."""
        self._entries.clear()
