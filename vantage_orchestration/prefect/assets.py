# SPDX-License-Identifier: Apache-2.0
"""Results as Prefect assets: what landed where, and from which folders it came."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from vantage_orchestration.urls import StorageUrl

if TYPE_CHECKING:
    from prefect import Task
    from prefect.assets import Asset

    from vantage_orchestration.processing.files import Folder

__all__ = ["MATERIALIZED_BY", "materializing", "results_asset"]

P = ParamSpec("P")
R = TypeVar("R", bound=Mapping[str, Any])

#: The tool that Prefect shows as the maker of the assets.
MATERIALIZED_BY: Final = "abbyy-vantage"
#: Folders that are shown as sources of one asset. Each is an event for each run.
_MOST_SOURCES: Final = 20
#: Prefect takes 512 characters.
_LONGEST_KEY: Final = 500
#: The first part of a path that holds the signs of a glob.
_GLOB: Final = re.compile(r"/[^/]*[*?\[]")
#: Options of a task that another one takes over.
_OPTIONS: Final = (
    "name",
    "description",
    "tags",
    "version",
    "cache_policy",
    "task_run_name",
    "retries",
    "retry_delay_seconds",
    "retry_jitter_factor",
    "retry_condition_fn",
    "persist_result",
    "timeout_seconds",
    "log_prints",
)


def results_asset(output: str | os.PathLike[str]) -> Asset:
    """Return the asset that a folder is. No I/O.

    For tasks of your own: ``@materialize(results_asset("s3://bucket/invoices"))``.

    Args:
        output: Path or URL of the folder. A login in front of the host, and the query of a web
            address, are left out.

    Returns:
        An asset whose key is the folder's URL. Where Prefect does not take a character in a key,
        that is ``_``, and a digest at the end keeps keys apart.
    """
    from prefect.assets import Asset, AssetProperties

    url = StorageUrl.of(os.fspath(output)).url
    return Asset(key=_key(url), properties=AssetProperties(name=url))


def materializing(task: Task[P, R], output: str | os.PathLike[str], inputs: Any = ()) -> Task[P, R]:
    """Return a task that does the same, and whose folder of results is a Prefect asset.

    What the task returns (numbers of documents, pages and so on) goes along with the asset's event.

    Args:
        task: Task that brings results into a folder, such as
            :func:`vantage_orchestration.prefect.tasks.process_documents`.
        output: That folder, see :func:`results_asset`.
        inputs: Its inputs, as the task takes them. Their folders become the asset's sources, 20 at
            the most.
    """
    from prefect.assets import add_asset_metadata, materialize

    asset = results_asset(output)
    work = task.fn

    @functools.wraps(work)
    def landing(*args: P.args, **kwargs: P.kwargs) -> R:
        result = work(*args, **kwargs)
        add_asset_metadata(asset, dict(result))
        return result

    options: Any = {name: getattr(task, name) for name in _OPTIONS}
    sources = [results_asset(each) for each in _folders(inputs)]
    return materialize(asset, by=MATERIALIZED_BY, asset_deps=[*sources], **options)(landing)


def _folders(inputs: Any) -> list[str]:
    """Return the folders that inputs are in, or under, where they are globs."""
    from vantage_orchestration.processing.files import Folder

    if isinstance(inputs, (str, os.PathLike, Folder)):
        inputs = [inputs]
    texts = [each for each in inputs if isinstance(each, (str, os.PathLike, Folder))]
    return list(dict.fromkeys(map(_folder, texts)))[:_MOST_SOURCES]


def _folder(place: str | os.PathLike[str] | Folder) -> str:
    from vantage_orchestration.processing.files import Folder

    if isinstance(place, Folder):
        return place.place
    url = StorageUrl.of(os.fspath(place)).url
    glob = _GLOB.search(url)
    return url[: glob.start()] if glob else url.rpartition("/")[0]


def _key(url: str) -> str:
    from prefect.types.names import RESTRICTED_ASSET_CHARACTERS

    restricted = dict.fromkeys(map(ord, RESTRICTED_ASSET_CHARACTERS), "_")
    key = url.translate(restricted)
    if key == url and len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{key[: _LONGEST_KEY - 13]}-{digest}"
