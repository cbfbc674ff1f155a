# SPDX-License-Identifier: Apache-2.0
"""Looking into uploaded files: kind, pages, and text layer.

The list of formats ABBYY Vantage accepts is not public. The sandbox takes PDF and the usual
image formats; anything else ends the transaction as Failed, as does a name without a known
extension (contract, section 8, point 2).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"BM", "bmp"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000"),
)
_EXTENSIONS = frozenset(
    {".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".webp"}
)
# Above this size a PDF with a broken index is refused: mending it, or looking for its end, would
# go through the whole file.
_MEND_LIMIT = 64 * 1024 * 1024
_TAIL = 4096
_MAX_TEXT_PAGES = 500
_IMAGE_SIZE = (2480, 3508)  # pixels of an A4 page at 300 dpi

# Damaged files are what the sandbox is made for; the warnings about them help nobody. Children of
# this logger do the logging, so a filter here would not reach them.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Page:
    """A page: size in pixels at 300 dpi, and its lines of text."""

    width: int
    height: int
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """What was found in one file. ``error`` is set if it can't be processed."""

    name: str
    size: int
    sha256: str
    pages: tuple[Page, ...] = ()
    error: str | None = None

    @property
    def lines(self) -> list[str]:
        """All lines of text, from the first page to the last."""
        return [line for page in self.pages for line in page.lines]


def read_source(path: Path, name: str, size: int, sha256: str) -> Source:
    """Look into an uploaded file.

    Args:
        path: Where it is.
        name: Its name as the service shows it.
        size: Its size in bytes.
        sha256: Its hash.
    """
    kind = _kind(path)
    if kind is None or Path(name).suffix.lower() not in _EXTENSIONS:
        return Source(name, size, sha256, error=f"Unknown format of the file {name}.")
    if kind != "pdf":
        return Source(name, size, sha256, (Page(*_IMAGE_SIZE),))
    try:
        pages = _pdf_pages(_Content(sha256, path, size))
    except Exception:  # a damaged PDF makes the parser fail in many ways
        return Source(
            name, size, sha256, error=f"Unknown format: the PDF file {name} can't be opened."
        )
    return Source(name, size, sha256, pages)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(1024)
    if b"%PDF-" in head:
        return "pdf"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


@dataclass(frozen=True)
class _Content:
    """A file, equal to every other file with the same bytes."""

    sha256: str
    path: Path = field(compare=False)
    size: int = field(compare=False)


# Load tests send the same few files thousands of times.
@lru_cache(maxsize=16)
def _pdf_pages(content: _Content) -> tuple[Page, ...]:
    from pypdf import PdfReader

    path, size = content.path, content.size
    # An open file, not a path: given a path the library copies the file into memory.
    with path.open("rb") as file:
        if size > _MEND_LIMIT:
            file.seek(-_TAIL, os.SEEK_END)
            if b"startxref" not in file.read():
                raise ValueError("the PDF has no end")
        reader = PdfReader(file, strict=size > _MEND_LIMIT)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("the PDF needs a password")
        pages = []
        for number, page in enumerate(reader.pages):
            text = page.extract_text() if number < _MAX_TEXT_PAGES else ""
            width, height = float(page.mediabox.width), float(page.mediabox.height)
            lines = tuple(line.strip() for line in text.splitlines() if line.strip())
            pages.append(Page(round(width / 72 * 300), round(height / 72 * 300), lines))
    if not pages:
        raise ValueError("the PDF has no pages")
    return tuple(pages)
