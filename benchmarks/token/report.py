# SPDX-License-Identifier: Apache-2.0
"""Writes what was measured as Markdown."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from contestants import CONTESTANTS, TIMED_TOO, Contestant


@dataclass
class Results:
    """What was measured; empty where a part was left out."""

    tasks: int
    rounds: int
    processes: int
    threads: int
    latency: float
    seconds: float = 0.0
    logins: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    firsts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    fleet: list[dict[str, Any]] = field(default_factory=list)


def write(results: Results) -> str:
    """Return the report."""
    shown = [
        key for key in CONTESTANTS if key in {*results.logins, *results.times, *results.firsts}
    ]
    kinds = [CONTESTANTS[key] for key in shown]
    parts = [
        _head(results, kinds),
        _logins(results),
        _times(results),
        _firsts(results),
        _fleet(results),
        _limits(kinds),
    ]
    return "\n".join(part for part in parts if part)


def _head(results: Results, kinds: Iterable[type[Contestant]]) -> str:
    names = dict.fromkeys(name for kind in kinds for name in kind.packages)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return f"""# Token handling, measured

Made by `run.py` in {results.seconds:.0f} s on {os.cpu_count()} cores, with Python\
 {platform.python_version()} on {platform.system()}. The token server on
127.0.0.1 answers after {results.latency * 1000:.0f} ms. Times are medians of interleaved rounds
({results.rounds} for new processes, {4 * results.rounds} for a token in memory). Compare the
ratios; the times themselves belong to one machine.

Versions: {", ".join(versions)}.
"""


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    align = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, align, *rows]) + "\n"


def _logins(results: Results) -> str:
    if not results.logins:
        return ""
    rows = []
    for key, found in results.logins.items():
        plain, locked = found["plain"], found.get("locked", {})
        cells = [
            _both(plain[name], locked.get(name)) for name in ("cold", "warm", "revoked", "refused")
        ]
        failed = f"{plain['failed']} ({plain['errors']})" if plain["failed"] else "0"
        rows.append([CONTESTANTS[key].title, *cells, failed])
    head = [
        "Logins caused by",
        "all cold",
        "one was there before",
        "more by a revocation",
        "refused, wrong password",
        "tasks that failed",
    ]
    return f"""## Logins of {results.tasks} tasks in {results.processes} processes with\
 {results.threads} threads each

Every process starts with nothing but what its store holds, and all begin at the same moment.
Every task gets a token and calls an API with it; after a 401 it says so and tries once more. For
"a revocation" the server revokes all tokens after half of the tasks. `128 → 16` means: 128 as the
library is, 16 with a lock that the caller writes around it. Of this package with its default store
the worst of {results.rounds} goes is shown; of the others, one go.

{_table(head, rows)}"""


def _both(plain: int, locked: int | None) -> str:
    return str(plain) if locked is None or locked == plain else f"{plain} → {locked}"


def _times(results: Results) -> str:
    if not results.times:
        return ""
    ours = results.times["ours"]
    rows = [
        [(CONTESTANTS | TIMED_TOO)[key].title, f"{ns / ours:.2f}", f"{ns:.0f}"]
        for key, ns in sorted(results.times.items(), key=lambda item: item[1])
        if key != "ours_memory"
    ]
    return f"""## A valid token from memory

What a caller writes to get the token's text, including the look at its expiry; one thread. Google's
is the two attributes, not the slower `before_request`.

{_table(["", "ratio to ours", "ns"], rows)}"""


def _firsts(results: Results) -> str:
    if not results.firsts:
        return ""
    ours = results.firsts["ours"]
    base = ours["store"]
    rows = []
    for key, cases in results.firsts.items():
        for case, label in (("store", "found in the store"), ("login", "login")):
            if case not in cases:
                continue
            found, near = cases[case], cases["near"] if case == "login" else None
            rows.append(
                [
                    f"{CONTESTANTS[key].title}: {label}",
                    *(_ratio(found[name], base[name]) for name in ("imported", "first", "process")),
                    _ratio(near["process"], base["process"]) if near else "",
                ]
            )
    saved = ours["login"]["first"] / base["first"]
    saved_near = ours["near"]["first"] / base["first"]
    head = [
        "",
        "import",
        "first token after the import",
        "whole process",
        "whole process, a server without latency",
    ]
    return f"""## The first token in a new process

A new Python process imports the library, gets one token and ends. Each cell is the ratio to this
package's token from the file store (first row), in brackets milliseconds. With this package a login
over loopback takes {saved:.1f} times as long as finding the token in the store, and
{saved_near:.1f} times as long if the server answers at once. "Import" is what is needed to make the
object; this package imports its HTTP client with the first login.

{_table(head, rows)}"""


def _ratio(seconds: float, base: float) -> str:
    return f"{seconds / base:.2f} ({seconds * 1000:.0f})"


def _fleet(results: Results) -> str:
    if not results.fleet:
        return ""
    import pods

    cases = {(case["lifetime"], case["store"], case["waves"]): case for case in results.fleet}
    rows = []
    for store in pods.STORES:
        row = [store]
        for lifetime in pods.LIFETIMES:
            for waves in (False, True):
                # Pods that share nothing do not care when the others start.
                case = cases[lifetime, store, waves and store not in pods.ALONE]
                row += [f"{case['logins']}", _range(*case["paper"])]
        rows.append(row)
    head = ["Store"]
    for lifetime in pods.LIFETIMES:
        for pattern in ("spread", "in waves"):
            head += [f"{lifetime}, {pattern}", "on paper"]
    return f"""## Logins a day of {pods.PODS:,} pods that each live one minute

Simulated with the package's own token source and stores on an injected clock, for tokens that live
{" and ".join(pods.LIFETIMES)}. Pods start at random moments ("spread") or {pods.WAVE} at a time
within {pods.WAVE_SECONDS:.0f} seconds ("in waves"). The day begins with empty stores, so each
store's first login is on top of the long run. The orchestrator's store is a table without locks
here: a host claims the login in it, and the others wait for its token.

{_table(head, rows)}
On paper, in the long run: N pods a day run on H hosts; a token lives L seconds and is renewed m
seconds before its end, when a pod asks, which takes g seconds more. That makes
H x 86400 / (L - m + g) logins a day. m is min(300, L/10) and up to half as much again by chance;
hence the range. A pod that sees no other pod's store makes a login of its own: N.
"""


def _range(least: float, most: float) -> str:
    if least == most:
        return f"{least:.0f}"
    digits = 0 if most >= 100 else 1 if most >= 2 else 2
    low, high = f"{least:.{digits}f}", f"{most:.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _limits(kinds: Iterable[type[Contestant]]) -> str:
    rows = [
        f"| {kind.title} | `{kind.grant}` | {'yes' if kind.stores else 'no'} | {kind.cannot} |"
        for kind in kinds
    ]
    return "\n".join(
        [
            "## What each can't do",
            "",
            "| | grant measured | store between processes | |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
