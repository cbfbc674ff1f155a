# SPDX-License-Identifier: Apache-2.0
"""Results as assets: their keys, and what a real server gets to know of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from test_prefect.seen import events_named, until

from vantage_orchestration.prefect.assets import materialize_results, note_results, results_asset
from vantage_orchestration.processing.manifest import Manifest


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_lands_is_an_asset_with_counts_and_sources(tmp_path: Path) -> None:
    output = str(tmp_path / "results of today")
    inputs = [f"s3://inbox/{name}.pdf" for name in ("a/1", "a/2", "b/3")]

    @flow
    def run() -> None:
        @materialize_results(output, inputs, name="collect")
        def collect(count: int) -> int:
            note_results(output, Manifest("skill"))
            return count

        assert collect(7) == 7

    run()
    key = results_asset(output).key
    (event,) = until(lambda: events_named("prefect.asset.materialization.succeeded", key))
    assert event.payload["skill_id"] == "skill"
    assert event.payload["documents"] == 0
    assert event.resource["prefect.resource.name"] == f"file://{output}"
    related = {
        (entry["prefect.resource.role"], entry["prefect.resource.id"]) for entry in event.related
    }
    assert {
        ("asset", "s3://inbox/a"),
        ("asset", "s3://inbox/b"),
        ("asset-materialized-by", "abbyy-vantage"),
    } <= related


@pytest.mark.parametrize(
    ("output", "key"),
    [
        ("/data/out", "file:///data/out"),
        ("s3a://user@bucket/out/", "s3://bucket/out"),
        ("https://user:secret@host/out?signature=x", "https://host/out"),
    ],
)
def test_key_is_the_address_without_login_and_query(output: str, key: str) -> None:
    assert results_asset(output).key == key


def test_keys_that_prefect_would_refuse_stay_apart() -> None:
    names = ["/data/a b", "/data/a_b", "/data/a#b", "/data/ü%20", "/data/" + "x" * 600]
    names.append(names[-1] + "y")
    assets = [results_asset(each) for each in names]
    assert len({each.key for each in assets}) == len(names)
    assert all(len(each.key) <= 512 for each in assets)
