# SPDX-License-Identifier: Apache-2.0
"""What is written into a store, and what is believed when it is read back."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from vantage_orchestration import errors
from vantage_orchestration.errors import VantageError
from vantage_orchestration.secret import Secret
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.request import LONGEST_LIFETIME, renewal_margin

__all__ = [
    "LONGEST_HOLD",
    "Moment",
    "Refusal",
    "read_entry",
    "write_refusal",
    "write_token",
]

#: Seconds for which a refused login is held at the most.
LONGEST_HOLD = 86400.0
#: Seconds by which the clocks of two hosts may differ.
_SKEW = 120.0

_KINDS: dict[str, type[VantageError]] = {
    kind.__name__: kind
    for kind in (
        errors.CredentialsRejected,
        errors.ClientRejected,
        errors.GrantNotAllowed,
        errors.ScopeRejected,
        errors.Throttled,
        errors.AuthProtocolError,
        errors.AuthUnavailable,
        errors.ConfigurationError,
    )
}


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    """Return what names this start of this machine, or nothing where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment on both clocks. The steady one counts only within one start of one machine.

    Args:
        wall: Seconds since 1970.
        steady: Seconds on the clock that nobody can set.
        boot: Names the start of the machine to which ``steady`` belongs.
    """

    wall: float
    steady: float
    boot: str

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        """Return this moment."""
        return cls(clock.wall(), clock.steady(), _boot())

    def age(self, clock: Clock) -> float | None:
        """Return the seconds since then, or None if the clocks make no sense of it.

        Where the steady clock can be used, a wall clock that was set back changes nothing; one
        that was set forward makes it older, since either clock may say that something is stale.
        """
        by_wall = clock.wall() - self.wall
        if self.boot and self.boot == _boot():
            by_steady = clock.steady() - self.steady
            return None if by_steady < 0 else max(by_steady, by_wall)
        return None if by_wall < -_SKEW else max(by_wall, 0.0)

    @classmethod
    def read(cls, data: Any) -> Moment:
        """Read what :func:`_moment` wrote."""
        return cls(float(data["wall"]), float(data["steady"]), str(data["boot"]))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused login that is told to everybody until its time is over.

    Args:
        error: What to tell.
        remaining: Seconds until the login may be tried again; 0 or less when its time is over.
        hold: Seconds for which it was held altogether; the next refusal is held twice as long.
        stored: Whether it is in the store, too.
    """

    error: VantageError
    remaining: float
    hold: float
    stored: bool = False


def write_token(token: AccessToken, begun: Moment) -> bytes:
    """Return the entry for a token.

    Args:
        token: The token.
        begun: The moment from which its life counts.
    """
    kept = max(token.kept_until - begun.steady, 0.0)
    return _write(begun, {"token": token.reveal(), "lifetime": token.lifetime, "kept": kept})


def write_refusal(error: VantageError, hold: float, now: Moment) -> bytes:
    """Return the entry for a refused login.

    Args:
        error: The refusal.
        hold: Seconds for which it is held.
        now: This moment.
    """
    details = {name: value for name, value in error.details().items() if value is not None}
    return _write(
        now,
        {"refused": type(error).__name__, "what": error.what, "details": details, "hold": hold},
    )


def _write(moment: Moment, members: dict[str, Any]) -> bytes:
    at = {"wall": moment.wall, "steady": moment.steady, "boot": moment.boot}
    return json.dumps({"at": at, **members}).encode()


def read_entry(data: bytes, clock: Clock, jitter: float) -> AccessToken | Refusal | None:
    """Return what an entry says now.

    Args:
        data: An entry that was opened with its seal.
        clock: The clocks.
        jitter: Of this process, see :func:`vantage_orchestration.token.request.renewal_margin`.

    Returns:
        A token (which may be about to end, or over), a refusal (whose time may be over), or None
        if the entry is of no use.
    """
    try:
        members = json.loads(data)
        begun = Moment.read(members["at"])
        age = begun.age(clock)
        if age is None:
            return None
        if "token" in members:
            lifetime = min(float(members["lifetime"]), LONGEST_LIFETIME)
            return AccessToken(
                Secret(str(members["token"])),
                lifetime=lifetime,
                margin=renewal_margin(lifetime, jitter),
                begun=clock.steady() - age,
                begun_wall=clock.wall() - age,
                kept_until=clock.steady() - age + min(float(members.get("kept", 0)), lifetime),
            )
        hold = min(float(members["hold"]), LONGEST_HOLD)
        kind = _KINDS[members["refused"]]
        error = kind(str(members["what"]), **members["details"])
        return Refusal(error, hold - age, hold, stored=True)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
