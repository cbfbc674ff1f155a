# SPDX-License-Identifier: Apache-2.0
"""Makes external text fit to be shown: one short line without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vantage_orchestration.masking import masked
from vantage_orchestration.secret import MASK, Secret

if TYPE_CHECKING:
    from pendulum import DateTime

_LONGEST = 300
#: Characters to search for known secrets, and for text that looks like a secret. More would take
#: noticeable time, and the shown text is much shorter.
_SEARCHED, _LOOKED_AT = 8192, 2048
#: Members of error bodies that contain a message, best first; compared without case.
_SAYING = (
    "detail",
    "error_description",
    "title",
    "errorsummary",
    "message",
    "errormessage",
    "error_message",
    "description",
    "reason",
    "error",
    "fault",
    "faultstring",
)
#: Items of a list, or names of files, to show.
_FIRST = 3
_NAMES = 3
_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(https?://)[^\s/@\"'<>]+@", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>[A-Za-z_]*(?:token|password|secret|assertion))(?P<sep>[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s\"'&,;]+",
    re.IGNORECASE,
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_.-]{8,}|\b[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,}", re.ASCII)
#: Terminal escapes, line ends, and changes of the writing direction.
_UNSEEN = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def one_line(text: str) -> str:
    """Return ``text`` without terminal escapes, line ends and changes of the writing direction."""
    return (text if text.isprintable() else _UNSEEN.sub(" ", text)).strip()


def identifier(value: Any) -> str:
    """Return an external id, checked since it goes into addresses and log lines."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise ValueError("an id is missing or invalid")
    return value


def read_json(data: bytes | str) -> Any:
    """Parse external JSON; a ValueError if it is not JSON, or nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        pass
    raise ValueError("it is nested too deeply")


def clean(text: str, secrets: Iterable[Secret] = ()) -> str:
    """Return external text as one short line without secrets.

    Known secrets are masked, in case the other side echoes them, in each form that :func:`.masked`
    finds. So is whatever looks like a token or like the value of a password or secret; addresses
    lose their query, since links of ABBYY Vantage carry tokens there.
    """
    text = masked(text[:_SEARCHED], secrets)
    text = one_line(text[:_LOOKED_AT])
    text = _USERINFO.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(r"\1", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _PAIR.sub(rf"\g<name>\g<sep>{MASK}", text)
    text = _JWT.sub(MASK, text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def utc_text(moment: DateTime) -> str:
    """Return a moment as the service's filters take it: UTC, in milliseconds."""
    return str(moment.in_timezone("UTC").format("YYYY-MM-DD[T]HH:mm:ss.SSS[Z]"))


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the right word, singular or plural."""
    return f"{number} {one if number == 1 else many}"


def named(names: Sequence[str]) -> str:
    """Return the first file names in quotes, and the number of the others."""
    more = len(names) - _NAMES
    return ", ".join(map(repr, names[:_NAMES])) + (f" and {more} more" if more > 0 else "")


def message_of(body: bytes, secrets: Iterable[Secret] = ()) -> str | None:
    """Return the cleaned message of an error body, or None if it has none that can be shown.

    The body may be a ProblemDetails object, an OAuth 2.0 error, or anything. The order ``detail``,
    ``error_description``, ``title`` is that of the contract (section 2.3); ``errors`` names the
    wrong members. Known forms of gateways, such as ``{"error": {"message": "..."}}``, are read as
    well. HTML (of a proxy or a maintenance page) is not shown.
    """
    try:
        data: Any = read_json(body[:65536])
    except ValueError:
        text = body[:65536].decode("utf-8", "replace").strip()
        return None if not text or "<" in text[:2000] else clean(text, secrets)
    return clean("; ".join(_words(data)), secrets) or None


def _words(data: Any, depth: int = 4) -> list[str]:
    """Return the messages in a part of an error body."""
    if isinstance(data, str):
        return [data] if data.strip() else []
    if isinstance(data, list) and depth:
        return [text for item in data[:_FIRST] for text in _words(item, depth - 1)]
    if not isinstance(data, Mapping) or not depth:
        return []
    members = {str(name).lower(): value for name, value in data.items()}
    found = (_words(members.get(name), depth - 1) for name in _SAYING)
    texts = next((each for each in found if each), [])
    errors = members.get("errors")
    if not isinstance(errors, Mapping):
        return texts or _words(errors, depth - 1)
    for member, each in errors.items():
        texts += [f"{member}: {text}" for text in _words(each, depth - 1)[:1]]
    return texts
