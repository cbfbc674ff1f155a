# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the tests of the sandbox: raw requests, each answer checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from openapi import CheckedSession
from pdfs import make_invoice

from vantage_orchestration.sandbox import SandboxServer

SCOPE = "openid permissions global.wildcard"


class Api:
    """A thin caller of a sandbox. Every answer is checked against the description.

    Args:
        server: The sandbox.
        account: Names to use in place of the main account's.
    """

    def __init__(self, server: SandboxServer, **account: str) -> None:
        self.server = server
        self.control = server.control
        self.account = {**server.credentials, **account}
        self.session = CheckedSession(requests_too=False)
        self.strict = CheckedSession()
        self.base = server.url + "/api/publicapi/v1"
        self.headers: dict[str, str] = {}

    def form(self, **changes: str | None) -> dict[str, str]:
        """The form of a password grant; None takes a member out."""
        form = {
            "grant_type": "password",
            "scope": SCOPE,
            **{n: self.account[n] for n in ("username", "password", "client_id", "client_secret")},
        }
        return {k: v for k, v in {**form, **changes}.items() if v is not None}

    def service_form(self, **changes: str | None) -> dict[str, str]:
        """The form of a client credentials grant."""
        return self.form(grant_type="client_credentials", username=None, password=None, **changes)

    def ask_token(
        self, form: dict[str, str], tenant: str | None = None, **options: Any
    ) -> requests.Response:
        """Make a token request."""
        path = f"/auth2/{tenant}/connect/token" if tenant else "/auth2/connect/token"
        return self.session.post(self.server.url + path, data=form, **options)

    def sign_in(self, form: dict[str, str] | None = None) -> Api:
        """Get a token and use it from now on."""
        reply = self.ask_token(form or self.form())
        assert reply.status_code == 200, reply.text
        self.token = reply.json()["access_token"]
        self.headers = {"Authorization": f"Bearer {self.token}"}
        return self

    def call(self, method: str, path: str, *, strict: bool = False, **options: Any) -> Any:
        """Make a call below the API's prefix. ``strict`` checks the request as well."""
        headers = {**self.headers, **options.pop("headers", {})}
        session = self.strict if strict else self.session
        return session.request(method, self.base + path, headers=headers, timeout=30, **options)

    def get(self, path: str, **options: Any) -> Any:
        """GET below the prefix."""
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        """POST below the prefix."""
        return self.call("POST", path, **options)

    def delete(self, path: str, **options: Any) -> Any:
        """DELETE below the prefix."""
        return self.call("DELETE", path, **options)

    def create(self, skill: str = "Invoice", **body: Any) -> str:
        """Create a transaction and return its id."""
        reply = self.post("/transactions", json={"skillId": self.skill(skill), **body}, strict=True)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["transactionId"])

    def skill(self, name: str) -> str:
        """Return the id of a skill."""
        return self.control.skill_id(name)

    def upload(
        self, path: str, files: list[tuple[str, bytes]], model: Any = None, **options: Any
    ) -> Any:
        """POST files with the documented part names."""
        parts: list[tuple[str, tuple[Any, ...]]] = []
        if model is not None:
            parts.append(("Model", (None, json.dumps(model), "application/json")))
        parts += [("Files", (name, data, "application/octet-stream")) for name, data in files]
        return self.post(path, files=parts, **options)

    def launch(
        self,
        files: list[tuple[str, bytes]],
        skill: str = "Invoice",
        model: Any = None,
        **options: Any,
    ) -> str:
        """Launch a transaction and return its id."""
        reply = self.upload(
            "/transactions/launch", files, model, params={"skillId": self.skill(skill)}, **options
        )
        assert reply.status_code == 201, reply.text
        return str(reply.json()["transactionId"])

    def read(self, transaction: str) -> dict[str, Any]:
        """Return a transaction."""
        reply = self.get(f"/transactions/{transaction}", strict=True)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def finish(self, transaction: str) -> dict[str, Any]:
        """Read a transaction until it has ended."""
        for _ in range(20):
            found = self.read(transaction)
            if found["status"] not in ("New", "Processing"):
                return found
        raise AssertionError(f"still {found['status']}")

    def results(self, transaction: str) -> list[dict[str, bytes]]:
        """Return the result files of each document by type."""
        return [
            {
                file["type"]: self.get(
                    f"/transactions/{transaction}/files/{file['fileId']}/download", strict=True
                ).content
                for file in document["resultFiles"]
            }
            for document in self.finish(transaction)["documents"]
        ]

    def fields(self, transaction: str) -> list[dict[str, Any]]:
        """Return the fields of each document."""
        return [json.loads(item["FieldsJson"])["Fields"] for item in self.results(transaction)]


@pytest.fixture
def api(sandbox: SandboxServer) -> Api:
    """A caller that has signed in with the main account."""
    return Api(sandbox).sign_in()


@pytest.fixture
def make_api() -> Iterator[Callable[..., Api]]:
    """Start sandboxes with other settings: ``make_api(processing_polls=0)``."""
    started: list[SandboxServer] = []

    def make(**settings: Any) -> Api:
        server = SandboxServer(**settings).start()
        started.append(server)
        return Api(server).sign_in()

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def invoice(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An invoice of one page."""
    return make_invoice(tmp_path_factory.mktemp("pdf") / "invoice.pdf").read_bytes()


def new_api(server: SandboxServer, **account: str) -> Api:
    """A further caller of a sandbox, not signed in yet."""
    return Api(server, **account)


@pytest.fixture
def other_api() -> Callable[..., Api]:
    """Make further callers: ``other_api(server, client_id="second-client")``."""
    return new_api


@pytest.fixture
def pdf(tmp_path: Path) -> Callable[..., bytes]:
    """Make an invoice: ``pdf(number="INV-2", pages=3)``."""

    def make(**fields: Any) -> bytes:
        return make_invoice(tmp_path / "made.pdf", **fields).read_bytes()

    return make
