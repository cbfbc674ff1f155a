# SPDX-License-Identifier: Apache-2.0
"""Reading multipart uploads straight to disk, hashing on the way.

The form parser of the web framework keeps up to a megabyte per file in memory; with a thousand
files that is a gigabyte. Here memory stays flat whatever is sent.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from .problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Characters the service replaces by ``_`` in file names (contract, section 5).
REPLACED = ":/?#[]@!$&'()*+,;=\\"
_TRANSLATION = str.maketrans(dict.fromkeys(REPLACED, "_"))
_MAX_MODEL = 8 * 1024 * 1024
_MAX_HEADERS = 64 * 1024

# Some releases warn about the line end after the last boundary, which every client sends.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def stored_name(name: str) -> str:
    """Return the name the service shows for an uploaded file."""
    return name.translate(_TRANSLATION)


@dataclass(frozen=True)
class UploadedFile:
    """One received file."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass
class Upload:
    """A received upload: the text of the ``Model`` part, if there was one, and the files."""

    model: bytes | None = None
    files: list[UploadedFile] = field(default_factory=list)
    total: int = 0

    def discard(self) -> None:
        """Remove the received files from disk."""
        for item in self.files:
            item.path.unlink(missing_ok=True)
        self.files.clear()


class _Part:
    """The part that is being read."""

    def __init__(self) -> None:
        self.header = bytearray()
        self.header_value = bytearray()
        self.disposition = b""
        self.file: IO[bytes] | None = None
        self.path = Path()
        self.name = ""
        self.hash = hashlib.sha256()
        self.size = 0
        self.model: bytearray | None = None


class _Reader:
    """Callbacks of the multipart parser. Errors are kept until the body has been read."""

    def __init__(self, folder: Path, names: Any, limit: int) -> None:
        self.upload = Upload()
        self.problem: Problem | None = None
        self._folder = folder
        self._names = names
        self._limit = limit
        self._part = _Part()
        self._header_bytes = 0
        self.complete = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.on_part_begin,
            "on_part_data": self.on_part_data,
            "on_part_end": self.on_part_end,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_end": self.on_end,
        }

    def refuse(self, problem: Problem) -> None:
        """Keep the first problem; from now on nothing is stored any more."""
        if self.problem is None:
            self.problem = problem

    def close(self) -> None:
        """Close the open file after an end in the middle."""
        if self._part.file is not None:
            self._part.file.close()
            self._part.path.unlink(missing_ok=True)
            self._part.file = None

    def on_part_begin(self) -> None:
        self._part = _Part()
        self._header_bytes = 0

    def on_end(self) -> None:
        self.complete = True

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._part.header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._part.header.lower() == b"content-disposition":
            self._part.disposition = bytes(self._part.header_value)
        self._part.header.clear()
        self._part.header_value.clear()

    def on_headers_finished(self) -> None:
        part = self._part
        field_name, file_name = _disposition(part.disposition)
        if file_name is not None:
            if not file_name:
                self.refuse(Problem(400, "A file has no name."))
            part.name = stored_name(file_name)
            part.path = self._folder / self._names("upload")
            if self.problem is None:
                part.file = part.path.open("wb")
        elif field_name.lower() == "model":
            if self.upload.model is not None:
                self.refuse(Problem(400, "The part Model is given twice."))
            part.model = bytearray()
        else:
            self.refuse(Problem(400, f"The form field '{field_name[:40]}' is not known."))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.model is not None:
            if len(part.model) + end - start > _MAX_MODEL:
                self.refuse(Problem(400, "The part Model is too large."))
                return
            part.model += data[start:end]
            return
        self.upload.total += end - start
        if self.upload.total > self._limit:
            self.refuse(Problem(400, f"The files are larger than {self._limit} bytes together."))
        if part.file is not None and self.problem is None:
            piece = data[start:end]
            part.hash.update(piece)
            part.size += len(piece)
            part.file.write(piece)

    def on_part_end(self) -> None:
        part = self._part
        if part.model is not None:
            self.upload.model = bytes(part.model)
        elif part.file is not None:
            part.file.close()
            part.file = None
            self.upload.files.append(
                UploadedFile(part.name, part.path, part.size, part.hash.hexdigest())
            )

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADERS:
            raise Problem(400, "The headers of a part are too large.")


async def read_upload(
    content_type: str, body: AsyncIterator[bytes], folder: Path, names: Any, limit: int
) -> Upload:
    """Read a ``multipart/form-data`` body.

    Args:
        content_type: Content type of the request, with the boundary.
        body: Pieces of the body.
        folder: Where the files go.
        names: Function that returns a new name for a kind of thing.
        limit: Most bytes all files may have together.

    Returns:
        The upload. Its files belong to the caller.

    Raises:
        Problem: 400, the body is not acceptable. Nothing stays on disk then.
    """
    boundary = _boundary(content_type)
    reader = _Reader(folder, names, limit)
    parser = MultipartParser(boundary, reader.callbacks())
    done = False
    try:
        async for piece in body:
            parser.write(piece)
        parser.finalize()
        if reader.problem is not None:
            raise reader.problem
        if not reader.complete:
            raise Problem(400, "The multipart body ends too early.")
        done = True
    except FormParserError as error:
        raise Problem(400, "The multipart body is broken.") from error
    finally:
        if not done:
            reader.close()
            reader.upload.discard()
    return reader.upload


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise Problem(400, "The body must be multipart/form-data with a boundary.")
    return boundary.encode("latin-1", "replace")


def _disposition(value: bytes) -> tuple[str, str | None]:
    """Return the field name of a part, and its file name if it is a file."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    message = Message()
    message["Content-Disposition"] = text
    name = message.get_param("name", header="content-disposition")
    has_file = message.get_param("filename", header="content-disposition") is not None
    return str(name or ""), (message.get_filename("") if has_file else None)
