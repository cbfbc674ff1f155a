# SPDX-License-Identifier: Apache-2.0
"""The access token as an immutable value, and the clocks that decide its validity."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, final

from vantage_orchestration.secret import Secret, refuse_pickling

if TYPE_CHECKING:
    from pendulum import DateTime

__all__ = ["SYSTEM_CLOCK", "AccessToken", "Clock"]


def _steady_clock() -> Callable[[], float]:
    """Return a clock that nobody can set and that keeps counting while the machine sleeps.

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
    """Two clocks, both in seconds.

    Args:
        steady: Monotonic time; decides validity in this process.
        wall: Time since 1970, for display and for state that outlives the process.
    """

    steady: Callable[[], float]
    wall: Callable[[], float]


SYSTEM_CLOCK = Clock(steady=_steady_clock(), wall=time.time)


@final
class AccessToken:
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

    __slots__ = ("_begun_wall", "_value", "ends_at", "kept_until", "lifetime", "renew_at")
    _value: Secret
    _begun_wall: float
    lifetime: float
    ends_at: float
    renew_at: float
    kept_until: float

    def __init__(
        self,
        value: Secret,
        *,
        lifetime: float,
        margin: float,
        begun: float,
        begun_wall: float,
        kept_until: float = float("-inf"),
    ) -> None:
        for name, item in (
            ("_value", value),
            ("_begun_wall", begun_wall),
            ("lifetime", lifetime),
            ("ends_at", begun + lifetime),
            ("renew_at", begun + lifetime - margin),
            ("kept_until", kept_until),
        ):
            object.__setattr__(self, name, item)

    def reveal(self) -> str:
        """Return the token itself. Do not store, log or return it."""
        return self._value.reveal()

    def kept(self, until: float) -> AccessToken:
        """Return the same token with another ``kept_until``."""
        return AccessToken(
            self._value,
            lifetime=self.lifetime,
            margin=self.ends_at - self.renew_at,
            begun=self.ends_at - self.lifetime,
            begun_wall=self._begun_wall,
            kept_until=until,
        )

    @property
    def expires_at(self) -> DateTime:
        """Expiry of the token as wall time in UTC, for display."""
        import pendulum

        return pendulum.from_timestamp(self._begun_wall + self.lifetime)

    def is_same(self, other: AccessToken | str) -> bool:
        """Return whether ``other`` is the same token."""
        return self._value == Secret(other.reveal() if isinstance(other, AccessToken) else other)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("an AccessToken can't be changed")

    def __repr__(self) -> str:
        return f"AccessToken(expires_at={self.expires_at.to_iso8601_string()!r})"

    def __copy__(self) -> AccessToken:
        return self

    def __deepcopy__(self, memo: object) -> AccessToken:
        return self

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling
