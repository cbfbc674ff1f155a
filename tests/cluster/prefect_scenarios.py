# SPDX-License-Identifier: Apache-2.0
"""What happens to a Prefect on several hosts, and what each document costs then."""

from __future__ import annotations

import time

from order import OUTAGE, PADDING, PARTS, UPLOAD, Order, ordered, wrong_passwords
from prefect_cluster import DASK, WORKERS, PrefectCluster
from test_prefect.live.running import Run


def folders(prefect: PrefectCluster, order: Order) -> list[Run]:
    """Start a run for each folder of an order."""
    return prefect.order(
        "folder", *({"order": order.name, "part": part} for part in range(order.parts))
    )


def host_killed(prefect: PrefectCluster, each: int = 8) -> str:
    """Kill -9 a host, with the worker and all flow runs on it, while they send files."""
    with ordered(prefect, "host-killed", each, PADDING) as order:
        order.control.add_fault(operation="addFiles", times=0, delay=UPLOAD)
        runs = folders(prefect, order)
        ids = {run.id: str(part) for part, run in enumerate(runs)}

        def sending() -> set[str]:
            return order.uploading() & {ids[each] for each in prefect.on(WORKERS[0])}

        # A run that a worker has taken and not begun would stay "Pending" for ever.
        order.wait(lambda: all(run.count for run in runs), "all runs to begin")
        order.wait(sending, "files sent by the first host")
        lost = prefect.on(WORKERS[0])
        prefect.kill(WORKERS[0])
        cut, done = order.cut({ids[each] for each in lost}), order.started()
        order.control.clear_faults()
        # Prefect does not notice. Somebody marks them, as an automation on heartbeats does.
        for run in runs:
            if run.id in lost:
                run.set_state("CRASHED", "Crashed")
                run.set_state("SCHEDULED", "AwaitingRetry")
        prefect.begin(WORKERS[0])
        order.wait(lambda: order.started() == order.count, "all to be started")
        order.release()
        prefect.end_all(runs)
        seen = order.check()
        return f"{seen}; killed with {cut} files not started; {done} had been started"


def dask_killed(prefect: PrefectCluster) -> str:
    """Kill -9 one of two Dask workers while mapped tasks send files."""
    with ordered(prefect, "dask-killed", 4, PADDING) as order:
        order.control.add_fault(operation="addFiles", times=0, delay=UPLOAD)
        runs = prefect.order("on_dask", {"order": order.name, "parts": PARTS})
        order.wait(lambda: len(order.uploading()) > 2, "files sent by both Dask workers")
        prefect.kill(DASK[0])
        order.control.clear_faults()
        prefect.begin(DASK[0])
        order.release()
        retried = prefect.end_all(runs, retry=True)
        return f"{order.check()}; the flow was retried {retried} times"


def engines_gone(prefect: PrefectCluster) -> str:
    """Take the server's database away while some runs send files and others wait."""
    with ordered(prefect, "engines-gone", 8) as order:
        order.control.add_fault(operation="addFiles", times=0, delay=1.0)
        runs = folders(prefect, order)
        order.wait(order.started, "the first transactions")
        prefect.engine.break_off()
        time.sleep(OUTAGE)  # The scenario, not a wait for something.
        prefect.engine.go_on()
        order.control.clear_faults()
        order.release()
        retried = prefect.end_all(runs, retry=True)
        return f"{order.check()}; runs were retried {retried} times"


def wrong_password(prefect: PrefectCluster) -> str:
    """Let runs on both hosts log in with a wrong password, with each store that hosts can have."""

    def attempt(order: Order) -> int:
        for run in folders(prefect, order):
            run.when("Failed")
        return len(WORKERS)

    return wrong_passwords(prefect, attempt)


def revoked(prefect: PrefectCluster) -> str:
    """Revoke all tokens while runs wait; then mark those that ended as crashed, and retry."""
    with ordered(prefect, "revoked", 4) as order:
        runs = folders(prefect, order)
        order.wait(lambda: order.started() == order.count, "all to be started")
        before = order.logins()
        order.control.revoke_tokens()
        order.release()
        prefect.end_all(runs)
        after = order.logins() - before
        assert before <= len(WORKERS), f"{before} logins"
        assert after <= len(WORKERS), f"{after} logins more"
        sent, fetched = len(order.journal("addFiles")), len(order.journal("downloadResultFile"))
        # A worker with a limit ends by itself if it is given a run whose slot it has not freed.
        order.wait(lambda: not any(map(prefect.on, WORKERS)), "the processes of the runs to end")
        for run in runs:
            # Prefect retries no run that has completed, unless somebody marks it.
            run.set_state("CRASHED", "Crashed")
            run.set_state("SCHEDULED", "AwaitingRetry")
        for run in runs:
            run.goes_on(1)
        prefect.end_all(runs)
        assert len(order.journal("addFiles")) == sent
        assert len(order.journal("downloadResultFile")) == fetched
        seen = f"{order.check()}: {before} before, {after} after the revocation"
        return f"{seen}; retried: nothing sent or fetched again"


CLUSTER = PrefectCluster
SCENARIOS = (host_killed, dask_killed, engines_gone, wrong_password, revoked)
