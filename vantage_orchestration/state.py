# SPDX-License-Identifier: Apache-2.0
"""State that outlives a process: small values under names, and files of earlier tries.

One rule holds for tokens, ledgers, cursors, manifests and ``submitted.json``: only "not found"
means that nothing is there. Any other error is raised as one that a retry may cure, and an
unreadable value is never overwritten. A try that takes a failure for emptiness would send, and pay
for, its documents again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vantage_orchestration.errors import StateDamaged, StateUnavailable, VantageError
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

T = TypeVar("T")

_MALFORMED = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


class Values(Protocol):
    """Small values under names, in a place that outlives the process.

    Attributes:
        label: Name of the place in messages.
    """

    label: str

    def read(self, name: str) -> bytes | None:
        """Return a value; None only if there is none.

        Raises:
            Exception: The place can't be read at present.
        """

    def write(self, name: str, value: bytes) -> None:
        """Write or replace a value; it is stored when this returns.

        Raises:
            Exception: It could not be stored.
        """


class Store(Values, Protocol):
    """Values that several processes or hosts share."""

    def create(self, name: str, value: bytes) -> bool:
        """Write a value if there is none; return whether this call wrote it.

        If several try at the same moment, one succeeds, as far as the place can guarantee that.

        Raises:
            Exception: The place can't be used at present.
        """

    def delete(self, name: str) -> None:
        """Remove a value; a missing one counts as removed.

        Raises:
            Exception: It could not be removed.
        """


class FolderStore:
    """Stores values as files of a folder, in any store that fsspec supports.

    Args:
        folder: The folder; created when first needed. Names are relative paths in it that end in
            ``.json``.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.label = folder.url

    def read(self, name: str) -> bytes | None:
        """See :class:`Values`."""
        file = self.folder.child(name)
        try:
            with reading(file):
                return file.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, value: bytes) -> None:
        """Write a value; it appears only when complete. See :class:`Values`."""
        self.folder.child(name).write(lambda stream: stream.write(value))

    def delete(self, name: str) -> None:
        """Remove a value; a missing one counts as removed."""
        self.folder.child(name).remove()

    def names(self, folder: str) -> list[str]:
        """Return the names of the values in a subfolder, sorted.

        Raises:
            StateUnavailable: They can't be listed at present.
        """
        try:
            with reading(self.folder.child(folder)):
                files = self.folder.child(folder).files("*.json")
        except FileNotFoundError:
            return []
        return [f"{folder}/{file.name}" for file in files]


def read_value(values: Values, name: str, parse: Callable[[Any], T]) -> T | None:
    """Return a JSON value, see :func:`read_json`."""
    return _read(lambda: values.read(name), f"{values.label}/{name}", parse)


def write_value(values: Values, name: str, value: Any) -> None:
    """Write a value as JSON."""
    values.write(name, json.dumps(value).encode())


def read_json(location: Location, parse: Callable[[Any], T]) -> T | None:
    """Return the content of a JSON file; None only if there is none.

    Args:
        location: The file.
        parse: Converts the JSON data; raises ValueError, or the error of accessing a missing
            member, if the data is invalid.

    Raises:
        StateUnavailable: The file can't be read at present.
        StateDamaged: Its content is invalid.
    """
    return _read(location.read_bytes, location, parse)


def _read(read: Callable[[], bytes | None], place: object, parse: Callable[[Any], T]) -> T | None:
    try:
        with reading(place):
            data = read()
    except FileNotFoundError:
        return None
    if data is None:
        return None
    try:
        return parse(json.loads(data))
    except _MALFORMED as error:
        failure = StateDamaged(
            f"{place} was not written by this version of the package, or is damaged:"
            f" {clean(str(error)) or type(error).__name__}",
            hint="Nothing was overwritten. Check it, then update the package, restore it or move"
            " it away. Without it documents may be sent and charged, or results fetched, again",
        )
    raise failure


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Turn each error of a store, except "not found", into a StateUnavailable about ``place``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:  # A file is where its folder would be.
        raise FileNotFoundError(str(place)) from error
    except VantageError:
        raise
    except Exception as error:
        hint = "Nothing was overwritten. The next try reads it again"
        if isinstance(error, PermissionError):
            hint += (
                ". Some stores report a missing file as forbidden, too, unless they may be listed"
            )
        text = clean(str(error))
        raise StateUnavailable(
            f"{place} can't be read: {type(error).__name__}{f': {text}' if text else ''}",
            hint=hint,
        ) from error


def checked(data: Any, version: int) -> Mapping[str, Any]:
    """Return JSON data after a check of its version.

    Raises:
        ValueError: It has another version, or none.
    """
    if not isinstance(data, Mapping) or "version" not in data:
        raise ValueError("it has no version")
    if data["version"] != version:
        raise ValueError(f"its version is {data['version']!r}; {version} is expected")
    return data
