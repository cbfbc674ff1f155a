# SPDX-License-Identifier: Apache-2.0
"""Inspects input files: whether they can be sent, their names and their contents."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO, TypeVar

from vantage_orchestration.errors import ConfigurationError, FileChanged
from vantage_orchestration.limits import LONGEST_UPLOAD, LONGEST_VALUE
from vantage_orchestration.parallel import in_parallel
from vantage_orchestration.processing.manifest import SourceEntry
from vantage_orchestration.storage import AnyPath, Location
from vantage_orchestration.upload import SourceFile, parameters, stored_name

T = TypeVar("T")

#: Hex digits of a short digest: some for the name, the rest for the content.
NAME_DIGITS, CONTENT_DIGITS = 4, 12
_CHUNK = 1024 * 1024
_FOUND = (Location, SourceFile)
#: Files that are read at the same time.
_READERS = 8


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that can be sent.

    Attributes:
        entry: What it is: names, path, size and digest. Manifests hold the same.
        source: The file to send, under its name in the service.
        short: 16 hex digits by which a later try recognises the file: 4 of the SHA-256 of its
            name, then 12 of the SHA-256 of its content. No other file in a plan has the same.
    """

    entry: SourceEntry
    source: SourceFile = field(compare=False)
    short: str

    def sent_as(self, name: str) -> PlannedFile:
        """Return the file with another name in the service."""
        entry, source = replace(self.entry, stored_name=name), replace(self.source, name=name)
        return replace(self, entry=entry, source=source)


def tag_of_name(name: str) -> str:
    """Return the part of ``short`` for a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:NAME_DIGITS]


def short_digest(name: str, sha256: str) -> str:
    """Return the ``short`` of a file of this name and content."""
    return tag_of_name(name) + sha256[:CONTENT_DIGITS]


@dataclass(frozen=True, slots=True)
class Refused:
    """An input that can't be sent.

    Attributes:
        reason: Why.
        passing: Whether the reason may disappear by itself.
        missing: If there is no such file, its name in the service: an earlier try may have sent it.
    """

    reason: str
    passing: bool = False
    missing: str | None = None


#: The state of an input.
Seen = PlannedFile | Refused


def inspect_inputs(inputs: Sequence[AnyPath | SourceFile]) -> list[Seen]:
    """Read every file once, in pieces, several at a time if the store allows it; return their
    states in order."""
    return inspect_beside(lambda: None, inputs)[1]


def inspect_beside(
    ask: Callable[[], T], inputs: Sequence[AnyPath | SourceFile]
) -> tuple[T, list[Seen]]:
    """Inspect inputs as :func:`inspect_inputs` does, and ask something meanwhile. After an error of
    either no further file is read."""
    sources = [each if isinstance(each, SourceFile) else Location.of(each) for each in inputs]
    alone = any(isinstance(each, Location) and not each.concurrent for each in sources)
    steps: list[Callable[[], Any]] = [ask, *(partial(_inspect, each) for each in sources)]
    answer, *seen = in_parallel(
        lambda step: step(), steps, 1 if alone or len(sources) < 2 else _READERS
    )
    return answer, [
        # A location was found in a folder a moment ago; a path may be mistyped.
        replace(each, passing=False)
        if isinstance(each, Refused) and each.missing and not isinstance(given, _FOUND)
        else each
        for given, each in zip(inputs, seen, strict=True)
    ]


def _inspect(source: SourceFile | Location) -> Seen:
    if isinstance(source, SourceFile):
        given = source.registration_parameters.get("SourceFilePath")
        return _checked(source, _printable(given or source.name), {})
    path, name = _printable(source.url), source.name
    info = source.info()
    if info is None:
        return _missing(path, name)
    if info.get("type") == "directory":
        return Refused(f"{path!r} is a folder; name its files, for example with a pattern")
    size = info.get("size")
    if size == 0 and info.get("type") == "file":  # Files of /proc say so too, and are not read.
        return Refused(f"{path!r} is empty", passing=True)
    source = SourceFile(name, -1 if size is None else int(size), source.open)
    return _checked(source, path, {"SourceFilePath": _fitted(path)})


def _checked(source: SourceFile, path: str, details: Mapping[str, str]) -> Seen:
    if source.size > LONGEST_UPLOAD:
        return Refused(f"{path!r} has {source.size} bytes; ABBYY Vantage accepts {LONGEST_UPLOAD}")
    try:
        stream = source.open()
    except ConfigurationError as error:
        return Refused(error.what)
    except FileNotFoundError:
        return _missing(path, source.name)
    with stream:
        size, sha256 = _digest(stream)
    if source.size not in (-1, size):
        raise FileChanged(
            f"The file {path!r} changed while it was read",
            hint="Nothing was sent. Wait until it is complete; the next try sends it",
        )
    if size == 0:
        return Refused(f"{path!r} is empty", passing=True)
    if size > LONGEST_UPLOAD:
        return Refused(
            f"{path!r} has more than the {LONGEST_UPLOAD} bytes that ABBYY Vantage accepts"
        )
    original = _printable(source.name)
    together = {"SourceFileName": _fitted(original), **details, **source.registration_parameters}
    try:
        parameters(together)
    except ConfigurationError as error:
        return Refused(f"{path!r}: {error.what}")
    name = _service_name(source.name)
    source = replace(source, name=name, size=size, registration_parameters=together)
    entry = SourceEntry(original, name, path, size, sha256)
    return PlannedFile(entry, source, short_digest(name, sha256))


def _missing(path: str, name: str) -> Refused:
    return Refused(f"there is no file {path!r}", passing=True, missing=_service_name(name))


def _digest(stream: BinaryIO) -> tuple[int, str]:
    """Return size and hex SHA-256; stop at a file that is too large."""
    digest, size = hashlib.sha256(), 0
    while size <= LONGEST_UPLOAD and (chunk := stream.read(_CHUNK)):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _printable(text: str) -> str:
    """Replace characters that can't be written as UTF-8: parts of names that the system could not
    decode."""
    return text.encode("utf-8", "replace").decode()


def _service_name(name: str) -> str:
    """Return the name that the service shows, without characters that a header would change."""
    # One way to write a letter: systems list the same file in different ones.
    text = stored_name(unicodedata.normalize("NFC", _printable(name))).strip()
    return "".join("_" if ord(char) < 32 or char in '"\x7f' else char for char in text) or "_"


def _fitted(text: str) -> str:
    """Shorten a value to the limit of a registration parameter; its end is the significant part."""
    return text if len(text) <= LONGEST_VALUE else "…" + text[1 - LONGEST_VALUE :]
