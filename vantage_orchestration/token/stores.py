# SPDX-License-Identifier: Apache-2.0
"""Stores for tokens between processes, and the store of this host: files that only their owner can
read, with a lock for each."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from vantage_orchestration import local
from vantage_orchestration.config import VantageConfig
from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.state import Store

log = logging.getLogger(__name__)


StoreFactory = Callable[[], Store]


def store_of(config: VantageConfig, orchestrator: StoreFactory | None = None) -> Store | None:
    """Return the store named in ``config``; None if tokens stay in the process's memory.

    ``orchestrator`` creates the orchestrator's own store, if there is an orchestrator.
    """
    if config.store == "orchestrator":
        if orchestrator is not None:
            return orchestrator()
        log.warning(
            "The token of ABBYY Vantage is kept in this process alone: there is no orchestrator"
            " whose store could be used"
        )
    if config.store == "file":
        return FileStore(config.store_path)
    return None


_LONGEST_ENTRY = 256 * 1024
#: Name of the private folder in a shared one; the user's number follows.
_PRIVATE = "vantage-orchestration-"
#: Seconds between two tries to take a lock that somebody else holds.
_POLL = 0.02


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
    """Stores entries as files of a folder.

    Args:
        folder: The folder, created with its parents when first needed, with the mode 0700. A folder
            that others may enter, such as a shared folder or a mounted volume, is left as it is:
            the files are in a private folder below it. A leading ``~`` is the home folder. Empty
            for :func:`default_folder`.

    Files have the mode 0600 and appear complete, by renaming. Links are not followed. Lock files
    stay: removing one that somebody waits for would give two holders.
    """

    label = "file"

    def __init__(self, folder: str | os.PathLike[str] = "") -> None:
        self._given = folder

    @property
    def folder(self) -> Path:
        """The folder of the files.

        Raises:
            StateUnavailable: Something unusable is in its place.
        """
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
        """Return a value; see :class:`vantage_orchestration.state.Store`."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            with _translated(FileNotFoundError):
                path = self._path(name, "entry", make=False)
                handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or not _is_own(found) or _is_open(found):
                return None  # Somebody else put it there; it is replaced at the next write.
            data = stream.read(_LONGEST_ENTRY + 1)
        return data if len(data) <= _LONGEST_ENTRY else None

    def write(self, name: str, value: bytes) -> None:
        """Write a value; see :class:`vantage_orchestration.state.Store`."""
        with _translated():
            self._write(name, value, new=False)

    def create(self, name: str, value: bytes) -> bool:
        """Write a value if there is none; see :class:`vantage_orchestration.state.Store`.

        If several processes try at the same moment, exactly one succeeds.
        """
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
        """Remove a value; see :class:`vantage_orchestration.state.Store`."""
        with contextlib.suppress(FileNotFoundError), _translated(FileNotFoundError):
            os.unlink(self._path(name, "entry", make=False))

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[bool]:
        """Hold the lock of a value, which need not exist, against the other processes of this host.

        The system releases it when its holder ends, however it ends. The result says whether it is
        held after ``timeout`` seconds: a hanging holder must not block everybody.

        Raises:
            StateUnavailable: The lock can't be used.
        """
        from filelock import FileLock, Timeout

        with _translated():
            # A new object for each use: filelock counts repeated locks of one object as one.
            lock = FileLock(self._path(name, "lock", make=True), mode=0o600, thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=timeout, poll_interval=_POLL)
            held = lock.is_locked
        try:
            yield held
        finally:
            if held:
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


@contextlib.contextmanager
def _translated(*expected: type[OSError]) -> Iterator[None]:
    """Turn the errors of a folder into StateUnavailable, other than expected ones."""
    try:
        yield
    except expected:
        raise
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        failure = StateUnavailable(reason or type(error).__name__)
    else:
        return
    raise failure
