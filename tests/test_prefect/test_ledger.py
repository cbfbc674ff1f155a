# SPDX-License-Identifier: Apache-2.0
"""The notes in Prefect's result storage, on a disk and without a server."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.prefect.ledger import ResultLedger, ledgers_of, own_ledger
from vantage_orchestration.processing.ledger import Record

A, B, C = (Record(f"id-{n}", float(n), (f"{n:016x}",), "origin") for n in (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path)))


def test_a_later_try_reads_what_an_earlier_one_has_noted(store: ResultStore) -> None:
    first = ResultLedger(store, ["x", "y"])
    assert first.load() == {}
    first.add({"a": A, "b": B})
    first.add({"c": C})
    first.drop(["b"])
    for names in (["x", "y"], ["x"], ["new inputs", "y"]):
        assert ResultLedger(store, names).load() == {"a": A, "c": C}
    assert ResultLedger(store, ["z"]).load() == {}
    second = copy.deepcopy(ResultLedger(store, ["x", "y"]))
    second.add({"a": B})
    assert ResultLedger(store, ["y"]).load() == {"a": B, "c": C}


def test_a_note_that_was_cut_short_is_written_over(store: ResultStore, tmp_path: Path) -> None:
    ResultLedger(store, ["x"]).add({"a": A})
    ledger = ResultLedger(store, ["x"])
    ledger.add({"b": B})
    (last,) = (path for path in tmp_path.iterdir() if path.name.endswith("-1"))
    last.write_bytes(last.read_bytes()[:-20])
    later = ResultLedger(store, ["x"])
    assert later.load() == {"a": A}
    later.add({"c": C})
    assert ResultLedger(store, ["x"]).load() == {"a": A, "c": C}


def test_what_cannot_be_noted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    lost = ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path / "file" / "below")))
    with pytest.raises(Exception, match="below"):
        ResultLedger(lost, ["x"]).add({"a": A})


def test_a_run_knows_its_ledgers_and_what_was_undone(store: ResultStore) -> None:
    ResultLedger(store, ["x", "y"], "run-1").add({"a": A})
    ResultLedger(store, ["z"], "run-1").add({"b": B})
    ResultLedger(store, ["w"], "run-2").add({"c": C})
    found = ledgers_of(store, "run-1")
    assert [dict(each.load()) for each in found] == [{"a": A}, {"b": B}]
    assert ledgers_of(store, "run-3") == []
    for each in found:
        each.undo({"id-1"})
    assert [each.undone for each in found] == [1, 0]
    again = ResultLedger(store, ["new inputs", "y"])
    assert (again.load(), again.undone) == ({}, 1)


def test_a_ledger_needs_a_run() -> None:
    with pytest.raises(ConfigurationError, match="no running Prefect flow"):
        own_ledger(["x"])
