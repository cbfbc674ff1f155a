# SPDX-License-Identifier: Apache-2.0
"""Files to send: checked first, streamed, and readable again for a retry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from vantage_orchestration import local
from vantage_orchestration.errors import ConfigurationError, FileChanged, FileNotReady
from vantage_orchestration.limits import (
    LONGEST_KEY,
    LONGEST_UPLOAD,
    LONGEST_VALUE,
    MOST_FILES,
    MOST_PARAMETERS,
)

_REPLACED = str.maketrans(dict.fromkeys(":/?#[]@!$&'()*+,;=\\", "_"))
#: Half of a character pair, as in a name that the system could not decode. It can't be sent.
_HALF = re.compile("[\ud800-\udfff]")

Switch = Literal["Default", "Yes", "No"]


def stored_name(name: str) -> str:
    """Return the name under which the service keeps a file called ``name``.

    It replaces certain characters with ``_`` (contract, section 5). Two names may become the same.
    """
    return name.translate(_REPLACED)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to send.

    Create it with :meth:`of`. The service shows ``name``, which must have the extension of the
    file's format. Each call of ``open`` returns the content from its start.

    Attributes:
        name: File name.
        size: Size in bytes.
        open: Opens the content for reading; can be called several times.
        registration_parameters: Parameters of this file, at most 10.
        auto_crop: Image processing: crop.
        auto_orientation: Image processing: turn upright.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO] = field(repr=False)
    registration_parameters: Mapping[str, str] = field(default_factory=dict)
    auto_crop: Switch | None = None
    auto_orientation: Switch | None = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | bytes | SourceFile,
        *,
        name: str | None = None,
        registration_parameters: Mapping[str, str] | None = None,
        auto_crop: Switch | None = None,
        auto_orientation: Switch | None = None,
    ) -> SourceFile:
        """Return a file to send, given as a path or as bytes with a name.

        Args:
            source: Path of a file, its bytes, or a SourceFile (returned as it is).
            name: Name for the service; by default that of the path.
            registration_parameters: Parameters of this file.
            auto_crop: ``Default``, ``Yes`` or ``No``.
            auto_orientation: ``Default``, ``Yes`` or ``No``.

        Raises:
            ConfigurationError: The file does not exist, is not a regular file, or has no name.
            FileNotReady: The file is empty.
        """
        if isinstance(source, SourceFile):
            return source
        opener: Callable[[], BinaryIO]
        if isinstance(source, bytes):
            data, size = source, len(source)

            def opener() -> BinaryIO:
                return io.BytesIO(data)
        else:
            path = os.path.abspath(source)
            try:
                size = local.check_regular(path).st_size
            except FileNotFoundError:
                raise ConfigurationError(f"There is no file {path!r} to send") from None
            name = name or os.path.basename(path)

            def opener() -> BinaryIO:
                return local.open_regular(path)

        if not name or any(ord(c) < 32 or c in '"\x7f' for c in name) or _HALF.search(name):
            raise ConfigurationError(
                "A file to send has no valid name",
                hint="Give a name with the extension of its format, such as invoice.pdf",
            )
        if size == 0:
            raise FileNotReady(
                f"The file {name!r} is empty",
                hint=("Another program may still be writing it: try again later"),
            )
        return cls(
            name,
            size,
            opener,
            dict(registration_parameters or {}),
            auto_crop,
            auto_orientation,
        )

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the FileMetadata of this file (contract, section 3.2).

        Args:
            index: Position among the documents, from 0.
        """
        entry: dict[str, Any] = {"index": index}
        options = {"autoCrop": self.auto_crop, "autoOrientation": self.auto_orientation}
        if given := {name: value for name, value in options.items() if value}:
            entry["imageProcessingOptions"] = given
        if self.registration_parameters:
            entry["registrationParameters"] = parameters(self.registration_parameters)
        return entry


def parameters(values: Mapping[str, str], *, limited: bool = True) -> list[dict[str, str]]:
    """Return parameters in the form of the API, checked against its limits: 10, non-empty texts,
    and unless ``limited`` is off 128 characters for a key and 256 for a value."""
    if len(values) > MOST_PARAMETERS:
        raise ConfigurationError(
            f"{len(values)} parameters were given; ABBYY Vantage accepts {MOST_PARAMETERS}"
        )
    for key, value in values.items():
        for what, text, most in (("key", key, LONGEST_KEY), ("value", value, LONGEST_VALUE)):
            if not isinstance(text, str) or not text or _HALF.search(text):
                raise ConfigurationError(
                    f"The {what} of parameter {key!r} is empty, not a string or not Unicode",
                    hint="Leave out a parameter that has no value",
                )
            if limited and len(text) > most:
                raise ConfigurationError(
                    f"The {what} of parameter {key[:LONGEST_KEY]!r} has {len(text)} characters;"
                    f" ABBYY Vantage accepts {most}"
                )
    return [{"key": key, "value": value} for key, value in values.items()]


