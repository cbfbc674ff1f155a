# SPDX-License-Identifier: Apache-2.0
"""Decides when Prefect may reuse a task's result from an earlier try of the same flow run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import get_result_store

from vantage_orchestration.errors import VantageError
from vantage_orchestration.prefect.context import root_of, running, task_key
from vantage_orchestration.prefect.ledger import RunStore
from vantage_orchestration.processing.files import files_of
from vantage_orchestration.processing.inputs import PlannedFile, inspect_inputs
from vantage_orchestration.processing.keys import digest_of

#: Arguments that do not change the result, or must not be part of a key.
_LEFT_OUT = frozenset(
    {"credentials", "parallel", "timeout", "review_timeout", "poke_interval", "max_poke_interval"}
)


@dataclass
class OncePerRun(CachePolicy):
    """Caches a result for one flow run and the same arguments, regardless of credentials.

    Unlike Prefect's ``RUN_ID`` it also works in a subflow, which becomes another run with each try
    of its parent. The contents of the files in the argument named ``contents`` are part of the key,
    not only names. The arguments ``unless`` disable caching.
    """

    contents: str = ""
    unless: Mapping[str, Any] = field(default_factory=dict)

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key; None if the result must not be cached."""
        if any(inputs.get(name) == value for name, value in self.unless.items()):
            return None
        kept = {name: value for name, value in inputs.items() if name not in _LEFT_OUT}
        flow_run, _ = running()
        if self.contents:
            try:
                if flow_run is not None:
                    # Transactions that a cancellation deleted are no longer results.
                    root = RunStore(get_result_store(), *root_of(flow_run))
                    kept["undone"] = root.times_undone()
                kept[self.contents] = [
                    [str(each.entry.path), str(each.entry.sha256)]
                    for each in inspect_inputs(files_of(kept[self.contents]))
                    if isinstance(each, PlannedFile)
                ]
            except (OSError, VantageError):
                return None  # The task itself says what is wrong with them.
        return f"abbyy-vantage-{digest_of([task_key().scope, kept])}"
