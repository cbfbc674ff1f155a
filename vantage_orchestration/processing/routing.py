# SPDX-License-Identifier: Apache-2.0
"""The folder for results, and the folders in it for the documents of each class.

``{class}`` in an output path stands for the class of a document. The folder in front of it is the
job's own: it holds manifests, notes, tables and everything else by which a later try finds what is
there. Only the result files of the documents are in the folders of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.manifest import UNCLASSIFIED
from vantage_orchestration.processing.names import MANIFEST, SUBMITTED, UniqueNames, safe_name
from vantage_orchestration.storage import Location

__all__ = ["Output", "class_folder", "fixed_part", "output_of"]

_CLASS: Final = arguments.CLASS


class Output(NamedTuple):
    """Where results go.

    Attributes:
        folder: The job's folder.
        by_class: Path below it with ``{class}`` in it, if documents of each class have a folder.
    """

    folder: Location
    by_class: str | None = None


def output_of(
    value: Any, locate: Callable[[Any], Location] = Location.of, name: str = "output_path"
) -> Output:
    """Read an output path.

    Args:
        value: Path or URL of a folder. ``{class}`` in it, behind the folder of the job, stands for
            the class of each document.
        locate: Makes a place of it.
        name: Name of the argument, for messages.

    Raises:
        ConfigurationError: It is no path or URL, has another placeholder, or no folder in front of
            ``{class}``: notes and manifests need one.
    """
    output = locate(arguments.output(name, value))
    parts = output.path.rstrip("/").split("/")
    first = next((number for number, part in enumerate(parts) if _CLASS in part), None)
    if first is None:
        return Output(output)
    if not any(parts[:first]) or {"", ".", ".."} & set(parts[first:]):
        raise ConfigurationError(
            f"The {name} {output.url!r} has no folder in front of {_CLASS}, or leads out of it",
            hint=f"Nothing was sent. Write OUTPUT/{_CLASS}: the manifest, and the notes by which a"
            " later try finds what was sent, stay in OUTPUT",
        )
    return Output(Location(output.fs, "/".join(parts[:first])), "/".join(parts[first:]))


def fixed_part(place: str) -> str:
    """Return a path or URL up to the part that has ``{class}`` in it."""
    front, found, _ = place.partition(_CLASS)
    return front.rpartition("/")[0] if found else place


def class_folder(by_class: str, class_name: str | None) -> str:
    """Return the folder of a class, a path from the folder of the job.

    Args:
        by_class: See :class:`Output`.
        class_name: Name of the class; None for documents without one.
    """
    path = by_class.replace(_CLASS, safe_name(class_name or UNCLASSIFIED))
    first, slash, rest = path.partition("/")
    # Files of the job have these names.
    return UniqueNames(MANIFEST, SUBMITTED).take(first) + slash + rest
