# SPDX-License-Identifier: Apache-2.0
"""A flow whose tasks run in the processes of a Dask cluster."""

from __future__ import annotations

from disturbed import mapped
from prefect import flow
from prefect_dask import DaskTaskRunner

CLUSTER = {
    "n_workers": 2,
    "threads_per_worker": 1,
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
}


@flow(task_runner=DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs=CLUSTER))
def in_dask(inputs: str, output: str, skill: str, credentials: str) -> None:
    mapped(credentials, inputs, output, skill)
