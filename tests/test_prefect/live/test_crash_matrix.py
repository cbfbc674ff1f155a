# SPDX-License-Identifier: Apache-2.0
"""A real Prefect is disturbed at each point of a flow run, and the next run of it goes on.

In each case every input is charged once, the results are complete and the same bytes that the
service has, and nothing is left over. What the service saw is counted on its side. All runs are
disturbed at the same time, each on a sandbox of its own; each test looks at one of them.

A run that is killed is, in turns, its process alone (as when memory runs out) and its process with
the worker and all that the machine holds: the next run happens on another machine, which has
neither the results nor the token of the first. The lists of the service lag behind by ten minutes
where they could help, so that the notes have to be enough: in the output folder, or where Prefect
keeps results.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from leaks import find_leaks
from postgres import Postgres
from scenes import INPUTS, TWICE, Matrix, secrets_of
from test_prefect.live.running import LOST, POOLS, STAYS, Running
from test_prefect.live.scene import Case, Machine, Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: Looks often. Of the flow that users deploy.
OFTEN = (("poke_interval", 1.0), ("max_poke_interval", 2.0))
#: One login for all machines.
COMMON_STORE = (("store", "orchestrator"),)
IN_STEPS, IN_THREADS = "disturbed.py:in_steps", "disturbed.py:in_threads"
IN_DASK = "clustered.py:in_dask"
IN_OWN_TASKS = "disturbed.py:in_own_tasks"
#: The service's lists show nothing of the run.
LAG = {"list_lag": 600.0}


# ------------------------------------------------------- the process is killed


def before_create(scene: Scene, machine: Machine) -> None:
    scene.catch("createTransaction", drop=True)
    scene.trigger()
    scene.caught()
    assert scene.control.transactions() == []
    scene.kill()
    scene.retry()
    scene.finish()


def during_upload(scene: Scene, machine: Machine) -> None:
    scene.catch("addFiles", times=1, drop=True, read_body=False)
    scene.trigger()
    scene.caught(1)
    # The others have been sent at the same time, and started.
    scene.started(INPUTS - 1)
    assert len(scene.left_over()) == 1
    scene.kill()
    scene.retry()
    scene.finish()


def before_start(scene: Scene, machine: Machine) -> None:
    scene.catch("startTransaction", drop=True)
    scene.trigger()
    scene.caught()
    assert len(scene.left_over()) == INPUTS
    scene.kill()
    scene.retry()
    scene.finish()


def during_download(scene: Scene, machine: Machine) -> None:
    scene.control.add_fault(operation="downloadResultFile", chunk_delay=2.0, chunk_size=50)
    scene.trigger()
    scene.started()
    scene.release()
    scene.some_downloaded()
    scene.kill()
    assert not (scene.output / "manifest.json").exists()
    scene.retry()
    scene.end()


def waiting_in_steps(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    scene.started()
    scene.asked()
    scene.kill()
    scene.retry()
    scene.asked()
    scene.finish()
    # What an ended task has done was not even looked for.
    assert "Finished in state Cached" in scene.log()


# --------------------------------------------------------- the machine is lost


def after_create(scene: Scene, machine: Machine) -> None:
    with machine.losing(scene):
        scene.catch("createTransaction", when="after")
        scene.trigger()
        scene.made()
    scene.retry()
    scene.finish()


def after_upload(scene: Scene, machine: Machine) -> None:
    with machine.losing(scene):
        # Each file arrives, but the reply is never sent.
        scene.catch("addFiles", when="after")
        scene.trigger()
        scene.arrived()
    scene.retry()
    scene.finish()


def after_start(scene: Scene, machine: Machine) -> None:
    with machine.losing(scene):
        # Started, but the reply is never sent.
        scene.catch("startTransaction", when="after")
        scene.trigger()
        scene.started()
    scene.retry()
    scene.finish()


def while_waiting(scene: Scene, machine: Machine) -> None:
    with machine.losing(scene):
        scene.trigger()
        scene.started()
        scene.asked()
    scene.retry()
    scene.asked()
    scene.finish()


# ------------------------------------------------------- people and the service


def retried(scene: Scene, machine: Machine) -> None:
    # A time limit is reached, and the run fails; the service goes on.
    scene.trigger()
    scene.run.when("TimedOut")
    scene.retry()
    scene.asked()
    scene.finish()
    assert "WaitTimeout" in scene.log()


def cancelled(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    scene.started()
    scene.asked()
    scene.run.set_state("CANCELLING", "Cancelling")
    scene.run.when("Cancelled")
    assert scene.requests("deleteTransaction") == []
    scene.retry()
    scene.asked()
    scene.finish()


def cancelled_to_delete(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    scene.started()
    scene.asked()
    scene.run.set_state("CANCELLING", "Cancelling")
    scene.until(
        lambda: scene.control.transactions() == [], "the transactions to be deleted", ended=True
    )
    scene.run.when("Cancelled")
    scene.retry()
    scene.started()
    scene.finish()


def reviewed(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    scene.started()
    scene.release()
    transaction_id = scene.in_review()
    scene.run.when("Suspended")
    scene.control.finish_review(transaction_id)
    resume = "vantage_orchestration.prefect.reviews.resume_reviewed"
    deployment = scene.prefect.deploy("resume", resume, POOLS[STAYS])
    [run] = scene.prefect.run(deployment, "resume", {})
    run.completed()
    scene.end()


# --------------------------------------------------------------- many processes


def mapped_in_threads(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    scene.started()
    scene.kill()
    scene.retry()
    scene.asked()
    scene.finish()


def mapped_in_own_tasks(scene: Scene, machine: Machine) -> None:
    mapped_in_threads(scene, machine)


def mapped_in_dask(scene: Scene, machine: Machine) -> None:
    scene.trigger()
    # Each of the cluster's two processes has one thread: both are at work.
    scene.started(2)
    scene.kill()
    scene.retry()
    scene.asked()
    scene.finish()


def one_run_each(scene: Scene, machine: Machine) -> None:
    scene.trigger(one_each=True)
    scene.started()
    scene.finish()


# ------------------------------------------------------------------ the cases


CASES = {
    case.name: case
    for case in (
        # Made and not started: without notes found only where the service lists such transactions.
        Case(
            after_create,
            settings={"list_new": True},
            machine=LOST,
            options=OFTEN,
            block=COMMON_STORE,
        ),
        Case(after_upload, settings=LAG, machine=LOST, options=OFTEN),
        Case(after_start, settings=LAG, machine=LOST, options=OFTEN, block=COMMON_STORE),
        Case(while_waiting, settings=LAG, machine=LOST, options=OFTEN),
        Case(mapped_in_dask, settings=LAG, flow=IN_DASK),
        Case(mapped_in_threads, settings=LAG, flow=IN_THREADS),
        Case(mapped_in_own_tasks, settings=LAG, flow=IN_OWN_TASKS),
        Case(before_create, options=OFTEN),
        # More than is sent before a server has begun to read it.
        Case(during_upload, settings=LAG, padding=3_000_000, options=OFTEN),
        Case(before_start, settings=LAG, options=OFTEN),
        Case(during_download, settings=LAG, options=OFTEN),
        Case(waiting_in_steps, settings=LAG, flow=IN_STEPS),
        Case(retried, flow="disturbed.py:short"),
        Case(cancelled, options=OFTEN),
        # Deleted transactions can be read for a moment; here they are gone at once.
        Case(cancelled_to_delete, TWICE, {"delete_polls": 0}, flow="disturbed.py:undone"),
        Case(
            reviewed,
            extra_lines=("Manual review required",),
            options=(*OFTEN, ("on_review", "suspend")),
        ),
        Case(one_run_each, flow=IN_THREADS),
    )
}
LOST_RUNS = [name for name, case in CASES.items() if case.machine == LOST]


@pytest.fixture(scope="module")
def matrix(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix[Scene]]:
    """Begin all cases."""
    with contextlib.ExitStack() as stack:
        scenes = {}
        for seed, (name, case) in enumerate(CASES.items(), 200):
            scenes[name] = Scene(running, case, tmp_path_factory.mktemp(name), seed)
            stack.callback(scenes[name].stop)
            scenes[name].begin()
        matrix = Matrix(scenes, CASES, Machine(running, len(LOST_RUNS)))
        stack.callback(matrix.close)
        yield matrix


@pytest.mark.parametrize("name", CASES)
def test_every_page_is_paid_for_once(matrix: Matrix[Scene], name: str) -> None:
    scene, case = matrix.done(name), CASES[name]
    # Two machines that share no store log in once each.
    assert scene.logins() == (2 if case.machine == LOST and not case.block else 1)
    scene.check_charges(case.starts)
    if case.flow in (IN_THREADS, IN_DASK, IN_OWN_TASKS):
        scene.check_rows()
    else:
        scene.check_results(folders_are_ids=case.flow == IN_STEPS)


def test_nothing_leaks(matrix: Matrix[Scene], running: Running, database: Postgres) -> None:
    """Neither the database nor a log, artifact, event, result or output holds a secret."""
    matrix.all_done()
    rows = database.rows()
    places: dict[str, Any] = {
        "database": rows,
        "server": running.home / "server",
        **{name: running.machine(name) for name in POOLS},
        "outputs": running.outputs,
        **{
            f"api: {kind}": running.all(f"{kind}/filter")
            for kind in ("artifacts", "block_documents", "flow_runs", "logs", "variables")
        },
        **{name: scene.output for name, scene in matrix.scenes.items()},
    }
    assert find_leaks(secrets_of(matrix.scenes.values()), places) == []

    # The search works: an id, which is not secret, is found in all of these places.
    reviewed, cached = (
        transaction_of(matrix.scenes[name]) for name in ("reviewed", "waiting_in_steps")
    )
    found = set(find_leaks([reviewed], places))
    assert found >= {"database", "api: artifacts", "api: logs", "api: flow_runs"}
    assert found >= {f"outputs: {STAYS}.txt", "reviewed: manifest.json"}
    # Notes are in folders; pickles of what tasks have returned are not.
    stored = find_leaks([cached], {"storage": running.machine(STAYS) / "storage"})
    assert [each for each in stored if re.fullmatch(r"storage: \d+-\w+\.json", each)]
    assert [each for each in stored if re.fullmatch(r"storage: abbyy-vantage-\w+", each)]
    assert find_leaks(["reviewed"], {"blocks": places["api: block_documents"]})
    assert find_leaks(["abbyy_vantage_token_"], {"variables": places["api: variables"]})
    for table in ("artifact", "block_document", "events", "log", "variable"):
        assert f"INSERT INTO public.{table} ".encode() in rows, table


def transaction_of(scene: Scene) -> str:
    """Return the id of the transaction that was made of the last input."""
    [found] = [
        each["id"]
        for each in scene.control.transactions()
        if each["files"][0]["name"] == f"{INPUTS}.pdf"
    ]
    return str(found)
