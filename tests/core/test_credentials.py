# SPDX-License-Identifier: Apache-2.0
"""The credential as a value: addresses, refusals, and secrets that do not show."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback

import pytest
from leaks import find_leaks

from vantage_orchestration.config import FIELDS, HttpSettings, VantageConfig
from vantage_orchestration.credentials import Credentials, is_loopback
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.secret import MASK, Secret

PASSWORD = "p+a s%&=:e-ü-secret"
CLIENT_SECRET = "client/secret+of=length"


def make(**changes) -> Credentials:
    values = {
        "region": "eu",
        "username": "user@example.com",
        "password": PASSWORD,
        "client_id": "client",
        "client_secret": CLIENT_SECRET,
    }
    return Credentials(**{**values, **changes})


@pytest.mark.parametrize("region", ["us", "eu", "au", " EU "])
def test_regions_have_their_documented_addresses(region):
    credentials = make(region=region)
    host = f"https://vantage-{region.strip().lower()}.abbyy.com"
    assert credentials.token_url == f"{host}/auth2/connect/token"
    assert credentials.api_url == f"{host}/api/publicapi/v1"


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("https://vantage.example.com", "https://vantage.example.com"),
        ("https://vantage.example.com/", "https://vantage.example.com"),
        ("vantage.example.com", "https://vantage.example.com"),
        ("https://vantage.example.com:8443/idp/", "https://vantage.example.com:8443/idp"),
        ("https://vantage.example.com/api/publicapi/v1", "https://vantage.example.com"),
        ("https://vantage.example.com/api/publicapi/v1/", "https://vantage.example.com"),
        ("https://Vantage.Example.com/x/API/publicapi/v1/", "https://vantage.example.com/x"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_base_url_may_be_written_in_several_ways(given, base):
    credentials = make(region="custom", base_url=given)
    assert credentials.base_url == base
    assert credentials.token_url == f"{base}/auth2/connect/token"
    assert credentials.api_url == f"{base}/api/publicapi/v1"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://vantage.example.com", "not https"),
        ("http://127.0.0.1.evil.example", "not https"),
        ("http://localhost.evil.example", "not https"),
        ("http://127.0.0.1@evil.example", "user name"),
        ("https://user:pass@vantage.example.com", "user name"),
        ("https://vantage.example.com?x=1", "query"),
        ("https://vantage.example.com#x", "query or fragment"),
        ("ftp://vantage.example.com", "not an https"),
        ("https://", "not a valid address"),
        ("https://vantage example.com", "not a valid address"),
        ("https://vantage.example.com:port", "not a valid address"),
        ("https://vantage.example.com\\@evil.example", "not a valid address"),
        ("https://vantage.example.com/auth/connect/token", "deprecated"),
    ],
)
def test_addresses_that_would_endanger_the_password_are_refused(address, why):
    with pytest.raises(ConfigurationError, match=why):
        make(region="custom", base_url=address)


def test_loopback_is_meant_literally():
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"]))
    assert not any(
        map(is_loopback, ["127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1", "", None, "local"])
    )


def test_the_tenant_goes_into_the_path():
    assert make(tenant_id="t 1/x").token_path == "/auth2/t%201%2Fx/connect/token"


def test_paths_grant_and_scope_are_configuration():
    credentials = make(
        grant_type="urn:new",
        scope="a  b",
        auth_path="/auth3/{tenantId}/token",
        tenant_id="t1",
        api_path="api/publicapi/v2/",
    )
    assert credentials.token_path == "/auth3/t1/token"
    assert credentials.api_url.endswith("/api/publicapi/v2")
    assert (credentials.grant_type, credentials.scope) == ("urn:new", "a b")


@pytest.mark.parametrize(
    "path", ["/auth/connect/token", "auth/{tenantId}/connect/token", "/AUTH/x"]
)
def test_deprecated_token_paths_are_refused_and_the_right_one_is_named(path):
    with pytest.raises(ConfigurationError, match="/auth2/connect/token"):
        make(auth_path=path, tenant_id="t")


@pytest.mark.parametrize("path", ["//evil.example/x", "/a?b", "/a#b", "/a/../b", "/a b", "/a\\b"])
def test_a_path_is_a_path(path):
    with pytest.raises(ConfigurationError, match="not a path"):
        make(auth_path=path)


def test_a_placeholder_needs_a_tenant():
    with pytest.raises(ConfigurationError, match="tenant id"):
        make(auth_path="/auth2/{tenantId}/connect/token")


@pytest.mark.parametrize("missing", ["username", "password", "client_id", "client_secret"])
def test_the_password_grant_needs_all_four(missing):
    with pytest.raises(ConfigurationError, match=missing):
        make(**{missing: ""})


def test_client_credentials_need_no_user():
    credentials = make(grant_type="client_credentials", username="", password="")
    assert credentials.grant_type == "client_credentials"


def test_a_region_must_be_chosen_and_only_one_place():
    with pytest.raises(ConfigurationError, match="no region"):
        make(region="")
    with pytest.raises(ConfigurationError, match="no region"):
        make(region="custom")
    with pytest.raises(ConfigurationError, match="'mars' is not a region"):
        make(region="mars")
    with pytest.raises(ConfigurationError, match="both"):
        make(region="eu", base_url="https://vantage.example.com")


def test_a_masked_password_is_refused():
    with pytest.raises(ConfigurationError, match="masked"):
        make(password=MASK)


def test_values_are_equal_by_content_and_immutable():
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(password="another-password")
    with pytest.raises(AttributeError):
        make().password = Secret("x")
    with pytest.raises(AttributeError):
        del make().region
    same = make()
    assert copy.deepcopy(same) is same
    assert copy.copy(same) is same


def test_secrets_of_any_characters_can_be_compared():
    # A proxy of the environment may have bytes that are not UTF-8. The error would quote it all.
    odd = "http://user:made-up\udcff@127.0.0.1:9"
    assert Secret(odd) == Secret(odd) != Secret("other")
    fields = {"region": "eu", "username": "u", "password": PASSWORD, "client_id": "c"}
    read = [VantageConfig.from_fields({**fields, "client_secret": "s", "proxy": odd}) for _ in "ab"]
    assert read[0] == read[1]


def test_secrets_show_nowhere():
    credentials = make()
    config = VantageConfig(credentials, HttpSettings(proxy=Secret("http://u:proxy-pass@p:1")))
    secrets = [PASSWORD, CLIENT_SECRET, "proxy-pass"]
    places = {
        "repr": repr(config),
        "str": str(credentials),
        "format": f"{credentials} {credentials.password!s} {credentials.password:>20}",
        "asdict": repr(dataclasses.asdict(config)),
        "secret": credentials.password,
    }
    assert find_leaks(secrets, places) == []
    assert find_leaks(secrets, {"control": f"x{PASSWORD}y"}) == ["control"]
    with pytest.raises(TypeError):
        vars(credentials)
    for value in (credentials, credentials.password, config):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="can't be pickled"):
                pickle.dumps(value, protocol)


@pytest.mark.parametrize(
    "wrong", [{"region": "mars"}, {"client_id": ""}, {"auth_path": "/auth/x"}, {"base_url": "x y"}]
)
def test_a_refused_credential_shows_no_secret_even_with_local_variables(wrong):
    # The values are made inside the call, so that this function holds none of them.
    with pytest.raises(ConfigurationError) as caught:
        make(**wrong)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    inner = [f for f in frames if "vantage_orchestration" in f.f_code.co_filename]
    assert inner, "the error came from the package"
    shown = "".join(repr(value) for frame in inner for value in frame.f_locals.values())
    leaks = find_leaks([PASSWORD, CLIENT_SECRET], {"locals": shown, "text": str(caught.value)})
    assert leaks == []


def test_fields_are_read_from_texts_and_the_environment():
    values = {
        "ABBYY_VANTAGE_REGION": "au",
        "ABBYY_VANTAGE_USERNAME": "user@example.com",
        "ABBYY_VANTAGE_PASSWORD": PASSWORD,
        "ABBYY_VANTAGE_CLIENT_ID": "client",
        "ABBYY_VANTAGE_CLIENT_SECRET": CLIENT_SECRET,
        "ABBYY_VANTAGE_VERIFY": "False",
        "ABBYY_VANTAGE_READ_TIMEOUT": "7.5",
        "ABBYY_VANTAGE_PROXY": "http://proxy.example.com:3128",
    }
    config = VantageConfig.from_env(values)
    assert config.credentials.base_url == "https://vantage-au.abbyy.com"
    assert config.credentials.password.reveal() == PASSWORD
    assert config.http.verify is False
    assert config.http.timeouts == (5.0, 7.5)
    assert config.http.proxy.reveal() == "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("verify", "perhaps", "neither true nor false"),
        ("read_timeout", "soon", "not a number"),
        ("read_timeout", 0, "above 0"),
        ("connect_timeout", float("nan"), "above 0"),
        ("ca_bundle", "/nowhere/ca.pem", "does not exist"),
        ("password", 12345678, "not a string"),
        ("scope", ["a"], "not a string"),
    ],
)
def test_a_wrong_field_is_named(name, value, why):
    values = {
        "region": "eu",
        "username": "u",
        "password": PASSWORD,
        "client_id": "c",
        "client_secret": CLIENT_SECRET,
    }
    with pytest.raises(ConfigurationError, match=why) as caught:
        VantageConfig.from_fields({**values, name: value})
    assert name.replace("_", " ") in str(caught.value).lower().replace("_", " ")


@pytest.mark.parametrize("value", [12345678901234567890, True, 1e5, ["a"], {"a": 1}])
def test_a_text_that_a_store_took_for_json_is_explained(value):
    # Airflow's model does that with the values of a URI.
    with pytest.raises(ConfigurationError, match="store such a connection as JSON"):
        VantageConfig.from_fields({"region": "eu", "client_secret": value})


def test_every_field_has_what_a_form_needs():
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    for field in FIELDS:
        assert field.label
        assert field.description.endswith(".")
    assert {field.name for field in FIELDS if field.kind == "secret"} == {
        "password",
        "client_secret",
        "proxy",
    }


@pytest.mark.parametrize(
    ("region", "near"),
    [("europe", "eu"), ("EU1", "eu"), ("usa", "us"), ("Australia", "au"), ("costum", "custom")],
)
@pytest.mark.parametrize("base_url", ["", "https://vantage.example.com"])
def test_a_region_that_is_none_is_refused_also_beside_an_address(region, near, base_url):
    with pytest.raises(ConfigurationError, match=f"is not a region.*Did you mean {near}[?]"):
        make(region=region, base_url=base_url)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("regoin", "region"),
        ("clientId", "client_id"),
        ("client-secret", "client_secret"),
        ("tenant", "tenant_id"),
        ("Verify", "verify"),
        ("auth_pth", "auth_path"),
    ],
)
def test_a_misspelt_name_is_refused_wherever_it_is_stored(name, near):
    values = {"region": "custom", "base_url": "https://vantage.example.com", "username": "u"}
    values |= {"password": PASSWORD, "client_id": "c", "client_secret": CLIENT_SECRET}
    assert VantageConfig.from_fields({**values, "owner": "x", "team_id": 5})
    with pytest.raises(ConfigurationError, match=f"Did you mean '{near}'") as caught:
        VantageConfig.from_fields({**values, name: CLIENT_SECRET})
    assert CLIENT_SECRET not in str(caught.value)
    environ = {f"ABBYY_VANTAGE_{each.upper()}": value for each, value in values.items()}
    assert VantageConfig.from_env(environ)
    if name.isupper() or name.islower():
        with pytest.raises(ConfigurationError, match=f"Did you mean '{near}'"):
            VantageConfig.from_env({**environ, f"ABBYY_VANTAGE_{name.upper()}": "x"})


def test_line_breaks_around_a_secret_are_left_out_and_blanks_are_kept():
    values = {"region": "eu", "username": " u\n", "password": " a b \r\n", "client_id": "c\n"}
    values |= {"client_secret": "s e\n", "tenant_id": " t\n", "proxy": "http://p.example.com\n"}
    config = VantageConfig.from_fields(values)
    assert config == VantageConfig.from_env(
        {f"ABBYY_VANTAGE_{name.upper()}": value for name, value in values.items()}
    )
    found = config.credentials
    assert (found.username, found.client_id, found.tenant_id) == ("u", "c", "t")
    assert found.password.reveal() == " a b "
    assert found.client_secret.reveal() == "s e"
    assert config.http.proxy.reveal() == "http://p.example.com"
    assert make(password=PASSWORD + "\n") == make(password=PASSWORD)


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "localhost:8080", "127.0.0.1:8080/a"])
def test_an_address_of_this_machine_has_a_scheme(address):
    host = address.partition("/")[0]
    with pytest.raises(ConfigurationError, match=f"Did you mean http://{host}[?]"):
        make(region="custom", base_url=address)
    assert make(region="custom", base_url="vantage.example.com").host == "vantage.example.com"


@pytest.mark.parametrize("environ", [{}, {"PATH": "/bin"}, {"ABBYY_VANTAGE_REGION": ""}])
def test_an_environment_without_a_credential_is_named_as_such(environ):
    with pytest.raises(ConfigurationError, match="The environment has no") as failure:
        VantageConfig.from_env(environ)
    assert "ABBYY_VANTAGE_REGION" in str(failure.value)
