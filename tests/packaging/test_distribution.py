# SPDX-License-Identifier: Apache-2.0
"""What users install: the wheel, the source distribution, and what their metadata says."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions in a copy of the tree; return the folder they are in."""
    tree, target = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    left_out = (".*", "build", "dist", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left_out))
    for step in ("build_sdist", "build_wheel"):
        command = [sys.executable, "-c", BUILD, step, str(target)]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_metadata_says_where_the_project_is(metadata: Message) -> None:
    urls = dict(each.split(", ", 1) for each in metadata.get_all("Project-URL", []))
    assert {"Documentation", "Source", "Issues", "Changelog"} <= set(urls)
    assert metadata["Author"]
    assert metadata["License-Expression"] == "Apache-2.0"


def test_users_see_no_extra_for_our_tests(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "airflow",
        "dlt",
        "prefect",
        "sandbox",
        "tables",
    }


def test_the_ranges_hold_the_versions_that_managed_services_run(metadata: Message) -> None:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wanted = [Requirement(each) for each in metadata.get_all("Requires-Dist", [])]
    ranges = {each.name: each.specifier for each in wanted}
    for name, versions in {
        "apache-airflow": ("3.0.6", "3.1.8", "3.2.1", "3.3.2"),
        "prefect": ("3.4.25", "3.7.7", "3.9.1"),
        "filelock": ("3.19.1", "3.20.2"),
        "cryptography": ("42.0.8", "46.0.0"),
    }.items():
        assert all(version in ranges[name] for version in versions), name
    python = SpecifierSet(metadata["Requires-Python"])
    named = [each for each in metadata.get_all("Classifier", []) if " :: 3." in each]
    minors = [each.rpartition(" ")[2] for each in named]
    assert len(minors) == 5
    assert all(each in python for each in minors)
    lowest, highest = minors[0], minors[-1]
    for name in ("README.md", "Makefile", "constraints.txt"):
        told = set(re.findall(r"Python (3\.\d+) to (3\.\d+)", (ROOT / name).read_text()))
        assert told == {(lowest, highest)}, name
    suits = f"{tuple(map(int, lowest.split('.')))} <= sys.version_info[:2]"
    suits += f" <= {tuple(map(int, highest.split('.')))}"
    assert suits in (ROOT / "Makefile").read_text()


def test_no_link_of_the_readme_breaks_on_an_index_page(metadata: Message) -> None:
    text = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_wheel_holds_the_package_and_the_examples_alone(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {
        "vantage_orchestration"
    }
    examples = {Path(name).name for name in wheel.namelist() if "/share/" in name}
    expected = {path.name for kind in ("dags", "flows") for path in (ROOT / kind).glob("*.py")}
    assert examples == expected
    for name in ("py.typed", "airflow/integration-logos/abbyy-vantage.svg"):
        assert f"vantage_orchestration/{name}" in wheel.namelist()
    templates = {Path(path).name for path in wheel.namelist() if "/templates/" in path}
    assert templates == {"base.html", "message.html", "overview.html", "style.css"}


def test_the_source_distribution_holds_what_the_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for each in ("CHANGELOG.md", "Makefile", "constraints.txt", "docs/airflow.md"):
        assert each in names
    for folder in ("dags", "flows", "tests", "demo", "docs", "benchmarks"):
        ours = {
            str(file.relative_to(ROOT))
            for file in (ROOT / folder).rglob("*.*")
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
        }
        assert ours <= names, ours - names


def test_examples_are_copied_from_an_installation(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    home = tmp_path / "installed"
    wheel.extractall(home)
    (data,) = home.glob("*.data/data")
    shutil.copytree(data, home / "prefix")
    (info,) = home.glob("*.dist-info")
    record = (info / "RECORD").read_text()
    (info / "RECORD").write_text(re.sub(r"[^\n,]*\.data/data/", "prefix/", record))
    target = tmp_path / "copied"
    script = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    script += "from vantage_orchestration import cli; sys.exit(cli.main())"

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", script, str(home), "examples", "--to", str(target)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    for kind in ("dags", "flows"):
        for source in (ROOT / kind).glob("*.py"):
            assert (target / kind / source.name).read_bytes() == source.read_bytes()
    again = run()
    assert again.returncode == 1
    assert "already exists" in again.stderr
