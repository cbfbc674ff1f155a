# SPDX-License-Identifier: Apache-2.0
"""Files and folders in any store that fsspec supports: local, S3, GCS, Azure, SFTP and so on.

It adds to fsspec what a job needs if it may be killed at any moment: a file appears under its name
only when complete, "does not exist" differs from "can't be read now", names are literal and never
patterns, and cached listings are not trusted.

Of local files only regular ones are read, and no link leads out of the given folder; see
:mod:`vantage_orchestration.local`.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar, cast
from urllib.parse import unquote, urlsplit

from vantage_orchestration import local
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.text import clean
from vantage_orchestration.urls import StorageUrl

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

T = TypeVar("T")

_CHUNK = 1024 * 1024
#: Largest file in bytes to read into memory. A manifest of 100,000 transactions is smaller.
_LONGEST_IN_MEMORY = 512 * 1024**2
#: Bytes to buffer in memory on the way to a remote store; more go to a file.
_SPOOLED = 8 * 1024 * 1024
#: How often a folder is listed if files disappear meanwhile.
_LISTINGS = 3
_PART = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)
#: Stores without folders. Creating one there would require the right to create a bucket.
_FLAT = frozenset({"abfs", "abfss", "az", "gcs", "gs", "memory", "oci", "oss", "r2", "s3", "s3a"})
_SIGNS = frozenset("*?[")
_WEB = ("http://", "https://")
_USER = re.compile(r"(\w+://)[^/@]*@")


class _HasPath(Protocol):
    """A path object that knows its store, such as UPath or Airflow's ObjectStoragePath."""

    @property
    def fs(self) -> Any: ...

    @property
    def path(self) -> str: ...


