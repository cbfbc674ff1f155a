# SPDX-License-Identifier: Apache-2.0
"""Lineage: names of files and folders, and the events that OpenLineage's provider makes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_airflow.installation import Airflow, template_of

from vantage_orchestration.airflow.assets import dataset_name, datasets
from vantage_orchestration.urls import StorageUrl


@pytest.mark.parametrize(
    ("url", "namespace", "name"),
    [
        ("/data/in/a b.pdf", "file", "/data/in/a b.pdf"),
        ("/data/out/", "file", "/data/out"),
        ("file:///data/in/a.pdf", "file", "/data/in/a.pdf"),
        ("local:///data/in/a.pdf", "file", "/data/in/a.pdf"),
        ("file://host/data", "file://host", "/data"),
        ("s3://bucket/in/a#1?.pdf", "s3://bucket", "in/a#1?.pdf"),
        ("S3A://bucket/in/a.pdf", "s3://bucket", "in/a.pdf"),
        ("s3://my_conn@bucket/in/a.pdf", "s3://bucket", "in/a.pdf"),
        ("s3://bucket", "s3://bucket", "/"),
        ("gcs://bucket/a", "gs://bucket", "a"),
        ("hdfs://namenode:8020/a/b", "hdfs://namenode:8020", "/a/b"),
        (
            "abfss://container@example.dfs.core.windows.net/a",
            "abfss://container@example.dfs.core.windows.net",
            "a",
        ),
        ("abfss://user:made-up@example.net/a", "abfss://example.net", "a"),
        ("sftp://user:made-up@example.com:2222/a", "sftp://example.com:2222", "a"),
        ("https://example.com/a?signature=made-up#x", "https://example.com", "a"),
        ("memory://a/b", "memory://a", "b"),
    ],
)
def test_names(url: str, namespace: str, name: str) -> None:
    assert dataset_name(url) == (namespace, name)
    assert dataset_name(StorageUrl.of(url).url) == (namespace, name)


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name("in/../a.pdf") == ("file", str(tmp_path / "a.pdf"))


def test_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow does not call it then; a direct call names the missing package."""
    for name in ("airflow.providers.openlineage", "airflow.providers.openlineage.extractors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="openlineage"):
        datasets(["/a"], "/b")


@pytest.mark.slow
def test_events(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real task under the provider's own listener, which writes events into a file."""
    airflow, file = Airflow(tmp_path, template_of(tmp_path_factory)), tmp_path / "events.json"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    # The provider decides when it is loaded whether it does anything.
    airflow.environment["AIRFLOW__OPENLINEAGE__TRANSPORT"] = json.dumps(transport)
    airflow.environment["AIRFLOW__OPENLINEAGE__NAMESPACE"] = "tests"
    try:
        airflow.start()
        told = airflow("run", dag_id="lineage", run_id="r", conf={"output": "gs://bucket/out/"})
    finally:
        airflow.stop()
    assert told["state"] == "success"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    seen: dict[str, Any] = {
        event["eventType"]: event for event in events if event["job"]["name"] == "lineage.copy"
    }

    def names(kind: str, member: str) -> list[tuple[str, str]]:
        return [(each["namespace"], each["name"]) for each in seen[kind][member]]

    inputs = [("s3://bucket", "in/a.pdf"), ("file", "/in/b.pdf")]
    assert names("START", "inputs") == inputs
    assert names("START", "outputs") == []
    assert names("COMPLETE", "inputs") == inputs
    assert names("COMPLETE", "outputs") == [("gs://bucket", "out")]
