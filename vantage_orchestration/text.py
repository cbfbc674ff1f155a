# SPDX-License-Identifier: Apache-2.0
"""Makes text of others fit to be shown: one line, short, without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from vantage_orchestration.secret import MASK, Secret

__all__ = ["clean", "message_of"]

_LONGEST = 300
_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(https?://)[^\s/@\"'<>]+@", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>[A-Za-z_]*(?:token|password|secret|assertion))(?P<sep>[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s\"'&,;]+",
    re.IGNORECASE,
)
_JWT = re.compile(r"\b[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def clean(text: str, secrets: Iterable[Secret] = ()) -> str:
    """Return ``text`` as one short line in which no secret is left.

    Args:
        text: Any text that came from outside.
        secrets: Secrets that must not show, in case that the other side echoes them, also
            percent-encoded.

    Known secrets are masked, and so is whatever looks like a token or like the value of a password
    or secret; addresses lose their query, since links of ABBYY Vantage carry tokens there.
    """
    for secret in secrets:
        value = secret.reveal()
        if len(value) < 4:  # Shorter ones would mask parts of ordinary words.
            continue
        for form in {value, quote(value, safe=""), quote_plus(value)}:
            text = text.replace(form, MASK)
    text = _CONTROL.sub(" ", text).strip()
    text = _USERINFO.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(r"\1", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _PAIR.sub(rf"\g<name>\g<sep>{MASK}", text)
    text = _JWT.sub(MASK, text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def message_of(body: bytes, secrets: Iterable[Secret] = ()) -> str | None:
    """Return what an error body says, cleaned, or None if it says nothing that is fit to show.

    Args:
        body: The body of an error reply: a ProblemDetails object, an OAuth 2.0 error, or anything.
        secrets: Secrets that must not show.

    The order ``detail``, ``error_description``, ``title`` is the contract's (section 2.3);
    ``errors`` names the members that are wrong. HTML (a proxy's or a maintenance page) is not
    shown.
    """
    try:
        data: Any = json.loads(body[:65536])
    except ValueError:
        text = body[:2000].decode("utf-8", "replace").strip()
        return None if not text or "<" in text else clean(text, secrets)
    if isinstance(data, str):
        return clean(data, secrets) or None
    if not isinstance(data, Mapping):
        return None
    parts = [
        value
        for name in ("detail", "error_description", "title", "errorSummary", "message")
        if isinstance(value := data.get(name), str) and value.strip()
    ][:1]
    errors = data.get("errors")
    if isinstance(errors, Mapping):
        for member, texts in errors.items():
            first = texts[0] if isinstance(texts, list) and texts else texts
            parts.append(f"{member}: {first}")
    return clean("; ".join(parts), secrets) or None
