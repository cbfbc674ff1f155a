# SPDX-License-Identifier: Apache-2.0
"""The output folder of a job, and a folder in it for each class of documents.

``{class}`` in an output path stands for the class of a document. The part of the path before it is
the job's folder. It contains the manifests, notes and tables, so that a later try finds them there.
Only the result files of the documents land in the folders of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.names import (
    OF_JOB,
    UNCLASSIFIED,
    UniqueNames,
    safe_name,
)
from vantage_orchestration.storage import Location

_CLASS: Final = arguments.CLASS


class Output(NamedTuple):
    """Where results land.

    Attributes:
        folder: The job's folder.
        by_class: Path below it that contains ``{class}``; None if classes have no folders.
    """

    folder: Location
    by_class: str | None = None


def output_of(value: Any, locate: Callable[[Any], Location] = Location.of) -> Output:
    """Read an output path, which may contain ``{class}`` after the folder of the job: notes and
    manifests need one."""
    given = arguments.output("output_path", value)
    # Seen here: a location has no parts that lead up again.
    leads_up = ".." in str(given).partition(_CLASS)[2].split("/")
    output = locate(given)
    parts = output.path.rstrip("/").split("/")
    first = next((number for number, part in enumerate(parts) if _CLASS in part), None)
    if first is None and not leads_up:
        return Output(output)
    if leads_up or not any(parts[:first]) or {"", ".", ".."} & set(parts[first:]):
        shown = str(given) if output.is_local else output.url
        raise ConfigurationError(
            f"The output_path {shown!r} has no folder before {_CLASS}, or leads out of it",
            hint=f"Nothing was sent. Write OUTPUT/{_CLASS}: OUTPUT keeps the manifest, and the"
            " notes of what was sent",
        )
    return Output(Location(output.fs, "/".join(parts[:first])), "/".join(parts[first:]))


def fixed_part(place: str) -> str:
    """Return a path or URL up to the part that contains ``{class}``."""
    front, found, _ = place.partition(_CLASS)
    return front.rpartition("/")[0] if found else place


def class_folder(by_class: str, class_name: str | None) -> str:
    """Return the folder of a class, or of documents without one, relative to the folder of the
    job."""
    path = by_class.replace(_CLASS, safe_name(class_name or UNCLASSIFIED))
    first, slash, rest = path.partition("/")
    return UniqueNames(*OF_JOB).take(first) + slash + rest
