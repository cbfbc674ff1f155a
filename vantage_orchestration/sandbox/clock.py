# SPDX-License-Identifier: Apache-2.0
"""The sandbox's own clock. Tests can move it forward instead of sleeping."""

from __future__ import annotations

import time

import pendulum


class Clock:
    """Time as the sandbox sees it."""

    def __init__(self) -> None:
        self._offset = 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock forward by some seconds."""
        if seconds < 0:
            raise ValueError("the clock only goes forward")
        self._offset += seconds

    def monotonic(self) -> float:
        """Seconds since some fixed moment; only for differences."""
        return time.monotonic() + self._offset

    def now(self) -> pendulum.DateTime:
        """The current UTC time, in whole milliseconds."""
        now = pendulum.now("UTC").add(microseconds=round(self._offset * 1_000_000))
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def utc_text(moment: pendulum.DateTime) -> str:
    """Format a UTC time as the service does: ``2026-03-02T10:15:30.123Z``."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
