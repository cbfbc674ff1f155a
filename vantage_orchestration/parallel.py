# SPDX-License-Identifier: Apache-2.0
"""Runs blocking work in threads that nobody has to wait for.

The threads of ``concurrent.futures`` are joined when the interpreter ends: a process that is told
to stop would hang for as long as a server keeps it waiting. These are daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

__all__ = ["in_parallel", "in_thread"]

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Call ``work`` for each item, several at a time, and return when all is done.

    Args:
        work: Called in some thread, in a copy of the caller's context, so that its log lines reach
            the run that it works for.
        items: Arguments for it.
        threads: How many at a time. One item, and one thread, run in the caller's own.

    Returns:
        What ``work`` returned, in the order of the items.

    Raises:
        BaseException: The first that ``work`` raised. What had not begun by then is left out, and
            what had begun has ended.
    """
    queue = deque(enumerate(items))
    results: dict[int, R] = {}
    failures: list[BaseException] = []

    def drain() -> None:
        while not failures:
            try:
                number, item = queue.popleft()
            except IndexError:
                return
            try:
                results[number] = work(item)
            except BaseException as error:
                failures.append(error)

    workers = [
        # A context can be entered by one thread at a time, hence a copy for each.
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(drain,),
            name="abbyy-vantage-work",
            daemon=True,
        )
        for _ in range(min(threads, len(queue)) if min(threads, len(queue)) > 1 else 0)
    ]
    try:
        for worker in workers:
            worker.start()
        if not workers:
            drain()
        for worker in workers:
            worker.join()
    finally:
        queue.clear()  # Whoever is interrupted here begins nothing more.
    if failures:
        raise failures[0]
    return [results[number] for number in sorted(results)]


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call ``work`` in a thread of its own; return what becomes of it.

    Args:
        work: Called in an empty context: nothing of the caller's logging sticks to it.
        name: Name of the thread.

    A future that is cancelled does not stop the thread; its result is dropped. So it is when the
    event loop ends earlier.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def run() -> None:
        try:
            outcome: Callable[[], None] = partial(future.set_result, work())
        except BaseException as error:
            outcome = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
