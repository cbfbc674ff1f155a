# SPDX-License-Identifier: Apache-2.0
"""Hosts that share a store log in once, also at the same moment; and a dead one holds up nobody."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from core.conftest import config_of

from vantage_orchestration import errors
from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.state import FileStore
from vantage_orchestration.token import cache
from vantage_orchestration.token.source import TokenSource

PODS = 20


class Shared:
    """Values that all hosts see, created by one of them only."""

    label = "shared"

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failing = ""
        self.after_create: object = None
        self.created: list[str] = []
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        self._ask("read")
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self._ask("write")
        self.values[name] = value

    def create(self, name: str, value: bytes) -> bool:
        self._ask("create")
        with self._lock:
            if name in self.values:
                return False
            self.created.append(name)
            self.values[name] = value
        if self.after_create is StateUnavailable:
            raise StateUnavailable("the answer got lost")
        return self.after_create is None

    def delete(self, name: str) -> None:
        self._ask("delete")
        self.values.pop(name, None)

    def _ask(self, operation: str) -> None:
        if self.failing == operation:
            raise StateUnavailable("no answer")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Shared:
    monkeypatch.setattr(cache, "_PAUSES", (0.01, 0.02))
    return Shared()


def start_pods(
    sandbox: SandboxServer, shared: Shared, folder: Path, count: int = PODS, **account: str
) -> list[str]:
    """Let hosts without a common folder get a token at once; return what each has got."""
    together = threading.Barrier(count)
    outcomes: list[str] = []

    def pod(number: int) -> None:
        source = TokenSource(
            config_of(sandbox, store="orchestrator", **account),
            store=shared,
            locks=FileStore(folder / str(number)),
        )
        together.wait()
        try:
            outcomes.append(source.get().reveal())
        except errors.VantageError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=pod, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def logins(sandbox: SandboxServer) -> int:
    return sandbox.control.count(path_regex="connect/token")


def test_20_hosts_that_start_at_once_log_in_once(
    sandbox: SandboxServer, shared: Shared, tmp_path: Path
) -> None:
    outcomes = start_pods(sandbox, shared, tmp_path)
    assert len(outcomes) == PODS
    assert len(set(outcomes)) == 1
    assert logins(sandbox) == 1
    assert len(shared.values) == 1, "the claim is removed"


def test_20_hosts_with_a_wrong_password_are_refused_once(
    sandbox: SandboxServer, shared: Shared, tmp_path: Path
) -> None:
    """The service locks an account after five."""
    wrong = {"password": "not the password of it"}
    assert start_pods(sandbox, shared, tmp_path, **wrong) == ["CredentialsRejected"] * PODS
    assert logins(sandbox) == 1
    assert start_pods(sandbox, shared, tmp_path / "later", **wrong)[0] == "CredentialsRejected"
    assert logins(sandbox) == 1


def test_a_host_that_died_holds_up_the_others_for_a_while_and_no_longer(
    sandbox: SandboxServer, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_pods(sandbox, shared, tmp_path, count=1)
    (place,) = {name for name in shared.created if name not in shared.values}
    shared.values.clear()
    shared.values[place] = b"of one that is not there any more"
    monkeypatch.setattr(cache, "_STALE", 0.2)
    assert len(set(start_pods(sandbox, shared, tmp_path / "later", count=1))) == 1
    assert logins(sandbox) == 2
    assert place not in shared.values


@pytest.mark.parametrize("operation", ["create", "delete"])
def test_a_store_in_trouble_costs_the_claim_and_not_the_token(
    sandbox: SandboxServer, shared: Shared, tmp_path: Path, operation: str
) -> None:
    shared.failing = operation
    (token,) = start_pods(sandbox, shared, tmp_path, count=1)
    assert token.startswith("eyJ")


@pytest.mark.parametrize("answer", [StateUnavailable, "there is one"])
def test_a_claim_whose_creation_was_answered_wrongly_is_held_and_removed(
    sandbox: SandboxServer, shared: Shared, tmp_path: Path, answer: object
) -> None:
    shared.after_create = answer
    (token,) = start_pods(sandbox, shared, tmp_path, count=1)
    assert token.startswith("eyJ")
    (place,) = shared.created
    assert len(shared.values) == 1
    assert place not in shared.values


def test_who_has_waited_long_enough_logs_in(
    sandbox: SandboxServer, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(patience: float) -> None:
        with cache.claimed(shared, "name", patience, lambda: False):
            held.append(dict(shared.values))

    held: list[dict[str, bytes]] = []
    begin(0.0)
    (place,) = held[0]
    shared.values[place] = b"of another host"
    begin(0.05)
    assert held[1] == {place: b"of another host"}
    assert shared.values == {place: b"of another host"}, "the claim of another is not removed"


def test_a_claim_that_another_host_has_taken_over_is_left_to_it(shared: Shared) -> None:
    with cache.claimed(shared, "name", 5.0, lambda: False):
        (place,) = shared.values
        shared.values[place] = b"another host"
    assert shared.values == {place: b"another host"}
