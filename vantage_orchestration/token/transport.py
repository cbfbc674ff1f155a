# SPDX-License-Identifier: Apache-2.0
"""Sends one token request. It returns errors instead of raising them, so that no traceback has a
frame in which the password is a local variable."""

from __future__ import annotations

import time
import zlib
from typing import Any

import requests
from urllib3.exceptions import HTTPError, IncompleteRead, ReadTimeoutError

from vantage_orchestration.config import Trust, VantageConfig
from vantage_orchestration.errors import AuthProtocolError, AuthUnavailable, VantageError
from vantage_orchestration.http import (
    HttpSession,
    NoAuth,
    network_error,
    proxy_wants_login,
    request_id_of,
)
from vantage_orchestration.retrying import parse_retry_after
from vantage_orchestration.text import clean
from vantage_orchestration.token.request import (
    LONGEST_REPLY,
    Grant,
    client_header,
    read_reply,
    token_form,
)

__all__ = ["log_in"]


def log_in(config: VantageConfig) -> Grant | VantageError:
    """Request a token once (contract, section 2.1).

    Args:
        config: The configuration.

    Returns:
        The grant, or the error.
    """
    credentials = config.credentials
    where: dict[str, Any] = {
        "method": "POST",
        "path": credentials.token_path,
        "host": credentials.host,
    }
    trust: Trust | None = None
    try:
        with HttpSession(config.http, base_url=credentials.base_url, auth=NoAuth()) as session:
            trust = session.trust
            with session.post(
                credentials.token_url,
                data=token_form(credentials),
                headers={
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Accept-Encoding": "identity",
                    **client_header(credentials),
                },
                stream=True,
            ) as response:
                where["status"] = response.status_code
                if response.status_code == 407:
                    return proxy_wants_login(trust, where)
                body = _read_body(response, config.http.read_timeout)
                return read_reply(
                    response.status_code,
                    body,
                    credentials,
                    retry_after=parse_retry_after(response.headers.get("Retry-After")),
                    request_id=request_id_of(response, config.secrets),
                )
    except VantageError as error:
        return error.copy()
    except requests.RequestException as error:
        return network_error(error, AuthUnavailable, trust or config.trust, **where)
    except _UnreadableError as error:
        return error.kind(error.what, hint=error.hint, **where)
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, ReadTimeoutError):
            return AuthUnavailable(_SLOW, **where)
        return AuthUnavailable("The connection broke before the reply was complete", **where)


_SLOW = "The token endpoint's reply did not arrive in time"


class _UnreadableError(Exception):
    """A reply that is not read to its end."""

    def __init__(self, kind: type[VantageError], what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.kind, self.what, self.hint = kind, what, hint


def _read_body(response: requests.Response, seconds: float) -> bytes:
    """Return the body, unpacked.

    Args:
        response: A streaming reply.
        seconds: Seconds allowed for the whole body.

    Raises:
        _UnreadableError: It is too slow, too long, or can't be unpacked.
        urllib3.exceptions.HTTPError: The connection broke.
    """
    packed = response.headers.get("Content-Encoding", "").strip().lower()
    unpack = None
    if packed not in ("", "identity"):
        if packed not in ("gzip", "x-gzip", "deflate"):
            raise _UnreadableError(
                AuthProtocolError,
                f"The token endpoint's reply is compressed with {clean(packed)}",
                "It was requested without compression. Check the base URL, and a gateway in front"
                " of it",
            )
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes.
    end = time.monotonic() + seconds
    body = bytearray()
    received = 0
    # Available bytes are read at once: each socket read has its own timeout, and this limit is for
    # a server that drips byte by byte.
    while chunk := response.raw.read1(8192, decode_content=False):
        received += len(chunk)
        try:
            body += unpack.decompress(chunk, LONGEST_REPLY + 1) if unpack else chunk
        except zlib.error:
            raise _UnreadableError(
                AuthProtocolError,
                "The token endpoint's reply can't be unpacked",
                "A proxy or gateway may have damaged it",
            ) from None
        if len(body) > LONGEST_REPLY:
            raise _UnreadableError(
                AuthProtocolError,
                f"The token endpoint's reply has more than {LONGEST_REPLY} bytes",
                "Check the base URL",
            )
        if time.monotonic() > end:
            raise _UnreadableError(AuthUnavailable, _SLOW)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > received:
        raise IncompleteRead(received, int(announced) - received)
    return bytes(body)
