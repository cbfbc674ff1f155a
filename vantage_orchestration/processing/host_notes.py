# SPDX-License-Identifier: Apache-2.0
"""Facts about the service that the tasks of a process and the processes of a host share for ten
minutes.

Each is kept in memory, and in a small file beside the tokens of the file store, which only its
owner can read. It contains no secret. Without such a folder, each process finds the facts itself.
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
from vantage_orchestration.text import MISFIT

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION: Final = 1
#: Seconds for which a fact is believed.
_KEPT: Final = 600.0
#: Seconds to wait for another process that is finding the same fact.
_PATIENCE: Final = 300.0
#: When a fact was found, in seconds since the epoch, and its data, by account and subject.
_memory: dict[tuple[str, ...], tuple[float, Any]] = {}


class HostNote:
    """One fact about a subject, for each account separately. ``large`` facts stay in their file:
    each process reads what another one has found last."""

    def __init__(self, client: VantageClient, *about: str, large: bool = False) -> None:
        self._key = (*client.config.credentials.account, *about)
        self._name = hashlib.sha256(json.dumps([_VERSION, *self._key]).encode()).hexdigest()
        self._place = FileStore(client.config.store_path)
        self._large = large

    def read(self, parse: Callable[[Any], T]) -> T | None:
        """Return the result of ``parse`` for the note; None if there is no valid one."""
        for here in (True, False):
            try:
                found = _memory.get(self._key) if here else self._stored()
                if found and 0 <= time.time() - found[0] < _KEPT:
                    return parse(found[1])
            except (StateUnavailable, *MISFIT):
                continue
        return None

    def _stored(self) -> tuple[float, Any] | None:
        if (data := self._place.read(self._name)) is None:
            return None
        note = json.loads(data)
        found = (note["at"], note["data"])
        if not self._large:
            _memory[self._key] = found
        return found

    def write(self, data: Any) -> None:
        """Write a note: JSON data without a secret."""
        if not self._large:
            self.remember(data)
        try:
            note = json.dumps({"at": time.time(), "data": data})
            self._place.write(self._name, note.encode())
        except StateUnavailable as error:
            log.debug("What was found out is not kept for other processes: %s", error)

    def remember(self, data: Any, seconds: float = _KEPT) -> None:
        """Keep data in this process alone."""
        _memory[self._key] = (time.time() + seconds - _KEPT, data)

    def once(self, find: Callable[[], Any]) -> Any:
        """Return the data of the note, which is written first if there is none."""
        if (found := self.read(_as_it_is)) is None:
            with self.alone():
                if (found := self.read(_as_it_is)) is None:
                    found = find()
                    self.write(found)
        return found

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this host from finding the same fact meanwhile, if possible."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._place.lock(self._name, _PATIENCE))
            except StateUnavailable as error:
                log.debug("There is no lock between processes: %s", error)
            yield

    def forget(self) -> None:
        """Remove the note."""
        _memory.pop(self._key, None)
        with contextlib.suppress(StateUnavailable):
            self._place.delete(self._name)


def _as_it_is(data: Any) -> Any:
    return data


def forget_about(client: VantageClient, subject: str) -> None:
    """Remove the notes about a subject, and those that this process has found it by."""
    account = client.config.credentials.account
    for key, (_, data) in list(_memory.items()):
        if key[: len(account)] == account and subject in (data, key[-1]):
            HostNote(client, *key[len(account) :]).forget()


def forget_all() -> None:
    """Forget what this process knows, so that it reads the notes and asks the servers again."""
    _memory.clear()
