# SPDX-License-Identifier: Apache-2.0
"""What the tests of the shipped Dags do with Airflow loaded. Run by ``zygote``, like ``inside``."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import inside
from airflow import settings
from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.sdk.execution_time import supervisor
from foreign import foreign, replace_foreign
from sqlalchemy import select

from vantage_orchestration.airflow.operators.vantage import VantageProcessDocumentsOperator
from vantage_orchestration.airflow.sensors.vantage import VantageTransactionsSensor

OURS = (VantageProcessDocumentsOperator, VantageTransactionsSensor)


def parse(paths: list[str]) -> dict[str, Any]:
    """Import Dag files and return what that has done outside of the process.

    Args:
        paths: Files.

    Returns:
        For each file's name: addresses that were asked for, programs, files written, and files read
        that are no part of an installed package or of this one.
    """
    touched: dict[str, list[str]] = {}
    code = [*sys.path, sys.prefix, sys.base_prefix, str(Path(paths[0]).parent)]
    installed = tuple(os.path.realpath(each) + os.sep for each in code if each)
    current: list[str] = []

    def audit(event: str, arguments: Any) -> None:
        if not current:
            return
        if event == "open":
            name, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if flags else mode != "r"
            if not writes and not isinstance(name, int):
                name = os.path.realpath(os.fsdecode(name))
                if name.startswith((*installed, "/proc/", "/usr/", "/etc/")):
                    return
            current.append(f"open {name}")
        elif event.startswith(("socket.", "sqlite3.", "subprocess.", "os.system", "os.exec")):
            current.append(event)

    sys.addaudithook(audit)
    for path in map(Path, paths):
        current[:] = ["begin"]
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        touched[path.name] = current[1:]
        current.clear()
    return {
        "touched": touched,
        "clients": [name for name in ("vantage_orchestration.client",) if name in sys.modules],
    }


def shipped() -> BundleDagBag:
    """Read the shipped Dags."""
    (bundle,) = (
        each for each in DagBundlesManager().get_all_dag_bundles() if each.name == "shipped"
    )
    return BundleDagBag(
        dag_folder=str(bundle.path), bundle_path=bundle.path, bundle_name=bundle.name
    )


def examples() -> dict[str, Any]:
    """Return what authors look at in an example, and errors of the import."""
    bag = shipped()
    return {
        "errors": bag.import_errors,
        "dags": {
            dag_id: {
                "file": Path(dag.fileloc).name,
                "doc": dag.doc_md,
                "catchup": dag.catchup,
                "zone": str(dag.start_date.tzinfo) if dag.start_date else None,
                "tags": sorted(dag.tags),
            }
            for dag_id, dag in bag.dags.items()
        },
    }


def dag_test(dag_id: str, conf: dict[str, Any], fetch: list[str] | None = None) -> dict[str, Any]:
    """Run a shipped Dag by ``dag.test()``.

    Args:
        dag_id: Dag.
        conf: Parameters.
        fetch: Tasks whose result is returned as well.
    """
    dag = shipped().dags[dag_id]
    for task in dag.task_dict.values():
        kind = task.operator_class if task.is_mapped else type(task)
        # Nobody has to wait for ten seconds until the first look, or for a retry.
        changes = {"retries": 0, **({"poke_interval": 1.0} if issubclass(kind, OURS) else {})}
        if task.is_mapped:
            task.partial_kwargs.update(changes)
        else:
            vars(task).update(changes)
    # Made anew in each process, it would take seconds.
    api = InProcessExecutionAPI()
    replace_foreign(api, "_app", inside.execution_api.app)
    supervisor.in_process_api_server = lambda: api
    run = dag.test(run_conf=conf)
    results = {name: inside.xcom(dag_id, run.run_id, name) for name in fetch or ()}
    return {"run_id": run.run_id, "results": results, **inside.report(dag_id, run.run_id)}


def runs_by_assets(dag_id: str) -> list[dict[str, Any]]:
    """Let the real scheduler make the runs that events of assets ask for, and work on them."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.utils.sqlalchemy import prohibit_commit

    session = settings.Session()
    known = set(session.scalars(select(DagRun.run_id).where(DagRun.dag_id == dag_id)))
    session.rollback()
    scheduler = SchedulerJobRunner(Job())
    with prohibit_commit(session) as guard:
        foreign(scheduler, "_create_dagruns_for_dags")(guard, session)
    made = select(DagRun.run_id).where(DagRun.dag_id == dag_id, DagRun.run_id.not_in(known))
    run_ids = list(session.scalars(made))
    session.rollback()
    return [{"run_id": each, **inside.work(dag_id, each)} for each in run_ids]


def pause(dag_id: str, paused: bool) -> None:
    """Pause a Dag or let it go; events of assets do not count for one that is paused."""
    session = settings.Session()
    session.scalars(select(DagModel).where(DagModel.dag_id == dag_id)).one().is_paused = paused
    session.commit()
