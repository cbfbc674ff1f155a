# SPDX-License-Identifier: Apache-2.0
"""The values for Airflow's chart set options that this Airflow, or this package, has."""

from __future__ import annotations

from pathlib import Path

import yaml
from airflow.configuration import conf

from vantage_orchestration.airflow.context import SECTION

VALUES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "helm-values.yaml"


def test_each_option_is_one_that_is_read() -> None:
    sections = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["config"]
    assert list(sections.pop(SECTION)) == ["state_path"]
    assert sections.pop("celery") == {"worker_concurrency": 8}  # An option of the Celery provider.
    found = {section: set(conf.getsection(section) or ()) for section in sections}
    assert all(set(options) <= found[section] for section, options in sections.items())
