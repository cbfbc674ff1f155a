# SPDX-License-Identifier: Apache-2.0
"""The LocalExecutor of Airflow 3.0, without the fault that costs tasks a try now and then."""

from __future__ import annotations

from typing import Any

from airflow.executors.local_executor import LocalExecutor


class CommittedLocalExecutor(LocalExecutor):
    """Starts tasks when the database says that they are queued, as Airflow 3.1 does.

    The executor of 3.0 may start one before, which is refused: the task loses a try, whatever it
    does (apache/airflow #52754).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: list[Any] = []

    def queue_workload(self, workload: Any, session: Any = None) -> None:
        self._held.append(workload)

    def sync(self) -> None:
        # The scheduler calls this after it has committed.
        held, self._held = self._held, []
        for workload in held:
            super().queue_workload(workload)
        super().sync()
