# SPDX-License-Identifier: Apache-2.0
"""What the README says must stay true."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from vantage_orchestration import errors
from vantage_orchestration.config import FIELDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: The README has whole addresses, so that its links work on an index page.
PROJECT = "https://github.com/vantage-orchestration/vantage-orchestration/"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert len(blocks) >= 8
    for block in blocks:
        ast.parse(block)


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page has on the site of its repository."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_links_to_files_of_the_project_lead_somewhere():
    found = sections = 0
    for page in PAGES:
        for link, section in re.findall(
            r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")
        ):
            target = page.parent / link if link else page
            if link.startswith(PROJECT):
                kind, _, path = link.removeprefix(PROJECT).partition("/main")
                assert kind in ("blob", "raw", "tree"), f"{page.name}: {link}"
                target = ROOT / path.lstrip("/")
            elif "://" in link:
                continue
            assert target.exists(), f"{page.name}: {link}"
            if section:
                assert section in anchors(target), f"{page.name}: {link}#{section}"
                sections += 1
            found += 1
    assert found > 20
    assert sections > 10


def test_every_error_is_explained_as_it_is():
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.VantageError)
    ]
    assert len(kinds) > 30
    for kind in kinds[1:]:
        meaning = " ".join(str(inspect.getdoc(kind)).split("\n\n")[0].split())
        row = next(line for line in text.splitlines() if line.startswith(f"| `{kind.__name__}`"))
        assert f"| {meaning} |" in row, kind
        assert f"| `{kind.__bases__[0].__name__}` |" in row
        assert row.endswith("| yes |" if kind.retryable else ("| no |", "| depends |"))
        depends = {each.retryable for each in kinds if each.__bases__[0] is kind} == {True, False}
        assert row.endswith("| depends |") is depends


def test_names_in_the_tables_exist():
    """What the pages about the orchestrators name in code can be imported by that name."""
    for page in ("airflow.md", "prefect.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        sources = "\n".join(
            path.read_text(encoding="utf-8")
            for path in (ROOT / "vantage_orchestration").rglob("*.py")
        )
        for name in re.findall(r"`(Vantage\w+|[a-z]+_[a-z_]+)(?:\(\))?`", text):
            assert re.search(rf"\b{name}\b", sources), f"{page}: {name}"