@dataclass(frozen=True, slots=True, repr=False)
class Location:
    """A file or folder, which need not exist, in a store.

    Attributes:
        fs: The store.
        path: Path in the store's notation, without protocol.
        root: Path of the folder in which it was found or named, if any. No link leads out of it;
            see :mod:`vantage_orchestration.local`.
    """

    fs: AbstractFileSystem
    path: str
    root: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, place: AnyPath, **storage_options: Any) -> Location:
        """Return the location of a path, a URL such as ``s3://bucket/folder``, a path object with
        its own store (UPath, Airflow's ObjectStoragePath), or a Location.

        ``storage_options`` are those of fsspec for the store of a path or URL.

        Raises:
            ConfigurationError: It is empty, or no installed package supports the store.
        """
        if isinstance(place, Location):
            return place
        from fsspec.core import strip_protocol, url_to_fs  # type: ignore[import-untyped]

        failure: Exception
        try:
            fs = getattr(place, "fs", None)
            if fs is not None:
                found = cls(fs, strip_protocol(fs.unstrip_protocol(cast(_HasPath, place).path)))
            else:
                text = os.fsdecode(os.fspath(cast("str | os.PathLike[str]", place)))
                if not text.strip() or "\0" in text:
                    wrong = "contains a null character" if text.strip() else "is empty"
                    raise ConfigurationError(f"A path or URL {wrong}")
                # Unless it is a chain of stores, the name of a file has these colons.
                head = text if _is_chain(text) else text.partition("::")[0]
                fs, path = url_to_fs(head, **storage_options)
                found = cls(fs, path if head == text else strip_protocol(text))
            if found.is_local and ".." in found.path.split("/"):
                up, _, _ = found.path.rpartition("..")
                if _SIGNS & set(up) and not os.path.isdir(up):
                    return found  # A pattern before it stands for several folders.
                # Where a folder on the way is missing, the system finds nothing.
                folder, _, name = found.path.rstrip("/").rpartition("/")
                real = os.path.realpath(found.path if name == ".." else folder)
                return replace(found, path=real if name == ".." else os.path.join(real, name))
            if found.is_local:  # One path for one file: it may be given twice.
                path = posixpath.normpath(found.path)
                return replace(found, path=path[1:] if path.startswith("//") else path)
        except ConfigurationError:
            raise
        except (ImportError, TypeError, ValueError) as error:
            failure = error
        else:
            return found
        shown = clean(_USER.sub(r"\1", str(place)))
        raise ConfigurationError(
            f"The location {shown!r} can't be opened: {clean(str(failure))}",
            hint="Give a path, or a URL whose store fsspec supports; many stores need another"
            " package, such as s3fs, gcsfs or adlfs",
        )

    # -- what it is called

    @property
    def url(self) -> str:
        """Absolute URL; for a local file its plain absolute path.

        User and query of a web address are left out, since they may contain a secret.
        """
        if self.is_local:
            return self.path
        url = str(self.fs.unstrip_protocol(self.path))
        host, port = getattr(self.fs, "host", None), getattr(self.fs, "port", None)
        protocol, rooted, path = url.partition(":///")
        if rooted and isinstance(host, str) and host:  # Paths of SFTP and the like lack it.
            url = f"{protocol}://{host}{f':{port}' if isinstance(port, int) else ''}/{path}"
        return _shown(url)

    @property
    def name(self) -> str:
        """Last part of the path."""
        path = self.path
        if path.startswith(_WEB):
            path = unquote(urlsplit(path).path)
        return path.rstrip("/").rpartition("/")[2]

    @property
    def real(self) -> str:
        """The same text for the same place, however it is named, with links resolved."""
        return os.path.realpath(self.path) if self.is_local else StorageUrl.of(self.url).url

    def names(self) -> set[str]:
        """Return the names of all entries of the folder; empty if there is no folder. Errors as for
        :meth:`info`."""
        return {info["name"].rstrip("/").rpartition("/")[2] for info in _listed(self)}

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __str__(self) -> str:
        return self.url

    @property
    def parent(self) -> Location:
        """The folder it is in."""
        above = self.path.rstrip("/").rpartition("/")[0]
        if self.is_local:
            above = os.path.dirname(self.path.rstrip("/"))
        return Location(self.fs, above or self.fs.root_marker)

    def child(self, *parts: str) -> Location:
        """Return a location below this one, from names or relative paths with ``/``. A part that is
        empty or leads out of it (``..``) is refused."""
        names = "/".join(parts).split("/")
        if any(name in ("", ".", "..") or "\0" in name for name in names):
            raise ConfigurationError(f"{'/'.join(parts)!r} is not a relative path")
        path = "/".join((self.path.rstrip("/"), *names))
        return Location(self.fs, path, self.root or self.path)

    @property
    def concurrent(self) -> bool:
        """Whether several threads may use its store at a time.

        Connections of SFTP and FTP stores, and archives, can be used by one thread at a time.
        """
        return (
            self.is_local
            or "memory" in self.protocols
            or bool(getattr(self.fs, "async_impl", False))
        )

    # -- what is there

    def info(self) -> Mapping[str, Any] | None:
        """Return the store's current information on it, at least ``type`` and ``size``; None if it
        does not exist. An OSError says that the store can't be read."""
        self.fs.invalidate_cache()
        try:
            return cast("Mapping[str, Any]", self.fs.info(self.path))
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            # No file has a name that is too long, such as a text with a path in each line.
            if missing or error.errno == errno.ENAMETOOLONG:
                return None
            raise

    def exists(self) -> bool:
        """Return whether it exists. Errors as for :meth:`info`."""
        return self.info() is not None

    def is_dir(self) -> bool:
        """Return whether it is a folder. Errors as for :meth:`info`."""
        return (self.info() or {}).get("type") == "directory"

    def size(self) -> int:
        """Return the size of the file in bytes. Not every store reports it: an OSError."""
        info = self.info()
        if info is None:
            raise FileNotFoundError(self.url)
        if info.get("size") is None:
            raise OSError(f"The store does not report the size of {self.url}")
        return int(info["size"])

    def sizes(self) -> dict[str, int]:
        """Return relative path and size in bytes of every file below, at any depth, without links.
        Errors as for :meth:`info`."""
        self.fs.invalidate_cache()
        if self.is_local and self.root is not None and os.path.islink(self.path):
            return {}
        if _find_passes_over_errors(self.fs):
            found = {info["name"]: info for info in _files_below(self)}
        else:
            found = self.fs.find(self.path, detail=True)
        start = self.path.rstrip("/") + "/"
        return {
            path[len(start) :]: int(info.get("size") or 0)
            for path, info in found.items()
            if path.startswith(start) and not path.endswith("/") and not info.get("islink")
        }

    def files(self, pattern: str = "*") -> list[Location]:
        """Return the files below that match a pattern, sorted by path. A missing folder is empty.

        The pattern is a relative path with ``*``, ``?`` and ``[...]`` in names, and ``**`` for any
        number of folders. Case matters except in a file's suffix: ``*.pdf`` also matches
        ``SCAN.PDF``. A name that is equal to the pattern matches, whatever characters it contains.
        As in a shell, a name with a leading dot matches only if the pattern has that dot, so
        unfinished files never match. Only files and folders match, not, for example, named pipes.
        Object stores allow keys such as ``a//b.pdf``, which no listing by folders shows. A pattern
        with ``**`` that would pass over one is a ConfigurationError.
        """
        self.fs.invalidate_cache()
        parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
        if not parts or ".." in parts or pattern.startswith("/"):
            raise ConfigurationError(f"{pattern!r} is not a relative pattern for files")
        fitting = _fitting_keys if "**" in parts and self.is_flat else _fitting
        found = {location.path: location for location in fitting(self, parts)}
        return [found[path] for path in sorted(found)]

    # -- content

    def open(self) -> BinaryIO:
        """Open the file for reading, at its start. A local one that is not regular, or a link out
        of its folder, is refused."""
        if self.is_local:
            return local.open_regular(self.path, self.root)
        # Otherwise a cached listing could miss a file that was written since.
        self.fs.invalidate_cache()
        if "memory" in self.protocols:
            # That store returns the same stream to all readers.
            return io.BytesIO(self.fs.cat_file(self.path))
        return cast(BinaryIO, self.fs.open(self.path, "rb"))

    def read_bytes(self) -> bytes:
        """Return the content of the file. One that is too large for memory is refused."""
        with self.open() as stream:
            data = stream.read(_LONGEST_IN_MEMORY + 1)
        if len(data) > _LONGEST_IN_MEMORY:
            raise ConfigurationError(f"{self} has more than {_LONGEST_IN_MEMORY} bytes")
        return data

    def read_text(self) -> str:
        """Return the content of the UTF-8 file."""
        return self.read_bytes().decode()

    def write(self, fill: Callable[[BinaryIO], T]) -> T:
        """Write the file so that it appears under its name only when complete.

        It is written to a part with a unique name in the same folder, which then replaces the
        target. A killed process leaves its part behind. The stream that ``fill`` gets can read,
        seek and truncate in every store: for a remote store a temporary file is filled first and
        then copied. The result of ``fill`` is returned. A local link in its place is refused.
        """
        if self.is_local:
            return local.write_whole(self.path, self.root, fill)
        part = Location(self.fs, f"{self.parent.path.rstrip('/')}/{local.part_of(self.name)}")
        try:
            result = _fill(part, fill)
            _move(part, self)
        except BaseException:
            # The first error is raised, not one of the clean-up.
            with contextlib.suppress(Exception):
                part.remove()
            raise
        return result

    def write_text(self, text: str) -> None:
        """Write the file as :meth:`write` does, in UTF-8."""
        # A lone surrogate becomes an escape, which JSON parses as the same character.
        data = text.encode("utf-8", "backslashreplace")
        self.write(lambda stream: stream.write(data))

    def remove(self) -> None:
        """Remove the file; a missing one counts as removed."""
        if self.is_local:
            local.remove(self.path, self.root)
            return
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path)

    def remove_if_empty(self) -> None:
        """Remove the folder if it is empty, in stores that keep empty folders."""
        if self.is_local:
            local.remove_folder(self.path, self.root)

    # -- internals

    @property
    def is_local(self) -> bool:
        """Whether it is in the file system of this machine."""
        from fsspec.implementations.local import (  # type: ignore[import-untyped]
            LocalFileSystem,
        )

        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_flat(self) -> bool:
        """Whether it is in a store of objects, whose keys need not be names of folders."""
        return not _FLAT.isdisjoint(self.protocols)

    @property
    def protocols(self) -> frozenset[str]:
        """Names of the kind of its store, such as ``s3`` and ``s3a``."""
        protocol = self.fs.protocol
        return frozenset((protocol,) if isinstance(protocol, str) else protocol)


