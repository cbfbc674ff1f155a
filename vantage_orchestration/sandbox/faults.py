# SPDX-License-Identifier: Apache-2.0
"""Faults that tests and users switch on.

Rules are checked in the order in which they were added. The first one that matches a request and
has nothing left to skip is applied once; at most one rule applies to a request.
"""

from __future__ import annotations

import base64
import email.utils
import json
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .problems import problem_body

BEFORE, AFTER = "before", "after"
_PIECE = 64 * 1024
_MAINTENANCE = "<html><head><title>503</title></head><body><h1>Maintenance</h1></body></html>"


class FaultError(ValueError):
    """A fault rule is not acceptable."""


@dataclass
class FaultRule:
    """One rule. What it does is described member by member.

    Args:
        method: Only requests with this method.
        path: Only this path, or this path template of the contract (with ``{transactionId}``).
        path_regex: Only paths in which this regular expression is found.
        operation: Only this operation of the contract, for example ``launchTransaction``.
        times: Requests it applies to; 0 means until it is cleared.
        after: Requests that fit and are let through first.
        when: ``before`` the work is done, or ``after`` it (before the reply is sent). It counts
            for ``status``, ``drop``, ``delay`` and ``revoke``.
        status: Answer with this status in place of the real reply.
        headers: Headers of that answer.
        body: Its body as text. Without any body member a fitting one is made: empty for 401,
            HTML for 503, ProblemDetails for other errors.
        body_base64: Its body as bytes in Base64.
        json: Its body as JSON data.
        body_size: Its body is this number of bytes of filler.
        gzip_size: Its body is gzip data that unpacks to this number of bytes.
        retry_after: Adds ``Retry-After`` with this number of seconds.
        retry_after_date: Adds ``Retry-After`` with the date this number of seconds from now.
        drop: Close the connection without an answer.
        delay: Wait this number of seconds.
        revoke: ``this`` revokes the token of the request, ``all`` revokes every token.
        chunk_delay: Send the body in pieces and wait this number of seconds before each.
        chunk_size: Size of these pieces in bytes.
        truncate: Send this number of bytes of the body, then close the connection.
        garbage: Do the work, but answer with broken JSON.
        merge_json: Do the work, and put these members into the JSON object of the reply.
        remove_json: Do the work, and take these members out of it.
        read_body: Read the whole request before a ``status`` or ``drop`` that comes before the
            work; false acts on the headers alone.
    """

    method: str | None = None
    path: str | None = None
    path_regex: str | None = None
    operation: str | None = None
    times: int = 1
    after: int = 0
    when: str = BEFORE
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    body_base64: str | None = None
    json: Any = None
    body_size: int | None = None
    gzip_size: int | None = None
    retry_after: int | None = None
    retry_after_date: int | None = None
    drop: bool = False
    delay: float = 0.0
    revoke: str | None = None
    chunk_delay: float = 0.0
    chunk_size: int = 1024
    truncate: int | None = None
    garbage: bool = False
    merge_json: dict[str, Any] | None = None
    remove_json: list[str] | None = None
    read_body: bool = True
    id: int = 0
    hits: int = 0

    @property
    def alters(self) -> bool:
        """Whether the real reply has to be changed before it is sent."""
        return self.garbage or self.merge_json is not None or self.remove_json is not None

    @property
    def kind(self) -> str:
        """Short text for the journal."""
        names = [
            name
            for name in ("drop", "delay", "revoke", "truncate", "garbage", "chunk_delay")
            if getattr(self, name) not in (None, False, 0.0)
        ]
        names += [f"status {self.status}"] if self.status is not None else []
        names += ["json"] if self.merge_json is not None or self.remove_json is not None else []
        return f"#{self.id} {self.when}: {', '.join(names)}"

    def reply(self, path: str) -> tuple[int, list[tuple[bytes, bytes]], Iterator[bytes], int]:
        """Return status, headers, body and length of the answer this rule gives."""
        status = self.status if self.status is not None else 200
        headers = {name.lower(): value for name, value in self.headers.items()}
        body, length = self._body(status, path, headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.retry_after_date is not None:
            headers["retry-after"] = email.utils.formatdate(
                time.time() + self.retry_after_date, usegmt=True
            )
        if status == 401:
            headers.setdefault("www-authenticate", 'Bearer error="invalid_token"')
        if status not in (204, 304):
            headers.setdefault("content-length", str(length))
        return (
            status,
            [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            body,
            length,
        )

    def _body(self, status: int, path: str, headers: dict[str, str]) -> tuple[Iterator[bytes], int]:
        if self.body_size is not None:
            return _filler(self.body_size), self.body_size
        if self.gzip_size is not None:
            headers.setdefault("content-type", "application/json")
            headers.setdefault("content-encoding", "gzip")
            packed = _gzip(self.gzip_size)
            return iter([packed]), len(packed)
        if self.body is not None:
            data = self.body.encode()
        elif self.body_base64 is not None:
            data = base64.b64decode(self.body_base64)
        elif self.json is not None:
            headers.setdefault("content-type", "application/json; charset=utf-8")
            data = json.dumps(self.json).encode()
        elif status == 503:
            headers.setdefault("content-type", "text/html; charset=utf-8")
            data = _MAINTENANCE.encode()
        elif status >= 400 and status != 401:
            headers.setdefault("content-type", "application/json; charset=utf-8")
            data = json.dumps(problem_body(status, "A fault of the sandbox.", path)).encode()
        else:
            data = b""
        return iter([data]), len(data)


class Faults:
    """The rules in force.

    Attributes:
        operations: Operations a rule may name; filled in when the routes are known.
    """

    def __init__(self) -> None:
        self.operations: frozenset[str] = frozenset()
        self._rules: list[FaultRule] = []
        self._count = 0

    def add(self, values: Mapping[str, Any]) -> FaultRule:
        """Add a rule.

        Args:
            values: Members of :class:`FaultRule`.

        Raises:
            FaultError: A member is unknown or not acceptable, or the rule does nothing.
        """
        known = {item.name for item in fields(FaultRule)} - {"id", "hits"}
        unknown = set(values) - known
        if unknown:
            raise FaultError(f"unknown members: {', '.join(sorted(unknown))}")
        rule = FaultRule(**values)
        _check(rule)
        if rule.operation is not None and rule.operation not in self.operations:
            raise FaultError(f"there is no operation {rule.operation!r}")
        self._count += 1
        rule.id = self._count
        self._rules.append(rule)
        return rule

    def take(
        self, method: str, path: str, template: str | None, operation: str | None
    ) -> FaultRule | None:
        """Return the rule for a request, if there is one, and use it up by one."""
        for rule in self._rules:
            if rule.times and rule.hits >= rule.times:
                continue
            if rule.method is not None and rule.method.upper() != method:
                continue
            if rule.path is not None and rule.path.rstrip("/") not in (path, template):
                continue
            if rule.path_regex is not None and not re.search(rule.path_regex, path):
                continue
            if rule.operation is not None and rule.operation != operation:
                continue
            if rule.after > 0:
                rule.after -= 1
                continue
            rule.hits += 1
            return rule
        return None

    def shown(self) -> list[dict[str, Any]]:
        """Return all rules as JSON data, also those used up."""
        return [dict(vars(rule)) for rule in self._rules]

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()


def _check(rule: FaultRule) -> None:
    numbers = ("times", "after", "delay", "chunk_delay", "body_size", "gzip_size", "truncate")
    for name in numbers:
        value = getattr(rule, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise FaultError(f"{name} must be a number of 0 or more")
    if rule.chunk_size < 1:
        raise FaultError("chunk_size must be at least 1")
    if rule.status is not None and not 200 <= rule.status <= 599:
        raise FaultError("status must be from 200 to 599")
    if rule.when not in (BEFORE, AFTER):
        raise FaultError("when must be before or after")
    if rule.revoke not in (None, "this", "all"):
        raise FaultError("revoke must be this or all")
    try:
        re.compile(rule.path_regex or "")
    except (re.error, TypeError) as error:
        raise FaultError(f"path_regex: {error}") from error
    chosen = any(item is not None for item in (rule.status, rule.revoke, rule.truncate))
    if not (chosen or rule.alters or rule.drop or rule.delay or rule.chunk_delay):
        raise FaultError("the rule does nothing")


def _filler(size: int) -> Iterator[bytes]:
    while size > 0:
        yield b"x" * min(size, _PIECE)
        size -= _PIECE


def _gzip(size: int) -> bytes:
    """Pack zeros. A thousand times smaller than what they unpack to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = bytearray()
    block = bytes(1024 * 1024)
    while size > 0:
        packed += packer.compress(block[: min(size, len(block))])
        size -= len(block)
    return bytes(packed + packer.flush())
