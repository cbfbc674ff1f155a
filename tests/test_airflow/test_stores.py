# SPDX-License-Identifier: Apache-2.0
"""Every place where Airflow keeps connections, with values that are easily damaged there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from leaks import find_leaks
from test_airflow.installation import AWKWARD, SERVER, Airflow

EXTRA = {
    "region": "custom",
    "tenant_id": "6f0c8bb8-0000-4000-8000-000000000001",
    "client_id": "client of Example Ltd",
    "client_secret": AWKWARD + "!",
    "proxy": "http://u:p%40ss@127.0.0.1:3128",
    "verify": False,
    "connect_timeout": 1.5,
}
COLUMNS = {
    "conn_type": "abbyy_vantage",
    "host": "http://127.0.0.1:8181",
    "login": "user+x@example.com",
    "password": AWKWARD,
}
WANTED = {
    "base_url": "http://127.0.0.1:8181",
    "region": "custom",
    "username": "user+x@example.com",
    "client_id": "client of Example Ltd",
    "tenant_id": EXTRA["tenant_id"],
    "token_url": f"http://127.0.0.1:8181/auth2/{EXTRA['tenant_id']}/connect/token",
    "password": AWKWARD,
    "client_secret": AWKWARD + "!",
    "verify": False,
    "timeouts": [1.5, 30.0],
    "proxy": "http://u:p%40ss@127.0.0.1:3128",
}


def uri(address: str, **extra: Any) -> str:
    login, password = (quote(COLUMNS[name], safe="") for name in ("login", "password"))
    kind, _, rest = address.rpartition("//")
    return f"{kind}//{login}:{password}@{rest}?{urlencode(extra)}"


AS_TEXT = {name: str(value) for name, value in EXTRA.items()}
#: As older tools write it. A name without the prefix wins, wherever it stands.
PREFIXED = {"region": "custom"}
PREFIXED |= {f"extra__abbyy_vantage__{name}": value for name, value in AS_TEXT.items()}
PREFIXED |= {"extra__abbyy_vantage__region": "eu", "extra__abbyy_vantage__client_id": "wrong"}
PREFIXED |= {"client_id": AS_TEXT["client_id"]}


def test_database(airflow: Airflow) -> None:
    airflow("add_connection", conn_id="stored", **COLUMNS, extra=json.dumps(EXTRA))
    assert airflow("read_connection", SERVER, conn_id="stored") == WANTED
    row = airflow("connection_row", conn_id="stored")
    assert (row["is_encrypted"], row["is_extra_encrypted"]) == (1, 1)
    assert find_leaks([AWKWARD], {"row": repr(row)}) == []


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(json.dumps({**COLUMNS, "extra": EXTRA}), id="json"),
        pytest.param(json.dumps({**COLUMNS, "extra": json.dumps(EXTRA)}), id="json in json"),
        pytest.param(
            json.dumps({**COLUMNS, "conn_type": "abbyy-vantage", "extra": AS_TEXT}), id="text"
        ),
        pytest.param(
            json.dumps(
                {**COLUMNS, "host": "127.0.0.1", "port": 8181, "schema": "http", "extra": EXTRA}
            ),
            id="host and port",
        ),
        pytest.param(json.dumps({**COLUMNS, "extra": PREFIXED}), id="prefixed"),
        pytest.param(uri("abbyy-vantage://127.0.0.1:8181/http", **AS_TEXT), id="uri"),
        pytest.param(uri("abbyy-vantage://127.0.0.1:8181/http", **PREFIXED), id="prefixed uri"),
        pytest.param(uri("abbyy-vantage://http://127.0.0.1:8181/", **AS_TEXT), id="uri in uri"),
        pytest.param(
            uri("abbyy-vantage://127.0.0.1:8181/http", __extra__=json.dumps(EXTRA)), id="__extra__"
        ),
    ],
)
def test_environment(airflow: Airflow, value: str) -> None:
    found = airflow("read_connection", {"AIRFLOW_CONN_FROM_ENV": value}, conn_id="from_env")
    assert found == WANTED


def test_uri_with_a_region(airflow: Airflow) -> None:
    value = (
        "abbyy-vantage://user%40example.com:p%40ss@/?region=eu&client_id=c&client_secret=s%2B%26x"
    )
    found = airflow("read_connection", {"AIRFLOW_CONN_FROM_ENV": value}, conn_id="from_env")
    assert found["base_url"] == "https://vantage-eu.abbyy.com"
    assert (found["username"], found["password"]) == ("user@example.com", "p@ss")
    assert found["client_secret"] == "s+&x"


def test_secrets_backend(airflow: Airflow, tmp_path: Path) -> None:
    stored = tmp_path / "connections.json"
    stored.write_text(json.dumps({"kept_elsewhere": {**COLUMNS, "extra": EXTRA}}))
    settings = {
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(stored)}),
    }
    for environment in (settings, {**settings, **SERVER}):
        assert airflow("read_connection", environment, conn_id="kept_elsewhere") == WANTED


@pytest.mark.parametrize(
    "columns",
    [
        {**COLUMNS, "extra": json.dumps(EXTRA)},
        {**COLUMNS, "host": None, "extra": json.dumps({**EXTRA, "region": "au"})},
        {**COLUMNS, "host": "vantage.example.com", "port": 8443, "extra": json.dumps(EXTRA)},
    ],
)
def test_survives_being_written_as_a_uri(airflow: Airflow, columns: dict[str, Any]) -> None:
    trip = airflow("round_trip", columns=columns)
    assert trip["equal"], trip["addresses"]
