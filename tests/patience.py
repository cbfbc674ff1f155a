# SPDX-License-Identifier: Apache-2.0
"""Waits for what others do, for as long as a busy machine may need for it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
#: Seconds. Only a test that fails waits that long.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "300"))


def wait_until(
    condition: Callable[[], T | None],
    what: str | Callable[[], str],
    patience: float = PATIENCE,
    pause: float = 0.4,
) -> T:
    """Return the first true result of ``condition``.

    Args:
        condition: Called again and again.
        what: What is waited for, for the error if it does not come.
        patience: Seconds.
        pause: Seconds between two calls.
    """
    end = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise TimeoutError(f"not within {patience:.0f} s: {text}")
        time.sleep(pause)
    return found


def wait_while_running(
    process: subprocess.Popen[Any],
    condition: Callable[[], T],
    what: str | Callable[[], str],
    pause: float = 0.02,
) -> T:
    """Return the first true result of ``condition``; fail if the process ends before."""

    def there() -> T:
        if process.poll() is not None:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"the process ended with {process.returncode}: {text}")
        return condition()

    return wait_until(there, what, pause=pause)
