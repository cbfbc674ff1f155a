# SPDX-License-Identifier: Apache-2.0
"""Checks that what was received can be what it claims to be (contract, sections 3 and 7.1).

A proxy, a login page or a bot filter may answer in place of the service, with status 200 as well.
What it sends must neither count as a reply nor be kept as a result.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import BinaryIO, Final

__all__ = ["check_content", "is_markup"]

#: Bytes at the beginning in which a page, or the mark of a PDF, has to show.
_HEAD: Final = 1024
_CHUNK: Final = 1024 * 1024
#: JSON up to this size in bytes is parsed. Of larger files only the structure is checked, since a
#: parser takes many times their size of memory.
_PARSED: Final = 8 * 1024 * 1024
_PAGE = re.compile(
    rb"(<\?xml[^>]*>|<!--.*?-->|\s)*<(!doctype\s+html|(html|head|body|title|meta|script|center)\b)",
    re.IGNORECASE | re.DOTALL,
)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
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
    """Tell whether a reply that is JSON or empty by the contract is a page of somebody else."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def check_content(
    stream: BinaryIO, kind: str | None, *, may_be_empty: bool = False, may_be_page: bool = False
) -> None:
    """Refuse a file that can't be of the type that the service gave it.

    Args:
        stream: The file, from the stream's present position to its end.
        kind: Result file type, such as ``FieldsJson``; None if it is not known.
        may_be_empty: Whether the server has announced an empty file. Such a file is accepted if
            this version does not know its type; none of the types it knows can be empty.
        may_be_page: Whether the server has declared it as a file. Then an HTML page is accepted if
            this version does not know its type.

    Raises:
        ValueError: It is something else. The text says what was found.
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
    elif known == "pdf" and b"%PDF-" not in head:
        raise ValueError("it does not begin as a PDF")
    elif known in _ZIPPED and not (head.startswith(b"PK") and zipfile.is_zipfile(stream)):
        raise ValueError("it is no complete Office document")
    elif known in _XML and not is_markup(head):
        raise ValueError("it does not begin as XML")
    elif known in _BEGINNINGS and not head.startswith(_BEGINNINGS[known]):
        raise ValueError("it does not begin as such an image")


def _check_json(stream: BinaryIO) -> None:
    data = stream.read(_PARSED + 1)
    if len(data) > _PARSED:
        complete = _is_balanced(chain([data], iter(partial(stream.read, _CHUNK), b"")))
    else:
        try:
            # Nothing that is parsed is kept.
            parsed = json.loads(data, object_pairs_hook=lambda pairs: {})
            complete = isinstance(parsed, (dict, list))
        except (ValueError, RecursionError):
            complete = False
    if not complete:
        raise ValueError("it is no complete JSON")


def _is_balanced(chunks: Iterable[bytes]) -> bool:
    """Tell whether every bracket outside of strings is closed: a file that was cut leaves some."""
    depth, before, first = 0, b"", b""
    for chunk in chunks:
        text, quote, rest = _STRING.sub(b"", before + chunk).partition(b'"')
        # A string, and an escape in it, may go on in the next piece.
        escaped = (len(rest) - len(rest.rstrip(b"\\"))) % 2
        before = quote + b"\\" * escaped
        first = first or text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        depth += sum(map(text.count, (b"{", b"["))) - sum(map(text.count, (b"}", b"]")))
    return depth == 0 and not before and first in (b"{", b"[")
