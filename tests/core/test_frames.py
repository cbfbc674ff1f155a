# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong: no local variable of a traceback shows a secret.

Error trackers, rich and Airflow's development mode show the local variables of every frame.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from core.conftest import ONCE
from leaks import find_leaks, find_leaks_in_frames

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import HttpSettings, VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.http import HttpSession
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.secret import MASK, Secret
from vantage_orchestration.token import TokenSource, command

PASSWORD = "p+a s%&=:e-ü-secret"
CLIENT_SECRET = "client/secret+of=length"
PROXY_PASSWORD = "made-up-proxy-password"
PROXY = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
SECRETS = (PASSWORD, CLIENT_SECRET, PROXY_PASSWORD)
GOOD = {
    "region": "eu",
    "username": "user@example.com",
    "password": PASSWORD,
    "client_id": "client",
    "client_secret": CLIENT_SECRET,
    "proxy": PROXY,
}
#: What makes each part of a credential wrong.
WRONG: dict[str, dict[str, Any]] = {
    "region": {"region": "mars"},
    "no region": {"region": ""},
    "both": {"base_url": "https://vantage.example.com"},
    "address": {"region": "custom", "base_url": f"https://user:{PASSWORD}@vantage.example.com"},
    "plain http": {"region": "custom", "base_url": "http://vantage.example.com"},
    "deprecated": {"auth_path": "/auth/connect/token"},
    "path": {"auth_path": "/a?b"},
    "api path": {"api_path": "/a b"},
    "no tenant": {"auth_path": "/auth2/{tenantId}/connect/token"},
    "no user": {"username": ""},
    "no client": {"client_id": ""},
    "masked": {"client_secret": MASK},
    "no UTF-8": {"password": f"{PASSWORD}\udcff"},
    "verify": {"verify": "perhaps"},
    "timeout": {"read_timeout": "soon"},
    "negative": {"connect_timeout": -1},
    "limit": {"result_limit": "inf"},
    "bundle": {"ca_bundle": "/nowhere/ca.pem"},
    "store": {"store": "moon"},
    "proxy": {"proxy": f"http://user:{PROXY_PASSWORD}@no proxy:x"},
    "kind of proxy": {"proxy": f"ftp://{PROXY_PASSWORD}"},
    "number": {"client_id": 12345678},
    "bytes": {"password": PASSWORD.encode()},
}


def check(error: BaseException, *more: str) -> None:
    assert find_leaks_in_frames([*SECRETS, *more], error) == []
    shown = (str(error), repr(error), error.args, vars(error), pickle.dumps(error))
    assert find_leaks([*SECRETS, *more], {"error": repr(shown)}) == []


def from_environment(values: dict[str, Any]) -> VantageConfig:
    names = {f"ABBYY_VANTAGE_{name.upper()}": str(value) for name, value in values.items()}
    return VantageConfig.from_env(names)


def from_process(values: dict[str, Any]) -> None:
    kept = dict(os.environ)
    try:
        for name, value in values.items():
            os.environ[f"ABBYY_VANTAGE_{name.upper()}"] = str(value)
        command.run(type("Arguments", (), {"of": "", "action": "status"})())
    finally:
        os.environ.clear()
        os.environ.update(kept)


def from_parts(values: dict[str, Any]) -> Credentials:
    names = Credentials.__slots__
    return Credentials(
        **{name: value for name, value in values.items() if name in (*names, "auth_path")}
    )


ENTRANCES: dict[str, Callable[[dict[str, Any]], object]] = {
    "fields": VantageConfig.from_fields,
    "environment": from_environment,
    "process": from_process,
    "parts": from_parts,
    "client": lambda values: VantageClient(lambda: VantageConfig.from_fields(values)),
}


PARTS = {*Credentials.__slots__, "auth_path"}
CASES = [
    (entrance, wrong)
    for entrance in ENTRANCES
    for wrong, values in WRONG.items()
    # The environment holds texts only, and the credentials are no more than a part of it all.
    if not (entrance in ("environment", "process") and wrong in ("number", "bytes"))
    and (entrance != "parts" or set(values) <= PARTS)
]


@pytest.mark.parametrize(("entrance", "wrong"), CASES)
def test_a_credential_that_is_refused_shows_nothing(entrance: str, wrong: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        ENTRANCES[entrance]({**GOOD, **WRONG[wrong]})
    check(caught.value)


def test_arguments_of_no_use_are_named_and_nothing_is_shown() -> None:
    with pytest.raises(TypeError, match="passwort") as caught:
        Credentials(passwort=PASSWORD, client_secret=CLIENT_SECRET)  # type: ignore[call-arg]
    check(caught.value)
    with pytest.raises(errors.ConfigurationError) as refused:
        Credentials(region=None, password=PASSWORD)  # type: ignore[arg-type]
    check(refused.value)


def test_the_search_finds_what_is_in_a_frame() -> None:
    holder = type("Holder", (), {})()
    holder.inner = {"deep": [(b"x" + PASSWORD.encode(),)]}

    def fail() -> None:
        raise errors.ConfigurationError("It failed")

    code = compile(
        "def outer(holder, fail):\n fail()", "x/vantage_orchestration/made_up.py", "exec"
    )
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(errors.ConfigurationError) as caught:
        names["outer"](holder, fail)
    assert find_leaks_in_frames([PASSWORD], caught.value) == ["made_up.py:2 holder"]


# ------------------------------------------------------------- on the wire


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(password=PASSWORD, client_secret=CLIENT_SECRET) as sandbox:
        yield sandbox


@pytest.fixture
def make(
    server: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VantageClient]]:
    """Make clients of the sandbox that try once."""
    monkeypatch.setitem(TokenSource.__init__.__kwdefaults__, "retries", ONCE)
    with ExitStack() as stack:

        def make(**changes: Any) -> VantageClient:
            values = {k: v for k, v in server.credentials.items() if k != "tenant_id"}
            values |= {"region": "custom", "base_url": server.url, "store": "memory", **changes}
            config = VantageConfig.from_fields(values)
            return stack.enter_context(VantageClient(config, retries=ONCE))

        yield make
    server.control.clear_faults()


