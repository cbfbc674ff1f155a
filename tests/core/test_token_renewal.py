# SPDX-License-Identifier: Apache-2.0
"""Renewal in advance, and the token endpoint from the discovery document."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
import weakref

import pytest

from vantage_orchestration import errors
from vantage_orchestration.config import TokenSettings, VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret
from vantage_orchestration.token import TokenSource
from vantage_orchestration.token.access import Clock
from vantage_orchestration.token.file_store import FileStore
from vantage_orchestration.token.renewal import _look, keep_fresh
from vantage_orchestration.token.request import Grant

ONCE = RetryPolicy(attempts=1, first_wait=0, max_wait=0, budget=5)


def background_config() -> VantageConfig:
    credentials = Credentials(
        region="eu",
        username="user@example.com",
        password="a password of length",
        client_id="client",
        client_secret="a client secret of sufficient length",
    )
    return VantageConfig(credentials, tokens=TokenSettings(background_renewal=True))


class World:
    """A clock that is set by hand, and a server that gives numbered tokens."""

    def __init__(self) -> None:
        self.now, self.logins = 1000.0, 0
        self.answers: list = []

    def log_in(self, config):
        self.logins += 1
        answer = self.answers.pop(0) if self.answers else None
        return answer or Grant(Secret(f"token-number-{self.logins}"), 3600.0)

    def source(self, config=None, **options) -> TokenSource:
        clock = Clock(lambda: self.now, lambda: self.now)
        config = config or VantageConfig(background_config().credentials)
        return TokenSource(config, log_in=self.log_in, clock=clock, retries=ONCE, **options)


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_renewal_comes_before_anybody_would_wait():
    world = World()
    source = world.source()
    assert source.due_in() is None
    assert _look(source) > 0, "there is nothing to renew before the first use"
    token = source.get()
    world.now = token.renew_at - 1
    assert source.get() is token
    assert _look(source) == 0.0
    assert source.get().reveal() == "token-number-2"
    assert world.logins == 2
    assert 0 < _look(source) <= 30
    assert world.logins == 2


def test_a_renewal_in_advance_that_fails_leaves_the_token(caplog):
    world = World()
    source = world.source()
    token = source.get()
    world.now = token.renew_at - 1
    world.answers = [errors.AuthUnavailable("out of order")]
    assert _look(source) > 0
    assert source.get() is token
    assert "could not be renewed in advance" in caplog.text


def test_processes_that_renew_in_advance_share_it(tmp_path):
    world = World()
    sources = [world.source(store=FileStore(tmp_path / "tokens")) for _ in range(4)]
    first = [source.get() for source in sources]
    world.now = max(token.renew_at for token in first) - 1
    for source in sources:
        _look(source)
    assert {source.get().reveal() for source in sources} == {"token-number-2"}
    assert world.logins == 2


def test_the_setting_starts_a_thread_that_renews():
    world = World()
    source = world.source(background_config())
    token = source.get()
    renewer = source._renewer
    assert renewer.is_alive()
    assert renewer.daemon
    world.now = token.renew_at - 1
    # The real thread naps up to 30 s; one more with short naps shows that the loop does its work.
    keep_fresh(source, nap=lambda _: time.sleep(0.01))
    wait_until(lambda: world.logins == 2)
    assert source.get().reveal() == "token-number-2"


def test_without_the_setting_there_is_no_thread():
    world = World()
    source = world.source()
    source.get()
    assert source._renewer is None


def test_the_thread_ends_with_the_source():
    world = World()
    source = world.source()
    source.get()
    thread = keep_fresh(source, nap=lambda _: time.sleep(0.01))
    seen = weakref.ref(source)
    del source
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
    assert seen() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own_thread():
    world = World()
    source = world.source(background_config())
    token = source.get()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            before = source._renewer
            world.now = token.ends_at + 1
            source.get()
            os.write(writing, f"{before} {source._renewer.is_alive()}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 25)
    answer = os.read(reading, 100) if ready else b"(hangs)"
    os.close(reading)
    os.waitpid(child, 0)
    assert answer == b"None True"


# -------------------------------------------------------------------- discovery

DOCUMENT = r"/\.well-known/openid-configuration$"


def discovering(sandbox, configure, **changes) -> TokenSource:
    tenant = sandbox.credentials["tenant_id"]
    return TokenSource(configure(discovery=True, tenant_id=tenant, **changes), retries=ONCE)


def token_paths(sandbox) -> list[str]:
    return [entry["path"] for entry in sandbox.control.journal(path_regex="connect/token$")]


def test_the_endpoint_comes_from_the_discovery_document(sandbox, configure):
    other = f"{sandbox.url}/auth2/connect/token"
    sandbox.control.add_fault(path_regex=DOCUMENT, merge_json={"token_endpoint": other})
    assert discovering(sandbox, configure).get()
    assert token_paths(sandbox) == ["/auth2/connect/token"], "not the path of the tenant"


def test_the_document_is_read_once_and_kept_in_the_store(sandbox, configure, tmp_path):
    store = FileStore(tmp_path / "tokens")
    for number in range(3):
        sandbox.control.revoke_tokens()
        tenant = sandbox.credentials["tenant_id"]
        config = configure(discovery=True, tenant_id=tenant)
        source = TokenSource(config, store=store, retries=ONCE)
        if number:
            source.invalidate(source.get())
        assert source.get()
    assert sandbox.control.count(path_regex=DOCUMENT) == 1
    assert len(token_paths(sandbox)) == 3


@pytest.mark.parametrize(
    "document",
    [
        {"token_endpoint": "https://evil.example/token"},
        {"token_endpoint": "http://127.0.0.1:9/auth2/connect/token"},
        {"token_endpoint": None},
        {"token_endpoint": ["x"]},
    ],
)
def test_an_endpoint_elsewhere_does_not_get_the_password(sandbox, configure, caplog, document):
    sandbox.control.add_fault(path_regex=DOCUMENT, merge_json=document)
    assert discovering(sandbox, configure).get()
    tenant = sandbox.credentials["tenant_id"]
    assert token_paths(sandbox) == [f"/auth2/{tenant}/connect/token"]
    assert caplog.text.count("discovery document") == 1


@pytest.mark.parametrize(
    "fault", [{"status": 404}, {"status": 503}, {"drop": True}, {"garbage": True}]
)
def test_without_a_document_the_documented_path_is_used(sandbox, configure, caplog, fault):
    sandbox.control.add_fault(path_regex=DOCUMENT, **fault)
    assert discovering(sandbox, configure).get()
    assert "documented token path is used" in caplog.text


def test_discovery_is_off_unless_set(sandbox, configure):
    TokenSource(configure()).get()
    assert sandbox.control.count(path_regex=DOCUMENT) == 0


def test_threads_do_not_pile_up():
    before = threading.active_count()
    world = World()
    source = world.source()
    for _ in range(50):
        source.invalidate(source.get())
    wait_until(lambda: threading.active_count() <= before + 1)
    assert world.logins == 50
