# SPDX-License-Identifier: Apache-2.0
"""The nightly flow: from a folder of documents to rows in a database."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import dlt
import duckdb
import pytest
from pdfs import make_invoice

from vantage_orchestration.prefect import VantageCredentials
from vantage_orchestration.sandbox import SandboxServer

FILE = "abbyy_vantage_nightly.py"
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_night_from_documents_to_rows(
    sandbox: SandboxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "invoices.duckdb"))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.chdir(tmp_path)
    sandbox.control.set(processing_polls=0)
    given = {key: text for key, text in sandbox.credentials.items() if key != "tenant_id"}
    block = VantageCredentials(region="custom", base_url=sandbox.url, **given)
    block.save("abbyy-vantage", overwrite=True)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("1", "2"):
        make_invoice(folder / f"{name}.pdf", f"INV-{name}")
    make_invoice(folder / "no total.pdf", "INV-3", total="")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 this is no PDF")

    flow = loaded(ROOT / "flows" / FILE).abbyy_vantage_nightly
    for night in range(3):  # Loading twice changes nothing.
        if night == 2:
            make_invoice(folder / "4.pdf", "INV-4")
            work = str(tmp_path / "dlt" / "pipelines")
            killed = dlt.pipeline("invoices", destination="duckdb", pipelines_dir=work)
            killed.extract([{"number": 1}], table_name="left_by_a_killed_load")
        flow(str(folder), str(tmp_path / "out"), str(tmp_path / "aside"))
    with duckdb.connect(str(tmp_path / "invoices.duckdb")) as connection:
        sql = "select distinct source_name, invoice_number, total from invoices_dataset.documents"
        rows = connection.sql(f"{sql} order by 1").fetchall()
        count = connection.sql("select count(*) from invoices_dataset.documents_items").fetchall()
    assert rows == [(f"{each}.pdf", f"INV-{each}", 120) for each in (1, 2, 4)]
    assert count
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "aside").glob("*.pdf")}
    assert names == {"no total", "broken"}


def test_the_night_takes_few_lines_of_their_own() -> None:
    """The body of the DAG, and of the flow with its task: what a user writes."""
    for path in (ROOT / "flows" / FILE, ROOT / "dags" / FILE):
        text = path.read_text(encoding="utf-8")
        functions = [each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef)]
        own = {
            number
            for function in functions
            for number in range(function.lineno, (function.end_lineno or 0) + 1)
        }
        lines = [line for n, line in enumerate(text.splitlines(), 1) if n in own and line.strip()]
        code = [line for line in lines if not line.strip().startswith(("import ", "from ", "@"))]
        assert 5 < len(code) <= 15, path.name
