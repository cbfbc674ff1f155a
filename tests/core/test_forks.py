# SPDX-License-Identifier: Apache-2.0
"""No forked child waits for a lock whose holder exists in its parent only."""

from __future__ import annotations

import ast
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

import vantage_orchestration
from vantage_orchestration.forks import ModuleLock
from vantage_orchestration.reads import reading_in_turn
from vantage_orchestration.state import FileStore
from vantage_orchestration.throttle import Throttle

PACKAGE = Path(vantage_orchestration.__file__).parent
KINDS = {"Condition", "Lock", "RLock", "Semaphore"}


def exit_of_child(turn: Callable[[], AbstractContextManager[object]]) -> int:
    """Return the exit code of a child that is forked while another thread holds the turn: 7 if the
    child gets one."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with turn():
            taken.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            with turn():
                os._exit(7)
        finally:
            os._exit(1)
    # What the other thread gives back now is free in the parent alone, unless files keep it.
    over.set()
    holder.join()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_lock_is_free_in_a_forked_child() -> None:
    lock = ModuleLock()

    @contextmanager
    def twice() -> Iterator[None]:
        with lock, lock:
            yield

    assert exit_of_child(twice) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_who_forks_with_a_lock_in_hand_gives_it_back_in_both_processes() -> None:
    lock = ModuleLock()
    with lock:
        child = os.fork()
    if child == 0:
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["limits", "reads"])
def test_a_child_that_is_forked_while_a_request_runs_sends_its_own(
    tmp_path: Path, way: str
) -> None:
    limits = Throttle(FileStore(tmp_path), "account", 1, 0)
    turn = limits.slot if way == "limits" else partial(reading_in_turn, "server", "transaction")
    assert exit_of_child(turn) == 7


def test_no_module_keeps_a_lock_that_a_fork_would_leave_taken() -> None:
    plain = []
    for path in PACKAGE.rglob("*.py"):
        if "sandbox" in path.parts:  # A server of its own, which nobody forks.
            continue
        for node in ast.parse(path.read_text()).body:
            value = getattr(node, "value", None)
            made = value.func if isinstance(value, ast.Call) else None
            if isinstance(made, ast.Attribute) and made.attr in KINDS:
                plain.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert plain == []
