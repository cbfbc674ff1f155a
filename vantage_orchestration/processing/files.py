# SPDX-License-Identifier: Apache-2.0
"""Finds the input files that are meant: by path, URL or glob."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.storage import Location

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
) -> list[Location]:
    """Return the files that are meant, sorted within each glob, each once.

    Args:
        inputs: A path, glob or URL, or several; or a :class:`Folder`.
        locate: Makes a place of one of them.
        sent_before: Whether an earlier try has sent files, which may be gone since. Then it is no
            error if one is missing, which is returned, or if a glob fits no file: what was sent is
            known by the notes of that try, see :func:`.plan.plan`.

    Raises:
        ConfigurationError: One is missing, is a folder, or fits no file. Nothing was sent.
    """
    if isinstance(inputs, Folder):
        return locate(inputs.place).files(inputs.pattern)
    if isinstance(inputs, (str, os.PathLike)) or not isinstance(inputs, Iterable):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        raise ConfigurationError("inputs is no list of paths or URLs")
    found: dict[str, Location] = {}
    for each in inputs:
        for location in _fitting(locate(each), sent_before):
            found.setdefault(location.url, location)
    if not found and not sent_before:
        raise ConfigurationError("There are no inputs")
    return list(found.values())


def _fitting(place: Location, sent_before: bool) -> list[Location]:
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
    if not files and not sent_before:
        raise ConfigurationError(f"No file fits {place.url!r}")
    return files
