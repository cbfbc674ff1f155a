# SPDX-License-Identifier: Apache-2.0
"""The fields of a stored credential: the one list from which every form is built.

The Airflow connection form, the Prefect block, the environment variables and the parser in
:mod:`vantage_orchestration.config` all follow this list, so they can't drift apart. It is plain
data: importing it loads nothing.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

#: Base address per region [OAS25]. A tenant exists in one region only.
REGIONS: Final = {
    "us": "https://vantage-us.abbyy.com",
    "eu": "https://vantage-eu.abbyy.com",
    "au": "https://vantage-au.abbyy.com",
}
#: Paths and values of contract section 2.1. According to the vendor, all may change.
DEFAULT_AUTH_PATH: Final = "/auth2/connect/token"
DEFAULT_TENANT_AUTH_PATH: Final = "/auth2/{tenantId}/connect/token"
DEFAULT_API_PATH: Final = "/api/publicapi/v1"
DEFAULT_GRANT_TYPE: Final = "password"
DEFAULT_SCOPE: Final = "openid permissions global.wildcard"
#: Ways to send the API client to the token endpoint.
CLIENT_AUTHS: Final = ("form", "basic")
DEFAULT_CLIENT_AUTH: Final = "form"
#: Names of the token stores.
STORES: Final = ("file", "orchestrator", "memory")
DEFAULT_STORE: Final = "file"


class Field(NamedTuple):
    """One field of a stored credential.

    Attributes:
        name: Its name in the connection's extra, in the block and, in capitals and after
            ``ABBYY_VANTAGE_``, in the environment.
        label: Its label in a form.
        description: Help for the form, as sentences.
        kind: How its value is parsed.
        default: Its value if none is given.
        choices: The values of a dropdown.
        needed: Whether every credential needs it.
    """

    name: str
    label: str
    description: str
    kind: Literal["text", "secret", "flag", "number"] = "text"
    default: str | bool | float = ""
    choices: tuple[str, ...] = ()
    needed: bool = False


FIELDS: Final = (
    Field(
        "region",
        "Region",
        "Region of the tenant: us, eu or au. Choose custom for an address of your own, and give the"
        " base URL.",
        choices=(*REGIONS, "custom"),
        needed=True,
    ),
    Field(
        "base_url",
        "Base URL",
        "Address of a private cloud, such as https://vantage.example.com. Only with region custom.",
    ),
    Field(
        "tenant_id",
        "Tenant ID",
        "Needed if the user's e-mail address belongs to more than one tenant.",
    ),
    Field(
        "username",
        "Username",
        "E-mail address of the ABBYY Vantage user. Needed with the grant type password.",
    ),
    Field(
        "password",
        "Password",
        "Password of that user. Needed with the grant type password.",
        "secret",
    ),
    Field(
        "client_id",
        "Client ID",
        "Id of the API client, from the tenant's administrator. Always needed.",
        needed=True,
    ),
    Field(
        "client_secret",
        "Client secret",
        "Secret of the API client. Always needed. It expires, by default six months after its"
        " creation.",
        "secret",
        needed=True,
    ),
    Field(
        "grant_type",
        "Grant type",
        "OAuth 2.0 grant: password for a user, or client_credentials for services and for tenants"
        " with single sign-on.",
        default=DEFAULT_GRANT_TYPE,
    ),
    Field(
        "scope",
        "Scope",
        "OAuth 2.0 scope. Change it only if the vendor's documentation does.",
        default=DEFAULT_SCOPE,
    ),
    Field(
        "client_auth",
        "Client authentication",
        "How client ID and secret are sent: form (in the request's body, as ABBYY documents it)"
        " or basic (HTTP Basic), for a token endpoint of your own that accepts nothing else.",
        default=DEFAULT_CLIENT_AUTH,
        choices=CLIENT_AUTHS,
    ),
    Field(
        "auth_path",
        "Authentication path",
        "Path of the token endpoint, if not the documented /auth2/connect/token or"
        " /auth2/{tenantId}/connect/token.",
    ),
    Field(
        "api_path",
        "API path",
        "Path of the processing API.",
        default=DEFAULT_API_PATH,
    ),
    Field(
        "ca_bundle",
        "CA bundle",
        "File with the only certificate authorities to trust. By default that of"
        " REQUESTS_CA_BUNDLE, or the usual ones.",
    ),
    Field(
        "verify",
        "Verify certificates",
        "Check the server's certificate. Turn this off for trials only.",
        "flag",
        True,
    ),
    Field(
        "proxy",
        "Proxy",
        "Address of an HTTP proxy, such as http://proxy.example.com:3128, or none for a direct"
        " connection. By default that of the environment.",
        "secret",
    ),
    Field("connect_timeout", "Connect timeout", "Seconds to connect.", "number", 5.0),
    Field(
        "read_timeout",
        "Read timeout",
        "Seconds to wait for the server's next bytes, and for a whole reply other than a file.",
        "number",
        30.0,
    ),
    Field(
        "result_limit",
        "Result limit",
        "Largest result file in megabytes.",
        "number",
        8192.0,
    ),
    Field(
        "max_concurrent_requests",
        "Requests at once",
        "Requests that a host sends at the same time with this credential; 0 for any number.",
        "number",
        0.0,
    ),
    Field(
        "max_requests_per_second",
        "Requests per second",
        "Requests that a host sends in a second with this credential; 0 for any number.",
        "number",
        0.0,
    ),
    Field(
        "store",
        "Token store",
        "Where a token is stored for other processes: file (on this host), orchestrator (Airflow"
        " or Prefect Variable, for several hosts), or memory (not stored).",
        default=DEFAULT_STORE,
        choices=STORES,
    ),
    Field(
        "store_path",
        "Token folder",
        "Folder of the file store, if not the user's runtime or cache folder.",
    ),
)
