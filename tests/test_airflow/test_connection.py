# SPDX-License-Identifier: Apache-2.0
"""The pure reader: attributes of a connection to a configuration."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from leaks import find_leaks, find_leaks_in_frames
from test_airflow.installation import Airflow

from vantage_orchestration.airflow.connection import config_of
from vantage_orchestration.errors import ConfigurationError

PASSWORD = "made-up-password-41"
SECRET = "made-up-secret-42"


def connection(extra: Any = None, **columns: Any) -> SimpleNamespace:
    base = {"client_id": "c", "client_secret": SECRET}
    text = extra if isinstance(extra, str) else json.dumps({**base, **(extra or {})})
    values = {
        "conn_id": "mine",
        "conn_type": "abbyy_vantage",
        "host": None,
        "schema": None,
        "login": "user@example.com",
        "password": PASSWORD,
        "port": None,
        "extra": text,
    }
    return SimpleNamespace(**{**values, **columns})


@pytest.mark.parametrize(
    ("columns", "address"),
    [
        ({"host": "https://vantage.example.com"}, "https://vantage.example.com"),
        ({"host": "vantage.example.com"}, "https://vantage.example.com"),
        ({"host": "vantage.example.com", "port": 8443}, "https://vantage.example.com:8443"),
        ({"host": "127.0.0.1", "schema": "http", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "http://127.0.0.1", "port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "http://127.0.0.1:8000"}, "http://127.0.0.1:8000"),
        ({"host": "http://127.0.0.1:8000", "port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "http://localhost:8000", "schema": "HTTP"}, "http://localhost:8000"),
        ({"host": "::1", "schema": "http", "port": 8000}, "http://[::1]:8000"),
        ({"host": "https://example.com/a/b", "port": 1}, "https://example.com:1/a/b"),
        ({"host": " https://example.com/api/publicapi/v1 "}, "https://example.com"),
    ],
)
def test_address(columns: dict[str, Any], address: str) -> None:
    config = config_of(connection({"region": "custom"}, **columns))
    assert config.credentials.base_url == address


def test_the_configuration_knows_its_connection_and_equals_that_of_another_id() -> None:
    config = config_of(connection({"region": "eu"}))
    assert config.origin == "airflow:mine"
    assert config == config_of(connection({"region": "eu"}, conn_id="other"))


@pytest.mark.parametrize("host", [None, "", "  "])
def test_region_needs_no_host(host: str | None) -> None:
    config = config_of(connection({"region": "eu"}, host=host))
    assert config.credentials.base_url == "https://vantage-eu.abbyy.com"


def test_values_may_be_text_or_typed() -> None:
    typed = config_of(
        connection({"region": "eu", "verify": False, "connect_timeout": 2, "read_timeout": None})
    )
    text = config_of(
        connection({"region": "eu", "verify": "false", "connect_timeout": "2", "read_timeout": ""})
    )
    assert typed == text
    assert typed.http.verify is False
    assert typed.http.timeouts == (2.0, 30.0)


def test_type_with_hyphen_is_the_same_type() -> None:
    assert config_of(connection({"region": "us"}, conn_type="abbyy-vantage"))


def test_secrets_to_mask() -> None:
    proxy = "http://someone:proxy-word@proxy.example.com:3128"
    config = config_of(connection({"region": "us", "proxy": proxy}))
    shown = [secret.reveal() for secret in config.secrets]
    assert shown == [PASSWORD, SECRET, proxy, "proxy-word"]
    plain = config_of(connection({"region": "us", "grant_type": "client_credentials"}, password=""))
    assert [secret.reveal() for secret in plain.secrets] == [SECRET]


@pytest.mark.parametrize(
    ("extra", "columns", "text"),
    [
        ({}, {"conn_type": "http"}, "has the type 'http'"),
        ({}, {"conn_type": None}, "has the type None"),
        # What Airflow reads of a URI that begins with abbyy_vantage://.
        ({}, {"conn_type": ""}, "A URI begins with abbyy-vantage://"),
        ({}, {}, "no region"),
        ("not json " + SECRET, {}, "not a JSON object"),
        (json.dumps([SECRET]), {}, "not a JSON object"),
        ({"base_url": "https://elsewhere.example.com"}, {}, "contains base_url"),
        ({"password": SECRET}, {}, "contains password"),
        ({"username": "x"}, {}, "contains username"),
        ({"extra__abbyy_vantage__password": SECRET}, {}, "contains password"),
        ({"region": "eu"}, {"host": "https://example.com"}, "both region"),
        ({"region": "eu"}, {"schema": "ftp"}, "neither http nor https"),
        ({"region": "eu"}, {"port": 443}, "a port but no host"),
        ({}, {"host": "http://example.com"}, "not https"),
        ({}, {"host": "example.com", "schema": "http"}, "not https"),
        ({}, {"host": "https://127.0.0.1", "schema": "http"}, "contradict"),
        ({}, {"host": "https://example.com:1", "port": 2}, "contradict"),
        ({}, {"host": f"https://u:{PASSWORD}@example.com", "port": 2}, "user name or password"),
        ({}, {"host": "https://example.com:port", "port": 2}, "not a valid address"),
        ({"region": "eu", "client_secret": "***"}, {}, "client_secret"),
        ({"region": "eu"}, {"password": "***"}, "masked display"),
        ({"region": "eu"}, {"password": None}, "no password"),
        ({"region": "eu", "client_secret": 41}, {}, "client_secret"),
        ({"region": "eu", "read_timeout": "soon"}, {}, "read_timeout"),
        ({"region": "europe"}, {"host": "https://example.com"}, "Did you mean eu?"),
        ({"regoin": "eu"}, {"host": "https://example.com"}, "Did you mean 'region'?"),
        ({"region": "custom"}, {"host": "127.0.0.1", "port": 80}, "http://127.0.0.1:80?"),
        ({"region": "custom"}, {"host": "::1", "port": 80}, "http://[::1]:80?"),
        ({"region": "eu", "verify": "perhaps"}, {}, "verify"),
    ],
)
def test_wrong_connections(extra: Any, columns: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_of(connection(extra, **columns))
    assert text in str(caught.value)
    assert find_leaks([PASSWORD, SECRET], {"error": str(caught.value) + repr(caught.value)}) == []


PROXY = "http://someone:proxy-word@proxy.example.com:3128"


@pytest.mark.parametrize(
    ("extra", "columns"),
    [
        ({"region": "mars"}, {}),
        ({"region": "us", "verify": "perhaps"}, {}),
        ({"region": "us", "client_id": ""}, {}),
        ({"region": "us", "client_secret": "***"}, {}),
        ({"region": "us", "proxy": f"{PROXY} x"}, {}),
        ({"region": "us", "base_url": PASSWORD}, {}),
        ({"region": "us"}, {"conn_type": "http"}),
        ({"region": "us"}, {"schema": PASSWORD}),
        ({"region": "us"}, {"port": 1}),
        ({"region": "us"}, {"extra": f"no JSON {SECRET}"}),
        ({"region": "us"}, {"extra": "[" * 100_000 + SECRET}),
    ],
)
def test_no_frame_shows_what_a_refused_connection_holds(
    extra: dict[str, Any], columns: dict[str, Any]
) -> None:
    made = connection({"proxy": PROXY, **extra})
    vars(made).update(columns)
    with pytest.raises(ConfigurationError) as caught:
        config_of(made)
    secrets = [PASSWORD, SECRET, "proxy-word"]
    assert find_leaks_in_frames(secrets, caught.value) == []
    assert find_leaks(secrets, {"error": str(caught.value)}) == []


def test_airflow_does_not_warn_of_the_type_at_each_lookup(airflow: Airflow) -> None:
    before = len(airflow.output.read_text())
    uris = airflow("uris_of", conn_types=["abbyy_vantage", "another_type"])
    assert uris == ["abbyy-vantage://", "another-type://"]
    told = airflow.output.read_text()[before:]
    assert "(type: another_type) shall not contain" in told
    assert "(type: abbyy_vantage)" not in told
