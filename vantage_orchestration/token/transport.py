# SPDX-License-Identifier: Apache-2.0
"""Sends one token request. It returns errors instead of raising them, so that no traceback has a
frame in which the password is a local variable."""

from __future__ import annotations

from typing import Any

import requests
from urllib3.exceptions import HTTPError

from vantage_orchestration.config import Trust, VantageConfig
from vantage_orchestration.errors import AuthProtocolError, AuthUnavailable, VantageError
from vantage_orchestration.http import (
    HttpSession,
    NoAuth,
    network_error,
    proxy_wants_login,
    request_id_of,
)
from vantage_orchestration.reply import Broken, Damaged, TooLong, TooSlow, read_chunks
from vantage_orchestration.retrying import parse_retry_after
from vantage_orchestration.text import clean
from vantage_orchestration.token.request import (
    LONGEST_REPLY,
    Grant,
    client_header,
    read_reply,
    token_form,
)

#: Values of ``Content-Encoding`` that can be unpacked with limits.
_UNPACKED = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


def log_in(config: VantageConfig) -> Grant | VantageError:
    """Request a token once (contract, section 2.1); return the grant or the error."""
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
                packed = response.headers.get("Content-Encoding", "").strip().lower()
                if packed not in _UNPACKED:
                    return AuthProtocolError(
                        f"The token endpoint's reply is compressed with {clean(packed)}",
                        hint="It was requested without compression. Check the base URL, and a"
                        " gateway in front of it",
                        **where,
                    )
                chunks = read_chunks(response, LONGEST_REPLY, config.http.read_timeout)
                return read_reply(
                    response.status_code,
                    b"".join(chunks),
                    credentials,
                    retry_after=parse_retry_after(response.headers.get("Retry-After")),
                    request_id=request_id_of(response, config.secrets),
                )
    except VantageError as error:
        return error.copy()
    except requests.RequestException as error:
        return network_error(error, AuthUnavailable, trust or config.trust, where)
    except TooLong:
        what = f"The token endpoint's reply has more than {LONGEST_REPLY} bytes"
        return AuthProtocolError(what, hint="Check the base URL", **where)
    except Damaged:
        hint = "A proxy or gateway may have damaged it"
        return AuthProtocolError("The token endpoint's reply can't be unpacked", hint=hint, **where)
    except TooSlow:
        return AuthUnavailable("The token endpoint's reply did not arrive in time", **where)
    except (Broken, HTTPError, OSError, ValueError):
        return AuthUnavailable("The connection broke before the reply was complete", **where)
