# SPDX-License-Identifier: Apache-2.0
"""The token module over a real connection, with servers that behave and servers that do not."""

from __future__ import annotations

import datetime
import http.client
import http.server
import logging
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from core.conftest import ONCE
from leaks import find_leaks

from vantage_orchestration import errors
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import VantageError
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.token import TokenSource, token_source

TOKEN_PATH = "/auth2/connect/token"
QUICK = RetryPolicy(attempts=3, first_wait=0.001, max_wait=0.002, budget=30)


def source_of(config: VantageConfig, retries: RetryPolicy = QUICK) -> TokenSource:
    return TokenSource(config, retries=retries)


def logins(sandbox) -> int:
    return sandbox.control.count(path_regex="connect/token")


class Recorder(http.server.BaseHTTPRequestHandler):
    """Another host: keeps all that reaches it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.requestline} {self.headers}".encode() + body)
        data = b'{"access_token": "token-from-elsewhere", "token_type": "Bearer"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST
    do_CONNECT = do_POST

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_login_keeps_the_contract(sandbox, configure, sent):
    token = source_of(configure()).get()
    assert token.reveal() in sandbox.control.issued_secrets()
    assert token.lifetime == 3600
    tenant = sandbox.credentials["tenant_id"]
    source_of(configure(tenant_id=tenant)).get()
    source_of(configure(grant_type="client_credentials", username="", password="")).get()
    assert sent == [
        f"POST {TOKEN_PATH}",
        f"POST /auth2/{tenant}/connect/token",
        f"POST {TOKEN_PATH}",
    ]


@pytest.mark.parametrize(
    "password", ["p+a s%&=:e", "ümläut-日本-😀", "x" * 4096, "new\nline", "%41%zz&x=1#;"]
)
def test_every_password_arrives_as_it_is(password):
    with SandboxServer(password=password, client_secret=password) as sandbox:
        config = VantageConfig.from_fields(
            {
                "region": "custom",
                "store": "memory",
                "base_url": sandbox.url,
                "username": "user@example.com",
                "password": password,
                "client_id": "example-client",
                "client_secret": password,
            }
        )
        assert source_of(config).get().lifetime == 3600


def test_64_threads_in_different_places_make_one_login(sandbox, configure):
    # Each thread makes its own configuration, as hooks and blocks of different tasks do.
    with ThreadPoolExecutor(64) as pool:
        tokens = list(pool.map(lambda _: token_source(configure()).get().reveal(), range(64)))
    assert len(set(tokens)) == 1
    assert logins(sandbox) == 1


def test_a_wrong_password_is_sent_once_and_the_account_stays_open(sandbox, configure):
    wrong = configure(password="not the password")
    for _ in range(20):
        with pytest.raises(errors.CredentialsRejected, match="Check user name"):
            token_source(wrong).get()
    assert logins(sandbox) == 1
    assert source_of(configure()).get()


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"password": "not the password"}, errors.CredentialsRejected, "region"),
        ({"client_id": "nobody"}, errors.ClientRejected, "'nobody'"),
        ({"client_secret": "an expired secret"}, errors.ClientRejected, "six months"),
        ({"scope": "openid something"}, errors.ScopeRejected, "global.wildcard"),
        ({"grant_type": "device_code"}, errors.GrantNotAllowed, "device_code"),
        ({"tenant_id": "no-such-tenant"}, errors.AuthProtocolError, "tenant id"),
        ({"auth_path": "/auth2/nowhere"}, errors.AuthProtocolError, "authentication path"),
    ],
)
def test_refusals_of_a_real_server_teach(sandbox, configure, changes, kind, says):
    with pytest.raises(kind, match=says):
        source_of(configure(**changes)).get()
    assert sandbox.control.count(method="POST") == 1


def test_single_sign_on_and_several_tenants_are_told_apart(sandbox, configure):
    seeded = sandbox.control.credentials()
    foreign = next(t for t in seeded["tenants"] if t.get("external_identity_provider"))
    user = next(u for u in seeded["users"] if foreign["id"] in u["tenant_ids"])
    client = next(c for c in seeded["clients"] if c["tenant_id"] == foreign["id"])
    account = {
        "username": user["username"],
        "password": user["password"],
        "client_id": client["client_id"],
        "client_secret": client["client_secret"],
    }
    with pytest.raises(errors.GrantNotAllowed, match="client_credentials"):
        source_of(configure(**account)).get()
    assert source_of(configure(**account, grant_type="client_credentials")).get()

    several = next(u for u in seeded["users"] if len(u["tenant_ids"]) > 1)
    main = {"username": several["username"], "password": several["password"]}
    with pytest.raises(errors.CredentialsRejected, match="Set the tenant id"):
        source_of(configure(**main)).get()
    assert source_of(configure(**main, tenant_id=sandbox.credentials["tenant_id"])).get()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_with_a_password(sandbox, configure, elsewhere, status):
    target = f"http://127.0.0.1:{elsewhere.server_port}/x"
    sandbox.control.add_fault(path=TOKEN_PATH, status=status, headers={"Location": target})
    with pytest.raises(errors.AuthProtocolError, match="Redirects are not followed"):
        source_of(configure()).get()
    assert elsewhere.seen == []


def test_netrc_is_not_read(sandbox, configure, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list = []
    send = http.client.HTTPConnection.send
    monkeypatch.setattr(
        http.client.HTTPConnection, "send", lambda self, data: seen.append(data) or send(self, data)
    )
    source_of(configure()).get()
    wire = b"".join(bytes(data) for data in seen)
    assert b"grant_type=password" in wire
    assert b"authorization" not in wire.lower()


def test_a_proxy_of_the_environment_does_not_get_passwords_for_this_machine(
    sandbox, configure, elsewhere, monkeypatch
):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{elsewhere.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert source_of(configure()).get().reveal() in sandbox.control.issued_secrets()
    assert elsewhere.seen == []


def test_a_proxy_that_is_set_is_used(configure, elsewhere):
    proxy = f"http://127.0.0.1:{elsewhere.server_port}"
    assert source_of(configure(proxy=proxy)).get().reveal() == "token-from-elsewhere"
    assert len(elsewhere.seen) == 1


def test_a_proxy_that_is_not_there_is_named(configure):
    with pytest.raises(errors.AuthUnavailable, match="proxy") as caught:
        source_of(configure(proxy="http://user:proxy-password@127.0.0.1:9")).get()
    leaks = find_leaks(["proxy-password"], {"error": str(caught.value)})
    assert leaks == []


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200, "body": "<html>Sign in</html>"},
        {"status": 200, "json": ["a", "list"]},
        {"status": 200, "json": {"access_token": None, "token_type": "Bearer"}},
        {"status": 200, "body_size": 50_000_000},
        {"status": 200, "gzip_size": 50_000_000},
        {
            "status": 200,
            "json": {"access_token": "x" * 40, "token_type": "Bearer", "expires_in": 0},
        },
    ],
)
def test_what_is_no_token_reply_is_refused(sandbox, configure, fault):
    sandbox.control.add_fault(path=TOKEN_PATH, times=1, **fault)
    source = source_of(configure())
    with pytest.raises(errors.AuthProtocolError) as caught:
        source.get()
    assert "x" * 20 not in str(caught.value)
    assert logins(sandbox) == 1
    assert source.get()


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 408},
        {"drop": True},
        {"status": 429, "retry_after": 0},
        {"status": 429, "retry_after_date": -5},
        {"status": 429, "headers": {"Retry-After": "soon"}},
    ],
)
def test_passing_trouble_is_waited_out(sandbox, configure, fault):
    sandbox.control.add_fault(path=TOKEN_PATH, times=2, **fault)
    assert source_of(configure()).get()
    assert logins(sandbox) == 3


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"drop": True}])
def test_trouble_that_stays_ends_after_three_tries(sandbox, configure, fault):
    sandbox.control.add_fault(path=TOKEN_PATH, times=0, **fault)
    with pytest.raises(errors.AuthError) as caught:
        source_of(configure()).get()
    assert caught.value.retryable
    assert logins(sandbox) == 3


def test_retry_after_is_kept_in_both_forms(sandbox, configure):
    slept: list[float] = []
    policy = RetryPolicy(attempts=3, first_wait=1, max_wait=1, budget=3600, sleep=slept.append)
    sandbox.control.add_fault(path=TOKEN_PATH, status=429, retry_after=17)
    sandbox.control.add_fault(path=TOKEN_PATH, status=429, retry_after_date=600)
    assert source_of(configure(), policy).get()
    assert slept[0] == 17
    assert 590 <= slept[1] <= 600


def test_a_slow_reply_ends_in_an_error(sandbox, configure):
    sandbox.control.add_fault(path=TOKEN_PATH, delay=5, times=0)
    with pytest.raises(errors.AuthUnavailable, match="in time"):
        source_of(configure(read_timeout=0.2)).get()


def test_a_reply_that_drips_is_given_up(sandbox, configure):
    # Each byte comes in time for the socket, the whole does not.
    sandbox.control.add_fault(path=TOKEN_PATH, chunk_size=1, chunk_delay=0.05, times=0)
    with pytest.raises(errors.AuthUnavailable, match="did not arrive in time"):
        source_of(configure(read_timeout=2), ONCE).get()


def test_nobody_there_is_said_with_the_host(configure):
    with pytest.raises(errors.AuthUnavailable, match=r"could not be made.*127\.0\.0\.1:9"):
        source_of(configure(base_url="http://127.0.0.1:9")).get()


def failure_of(config: VantageConfig) -> VantageError | None:
    """Return how a login fails. Has no secret in a local variable that an error would keep."""
    try:
        source_of(config).get()
    except VantageError as error:
        return error
    return None


def test_debug_output_of_all_layers_shows_no_secret(sandbox, configure, caplog, capfd, monkeypatch):
    config = configure()
    secrets = [config.credentials.password.reveal(), config.credentials.client_secret.reveal()]
    echo = {"error": "invalid_grant", "error_description": f"no: {secrets[0]}"}
    sandbox.control.add_fault(path=TOKEN_PATH, after=2, status=400, json=echo)
    caplog.set_level(logging.DEBUG)
    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPConnection, "debuglevel", 1)
        caught = [
            failure_of(configure(**changes))
            for changes in ({}, {"scope": "openid"}, {}, {"base_url": "http://127.0.0.1:9"})
        ]
    kinds = [type(error) for error in caught]
    assert kinds == [
        type(None),
        errors.ScopeRejected,
        errors.CredentialsRejected,
        errors.AuthUnavailable,
    ]
    secrets += sandbox.control.issued_secrets()
    assert len(secrets) == 3
    out, err = capfd.readouterr()
    places = {"log": caplog.text, "stdout": out, "stderr": err}
    places |= {f"error {number}": error for number, error in enumerate(caught) if error}
    leaks = find_leaks(secrets, places)
    assert leaks == []
    assert "POST /auth2/connect/token" in caplog.text, "the layers did log"
    assert find_leaks(secrets, {"control": f"Authorization: Bearer {secrets[-1]}"}) == ["control"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that only its own CA bundle knows."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Example test authority")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


@pytest.fixture
def tls_server(certificate, elsewhere):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    elsewhere.socket = context.wrap_socket(elsewhere.socket, server_side=True)
    return f"https://127.0.0.1:{elsewhere.server_port}"


def test_an_unknown_certificate_is_refused_before_the_password_is_sent(
    configure, tls_server, elsewhere
):
    with pytest.raises(errors.ConfigurationError, match="CA bundle"):
        source_of(configure(base_url=tls_server)).get()
    assert elsewhere.seen == []


def test_an_own_ca_bundle_is_used(configure, tls_server, certificate):
    bundle = str(certificate / "cert.pem")
    source = source_of(configure(base_url=tls_server, ca_bundle=bundle))
    assert source.get().reveal() == "token-from-elsewhere"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificate_checks_can_be_turned_off(configure, tls_server):
    assert source_of(configure(base_url=tls_server, verify="false")).get()


def test_a_ca_bundle_that_is_none_is_an_error_and_no_hang(configure, tls_server, certificate):
    bundle = str(certificate / "key.pem")
    with pytest.raises(VantageError):
        source_of(configure(base_url=tls_server, ca_bundle=bundle)).get()
