# SPDX-License-Identifier: Apache-2.0
"""What the README says must stay true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vantage_orchestration.fields import FIELDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_field_is_explained_with_its_default():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    for field in FIELDS:
        row = next((row for row in rows if f"`{field.name}`" in row.split("|")[1]), None)
        assert row is not None, field.name
        default = str(field.default)
        if field.kind in ("text", "flag") and default:
            assert default.lower() in row.lower(), field.name


def test_the_table_of_logins_is_the_one_that_was_measured():
    shown = README.split("<!-- logins -->")[1].split("<!-- /logins -->")[0].strip()
    results = (ROOT / "benchmarks" / "token" / "RESULTS.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", results, re.MULTILINE)
    assert shown == tables[0].strip()


def test_the_python_examples_can_be_parsed():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        ast.parse(block)


def test_links_to_files_of_the_project_lead_somewhere():
    for text in (README, (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in link:
                assert (ROOT / link).exists(), link
