# SPDX-License-Identifier: Apache-2.0
"""A whole job in one call, for tests and for the processes that they kill.

It imports nothing but the core, since some tests start dozens of such processes.
"""

from __future__ import annotations

import time
from pathlib import Path

from vantage_orchestration.options import Options
from vantage_orchestration.processing.job import begin, finish, job_token
from vantage_orchestration.processing.ledger import FolderLedgers, Ledger
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.storage import Location

TOKEN = job_token("task", "-1")


def notes(folder: Path | str) -> Ledger:
    """Return a ledger that survives the process."""
    return Ledger((FolderLedgers(Location.of(folder)), "task"))


def files_of(folder: Path) -> list[Location]:
    return Location.of(folder).files("**/*.pdf")


def run(client, folder, output, skill, key, *, ledger=None, token=TOKEN, **settings) -> Manifest:
    """Begin and finish, waiting in between."""
    chosen = Options(**settings)
    job = begin(
        client,
        files_of(folder),
        output,
        key,
        skill,
        chosen,
        token=token,
        origin="o",
        ledger=ledger,
    )
    while any(not client.get_transaction(each).ended for each in job.transaction_ids):
        time.sleep(0.01)
    return finish(client, output, skill, chosen, token=token, ledger=ledger)
