# SPDX-License-Identifier: Apache-2.0
"""What earlier tries have left is read completely before anything is sent, or nothing is sent.

In all of these cases the service's lists lag behind by ten minutes, so that they can't help.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pendulum
import pytest
import stores
from jobs import begin, finish, submit_files
from pdfs import make_invoice

from vantage_orchestration import errors
from vantage_orchestration.options import Options
from vantage_orchestration.processing import submit
from vantage_orchestration.processing.job import job_token
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import FOLDER, FolderLedgers, Ledger, open_ledger
from vantage_orchestration.processing.manifest import Manifest, TransactionManifest
from vantage_orchestration.storage import Location

#: More requests than a try makes of its stores, so that the loops below end.
MOST = 60


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


@pytest.fixture
def skill(sandbox) -> str:
    sandbox.control.set(processing_polls=0, list_lag=600.0, delete_polls=0)
    return sandbox.control.skill_id("Invoice")


@pytest.fixture
def files(tmp_path: Path) -> list[Location]:
    for number in (1, 2):
        make_invoice(tmp_path / f"{number}.pdf", f"INV-{number}")
    return Location.of(tmp_path).files("*.pdf")


class Task:
    """A task that is tried several times."""

    def __init__(self, client: Any, files: list[Location], skill: str, name: str) -> None:
        self.client, self.files, self.name = client, files, name
        self.output = Location.of(f"bucket://out/{name}")
        self.state = Location.of("bucket://state")
        self.settings = (skill, Options(delete_after=True))
        self.token = job_token(name)
        self._tries = 0

    def ledger(self) -> tuple[TaskKey, Ledger]:
        self._tries += 1
        since = pendulum.now("UTC") if self._tries > 1 else None
        key = TaskKey(self.name, since, (FolderLedgers(self.state),))
        skill_id, _ = self.settings
        return key, open_ledger(key, self.client, skill_id, inputs="o", output=self.output)

    def begin(self) -> list[str]:
        key, ledger = self.ledger()
        job = begin(
            self.client,
            self.files,
            self.output,
            key,
            *self.settings,
            origin="o",
            token=self.token,
            ledger=ledger,
        )
        return [part.transaction_id for part in job.parts]

    def finish(self) -> Manifest:
        return finish(self.client, self.output, *self.settings, token=self.token)

    def submit(self) -> list[str]:
        key, ledger = self.ledger()
        sent = submit_files(self.client, self.files, key, *self.settings, origin="o", ledger=ledger)
        return [each.transaction_id for each in sent]


@pytest.fixture
def make(client, files, skill) -> Callable[[str], Task]:
    return lambda name: Task(client, files, skill, name)


def failure_of(use: Callable[[], Any]) -> Exception | None:
    """Return the error of a store that could not be read, if there was one."""
    try:
        use()
    except (errors.StateUnavailable, OSError) as error:
        return error
    return None


def starts(sandbox) -> int:
    return sandbox.control.count("POST", "/start$")


@pytest.mark.parametrize("case", ["runs", "landed and deleted", "submitted"])
def test_a_read_that_fails_once_loses_nothing(sandbox, make, case):
    """Each request to the stores fails once: nothing is sent then, and nothing is forgotten."""
    failures = 0
    for position in range(MOST):
        task = make(f"{case} {position}")
        use = task.submit if case == "submitted" else task.begin
        first = use()
        if case == "landed and deleted":
            task.finish()
        before, requests = starts(sandbox), sandbox.control.count("POST")
        written = dict(stores.BucketFileSystem.objects)
        stores.fail_once(position)
        error = failure_of(use)
        assert stores.failed() == (error is not None)
        if error is None:
            break
        failures += 1
        assert getattr(error, "retryable", True)
        assert sandbox.control.count("POST") == requests, "something was sent"
        changed = {
            path
            for path, data in written.items()
            if stores.BucketFileSystem.objects.get(path) != data
        }
        assert changed == set()
        assert use() == first
        assert starts(sandbox) == before
    assert 5 <= failures < MOST - 1
    counts = [each["started"] for each in sandbox.control.transactions()]
    assert set(counts) <= {1}


def test_a_read_that_fails_while_results_are_fetched_is_tried_again(sandbox, make):
    for position in range(MOST):
        task = make(f"finish {position}")
        first = task.begin()
        stores.fail_once(position)
        try:
            manifest = task.finish()
        except (errors.StateUnavailable, OSError):
            assert stores.failed()
            assert task.begin() == first
            manifest = task.finish()
        assert [each.transaction_id for each in manifest.transactions] == first
        if not stores.failed():
            break
    assert 5 <= position < MOST - 1
    assert starts(sandbox) == 2 * (position + 1)


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "newer": lambda text: json.dumps({**json.loads(text), "version": 99}),
    "another": lambda text: json.dumps({"of": "somebody else"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["ledger", "submitted.json", "manifest.json", "its manifest"])
def test_what_is_damaged_is_refused_before_anything_is_sent(sandbox, make, which, damage):
    task = make("task")
    first = task.begin()
    if "manifest" in which:
        task.finish()
    pattern = {"ledger": f"{FOLDER}/*/*.json", "its manifest": "1.pdf/manifest.json"}
    (file,) = task.output.files(pattern.get(which, which))
    good = file.read_text()
    file.write_text(DAMAGE[damage](good))
    damaged, requests = file.read_text(), sandbox.control.count("POST")
    with pytest.raises(errors.StateDamaged) as caught:
        task.begin()
    assert not caught.value.retryable
    assert file.url in str(caught.value)
    assert file.read_text() == damaged
    assert sandbox.control.count("POST") == requests
    file.write_text(good)
    assert task.begin() == first
    assert starts(sandbox) == 2


@pytest.mark.parametrize("lost", ["output", "state"])
def test_one_place_is_enough(sandbox, make, lost):
    task = make("task")
    first = task.begin()
    place = task.output if lost == "output" else task.state
    for path in [each for each in stores.BucketFileSystem.objects if each.startswith(place.path)]:
        del stores.BucketFileSystem.objects[path]
    assert task.begin() == first
    assert [each.transaction_id for each in task.finish().transactions] == first
    assert starts(sandbox) == 2


@pytest.mark.parametrize("killed", ["first", "second"])
def test_of_two_tries_at_the_same_time_the_charged_transaction_is_taken(
    sandbox, make, monkeypatch, killed
):
    """Both have looked before either has noted anything, and one was killed before its start."""
    task = make("task")
    client = task.client
    create, start = client.create_transaction, client.start_transaction
    inner: list[list[str]] = []

    def refuse(transaction_id: str) -> None:
        raise errors.Forbidden("the worker is killed here")

    def create_while_another_does(*args: Any, **options: Any) -> Any:
        # The other try is another process, which shares no lock with this one.
        monkeypatch.setattr(submit, "_making", threading.Lock())
        monkeypatch.setattr(client, "create_transaction", create)
        monkeypatch.setattr(client, "start_transaction", refuse if killed == "second" else start)
        try:
            inner.append(task.submit())
        except errors.Forbidden:
            inner.append([])
        monkeypatch.setattr(client, "start_transaction", refuse if killed == "first" else start)
        return create(*args, **options)

    monkeypatch.setattr(client, "create_transaction", create_while_another_does)
    if killed == "first":
        with pytest.raises(errors.Forbidden):
            task.submit()
        kept = inner[0]
    else:
        kept = task.submit()
    monkeypatch.undo()
    assert len(sandbox.control.transactions()) == 4
    assert task.submit() == kept
    assert starts(sandbox) == 2


@pytest.mark.parametrize("at", ["the search", "the first document"])
def test_what_a_try_at_the_same_time_creates_meanwhile_is_not_created_again(
    sandbox, make, monkeypatch, at
):
    """The abandoned try still works when the next one begins, and does all the rest."""
    monkeypatch.setattr(submit, "_CHUNK", 1)
    task = make("task")
    task.settings = (task.settings[0], Options(parallel=1))
    kept: list[list[str]] = []
    place: Any = submit if at == "the search" else submit.Sending
    name = "find_transactions" if at == "the search" else "_add"
    step = getattr(place, name)

    def while_another_works(*args: Any, **options: Any) -> Any:
        if not kept and (name == "_add" or args[1]):
            kept.append([])
            monkeypatch.setattr(place, name, step)
            kept[0] = task.submit()
            # The other try is another process, of which only the notes tell.
            monkeypatch.setattr(submit, "_made_here", {})
        return step(*args, **options)

    if at == "the search":
        task.ledger()  # So that this is not the first try, which does not search.
    monkeypatch.setattr(place, name, while_another_works)
    assert task.submit() == kept[0]
    assert len(sandbox.control.transactions()) == 2
    assert starts(sandbox) == 2


def test_what_has_landed_is_read_once_however_often_a_run_was_undone(
    sandbox, make, files, monkeypatch
):
    task = make("undone")
    task.begin()
    task.finish()
    for number in range(3):
        new = make_invoice(Path(files[0].path).with_name("new.pdf"), f"INV-N{number}")
        task.files = [*files, Location.of(new)]
        *_, sent = task.begin()
        task.ledger()[1].undo([sent])
    read = []
    load = TransactionManifest.load.__func__

    def counted(kind, folder, *names):
        read.append(folder.name)
        return load(kind, folder, *names)

    monkeypatch.setattr(TransactionManifest, "load", classmethod(counted))
    before = starts(sandbox)
    task.begin()
    assert starts(sandbox) == before + 1
    assert sorted(read) == ["1.pdf", "2.pdf", "new.pdf"]
