# SPDX-License-Identifier: Apache-2.0
"""What a task notes is found by its next try: after kills, in any store, and by two at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stores

from vantage_orchestration.errors import StateDamaged, StateUnavailable
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import (
    FOLDER,
    Change,
    FolderLedgers,
    Ledger,
    LedgerEntry,
    LedgerStore,
    NumberedLedgers,
    open_ledger,
)
from vantage_orchestration.storage import Location

A, B, C = (LedgerEntry(f"id-{n}", float(n), (f"{n:016x}",), "origin") for n in (1, 2, 3))
PLACES = ("local", "memory", "bucket", "renaming", "values")


class Values:
    """A store of values as an orchestrator has it."""

    def __init__(self) -> None:
        self.label = "values"
        self.values: dict[str, str] = {}
        self.trouble: Exception | None = None

    def read(self, name: str) -> bytes | None:
        if self.trouble is not None:
            raise self.trouble
        text = self.values.get(name)
        return None if text is None else text.encode()

    def write(self, name: str, value: bytes) -> None:
        assert name not in self.values, "something is written over"
        self.values[name] = value.decode()


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


@pytest.fixture(params=PLACES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., LedgerStore]:
    """Return the same place for each try."""
    if request.param == "values":
        values = Values()
        return lambda attempt=1: NumberedLedgers(values, attempt)
    place = str(tmp_path / "state") if request.param == "local" else f"{request.param}://state/x"
    return lambda attempt=1: FolderLedgers(Location.of(place))


def ledger_in(*places: LedgerStore, name: str = "task") -> Ledger:
    return Ledger(*((each, name) for each in places))


def test_a_later_try_reads_what_an_earlier_one_has_noted(store):
    first = ledger_in(store())
    assert first.load() == {}
    first.add({"a": A, "b": B})
    first.add({"c": C})
    first.drop(["b", "unknown"])
    for attempt in (1, 2, 7):
        assert ledger_in(store(attempt)).load() == {"a": A, "c": C}
    assert ledger_in(store(), name="another").load() == {}
    second = ledger_in(store(2))
    second.drop(["a"])  # Also if it has read nothing before.
    anew = replace(A, transaction_id="id-4")
    second.add({"a": anew})
    assert ledger_in(store(3)).load() == {"a": anew, "c": C}


def test_what_was_dropped_does_not_come_back(store):
    first, second = ledger_in(store(1)), ledger_in(store(2))
    first.add({"a": A})
    second.load()
    second.drop(["a"])
    first.add({"a": A})  # The first still runs, and notes late.
    assert ledger_in(store(3)).load() == {}


def test_two_at_the_same_time_do_not_lose_notes(store):
    first, second = ledger_in(store(1)), ledger_in(store(2))
    assert first.load() == second.load() == {}
    first.add({"a": A, "b": B})
    second.add({"a": C})
    first.add({"c": B})
    found = ledger_in(store(3)).load()
    # Both have made a transaction of the same files; the newer comes first.
    assert found == {"a": replace(C, others=("id-1",)), "b": B, "c": B}
    assert found["a"].transaction_ids == ("id-3", "id-1")
    last = ledger_in(store(3))
    last.load()
    last.drop(["a"])
    assert ledger_in(store(4)).load() == {"b": B, "c": B}


def test_one_place_is_enough(tmp_path):
    values = Values()
    folder = FolderLedgers(Location.of(tmp_path / "state"))
    ledger = ledger_in(folder, NumberedLedgers(values, 1))
    ledger.add({"a": A, "b": B})
    values.values.clear()
    later = ledger_in(folder, NumberedLedgers(values, 2))
    assert later.load() == {"a": A, "b": B}
    later.drop(["a"])
    # What one place says is dropped is dropped, whatever the other still has.
    elsewhere = FolderLedgers(Location.of(tmp_path / "other"))
    assert ledger_in(elsewhere, NumberedLedgers(values, 3)).load() == {}
    assert ledger_in(folder, elsewhere).load() == {"b": B}
    assert Ledger().load() == {}


def test_many_files_are_noted_in_pieces(store):
    entries = {
        f"{number:064x}": LedgerEntry(f"id-{number}", 1.0, tuple(f"{n:016x}" for n in range(1000)))
        for number in range(10)
    }
    ledger_in(store()).add(entries)
    assert ledger_in(store(2)).load() == entries


def test_pieces_are_not_too_large_for_an_orchestrator():
    values = Values()
    entries = {f"{n:064x}": LedgerEntry(f"{n:036}", 1.0, ("0" * 16,)) for n in range(2000)}
    ledger_in(NumberedLedgers(values, 1)).add(entries)
    assert max(map(len, values.values.values())) < 65_535
    assert len(values.values) < 10


def test_undone_work_is_another_order(store):
    key = TaskKey("task")
    ledger = ledger_in(store())
    ledger.add({"a": A, "b": B})
    assert ledger.scopes(key) == ["task"]
    ledger_in(store()).undo({"ID-1"})
    ledger_in(store()).undo({"id-9"})
    later = ledger_in(store(2))
    assert later.scopes(key) == ["task/1", "task"]
    assert later.load() == {"b": B}


@pytest.mark.parametrize("place", ["bucket", "renaming"])
def test_a_read_that_fails_once_is_an_error_and_no_empty_ledger(place):
    state = FolderLedgers(Location.of(f"{place}://state"))
    ledger_in(state).add({"a": A})
    ledger_in(state).add({"b": B})
    # One listing, and each of the two files.
    for position in range(3):
        stores.fail_once(position)
        with pytest.raises(StateUnavailable, match="did not answer") as caught:
            ledger_in(state).load()
        assert stores.failed()
        assert caught.value.retryable
    assert ledger_in(state).load() == {"a": A, "b": B}
    assert len(stores.BucketFileSystem.objects) == 2


@pytest.mark.parametrize("error", [PermissionError("no"), TimeoutError(), RuntimeError("5xx")])
def test_values_that_cannot_be_read_are_not_missing(error):
    values = Values()
    ledger_in(NumberedLedgers(values, 1)).add({"a": A})
    values.trouble = error
    for use in (Ledger.load, lambda ledger: ledger.add({"b": B})):
        with pytest.raises(StateUnavailable, match=type(error).__name__):
            use(ledger_in(NumberedLedgers(values, 2)))
    values.trouble = None
    assert ledger_in(NumberedLedgers(values, 2)).load() == {"a": A}
    values.trouble = FileNotFoundError("nothing of that name")
    assert ledger_in(NumberedLedgers(values, 2)).load() == {}


def test_the_right_to_list_is_spoken_of():
    stores.BucketFileSystem.failing["ls"] = PermissionError("403")
    with pytest.raises(StateUnavailable, match="unless they may be listed"):
        ledger_in(FolderLedgers(Location.of("bucket://state"))).load()


def test_a_file_that_is_listed_and_not_found_is_no_missing_note(monkeypatch):
    state = FolderLedgers(Location.of("bucket://state"))
    ledger_in(state).add({"a": A})
    monkeypatch.setattr(Location, "read_bytes", _raise(FileNotFoundError("not here yet")))
    with pytest.raises(StateUnavailable, match="is listed but can't be found"):
        ledger_in(state).load()


def _raise(error: Exception) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        raise error

    return wrapper


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ('{"version": 1, "added": {"a": ["id-1"', "Expecting"),
        ("[]", "it has no version"),
        ('{"added": {}}', "it has no version"),
        (json.dumps({**Change().to_json(), "version": 2}), "its version is 2; 1 is expected"),
        (json.dumps({**Change().to_json(), "added": {"a": ["id-1"]}}), "not enough values"),
        ('{"version": 1}', "added"),
    ],
)
def test_a_damaged_note_is_refused_and_stays(tmp_path, text, words):
    folder = Location.of(tmp_path)
    ledger_in(FolderLedgers(folder)).add({"a": A})
    (file,) = folder.child("task").files()
    file.write_text(text)
    for use in (Ledger.load, lambda ledger: ledger.drop(["a"])):
        with pytest.raises(StateDamaged, match=words) as caught:
            use(ledger_in(FolderLedgers(folder)))
        assert not caught.value.retryable
    # A ledger that was not read only adds a note of its own.
    ledger_in(FolderLedgers(folder)).add({"b": B})
    assert file.read_text() == text
    values = Values()
    values.values["task.1.0"] = text or '""'
    with pytest.raises((StateDamaged, StateUnavailable)):
        ledger_in(NumberedLedgers(values, 2)).load()
    assert values.values["task.1.0"] == (text or '""')


def test_kill_minus_9_leaves_what_was_noted_before(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import test_ledger as t
        store = t.FolderLedgers(t.Location.of(sys.argv[1]))
        ledger = t.ledger_in(store)
        for number in range(10_000):
            key = f"{sys.argv[2]}-{number}"
            ledger.add({key: t.replace(t.A, transaction_id=key)})
            print(key, flush=True)
        """
    )
    here = Path(__file__).parent
    noted: list[str] = []
    for seed in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(seed)],
            env={"PYTHONPATH": f"{here}:{here.parent}", "PATH": ""},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            noted += [process.stdout.readline().strip() for _ in range(7 + seed)]
            process.kill()
            noted += process.stdout.read().split()
    found = ledger_in(FolderLedgers(Location.of(tmp_path))).load()
    # One more at a time may have been noted, and not been said to be.
    assert found.keys() >= set(noted)
    assert len(found) <= len(noted) + 4
    assert len(noted) >= 4 * 7


