# SPDX-License-Identifier: Apache-2.0
"""The limits of requests hold for all processes of a host together."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from core.conftest import ONCE, QUICK, config_of
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from vantage_orchestration import errors, throttle
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import HttpSettings
from vantage_orchestration.parallel import in_parallel, requesting, turn
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.state import FileStore
from vantage_orchestration.throttle import Throttle, throttle_of
from vantage_orchestration.token.access import Clock


class Counted:
    """Counts how many are in a slot at the same time."""

    def __init__(self, limits: Throttle) -> None:
        self._limits = limits
        self.lock = threading.Lock()
        self.now = self.most = self.all = 0
        #: If set, those in a slot wait for each other, so that it is no chance how many there are.
        self.meeting: threading.Barrier | None = None

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        with self._limits.slot():
            with self.lock:
                self.now += 1
                self.all += 1
                self.most = max(self.most, self.now)
            if self.meeting is not None:
                self.meeting.wait(60)
            yield
            with self.lock:
                self.now -= 1


def use(counted: Counted) -> None:
    with counted.slot():
        time.sleep(0.002)


def test_no_more_than_so_many_at_once(tmp_path: Path) -> None:
    # Two that know nothing of each other, as in two processes.
    both = [Throttle(FileStore(tmp_path), "account", 3, 0) for _ in range(2)]
    counted = Counted(both[0])
    other = Counted(both[1])
    other.lock = counted.lock
    together: list[int] = []

    def work(number: int) -> None:
        mine = (counted, other)[number % 2]
        with mine.slot():
            together.append(counted.now + other.now)

    in_parallel(work, range(60), 12)
    assert counted.all == other.all == 30
    assert max(together) <= 3


def test_a_slot_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    code = (
        "import sys, time; from vantage_orchestration.throttle import Throttle;"
        "from vantage_orchestration.state import FileStore;"
        "limits = Throttle(FileStore(sys.argv[1]), 'account', 1, 0)\n"
        "with limits.slot(): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        limits = Throttle(FileStore(tmp_path), "account", 1, 0)
        entered = threading.Event()

        def enter() -> None:
            with limits.slot():
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.2)
        holder.kill()
        assert entered.wait(30)
        waiting.join()


class Clocks:
    """Clocks for which no time passes but that which is slept, and a wall clock that can be set."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.set_by = 0.0

    def steady(self) -> float:
        return 1000.0 + sum(self.slept)

    def wall(self) -> float:
        return 1_000_000.0 + sum(self.slept) + self.set_by


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Clocks that every throttle uses."""
    clocks = Clocks()
    clock = Clock(clocks.steady, clocks.wall)
    monkeypatch.setitem(Throttle.__init__.__kwdefaults__, "clock", clock)
    monkeypatch.setattr(throttle.time, "sleep", clocks.slept.append)
    return clocks


@pytest.fixture
def slept(clocks: Clocks) -> list[float]:
    """What was slept; no other time passes."""
    return clocks.slept


@pytest.mark.parametrize("hours", [-0.5, -24, 24])
def test_a_clock_that_is_set_holds_nothing_up(tmp_path: Path, clocks: Clocks, hours: float) -> None:
    limits = Throttle(FileStore(tmp_path), "account", 0, 4.0)
    use_nothing(limits)
    limits.back_off(30.0)
    clocks.set_by = hours * 3600
    for _ in range(2):
        use_nothing(limits)
    assert sum(clocks.slept) == pytest.approx(0.25 if hours > 0 else 30.0)


def test_requests_keep_their_distance(tmp_path: Path, slept: list[float]) -> None:
    both = [Throttle(FileStore(tmp_path), "account", 0, 4.0) for _ in range(2)]
    for number in range(9):
        use_nothing(both[number % 2])
    assert sum(slept) == pytest.approx(2.0)


def use_nothing(limits: Throttle) -> None:
    with limits.slot():
        pass


def test_all_pause_when_one_is_told_to(
    tmp_path: Path, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (Throttle(FileStore(tmp_path), "account", 2, 0) for _ in range(2))
    one.back_off(30.0)
    one.back_off(10.0)  # A shorter one does not end a longer one.
    use_nothing(other)
    assert sum(slept) == pytest.approx(30.0)
    assert "pause for 30 s, as the server asks" in caplog.text
    for number, seconds in enumerate((None, 0.0), 1):
        other.back_off(seconds)
        use_nothing(one)
        assert sum(slept) == pytest.approx(30.0 + number * 5.0)
    own = FileStore(tmp_path).read(one.pause_name)
    endless = [own.replace(b'"wait": 5.0', b'"wait": ' + each) for each in (b"1e999", b"9" * 400)]
    assert own not in endless
    for damaged in (b"99999999999", b"{}", b"", b"[" * 100_000, *endless):
        FileStore(tmp_path).write(one.pause_name, damaged)
        use_nothing(one)
        assert sum(slept) == pytest.approx(40.0)


def test_the_client_keeps_the_limits_and_a_429_stops_all(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float | None] = []
    monkeypatch.setattr(Throttle, "back_off", lambda self, seconds: told.append(seconds))
    with VantageClient(config_of(sandbox, max_concurrent_requests=2), retries=ONCE) as client:
        limits = throttle_of(client.config)
        assert limits is not None
        counted = Counted(limits)
        monkeypatch.setattr(type(client.session), "slot", lambda self: counted.slot())
        counted.meeting = threading.Barrier(2)
        in_parallel(lambda _: client.list_skills(), range(8), 8)
        counted.meeting = None
        assert client.session.get("/skills").status_code == 200
        assert (counted.all, counted.most) == (9, 2)
        sandbox.control.add_fault(status=429, headers={"Retry-After": "7"})
        with pytest.raises(errors.RateLimited):
            client.list_skills()
        assert told == [7.0]


def test_without_limits_there_is_no_throttle(sandbox: SandboxServer, tmp_path: Path) -> None:
    with VantageClient(config_of(sandbox, store_path=str(tmp_path)), retries=QUICK) as client:
        assert throttle_of(client.config) is None
        assert client.list_skills()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_the_limits_hold_for_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    counted = Counted(Throttle(FileStore(tmp_path / "file"), "account", 2, 0))
    counted.meeting = threading.Barrier(2)
    in_parallel(lambda _: use(counted), range(12), 6)
    assert (counted.all, counted.most) == (12, 2)
    assert caplog.text.count("hold for each process by itself") == 1


@pytest.mark.parametrize("wrong", [-1, 1.5, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(errors.ConfigurationError, match="max_concurrent_requests"):
        HttpSettings(max_concurrent_requests=wrong)


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Some mounts of NFS and Lustre have none. What a process of another host left stays."""

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    limits = Throttle(FileStore(tmp_path), "account", 1, 0)
    for _ in range(2):  # The first creates the files.
        use_nothing(limits)
    for path in tmp_path.glob("**/*.lock"):
        path.write_text("1\nanother-host\n")
    monkeypatch.setattr(fcntl, "flock", refuse)
    using = threading.Thread(target=use_nothing, args=[limits], daemon=True)
    using.start()
    using.join(30)
    assert not using.is_alive()
    assert "hold for each process by itself" in caplog.text


