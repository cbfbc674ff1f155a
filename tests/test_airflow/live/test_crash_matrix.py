# SPDX-License-Identifier: Apache-2.0
"""A real Airflow is disturbed at each point of a run, and goes on to the run's end by itself.

In each case every input is charged once, the results are complete and the same bytes that the
service has, and nothing is left over. What the service saw is counted on its side. Airflow's own
state of a task is emptied before each kill and clear, and the lists of the service lag behind by
ten minutes where they could help, so that the notes in the output folder have to be enough. All
runs are disturbed at the same time, each on a sandbox of its own; each test looks at one of them.

A worker that is killed is, in turns, the process that runs the task (as when memory runs out) and
that process with the one that supervises it (as when a machine is lost).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator

import psutil
import pytest
from leaks import database_bytes, find_leaks
from patience import PATIENCE
from processes import kill
from scenes import INPUTS, TWICE, Matrix, secrets_of
from test_airflow.live.running import Running
from test_airflow.live.scene import Case, Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


# ---------------------------------------------------------------- the cases


def undisturbed(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    task = scene.finish()
    assert task["try_number"] == 1


def cleared_at_the_end(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    scene.finish()
    before = scene.files()
    scene.run.clear()
    scene.end(try_number=2)
    assert scene.files() == before
    downloads = scene.requests("downloadResultFile")
    assert len(downloads) == len({each["path"] for each in downloads})


def before_create(scene: Scene, gate: Gate) -> None:
    scene.catch("createTransaction", drop=True)
    scene.trigger()
    scene.caught()
    assert scene.control.transactions() == []
    scene.kill(whole=False)
    scene.finish()


def after_create(scene: Scene, gate: Gate) -> None:
    scene.catch("createTransaction", when="after")
    scene.trigger()
    scene.made()
    scene.kill(whole=True)
    scene.finish()


def during_upload(scene: Scene, gate: Gate) -> None:
    scene.catch("addFiles", times=1, drop=True, read_body=False)
    scene.trigger()
    scene.caught(1)
    # The others have been sent at the same time, and started.
    scene.started(INPUTS - 1)
    assert len(scene.left_over()) == 1
    scene.kill(whole=False)
    scene.finish()


def after_upload(scene: Scene, gate: Gate) -> None:
    # Each file arrives, but the reply is never sent.
    scene.catch("addFiles", when="after")
    scene.trigger()
    scene.arrived()
    scene.kill(whole=True)
    scene.finish()


def before_start(scene: Scene, gate: Gate) -> None:
    scene.catch("startTransaction", drop=True)
    scene.trigger()
    scene.caught()
    assert len(scene.left_over()) == INPUTS
    scene.kill(whole=False)
    scene.finish()


def after_start(scene: Scene, gate: Gate) -> None:
    # Started, but the reply is never sent.
    scene.catch("startTransaction", when="after")
    scene.trigger()
    scene.started()
    scene.kill(whole=True)
    scene.finish()


def supervisor_killed(scene: Scene, gate: Gate) -> None:
    # The task goes on without its supervisor, until it needs it. Its requests to start what it has
    # made arrive when the next try is at work on the same transactions.
    scene.catch("startTransaction", delay=25.0)
    scene.trigger()
    scene.caught()
    runner, supervisor = scene.airflow.worker_of(scene.run.when("running"))
    kill(supervisor)
    scene.control.clear_faults()
    scene.deferred(try_number=2)
    gone, _ = psutil.wait_procs([runner], timeout=PATIENCE)
    assert gone == [runner]
    scene.finish()


def during_download(scene: Scene, gate: Gate) -> None:
    scene.control.add_fault(operation="downloadResultFile", chunk_delay=2.0, chunk_size=50)
    scene.trigger()
    scene.deferred()
    scene.release()
    scene.some_downloaded()
    scene.kill(whole=False)
    assert not (scene.output / "manifest.json").exists()
    scene.end()


def after_download(scene: Scene, gate: Gate) -> None:
    # Deleted, but the reply is never sent. The service takes minutes to delete.
    scene.catch("deleteTransaction", times=1, when="after")
    scene.trigger()
    scene.deferred()
    scene.release()
    scene.until(
        lambda: any(each["deleted"] for each in scene.control.transactions()),
        "a transaction to be deleted",
    )
    scene.kill(whole=True)
    scene.end()
    assert all(each["deleted"] for each in scene.control.transactions())


def waiting_in_the_worker(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.started()
    scene.asked()
    scene.kill(whole=False)
    scene.started()
    scene.asked()
    scene.finish()


def triggerer_killed(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    try:
        scene.deferred()
        scene.airflow.kill("triggerer")
        scene.airflow.begin("triggerer")
        scene.asked()
        scene.airflow.end("triggerer")
        scene.airflow.begin("triggerer")
        scene.asked()
    finally:
        gate.open()
    task = scene.finish()
    assert task["try_number"] == 1, scene.log()


def cleared_while_deferred(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    gate.pass_through()
    scene.asked()
    scene.run.clear()
    scene.deferred(try_number=2)
    scene.finish(try_number=2)
    # The trigger of the first try was ended by Airflow; it must not take away the second's work.
    assert scene.requests("deleteTransaction") == []


def cleared_while_running(scene: Scene, gate: Gate) -> None:
    scene.catch("startTransaction", when="after")
    scene.trigger()
    scene.started()
    scene.run.clear()
    scene.control.clear_faults()
    scene.deferred(try_number=2)
    scene.finish(try_number=2)
    assert scene.requests("deleteTransaction") == []


def marked_failed(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    gate.pass_through()
    scene.asked()
    scene.run.mark("failed")
    scene.until(lambda: scene.run.state == "failed", "the run to fail", ended=True)
    scene.run.clear()
    scene.deferred(try_number=2)
    scene.finish(try_number=2)
    assert scene.requests("deleteTransaction") == []


def marked_failed_to_delete(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    gate.pass_through()
    scene.asked()
    scene.run.mark("failed")
    scene.until(
        lambda: all(each["deleted"] for each in scene.control.transactions()),
        "the transactions to be deleted",
        ended=True,
    )
    scene.run.clear()
    scene.deferred(try_number=2)
    # The service has shown them until now.
    scene.control.set(delete_seconds=0.0)
    scene.finish(try_number=2)


def retried(scene: Scene, gate: Gate) -> None:
    # A time limit is reached, and the task fails; the service goes on.
    scene.trigger()
    scene.deferred(try_number=2)
    scene.finish(try_number=2)
    assert "WaitTimeout" in scene.run.log()


def reviewed(scene: Scene, gate: Gate) -> None:
    scene.trigger()
    scene.deferred()
    scene.release()
    transaction_id = scene.in_review()
    gate.pass_through()
    scene.deferred()
    scene.run.clear()
    scene.deferred(try_number=2)
    gate.triggers += scene.airflow.stored_triggers()
    scene.control.finish_review(transaction_id)
    scene.end(try_number=2)


# ------------------------------------------------------------------ the run


#: The service's lists show nothing of the run.
LAG = {"list_lag": 600.0}

CASES = {
    case.name: case
    for case in (
        Case(undisturbed),
        Case(triggerer_killed),
        # Made and not started: found again only where the service lists such transactions.
        Case(after_create, settings={"list_new": True}),
        Case(after_upload, settings=LAG),
        Case(after_start, settings=LAG),
        Case(after_download, dag_id="crash_delete_after", settings={"delete_seconds": 3600.0}),
        Case(before_create),
        # More than is sent before a server has begun to read it.
        Case(during_upload, settings=LAG, padding=3_000_000),
        Case(before_start, settings=LAG),
        Case(supervisor_killed),
        Case(during_download, settings=LAG),
        Case(waiting_in_the_worker, settings=LAG, dag_id="crash_in_worker"),
        Case(cleared_at_the_end, settings=LAG),
        Case(cleared_while_deferred, settings=LAG, dag_id="crash_delete_on_kill"),
        Case(cleared_while_running, settings=LAG, dag_id="crash_delete_on_kill"),
        Case(marked_failed, settings=LAG),
        Case(
            marked_failed_to_delete,
            TWICE,
            {"delete_polls": 0, "delete_seconds": 3600.0},
            dag_id="crash_delete_on_kill",
        ),
        Case(retried, dag_id="crash_short"),
        Case(reviewed, extra_lines=("Manual review required",)),
    )
}


class Gate:
    """Closed while the triggerer is killed and restarted.

    Attributes:
        triggers: What the database has held of triggers, which it forgets when they are over.
    """

    def __init__(self) -> None:
        self.triggers: list[str] = []
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        """Wait until the triggerer stays."""
        if not self._open.wait(300):
            raise TimeoutError("the triggerer was not restarted")


@pytest.fixture(scope="module")
def matrix(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix[Scene]]:
    """Begin all cases."""
    with contextlib.ExitStack() as stack:
        scenes = {}
        for seed, (name, case) in enumerate(CASES.items(), 100):
            scenes[name] = Scene(running, case, tmp_path_factory.mktemp(name), seed)
            stack.callback(scenes[name].stop)
            scenes[name].begin()
        matrix = Matrix(scenes, CASES, Gate())
        stack.callback(matrix.close)
        yield matrix


@pytest.mark.parametrize("name", CASES)
def test_every_page_is_paid_for_once(matrix: Matrix[Scene], name: str) -> None:
    scene, case = matrix.done(name), CASES[name]
    scene.check_charges(case.starts, late=case.steps is supervisor_killed)
    scene.check_results()
    told = scene.run.xcom()
    assert told["transactions"] == told["documents"] == INPUTS
    assert told["failed"] == told["pending"] == told["in_review"] == 0


def test_nothing_is_left_in_the_database(matrix: Matrix[Scene], running: Running) -> None:
    for name in CASES:
        matrix.done(name)
    with contextlib.closing(sqlite3.connect(running.database)) as connection:
        [triggers] = connection.execute("SELECT count(*) FROM trigger").fetchone()
        states = connection.execute("SELECT DISTINCT state FROM task_instance").fetchall()
    assert triggers == 0
    assert states == [("success",)]


def test_nothing_leaks(matrix: Matrix[Scene], running: Running) -> None:
    """Neither the database nor a log nor what the processes have printed holds a secret."""
    matrix.all_done()
    places = {
        "home": running.home,
        "triggers": "\n".join(matrix.shared.triggers),
        **{name: scene.output for name, scene in matrix.scenes.items()},
    }
    assert find_leaks(secrets_of(matrix.scenes.values()), places) == []

    # The search works: an id, which is not secret, is found in all of these places.
    scene = matrix.scenes["reviewed"]
    [reviewed] = [
        each["id"]
        for each in scene.control.transactions()
        if each["files"][0]["name"] == f"{INPUTS}.pdf"
    ]
    found = set(find_leaks([reviewed], places))
    assert found >= {"triggers", "home: airflow.db (rows)", "home: attempt=1.log"}
    assert found >= {"home: scheduler.txt", "reviewed: manifest.json"}
    rows = database_bytes(running.database).decode()
    for table in ("xcom", "task_state_store", "rendered_task_instance_fields", "log"):
        lines = [line for line in rows.splitlines() if line.startswith(f'INSERT INTO "{table}"')]
        assert lines, table
