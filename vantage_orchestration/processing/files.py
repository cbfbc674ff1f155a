# SPDX-License-Identifier: Apache-2.0
"""Finds the input files: by path, URL or glob."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.ledger import FOLDER
from vantage_orchestration.processing.names import MANIFEST, SUBMITTED
from vantage_orchestration.storage import Location
from vantage_orchestration.text import named, read_json

if TYPE_CHECKING:
    from vantage_orchestration.options import OnEmpty

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a folder, which may be empty. Its name may contain glob characters.

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
    """Return the files given by the inputs, each once, sorted within each glob.

    An input is a path, glob or URL, or a :class:`Folder`. A text with line breaks contains one path
    per line, unless a file has that name. An existing folder whose name contains glob characters is
    used as it is. If an earlier try has sent files, some may be missing now: a missing file is
    returned, and a glob without matches is not an error, since the notes of that try name the
    files, see :func:`.plan.plan`.

    Results are never treated as documents: globs ignore the output folder and folders with results
    of other jobs, and an input in the output folder is refused.
    """
    # Not by what is shown: addresses may differ in their query, and equal buckets in the account.
    found: dict[Location, None] = {}
    search = _Search(output, sent_before, sent_before or on_empty == "skip")
    for each in arguments.items("inputs", inputs):
        if isinstance(each, Folder):
            fitting = search.below(locate(each.place), each.pattern)
        else:
            places = [locate(each)]
            if isinstance(each, str) and "\n" in each and places[0].info() is None:
                places = [locate(line) for line in each.splitlines() if line.strip()]
            fitting = [file for place in places for file in search.fitting(place)]
        found |= dict.fromkeys(fitting)
    return list(found)


def check_folders(output: Location, names: Iterable[str]) -> None:
    """Refuse a local folder for results that has files where their folders would be."""
    taken = [name for name in names if output.is_local and os.path.isfile(output.child(name).path)]
    if taken:
        raise ConfigurationError(
            f"The output folder {output.url!r} has files where results would have folders:"
            f" {named(taken)}",
            hint="Nothing was sent. Give a separate folder, which need not exist yet",
        )


def check_output(folder: Location, what: str = "output folder") -> None:
    """Refuse an unusable folder for results before anything is sent. Only the address of one that
    is not local can be checked."""
    if not folder.is_local:
        if folder.is_flat and "//" in folder.path:
            raise ConfigurationError(
                f"The {what} {folder.url!r} has a folder without a name",
                hint="Nothing was sent. Write one slash where there are two: not every store finds"
                " again what is written there",
            )
        return
    place = folder.path
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    problem = None
    if ".." in folder.path.split("/"):
        problem = "leads up again ('..') after a pattern"
    elif not os.path.isdir(place):
        problem = "is a file" if place == folder.path else f"can't be created: {place!r} is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        problem = f"can't be written: {place!r} is read-only for this user"
    if problem:
        raise ConfigurationError(
            f"The {what} {folder.url!r} {problem}",
            hint="Nothing was sent. Give a separate folder, which need not exist yet",
        )


def check_quarantine(place: Any, output: Location, inputs: Iterable[Location] = ()) -> None:
    """Refuse a folder for copies of documents that would get in the way of others.

    The next run would send copies in the output folder, and pass over inputs beside copies.
    """
    if place is None:
        return
    folder = Location.of(place)
    check_output(folder, "quarantine_path")
    aside, problem = folder.real, None
    if _is_below(aside, output.real):
        problem = f"is the output folder {output.url!r}, or lies in it"
    elif below := next((each for each in inputs if _is_below(each.parent.real, aside)), None):
        problem = f"holds the input {below.url!r}"
    if problem is not None:
        raise ConfigurationError(
            f"The quarantine_path {folder.url!r} {problem}",
            hint="Nothing was sent. Give copies of documents a folder of their own, beside inputs"
            " and results or below the inputs",
        )


def _is_below(path: str, folder: str) -> bool:
    """Return whether a real path is a folder, or lies in it."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


@dataclass(slots=True)
class _Search:
    """Finds files and ignores results."""

    output: Location | None
    sent_before: bool
    may_be_empty: bool
    _results: dict[str, bool] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)
    _own: str | None = None

    def fitting(self, place: Location) -> list[Location]:
        # First literally: the name of a file may contain glob characters.
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
                hint="Give several files as a list, or as a text with one per line",
            )
        if ".." in parts[first:]:
            raise ConfigurationError(
                f"The input {place.url!r} leads up again ('..') after a pattern",
                hint="Nothing was sent. Write the path without '..'",
            )
        # An existing folder takes precedence over its name as a pattern.
        while first < len(parts) - 1 and parts[first].strip("*"):
            if not Location(place.fs, "/".join(parts[: first + 1])).is_dir():
                break
            first += 1
        folder = Location(place.fs, "/".join(parts[:first]) or "/")
        files = self.below(folder, "/".join(parts[first:]))
        if not files and not self.may_be_empty:
            raise ConfigurationError(f"No file matches {place.url!r}")
        return files

    def below(self, folder: Location, pattern: str) -> list[Location]:
        """Return the files below a folder that match a pattern and are not results."""
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
        return _is_below(real, own) or place.real == own

    def _is_result(self, file: Location, folder: Location) -> bool:
        """Return whether a file is in a folder of results below the searched folder."""
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
            f"The input {place.url!r} is in the output folder",
            hint="Nothing was sent. Use separate folders for inputs and results: the next run"
            " would send results as documents",
        )


def _has_results(folder: Location) -> bool:
    """Return whether a folder contains the results or notes of a job."""
    names = folder.names()
    if FOLDER in names:
        return True
    for name in (MANIFEST, SUBMITTED):
        if name in names:
            with contextlib.suppress(ValueError, OSError):
                data = read_json(folder.child(name).read_bytes())
                ours = ("transactions", "transaction_id")
                if (
                    isinstance(data, dict)
                    and "version" in data
                    and any(key in data for key in ours)
                ):
                    return True
    return False
