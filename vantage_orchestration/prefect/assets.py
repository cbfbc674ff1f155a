# SPDX-License-Identifier: Apache-2.0
"""Results as Prefect assets: what landed where, and from which folders it came."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from vantage_orchestration.urls import Place

if TYPE_CHECKING:
    from prefect.assets import Asset
    from prefect.tasks import MaterializingTask

    from vantage_orchestration.processing.manifest import Manifest

__all__ = ["MATERIALIZED_BY", "materialize_results", "note_results", "results_asset"]

P = ParamSpec("P")
R = TypeVar("R")

#: The tool that Prefect shows as the maker of the assets.
MATERIALIZED_BY: Final = "abbyy-vantage"
#: Folders that are shown as sources of one asset. Each is an event for each run.
_MOST_SOURCES: Final = 20
#: Prefect takes 512 characters.
_LONGEST_KEY: Final = 500


def results_asset(output: str) -> Asset:
    """Return the asset that a folder is. No I/O.

    Args:
        output: Path or URL of the folder. A login in front of the host, and the query of a web
            address, are left out.

    Returns:
        An asset whose key is the folder's URL. Where Prefect does not take a character in a key,
        that is ``_``, and a digest at the end keeps keys apart.
    """
    from prefect.assets import Asset, AssetProperties

    url = Place.of(output).url
    return Asset(key=_key(url), properties=AssetProperties(name=url))


def materialize_results(
    output: str, inputs: Iterable[str] = (), **options: Any
) -> Callable[[Callable[P, R]], MaterializingTask[P, R]]:
    """Make a task of a function that brings results into a folder; Prefect's ``materialize``.

    Args:
        output: Path or URL of the folder, see :func:`results_asset`.
        inputs: Paths or URLs of the files that the results are of. Their folders become the
            asset's sources, 20 at the most.
        options: What ``@task`` takes.
    """
    from prefect.assets import materialize

    folders = dict.fromkeys(Place.of(each).url.rpartition("/")[0] for each in inputs)
    sources = [results_asset(each) for each in list(folders)[:_MOST_SOURCES]]
    return materialize(
        results_asset(output), by=MATERIALIZED_BY, asset_deps=[*sources] or None, **options
    )


def note_results(output: str, manifest: Manifest) -> None:
    """Put the counts of a manifest into the asset's event. Call it inside the task.

    Args:
        output: As for :func:`materialize_results`.
        manifest: Manifest of what landed there.

    Raises:
        RuntimeError: No task is running.
        ValueError: The running task does not materialize that folder.
    """
    from prefect.assets import add_asset_metadata

    facts = {"skill_id": manifest.skill_id, **manifest.counts}
    add_asset_metadata(results_asset(output).key, facts)


def _key(url: str) -> str:
    from prefect.types.names import RESTRICTED_ASSET_CHARACTERS

    restricted = dict.fromkeys(map(ord, RESTRICTED_ASSET_CHARACTERS), "_")
    key = url.translate(restricted)
    if key == url and len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{key[: _LONGEST_KEY - 13]}-{digest}"