def check_files(files: Sequence[SourceFile]) -> None:
    """Refuse files that the service would refuse, before anything is sent: none or too many, too
    large together, or two of the same name for the service."""
    if not 0 < len(files) <= MOST_FILES:
        raise ConfigurationError(
            f"{len(files)} files were given; a transaction takes 1 to {MOST_FILES}"
        )
    total = sum(file.size for file in files)
    if total > LONGEST_UPLOAD:
        raise ConfigurationError(
            f"The files have {total} bytes together; a transaction takes at most {LONGEST_UPLOAD}"
        )
    seen: dict[str, str] = {}
    for file in files:
        stored = stored_name(file.name)
        if stored in seen:
            raise ConfigurationError(
                f"The files {seen[stored]!r} and {file.name!r} have the same name for ABBYY"
                f" Vantage, {stored!r}",
                hint="Names must be unique in a transaction; give one of them another name",
            )
        seen[stored] = file.name


@contextlib.contextmanager
def _accessing(name: str) -> Iterator[None]:
    """Name the file that fails: an OSError would be taken for one of the connection."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileChanged(
            f"The file {name!r} has vanished",
            hint="It was not processed. The next try lists the files again",
        ) from error
    except OSError as error:
        raise FileNotReady(
            f"The file {name!r} can't be read: {error.strerror or type(error).__name__}",
            hint="It was not processed. Check its disk or store; the next try reads it again",
        ) from error


class _Counted:
    """Reads exactly the announced number of bytes of a file, from any store.

    Without ``len`` the encoder determines the length by ``fileno``, which files of object stores
    lack. It would also wait for ever for the bytes of a file that became shorter. One that became
    longer is still being written.
    """

    def __init__(self, stream: BinaryIO, file: SourceFile) -> None:
        self._stream = stream
        self._name = file.name
        self.len = file.size  # What is left, as the encoder understands it.

    def read(self, size: int = -1) -> bytes:
        with _accessing(self._name):
            data = self._stream.read(self.len if size < 0 else min(size, self.len))
            left = self.len - len(data)
            changed = "shorter" if not data and left and size else ""
            if data and not left and self._stream.read(1):
                changed = "longer"
        if changed:
            raise FileChanged(
                f"The file {self._name!r} became {changed} while it was read",
                hint="It was not processed. Wait until it is complete; the next try sends it",
            )
        self.len = left
        return data


class MultipartBody:
    """A streaming multipart body that starts again on ``seek(0)``.

    The encoder of requests-toolbelt can be read once only. A request that is sent again after a 401
    or a dropped connection needs its body from the start.
    """

    def __init__(self, model: Mapping[str, Any], files: Sequence[SourceFile]) -> None:
        self._model = json.dumps(model, ensure_ascii=False).encode()
        self._files = files
        self._streams: list[BinaryIO] = []
        self._encoder: Any = None
        self._start()

    def _start(self) -> None:
        from requests_toolbelt.multipart.encoder import MultipartEncoder

        self.close()
        parts: list[tuple[str, tuple[str | None, Any, str]]] = [
            ("Model", (None, self._model, "application/json"))
        ]
        for file in self._files:
            with _accessing(file.name):
                stream = file.open()
            self._streams.append(stream)
            content = _Counted(stream, file)
            parts.append(("Files", (file.name, content, "application/octet-stream")))
        boundary = self._encoder.boundary_value if self._encoder is not None else None
        self._encoder = MultipartEncoder(parts, boundary=boundary)
        self._length = self._encoder.len
        self._read = 0

    @property
    def content_type(self) -> str:
        """Value of the ``Content-Type`` header, with the boundary."""
        value: str = self._encoder.content_type
        return value

    def __len__(self) -> int:
        return int(self._length)

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to the start, the only supported position."""
        if offset == 0 and whence == io.SEEK_SET:
            if self._read:
                self._start()
            return 0
        raise OSError("a multipart body can only go back to its start")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the body."""
        data: bytes = self._encoder.read(size)
        self._read += len(data)
        return data

    def close(self) -> None:
        """Close the files."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()
