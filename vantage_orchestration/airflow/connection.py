# SPDX-License-Identifier: Apache-2.0
"""Converts an Airflow Connection into a configuration. No network access, no Airflow import.

The fields are those of :data:`vantage_orchestration.config.FIELDS`. User name, password
and base address are columns of the connection, all others are in its extra, under their names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from vantage_orchestration.config import FIELDS, VantageConfig
from vantage_orchestration.credentials import with_scheme
from vantage_orchestration.errors import ConfigurationError, discreet
from vantage_orchestration.text import read_json

CONN_TYPE: Final = "abbyy_vantage"
DEFAULT_CONN_ID: Final = "abbyy_vantage_default"
CONN_NAME_ATTR: Final = "abbyy_vantage_conn_id"
HOOK_NAME: Final = "ABBYY Vantage"

#: Field name to its column of a connection.
COLUMNS: Final = {"username": "login", "password": "password", "base_url": "host"}
#: Older tools write it before the name of each member of an extra.
_PREFIX: Final = f"extra__{CONN_TYPE}__"
#: Airflow's replacement for a secret in displays and exports.
_AIRFLOW_MASK: Final = "***"
_SCHEMES: Final = ("http", "https")


class ConnectionLike(Protocol):
    """The attributes of an Airflow Connection that are used here.

    Airflow has two such classes, ``airflow.sdk.Connection`` in tasks and triggers and
    ``airflow.models.Connection`` in its servers.
    """

    conn_id: Any
    conn_type: str | None
    host: str | None
    schema: str | None
    login: str | None
    password: str | None
    port: int | None
    extra: str | None


@discreet
def config_of(connection: ConnectionLike) -> VantageConfig:
    """Read a connection of type ``abbyy_vantage``, from any store.

    Values of its extra may be text (as in a URI) or typed (as from the form or JSON).

    Raises:
        ConfigurationError: The connection has another type, or a value is missing or wrong.
            Messages quote no value that may be secret.
    """
    # Parsed here, not with ``extra_dejson``: that calls the supervisor, which a coroutine must not
    # do, and it turns invalid JSON into an empty extra.
    kind = (connection.conn_type or "").replace("-", "_")
    if kind != CONN_TYPE:
        raise ConfigurationError(
            f"The connection {connection.conn_id!r} has the type {connection.conn_type!r}",
            hint=f"Use a connection of the type {CONN_TYPE!r} ({HOOK_NAME}). A URI begins with"
            " abbyy-vantage://, since it can't contain an underscore there",
        )
    values = _extra(connection)
    values["base_url"] = _address(connection)
    values["username"] = connection.login
    values["password"] = connection.password
    for spec in FIELDS:
        if spec.kind == "secret" and values.get(spec.name) == _AIRFLOW_MASK:
            raise ConfigurationError(
                f"The {spec.name} of the connection {connection.conn_id!r} is {_AIRFLOW_MASK}: it"
                " was saved from a masked display",
                hint=f"Enter the real {spec.name} and save the connection again",
            )
    return VantageConfig.from_fields(values, f"airflow:{connection.conn_id}")


def _extra(connection: ConnectionLike) -> dict[str, Any]:
    text = connection.extra
    if not text or not text.strip():
        return {}
    try:
        values = read_json(text)
    except ValueError:
        values = None
    if not isinstance(values, Mapping):
        # Raised here, so that the traceback contains no exception with the text.
        raise ConfigurationError(
            f"The extra of the connection {connection.conn_id!r} is not a JSON object",
            hint='Give an object such as {"region": "eu", "client_id": "..."}',
        )
    own = {name: value for name, value in values.items() if not name.startswith(_PREFIX)}
    values = {name.removeprefix(_PREFIX): value for name, value in values.items()} | own
    for name, column in COLUMNS.items():
        # Airflow tests a stored password only against the stored host. A second host in the extra
        # would bypass that.
        if values.get(name):
            raise ConfigurationError(
                f"The extra of the connection {connection.conn_id!r} contains {name}",
                hint=f"Put it into the connection's {column}",
            )
    return values


def _address(connection: ConnectionLike) -> str:
    """Combine host, port and schema; the result is checked where it is used."""
    host = (connection.host or "").strip()
    schema = (connection.schema or "").strip().lower()
    if schema and schema not in _SCHEMES:
        raise ConfigurationError(
            f"The schema of the connection {connection.conn_id!r} is neither http nor https",
            hint="Leave it empty; a path belongs to the base URL in the connection's host",
        )
    if not host:
        if connection.port is not None:
            raise ConfigurationError(
                f"The connection {connection.conn_id!r} has a port but no host",
                hint="Give both for an address of your own, or neither for a region",
            )
        return ""
    if "://" not in host:
        host = _bracketed(host)
        host = f"{schema}://{host}" if schema else with_scheme(host, connection.port)
    elif schema and not host.lower().startswith(f"{schema}://"):
        raise ConfigurationError(
            f"Host and schema of the connection {connection.conn_id!r} contradict each other",
            hint="Leave the schema empty",
        )
    if connection.port is None:
        return host
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError:
        return host
    if port is None:
        return urlunsplit(parts._replace(netloc=f"{parts.netloc}:{connection.port}"))
    if port != connection.port:
        raise ConfigurationError(
            f"Host and port of the connection {connection.conn_id!r} contradict each other",
            hint="Leave the port empty",
        )
    return host


def _bracketed(host: str) -> str:
    """Return an IPv6 address in the form of URLs; Airflow's URI parser removes its brackets."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
