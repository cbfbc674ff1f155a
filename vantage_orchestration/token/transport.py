# SPDX-License-Identifier: Apache-2.0
"""Carries one token request over the network. Returns errors instead of raising them, so that no
traceback has a frame in which the password is a local variable."""

from __future__ import annotations

import time
from typing import Any

import requests
from urllib3.exceptions import HTTPError, IncompleteRead

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import AuthProtocolError, AuthUnavailable, VantageError
from vantage_orchestration.http import HttpSession, NoAuth, network_error, request_id_of
from vantage_orchestration.retrying import parse_retry_after
from vantage_orchestration.token.request import (
    LONGEST_REPLY,
    Grant,
    client_header,
    read_reply,
    token_form,
)

__all__ = ["log_in", "read_body"]


def log_in(config: VantageConfig, url: str = "") -> Grant | VantageError:
    """Ask for a token once (contract, section 2.1).

    Args:
        config: Who logs in and how.
        url: Address of the token endpoint, if not the credential's own.

    Returns:
        The grant, or the error that describes why there is none.
    """
    credentials = config.credentials
    where: dict[str, Any] = {
        "method": "POST",
        "path": credentials.token_path,
        "host": credentials.host,
    }
    try:
        with (
            HttpSession(config.http, base_url=credentials.base_url, auth=NoAuth()) as session,
            session.post(
                url or credentials.token_url,
                data=token_form(credentials),
                headers={
                    "Content-Type": "application/x-www-form-urlencoded",
                    # No compression: a small reply must not unpack to a huge one.
                    "Accept-Encoding": "identity",
                    **client_header(credentials),
                },
                stream=True,
            ) as response,
        ):
            body = read_body(response, config.http.read_timeout)
            if body is None:
                return AuthProtocolError(
                    "The token endpoint's reply is too long, too slow or compressed",
                    hint="Check the base URL",
                    status=response.status_code,
                    **where,
                )
            return read_reply(
                response.status_code,
                body,
                credentials,
                retry_after=parse_retry_after(response.headers.get("Retry-After")),
                request_id=request_id_of(response),
            )
    except requests.RequestException as error:
        return network_error(error, AuthUnavailable, **where)
    except HTTPError:
        return AuthUnavailable("The connection broke before the reply was complete", **where)
    except (OSError, ValueError) as error:
        # For example a CA bundle that is no PEM file. The text may quote the request: only its
        # kind is kept.
        return AuthUnavailable(f"The login failed with {type(error).__name__}", **where)


def read_body(response: requests.Response, seconds: float) -> bytes | None:
    """Return the body, or None if it is longer, slower or otherwise than a token reply is.

    Args:
        response: A reply that streams.
        seconds: Seconds that the whole body may take.

    Raises:
        urllib3.exceptions.HTTPError: The connection broke.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    end = time.monotonic() + seconds
    body = bytearray()
    # What has come is taken at once: each socket read has its own timeout, and this end is for a
    # server that drips byte by byte.
    while chunk := response.raw.read1(8192, decode_content=False):
        body += chunk
        if len(body) > LONGEST_REPLY or time.monotonic() > end:
            return None
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > len(body):
        raise IncompleteRead(len(body), int(announced) - len(body))
    return bytes(body)
