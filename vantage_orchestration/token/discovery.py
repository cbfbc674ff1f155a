# SPDX-License-Identifier: Apache-2.0
"""Finds the token endpoint in the service's OpenID discovery document (contract, section 2.5).

The fixed documented path is the default; this is for who sets ``discovery``. The address that the
document names gets the password, so it is taken only if it is on the configured server.
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from vantage_orchestration.config import VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.http import HttpSession, NoAuth
from vantage_orchestration.token.access import Clock
from vantage_orchestration.token.transport import read_body
from vantage_orchestration.token.vault import Vault

__all__ = ["DOCUMENT_LIFETIME", "Discovery"]

log = logging.getLogger(__name__)

#: Seconds for which an endpoint that was found is used without asking again.
DOCUMENT_LIFETIME = 86400.0


class Discovery:
    """Knows the token endpoint of one credential.

    Args:
        config: Who logs in and how.
        vault: Where the endpoint rests between processes.
        clock: The clocks.
    """

    def __init__(self, config: VantageConfig, vault: Vault, clock: Clock) -> None:
        self._config = config
        self._vault = vault
        self._clock = clock
        self._known: tuple[str, float] | None = None

    def token_url(self) -> str:
        """Return the address of the token endpoint; the documented one if there is no other."""
        now = self._clock.steady()
        if self._known is not None and now < self._known[1]:
            return self._known[0]
        found = self._vault.load_text(DOCUMENT_LIFETIME)
        if found is None or not is_of_server(found, self._config.credentials):
            found = self._ask()
            if found is not None:
                self._vault.save_text(found)
        if found is None:
            return self._config.credentials.token_url
        self._known = (found, now + DOCUMENT_LIFETIME)
        return found

    def _ask(self) -> str | None:
        credentials = self._config.credentials
        tenant = f"/{quote(credentials.tenant_id, safe='')}" if credentials.tenant_id else ""
        url = f"{credentials.base_url}/auth2{tenant}/.well-known/openid-configuration"
        problem = "it could not be read"
        try:
            with (
                HttpSession(
                    self._config.http, base_url=credentials.base_url, auth=NoAuth()
                ) as session,
                session.get(url, headers={"Accept-Encoding": "identity"}, stream=True) as response,
            ):
                body = read_body(response, self._config.http.read_timeout)
                if response.status_code == 200 and body is not None:
                    document: Any = json.loads(body)
                    endpoint = document.get("token_endpoint")
                    if isinstance(endpoint, str) and is_of_server(endpoint, credentials):
                        return endpoint
                    problem = "it names no token endpoint of the configured server"
                else:
                    problem = f"the server answered {response.status_code}"
        except (requests.RequestException, HTTPError, OSError, ValueError, AttributeError):
            pass
        log.warning(
            "The discovery document of ABBYY Vantage is of no use (%s); the documented token path"
            " is used",
            problem,
        )
        return None


def is_of_server(endpoint: str, credentials: Credentials) -> bool:
    """Tell whether an address may get the password: scheme, host and port are the configured."""
    try:
        asked, base = urlsplit(endpoint), urlsplit(credentials.base_url)
        same = (asked.scheme, asked.hostname, asked.port) == (base.scheme, base.hostname, base.port)
    except ValueError:
        return False
    return same and asked.username is None and asked.password is None and not asked.query
