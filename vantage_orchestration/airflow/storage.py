# SPDX-License-Identifier: Apache-2.0
"""Files by the names that Airflow users give: paths, globs, and URLs that contain a connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vantage_orchestration import local
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.errors import ConfigurationError, translating

if TYPE_CHECKING:
    from vantage_orchestration.processing.routing import Output
    from vantage_orchestration.storage import Location


def location_of(place: Any) -> Location:
    """Return the file or folder of a path, a URL such as ``s3://conn_id@bucket/key``, or an
    ``ObjectStoragePath``."""
    from airflow.sdk import ObjectStoragePath

    from vantage_orchestration.storage import Location

    if isinstance(place, str) and place.strip():
        place = ObjectStoragePath(place)
    if not isinstance(place, (ObjectStoragePath, os.PathLike)):
        raise translate(ConfigurationError(f"{place!r} is neither a path nor a URL"))
    with translating(translate):
        return Location.of(place)


def output_of(place: Any) -> Output:
    """Return where results go. See :mod:`vantage_orchestration.processing.routing`."""
    from vantage_orchestration.processing import routing

    with translating(translate):
        return routing.output_of(place, location_of)


def below(root: str, *parts: object) -> str:
    """Return path or URL of something below a folder that is fixed in a DAG file.

    Anyone who may trigger a DAG chooses its params and the id of the run. DAGs that build paths
    from them can use ``user_defined_macros={"inputs": functools.partial(below, "/data/in")}``, and
    then ``{{ inputs(params.folder, "*.pdf") }}``.

    Args:
        root: Folder, a path or URL.
        parts: Relative paths below it; empty ones are ignored.

    Raises:
        ConfigurationError: A part is absolute, a URL, or leads out of the folder by ``..`` or a
            link.
    """
    texts = [str(part) for part in parts if str(part)]
    pieces = [piece for text in texts for piece in text.split("/")]
    if any(piece in ("", ".", "..") or {"\\", "\0", "\n"} & set(piece) for piece in pieces):
        raise translate(
            ConfigurationError(
                f"{'/'.join(texts)!r} is not a path below the folder of this DAG",
                hint="Give a relative path without '..'",
            )
        )
    path = "/".join((root.rstrip("/"), *pieces))
    if "://" not in root and not local.is_below(os.path.realpath(path), os.path.realpath(root)):
        raise translate(
            ConfigurationError(
                f"{'/'.join(texts)!r} is a link that leads out of the folder of this DAG"
            )
        )
    return path