#: Everything that identifies a file or folder.
AnyPath = str | os.PathLike[str] | _HasPath | Location


def _is_chain(text: str) -> bool:
    """Return whether a text names several stores, such as ``zip://a.pdf::s3://bucket/a.zip``."""
    from fsspec import available_protocols

    *outer, last = text.split("::")
    known = available_protocols() if outer else ()
    return all("://" in each or each in known for each in outer) and (
        "://" in last or last.startswith("/")
    )


def is_part(name: str) -> bool:
    """Return whether a file of this name is an unfinished part of :meth:`Location.write`."""
    return _PART.fullmatch(name) is not None


def _fill(part: Location, fill: Callable[[BinaryIO], T]) -> T:
    """Fill a file of a remote store through a temporary file."""
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED) as spool:
        # Not gettempdir(), which fails where there is none, even if none is needed.
        with local.naming(tempfile.tempdir or "temporary file"):
            result = fill(cast(BinaryIO, spool))
        spool.seek(0)
        if not part.is_flat:
            part.fs.makedirs(part.parent.path, exist_ok=True)
        with part.fs.open(part.path, "wb") as remote:
            shutil.copyfileobj(spool, remote, _CHUNK)
    return result


def _move(part: Location, target: Location) -> None:
    """Give a complete file its name, replacing an existing one."""
    from fsspec import AbstractFileSystem

    fs = part.fs
    if type(fs).mv is AbstractFileSystem.mv:
        # A store that can only copy. fsspec's own move would treat names as patterns.
        fs.cp_file(part.path, target.path)
        part.remove()
        return
    with contextlib.suppress(FileExistsError):
        fs.mv(part.path, target.path)
    if part.exists():  # Some stores rename over nothing, and not all of them say so.
        target.remove()
        fs.mv(part.path, target.path)


