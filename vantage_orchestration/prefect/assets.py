# SPDX-License-Identifier: Apache-2.0
"""Results as Prefect assets: which folder holds them, and from which folders they came."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.types.names import RESTRICTED_ASSET_CHARACTERS

from vantage_orchestration import arguments
from vantage_orchestration.processing.files import Folder
from vantage_orchestration.processing.routing import fixed_part
from vantage_orchestration.urls import StorageUrl

if TYPE_CHECKING:
    from prefect import Task


P = ParamSpec("P")
R = TypeVar("R", bound=Mapping[str, Any])

#: The tool that Prefect shows as the creator of the assets.
MATERIALIZED_BY: Final = "abbyy-vantage"
#: Most source folders shown for one asset. Each costs one event per run.
_MOST_SOURCES: Final = 20
#: Prefect allows 512 characters.
_LONGEST_KEY: Final = 500
#: The first part of a path that contains glob characters.
_GLOB: Final = re.compile(r"/[^/]*[*?\[]")
#: Options that a copied task keeps.
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
    """Return the asset for a folder. No I/O.

    For your own tasks: ``@materialize(results_asset("s3://bucket/invoices"))``.

    Args:
        output: Path or URL of the folder. Credentials before the host, the query of a web address,
            and the part from ``{class}`` on are dropped.

    Returns:
        An asset whose key is the folder's URL. Characters that Prefect does not allow in a key
        become ``_``, and a digest at the end keeps such keys distinct.
    """
    url = StorageUrl.of(fixed_part(os.fspath(output))).url
    return Asset(key=_key(url), properties=AssetProperties(name=url))


def materializing(task: Task[P, R], output: str | os.PathLike[str], inputs: Any = ()) -> Task[P, R]:
    """Return a copy of a task whose folder of results becomes a Prefect asset.

    The task's return value (numbers of documents, pages and so on) is attached to the asset's
    event.

    Args:
        task: Task that writes results into a folder, such as
            :func:`vantage_orchestration.prefect.tasks.process_documents`.
        output: That folder, see :func:`results_asset`.
        inputs: Its inputs, in the form that the task takes. Their folders become the asset's
            sources, at most 20.
    """
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
    """Return the folders that contain the inputs."""
    if isinstance(inputs, (str, os.PathLike, Folder)):
        inputs = [inputs]
    arguments.check_repeatable("inputs", inputs)
    texts = [each for each in inputs if isinstance(each, (str, os.PathLike, Folder))]
    return list(dict.fromkeys(map(_folder, texts)))[:_MOST_SOURCES]


def _folder(place: str | os.PathLike[str] | Folder) -> str:
    if isinstance(place, Folder):
        return place.place
    url = StorageUrl.of(os.fspath(place)).url
    glob = _GLOB.search(url)
    return url[: glob.start()] if glob else url.rpartition("/")[0]


def _key(url: str) -> str:
    restricted = dict.fromkeys(map(ord, RESTRICTED_ASSET_CHARACTERS), "_")
    key = url.translate(restricted)
    if key == url and len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{key[: _LONGEST_KEY - 13]}-{digest}"
