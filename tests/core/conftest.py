# SPDX-License-Identifier: Apache-2.0
"""What the tests of the core share: a client on a sandbox, and both held against the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openapi import check_request, check_response
from requests.adapters import HTTPAdapter

from vantage_orchestration import reads
from vantage_orchestration.client import VantageClient
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.processing.host_notes import forget_all
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.token import source

#: Tries as in production, without their waits.
QUICK = RetryPolicy(attempts=5, first_wait=0.001, max_wait=0.002, budget=60)
#: One try.
ONCE = RetryPolicy(attempts=1, first_wait=0.0, max_wait=0.0, budget=5.0)


def config_of(sandbox: SandboxServer, **changes: Any) -> VantageConfig:
    """Return the configuration for the sandbox's main account."""
    credentials = {k: v for k, v in sandbox.credentials.items() if k != "tenant_id"}
    return VantageConfig.from_fields(
        {
            "region": "custom",
            "base_url": sandbox.url,
            "store": "memory",
            **credentials,
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def _without_the_second(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as often as a test wants, unless it is about the vendor's limit of once a second."""
    if "with_the_second" not in request.keywords:
        monkeypatch.setattr(reads, "LEAST_PAUSE", 0.0)


@pytest.fixture(autouse=True)
def _forget_sources() -> None:
    """Forget the process's tokens: a new sandbox may get the port and the tokens of an old one."""
    source.registry.clear()
    forget_all()


@pytest.fixture
def configure(sandbox: SandboxServer) -> Callable[..., VantageConfig]:
    """Make configurations for the sandbox, with changes."""
    return lambda **changes: config_of(sandbox, **changes)


@pytest.fixture
def client(sandbox: SandboxServer) -> Iterator[VantageClient]:
    """A client of the sandbox that does not wait between tries."""
    with VantageClient(config_of(sandbox), retries=QUICK) as client:
        yield client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hold every request of this process, and its reply, against the OpenAPI description.

    Requests still go to the real server. Returns the operations asked for, in order.
    """
    operations: list[str] = []
    send = HTTPAdapter.send

    def checked(self, request, **options):
        if "/sandbox/" not in request.url:
            body = request.body or b""
            if hasattr(body, "read"):
                body = body.read()
                request.body.seek(0)
            check_request(request.method, request.url, request.headers, body)
            operations.append(f"{request.method} {request.path_url.split('?')[0]}")
        response = send(self, request, **options)
        if "/sandbox/" not in request.url and not options.get("stream"):
            check_response(
                request.method,
                request.url,
                response.status_code,
                response.headers,
                response.content,
            )
        return response

    monkeypatch.setattr(HTTPAdapter, "send", checked)
    return operations
