# SPDX-License-Identifier: Apache-2.0
"""One login for all processes of a host: cold, refused, revoked, killed, stopped and forked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from patience import wait_until

pytestmark = pytest.mark.slow

WORKER = """
    import json, os, sys, threading, time
    from vantage_orchestration import errors
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.token import cache, token_source

    threads, rounds, patience = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    cache.LOCK_PATIENCE = patience
    config = VantageConfig.from_env()
    old = None
    print("ready", flush=True)
    for _ in range(rounds):
        order = sys.stdin.readline().strip()
        if not order:
            break
        outcome = []

        def task():
            source = token_source(config)
            try:
                if order == "rejected":  # As a late 401 for the token of the round before.
                    source.invalidate(old)
                token = source.get()
                outcome.append(token.reveal())
            except errors.VantageError as error:
                outcome.append(type(error).__name__)

        workers = [threading.Thread(target=task) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        old = outcome[0]
        print(json.dumps(sorted({text[-24:] for text in outcome})), flush=True)
"""


class Worker:
    """A process that asks for a token whenever a test orders it."""

    def __init__(self, sandbox, folder, threads=8, rounds=1, patience=90.0, **changes) -> None:
        account = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
        fields = {
            "region": "custom",
            "base_url": sandbox.url,
            **account,
            "store": "file",
            "store_path": str(folder),
            **changes,
        }
        environment = {f"ABBYY_VANTAGE_{name.upper()}": text for name, text in fields.items()}
        arguments = [str(threads), str(rounds), str(patience)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, order: str = "get") -> None:
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def answer(self, seconds: float = 60.0) -> list[str]:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "no answer in time"
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def start(sandbox, folder):
    with contextlib.ExitStack() as stack:

        def make(**options) -> Worker:
            worker = Worker(sandbox, folder, **options)
            stack.callback(worker.end)
            return worker

        yield make


def logins(sandbox) -> int:
    return sandbox.control.count(path_regex="connect/token")


def all_at_once(workers, order="get") -> set[str]:
    for worker in workers:
        worker.ask(order)
    return {text for worker in workers for text in worker.answer()}


def test_16_cold_processes_make_one_login_and_a_revocation_one_more(sandbox, start):
    workers = [start(rounds=3) for _ in range(16)]
    for worker in workers:
        worker.ready()
    first = all_at_once(workers)
    assert len(first) == 1
    assert logins(sandbox) == 1
    sandbox.control.revoke_tokens()
    second = all_at_once(workers, "rejected")
    assert len(second) == 1
    assert second != first
    assert logins(sandbox) == 2
    assert all_at_once(workers) == second
    assert logins(sandbox) == 2


def test_a_process_that_starts_later_finds_the_token(sandbox, start):
    for _ in range(3):
        worker = start()
        worker.ready()
        worker.ask()
        worker.answer()
        worker.end()
    assert logins(sandbox) == 1


def test_a_wrong_password_is_sent_once_by_all_processes(sandbox, start):
    workers = [start(password="not the password") for _ in range(16)]
    for worker in workers:
        worker.ready()
    assert all_at_once(workers) == {"CredentialsRejected"}
    assert logins(sandbox) == 1
    right = start()
    right.ready()
    right.ask()
    assert right.answer() != ["CredentialsRejected"]
    assert logins(sandbox) == 2


def wait_for_login(sandbox, count: int = 1) -> None:
    wait_until(
        lambda: sum(fault["hits"] for fault in sandbox.control.faults()) >= count,
        "the login",
        pause=0.02,
    )


def test_a_process_killed_with_the_lock_holds_nobody_up(sandbox, start):
    sandbox.control.add_fault(operation="requestToken", delay=120)
    holder, waiter = start(), start()
    holder.ready()
    waiter.ready()
    holder.ask()
    wait_for_login(sandbox)
    waiter.ask()
    time.sleep(0.3)
    assert select.select([waiter.process.stdout], [], [], 0)[0] == [], "it waits for the holder"
    holder.process.send_signal(signal.SIGKILL)
    # Far below the stated 90 s: the system gives the lock back at once.
    assert len(waiter.answer(20)) == 1
    assert logins(sandbox) == 2


def test_a_process_that_hangs_with_the_lock_holds_nobody_up_for_longer_than_stated(sandbox, start):
    sandbox.control.add_fault(operation="requestToken", delay=120)
    holder, waiter = start(), start(patience=1.0)
    holder.ready()
    waiter.ready()
    holder.ask()
    wait_for_login(sandbox)
    holder.process.send_signal(signal.SIGSTOP)
    waiter.ask()
    assert len(waiter.answer(30)) == 1
    assert logins(sandbox) == 2


def test_killed_at_any_moment_the_store_stays_whole(sandbox, start, folder):
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        worker = start(threads=1)
        worker.ready()
        worker.ask()
        time.sleep(delay)
        worker.process.kill()
        worker.process.wait(30)
        for path in folder.glob("*.entry") if folder.exists() else ():
            path.unlink()
    worker = start()
    worker.ready()
    worker.ask()
    assert len(worker.answer()) == 1
    assert len(list(folder.glob("*.entry"))) == 1


FORKS = """
    import json, os, sys
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.token import token_source

    config = VantageConfig.from_env()
    first = token_source(config).get()
    for order in ("get", "rejected"):
        if order == "rejected":
            input()  # The token is revoked meanwhile.
        children = []
        for _ in range(6):
            child = os.fork()
            if child == 0:
                source = token_source(config)
                token = source.get()
                if order == "rejected":
                    source.invalidate(token)
                    token = source.get()
                os._exit(0 if (token.reveal() == first.reveal()) == (order == "get") else 1)
            children.append(child)
        print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)
