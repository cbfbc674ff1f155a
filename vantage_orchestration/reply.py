# SPDX-License-Identifier: Apache-2.0
"""Reads the body of a reply within limits of size and time.

A server, or a proxy in its place, may send a body that never ends, that drips byte by byte, or that
unpacks to a thousand times its size.
"""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from vantage_orchestration.content import is_markup
from vantage_orchestration.errors import ConnectionFailed, ProtocolError
from vantage_orchestration.retrying import parse_retry_after
from vantage_orchestration.text import MISFIT, clean, read_json

T = TypeVar("T")

#: Largest JSON reply in bytes, unpacked. A page of 1000 transactions takes about one million.
LONGEST_JSON = 16 * 1024**2
#: Largest result file in bytes, unpacked, that is read into memory.
LONGEST_IN_MEMORY = 256 * 1024**2
PAGE_HINT = (
    "A proxy, login page or bot filter answered in place of the service. If this persists, check"
    " the base URL and the proxy of the connection"
)
_LONGEST_ERROR = 64 * 1024
#: Bytes to read, or to unpack, at once.
_CHUNK = 256 * 1024
#: Values of ``Content-Encoding`` that can be unpacked, and those that say nothing of compression.
_UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})
_PLAIN = frozenset({"", "identity", "none", "binary", "utf-8"})
#: Lets zlib recognise both of its formats.
_ANY_FORMAT = 32 + zlib.MAX_WBITS
#: Begins each part of a body that was compressed in parts.
_NEXT_PART = b"\x1f"


class Broken(Exception):
    """The connection broke within the body, or the compressed body is damaged."""


class Damaged(Broken):
    """The compressed body can't be unpacked."""


class Packed(Broken):
    """The body is compressed in a way, given as text, that was not requested."""


class TooSlow(Broken):
    """The body did not come in time."""


class TooLong(Exception):
    """The body is longer than allowed."""


def read_chunks(response: requests.Response, most: int, seconds: float) -> Iterator[bytes]:
    """Yield the body of a reply, unpacked, in pieces of limited size.

    It may have ``most`` bytes, unpacked, and may take so many seconds. Our own session ends a reply
    that makes no progress.
    """
    if response.raw.closed:  # A hook of the session has read it.
        if len(response.content) > most:
            raise TooLong
        yield response.content
        return
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if transfer not in ("", "chunked", "identity"):
        encoding = f"transfer coding {transfer}"
    received, chunks = 0, _read(response, time.monotonic() + seconds)
    for chunk in chunks if encoding in _PLAIN else _unpacked(chunks, encoding):
        received += len(chunk)
        if received > most:
            raise TooLong
        yield chunk


def _read(response: requests.Response, end: float) -> Iterator[bytes]:
    """Yield a body as it arrives, until a moment of the steady clock."""
    while True:
        try:
            chunk = response.raw.read1(_CHUNK, decode_content=False)
        except ReadTimeoutError:
            raise TooSlow from None
        except (HTTPError, OSError, ValueError):
            raise Broken from None
        if not chunk:
            return
        # Each read waits for the next bytes only.
        if time.monotonic() > end:
            raise TooSlow
        yield chunk


