# SPDX-License-Identifier: Apache-2.0
"""The notes in Prefect's result storage, in each kind of block and without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem
from prefect.results import ResultStore

from vantage_orchestration.errors import ConfigurationError, StateDamaged, StateUnavailable
from vantage_orchestration.prefect import task_key
from vantage_orchestration.prefect.ledger import RunStore
from vantage_orchestration.processing import TaskKey
from vantage_orchestration.processing.ledger import Ledger, LedgerEntry
from vantage_orchestration.storage import Location

A, B, C = (LedgerEntry(f"id-{n}", float(n), (f"{n:016x}",), "origin") for n in (1, 2, 3))


class CloudError(Exception):
    """What the client of a cloud raises."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("the client's own words")
        vars(self).update(attributes)


class Bucket(WritableFileSystem):
    """A block such as S3Bucket: it can't list, and raises what its client raises."""

    objects: ClassVar[dict[str, bytes]] = {}
    missing: ClassVar[Exception] = CloudError(response={"Error": {"Code": "NoSuchKey"}})
    trouble: ClassVar[list[Exception]] = []

    def read_path(self, path: str, _sync: bool = True) -> bytes:
        if self.trouble:
            raise self.trouble.pop()
        if path not in self.objects:
            raise self.missing
        return self.objects[path]

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> str:
        assert path not in self.objects, "something is written over"
        self.objects[path] = content
        return path


@pytest.fixture(params=["local", "remote", "bucket"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    Bucket.objects.clear()
    Bucket.trouble.clear()
    kinds = {
        "local": lambda: LocalFileSystem(basepath=str(tmp_path)),
        "remote": lambda: RemoteFileSystem(basepath=f"memory://results{tmp_path}"),
        "bucket": Bucket,
    }
    return ResultStore(result_storage=kinds[request.param]())


def ledger(results: ResultStore, *names: str, run: str = "run", attempt: int = 1) -> Ledger:
    store = RunStore(results, run, attempt)
    return Ledger(*((store, name) for name in names))


def test_a_later_try_reads_what_an_earlier_one_has_noted(results: ResultStore) -> None:
    first = ledger(results, "x", "y")
    assert first.load() == {}
    first.add({"a": A, "b": B})
    first.add({"c": C})
    first.drop(["b"])
    for names in (["x", "y"], ["x"], ["new inputs", "y"]):
        assert ledger(results, *names, attempt=2).load() == {"a": A, "c": C}
    assert ledger(results, "z").load() == {}


def test_two_tries_at_the_same_time_do_not_lose_notes(results: ResultStore) -> None:
    first, second = ledger(results, "x"), ledger(results, "x", run="other", attempt=2)
    assert (first.load(), second.load()) == ({}, {})
    first.add({"a": A})
    second.add({"b": B})
    first.add({"c": C})
    assert ledger(results, "x", attempt=3).load() == {"a": A, "b": B, "c": C}


def test_a_run_knows_its_ledgers_and_what_was_undone(results: ResultStore) -> None:
    ledger(results, "x", "y", run="run-1").add({"a": A})
    ledger(results, "z", run="run-1", attempt=2).add({"b": B})
    ledger(results, "w", run="run-2").add({"c": C})
    found = RunStore(results, "run-1", 2).used()
    assert [each.load() for each in found] == [{"a": A}, {"a": A}, {"b": B}]
    assert RunStore(results, "run-3", 2).used() == []
    key = TaskKey("scope")
    for each in found:
        each.undo({"id-1"})
    assert [each.scopes(key)[0] for each in found] == ["scope/1", "scope/1", "scope"]
    again = ledger(results, "new inputs", "y", attempt=3)
    assert (again.load(), again.scopes(key)[0]) == ({}, "scope/1")


@pytest.mark.parametrize(
    "missing",
    [
        CloudError(response={"Error": {"Code": "404"}}),
        CloudError(code=404),
        CloudError(status_code=404),
        FileNotFoundError("x"),
        ValueError("Path x does not exist."),
    ],
)
def test_each_client_says_in_its_own_way_that_nothing_is_there(
    missing: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket.objects.clear()
    wrapped = RuntimeError("could not be downloaded")
    wrapped.__cause__ = missing
    for error in (missing, wrapped):
        monkeypatch.setattr(Bucket, "missing", error)
        assert ledger(ResultStore(result_storage=Bucket()), "x").load() == {}


@pytest.mark.parametrize(
    "error",
    [
        CloudError(response={"Error": {"Code": "AccessDenied"}}),
        CloudError(code=503),
        CloudError(status_code=403),
        TimeoutError("x"),
        ValueError("something else"),
    ],
)
def test_a_read_that_fails_once_erases_nothing(error: Exception) -> None:
    """The first try has noted a transaction; one read fails, and the next try still finds it."""
    Bucket.objects.clear()
    results = ResultStore(result_storage=Bucket())
    ledger(results, "x").add({"a": A})
    before = dict(Bucket.objects)
    for use in (Ledger.load, lambda each: each.add({"b": B})):
        Bucket.trouble[:] = [error]
        with pytest.raises(StateUnavailable) as caught:
            use(ledger(results, "x"))
        assert caught.value.retryable
        assert not Bucket.trouble
        assert Bucket.objects == before
    again = ledger(results, "x")
    again.add({"b": B})
    assert ledger(results, "x").load() == {"a": A, "b": B}


def test_a_damaged_note_is_refused(results: ResultStore) -> None:
    ledger(results, "x").add({"a": A})
    if isinstance(results.result_storage, Bucket):
        (name,) = (each for each in Bucket.objects if "run-" not in each)
        Bucket.objects[name] = Bucket.objects[name][:-20]
    else:
        place = results.result_storage.basepath
        (file,) = Location.of(place).files(".abbyy-vantage/x/*.json")
        file.write_text(file.read_text()[:-20])
    with pytest.raises(StateDamaged):
        ledger(results, "x", attempt=2).load()


def test_what_cannot_be_noted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    lost = ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path / "file" / "below")))
    with pytest.raises(Exception, match="below"):
        ledger(lost, "x").add({"a": A})


def test_a_ledger_needs_a_run() -> None:
    with pytest.raises(ConfigurationError, match="No Prefect flow or task is running"):
        task_key("x")
