# SPDX-License-Identifier: Apache-2.0
"""Files of this machine, in folders to which others may write.

Another user can put a named pipe, a device or a link where a document or a result is expected, and
can swap them at any moment. So no file is judged by its path alone: the opened file is checked, and
folders are held open while files are written into them.

* Only regular files are read, and opening them never blocks. Files of ``/proc``, ``/sys`` and
  ``/dev`` are refused (``/dev/shm`` holds ordinary files).
* A link is followed for reading as long as it stays in the given folder.
* Nothing is written, replaced or removed through a link below the given folder.

The folder itself, and links above it, are the user's own choice and are followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from vantage_orchestration.errors import ConfigurationError

T = TypeVar("T")

#: Bytes of a file's name that its temporary part keeps; a file system allows 255 in all.
_LONGEST_IN_PART = 200
_SYSTEM = ("/proc", "/sys", "/dev")
ORDINARY = "/dev/shm"  # noqa: S108 - it is not written to here
#: Flags that Windows lacks; it has nothing that they would protect from.
_SAFE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_UNBLOCKED = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0) | _SAFE
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
#: Whether folders can be held open and names be resolved relative to them.
HELD = {os.open, os.mkdir, os.unlink, os.rmdir, os.stat} <= os.supports_dir_fd


def check_regular(path: str) -> os.stat_result:
    """Return the system's information on a file to be read, without opening it.

    What is not a regular file, or is one of the system's own, is a ConfigurationError.
    """
    found = os.stat(path)
    _check_kind(path, found.st_mode)
    _check_place(path, os.path.abspath(path), os.path.realpath(path))
    return found


def open_regular(path: str, root: str | None = None) -> BinaryIO:
    """Open a regular file for reading, without blocking.

    A link may not lead out of ``root``, which is by default the file's own folder. That, and
    another kind of file, is a ConfigurationError.
    """
    # Checked twice: opening a device can have effects, and the file may be swapped in between.
    full = os.path.abspath(path)
    _check_kind(path, os.stat(path).st_mode)
    _check_place(path, full)
    handle = os.open(path, os.O_RDONLY | _UNBLOCKED | _SAFE)
    try:
        found = os.fstat(handle)
        _check_kind(path, found.st_mode)
        real = _path_of(handle, path, found)
        _check_place(path, real)
        folder = os.path.abspath(root) if root else os.path.dirname(full)
        # Without links, which is nearly always, the folder need not be resolved.
        if not (real == full and is_below(full, folder)) and not is_below(
            real, os.path.realpath(folder)
        ):
            raise ConfigurationError(
                f"{path!r} is a link that leads out of its folder",
                hint="Give the file that it leads to, or a folder that contains both",
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def part_of(name: str) -> str:
    """Return a unique name for a file that is not complete yet."""
    short = name.encode("utf-8", "surrogatepass")[:_LONGEST_IN_PART].decode("utf-8", "ignore")
    return f".{short}.{secrets.token_hex(8)}.part"


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let an error of the system name the file that is written: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not os.path.isabs(str(error.filename or "")):
            error.filename = path
        raise


def write_whole(
    path: str,
    root: str | None,
    fill: Callable[[BinaryIO], T],
    *,
    private: bool = False,
    new: bool = False,
) -> T:
    """Write a file so that it appears under its name only when complete, and never through a link.

    Missing folders are created. Below ``root``, which is by default the file's own folder, no link
    is followed: it is a ConfigurationError. The result of ``fill``, which writes the content, is
    returned. Only its owner may read a ``private`` file, which need not last through a power cut.
    A ``new`` file replaces none: an existing one is a FileExistsError.
    """
    name = os.path.basename(path)
    part = part_of(name)
    with naming(path), _folder_of(path, root, make=True) as (at, prefix):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _SAFE
        handle = os.open(prefix + part, flags, 0o600 if private else 0o666, dir_fd=at)
        left = True
        try:
            with os.fdopen(handle, "w+b") as stream:
                result = fill(stream)
                stream.flush()
                if not private:
                    os.fsync(stream.fileno())
            move = os.link if new else os.replace
            move(prefix + part, prefix + name, src_dir_fd=at, dst_dir_fd=at)
            left = new
        finally:
            if left:
                with contextlib.suppress(OSError):  # The first error is raised.
                    os.unlink(prefix + part, dir_fd=at)
        if at is not None and not private:
            with contextlib.suppress(OSError):
                os.fsync(at)  # Makes the new name last through a power cut.
    return result


def remove(path: str, root: str | None = None) -> None:
    """Remove a file, or a link itself. A missing file counts as removed.

    Below ``root``, which is by default the file's own folder, no link is followed.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        _folder_of(path, root, make=False) as (at, prefix),
    ):
        os.unlink(prefix + os.path.basename(path), dir_fd=at)


