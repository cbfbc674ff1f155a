# SPDX-License-Identifier: Apache-2.0
"""Servers for what the sandbox does not do: token endpoints that answer as they are told, private
certificate authorities, proxies, and ports on which nothing sensible happens."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import ipaddress
import json
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

GRANT = {"access_token": "a-token-of-the-endpoint", "token_type": "Bearer", "expires_in": 3600}
#: A name that no name service knows: whoever reaches it went through a proxy.
HOST = "vantage.invalid"


@dataclass(frozen=True)
class Answer:
    """A reply: JSON data, or bytes as they are."""

    status: int = 200
    body: Any = field(default_factory=lambda: GRANT)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers each token request by its user name, and counts them; other requests get ``[]``.

    Attributes:
        answer: Gives the answer to a user name.
        logins: Requests by user name.
        seen: Headers and form of each request.
        behave: Called with the connection of each other request, if set.
        early: Answers files, if set, before it has read them, and closes.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[str], Answer] = lambda name: Answer(),
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.logins: Counter[str] = Counter()
        self.seen: list[tuple[dict[str, str], dict[str, list[str]]]] = []
        self.behave: Callable[[socket.socket], None] | None = None
        self.early: Answer | None = None
        self._context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self.server_port}"

    def finish_request(self, request: Any, address: Any) -> None:
        # In the connection's own thread, so that a bad handshake holds nobody up.
        with contextlib.suppress(OSError):
            if self._context is not None:
                request = self._context.wrap_socket(request, server_side=True)
            super().finish_request(request, address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        if self.server.early is not None and self.path.endswith("/files"):
            self.close_connection = True
            self._answer(self.server.early)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = parse_qs(body.decode(), keep_blank_values=True)
        name = form.get("username", [""])[0]
        self.server.logins[name] += 1
        self.server.seen.append((dict(self.headers), form))
        self._answer(self.server.answer(name))

    def do_GET(self) -> None:
        if self.server.behave is not None:
            self.server.behave(self.connection)
        self._answer(Answer(body=[]))

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for header, value in answer.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    def log_message(self, *args: Any) -> None:
        pass


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that knows CONNECT, and leads every host to one port of this machine.

    Args:
        port: The port.
        login: ``user:password`` that it wants; nothing for everybody.
        status: Answers each request with this status.

    Attributes:
        asked: Targets that it was asked for.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, login: str = "", status: int = 200) -> None:
        self.port, self.login, self.status = port, login, status
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Tunnel)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        target = self.rfile.readline().decode().split(" ")[1]
        self.server.asked.append(target)
        login = b""
        while (line := self.rfile.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"proxy-authorization":
                login = base64.b64decode(value.split()[1])
        status = self.server.status
        if self.server.login and login.decode() != self.server.login:
            status = 407
        if status != 200:
            self.wfile.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            other = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            other.start()
            _pump(self.connection, upstream)
            other.join(10)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Port(socketserver.ThreadingTCPServer):
    """A port on which ``behave`` is called with each connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.behave = behave
        self.connections = 0
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, address: Any) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            self.behave(request)


def read_request(connection: socket.socket) -> None:
    """Read a request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if b"content-length" in line
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)


def drips(data: bytes, pause: float = 0.02) -> Callable[[socket.socket], None]:
    """Read a request, and send ``data`` byte by byte, again and again."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        drip(connection, data, pause)

    return behave


def drip(connection: socket.socket, data: bytes, pause: float = 0.02) -> None:
    """Send ``data`` byte by byte, again and again, until the other side has enough."""
    while True:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)


def closes(connection: socket.socket) -> None:
    """Read something, and close."""
    connection.recv(65536)


def resets(connection: socket.socket) -> None:
    """Read something, and close with a reset."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def speaks_plainly(connection: socket.socket) -> None:
    """Answer a TLS handshake in HTTP."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@contextlib.contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Serve in a thread for as long as the context lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Authority:
    """A private certificate authority.

    Args:
        folder: Where its files go.
        name: Its name.

    Attributes:
        bundle: Its own certificate.
        context: A server's, with a certificate of this authority for this machine and HOST.
    """

    def __init__(self, folder: Path, name: str) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        folder.mkdir()
        self.bundle = folder / "authority.pem"
        self.bundle.write_bytes(self._certificate(self._name, self._key, None))
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / "server.pem").write_bytes(_private(key))
        alternatives = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(HOST)]
        )
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"server of {name}")])
        with (folder / "server.pem").open("ab") as stream:
            stream.write(self._certificate(subject, key, alternatives))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem")

    def _certificate(self, subject: Any, key: Any, alternatives: Any) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.BasicConstraints(ca=alternatives is None, path_length=None), critical=True
            )
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
