# SPDX-License-Identifier: Apache-2.0
"""The name of a "host" of the cluster, as Airflow asks for it."""

from __future__ import annotations

import os


def name() -> str:
    """Return the name of the host that this process runs on."""
    return os.environ["CLUSTER_HOST"]
