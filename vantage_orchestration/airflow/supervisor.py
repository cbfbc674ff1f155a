# SPDX-License-Identifier: Apache-2.0
"""Requests of a task, trigger or Dag processor to its supervisor.

Tasks of this package send them from several threads, which not every supervisor supports. Airflow's
own classes are changed here, in the one place that all requests pass, so that each thread may ask:
also those of a store that loads its connection when it is first used.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, Final

from vantage_orchestration.airflow.compat import (
    AIRFLOW,
    change_method,
    mask_here,
    mask_secret,
)
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.secret import Secret

#: States in which somebody has ended a task. Airflow also calls ``on_kill`` for a task that is
#: cleared or whose worker is shut down: its next try continues with the same transactions.
KILLED: Final = frozenset({"failed", "removed", "skipped", "success", "upstream_failed"})
_NAME: Final = "SUPERVISOR_COMMS"
#: Names of the threads that may wait for the supervisor of ``dag.test()``: ours, and fsspec's.
_ASKERS: Final = ("abbyy-vantage", "fsspec")
_turn = ModuleLock()


def _loaded(module: str, name: str) -> Any:
    """Return a member of a module of Airflow; None without it or its module."""
    return getattr(sys.modules.get(f"airflow.sdk.execution_time.{module}"), name, None)


def supervisor() -> Any:
    """Return what sends requests to the supervisor; None in Airflow's servers and commands."""
    return _loaded("task_runner", _NAME)


def is_in_process() -> bool:
    """Return whether ``dag.test()`` runs the tasks of this process."""
    return type(supervisor()).__name__ == "InProcessSupervisorComms"


def let_threads_ask() -> None:
    """Let the threads of a task ask its supervisor one after the other.

    Below 3.2 two threads that ask at the same time read parts of each other's replies. Both may
    then wait forever, and the task with them: nothing ends it, since its supervisor is alive. That
    part may go with 3.2.

    The supervisor of ``dag.test()`` is this process. While it answers it is hidden from all
    threads, since it calls code that must not ask it. Another thread that asks meanwhile fails, and
    of two that ask at the same time the second one leaves it hidden. So our threads wait until it
    is back.
    """
    if AIRFLOW < (3, 2):
        _one_at_a_time(_loaded("comms", "CommsDecoder"))
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    if runner is not None and _one_at_a_time(_loaded("supervisor", "InProcessSupervisorComms")):
        # Python calls it for a name that the module lacks at present.
        vars(runner)["__getattr__"] = _when_it_is_back


def _one_at_a_time(kind: Any) -> bool:
    """Change a class whose objects send requests; return whether it exists."""

    def in_turn(send: Any, comms: Any, msg: Any) -> Any:  # Airflow names msg in some calls.
        with _turn:
            return send(comms, msg)

    return change_method(kind, "send", in_turn)


def _when_it_is_back(name: str) -> Any:
    thread = threading.current_thread()
    ours = thread is threading.main_thread() or thread.name.startswith(_ASKERS)
    if name == _NAME and ours:
        with _turn:  # The thread that asks at present gets here, and still finds it hidden.
            if name in (found := vars(sys.modules["airflow.sdk.execution_time.task_runner"])):
                return found[name]
    raise AttributeError(f"module 'airflow.sdk.execution_time.task_runner' has no attribute {name}")


def let_threads_of_triggerer_ask() -> None:
    """Let the threads of a triggerer ask its supervisor. Call this on the triggerer's event loop.

    Below 3.2 a thread reads its reply in an event loop of its own, and may take one that the
    triggerer waits for. All of its triggers end then ("Response read out of order"). Here such a
    request goes through the triggerer's loop, as it does from 3.2 on. May go with 3.2.
    """
    kind: Any = type(supervisor())
    if AIRFLOW >= (3, 2) or kind.__name__ != "TriggerCommsDecoder":
        return
    loop, thread = asyncio.get_running_loop(), threading.get_ident()

    def through_loop(send: Any, comms: Any, msg: Any) -> Any:
        if threading.get_ident() == thread:
            return send(comms, msg)
        return asyncio.run_coroutine_threadsafe(comms.asend(msg), loop).result()

    change_method(kind, "send", through_loop)


def mask(secret: Secret) -> None:
    """Mask a secret in the logs of this process and of its supervisor.

    ``dag.test()`` logs each message to its supervisor at DEBUG, including the secret. But its
    supervisor is this process, so masking here is enough.
    """
    (mask_here if is_in_process() else mask_secret)(secret.reveal())


def state_of_task(task: Any) -> str | None:
    """Return the state of a task instance in Airflow's database; None if it has none.

    It calls the supervisor and waits for the answer: never call it in an event loop's thread.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id,
        run_ids=[task.run_id],
        task_ids=[task.task_id],
        map_index=task.map_index,
    )
    mapped = task.map_index is not None and task.map_index >= 0
    name = f"{task.task_id}_{task.map_index}" if mapped else task.task_id
    state = states.get(task.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))
