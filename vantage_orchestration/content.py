# SPDX-License-Identifier: Apache-2.0
"""Checks that received content can be of the type it claims (contract, sections 3 and 7.1).

A proxy, a login page or a bot filter may answer in place of the service, even with status 200. Its
page must neither count as a reply nor be kept as a result.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import BinaryIO, Final

#: Bytes at the start that must show an HTML page or the sign of a PDF; as many show its end.
_HEAD: Final = 1024
_CHUNK: Final = 1024 * 1024
#: Up to this size in bytes JSON is parsed. Of larger files only the structure is checked, since a
#: parser needs many times their size in memory.
_PARSED: Final = 8 * 1024 * 1024
_PAGE = re.compile(
    rb"(<\?xml[^>]*>|<!--(?:(?!-->).)*-->|\s)*<(!doctype\s+html|(html|head|body|title|meta|script|center)\b)",
    re.IGNORECASE | re.DOTALL,
)
# Also one that is cut, perhaps after a backslash: a search from each quote in it would take hours.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|(\\?)\Z)', re.DOTALL)
#: Byte order marks of UTF-8 and UTF-16, the other half of characters in UTF-16, and white space.
_BEFORE_MARKUP: Final = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n\v\f"
_BEGINNINGS: Final = {
    "jpeg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_JSON: Final = frozenset({"json", "fieldsjson", "ocrjson"})
_ZIPPED: Final = frozenset({"docx", "pptx", "xlsx"})
_XML: Final = frozenset({"alto", "xml"})
_TEXTS: Final = frozenset({"csv", "html", "text", *_XML})


def is_markup(head: bytes) -> bool:
    """Return whether a reply that should be JSON or empty begins as a web page."""
    return head.lstrip(_BEFORE_MARKUP).startswith(b"<")


def check_content(
    stream: BinaryIO, kind: str | None, *, may_be_empty: bool = False, may_be_page: bool = False
) -> None:
    """Refuse a file whose content does not fit the type that the service gave it.

    The stream is read from its current position. A file of an unknown type may be empty if the
    server announced that, and may be an HTML page if the server declared it as a file. The
    ValueError says what was found.
    """
    known = (kind or "").lower()
    begin = stream.tell()
    head = stream.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    is_known = known in _JSON | _ZIPPED | _TEXTS | _BEGINNINGS.keys() | {"pdf"}
    if not head:
        if is_known or not may_be_empty:
            raise ValueError("it is empty")
        return
    if _PAGE.match(head) and known != "html" and (is_known or not may_be_page):
        raise ValueError("it is an HTML page")
    stream.seek(begin)
    if known in _JSON:
        _check_json(stream)
    elif known == "pdf":
        if b"%PDF-" not in head:
            raise ValueError("it does not begin like a PDF")
        # Where the server announces no length, one that was cut looks complete.
        stream.seek(max(begin, stream.seek(0, io.SEEK_END) - _HEAD))
        if b"%%EOF" not in stream.read():
            raise ValueError("it does not end like a PDF")
    elif known in _ZIPPED and not (head.startswith(b"PK") and zipfile.is_zipfile(stream)):
        raise ValueError("it is not a complete Office document")
    elif known in _XML and not is_markup(head):
        raise ValueError("it does not begin like XML")
    elif known in _BEGINNINGS and not head.startswith(_BEGINNINGS[known]):
        raise ValueError("it does not begin like an image of this type")


def _check_json(stream: BinaryIO) -> None:
    data = stream.read(_PARSED + 1)
    if len(data) > _PARSED:
        complete = _is_balanced(chain([data], iter(partial(stream.read, _CHUNK), b"")))
    else:
        try:
            # Parsed values are not kept.
            parsed = json.loads(data, object_pairs_hook=lambda pairs: {})
            complete = isinstance(parsed, (dict, list))
        except (ValueError, RecursionError):
            complete = False
    if not complete:
        raise ValueError("it is not complete JSON")


def _end_of_cut(string: re.Match[bytes]) -> bytes:
    """Return nothing for a whole string, and quote and last backslash for one that is cut."""
    return b"" if string[1] is None else b'"' + string[1]


def _is_balanced(chunks: Iterable[bytes]) -> bool:
    """Return whether every bracket outside strings is closed; truncated JSON leaves some open."""
    depth, before, first = 0, b"", b""
    for chunk in chunks:
        # A string, or an escape in it, may continue in the next piece.
        text, quote, escape = _STRING.sub(_end_of_cut, before + chunk).partition(b'"')
        before = quote + escape
        first = first or text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        depth += sum(map(text.count, (b"{", b"["))) - sum(map(text.count, (b"}", b"]")))
    return depth == 0 and not before and first in (b"{", b"[")
