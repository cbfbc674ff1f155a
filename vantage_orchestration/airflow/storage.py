# SPDX-License-Identifier: Apache-2.0
"""Files by the names that Airflow users give: paths, globs, and URLs with a connection in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.errors import ConfigurationError, translating

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

__all__ = ["inputs_of", "location_of"]

_GLOB = frozenset("*?[")


def location_of(place: Any) -> Location:
    """Return a file or folder.

    Args:
        place: Path, URL such as ``s3://conn_id@bucket/key``, or an ``ObjectStoragePath``.

    Raises:
        ConfigurationError: It is none of these, or no filesystem is installed for the URL.
    """
    from airflow.sdk import ObjectStoragePath

    from vantage_orchestration.storage import Location

    if isinstance(place, str) and place.strip():
        place = ObjectStoragePath(place)
    if not isinstance(place, (ObjectStoragePath, os.PathLike)):
        raise translate(ConfigurationError(f"{place!r} is no path and no URL"))
    with translating(translate):
        return Location.of(place)


def inputs_of(inputs: Any) -> list[Location]:
    """Return the files that are meant, sorted within each glob, each once.

    Args:
        inputs: A path, glob or URL, or several.

    Raises:
        ConfigurationError: One is missing, is a folder, or fits no file. Nothing was sent.
    """
    if isinstance(inputs, (str, os.PathLike)) or not isinstance(inputs, Iterable):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        raise translate(ConfigurationError("inputs is no list of paths or URLs"))
    found: dict[str, Location] = {}
    for each in inputs:
        for location in _files(each):
            found.setdefault(location.url, location)
    if not found:
        raise translate(ConfigurationError("There are no inputs"))
    return list(found.values())


def _files(each: Any) -> list[Location]:
    from vantage_orchestration.storage import Location

    place = location_of(each)
    # First as it is: the name of a file may hold the signs of a glob.
    info = place.info()
    if info is not None and info.get("type") == "directory":
        raise translate(
            ConfigurationError(
                f"The input {place.url!r} is a folder", hint="Give a glob, such as FOLDER/*.pdf"
            )
        )
    if info is not None:
        return [place]
    parts = place.path.split("/")
    first = next((number for number, part in enumerate(parts) if _GLOB & set(part)), None)
    if first is None:
        raise translate(ConfigurationError(f"There is no file {place.url!r}"))
    folder = Location(place.fs, "/".join(parts[:first]) or "/")
    files = folder.files("/".join(parts[first:]))
    if not files:
        raise translate(ConfigurationError(f"No file fits {place.url!r}"))
    return files