def _find_passes_over_errors(fs: AbstractFileSystem) -> bool:
    """Return whether ``find`` is fsspec's own, which ignores unreadable folders."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]

    # The latter is what the find of an AsyncFileSystem calls.
    is_async = isinstance(fs, AsyncFileSystem)
    base, method = (AsyncFileSystem, "_find") if is_async else (AbstractFileSystem, "find")
    return all(method not in vars(kind) for kind in type(fs).__mro__ if kind not in base.__mro__)


def _files_below(folder: Location) -> Iterator[Mapping[str, Any]]:
    """Yield the store's information on each file below, at any depth; links are not followed."""
    folders = [folder]  # No recursion: others may nest folders more deeply than Python's stack.
    while folders:
        for info in _listed(folders.pop()):
            if info["type"] == "directory":
                folders.append(Location(folder.fs, info["name"].rstrip("/")))
            else:
                yield info


def _shown(url: str) -> str:
    if not url.startswith(_WEB):
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _entries(folder: Location) -> Iterator[tuple[Location, str]]:
    """Yield the entries of a folder, as ``file``, ``directory`` or ``linked`` (a folder)."""
    fs = folder.fs
    for info in _listed(folder):
        path, kind = info["name"].rstrip("/"), info["type"]
        if info.get("islink"):
            kind = "file" if fs.isfile(path) else "linked" if fs.isdir(path) else kind
        if kind in ("file", "directory", "linked"):
            yield Location(fs, path, folder.root or folder.path), kind


