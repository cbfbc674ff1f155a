# SPDX-License-Identifier: Apache-2.0
"""Masks known secrets in foreign text, in every encoding in which the other side may echo them."""

from __future__ import annotations

import base64
import codecs
import html
import re
import string
from collections.abc import Iterable, Iterator

from vantage_orchestration.secret import MASK, Secret

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


def masked(text: str, secrets: Iterable[Secret]) -> str:
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
    masked = hide(plain)
    return text if masked == plain else masked


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
