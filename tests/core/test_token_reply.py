# SPDX-License-Identifier: Apache-2.0
"""The pure half of the token module: the form that is sent, and what each reply means."""

from __future__ import annotations

import json
import math
from urllib.parse import parse_qsl

import pytest

from vantage_orchestration import errors
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.token.request import Grant, read_reply, renewal_margin, token_form

CREDENTIALS = Credentials(
    region="eu",
    username="user@example.com",
    password="a password&of=length",
    client_id="client",
    client_secret="secret-of-the-client",
)


def reply(status, body, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_reply(status, data, CREDENTIALS, **options)


@pytest.mark.parametrize(
    "password",
    ["p+a s%&=:e", "ümläut-日本-😀", "x" * 4096, "line\nbreak inside", "\"quotes'", "%41%zz", " "],
)
def test_every_value_survives_the_form(password):
    credentials = Credentials(
        region="eu",
        username="u&x@example.com",
        password=password,
        client_id="c+d",
        client_secret=password,
    )
    form = token_form(credentials)
    assert form.isascii()
    assert dict(parse_qsl(form.decode(), keep_blank_values=True, strict_parsing=True)) == {
        "grant_type": "password",
        "scope": "openid permissions global.wildcard",
        "username": "u&x@example.com",
        "password": password,
        "client_id": "c+d",
        "client_secret": password,
    }


def test_client_credentials_send_no_user():
    credentials = Credentials(
        region="eu",
        username="u",
        password="pppp",
        client_id="c",
        client_secret="ssss",
        grant_type="client_credentials",
    )
    assert set(dict(parse_qsl(token_form(credentials).decode()))) == {
        "grant_type",
        "scope",
        "client_id",
        "client_secret",
    }


def good(**members):
    return {"access_token": "token-of-length", "token_type": "Bearer", **members}


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (3600, 3600),
        (2592000, 2592000),
        (1, 1),
        (0.5, 0.5),
        (3600.7, 3600.7),
        ("3600", 3600),
        (" 3600 ", 3600),
        ("3600.5", 3600.5),
        (None, 3600),
        (10**12, 31 * 86400),
        (10**400, 31 * 86400),
        ("999999999999", 31 * 86400),
    ],
)
def test_expires_in_is_obeyed(expires_in, lifetime):
    grant = reply(200, good(expires_in=expires_in))
    assert isinstance(grant, Grant)
    assert grant.lifetime == lifetime


def test_a_missing_expires_in_means_an_hour():
    assert reply(200, good()).lifetime == 3600


@pytest.mark.parametrize(
    "expires_in",
    [0, -1, -0.0, "", "soon", "-5", "1e9", "0x10", True, False, [], {}, [3600], math.nan, math.inf],
)
def test_nonsense_in_expires_in_is_an_error_and_no_loop(expires_in):
    error = reply(200, good(expires_in=expires_in))
    assert isinstance(error, errors.AuthProtocolError)
    assert not error.retryable
    assert "expires_in" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b"",
        b"null",
        b"[]",
        b'"token"',
        b"{",
        b"\xff\xfe",
        b"[" * 100000,
        {"token_type": "Bearer"},
        good(access_token=None),
        good(access_token=""),
        good(access_token=7),
        good(access_token="two words"),
        good(access_token="line\nbreak"),
        good(access_token="ü"),
        good(token_type="mac"),
        good(token_type=7),
    ],
)
def test_what_is_no_token_reply_is_refused_without_quoting_it(body):
    error = reply(200, body)
    assert isinstance(error, errors.AuthProtocolError)
    assert "Sign in" not in str(error)


def test_the_token_type_is_compared_without_case_and_may_be_missing():
    assert isinstance(reply(200, good(token_type="bearer")), Grant)
    assert isinstance(reply(200, {"access_token": "token-of-length"}), Grant)


E_ = errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (
            400,
            {"error": "invalid_grant", "error_description": "invalid_username_or_password"},
            E_.CredentialsRejected,
            "Check user name, password and region",
        ),
        (400, {"error": "invalid_grant"}, E_.CredentialsRejected, "tenant id"),
        (401, b"", E_.CredentialsRejected, "not retried"),
        (403, b"<html>", E_.AuthUnavailable, "firewall"),
        (
            400,
            {"error": "invalid_grant", "error_description": "The account is locked out."},
            E_.CredentialsRejected,
            "locked",
        ),
        (
            400,
            {"error": "invalid_grant", "error_description": "user belongs to several tenants"},
            E_.CredentialsRejected,
            "Set the tenant id",
        ),
        (400, {"error": "invalid_client"}, E_.ClientRejected, "six months"),
        (401, {"error": "invalid_client"}, E_.ClientRejected, "'client'"),
        (400, {"error": "unauthorized_client"}, E_.GrantNotAllowed, "client_credentials"),
        (400, {"error": "unsupported_grant_type"}, E_.GrantNotAllowed, "client_credentials"),
        (
            400,
            {"error": "invalid_grant", "error_description": "external identity provider"},
            E_.GrantNotAllowed,
            "single sign-on",
        ),
        (400, {"error": "invalid_scope"}, E_.ScopeRejected, "openid permissions global.wildcard"),
        (400, {"error": "invalid_request"}, E_.AuthProtocolError, "grant type"),
        (
            400,
            {"error": "invalid_grant", "error_description": "login rate exceeded"},
            E_.CredentialsRejected,
            "login rate exceeded",
        ),
        (429, b"", E_.Throttled, "slow down"),
        (408, b"", E_.AuthUnavailable, "later"),
        (500, b"<html>", E_.AuthUnavailable, "later"),
        (503, {"error": "invalid_grant"}, E_.AuthUnavailable, "later"),
        (404, b"", E_.AuthProtocolError, "no token endpoint"),
        (307, b"", E_.AuthProtocolError, "redirect"),
        (204, b"", E_.AuthProtocolError, "unexpected status"),
    ],
)
def test_each_refusal_teaches(status, body, kind, says):
    error = reply(status, body)
    assert type(error) is kind
    assert says in str(error)
    assert f"status {status}" in str(error)
    assert "POST /auth2/connect/token" in str(error)
    assert error.retryable is (kind in (E_.Throttled, E_.AuthUnavailable))


def test_echoed_secrets_and_tokens_are_masked():
    said = (
        "user sent a password&of=length and a%20password%26of%3Dlength, secret-of-the-client, "
        "Bearer abcdefgh12345678, access_token=abcdefgh, see https://x.example/y?token=abcdefghij"
        " eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl\r\nX-Injected: 1"
    )
    text = str(reply(400, {"error": "invalid_grant", "error_description": said}))
    for secret in ("password&of", "password%26of", "secret-of", "abcdefgh", "eyJzdWI", "\n", "\r"):
        assert secret not in text
    assert "X-Injected" in text


def test_long_messages_are_cut():
    assert len(str(reply(400, {"error": "x", "error_description": "word " * 5000}))) < 1500


@pytest.mark.parametrize(
    ("lifetime", "margin"), [(3600, 300), (2592000, 300), (600, 60), (10, 1), (1, 0.1)]
)
def test_the_margin_is_in_proportion(lifetime, margin):
    assert renewal_margin(lifetime) == margin
    assert margin <= renewal_margin(lifetime, jitter=1.0) <= margin * 1.5 < lifetime
