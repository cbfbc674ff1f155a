# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import vantage_orchestration

PACKAGE = Path(vantage_orchestration.__file__).parent
HEAVY = ["requests", "urllib3", "pendulum", "tenacity", "requests_toolbelt", "starlette", "pypdf"]

PROBE = """
import importlib, json, sys

class Blocker:
    '''Makes packages look as if they were not installed.'''
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Blocker())
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))
"""


def loaded(modules: list[str], blocked: list[str], tmp_path: Path) -> list[str]:
    """Import modules in a new process, with packages blocked; return what was loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(blocked), json.dumps(modules)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "AIRFLOW_HOME": str(tmp_path),
            "PREFECT_HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def modules_of(*parts: str) -> list[str]:
    """Return the names of all modules below a part of the package, or of the core."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = path.relative_to(PACKAGE).with_suffix("").parts
        outside = {"airflow", "prefect", "sandbox"} - set(parts)
        if inner[0] in outside or (parts and inner[0] not in parts) or inner[-1] == "__main__":
            continue
        names = inner[:-1] if inner[-1] == "__init__" else inner
        found.append(".".join(("vantage_orchestration", *names)))
    assert found
    return found


def test_the_core_runs_without_either_orchestrator_and_without_the_sandbox(tmp_path):
    sandbox_only = ["starlette", "uvicorn", "pypdf", "multipart", "python_multipart", "rich"]
    found = loaded(modules_of(), ["airflow", "prefect", "pydantic", *sandbox_only], tmp_path)
    assert "requests" in found, "the probe imported the client"


def test_the_blocker_blocks(tmp_path):
    with pytest.raises(AssertionError, match="No module named 'requests'"):
        loaded(["vantage_orchestration.client"], ["requests"], tmp_path)


def needs(orchestrator: str) -> None:
    if importlib.util.find_spec(orchestrator) is None:
        pytest.skip(f"{orchestrator} is not installed")


@pytest.mark.slow
def test_the_airflow_side_runs_without_prefect(tmp_path):
    needs("airflow")
    assert "airflow" in loaded(modules_of("airflow"), ["prefect"], tmp_path)


@pytest.mark.slow
def test_the_prefect_side_runs_without_airflow(tmp_path):
    needs("prefect")
    assert "prefect" in loaded(modules_of("prefect"), ["airflow"], tmp_path)


def test_the_sandbox_runs_without_the_rest(tmp_path):
    loaded(modules_of("sandbox"), ["airflow", "prefect"], tmp_path)
    for path in (PACKAGE / "sandbox").rglob("*.py"):
        for name in imported_by(path):
            inside = name.startswith(("vantage_orchestration.sandbox", ".")) or (
                not name.startswith("vantage_orchestration")
            )
            assert inside or name == "vantage_orchestration.__version__", f"{path.name}: {name}"


def test_nothing_imports_the_sandbox():
    for path in PACKAGE.rglob("*.py"):
        if "sandbox" not in path.relative_to(PACKAGE).parts:
            names = [name for name in imported_by(path) if "sandbox" in name]
            assert names == [], f"{path.name}: {names}"


def imported_by(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names += [f"{base}.{alias.name}" if node.level == 0 else base for alias in node.names]
    return names


@pytest.mark.parametrize(
    "module",
    [
        "vantage_orchestration",
        "vantage_orchestration.token",
        "vantage_orchestration.config",
        "vantage_orchestration.errors",
        "vantage_orchestration.credentials",
        "vantage_orchestration.cli",
        "vantage_orchestration.airflow.provider",
    ],
)
def test_light_modules_load_nothing_heavy(module, tmp_path):
    found = loaded([module], [], tmp_path)
    assert [name for name in [*HEAVY, "airflow", "prefect"] if name in found] == []


def test_all_public_names_can_be_had():
    for name in vantage_orchestration.__all__:
        assert getattr(vantage_orchestration, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vantage_orchestration.nothing
