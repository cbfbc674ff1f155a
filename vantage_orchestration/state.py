# SPDX-License-Identifier: Apache-2.0
"""What outlives a process: small values under names, and the files that earlier tries have left.

One rule for tokens, ledgers, cursors, manifests and ``submitted.json``: only "not found" means that
nothing is there. Any other error is raised as one that a retry may cure, and what can't be read is
never overwritten. A try that takes trouble for emptiness would send its documents, and pay for
them, once more.
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

__all__ = [
    "FolderStore",
    "Store",
    "Values",
    "checked",
    "parsed",
    "read_json",
    "read_value",
    "reading",
    "write_value",
]

T = TypeVar("T")

_MALFORMED = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


class Values(Protocol):
    """Small values under names, in a place that outlives the process.

    Attributes:
        label: What messages call the place.
    """

    label: str

    def read(self, name: str) -> bytes | None:
        """Return a value, or None only if there is none.

        Raises:
            Exception: The place can't be asked now.
        """

    def write(self, name: str, value: bytes) -> None:
        """Put a value in place of what is there; it is kept when this returns.

        Raises:
            Exception: It could not be kept.
        """


class Store(Values, Protocol):
    """Values that several processes or hosts share."""

    def create(self, name: str, value: bytes) -> bool:
        """Write a value if there is none; return whether this call wrote it.

        Of several that try at the same moment, one succeeds, as far as the place can promise that.

        Raises:
            Exception: The place can't be asked now.
        """

    def delete(self, name: str) -> None:
        """Remove a value; one that is not there counts as removed.

        Raises:
            Exception: It could not be removed.
        """


class FolderStore:
    """Keeps values as files of a folder, in any store that fsspec knows.

    Args:
        folder: The folder; made when it is first needed. Names are relative paths in it, with
            ``.json`` at their ends.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.label = folder.url

    def read(self, name: str) -> bytes | None:
        """Return a value, or None only if there is none. See :class:`Values`."""
        file = self.folder.child(name)
        try:
            with reading(file):
                return file.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, value: bytes) -> None:
        """Write a value; it appears complete or not at all. See :class:`Values`."""
        self.folder.child(name).write(lambda stream: stream.write(value))

    def delete(self, name: str) -> None:
        """Remove a value; one that is not there counts as removed."""
        self.folder.child(name).remove()

    def names(self, folder: str) -> list[str]:
        """Return the names of the values in a subfolder, sorted.

        Raises:
            StateUnavailable: They can't be listed now.
        """
        try:
            with reading(self.folder.child(folder)):
                files = self.folder.child(folder).files("*.json")
        except FileNotFoundError:
            return []
        return [f"{folder}/{file.name}" for file in files]


def read_value(values: Values, name: str, parse: Callable[[Any], T]) -> T | None:
    """Return a value that was written as JSON; None only if there is none.

    Args:
        values: Where it is.
        name: Its name.
        parse: See :func:`read_json`.

    Raises:
        StateUnavailable: It can't be read now.
        StateDamaged: It is something else.
    """
    place = f"{values.label}/{name}"
    try:
        with reading(place):
            data = values.read(name)
    except FileNotFoundError:
        return None
    return None if data is None else parsed(lambda: parse(json.loads(data)), place)


def write_value(values: Values, name: str, value: Any) -> None:
    """Write a value as JSON."""
    values.write(name, json.dumps(value).encode())


def read_json(location: Location, parse: Callable[[Any], T]) -> T | None:
    """Return the content of a JSON file.

    Args:
        location: The file.
        parse: Makes the result of the JSON data; raises ValueError, or what access to a missing
            member raises, if the data is something else.

    Returns:
        What ``parse`` returns; None if there is no such file.

    Raises:
        StateUnavailable: The file can't be read now.
        StateDamaged: Its content is something else.
    """
    try:
        with reading(location):
            data = location.read_bytes()
    except FileNotFoundError:
        return None
    return parsed(lambda: parse(json.loads(data)), location)


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Turn whatever a store raises, but for "not found", into an error that a retry can cure.

    Args:
        place: What is read, for the message.

    Raises:
        FileNotFoundError: There is nothing of that name.
        StateUnavailable: It can't be read now.
    """
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
            hint += ". Some stores say 'forbidden' of a missing file too, unless they may be listed"
        text = clean(str(error))
        raise StateUnavailable(
            f"{place} can't be read: {type(error).__name__}{f': {text}' if text else ''}",
            hint=hint,
        ) from error


def parsed(parse: Callable[[], T], place: object) -> T:
    """Return what ``parse`` returns.

    Args:
        parse: See :func:`read_json`.
        place: What was read, for the message.

    Raises:
        StateDamaged: ``parse`` has raised an error.
    """
    try:
        return parse()
    except _MALFORMED as error:
        failure = StateDamaged(
            f"{place} was not written by this version of the package, or is damaged:"
            f" {clean(str(error)) or type(error).__name__}",
            hint="Nothing was overwritten. Look at it, then update the package, restore it or move"
            " it away. Without it documents may be sent and charged, or results fetched, again",
        )
    raise failure


def checked(data: Any, version: int) -> Mapping[str, Any]:
    """Return data that names its version.

    Args:
        data: JSON data.
        version: The version that is expected.

    Raises:
        ValueError: It has another version, or none.
    """
    if not isinstance(data, Mapping) or "version" not in data:
        raise ValueError("no version is named")
    if data["version"] != version:
        raise ValueError(f"its version is {data['version']!r}, and {version} is expected")
    return data
