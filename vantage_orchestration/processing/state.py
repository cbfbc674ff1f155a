# SPDX-License-Identifier: Apache-2.0
"""Reads what earlier tries have left: ledgers, manifests, ``submitted.json``.

A try that takes such a file for missing sends, and pays for, its documents again. So one rule holds
for all of them: only "not found" means that nothing is there. Any other error is raised, and an
unreadable file is never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from vantage_orchestration.errors import StateDamaged, StateUnavailable, VantageError
from vantage_orchestration.text import clean

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

__all__ = ["checked", "parsed", "read_json", "reading"]

T = TypeVar("T")

_MALFORMED = (AttributeError, KeyError, RecursionError, TypeError, ValueError)


def read_json(location: Location, parse: Callable[[Any], T]) -> T | None:
    """Return the content of a JSON file.

    Args:
        location: The file.
        parse: Converts the JSON data; raises ValueError, or the error of accessing a missing
            member, if the data is invalid.

    Returns:
        The result of ``parse``; None if the file does not exist.

    Raises:
        StateUnavailable: The file can't be read at present.
        StateDamaged: Its content is invalid.
    """
    try:
        with reading(location):
            data = location.read_bytes()
    except FileNotFoundError:
        return None
    return parsed(lambda: parse(json.loads(data)), location)


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Convert every error of a store except "not found" into one that a retry can cure.

    Args:
        place: What is read, for the message.

    Raises:
        FileNotFoundError: Nothing has that name.
        StateUnavailable: It can't be read at present.
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
            hint += (
                ". Some stores report a missing file as forbidden, too, unless they may be listed"
            )
        text = clean(str(error))
        raise StateUnavailable(
            f"{place} can't be read: {type(error).__name__}{f': {text}' if text else ''}",
            hint=hint,
        ) from error


def parsed(parse: Callable[[], T], place: object) -> T:
    """Return the result of ``parse``.

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
            hint="Nothing was overwritten. Check the file, then update the package or move the"
            " file away. Without it documents may be sent, and charged, again",
        )
    raise failure


def checked(data: Any, version: int) -> Mapping[str, Any]:
    """Return data after a check of its version.

    Args:
        data: JSON data.
        version: The expected version.

    Raises:
        ValueError: It has another version, or none.
    """
    if not isinstance(data, Mapping) or "version" not in data:
        raise ValueError("it has no version")
    if data["version"] != version:
        raise ValueError(f"its version is {data['version']!r}; {version} is expected")
    return data
