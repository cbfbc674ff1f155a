# SPDX-License-Identifier: Apache-2.0
"""Makes external text fit to be shown: one short line without secrets."""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vantage_orchestration.secret import MASK, Secret

if TYPE_CHECKING:
    from pendulum import DateTime

T = TypeVar("T")

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
#: Items of a list in an error body to show.
_FIRST = 3
_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(https?://)[^\s/@\"'<>]+@", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
#: The end of a name is enough: what precedes it would be searched anew from each of its letters.
_PAIR = re.compile(
    r"(?P<name>token|password|secret|assertion)(?P<sep>[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]+",
    re.IGNORECASE,
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_.-]{8,}|\b[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,}", re.ASCII)
#: Terminal escapes, line ends, and changes of the writing direction.
_UNSEEN = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


#: What code raises that reads data of another structure than it expects.
MISFIT = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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

    Known secrets are masked in each form in which the other side may echo them, see
    :func:`_masked`. So is whatever looks like a token or like the value of a password or secret.
    Addresses lose their query, since links of ABBYY Vantage carry tokens there.
    """
    text = _masked(text[:_SEARCHED], secrets)
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


def shortened(
    items: Sequence[T], show: Callable[[T], str] = str, *, most: int = 5, between: str = ", "
) -> str:
    """Return the first items as one text, and the number of the others."""
    more = len(items) - most
    rest = f"{between.rstrip(', ')} and {more} more" if more > 0 else ""
    return between.join(map(show, items[:most])) + rest


def named(files: Iterable[_Named | str]) -> str:
    """Return the first names of files in quotes, and the number of the others."""
    names = [file if isinstance(file, str) else file.name for file in files]
    return shortened(names, repr, most=3)


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


# ------------------------- known secrets, in every encoding in which the other side may echo them

#: A shorter secret would mask parts of ordinary words.
_SHORTEST, _SHORTEST_ENCODED = 4, 6
# Escapes of URLs, HTML, JSON and Python's repr, also if escaped more than once.
_ESCAPE = re.compile(
    r"((?:%(?:25)*[0-9a-f]{2})+)|&(?:amp;)*(#?\w{1,8};)"
    r"|\\+(?:(?:x|(?-i:U)000(?=[0-9a-f]{5}))([0-9a-f]{2}(?:(?<=000..)[0-9a-f]{3})?)"
    r"|u([0-9a-f]{4}(?:\\+u[0-9a-f]{4})*)|(.?))",
    re.IGNORECASE | re.DOTALL,
)
_PERCENT = re.compile("%(?:25)*([0-9a-f]{2})", re.IGNORECASE)
_UNIT = re.compile(r"\\+u", re.IGNORECASE)
_SHORT_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
#: What may follow where the other side cut the text, including half of an escape.
_HALF = r"(?:%(?:25)*[0-9a-f]?|&(?:amp;)*#?\w{0,7}|\\+(?:u[0-9a-f]{0,3})?)"
_CUT = re.compile(rf"{_HALF}{{0,2}}[\s.\u2026\ufffd\"'<>)\]]*\Z", re.IGNORECASE)
# Tables that map characters to their equivalents, so that text and secret are written alike.
_FORM = str.maketrans("+", " ")
_BASE64, _BASE64_DIGITS = str.maketrans("-_", "+/"), string.ascii_letters + string.digits + "+/="
_HEX, _HEX_DIGITS = str.maketrans("ABCDEF", "abcdef"), "0123456789abcdef"


def _masked(text: str, secrets: Iterable[Secret]) -> str:
    """Return a text with all secrets masked.

    They are found plain, escaped for URLs, forms, HTML or JSON, in base64 or hex, or cut at the end
    of the text. If an escaped one is found, all escapes of the text are undone.
    """
    needles = [needle for secret in secrets for needle in _needles(secret.reveal())]
    needles.sort(key=lambda needle: -len(needle[0]))  # One secret may be part of another.

    def hide(text: str) -> str:
        for needle, fold, around in needles:
            text = _hidden(text, needle, fold, around)
        return text

    text = hide(text)
    plain = _unescaped(text[: _end(text)])
    hidden = hide(plain)
    return text if hidden == plain else hidden


def _needles(secret: str) -> Iterator[tuple[str, dict[int, int], str]]:
    """Yield what to search for, its character equivalents, and the characters that extend a hit."""
    if len(secret) < _SHORTEST:
        return
    for form in {secret, _unescaped(secret)}:
        if len(form) >= _SHORTEST:
            yield form.translate(_FORM), _FORM, ""
    raw = secret.encode("utf-8", "surrogatepass")
    for shift in range(3):  # Where it begins in what is encoded together with it.
        # The outermost characters depend on the neighbouring bytes.
        core = base64.b64encode(bytes(shift) + raw).decode()[: (shift + len(raw)) * 8 // 6]
        core = core[(0, 2, 3)[shift] :]
        if len(core) >= _SHORTEST_ENCODED:
            yield core, _BASE64, _BASE64_DIGITS
    yield raw.hex(), _HEX, _HEX_DIGITS


def _hidden(text: str, needle: str, fold: dict[int, int], around: str) -> str:
    folded, done, parts = text.translate(fold), 0, []
    while (begin := folded.find(needle, done)) >= 0:
        end = begin + len(needle)
        while begin > done and folded[begin - 1] in around:
            begin -= 1
        while end < len(folded) and folded[end] in around:
            end += 1
        parts += [text[done:begin], MASK]
        done = end
    parts.append(text[done:])
    # The other side may have cut its text in the middle of the secret.
    end = _end(folded, done)
    shortest = _SHORTEST_ENCODED if around else _SHORTEST
    for length in range(min(len(needle) - 1, end - done), shortest - 1, -1):
        if folded.endswith(needle[:length], done, end):
            begin = end - length
            while begin > done and folded[begin - 1] in around:
                begin -= 1
            parts[-1] = text[done:begin] + MASK
            break
    return "".join(parts)


def _end(text: str, begin: int = 0) -> int:
    """Return where a text ends, without the mark that it was cut."""
    found = _CUT.search(text, max(begin, len(text) - 40))
    return found.start() if found else len(text)


def _unescaped(text: str) -> str:
    for _ in range(3):  # What is escaped may be escaped again in another way.
        before, text = text, _ESCAPE.sub(_plain, text)
        if text == before:
            break
    return text


def _plain(match: re.Match[str]) -> str:
    percent, entity, code, units, char = match.groups()
    if percent:
        data = bytes.fromhex("".join(_PERCENT.findall(percent)))
        try:
            # A character that was cut in the middle is left out.
            return codecs.getincrementaldecoder("utf-8")().decode(data)
        except ValueError:
            return data.decode("latin-1")
    if entity:
        return html.unescape(f"&{entity}")
    if units:
        data = bytes.fromhex(_UNIT.sub("", units))
        return data.decode("utf-16-be", "surrogatepass" if len(data) > 2 else "replace")
    if code:
        return chr(min(int(code, 16), 0x10FFFF))
    return _SHORT_ESCAPES.get(char, char)
