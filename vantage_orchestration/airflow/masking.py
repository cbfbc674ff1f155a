# SPDX-License-Identifier: Apache-2.0
"""Masks secrets in Airflow's logs without logging them on the way."""

from __future__ import annotations

from vantage_orchestration.airflow.compat import amask_secret, mask_here, mask_secret
from vantage_orchestration.airflow.supervisor import is_in_process
from vantage_orchestration.secret import Secret


def mask(secret: Secret) -> None:
    """Mask a secret in the logs of this process and of its supervisor.

    ``dag.test()`` logs each message to its supervisor at DEBUG, including the secret. But its
    supervisor is this process, so masking here is enough.
    """
    (mask_here if is_in_process() else mask_secret)(secret.reveal())


async def amask(secret: Secret) -> None:
    """Mask a secret as :func:`mask` does, without blocking the event loop."""
    if is_in_process():
        mask_here(secret.reveal())
    else:
        await amask_secret(secret.reveal())