def test_names_tell_tasks_apart(client, configure, tmp_path):
    key = TaskKey("scope", stores=(FolderLedgers(Location.of(tmp_path / "state")),))
    output = Location.of(tmp_path / "out")
    given: dict[str, Any] = {"inputs": "these", "position": "3"}
    open_ledger(key, client, "Invoice", {"Note": "x"}, **given).add({"a": A})
    open_ledger(key, client, "Invoice", {"Note": "x"}, output=output).add({"o": B})

    def found(
        key: TaskKey = key, skill: str = "Invoice", note: str = "x", **more: Any
    ) -> list[str]:
        ledger = open_ledger(key, more.pop("client", client), skill, {"Note": note}, **more)
        return sorted(ledger.load())

    # By the inputs, or by the position where these have changed.
    assert found(**given) == found(inputs="these") == ["a"]
    assert found(inputs="others", position="3") == ["a"]
    assert found(inputs="others", position="4") == found(inputs="others") == []
    # Whoever writes into the folder.
    assert found(inputs="others", output=output) == ["o"]
    assert found(key=replace(key, stores=()), output=output) == ["o"]
    assert found(inputs="others", output=Location.of(tmp_path / "other")) == []
    # Another task, skill or account is another.
    assert found(key=replace(key, scope="other"), **given) == []
    assert found(skill="Receipt", **given) == []
    assert found(note="y", **given) == []
    for change in (
        {"username": "somebody.else@example.com"},
        {"client_id": "another"},
        {"tenant_id": "another"},
        {"base_url": "https://another.example.com"},
    ):
        with type(client)(configure(**change)) as other:
            assert found(client=other, **given) == [], change
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FOLDER}


def test_a_store_of_one_instance_takes_one_name(client):
    values = Values()
    key = TaskKey("scope", stores=(NumberedLedgers(values, 1, of_one_instance=True),))
    open_ledger(key, client, "Invoice", inputs="these", position="3").add({"a": A})
    assert len(values.values) == 1
    assert open_ledger(key, client, "Invoice", inputs="others", position="4").load() == {"a": A}
