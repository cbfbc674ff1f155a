# SPDX-License-Identifier: Apache-2.0
"""Token endpoints that answer as they are told, for what the sandbox does not do."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

GRANT = {"access_token": "a-token-of-the-endpoint", "token_type": "Bearer", "expires_in": 3600}


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
    """Answers each token request by its user name, and counts them.

    Attributes:
        answer: Gives the answer to a user name.
        logins: Requests by user name.
        seen: Headers and form of each request.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[str], Answer] = lambda name: Answer()) -> None:
        self.answer = answer
        self.logins: Counter[str] = Counter()
        self.seen: list[tuple[dict[str, str], dict[str, list[str]]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = parse_qs(body.decode(), keep_blank_values=True)
        name = form.get("username", [""])[0]
        self.server.logins[name] += 1
        self.server.seen.append((dict(self.headers), form))
        answer = self.server.answer(name)
        self.send_response(answer.status)
        for header, value in answer.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[Any]:
    """Serve in a thread for as long as the context lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
