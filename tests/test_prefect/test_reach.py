# SPDX-License-Identifier: Apache-2.0
"""A person who may run a deployment reaches its blocks and folders, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.prefect import flows
from vantage_orchestration.prefect.reach import Reach
from vantage_orchestration.processing.files import Folder

FLOWS = Path(__file__).parents[2] / "flows"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("in", "out", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("inputs", ["in", "{root}/in", "in/"])
def test_reach(root: Path, inputs: str) -> None:
    reach = Reach("a, b", inputs.format(root=root), "out")
    for each in ("in", "in/*.pdf", "in/x/../y.pdf", f"{root}/in/a.pdf", f"file://{root}/in/a.pdf"):
        reach.check("a", each, "out/x")
    reach.check("b", Folder("in", "**/*.pdf"), root / "out")
    reach.check("b", ["in/a.pdf", Folder("in")])
    for name in ("", "c", "*", "a,b", "a, b"):
        with pytest.raises(ConfigurationError, match="block"):
            reach.check(name)
    outside = [
        "/etc/passwd",
        "..",
        "in/../elsewhere/a.pdf",
        "in/link/a.pdf",
        "in/link",
        "elsewhere",
    ]
    outside += [
        "s3://bucket/a.pdf",
        "file:///etc/passwd",
        "in2",
        "zip://a::file:///etc/passwd",
        "/",
    ]
    outside += [f"{root}/in/../elsewhere", "zip::in/a.zip"]
    for each in outside:
        for given in (each, [each], ["in/a.pdf", each], Folder(each)):
            with pytest.raises(ConfigurationError, match="not below"):
                reach.check("a", given)
        with pytest.raises(ConfigurationError, match="not below"):
            reach.check("a", output=each)


def test_reach_in_a_store() -> None:
    reach = Reach(inputs="s3://bucket/in/")
    reach.check("any", ["s3://bucket/in", "s3://bucket/in/a/*.pdf"])
    for each in (
        "s3://bucket/inner",
        "s3://bucket/in/../x",
        "s3://other/in",
        "/etc",
        "s3://bucket",
    ):
        with pytest.raises(ConfigurationError):
            reach.check("any", each)
    Reach().check("any", "/etc/passwd", "s3://anywhere")


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("abbyy_vantage_batch", {"folder": "/etc", "skill": "s", "output": "out"}),
    ("abbyy_vantage_batch", {"folder": "in", "skill": "s", "output": "/tmp"}),
    ("abbyy_vantage_batch", {"folder": "in", "skill": "s", "output": "out", "credentials": "x"}),
    ("abbyy_vantage_mapped", {"inputs": ["in/a.pdf", "/etc/passwd"], "skill": "s"}),
    ("abbyy_vantage_mapped", {"inputs": ["in/a.pdf"], "skill": "s", "credentials": "x"}),
    ("abbyy_vantage_documents", {"folder": "in/link", "skill": "s", "output": "out/x"}),
    ("abbyy_vantage_documents", {"folder": "in", "skill": "s", "output": "x"}),
    ("abbyy_vantage_documents", {"folder": "in", "skill": "s", "pattern": "../elsewhere/*"}),
    (
        "abbyy_vantage_documents",
        {"folder": "in", "skill": "s", "output": "out/x", "credentials": "x"},
    ),
    ("abbyy_vantage_nightly", {"folder": "/etc", "output": "out", "aside": "out/aside"}),
    ("abbyy_vantage_nightly", {"folder": "in", "output": "elsewhere", "aside": "out/aside"}),
    ("abbyy_vantage_nightly", {"folder": "in", "output": "out/a", "aside": "/etc"}),
    ("abbyy_vantage_inbox:fetch_inbox", {"output": "elsewhere"}),
    ("abbyy_vantage_inbox:fetch_inbox", {"credentials": "x"}),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=range(len(CALLS)))
def test_examples_are_limited_by_default(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any]
) -> None:
    for each in ("BLOCKS", "INPUTS", "OUTPUTS"):
        monkeypatch.delenv(f"ABBYY_VANTAGE_FLOWS_{each}")
    file, _, function = name.partition(":")
    entrypoint = f"{FLOWS / file}.py:{function or file}"
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    with pytest.raises(ConfigurationError, match=r"not below|can't be used here"):
        flow.fn(**arguments)


def test_flows_of_the_package_keep_to_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABBYY_VANTAGE_FLOWS_INPUTS", "in")
    monkeypatch.setenv("ABBYY_VANTAGE_FLOWS_OUTPUTS", "out")
    monkeypatch.setenv("ABBYY_VANTAGE_FLOWS_BLOCKS", "a")
    for inputs, output, block in (
        ("/etc/*", "out", "a"),
        ("in/*", "elsewhere", "a"),
        ("in/*", "out", "b"),
    ):
        for flow in (flows.process_documents, flows.process_folder):
            with pytest.raises(ConfigurationError, match=r"not below|can't be used here"):
                flow.fn(inputs, output, "s", block)
    for flow in (flows.process_documents, flows.process_folder):
        with pytest.raises(ConfigurationError, match="not below"):
            flow.fn("in/*", "out/{class}", "s", "a", quarantine_path="elsewhere")
