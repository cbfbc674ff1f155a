# SPDX-License-Identifier: Apache-2.0
"""Consumers are woken as long as something is due for them, and not all the time."""

from __future__ import annotations

from vantage_orchestration.completed.waking import NOBODY, WakeSchedule

A, B = frozenset({"a"}), frozenset({"b"})
NOTHING: frozenset[str] = frozenset()


def looks(wakes: WakeSchedule, *due: frozenset[str] | None) -> str:
    return "".join("W" if wakes.look(each) else "." for each in due)


def test_wakes_as_long_as_something_is_due() -> None:
    wakes = WakeSchedule()
    assert looks(wakes, NOTHING, NOTHING) == ".."
    assert looks(wakes, *[A] * 20) == "WWW.W..W....W....W.."
    assert all("W" in looks(wakes, *[A] * 5) for _ in range(500)), "five looks at the most"


def test_others_who_wait_are_not_made_to_wait_for_one_that_never_comes() -> None:
    wakes = WakeSchedule()
    looks(wakes, *[B] * 19)
    assert looks(wakes, A | B, B, B, A | B, B, B) == "W..W..", "nor woken the more often"


def test_new_work_after_work_wakes_at_once() -> None:
    wakes = WakeSchedule()
    assert looks(wakes, A, None, None, A, A) == "W..WW", "at work, and something came meanwhile"
    assert looks(wakes, NOTHING, A) == ".W"


def test_a_few_times_more_for_those_that_have_not_run_yet() -> None:
    wakes = WakeSchedule()
    told = looks(wakes, A, *[NOTHING] * 700)
    places = [place for place, each in enumerate(told) if each == "W"]
    assert places == [0, 5, 20, 65, 200, 605]
    assert "W" not in looks(WakeSchedule(), *[NOTHING] * 100), (
        "nothing has been due since the begin"
    )
    assert looks(wakes, *[NOTHING] * 100_000).count("W") < 10, "it comes to an end"


def test_while_nobody_is_known() -> None:
    told = looks(WakeSchedule(), *[frozenset({NOBODY})] * 200)
    places = [place for place, each in enumerate(told) if each == "W"]
    assert places == [0, 1, 3, 7, 15, 31, 63, 127, 191]
