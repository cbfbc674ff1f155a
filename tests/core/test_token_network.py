# SPDX-License-Identifier: Apache-2.0
"""Certificates, proxies and broken connections: what a connection sets wins over the environment,
and each fault is named as what it is."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import ssl
import zlib
from pathlib import Path

import pytest
from core.conftest import ONCE
from endpoints import (
    GRANT,
    HOST,
    Answer,
    Authority,
    Endpoint,
    Port,
    Proxy,
    closes,
    drip,
    drips,
    resets,
    serving,
    speaks_plainly,
)

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import VantageError
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.token import TokenSource, token_source
from vantage_orchestration.upload import SourceFile

QUICK = RetryPolicy(attempts=3, first_wait=0.001, max_wait=0.002, budget=30)
FIELDS = {
    "region": "custom",
    "username": "user@example.com",
    "password": "a password of length",
    "client_id": "client",
    "client_secret": "a client secret of sufficient length",
}
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (*VARIABLES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder) -> Authority:
    return Authority(folder / "ours", "Example authority")


@pytest.fixture(scope="module")
def other(folder) -> Authority:
    return Authority(folder / "other", "Another authority")


@pytest.fixture(scope="module")
def server(ours):
    with serving(Endpoint(context=ours.context)) as server:
        yield server


@pytest.fixture
def proxies(server):
    """Proxies by number that lead to the server."""
    with serving(Proxy(server.server_port)) as one, serving(Proxy(server.server_port)) as two:
        yield one, two


def config_for(url, **changes) -> VantageConfig:
    fields = {"base_url": url, "store": "memory", **FIELDS, **changes}
    return VantageConfig.from_fields({k: v for k, v in fields.items() if v is not None})


def source_of(config) -> TokenSource:
    """Return a source as another process would have it."""
    return TokenSource(config, store=config.open_store(), retries=QUICK)


def failure_of(config) -> VantageError | None:
    """Log in and call the API, each by a connection of its own; return what failed."""
    try:
        source_of(config).get()
        with VantageClient(config, retries=QUICK) as client:
            assert client.session.get("/skills").status_code == 200
            client.list_skills()
    except VantageError as error:
        return error
    return None


# ---------------------------------------------------------------- certificates


BUNDLES = ["", "ours", "other"]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("own", BUNDLES)
@pytest.mark.parametrize("far", [False, True])
def test_the_connections_certificates_win_over_the_environments(
    server, proxies, ours, other, monkeypatch, verify, own, far
):
    place = {"url": server.url}
    if far:
        place = {"url": f"https://{HOST}:{server.server_port}", "proxy": proxies[0].url}
    paths = {"": None, "ours": str(ours.bundle), "other": str(other.bundle)}
    for requests_bundle, curl_bundle in itertools.product(BUNDLES, BUNDLES):
        for name, value in (
            ("REQUESTS_CA_BUNDLE", requests_bundle),
            ("CURL_CA_BUNDLE", curl_bundle),
        ):
            monkeypatch.setenv(name, paths[value] or "")
        failure = failure_of(config_for(**place, verify=verify, ca_bundle=paths[own]))
        trusted = own or requests_bundle or curl_bundle
        case = (verify, own, requests_bundle, curl_bundle, failure)
        if not verify or trusted == "ours":
            assert failure is None, case
            continue
        assert type(failure) is errors.ConfigurationError, case
        assert "certificate of the server was not accepted" in str(failure), case
        named = "connection" if own else "REQUESTS_CA_BUNDLE" if requests_bundle else None
        assert (named or ("CURL_CA_BUNDLE" if curl_bundle else "set the CA bundle")) in str(failure)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("content", [None, b"", b"no PEM", "key"])
def test_a_bundle_that_can_not_be_used_is_named(server, ours, tmp_path, monkeypatch, own, content):
    path = tmp_path / "bundle.pem"
    if content is not None:
        key = ours.bundle.with_name("server.pem").read_bytes().partition(b"-----BEGIN CERT")[0]
        path.write_bytes(key if content == "key" else content)
    if own and content is None:
        with pytest.raises(errors.ConfigurationError, match="does not exist"):
            config_for(server.url, ca_bundle=str(path))
        return
    if not own:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    failure = failure_of(config_for(server.url, ca_bundle=str(path) if own else None))
    assert type(failure) is errors.ConfigurationError
    assert str(path) in str(failure)
    assert ("the connection" if own else "REQUESTS_CA_BUNDLE") in str(failure)


def test_a_bundle_in_the_home_folder_is_found(server, ours, monkeypatch):
    monkeypatch.setenv("HOME", str(ours.bundle.parent))
    assert failure_of(config_for(server.url, ca_bundle="~/authority.pem")) is None


def test_a_bundle_that_vanishes_is_an_error_of_ours(server, ours, tmp_path):
    path = tmp_path / "bundle.pem"
    path.write_bytes(ours.bundle.read_bytes())
    with VantageClient(config_for(server.url, ca_bundle=str(path)), retries=QUICK) as client:
        client.list_skills()
        path.unlink()
        client.session.close()
        with pytest.raises(VantageError):
            client.list_skills()


# --------------------------------------------------------------------- proxies


@pytest.mark.parametrize("own", ["", "one", "none"])
@pytest.mark.parametrize("scheme", ["", "two", "dead"])
@pytest.mark.parametrize("everything", ["", "two"])
@pytest.mark.parametrize("bypass", ["", HOST, "*", ".invalid"])
def test_the_connections_proxy_wins_over_the_environments(
    server, proxies, ours, monkeypatch, own, scheme, everything, bypass
):
    one, two = proxies
    addresses = {"": "", "one": one.url, "two": two.url, "dead": "http://127.0.0.1:9"}
    monkeypatch.setenv("HTTPS_PROXY", addresses[scheme])
    monkeypatch.setenv("ALL_PROXY", addresses[everything])
    monkeypatch.setenv("NO_PROXY", bypass)
    config = config_for(
        f"https://{HOST}:{server.server_port}",
        ca_bundle=str(ours.bundle),
        proxy=own if own == "none" else addresses[own],
    )
    failure = failure_of(config)
    used = own or ("" if bypass else scheme or everything)
    asked = {name: len(proxy.asked) for name, proxy in (("one", one), ("two", two))}
    if used in asked:
        assert failure is None
        assert asked.pop(used) >= 2
    else:
        assert failure.retryable
        says = "could not be reached" if used == "dead" else "could not be made"
        assert says in str(failure)
        if used == "dead":
            assert "proxy of the environment" in str(failure)
    assert not any(asked.values())


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    server, proxies, ours, monkeypatch
):
    _, two = proxies
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, two.url)
    assert failure_of(config_for(server.url, ca_bundle=str(ours.bundle))) is None
    assert two.asked == []


@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "ftp://x:1",
        "http://x:port",
        "http://x:99999",
        "http://a b:1",
        "://x",
        "http://x:0",
    ],
)
def test_a_proxy_that_is_no_address_is_refused_before_anything_is_sent(server, monkeypatch, proxy):
    with pytest.raises(errors.ConfigurationError, match="proxy"):
        config_for(server.url, proxy=proxy)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    failure = failure_of(config_for(f"https://{HOST}:{server.server_port}"))
    assert isinstance(failure, VantageError)


@pytest.mark.parametrize("of", ["connection", "environment"])
def test_a_proxy_that_wants_a_login_is_asked_once_and_named(
    server, ours, monkeypatch, tmp_path, of
):
    with serving(Proxy(server.server_port, login="user:right")) as proxy:
        wrong = proxy.url.replace("//", "//user:wrong-password@")
        if of == "environment":
            monkeypatch.setenv("HTTPS_PROXY", wrong)
        config = config_for(
            f"https://{HOST}:{server.server_port}",
            ca_bundle=str(ours.bundle),
            proxy=wrong if of == "connection" else None,
            store="file",
            store_path=str(tmp_path / "tokens"),
        )
        for _ in range(3):
            failure = failure_of(config)  # Each has a source of its own, as another process has.
            assert type(failure) is errors.ConfigurationError
            assert failure.status == 407
            assert "407" in failure.what
            assert f"proxy of the {of}" in str(failure)
            assert "wrong-password" not in str(failure)
        assert len(proxy.asked) == 1
        right = proxy.url.replace("//", "//user:right@")
        config = config_for(
            f"https://{HOST}:{server.server_port}",
            ca_bundle=str(ours.bundle),
            proxy=right,
            store_path=str(tmp_path / "tokens"),
        )
        assert failure_of(config) is None


def test_407_of_the_api_is_final_and_named(server, ours, proxies):
    one, _ = proxies
    config = config_for(
        f"https://{HOST}:{server.server_port}", ca_bundle=str(ours.bundle), proxy=one.url
    )
    with VantageClient(config, retries=QUICK) as client:
        client.get_token()
        one.status, asked = 407, len(one.asked)
        with pytest.raises(errors.ConfigurationError, match="407") as caught:
            client.list_skills()
        assert not caught.value.retryable
        assert len(one.asked) == asked + 1


def test_407_without_a_tunnel_is_final_as_well(tmp_path):
    with serving(Proxy(1, status=407)) as proxy:
        config = config_for("http://127.0.0.1:9", proxy=proxy.url)
        failure = failure_of(config)
        assert type(failure) is errors.ConfigurationError
        assert "answered 407" in str(failure)
        assert len(proxy.asked) == 1


@pytest.mark.parametrize("status", [403, 502, 503])
def test_what_a_proxy_answers_is_said(server, ours, status):
    with serving(Proxy(server.server_port, status=status)) as proxy:
        url = f"https://{HOST}:{server.server_port}"
        failure = failure_of(config_for(url, ca_bundle=str(ours.bundle), proxy=proxy.url))
        assert f"proxy answered {status}" in str(failure)
        assert failure.retryable


# ------------------------------------------------- what belongs to which trust


def test_a_token_belongs_to_the_trust_it_was_obtained_under(
    server, ours, other, proxies, tmp_path, monkeypatch
):
    both, copy = tmp_path / "both.pem", tmp_path / "copy.pem"
    both.write_bytes(ours.bundle.read_bytes() + other.bundle.read_bytes())
    copy.write_bytes(ours.bundle.read_bytes())
    one, two = proxies
    url = f"https://{HOST}:{server.server_port}"
    store = {"store": "file", "store_path": str(tmp_path / "tokens")}
    kinds = [
        {"ca_bundle": str(ours.bundle), "proxy": one.url},
        {"ca_bundle": str(ours.bundle), "proxy": two.url},
        {"ca_bundle": str(both), "proxy": one.url},
        {"verify": False, "proxy": one.url},
        {"verify": False, "proxy": two.url},
    ]
    before = server.logins.total()
    for count, kind in enumerate(kinds, 1):
        for _ in range(2):
            assert source_of(config_for(url, **store, **kind)).get()
            assert server.logins.total() - before == count, kind
    sources = {token_source(config_for(url, **store, **kind)) for kind in kinds}
    assert len(sources) == len(kinds)
    # The same authorities under another path, or by the environment, are the same trust.
    for name, value in (("REQUESTS_CA_BUNDLE", str(copy)), ("HTTPS_PROXY", one.url)):
        monkeypatch.setenv(name, value)
    assert source_of(config_for(url, **store)).get()
    # What the path holds counts, not the path.
    copy.write_bytes(both.read_bytes() + other.bundle.read_bytes())
    assert server.logins.total() - before == len(kinds)
    assert source_of(config_for(url, **store)).get()
    assert server.logins.total() - before == len(kinds) + 1


# ------------------------------------------------------------ broken handshakes


def old_version(ours) -> Endpoint:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.bundle.with_name("server.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return Endpoint(context=context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize("fault", [closes, resets, speaks_plainly, old_version])
def test_a_handshake_that_breaks_is_a_fault_of_the_network(ours, fault):
    port = old_version(ours) if fault is old_version else Port(fault)
    with serving(port):
        config = config_for(
            f"https://127.0.0.1:{port.server_address[1]}", ca_bundle=str(ours.bundle)
        )
        failure = failure_of(config)
        assert type(failure) is errors.AuthUnavailable
        assert "TLS handshake failed" in str(failure)
        assert "certificate" not in str(failure)
        if fault is not old_version:
            assert port.connections == 3


@pytest.mark.parametrize("fault", [closes, resets, speaks_plainly])
def test_a_handshake_that_breaks_for_an_api_call_is_repeated_and_leaves_no_doubt(
    server, ours, proxies, fault
):
    one, _ = proxies
    with serving(Port(fault)) as port:
        url = f"https://{HOST}:{server.server_port}"
        config = config_for(url, ca_bundle=str(ours.bundle), proxy=one.url)
        with VantageClient(config, retries=QUICK) as client:
            client.get_token()
            one.port = port.server_address[1]
            with pytest.raises(errors.ConnectionFailed, match="TLS handshake") as caught:
                client.create_transaction("s")
            assert (caught.value.retryable, caught.value.doubtful) == (True, False)
            assert port.connections == 3


# ------------------------------------------------------------------ odd replies

HEAD = b"HTTP/1.1 200 OK\r\nX-Padding: "


def packed(data: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("data", [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD])
def test_headers_that_drip_are_given_up(data):
    with serving(Port(drips(data))) as port:
        url = f"http://127.0.0.1:{port.server_address[1]}"
        with pytest.raises(errors.AuthUnavailable, match="in time"):
            TokenSource(config_for(url, read_timeout=0.3), retries=ONCE).get()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, errors.PayloadTooLarge), (401, errors.Unauthorized), (429, errors.RateLimited)],
)
@pytest.mark.parametrize("error", [ssl.SSLEOFError, ssl.SSLZeroReturnError, BrokenPipeError])
def test_the_reply_of_a_server_that_reads_no_body_is_read(ours, monkeypatch, status, kind, error):
    """It closes the connection, so that sending the rest fails. TLS has errors of its own."""
    send = http.client.HTTPConnection.send

    def broken(self, data):
        if isinstance(data, bytes) and b"made up" in data:
            raise error(8, "EOF occurred in violation of protocol")
        send(self, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", broken)
    with serving(Endpoint(context=ours.context)) as endpoint:
        endpoint.early = Answer(status, b"")
        config = config_for(endpoint.url, ca_bundle=str(ours.bundle))
        with VantageClient(config, retries=ONCE) as client, pytest.raises(kind):
            client.add_files("t", [SourceFile.of(b"made up", name="a.pdf")])


def test_headers_of_the_api_that_drip_are_given_up():
    with serving(Endpoint()) as endpoint:
        endpoint.behave = lambda connection: drip(connection, HEAD)
        client = VantageClient(config_for(endpoint.url, read_timeout=0.3), retries=QUICK)
        with client, pytest.raises(errors.ConnectionFailed, match="in time"):
            client.list_skills()


def test_a_proxy_whose_headers_drip_is_given_up():
    with serving(Port(drips(HEAD))) as port:
        proxy = f"http://127.0.0.1:{port.server_address[1]}"
        config = config_for(f"https://{HOST}", proxy=proxy, connect_timeout=0.3)
        assert failure_of(config).retryable


@pytest.mark.parametrize(
    ("encoding", "data", "kind", "says"),
    [
        ("gzip", "gzip", None, None),
        ("x-gzip", "gzip", None, None),
        ("deflate", "zlib", None, None),
        ("identity", "plain", None, None),
        ("gzip", b"no gzip at all", errors.AuthProtocolError, "can't be unpacked"),
        ("br", b"\x0b\x02\x80", errors.AuthProtocolError, "compressed with br"),
        ("gzip, gzip", "gzip", errors.AuthProtocolError, "compressed with gzip, gzip"),
        ("gzip", "bomb", errors.AuthProtocolError, "has more than 1048576 bytes"),
        ("", b"x" * 2_000_000, errors.AuthProtocolError, "has more than 1048576 bytes"),
    ],
)
def test_a_compressed_reply_is_read_and_an_overlong_or_damaged_one_named(
    encoding, data, kind, says
):
    grant = json.dumps(GRANT).encode()
    kinds = {
        "plain": grant,
        "gzip": packed(grant, 31),
        "zlib": packed(grant, 15),
        "bomb": packed(b" " * 50_000_000, 31),
    }
    body = kinds[data] if isinstance(data, str) else data
    headers = {"Content-Encoding": encoding} if encoding else {}
    with serving(Endpoint(lambda name: Answer(200, body, headers))) as server:
        source = source_of(config_for(server.url))
        if kind is None:
            assert source.get().reveal() == GRANT["access_token"]
        else:
            with pytest.raises(kind, match=says) as caught:
                source.get()
            assert not caught.value.retryable
        assert server.logins.total() == 1


def test_a_slow_reply_is_retried():
    with serving(
        Port(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b" " * 999))
    ) as port:
        url = f"http://127.0.0.1:{port.server_address[1]}"
        with pytest.raises(
            errors.AuthUnavailable, match=r"did not (come|answer) in time"
        ) as caught:
            source_of(config_for(url, read_timeout=0.2)).get()
        assert caught.value.retryable
        assert port.connections == 3


def test_nothing_of_the_environment_is_changed(server, ours, proxies):
    before = dict(os.environ)
    failure_of(config_for(server.url, ca_bundle=str(ours.bundle)))
    assert dict(os.environ) == before