TRANSACTION = "11111111-1111-4111-8111-111111111111"
CALLS: dict[str, Callable[[VantageClient, Path], object]] = {
    "list": lambda client, _: client.list_skills(),
    "look": lambda client, _: client.get_transaction(TRANSACTION),
    "create": lambda client, _: client.create_transaction("skill"),
    "start": lambda client, _: client.start_transaction(TRANSACTION),
    "delete": lambda client, _: client.delete_transaction(TRANSACTION),
    "upload": lambda client, path: client.add_files(TRANSACTION, [path]),
    "launch": lambda client, path: client.launch_transaction("skill", [path]),
    "download": lambda client, path: client.download_result(TRANSACTION, "f", path),
    "read": lambda client, _: client.read_result(TRANSACTION, "f"),
    "session": lambda client, _: client.session.get("/skills").raise_for_status(),
    "session, elsewhere": lambda client, _: client.session.get("http://127.0.0.1:9/"),
}
FAULTS: dict[str, dict[str, Any]] = {
    "401": {"status": 401},
    "403": {"status": 403},
    "500": {"status": 500},
    "redirect": {"status": 302, "headers": {"Location": "https://elsewhere.example.com"}},
    "nonsense": {"garbage": True},
    "dropped": {"drop": True},
    "cut": {"truncate": 10},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_shows_nothing(
    fault: str, make: Callable[..., VantageClient], server: SandboxServer, tmp_path: Path
) -> None:
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"%PDF-1.4 made up")
    client = make()
    client.list_skills()
    server.control.add_fault(path_regex="/publicapi/", times=0, **FAULTS[fault])
    failed = 0
    for name, call in CALLS.items():
        try:
            call(client, path)
        except (errors.VantageError, requests.RequestException) as error:
            failed += 1
            check(error, *server.control.issued_secrets())
        else:
            assert name in ("start", "delete", "upload", "read", "download", "session"), name
    assert failed >= len(CALLS) - 6


@pytest.mark.parametrize("fault", FAULTS)
def test_a_login_that_fails_shows_nothing(
    fault: str, make: Callable[..., VantageClient], server: SandboxServer
) -> None:
    client = make(scope=f"openid {fault}")  # No token of another test.
    server.control.add_fault(path_regex="/connect/token", times=0, **FAULTS[fault])
    for call in (client.get_token, client.list_skills):
        with pytest.raises(errors.VantageError) as caught:
            call()
        check(caught.value, *server.control.issued_secrets())


def test_a_proxy_that_fails_shows_nothing(make: Callable[..., VantageClient]) -> None:
    client = make(proxy=PROXY)
    for call in (client.get_token, client.list_skills):
        with pytest.raises(errors.VantageError) as caught:
            call()
        check(caught.value)
    with HttpSession(client.config.http, base_url="http://127.0.0.1:8") as session:
        for call in (session.get, session.post):
            with pytest.raises(requests.RequestException) as raw:
                call("/skills")
            check(raw.value)


def test_a_file_that_fails_on_its_way_shows_nothing(
    make: Callable[..., VantageClient], server: SandboxServer, tmp_path: Path
) -> None:
    client = make()

    class Full:
        def tell(self) -> int:
            return 0

        def seek(self, *_: object) -> int:
            return 0

        def truncate(self) -> int:
            return 0

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    server.control.add_fault(path_regex="/download", status=200, body="fields", times=0)
    with pytest.raises(OSError, match="No space") as caught:
        client.stream_result(TRANSACTION, "f", Full())  # type: ignore[arg-type]
    check(caught.value, *server.control.issued_secrets())


def test_what_a_session_leaves_behind_holds_no_token(
    make: Callable[..., VantageClient], server: SandboxServer
) -> None:
    client = make()
    response = client.session.get("/skills")
    assert response.status_code == 200
    holder = errors.ConfigurationError("holds the reply")
    holder.response = response  # type: ignore[attr-defined]
    holder.client = client  # type: ignore[attr-defined]
    assert find_leaks_in_frames([*SECRETS, *server.control.issued_secrets()], holder) == []


# -------------------------------------------------------- pickles and copies


def test_what_is_public_is_copied_and_pickled_without_secrets(
    make: Callable[..., VantageClient],
) -> None:
    client = make()
    token = client.get_token()
    config = client.config
    secret = Secret(PASSWORD)
    for value in (secret, token, config.credentials, config.http, config, client.session):
        if value is config.http and not value.proxy:
            value = HttpSettings(proxy=Secret(PROXY))
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(value)
    for value in (secret, token, config.credentials, config):
        assert copy.deepcopy(value) == value
        assert copy.copy(value) == value
    with pytest.raises(TypeError):
        pickle.dumps(client)