"""


def test_forks_after_first_use_share_the_token_and_its_renewal(sandbox, folder):
    account = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
    fields = {"region": "custom", "base_url": sandbox.url, **account, "store_path": str(folder)}
    environment = {f"ABBYY_VANTAGE_{name.upper()}": text for name, text in fields.items()}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FORKS)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert json.loads(parent.stdout.readline()) == [0] * 6
        assert logins(sandbox) == 1
        sandbox.control.revoke_tokens()
        parent.stdin.write("go\n")
        parent.stdin.flush()
        assert json.loads(parent.stdout.readline()) == [0] * 6
    assert logins(sandbox) == 2


def command(sandbox, folder, action, ended=0, **changes) -> str:
    account = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
    fields = {
        "region": "custom",
        "base_url": sandbox.url,
        **account,
        "store_path": str(folder),
        **changes,
    }
    environment = {f"ABBYY_VANTAGE_{name.upper()}": text for name, text in fields.items()}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from vantage_orchestration.cli import main; raise SystemExit(main())",
            "token",
            action,
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ended, done.stderr
    return done.stdout + done.stderr


def test_the_command_shows_and_clears_what_is_stored(sandbox, start, folder):
    assert "nothing" in command(sandbox, folder, "status")
    for changes in ({}, {"password": "not the password"}):
        worker = start(**changes)
        worker.ready()
        worker.ask()
        worker.answer()
    shown = command(sandbox, folder, "status")
    assert "a token, valid until" in shown
    assert str(folder) in shown
    refused = command(sandbox, folder, "status", password="not the password")
    assert "not retried for" in refused
    assert "Check user name" in refused
    for secret in (*sandbox.control.issued_secrets(), sandbox.credentials["password"]):
        assert secret not in shown + refused
    command(sandbox, folder, "forget", password="not the password")
    assert "nothing" in command(sandbox, folder, "status", password="not the password")
    assert "a token" in command(sandbox, folder, "status")
    command(sandbox, folder, "forget")
    assert "nothing" in command(sandbox, folder, "status")


def test_the_command_says_if_it_could_clear_nothing(sandbox, start, folder):
    worker = start()
    worker.ready()
    worker.ask()
    worker.answer()
    [entry] = folder.glob("**/*.entry")
    entry.unlink()
    (entry / "in the way").mkdir(parents=True)
    said = command(sandbox, folder, "forget", ended=1)
    assert "did not remove the entry" in said
    assert "Nothing is stored" not in said


def test_the_command_reaches_processes_that_live_long(sandbox, start, folder):
    wrong = {"error": "invalid_grant", "error_description": "Please try again"}
    sandbox.control.add_fault(operation="requestToken", status=400, json=wrong, times=2)
    one, other = start(rounds=3), start(rounds=2)
    for worker in (one, other):
        worker.ready()
    assert all_at_once([one, other]) == {"CredentialsRejected"}
    assert logins(sandbox) == 1
    # Cleared: the first login after that is sent, and refused once more.
    command(sandbox, folder, "forget")
    assert all_at_once([one]) == {"CredentialsRejected"}
    assert logins(sandbox) == 2
    # A token that another process has got meanwhile is taken.
    command(sandbox, folder, "forget")
    token = all_at_once([other])
    assert token == all_at_once([one])
    assert token != {"CredentialsRejected"}
    assert logins(sandbox) == 3
