# SPDX-License-Identifier: Apache-2.0
"""Runs blocking work in threads that can be abandoned, and limits its requests.

The interpreter joins the threads of ``concurrent.futures`` when it exits: a stopped process would
hang as long as a server does not answer. The threads here are daemons.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Held during each request of the present work.
_turn: contextvars.ContextVar[threading.Semaphore | None] = contextvars.ContextVar(
    "abbyy-vantage-turn", default=None
)


def turn() -> AbstractContextManager[object]:
    """Return a context for one request of the present work; it waits until the request may run."""
    return _turn.get() or contextlib.nullcontext()


def requesting(work: Callable[[T], R], items: Iterable[T], requests: int) -> list[R]:
    """Call ``work`` as :func:`in_parallel` does, with so many requests at a time.

    It has half as many threads more than that: while some compute, write files or wait for each
    other, others use the connections. With one request at a time it has one thread.
    """
    if requests < 2:
        return in_parallel(work, items, 1)
    before = _turn.set(threading.Semaphore(requests))
    try:
        return in_parallel(work, items, requests + requests // 2)
    finally:
        _turn.reset(before)


def in_parallel(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Call ``work`` for each item, several at a time, and return the results in their order.

    It runs in a copy of the caller's context, so that its log lines reach the right run; one item,
    or one thread, in the caller's thread. If the system allows fewer threads, it uses those. After
    its first error, which is raised, calls that had not begun are dropped, and all others have
    ended.
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
        # Only one thread at a time can enter a context, hence a copy for each.
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(drain,),
            name="abbyy-vantage-work",
            daemon=True,
        )
        for _ in range(min(threads, len(queue)) if min(threads, len(queue)) > 1 else 0)
    ]
    begun: list[threading.Thread] = []
    try:
        begun.extend(filter(starts, workers))
        if not begun:
            drain()
        for worker in begun:
            worker.join()
    finally:
        queue.clear()  # After an interruption, nothing more begins.
    if failures:
        raise failures[0]
    return [results[number] for number in sorted(results)]


def starts(thread: threading.Thread) -> bool:
    """Start a thread; return False if the system allows no further one, as in a small container."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def in_background(work: Callable[[], T], name: str) -> concurrent.futures.Future[T]:
    """Call ``work`` in a new thread, in an empty context without the caller's logging; return a
    future for its result. If the system allows no further thread, its error says so."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # From now on nobody can cancel it.

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    if not starts(threading.Thread(target=run, name=name, daemon=True)):
        future.set_exception(RuntimeError("The system allows no further thread"))
    return future


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call ``work`` as :func:`in_background` does, and return a future for an event loop.

    Cancelling the future does not stop the thread, but drops its result. The same applies if the
    event loop ends earlier.
    """
    return asyncio.wrap_future(in_background(work, name))
