# SPDX-License-Identifier: Apache-2.0
"""Finds the input files that are meant: by path, URL or glob."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.ledger import FOLDER
from vantage_orchestration.processing.names import MANIFEST, SUBMITTED
from vantage_orchestration.storage import Location

if TYPE_CHECKING:
    from vantage_orchestration.options import OnEmpty

__all__ = ["Folder", "check_output", "files_of"]

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
    output: Location | None = None,
) -> list[Location]:
    """Return the files that are meant, sorted within each glob, each once.

    Results are never taken for documents: a glob passes over the output folder, and over the
    folders into which other jobs have brought results.

    Args:
        inputs: A path, glob or URL, or several; or a :class:`Folder`. A text with line breaks
            holds a path in each line, unless there is a file of that name. A folder whose name
            holds the signs of a glob is taken as it is if it is there.
        locate: Makes a place of one of them.
        sent_before: Whether an earlier try has sent files, which may be gone since. Then it is no
            error if one is missing, which is returned, or if a glob fits no file: what was sent is
            known by the notes of that try, see :func:`.plan.plan`.
        on_empty: ``skip`` takes a glob that fits no file for an empty list.
        output: Folder for the results, if there is one.

    Returns:
        The files; none for an empty list, or for None.

    Raises:
        ConfigurationError: One is missing, is a folder, lies in the output folder, or fits no file.
            Nothing was sent.
    """
    found: dict[str, Location] = {}
    search = _Search(output, sent_before, sent_before or on_empty == "skip")
    for each in arguments.items("inputs", inputs):
        if isinstance(each, Folder):
            fitting = search.below(locate(each.place), each.pattern)
        else:
            places = [locate(each)]
            if isinstance(each, str) and "\n" in each and places[0].info() is None:
                places = [locate(line) for line in each.splitlines() if line.strip()]
            fitting = [file for place in places for file in search.fitting(place)]
        for location in fitting:
            found.setdefault(location.url, location)
    return list(found.values())


def check_output(output: Location) -> None:
    """Refuse a folder for results that can't be one, before anything is sent.

    Args:
        output: The folder, which need not exist. Only of a local one is anything known beforehand.

    Raises:
        ConfigurationError: It is a file, lies below one, or may not be written.
    """
    if not output.is_local:
        return
    place = output.path
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    problem = None
    if not os.path.isdir(place):
        problem = "is a file" if place == output.path else f"can't be made: {place!r} is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        problem = f"can't be written: {place!r} is read-only for this user"
    if problem:
        raise ConfigurationError(
            f"The output folder {output.url!r} {problem}",
            hint="Nothing was sent. Give a folder of its own, which may not exist yet",
        )


@dataclass(slots=True)
class _Search:
    """Finds files, and leaves out what is a result."""

    output: Location | None
    sent_before: bool
    may_be_empty: bool
    _results: dict[str, bool] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)
    _own: str | None = None

    def fitting(self, place: Location) -> list[Location]:
        # First as it is: the name of a file may hold the signs of a glob.
        info = place.info()
        if info is not None and info.get("type") == "directory":
            raise ConfigurationError(
                f"The input {place.url!r} is a folder", hint="Give a glob, such as FOLDER/*.pdf"
            )
        parts = place.path.split("/")
        first = next((number for number, part in enumerate(parts) if _GLOB & set(part)), None)
        if info is not None or (first is None and self.sent_before):
            if self._is_own(place):
                raise self._in_output(place)
            return [place]
        if first is None:
            raise ConfigurationError(
                f"There is no file {place.url!r}",
                hint="Several files are given as a list, or one in each line of a text",
            )
        # A folder that is there wins over what its name would mean as a pattern.
        while first < len(parts) - 1 and parts[first].strip("*"):
            if not Location(place.fs, "/".join(parts[: first + 1])).is_dir():
                break
            first += 1
        folder = Location(place.fs, "/".join(parts[:first]) or "/")
        files = self.below(folder, "/".join(parts[first:]))
        if not files and not self.may_be_empty:
            raise ConfigurationError(f"No file fits {place.url!r}")
        return files

    def below(self, folder: Location, pattern: str) -> list[Location]:
        """Return the files below a folder that fit a pattern and are no results."""
        if self._is_own(folder):
            raise self._in_output(folder)
        return [
            each
            for each in folder.files(pattern)
            if not self._is_own(each) and not self._is_result(each, folder)
        ]

    def _is_own(self, place: Location) -> bool:
        if self.output is None:
            return False
        if self._own is None:
            self._own = self.output.real
        own = self._own
        folder = place.path.rpartition("/")[0]
        if folder not in self._real:
            self._real[folder] = place.parent.real
        real = f"{self._real[folder].rstrip('/')}/{place.name}"
        return real == own or real.startswith(own.rstrip("/") + "/") or place.real == own

    def _is_result(self, file: Location, folder: Location) -> bool:
        """Return whether a file lies in a folder of results below the folder that is searched."""
        above = folder.path.rstrip("/")
        names = file.path[len(above) :].strip("/").split("/")[:-1]
        for number in range(1, len(names) + 1):
            path = "/".join((above, *names[:number]))
            if path not in self._results:
                self._results[path] = _has_results(Location(file.fs, path))
            if self._results[path]:
                return True
        return False

    @staticmethod
    def _in_output(place: Location) -> ConfigurationError:
        return ConfigurationError(
            f"The input {place.url!r} lies in the output folder",
            hint="Nothing was sent. Give inputs and results folders of their own: results would be"
            " taken for documents by the next run",
        )


def _has_results(folder: Location) -> bool:
    """Return whether a job has brought results into a folder, or keeps notes there."""
    names = folder.names()
    if FOLDER in names:
        return True
    for name in (MANIFEST, SUBMITTED):
        if name in names:
            with contextlib.suppress(ValueError, OSError):
                data = json.loads(folder.child(name).read_bytes())
                ours = ("transactions", "transaction_id")
                if (
                    isinstance(data, dict)
                    and "version" in data
                    and any(key in data for key in ours)
                ):
                    return True
    return False
