# SPDX-License-Identifier: Apache-2.0
"""Reads what earlier tries have left: ledgers, manifests, ``submitted.json``.

A try that takes such a file for missing sends its documents, and pays for them, once more. So there
is one rule for all of them. Only "not found" means that nothing is there. Any other error is
raised, and what can't be read is never overwritten.
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
            hint="Nothing was overwritten. Look at the file, then update the package or move the"
            " file away. Without it documents may be sent, and charged, again",
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
