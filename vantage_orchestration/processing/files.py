# SPDX-License-Identifier: Apache-2.0
"""Finds the input files that are meant: by path, URL or glob."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.storage import Location

if TYPE_CHECKING:
    from vantage_orchestration.options import OnEmpty

__all__ = ["Folder", "files_of"]

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a folder, of which there may be none. Its name may hold the signs of a glob.

    Attributes:
        place: Path or URL of the folder.
        pattern: Which files to take, see :meth:`vantage_orchestration.storage.Location.files`.
    """

    place: str
    pattern: str = "*"


def files_of(
    inputs: Any,
    locate: Callable[[Any], Location] = Location.of,
    *,
    sent_before: bool = False,
    on_empty: OnEmpty = "fail",
) -> list[Location]:
    """Return the files that are meant, sorted within each glob, each once.

    Args:
        inputs: A path, glob or URL, or several; or a :class:`Folder`.
        locate: Makes a place of one of them.
        sent_before: Whether an earlier try has sent files, which may be gone since. Then it is no
            error if one is missing, which is returned, or if a glob fits no file: what was sent is
            known by the notes of that try, see :func:`.plan.plan`.
        on_empty: ``skip`` takes a glob that fits no file for an empty list.

    Returns:
        The files; none for an empty list, or for None.

    Raises:
        ConfigurationError: One is missing, is a folder, or fits no file. Nothing was sent.
    """
    found: dict[str, Location] = {}
    for each in arguments.items("inputs", inputs):
        if isinstance(each, Folder):
            fitting = locate(each.place).files(each.pattern)
        else:
            fitting = _fitting(locate(each), sent_before or on_empty == "skip", sent_before)
        for location in fitting:
            found.setdefault(location.url, location)
    return list(found.values())


def _fitting(place: Location, may_be_empty: bool, sent_before: bool) -> list[Location]:
    # First as it is: the name of a file may hold the signs of a glob.
    info = place.info()
    if info is not None and info.get("type") == "directory":
        raise ConfigurationError(
            f"The input {place.url!r} is a folder", hint="Give a glob, such as FOLDER/*.pdf"
        )
    if info is not None:
        return [place]
    parts = place.path.split("/")
    first = next((number for number, part in enumerate(parts) if _GLOB & set(part)), None)
    if first is None and sent_before:
        return [place]
    if first is None:
        raise ConfigurationError(f"There is no file {place.url!r}")
    folder = Location(place.fs, "/".join(parts[:first]) or "/")
    files = folder.files("/".join(parts[first:]))
    if not files and not may_be_empty:
        raise ConfigurationError(f"No file fits {place.url!r}")
    return files
