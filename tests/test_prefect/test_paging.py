# SPDX-License-Identifier: Apache-2.0
"""Lists of the Prefect API that never end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect import settings
from prefect.client.orchestration import SyncPrefectClient

from vantage_orchestration.errors import ProtocolError
from vantage_orchestration.prefect import artifacts, reviews, undo


@pytest.fixture(autouse=True)
def _repeats_itself(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Prefect API that pays no heed to where a page is to begin."""
    labels = {"abbyy_vantage.block": "b", "abbyy_vantage.in_review": "t"}
    state = SimpleNamespace(state_details=SimpleNamespace(pause_key="abbyy-vantage-review-1"))
    key = artifacts.review_key("t-1")
    items = [
        SimpleNamespace(id=uuid4(), name="n", labels=labels, state=state, key=key)
        for _ in range(200)
    ]

    def read(self: Any, *, limit: int, offset: int, **query: Any) -> list[Any]:
        return items[:limit]

    for name in ("read_flow_runs", "read_task_runs", "read_artifacts"):
        monkeypatch.setattr(SyncPrefectClient, name, read)
    with settings.temporary_settings({settings.PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield


def test_every_reader_ends() -> None:
    with pytest.raises(ProtocolError, match="repeats itself"):
        list(reviews.suspended_runs())
    with pytest.raises(ProtocolError, match="repeats itself"):
        list(undo.runs_of(uuid4()))
    with pytest.raises(ProtocolError, match="repeats itself"):
        artifacts.reviews_shown(["t-1"])
