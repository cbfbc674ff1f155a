# SPDX-License-Identifier: Apache-2.0
"""What a login leads to, a token or a refusal, and the clocks that decide their validity."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, final

from vantage_orchestration.errors import VantageError
from vantage_orchestration.secret import Confidential, Secret

if TYPE_CHECKING:
    from pendulum import DateTime

#: Seconds by which the clocks of two hosts may differ.
_SKEW = 120.0


def _steady_clock() -> Callable[[], float]:
    """Return a clock that can't be set and that keeps counting while the machine sleeps.

    ``time.monotonic`` stops while a Linux machine is suspended, and an expired token would look
    valid for that long.
    """
    # CLOCK_BOOTTIME exists on Linux; on macOS CLOCK_MONOTONIC includes sleep.
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    if number is not None:
        try:
            time.clock_gettime(number)
        except OSError:  # pragma: no cover - a kernel without this clock
            pass
        else:
            # Called for each use of a token: a partial is a third faster than a function.
            return functools.partial(time.clock_gettime, number)
    return time.monotonic  # pragma: no cover - Windows


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks, both in seconds."""

    #: Monotonic time; decides validity in this process.
    steady: Callable[[], float]
    #: Time since 1970, for display and for state that outlives the process.
    wall: Callable[[], float]

    def stamp(self, moment: float) -> dict[str, Any]:
        """Return a moment of the steady clock in a form that other processes understand."""
        # Steady time counts only within one boot of one machine; other readers use the wall time.
        wall = self.wall() - (self.steady() - moment)
        return {"wall": wall, "steady": moment, "boot": _boot()}

    def age(self, stamp: Mapping[str, Any]) -> float | None:
        """Return the seconds since a stamped moment, or None if the clocks contradict it.

        If the steady clock can be used, a wall clock that was set back changes nothing; one that
        was set forward makes the moment older, since either clock may mark it as stale.
        """
        by_wall = self.wall() - float(stamp["wall"])
        by_steady = self.steady() - float(stamp["steady"])
        if stamp["boot"] and stamp["boot"] == _boot():
            return None if by_steady < 0 else max(by_steady, by_wall)
        return None if by_wall < -_SKEW else max(by_wall, 0.0)


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    """Return an identifier of the current boot, or an empty text if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


SYSTEM_CLOCK = Clock(steady=_steady_clock(), wall=time.time)


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class AccessToken(Confidential):
    """An access token with its expiry. Its ``repr`` shows only the expiry.

    Args:
        value: The token.
        lifetime: Seconds from ``begun`` for which it is valid.
        margin: Seconds before its expiry from which on it is renewed.
        begun: Steady time before the token was requested.
        begun_wall: Wall time at the same moment.
        kept_until: Steady time until which a rejection by the server causes no new login, since
            this token has already replaced a rejected one.
    """

    value: Secret
    _: KW_ONLY
    lifetime: float
    margin: float
    begun: float
    begun_wall: float
    kept_until: float = float("-inf")
    ends_at: float = field(init=False)
    renew_at: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends_at", self.begun + self.lifetime)
        object.__setattr__(self, "renew_at", self.ends_at - self.margin)

    def reveal(self) -> str:
        """Return the token itself. Do not store, log or return it."""
        return self.value.reveal()

    @property
    def expires_at(self) -> DateTime:
        """Expiry of the token as wall time in UTC, for display."""
        import pendulum

        return pendulum.from_timestamp(self.begun_wall + self.lifetime)

    def is_same(self, other: AccessToken | str) -> bool:
        """Return whether ``other`` is the same token."""
        return self.value == Secret(other.reveal() if isinstance(other, AccessToken) else other)

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at.to_iso8601_string()!r})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused login. All callers get it, without another request, until its time is over."""

    error: VantageError
    #: Steady time at which the login may be retried.
    until: float
    #: Total seconds for which it is held; the next refusal is held twice as long.
    hold: float
    #: Whether it is also in the store, so that clearing the store clears it.
    stored: bool = False
