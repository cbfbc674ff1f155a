# SPDX-License-Identifier: Apache-2.0
"""What happens to an Airflow on several hosts, and what each document costs then."""

from __future__ import annotations

import time

from airflow_cluster import EDGES, TRIGGERERS, WORKERS, AirflowCluster, MappedRun
from order import OUTAGE, PADDING, PARTS, UPLOAD, Order, ordered, wrong_passwords


def host_killed(airflow: AirflowCluster, each: int = 8) -> str:
    """Kill -9 a host, with the worker and all tasks on it, while they send files."""
    return _killed(airflow, "eight", WORKERS[0], each)


def edge_killed(airflow: AirflowCluster) -> str:
    """Kill -9 an Edge worker, with all tasks on it, while they send files."""
    for name in EDGES:
        airflow.begin_edge(name)
    seen = _killed(airflow, "edge", EDGES[0], 3)
    for name in EDGES:
        airflow.kill(name)
        del airflow.components[name]
    return seen


def _killed(airflow: AirflowCluster, dag_id: str, host: str, each: int) -> str:
    with ordered(airflow, f"{dag_id}-killed", each, PADDING) as order:
        order.control.add_fault(operation="addFiles", times=0, delay=UPLOAD)
        run = airflow.run(dag_id, order.name)
        order.wait(lambda: order.uploading() & run.on(host), "files sent by the first host")
        lost = run.on(host)
        airflow.kill(host)
        cut, done = order.cut(lost), order.started()
        order.control.clear_faults()
        airflow.begin(host)
        run.when("deferred", number=PARTS)
        order.release()
        run.end(PARTS)
        seen = order.check()
        return f"{seen}; killed with {cut} files not started; {done} had been started"


def triggerer_killed(airflow: AirflowCluster) -> str:
    """Kill -9 one of two triggerers while sixty tasks are deferred."""
    with ordered(airflow, "triggerer-killed", 1, parts=60) as order:
        run = airflow.run("sixty", order.name)
        run.when("deferred", number=60, patience=500)
        airflow.kill(TRIGGERERS[0])
        order.release()
        run.end(60)
        airflow.begin(TRIGGERERS[0])
        return order.check()


def engines_gone(airflow: AirflowCluster, each: int = 8) -> str:
    """Take the database and the broker away while tasks send files and others are deferred."""
    with ordered(airflow, "engines-gone", each) as order:
        order.control.add_fault(operation="addFiles", times=0, delay=1.0)
        run = airflow.run("eight", order.name)
        run.when("deferred", number=2)
        before = len(airflow.restarted)
        airflow.kill("redis")
        airflow.engine.break_off()
        time.sleep(OUTAGE)  # The scenario, not a wait for something.
        airflow.engine.go_on()
        airflow.begin("redis")
        order.wait(airflow.answers, "the API to reach the database again")
        order.control.clear_faults()
        order.release()
        run.end(PARTS)
        restarted = ", ".join(sorted(set(airflow.restarted[before:]))) or "nothing"
        return f"{order.check()}; ended by itself and started again: {restarted}"


def wrong_password(airflow: AirflowCluster) -> str:
    """Let tasks on both hosts log in with a wrong password, with each store that hosts can have."""

    def attempt(order: Order) -> int:
        run = airflow.run("eight", order.name)
        run.when("failed", number=PARTS)
        return len(run.hosts())

    return wrong_passwords(airflow, attempt)


def revoked(airflow: AirflowCluster) -> str:
    """Revoke all tokens while tasks are deferred; then clear the run once it has ended."""
    with ordered(airflow, "revoked", 4) as order:
        run = airflow.run("eight", order.name)
        run.when("deferred", number=PARTS)
        before = order.logins()
        order.control.revoke_tokens()
        order.release()
        run.end(PARTS)
        after = order.logins() - before
        hosts = len(WORKERS) + len(TRIGGERERS)
        assert before <= hosts, f"{before} logins on {hosts} hosts"
        assert after <= hosts, f"{after} logins more on {hosts} hosts"
        seen = f"{order.check()}: {before} before, {after} after the revocation"
        return f"{seen}; {_cleared(order, run)}"


def _cleared(order: Order, run: MappedRun) -> str:
    """Clear a run that has ended, and check that nothing is sent or fetched again."""
    before = len(order.journal("addFiles")), len(order.journal("downloadResultFile"))
    run.clear()
    run.when("success", number=PARTS)
    tries = [each["try_number"] for each in run.tasks()]
    assert min(tries) >= 2, tries
    order.check()
    after = len(order.journal("addFiles")), len(order.journal("downloadResultFile"))
    assert after == before, f"sent and fetched again: {before}, {after}"
    return "cleared: nothing sent or fetched again"


CLUSTER = AirflowCluster
SCENARIOS = (host_killed, edge_killed, triggerer_killed, engines_gone, wrong_password, revoked)