def _listed(folder: Location) -> list[Mapping[str, Any]]:
    """Return the store's information on each entry of a folder; empty if there is no folder."""
    own = folder.path.rstrip("/")
    for _ in range(_LISTINGS):
        try:
            listed = folder.fs.ls(folder.path, detail=True)
        except NotADirectoryError:
            return []
        except FileNotFoundError:
            # A file that disappears while a folder is listed causes the same error as a missing
            # folder.
            if not folder.exists():
                return []
        else:
            # Some stores list the folder itself, or it is a file.
            return [info for info in listed if info["name"].rstrip("/") != own]
    raise OSError(f"The folder {folder} changes while it is listed")


def _fits(name: str, pattern: str, *, suffix: bool) -> bool:
    if name == pattern or fnmatch.fnmatchcase(name, pattern):
        return True
    stem, dot, end = pattern.rpartition(".")
    if not suffix or not dot or _SIGNS & set(end):
        return False
    own, dot, its = name.rpartition(".")
    return bool(dot) and its.lower() == end.lower() and fnmatch.fnmatchcase(own, stem)


def _fitting_keys(folder: Location, parts: tuple[str, ...]) -> Iterator[Location]:
    """Yield the files of an object store, which needs one listing for all depths, as
    :func:`_fitting` does by folders. It refuses to pass over a key with an empty part."""
    fixed = next(number for number, part in enumerate(parts) if _SIGNS & set(part))
    start = folder.child(*parts[:fixed]) if fixed else folder
    for path in start.sizes():
        *above, name = path.split("/")
        if "" in above and _fits(name, parts[-1], suffix=True):
            raise ConfigurationError(
                f"A pattern with ** can't find {start.url.rstrip('/')}/{path}: a folder in its key"
                " has no name",
                hint="Give the file another key, or name it in full instead of the pattern",
            )
        if _match([*above, name], parts[fixed:]):
            yield Location(
                folder.fs, f"{start.path.rstrip('/')}/{path}", folder.root or folder.path
            )


def _match(names: Sequence[str], parts: tuple[str, ...]) -> bool:
    """Return whether a relative path fits a pattern, by the rules of :meth:`Location.files`."""
    parts = (*parts, "*") if parts[-1] == "**" else parts
    places = {0}  # Positions in the pattern that the next name may fit.
    for number, name in enumerate(names, 1):
        for place in tuple(places):
            while parts[place] == "**":  # It may stand for no folder.
                place += 1
                places.add(place)
        last, here, places = number == len(names), places, set()
        for place in here:
            head = parts[place]
            if name.startswith(".") and not head.startswith("."):
                continue
            if head == "**":
                places |= set() if last else {place}
            elif last == (place == len(parts) - 1) and _fits(name, head, suffix=last):
                places.add(place + 1)
    return bool(places)


def _fitting(folder: Location, parts: tuple[str, ...]) -> Iterator[Location]:
    places = [(folder, parts)]
    while places:
        place, parts = places.pop()
        head, rest = parts[0], parts[1:]
        if head == "**":
            places.append((place, rest or ("*",)))
        for entry, kind in list(_entries(place)):
            if entry.name.startswith(".") and not head.startswith("."):
                continue
            if head == "**":
                if kind == "directory":  # Links are not followed here: they may lead in circles.
                    places.append((entry, parts))
            elif _fits(entry.name, head, suffix=not rest):
                if rest and kind != "file":
                    places.append((entry, rest))
                elif not rest and kind == "file":
                    yield entry
