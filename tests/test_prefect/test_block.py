# SPDX-License-Identifier: Apache-2.0
"""The block as a class: its form, its checks, its secrets, its token. No Prefect server."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import traceback
import typing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest
from leaks import find_leaks, find_leaks_in_frames
from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from vantage_orchestration.config import FIELDS
from vantage_orchestration.errors import (
    ConfigurationError,
    CredentialsRejected,
    VantageError,
)
from vantage_orchestration.prefect import VantageCredentials
from vantage_orchestration.sandbox import SandboxServer

PASSWORD, SECRET = "made-up&pass+word%", "made-up=client secret"
PROXY = "http://someone:proxy-word@proxy.example.com:3128"
GOOD = {
    "region": "eu",
    "username": "user@example.com",
    "password": PASSWORD,
    "client_id": "example-client",
    "client_secret": SECRET,
}


class Parent(Block):
    """A block that holds another."""

    credentials: VantageCredentials
    skill: str = ""


class TestConventions(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return VantageCredentials

    # The block has no logo: no picture at an address of our own, and none of somebody else's.
    test_has_a_valid_image = None


def test_identity_in_prefect() -> None:
    assert issubclass(VantageCredentials, CredentialsBlock)
    assert VantageCredentials.get_block_type_slug() == "abbyy-vantage-credentials"
    assert VantageCredentials.get_block_type_name() == "ABBYY Vantage Credentials"


def test_fields_are_those_of_the_one_list() -> None:
    schema = VantageCredentials.model_json_schema()
    kinds = {"text": str, "secret": SecretStr, "flag": bool, "number": float}

    assert list(schema["properties"]) == [spec.name for spec in FIELDS]
    for spec in FIELDS:
        shown, field = schema["properties"][spec.name], VantageCredentials.model_fields[spec.name]
        assert (shown["title"], shown["description"]) == (spec.label, spec.description)
        if spec.choices:
            assert typing.get_args(field.annotation) == tuple(shown["enum"]) == spec.choices
        else:
            assert field.annotation is kinds[spec.kind]
        if spec.choices and not spec.default:
            assert field.is_required()
        else:
            assert shown["default"] == spec.default
    assert schema["required"] == ["region"]
    assert schema["secret_fields"] == [spec.name for spec in FIELDS if spec.kind == "secret"]


def test_import_loads_no_http_library() -> None:
    code = (
        "import sys, prefect.blocks.abstract; before = set(sys.modules)\n"
        "import vantage_orchestration.prefect\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "['vantage_orchestration']"


def _assigned() -> VantageCredentials:
    block = VantageCredentials(**{**GOOD, "password": "another", "client_secret": "another"})
    block.password, block.client_secret, block.proxy = PASSWORD, SECRET, PROXY  # type: ignore[assignment]
    return block


@pytest.mark.parametrize(
    "make",
    [
        _assigned,
        lambda: VantageCredentials(**GOOD).model_copy(update={"proxy": PROXY}),
        lambda: VantageCredentials(**GOOD).model_copy(update={"password": PASSWORD}, deep=True),
    ],
)
def test_secrets_that_are_set_later_are_not_shown(make: typing.Callable[[], Any]) -> None:
    block = make()
    assert block.password.get_secret_value() == PASSWORD
    places = {
        "repr": repr(block),
        "values": repr(block.model_dump()),
        "json": block.model_dump_json(),
    }
    assert find_leaks([PASSWORD, SECRET, "proxy-word"], places) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region": None}, "has no region"),
        ({"region": "custom"}, "has no region"),
        ({"region": "mars"}, "'mars' is not a region"),
        ({"region": 7}, "has no region"),
        ({"region": "eu", "base_url": "https://vantage.example.com"}, "both region 'eu' and"),
        ({"region": None, "base_url": "http://vantage.example.com"}, "is not https"),
        ({"region": None, "base_url": f"https://u:{PASSWORD}@example.com"}, "Give an address"),
        ({"password": ""}, "has no password"),
        ({"password": "*" * 10}, "masked display"),
        ({"client_secret": "*" * 8}, "masked display"),
        ({"password": 12345678}, "valid string"),
        ({"read_timeout": 0}, "read_timeout"),
        ({"connect_timeout": "soon"}, "valid number"),
        ({"auth_path": "/auth2/{tenantId}/connect/token"}, "no tenant id"),
        ({"api_path": "https://x?y"}, "is not a path"),
        ({"pasword": PASSWORD}, "no field pasword"),
    ],
)
def test_what_is_wrong_is_said_when_a_block_is_made(changes: dict[str, Any], words: str) -> None:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ValidationError, match=words) as caught:
        VantageCredentials(**values)
    assert all(item["input"] is None for item in caught.value.errors())
    places = {
        "text": str(caught.value),
        "repr": repr(caught.value),
        "errors": repr(caught.value.errors()),
        "json": caught.value.json(),
        "traceback": "".join(traceback.format_exception(caught.value)),
    }
    assert find_leaks([PASSWORD, SECRET, "12345678"], places) == []
    assert find_leaks(["VantageCredentials"], places)  # The search would find something.


@pytest.mark.parametrize(
    ("given", "region"),
    [
        ({"base_url": "https://vantage.example.com"}, "custom"),
        ({"base_url": "https://vantage.example.com", "region": ""}, "custom"),
        ({"region": " EU "}, "eu"),
    ],
)
def test_region_is_completed(given: dict[str, str], region: str) -> None:
    values = {name: value for name, value in GOOD.items() if name != "region"}
    assert VantageCredentials(**values, **given).region == region


def test_a_stored_block_with_null_in_an_optional_field_loads() -> None:
    optional = [name for name in VantageCredentials.model_fields if name not in GOOD]
    block = VantageCredentials.model_validate({**GOOD, **dict.fromkeys(optional)})
    assert block == VantageCredentials(**GOOD)
    with block.get_client() as client:
        assert client.config.credentials.region == "eu"
    for name in ("tenant_id", "verify", "read_timeout", "store", "proxy"):
        with pytest.raises(ValidationError, match=name):
            VantageCredentials.model_validate({**GOOD, name: ["wrong"]})
    misspelt = VantageCredentials.model_validate({**GOOD, "client_scret": SECRET})
    with pytest.raises(ConfigurationError, match="Did you mean 'client_secret'"):
        misspelt.get_client()


def test_ca_bundle_of_another_machine_is_no_error_before_use() -> None:
    block = VantageCredentials(**GOOD, ca_bundle="/no/such/file.pem")
    with pytest.raises(ConfigurationError, match="does not exist"):
        block.get_client()


@pytest.mark.parametrize("mask", ["*" * 8, "*" * 10])
def test_stored_block_loads_whatever_it_holds_and_is_refused_when_used(mask: str) -> None:
    stored = {**GOOD, "password": mask, "of_an_older_version": 1}
    for block in (
        VantageCredentials.model_validate(stored),
        Parent.model_validate({"credentials": stored}).credentials,
    ):
        assert block.password.get_secret_value() == mask
        for use in (block.get_client, block.get_token):
            with pytest.raises(ConfigurationError, match="Enter the real password"):
                use()
        with pytest.raises(ConfigurationError, match="Enter the real password"):
            asyncio.run(block.aget_token())


def test_block_shows_no_secret_and_survives_copies() -> None:
    block = VantageCredentials(**GOOD)
    shown = {
        "repr": repr(block),
        "str": str(block),
        "json": block.model_dump_json(),
        "dump": repr(block.model_dump()),
        "vars": repr(vars(block)),
    }
    assert find_leaks([PASSWORD, SECRET], shown) == []
    for twin in (
        copy.copy(block),
        copy.deepcopy(block),
        block.model_copy(),
        cloudpickle.loads(cloudpickle.dumps(block)),
        pickle.loads(pickle.dumps(block)),
    ):
        assert twin == block
        assert twin.get_client().config == block.get_client().config


def test_no_token_ever_gets_into_the_block(sandbox: SandboxServer, account: dict[str, Any]) -> None:
    block = VantageCredentials(**account)
    before = cloudpickle.dumps(block)
    token = block.get_token()

    assert token.is_same(sandbox.control.issued_secrets()[0])
    assert cloudpickle.dumps(block) == before
    places = {"pickle": cloudpickle.dumps(block), "block": block, "token": token}
    assert find_leaks([token.reveal()], places) == []
    with pytest.raises(TypeError, match="can't be pickled"):
        cloudpickle.dumps(token)


@pytest.mark.parametrize(
    "password",
    [
        "plus+and&percent%20",
        "quote\"'back\\slash",
        "späßchen-日本語",
        "  spaces inside  x",
        "a=b;c#d?e",
    ],
)
def test_passwords_with_special_characters_arrive(password: str) -> None:
    with SandboxServer(password=password, client_secret=f"{password}!") as sandbox:
        block = VantageCredentials(
            base_url=sandbox.url,
            username=sandbox.credentials["username"],
            password=password,
            client_id=sandbox.credentials["client_id"],
            client_secret=f"{password}!",
        )
        with block.get_client() as client:
            assert client.list_skills()


def test_grant_for_services(sandbox: SandboxServer, account: dict[str, Any]) -> None:
    service = {**account, "username": "", "password": "", "client_id": "service-client"}
    block = VantageCredentials(**service, grant_type="client_credentials")
    with block.get_client() as client:
        assert client.list_skills()


def test_64_threads_and_the_event_loop_share_one_login(
    sandbox: SandboxServer, account: dict[str, Any]
) -> None:
    sandbox.control.add_fault(operation="requestToken", delay=0.3)

    def ask(_: int) -> str:
        return VantageCredentials(**account).get_token().reveal()

    async def ask_all() -> list[str]:
        block = VantageCredentials(**account)
        waiting = [block.aget_token() for _ in range(16)]
        return [token.reveal() for token in await asyncio.gather(*waiting)]

    with ThreadPoolExecutor(65) as pool:
        in_loop = pool.submit(asyncio.run, ask_all())
        tokens = list(pool.map(ask, range(64))) + in_loop.result()
    assert (len(tokens), len(set(tokens))) == (80, 1)
    assert sandbox.control.count("POST", "connect/token") == 1


def test_refused_login_is_sent_once(sandbox: SandboxServer, account: dict[str, Any]) -> None:
    block = VantageCredentials(**{**account, "password": "wrong-password"})
    for _ in range(3):
        with pytest.raises(CredentialsRejected):
            block.get_token()
    with pytest.raises(CredentialsRejected) as caught:
        asyncio.run(block.aget_token())
    assert isinstance(caught.value, VantageError)
    assert sandbox.control.count("POST", "connect/token") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "mars"},
        {"region": [PASSWORD]},
        {"client_id": ""},
        {"verify": "perhaps"},
        {"password": [PASSWORD]},
        {"unknown": PASSWORD},
        {"auth_path": "/a?b"},
        {"proxy": f"{PROXY} x"},
    ],
)
def test_no_frame_shows_what_a_refused_block_holds(wrong: dict[str, Any]) -> None:
    values = {**GOOD, "proxy": PROXY, **wrong}
    failures: list[Exception] = []
    with pytest.raises(ValidationError) as refused:
        VantageCredentials(**values)
    failures.append(refused.value)
    # A stored block may hold fields of another version; it is not refused for those.
    for use in () if "unknown" in wrong else ("get_client", "get_token"):
        with pytest.raises((ConfigurationError, ValidationError)) as caught:
            getattr(VantageCredentials.model_validate(values), use)()
        failures.append(caught.value)
    for error in failures:
        assert find_leaks_in_frames([PASSWORD, SECRET, "proxy-word"], error) == []
