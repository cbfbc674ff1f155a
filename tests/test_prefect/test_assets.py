# SPDX-License-Identifier: Apache-2.0
"""Results as assets: their keys, and what a real server gets to know of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow, task
from test_prefect.seen import events_named, until

from vantage_orchestration.prefect.assets import materializing, results_asset
from vantage_orchestration.processing.files import Folder


@task(retries=2, retry_delay_seconds=0, task_run_name="collect {count}")
def collect(count: int, tries: list[int]) -> dict[str, int]:
    """Fail once."""
    tries.append(count)
    if len(tries) == 1:
        raise OSError("once")
    return {"documents": count}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_lands_is_an_asset_with_counts_and_sources(tmp_path: Path) -> None:
    output = tmp_path / "results of today"
    inputs = ["s3://inbox/a/1.pdf", "s3://inbox/a/2.pdf", "s3://inbox/b/**/*.pdf"]

    @flow
    def run() -> None:
        assert materializing(collect, output, inputs)(7, []) == {"documents": 7}

    run()
    key = results_asset(output).key
    (event,) = until(lambda: events_named("prefect.asset.materialization.succeeded", key))
    assert event.payload == {"documents": 7}
    assert event.resource["prefect.resource.name"] == f"file://{output}"
    related = {
        (entry["prefect.resource.role"], entry["prefect.resource.id"]) for entry in event.related
    }
    assert {
        ("asset", "s3://inbox/a"),
        ("asset", "s3://inbox/b"),
        ("asset-materialized-by", "abbyy-vantage"),
    } <= related


def test_the_other_task_is_the_same_but_for_the_asset() -> None:
    other = materializing(collect, "/out", Folder("/in[1]", "*.pdf"))
    assert other.name == "collect"
    assert other.task_run_name == "collect {count}"
    assert (other.retries, other.retry_delay_seconds) == (2, 0)
    assert [each.key for each in other.asset_deps] == [results_asset("/in[1]").key]
    assert other.fn.__doc__ == "Fail once."


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
