# SPDX-License-Identifier: Apache-2.0
"""One login for all who ask: threads, coroutines, cancellations, refusals, forks, clocks.

The clock and the login are handed in, so that nothing here waits for time to pass."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import os
import pickle
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from leaks import find_leaks

from vantage_orchestration import errors
from vantage_orchestration.config import HttpSettings, VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret
from vantage_orchestration.token import TokenSource, token_source
from vantage_orchestration.token.access import AccessToken, Clock
from vantage_orchestration.token.request import Grant
from vantage_orchestration.token.source import LONGEST_HOLD, REFUSAL_HOLD

NO_WAIT = RetryPolicy(attempts=3, first_wait=1, max_wait=1, budget=60, sleep=lambda _: None)


def config(password="a password of length", **changes) -> VantageConfig:
    values = {
        "region": "eu",
        "username": "user@example.com",
        "password": password,
        "client_id": "client",
        "client_secret": "secret-of-the-client",
    }
    return VantageConfig(Credentials(**{**values, **changes}))


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.steady = 1000.0
        self.wall = 1_800_000_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.steady, lambda: self.wall)

    def pass_(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


class Server:
    """Stands where the network is; gives numbered tokens, or what it is told to give."""

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.logins = 0
        self.answers: list = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.lock = threading.Lock()

    def log_in(self, config):
        with self.lock:
            self.logins += 1
            number = self.logins
            answer = self.answers.pop(0) if self.answers else None
        self.entered.set()
        assert self.gate.wait(30)
        if isinstance(answer, BaseException) and not isinstance(answer, errors.VantageError):
            raise answer
        return answer or Grant(Secret(f"token-number-{number}"), self.lifetime)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def source(time, server) -> TokenSource:
    return TokenSource(config(), log_in=server.log_in, clock=time.clock(), retries=NO_WAIT)


def refused() -> errors.VantageError:
    return errors.CredentialsRejected("The login was refused", status=400)


def unavailable() -> errors.VantageError:
    return errors.AuthUnavailable("out of order", status=503)


def in_threads(count, function):
    barrier = threading.Barrier(count)

    def run(_):
        barrier.wait(30)
        try:
            return function()
        except errors.VantageError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_a_token_is_kept_and_renewed_before_its_end(source, server, time):
    first = source.get()
    assert source.get() is first
    time.pass_(3600 - 451)  # Margin 300 s, and up to half of it more as jitter.
    assert source.get() is first
    time.pass_(451 - 299)
    second = source.get()
    assert second.reveal() == "token-number-2"
    assert server.logins == 2


def test_life_counts_from_before_the_request(time):
    server = Server(lifetime=100)

    def slow(config):
        time.pass_(60)
        return server.log_in(config)

    source = TokenSource(config(), log_in=slow, clock=time.clock(), retries=NO_WAIT)
    token = source.get()
    assert token.ends_at == 1100.0


def test_a_token_that_ends_while_it_is_fetched_makes_no_loop(time):
    server = Server(lifetime=1)

    def slow(config):
        time.pass_(5)
        return server.log_in(config)

    source = TokenSource(config(), log_in=slow, clock=time.clock(), retries=NO_WAIT)
    assert source.get().reveal() == "token-number-1"
    assert server.logins == 1


def test_the_same_token_returned_inside_the_margin_makes_no_loop(source, server, time):
    source.get()
    time.pass_(3590)
    server.answers = [Grant(Secret("token-number-1"), 10.0)]
    assert source.get().reveal() == "token-number-1"
    assert source.get().reveal() == "token-number-1"
    assert server.logins == 2


@pytest.mark.parametrize("jump", [86400, -86400])
def test_the_wall_clock_decides_nothing(source, server, time, jump):
    token = source.get()
    time.wall += jump
    assert source.get() is token
    time.pass_(3600)
    assert source.get() is not token
    assert server.logins == 2


def test_64_threads_and_128_coroutines_on_two_loops_make_one_login(source, server):
    server.gate.clear()

    def loop() -> list:
        async def gather():
            return await asyncio.gather(*(source.aget() for _ in range(64)))

        return asyncio.run(gather())

    found: list = []
    workers = [threading.Thread(target=lambda: found.append(source.get())) for _ in range(64)]
    workers += [threading.Thread(target=lambda: found.extend(loop())) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert server.entered.wait(30)
    server.gate.set()
    for worker in workers:
        worker.join(30)
    assert len(found) == 64 + 128
    assert {token.reveal() for token in found} == {"token-number-1"}
    assert server.logins == 1


def test_a_cancelled_coroutine_does_not_end_the_login_of_the_others(source, server):
    server.gate.clear()

    async def main():
        first = asyncio.create_task(source.aget())
        await asyncio.to_thread(server.entered.wait, 30)
        others = [asyncio.create_task(source.aget()) for _ in range(8)]
        await asyncio.sleep(0)
        first.cancel()
        others[0].cancel()
        server.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    outcome = asyncio.run(main())
    assert [type(item) for item in outcome[:2]] == [asyncio.CancelledError] * 2
    assert {token.reveal() for token in outcome[2:]} == {"token-number-1"}
    assert server.logins == 1


def test_an_event_loop_that_ends_early_does_not_end_the_login(source, server):
    server.gate.clear()

    async def impatient():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(source.aget(), 0.01)

    asyncio.run(impatient())
    server.gate.set()
    assert source.get().reveal() == "token-number-1"
    assert server.logins == 1


def test_who_has_no_patience_does_not_end_the_login_of_the_others(source, server):
    server.gate.clear()
    for give_up in (lambda: source.get(0.01), lambda: asyncio.run(source.aget(0.01))):
        with pytest.raises(errors.AuthUnavailable, match="did not end"):
            give_up()
    server.gate.set()
    assert source.get().reveal() == "token-number-1"
    assert server.logins == 1


def test_one_thread_renews_and_the_others_go_on_with_the_live_token(source, server, time):
    old = source.get()
    time.pass_(3400)
    server.gate.clear()
    server.entered.clear()
    fetched: list = []
    leader = threading.Thread(target=lambda: fetched.append(source.get()))
    leader.start()
    assert server.entered.wait(30)
    assert source.get() is old  # At once: the gate is still closed.
    server.gate.set()
    leader.join(30)
    assert fetched[0].reveal() == "token-number-2"
    assert source.get() is fetched[0]


def test_a_renewal_that_fails_leaves_the_live_token_and_tries_later(source, server, time):
    old = source.get()
    time.pass_(3400)
    server.answers = [unavailable()] * 3
    assert source.get() is old
    assert server.logins == 4
    assert source.get() is old
    assert server.logins == 4  # Not at once again.
    time.pass_(31)
    assert source.get().reveal() == "token-number-5"


def test_passing_trouble_is_tried_three_times_and_no_more(source, server):
    server.answers = [unavailable()] * 3
    with pytest.raises(errors.AuthUnavailable):
        source.get()
    assert server.logins == 3
    assert source.get().reveal() == "token-number-4"


def test_a_refusal_is_one_request_for_all_threads_and_for_later_ones(source, server):
    server.answers = [refused()] * 1000
    for _ in range(2):
        outcome = in_threads(64, source.get)
        assert {type(item) for item in outcome} == {errors.CredentialsRejected}
        assert len({id(item) for item in outcome}) == 64, "each thread has an error of its own"
    with pytest.raises(errors.CredentialsRejected, match="not retried for"):
        asyncio.run(source.aget())
    assert server.logins == 1


def test_a_refusal_is_held_longer_each_time(source, server, time):
    server.answers = [refused()] * 100
    held = REFUSAL_HOLD
    for logins in range(1, 12):
        with pytest.raises(errors.CredentialsRejected):
            source.get()
        assert server.logins == logins
        time.pass_(held - 1)
        with pytest.raises(errors.CredentialsRejected):
            source.get()
        assert server.logins == logins
        time.pass_(2)
        held = min(2 * held, LONGEST_HOLD)
    server.answers = []
    assert source.get().reveal() == "token-number-12"


@pytest.mark.parametrize(
    "kind", [errors.ClientRejected, errors.GrantNotAllowed, errors.ScopeRejected]
)
def test_every_kind_of_refusal_is_held(source, server, kind):
    server.answers = [kind("refused")] * 10
    for _ in range(3):
        with pytest.raises(kind):
            source.get()
    assert server.logins == 1


def test_a_long_retry_after_is_told_to_all_without_another_request(source, server, time):
    server.answers = [errors.Throttled("slow down", retry_after=120.0)]
    # 120 s do not fit into the budget of a login, so the error comes at once.
    for left in (120, 70, 20):
        with pytest.raises(errors.Throttled) as caught:
            source.get()
        assert caught.value.retry_after == left
        time.pass_(50)
    assert server.logins == 1
    assert source.get().reveal() == "token-number-2"


def test_a_refusal_that_asks_to_come_again_does_not_lock_the_account(source, server, time):
    """Each comes after twice the time, whatever the server asks for."""
    server.answers = [errors.Throttled("refused", status=400, retry_after=0.0)] * 100
    for seconds in range(3600):
        with pytest.raises(errors.Throttled):
            source.get()
        if seconds == 59:
            assert server.logins == 1
        time.pass_(1)
    assert server.logins <= 8


def test_a_corrected_password_works_at_once(server, time):
    wrong = TokenSource(
        config("wrong password"), log_in=server.log_in, clock=time.clock(), retries=NO_WAIT
    )
    server.answers = [refused()]
    with pytest.raises(errors.CredentialsRejected):
        wrong.get()
    right = TokenSource(config(), log_in=server.log_in, clock=time.clock(), retries=NO_WAIT)
    assert right.get().reveal() == "token-number-2"


def test_64_late_rejections_of_one_token_make_one_login(source, server):
    old = source.get()

    def late():
        source.invalidate(old)
        return source.get()

    assert {token.reveal() for token in in_threads(64, late)} == {"token-number-2"}
    assert server.logins == 2
    assert source.invalidate(old) is False
    assert source.invalidate("token-number-2") is True


def test_a_token_that_is_rejected_like_the_one_before_is_kept_for_a_minute(source, server, time):
    first = source.get()
    assert source.invalidate(first)
    second = source.get()
    source.keep(first)  # A late reply to the first says nothing of the second.
    assert source.invalidate(second)
    third = source.get()
    source.keep(third)
    assert not source.invalidate(third)
    assert source.get().is_same(third)
    time.pass_(60)
    assert source.invalidate(third)
    assert source.get().reveal() == "token-number-4"


def test_a_renewal_that_is_refused_is_told_once(source, server, time, caplog):
    old = source.get()
    time.pass_(3400)
    server.answers = [refused()]
    for _ in range(2):
        assert source.get() is old
        time.pass_(40)
    assert caplog.text.count("was not renewed") == 1
    assert server.logins == 2


def test_no_token_is_used_after_its_end(source, server, time):
    source.get()
    time.pass_(3600)
    server.answers = [unavailable()] * 6
    with pytest.raises(errors.AuthUnavailable):
        source.get()
    with pytest.raises(errors.AuthUnavailable):
        asyncio.run(source.aget())


def test_a_firewall_is_asked_again_in_a_quarter_of_an_hour_at_most(source, server, time):
    server.answers = [errors.AuthUnavailable("blocked", status=403)] * 100
    for count, hold in enumerate((60, 120, 240, 480, 900, 900, 900), 1):
        for _ in range(2):
            with pytest.raises(errors.AuthUnavailable):
                source.get()
        assert server.logins == count
        time.pass_(hold + 1)


def test_a_token_that_ends_while_renewals_pause_is_not_used(source, server, time):
    old = source.get()
    time.pass_(3590)
    server.answers = [unavailable()] * 3
    assert source.get() is old
    time.pass_(20)
    assert source.get().reveal() == "token-number-5"
    assert asyncio.run(source.aget()).reveal() == "token-number-5"


def test_the_unexpected_reaches_all_waiters_as_an_error_without_its_text(source, server):
    server.answers = [RuntimeError("a password of length")]
    with pytest.raises(errors.AuthUnavailable, match="RuntimeError") as caught:
        source.get()
    # Not inside the assertion: its parts become local variables, which the search reads.
    leaks = find_leaks(["a password of length"], {"error": caught.value})
    assert leaks == []
    assert source.get().reveal() == "token-number-2"


def test_without_new_threads_the_login_runs_in_the_caller(source, server, monkeypatch):
    def fail(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert source.get().reveal() == "token-number-1"


def test_a_waiter_does_not_wait_for_ever(server, time):
    hasty = RetryPolicy(attempts=1, first_wait=0, max_wait=0, budget=-5.0)
    settings = HttpSettings(connect_timeout=0.01, read_timeout=0.02)
    stuck = TokenSource(
        VantageConfig(config().credentials, settings),
        log_in=server.log_in,
        clock=time.clock(),
        retries=hasty,
    )
    server.gate.clear()
    with pytest.raises(errors.AuthUnavailable, match="did not end"):
        stuck.get()
    with pytest.raises(errors.AuthUnavailable, match="did not end"):
        asyncio.run(stuck.aget())
    server.gate.set()


def test_two_credentials_do_not_wait_for_each_other(time):
    first, second = Server(), Server()
    blocked = TokenSource(config(), log_in=first.log_in, clock=time.clock())
    free = TokenSource(config("other password"), log_in=second.log_in, clock=time.clock())
    first.gate.clear()
    waiter = threading.Thread(target=blocked.get)
    waiter.start()
    assert first.entered.wait(30)
    assert free.get().reveal() == "token-number-1"
    first.gate.set()
    waiter.join(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_mid_login_does_not_hang_the_child(source, server):
    server.gate.clear()
    waiter = threading.Thread(target=source.get)
    waiter.start()
    assert server.entered.wait(30)
    reading, writing = os.pipe()
    # The child also finds the lock taken, as by a thread that does not exist there.
    with source.lock:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                server.gate.set()
                os.write(writing, source.get().reveal().encode())
            finally:
                os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 25)
    answer = os.read(reading, 100) if ready else b"(hangs)"
    os.close(reading)
    os.waitpid(child, 0)
    server.gate.set()
    waiter.join(30)
    assert answer == b"token-number-2"


def test_equal_credentials_share_one_source_and_others_do_not():
    assert token_source(config("shared password")) is token_source(config("shared password"))
    one = token_source(config("shared password"))
    for change in (
        {"password": "another"},
        {"username": "x@example.com"},
        {"client_id": "x"},
        {"client_secret": "another"},
        {"region": "us"},
        {"tenant_id": "t"},
        {"scope": "openid"},
        {"grant_type": "client_credentials"},
    ):
        assert token_source(config(**{"password": "shared password", **change})) is not one


def test_another_way_to_the_server_is_another_source(monkeypatch):
    first = token_source(config())
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert token_source(config()) is not first


def test_another_store_of_an_orchestrator_is_another_source():
    class Kept:
        def __init__(self, server):
            self.server = server

        def __repr__(self):
            return f"Kept({self.server!r})"

    own, shared = (dataclasses.replace(config(), store=each) for each in ("file", "orchestrator"))
    sources = [[token_source(each, Kept(server)) for server in "aab"] for each in (own, shared)]
    assert [[each is those[0] for each in those] for those in sources] == [
        [True, True, True],
        [True, True, False],
    ]


def test_parts_of_a_credential_can_not_be_shifted_into_each_other():
    one = config(username="ab", client_id="c")
    other = config(username="a", client_id="bc")
    assert token_source(one) is not token_source(other)


def test_tokens_show_their_end_and_nothing_else(source, time):
    token = source.get()
    assert token.expires_at.timestamp() == time.wall + 3600
    assert repr(token) == "AccessToken(expires_at='2027-01-15T09:00:00Z')"
    places = {
        "token": token,
        "text": f"{token}",
        "source": source,
        "config": repr(config()),
        "slots": [getattr(token, name) for name in AccessToken.__slots__],
    }
    assert find_leaks([token.reveal(), "a password of length"], places) == []
    for value in (token, source):
        with pytest.raises(TypeError, match=f"{type(value).__name__} contains a secret"):
            pickle.dumps(value)
    assert copy.deepcopy(token) is token
    with pytest.raises(AttributeError):
        token.lifetime = 5


def test_sources_that_are_not_registered_are_freed(time, server):
    source = TokenSource(config(), log_in=server.log_in, clock=time.clock())
    source.get()
    import weakref

    seen = weakref.ref(source)
    del source
    gc.collect()
    assert seen() is None