def _unpacked(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a compressed body, unpacked. One that ends too early is Broken: without its length,
    nothing else shows that it was cut."""
    unpacker = None
    try:
        for chunk in chunks:
            if encoding not in _UNPACKED:
                raise Packed(encoding)
            rest = chunk
            while rest:
                if unpacker is None or unpacker.eof:
                    if unpacker and not rest.startswith(_NEXT_PART):
                        break  # Padding.
                    unpacker = zlib.decompressobj(_ANY_FORMAT)
                yield unpacker.decompress(rest, _CHUNK)
                rest = unpacker.unused_data or unpacker.unconsumed_tail
    except zlib.error:
        raise Damaged from None
    if unpacker and not unpacker.eof:
        raise Broken


def read_start(response: requests.Response, seconds: float) -> bytes:
    """Return the first bytes of a body, which may be incomplete, such as that of an error."""
    body = bytearray()
    with contextlib.suppress(Broken, TooLong):
        for chunk in read_chunks(response, _LONGEST_ERROR, seconds):
            body += chunk
    return bytes(body)


def drain(response: requests.Response, seconds: float) -> None:
    """Close a reply. After a short body, the connection can be used again."""
    with response:
        read_start(response, seconds)


def page_error(response: requests.Response, where: dict[str, Any]) -> ProtocolError:
    """Return the error for a web page that came in place of a reply."""
    return ProtocolError(
        "The reply is a web page",
        hint=PAGE_HINT,
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
        doubtful=where["method"] == "POST",
        **where,
    )


class Reply:
    """A 2xx reply of the API with an unread body.

    A JSON body may take so many ``seconds``. ``where`` is method, path and so on, for errors.
    """

    def __init__(self, response: requests.Response, seconds: float, where: dict[str, Any]) -> None:
        self._response = response
        self._seconds = seconds
        self._where = where
        self.headers: Mapping[str, str] = response.headers
        #: Size of the JSON body in bytes, once read.
        self.size = 0

    def nothing(self) -> None:
        """Read a body that should be empty. A page, or truncated JSON, shows that a proxy
        answered."""
        body = bytearray()
        try:
            for chunk in read_chunks(self._response, _LONGEST_ERROR, self._seconds):
                body += chunk
        except Packed as error:
            raise self._packed(error) from None
        except (Broken, TooLong):
            pass  # Its start shows what it is.
        if is_markup(bytes(body)) or body.lstrip().startswith((b"{", b"[")):
            self._parse(bytes(body), lambda data: None)

    def json(self, read: Callable[[Any], T]) -> T:
        """Return the result of ``read`` for the JSON body; what does not fit the contract is a
        ProtocolError."""
        body = bytearray()
        self.size = self._copy(body.extend, LONGEST_JSON, self._seconds)
        return self._parse(bytes(body), read)

    def _parse(self, body: bytes, read: Callable[[Any], T]) -> T:
        if is_markup(body):
            raise page_error(self._response, self._where)
        try:
            # Judged by content: the reply may be labelled as text (contract, section 3).
            return read(read_json(body))
        except MISFIT as error:
            # Messages of json quote no content; of other errors only the class is named.
            reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ProtocolError(
            f"The reply does not fit the contract: {clean(reason)}",
            hint="A proxy or login page may have answered; if not, report this with the path",
            doubtful=self._where["method"] == "POST",
            **self._where,
        )

    def _packed(self, error: Packed) -> ProtocolError:
        return ProtocolError(
            f"The reply is compressed with {clean(str(error))}, which was not requested",
            hint=PAGE_HINT,
            doubtful=self._where["method"] == "POST",
            **self._where,
        )

    def copy_to(self, write: Callable[[bytes], object], most: int) -> int:
        """Write a body of at most ``most`` bytes piece by piece; return its number of bytes."""
        received = self._copy(write, most, math.inf)
        announced = self.headers.get("Content-Length", "")
        packed = "Content-Encoding" in self.headers
        if announced.isdigit() and not packed and int(announced) != received:
            raise ConnectionFailed(
                f"The download has {received} bytes; {announced} were announced", **self._where
            )
        return received

    def _copy(self, write: Callable[[bytes], object], most: int, seconds: float) -> int:
        received = 0
        doubtful = self._where["method"] == "POST"
        try:
            for chunk in read_chunks(self._response, most, seconds):
                received += len(chunk)
                write(chunk)
        except TooLong:
            hint = (
                "If the size is right, raise the result limit of the connection. A result that"
                f" is read into memory may have {LONGEST_IN_MEMORY} bytes: download a larger one"
                " to a file"
                if seconds == math.inf
                else "A proxy or login page may have answered"
            )
            what = f"The reply has more than {most} bytes"
            raise ProtocolError(what, hint=hint, doubtful=doubtful, **self._where) from None
        except Packed as error:
            raise self._packed(error) from None
        except TooSlow:
            what = f"The reply came too slowly: {received} bytes so far"
            raise ConnectionFailed(what, doubtful=doubtful, **self._where) from None
        except Broken:
            what = f"The connection broke off after {received} bytes of the reply"
            raise ConnectionFailed(what, doubtful=doubtful, **self._where) from None
        return received
