# SPDX-License-Identifier: Apache-2.0
"""Lineage for OpenLineage: which files a task has read, and which folder it has written.

Airflow's OpenLineage provider calls ``get_openlineage_facets_on_start`` and
``get_openlineage_facets_on_complete`` of an operator, which return the result of :func:`datasets`.
Without that provider they are not called, so it need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vantage_orchestration.urls import StorageUrl

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


def datasets(inputs: Iterable[str], output: str | None) -> OperatorLineage[Any, Any]:
    """Return the datasets of a task: its files, each once, and the folder of its results, if any.

    Call it only from the methods named above: it needs the OpenLineage provider.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.extractors import OperatorLineage

    read = dict.fromkeys(dataset_name(url) for url in inputs)
    written = [] if output is None else [dataset_name(output)]
    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=name) for namespace, name in read],
        outputs=[Dataset(namespace=namespace, name=name) for namespace, name in written],
    )


def dataset_name(url: str) -> tuple[str, str]:
    """Return namespace and name of a file or folder by OpenLineage's naming conventions.

    Local files have the namespace ``file`` and the absolute path as name. HDFS names keep the
    leading slash too; in buckets the name is the key. Credentials and queries are left out.
    """
    place = StorageUrl.of(url)
    if place.scheme == "file":
        return (f"file://{place.authority}" if place.authority else "file"), place.path
    namespace = f"{place.scheme}://{place.authority}" if place.authority else place.scheme
    if place.scheme == "hdfs":
        return namespace, place.path
    return namespace, place.path.lstrip("/") or "/"
