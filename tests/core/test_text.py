# SPDX-License-Identifier: Apache-2.0
"""Texts of others: a secret does not come back in any form, and nothing forges a line."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from leaks import find_leaks

from vantage_orchestration import errors
from vantage_orchestration.secret import MASK, Secret
from vantage_orchestration.text import (
    clean,
    identifier,
    message_of,
    named,
    one_line,
    read_json,
    shortened,
)

SECRETS = [
    "p+a s%&=:e-ü-secret",
    "client/secret+of=length",
    "a\\b\"c'd<e>&f/g",
    "p%41ss&amp;x\\n12",
    "😀 with emoji 😀",
    "-----begins like a line",
    "eyJhbGciOi." + "x" * 3000 + ".sig",
    "ends with a \\",
    "abcde%",
]


def lower(text: str) -> str:
    return re.sub("%..", lambda match: match.group().lower(), text)


def json_units(secret: str) -> str:
    data = secret.encode("utf-16-be").hex()
    return "".join(f"\\u{data[at : at + 4]}" for at in range(0, len(data), 4))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda secret: quote(secret, safe=""),
    "lower percent": lambda secret: lower(quote(secret, safe="")),
    "percent twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "all percent": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "form": quote_plus,
    "lower form": lambda secret: lower(quote_plus(secret)),
    "html": html.escape,
    "html twice": lambda secret: html.escape(html.escape(secret)),
    "html numbers": lambda secret: "".join(f"&#{ord(c)};" for c in secret),
    "html hex": lambda secret: "".join(f"&#x{ord(c):X};" for c in secret),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json with slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "json in json": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "json units": json_units,
    "json upper units": lambda secret: json_units(secret).upper().replace("\\U", "\\u"),
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64, one before": lambda secret: base64.b64encode(f"x{secret}yz".encode()).decode(),
    "base64, two before": lambda secret: base64.b64encode(f"xx{secret}z".encode()).decode(),
    "basic": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "basic for urls": lambda secret: base64.urlsafe_b64encode(f"us:{secret}".encode()).decode(),
    "basic, escaped": lambda secret: quote(base64.b64encode(f"us:{secret}".encode()), safe=""),
    "hex": lambda secret: secret.encode().hex(),
    "upper hex": lambda secret: secret.encode().hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_each_form(form: str) -> None:
    for secret in SECRETS:
        for text in ("the value {} is wrong", "{}", 'x="{}"'):
            echoed = text.format(FORMS[form](secret))
            shown = clean(echoed, [Secret("another one"), Secret(secret)])
            assert MASK in shown, (secret, shown)
            left = text.format("").replace("x=", "") + shown.replace(MASK, "")
            # What may be left is the end of an escape, and the words around.
            rest = re.sub(r"the value|is wrong|x=|[\"\s]|%3D|%(25)?5[cC]|\\+|(25)+", "", left)
            assert rest in ("", "x", "…"), (secret, echoed[:80], shown)


@pytest.mark.parametrize("end", ["", "…", "...", "%", "\\u00", "&#1", '..."'])
@pytest.mark.parametrize("form", ["plain", "percent", "html hex", "json units", "basic"])
def test_a_secret_that_was_cut_is_masked_up_to_the_cut(form: str, end: str) -> None:
    secret = "made-up-päßword-of-some-length"
    whole = FORMS[form](secret)
    for length in (len(whole) * 2 // 3, len(whole) - 1, len(whole) - 2):
        shown = clean(f"The password {whole[:length]}{end}", [Secret(secret)])
        assert shown.startswith(f"The password {MASK}"), shown
        assert "made" not in shown
        assert whole[6:12] not in shown


def test_a_secret_across_the_limit_is_masked() -> None:
    secret = "made-up-password-of-some-length"
    for before in (280, 290, 8170, 8180, 2030):
        shown = clean("a " * (before // 2) + secret, [Secret(secret)])
        assert len(shown) <= 300
        assert find_leaks(["made-u"], {"shown": shown}) == []


def test_a_text_that_is_to_take_long_takes_no_longer() -> None:
    secrets = [Secret("x" * 4000 + "y"), Secret("hunter22")]
    for piece in ("x", "a-", "%41", "%25", "\\", "&amp;", "token", "a.", "eyJ", "http://a@"):
        assert len(clean(piece * 100_000, secrets)) <= 300


def test_nothing_else_is_changed_by_what_is_searched_for() -> None:
    text = "C:\\new\\table 100% + &amp; %41 \\u0041"
    assert clean(text, [Secret("made-up-password")]) == text


@pytest.mark.parametrize(
    "text",
    [
        "one\nFORGED line",
        "one\r\nFORGED",
        "a\x1b[31mred\x1b[0m",
        "\x9b31m",
        "turned \u202e\u2066 over",
        "a\u2028b\u2029c\x85d\x00e",
        "\ud800",
        "\U000e0041",
    ],
)
def test_nothing_forges_a_line_or_turns_it(text: str) -> None:
    error = errors.ProtocolError(
        text,
        hint=text,
        path=f"/{text}",
        method="GET",
        transaction_id=text,
        server_message=text,
        host=text,
        request_id=text,
    )
    for shown in (clean(text), one_line(text), str(error), error.args[0]):
        assert shown.isprintable(), shown
        assert "31m" not in shown or text.startswith("\x9b")
    with pytest.raises(ValueError, match="id"):
        identifier(text)


def test_json_that_is_nested_deeply_is_no_json() -> None:
    deep = b"[" * 60_000
    with pytest.raises(ValueError, match="deeply"):
        read_json(deep)
    assert message_of(deep) is not None


def test_a_list_is_cut_short_and_the_others_are_counted() -> None:
    assert shortened([]) == named([]) == ""
    assert shortened("abcde") == "a, b, c, d, e"
    assert shortened("abcdefg") == "a, b, c, d, e and 2 more"
    assert shortened([1, 2, 3], hex, most=1, between="; ") == "0x1; and 2 more"
    assert named(["a", "b", "c", "d"]) == "'a', 'b', 'c' and 1 more"