def remove_folder(path: str, root: str | None = None) -> None:
    """Remove a folder if it exists and is empty. Arguments as for :func:`remove`."""
    with (
        contextlib.suppress(OSError, ConfigurationError),
        _folder_of(path, root, make=False) as (at, prefix),
    ):
        os.rmdir(prefix + os.path.basename(path), dir_fd=at)


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder itself or lies below it. Both are absolute."""
    folder = folder.rstrip(os.sep)
    return path == folder or path.startswith(folder + os.sep)


def _path_of(handle: int, path: str, found: os.stat_result) -> str:
    """Return the real path of an opened file."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{handle}")
    # Not Linux. The resolved path must be the same file; otherwise it was swapped meanwhile.
    real = os.path.realpath(path)
    return real if os.path.samestat(os.stat(real), found) else ""


@contextlib.contextmanager
def _folder_of(path: str, root: str | None, *, make: bool) -> Iterator[tuple[int | None, str]]:
    """Yield the folder of a file: a handle, and a prefix for names.

    Where folders can't be held open, there is no handle, and the prefix is the path of the folder.
    """
    folder = os.path.dirname(os.path.abspath(path))
    at = _without_links(folder)
    if at is None:
        root = os.path.abspath(root) if root is not None and is_below(folder, root) else folder
        names = [name for name in folder[len(root) :].split(os.sep) if name]
        if make and not os.path.isdir(root):
            os.makedirs(root, exist_ok=True)
        if not HELD:
            yield None, _checked(root, names, make=make) + os.sep
            return
        at = _walked(root, names, make=make)
    try:
        yield at, ""
    finally:
        os.close(at)


def _without_links(folder: str) -> int | None:
    """Open a folder if it exists and no part of its path is a link; that takes the fewest calls of
    the system. Otherwise, and where the system does not show the path, return None."""
    at = None
    with contextlib.suppress(OSError):
        if HELD:
            at = os.open(folder, os.O_RDONLY | _FOLDER | _NO_LINK)
            if os.readlink(f"/proc/self/fd/{at}") == folder:
                return at
    if at is not None:
        os.close(at)
    return None


def _checked(root: str, names: Iterable[str], *, make: bool) -> str:
    """Return the path of a folder below another, no part of which is a link."""
    for name in names:
        root = os.path.join(root, name)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(root)
        if os.path.islink(root):
            raise _linked(root)
    return root


def _walked(root: str, names: Iterable[str], *, make: bool) -> int:
    """Open a folder below another, name by name and without following a link."""
    at = os.open(root, os.O_RDONLY | _FOLDER)
    for name in names:
        root = os.path.join(root, name)
        try:
            below = _opened(name, at, make=make)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _linked(root) from None
            raise
        finally:
            os.close(at)
        at = below
    return at


def _opened(name: str, at: int, *, make: bool) -> int:
    """Open a folder in an open one; most exist already."""
    flags = os.O_RDONLY | _FOLDER | _NO_LINK
    try:
        return os.open(name, flags, dir_fd=at)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=at)
    return os.open(name, flags, dir_fd=at)


def _linked(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path!r} is a link or a file where a folder for results is expected",
        hint="Remove it. Results are not written through links below the folder that was given",
    )


def _check_place(path: str, *names: str) -> None:
    """Refuse a file of the system by its full path, and by what that leads to."""
    for name in names:
        if not is_below(name, ORDINARY) and any(is_below(name, each) for each in _SYSTEM):
            raise ConfigurationError(f"{path!r} belongs to the system and is not a document")


def _check_kind(path: str, mode: int) -> None:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(mode):
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ConfigurationError(f"{path!r} is {kind} and not a regular file")