def test_a_read_that_fails_halfway_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on NFS, where another host has just replaced the file."""
    limits = Throttle(FileStore(tmp_path), "account", 0, 0)
    limits.back_off(0.0)

    def stale(handle: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        use_nothing(limits)
    assert "hold for each process by itself" in caplog.text


def test_work_has_so_many_requests_at_a_time_and_threads_besides(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, there = threading.Barrier(2), threading.Barrier(3)
    another: list[bool] = []
    send = HTTPAdapter.send

    def asked_for(self: HTTPAdapter, request: object, **options: object) -> object:
        sent.wait(60)
        # Two requests run. Neither this thread nor any other could send a third.
        another.append(turn().acquire(blocking=False))  # type: ignore[attr-defined]
        sent.wait(60)
        return send(self, request, **options)  # type: ignore[arg-type]

    with VantageClient(config_of(sandbox), retries=ONCE) as client:
        client.get_token()
        monkeypatch.setattr(HTTPAdapter, "send", asked_for)
        assert len(requesting(lambda _: client.list_skills(), range(4), 2)) == 4
    assert another == [False] * 4
    # What is no request, such as writing a file, keeps nobody from sending.
    assert len({*requesting(lambda _: there.wait(60), range(3), 2)}) == 3
    # One at a time is one thread: a connection of SFTP can't be used by two.
    mine = threading.get_ident()
    assert requesting(lambda _: threading.get_ident(), range(3), 1) == [mine] * 3
    # Work within work takes the same turns, and after it there are none.
    turns = requesting(lambda _: requesting(lambda _: turn(), range(1), 1)[0], range(4), 2)
    assert len(set(map(id, turns))) == 1
    assert isinstance(turns[0], threading.Semaphore)
    assert isinstance(turn(), contextlib.nullcontext)


def test_results_have_the_order_of_the_items() -> None:
    third = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            third.wait(60)
        elif number == 2:
            third.set()
        return number

    assert in_parallel(work, range(3), 2) == [0, 1, 2]


def test_nothing_begins_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    workers: list[threading.Thread] = []
    together, over = threading.Barrier(3), threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number < 2:
            workers.append(threading.current_thread())
            together.wait(60)
        over.wait(60)

    def interrupted(self: threading.Thread) -> None:
        together.wait(60)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            in_parallel(work, range(10), 2)
    over.set()
    for worker in workers:
        worker.join(60)
    assert sorted(begun) == [0, 1]
    # Python does not wait for them at its end, such as for a server that does not answer.
    assert [worker.daemon for worker in workers] == [True, True]


def test_each_of_many_connections_is_used_again(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(16)
    send = HTTPAdapter.send

    def sent(self: HTTPAdapter, request: object, **options: object) -> object:
        reply = send(self, request, **options)  # type: ignore[arg-type]
        together.wait(60)  # Its body is not read, so its connection is in use.
        return reply

    made: list[object] = []
    connect = HTTPConnection.connect

    def connected(self: HTTPConnection) -> None:
        made.append(self)
        connect(self)

    with VantageClient(config_of(sandbox), retries=ONCE) as client:
        client.get_token()
        monkeypatch.setattr(HTTPAdapter, "send", sent)
        monkeypatch.setattr(HTTPConnection, "connect", connected)
        for _ in range(2):
            requesting(lambda _: client.list_skills(), range(16), 16)
    assert len(made) == 16
