# SPDX-License-Identifier: Apache-2.0
"""``vantage-orchestration skills`` shows what can be written into a DAG, flow or option."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from vantage_orchestration.cli import main
from vantage_orchestration.sandbox import SandboxServer


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        for name, text in {**server.credentials, "base_url": server.url, "store": "memory"}.items():
            monkeypatch.setenv(f"ABBYY_VANTAGE_{name.upper()}", text)
        yield server


@pytest.mark.usefixtures("sandbox")
def test_skills_are_listed_with_ids_types_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skills"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Invoice  (Document, id ") for line in lines)
    assert "  Invoice Date: Date" in lines
    assert "  Items: Group, repeated" in lines
    assert "    Unit Price: Amount" in lines
    assert "  class Receipt" in lines
    assert "  skill Document type" in lines
    assert not any("Draft" in line for line in lines)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("name", ["Receipt", "workspace.default.processing"])
def test_one_skill_is_shown_by_id_or_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["skills", name, "--json"]) == 0
    (skill,) = json.loads(capsys.readouterr().out)
    assert name in (skill["id"], skill["name"])


@pytest.mark.usefixtures("sandbox")
def test_an_unknown_skill_names_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skills", "Invoices"]) == 1
    error = capsys.readouterr().err
    assert "'Invoices'" in error
    assert "Invoice, Receipt" in error


def _run(*, stdout: int | IO[bytes], **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from vantage_orchestration.cli import main; sys.exit(main(['skills']))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )


def test_a_skill_that_may_not_be_read_and_letters_of_another_land_are_listed(
    sandbox: SandboxServer,
) -> None:
    listed = [{"id": "s1", "name": "Büro", "type": "Document"}]
    sandbox.control.add_fault(operation="listSkills", json=listed, status=200, times=0)
    sandbox.control.add_fault(operation="getSkill", status=403, times=0)
    done = _run(stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"B\\xfcro  (Document, id s1)\n"


@pytest.mark.usefixtures("sandbox")
def test_a_reader_that_has_gone_and_a_full_disk_show_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = _run(stdout=gone)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        done = _run(stdout=full)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr
