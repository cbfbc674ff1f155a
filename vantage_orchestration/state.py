# SPDX-License-Identifier: Apache-2.0
"""State that outlives a process: small values under names, and files of earlier tries.

One rule holds for tokens, ledgers, cursors, manifests and ``submitted.json``: only "not found"
means that nothing is there. Any other error is raised as one that a retry may cure, and an
unreadable value is never overwritten. A try that takes a failure for emptiness would send, and pay
for, its documents again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vantage_orchestration import local
from vantage_orchestration.errors import StateDamaged, StateUnavailable, VantageError
from vantage_orchestration.text import MISFIT, clean

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

T = TypeVar("T")

#: Bytes. The notes of a host about its transactions of 14 days take 220 for each.
_LONGEST_ENTRY = 32 * 1024**2
#: Name of the private folder in a shared one; the user's number follows.
_PRIVATE = "vantage-orchestration-"
#: Seconds between two tries to take a lock that is held elsewhere.
_POLL = 0.02


class Values(Protocol):
    """Small values under names, in a place that outlives the process.

    Its methods raise any exception if the place can't be used at present.
    """

    #: Name of the place in messages.
    label: str

    def read(self, name: str) -> bytes | None:
        """Return a value; None only if there is none."""

    def write(self, name: str, value: bytes) -> None:
        """Write or replace a value; it is stored when this returns."""


class Store(Values, Protocol):
    """Values that several processes or hosts share. Stores with the same ``repr`` are the same."""

    def create(self, name: str, value: bytes) -> bool:
        """Write a value if there is none; return whether this call wrote it.

        If several try at the same moment, one succeeds, as far as the place can guarantee that.
        """

    def delete(self, name: str) -> None:
        """Remove a value; a missing one counts as removed."""


class FolderStore:
    """Stores values as files of a folder, in any store that fsspec supports.

    The folder is created when first needed. Names are relative paths in it that end in ``.json``.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.label = folder.url

    def read(self, name: str) -> bytes | None:
        """See :class:`Values`."""
        file = self.folder.child(name)
        try:
            with reading(file):
                return file.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, value: bytes) -> None:
        """Write a value; it appears only when complete. See :class:`Values`."""
        self.folder.child(name).write(lambda stream: stream.write(value))

    def delete(self, name: str) -> None:
        """Remove a value; a missing one counts as removed."""
        self.folder.child(name).remove()

    def names(self, folder: str) -> list[str]:
        """Return the names of the values in a subfolder, sorted."""
        try:
            with reading(self.folder.child(folder)):
                files = self.folder.child(folder).files("*.json")
        except FileNotFoundError:
            return []
        return [f"{folder}/{file.name}" for file in files]


def default_folder() -> Path:
    """Return the folder of the file store: in the user's runtime folder, or in the cache folder.

    The runtime folder (Linux: ``XDG_RUNTIME_DIR``) is in memory and is empty after a restart. A
    service often has none.
    """
    import platformdirs

    if os.environ.get("XDG_RUNTIME_DIR") and os.path.isdir(os.environ["XDG_RUNTIME_DIR"]):
        base = platformdirs.user_runtime_path("vantage-orchestration", appauthor=False)
    else:
        base = platformdirs.user_cache_path("vantage-orchestration", appauthor=False)
    return base / "tokens"


class FileStore:
    """Stores values as files that only their owner can read, with a lock for each.

    The folder, by default :func:`default_folder`, is created with its parents when first needed,
    with the mode 0700. A leading ``~`` is the home folder. A folder that others may enter, such as
    a shared folder or a mounted volume, is left as it is: the files are in a private folder below
    it. Files have the mode 0600 and appear complete, by renaming. Links are not followed. Lock
    files stay: removing one that somebody waits for would give two holders.
    """

    label = "file"

    def __init__(self, folder: str | os.PathLike[str] = "") -> None:
        self._given = folder

    @property
    def folder(self) -> Path:
        """The folder of the files; anything else at its path is StateUnavailable."""
        # Checked late: creating a store must not fail for a user without a home.
        with _translated():
            base = Path(self._given).expanduser() if self._given else default_folder()
            try:
                found = os.lstat(base)
            except FileNotFoundError:
                return base
        if not stat.S_ISDIR(found.st_mode):
            raise StateUnavailable(f"{base} is not a folder")
        if not _is_open(found):
            return base
        if not _is_own(found) and not stat.S_IMODE(found.st_mode) & 0o022:
            raise StateUnavailable(f"{base} belongs to another user")
        return base / f"{_PRIVATE}{os.geteuid() if hasattr(os, 'geteuid') else ''}"

    def read(self, name: str) -> bytes | None:
        """See :class:`Values`."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            with _translated(FileNotFoundError):
                path = self._path(name, "entry", make=False)
                handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
                with os.fdopen(handle, "rb") as stream:
                    found = os.fstat(stream.fileno())
                    if not stat.S_ISREG(found.st_mode) or not _is_own(found) or _is_open(found):
                        return None  # Another user created it; the next write replaces it.
                    data = stream.read(_LONGEST_ENTRY + 1)
        except FileNotFoundError:
            return None
        return data if len(data) <= _LONGEST_ENTRY else None

    def write(self, name: str, value: bytes) -> None:
        """See :class:`Values`."""
        with _translated():
            self._write(name, value, new=False)

    def create(self, name: str, value: bytes) -> bool:
        """See :class:`Store`. If several processes try at the same moment, exactly one succeeds."""
        try:
            with _translated(FileExistsError):
                self._write(name, value, new=True)
        except FileExistsError:
            return False
        return True

    def _write(self, name: str, value: bytes, *, new: bool) -> None:
        path = self._path(name, "entry", make=True)
        local.write_whole(str(path), None, lambda file: file.write(value), private=True, new=new)

    def delete(self, name: str) -> None:
        """See :class:`Store`."""
        with contextlib.suppress(FileNotFoundError), _translated(FileNotFoundError):
            os.unlink(self._path(name, "entry", make=False))

    @contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[bool]:
        """Hold the lock of a value, which need not exist, against the other processes of this host.

        The system releases it when its holder ends, however it ends. The result says whether it is
        held after ``timeout`` seconds: a hanging holder must not block everybody.
        """
        from filelock import FileLock, Timeout

        with _translated():
            # A new object for each use: filelock counts repeated locks of one object as one.
            lock = FileLock(self._path(name, "lock", make=True), mode=0o600, thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=timeout, poll_interval=_POLL)
            held = lock.is_locked
            if not held:
                _check_lockable(lock.lock_file)
        try:
            yield held
        finally:
            if held:
                with contextlib.suppress(OSError):  # A network file system may fail here, too.
                    lock.release()

    def _path(self, name: str, kind: str, *, make: bool) -> Path:
        """Return the path of an entry or lock, in a folder that no other user can enter."""
        if not name.isalnum():  # Names are hex digits; nothing else may become part of a path.
            raise ValueError("the name of an entry must consist of hex digits")
        folder = self.folder
        if make:
            _make_private(folder)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode):
            raise StateUnavailable(f"{folder} is not a folder")
        if not _is_own(found):
            raise StateUnavailable(f"{folder} belongs to another user")
        if _is_open(found):
            raise StateUnavailable(
                f"{folder} is open to other users; take their rights away, or remove it"
            )
        return folder / f"{name}.{kind}"


def _check_lockable(path: str | os.PathLike[str]) -> None:
    """Raise if the file system has no locks, as with some mounts of NFS and Lustre.

    Releases of filelock report that as a lock that is held elsewhere, or make files that stay
    when their process dies: a caller would wait for ever.
    """
    if os.name != "posix":
        return
    import fcntl

    with open(path, "rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _make_private(folder: Path) -> None:
    """Create a folder and its missing parents, each for this user alone."""
    if not folder.parent.exists():
        _make_private(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)  # The umask can only take away from that.


def _is_own(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def _is_open(found: os.stat_result) -> bool:
    """Return whether other users have rights. Windows has no such bits."""
    return os.name == "posix" and bool(stat.S_IMODE(found.st_mode) & 0o077)


@contextmanager
def _translated(*expected: type[OSError]) -> Iterator[None]:
    """Turn the errors of a folder into StateUnavailable, other than expected ones."""
    try:
        yield
    except expected:
        raise
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        place = str(getattr(error, "filename", None) or "")
        if place.endswith((".entry", ".lock", ".part")):
            place = os.path.dirname(place)  # The name of an entry depends on secrets.
        text = clean(reason or type(error).__name__)
        failure = StateUnavailable(f"{place}: {text}" if place else text)
    else:
        return
    raise failure


def read_value(values: Values, name: str, parse: Callable[[Any], T]) -> T | None:
    """Return a JSON value, see :func:`read_json`."""
    return _read(lambda: values.read(name), f"{values.label}/{name}", parse)


def write_value(values: Values, name: str, value: Any) -> None:
    """Write a value as JSON."""
    values.write(name, json.dumps(value).encode())


def read_json(location: Location, parse: Callable[[Any], T]) -> T | None:
    """Return the content of a JSON file; None only if there is none.

    ``parse`` converts the JSON data. If it is invalid, it raises ValueError, or the error of
    accessing a missing member, and this function StateDamaged.
    """
    return _read(location.read_bytes, location, parse)


def _read(read: Callable[[], bytes | None], place: object, parse: Callable[[Any], T]) -> T | None:
    try:
        with reading(place):
            data = read()
    except FileNotFoundError:
        return None
    if data is None:
        return None
    try:
        return parse(json.loads(data))
    except MISFIT as error:
        failure = StateDamaged(
            f"{place} was not written by this version of the package, or is damaged:"
            f" {clean(str(error)) or type(error).__name__}",
            hint="Nothing was overwritten. Check it, then update the package, restore it or move"
            " it away. Without it documents may be sent and charged, or results fetched, again",
        )
    raise failure


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Turn each error of a store, except "not found", into a StateUnavailable about ``place``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:  # A file is where its folder would be.
        raise FileNotFoundError(str(place)) from error
    except VantageError:
        raise
    except Exception as error:
        hint = "Nothing was overwritten. The next try reads it again"
        if isinstance(error, PermissionError):
            hint += (
                ". Some stores report a missing file as forbidden, too, unless they may be listed"
            )
        text = clean(str(error))
        raise StateUnavailable(
            f"{place} can't be read: {type(error).__name__}{f': {text}' if text else ''}",
            hint=hint,
        ) from error


def checked(data: Any, version: int) -> Mapping[str, Any]:
    """Return JSON data after a check of its version; another one, or none, is a ValueError."""
    if not isinstance(data, Mapping) or "version" not in data:
        raise ValueError("it has no version")
    if data["version"] != version:
        raise ValueError(f"its version is {data['version']!r}; {version} is expected")
    return data
