# SPDX-License-Identifier: Apache-2.0
"""The examples in the docs for images and for Kubernetes are well-formed, and fit the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
VALUES: dict[str, Any] = yaml.safe_load((EXAMPLES / "helm-values.yaml").read_text(encoding="utf-8"))
SECRETS = re.compile(r"password|client_secret|token", re.IGNORECASE)


def test_the_values_hold_no_secret_but_its_name() -> None:
    assert not SECRETS.search(yaml.safe_dump(VALUES))
    (secret,) = VALUES["secret"]
    assert secret["envName"] == "AIRFLOW_CONN_ABBYY_VANTAGE_DEFAULT"
    assert set(secret) == {"envName", "secretName", "secretKey"}


def test_workers_and_triggerers_are_several_and_share_their_state() -> None:
    assert VALUES["workers"]["celery"]["replicas"] > 1
    assert VALUES["triggerer"]["replicas"] > 1
    assert "://" in VALUES["config"]["abbyy_vantage"]["state_path"]


@pytest.mark.parametrize("name", ["airflow", "prefect"])
def test_an_image_pins_its_orchestrator(name: str) -> None:
    text = (EXAMPLES / f"{name}.Dockerfile").read_text(encoding="utf-8")
    instructions = re.findall(r"^([A-Z]+) ", text, re.MULTILINE)
    assert instructions[:3] == ["ARG", "ARG", "FROM"]
    version = f"{name.upper()}_VERSION"
    tested = re.search(rf"^(?:apache-)?{name}==(\S+)$", _constraints(), re.MULTILINE)
    assert tested is not None
    assert f"ARG {version}={tested[1]}" in text
    run = text[text.index("RUN ") :]
    assert "--constraint /tmp/constraints.txt" in run
    assert re.search(rf'"(?:apache-)?{name}==\$\{{{version}\}}"', run)
    assert f"vantage-orchestration[{name}]" in run


def test_the_tested_versions_hold_what_several_hosts_need() -> None:
    constraints = _constraints()
    assert re.search(r"^apache-airflow-providers-celery==", constraints, re.MULTILINE)
    assert re.search(r"^sqlalchemy==2\.0\.", constraints, re.MULTILINE)


def _constraints() -> str:
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")
