# SPDX-License-Identifier: Apache-2.0
"""Facts about the service that the processes of a host share for some minutes.

Each is in a small file beside the tokens of the file store, which only its owner can read. It
contains no secret. Without such a folder, each process finds the facts itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.state import FileStore

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION: Final = 1
#: Seconds to wait for another process that is finding the same fact.
_PATIENCE: Final = 300.0


class HostNote:
    """One fact about a subject, kept for so many seconds, for each account separately."""

    def __init__(self, client: VantageClient, *about: str, kept: float) -> None:
        identity = json.dumps([_VERSION, *client.config.credentials.account, *about])
        self._name = hashlib.sha256(identity.encode()).hexdigest()
        self._place = FileStore(client.config.store_path)
        self._kept = kept

    def read(self, parse: Callable[[Any], T]) -> T | None:
        """Return the result of ``parse`` for the note; None if there is no valid one."""
        try:
            data = self._place.read(self._name)
            note = None if data is None else json.loads(data)
            if note is None or not 0 <= time.time() - note["at"] < self._kept:
                return None
            return parse(note["data"])
        except (StateUnavailable, AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, data: Any) -> None:
        """Write a note: JSON data without a secret."""
        try:
            note = json.dumps({"at": time.time(), "data": data})
            self._place.write(self._name, note.encode())
        except StateUnavailable as error:
            log.debug("What was found out is not kept for other processes: %s", error)

    def forget(self) -> None:
        """Remove the note."""
        with contextlib.suppress(StateUnavailable):
            self._place.delete(self._name)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this host from finding the same fact meanwhile, if possible."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._place.lock(self._name, _PATIENCE))
            except StateUnavailable as error:
                log.debug("There is no lock between processes: %s", error)
            yield
