# SPDX-License-Identifier: Apache-2.0
"""Stores for tests that behave as remote ones do, where a local folder and memory do not."""

from __future__ import annotations

from typing import ClassVar

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


class BucketFile(AbstractBufferedFile):
    """A write stream that can't seek. Closing it makes the object, also after an error."""

    def _initiate_upload(self) -> None:
        self.sent = bytearray()

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.trouble("write", self.path)
        self.sent += self.buffer.getvalue()
        if final:
            self.fs.objects[self.path] = bytes(self.sent)
            self.fs.dircache.clear()
        return True

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs.trouble("read", self.path)
        return self.fs.objects[self.path][start:end]


class BucketFileSystem(AbstractFileSystem):
    """An object store: no folders, no rename, cached listings, and trouble on demand.

    Attributes:
        objects: All objects, for all instances; a test may change them behind the store's back.
        failing: Operation to exception: ``write``, ``read``, ``info``, ``ls`` or ``copy`` that
            fails.
        reads_left: How many times the store is asked before it fails once, and how; see
            :func:`fail_once`.
    """

    protocol = "bucket"
    objects: ClassVar[dict[str, bytes]] = {}
    failing: ClassVar[dict[str, Exception]] = {}
    reads_left: ClassVar[list[tuple[int, Exception]]] = []
    blocksize = 1024

    def trouble(self, operation: str, path: str) -> None:
        if operation in self.failing:
            raise self.failing[operation]
        if self.reads_left and operation in ("info", "ls", "read"):
            left, error = self.reads_left.pop()
            if not left:
                raise error
            self.reads_left.append((left - 1, error))

    def _listed(self, path: str) -> list[dict[str, object]]:
        start = f"{path}/" if path else ""
        if start not in self.dircache:
            found: dict[str, dict[str, object]] = {}
            for name, data in self.objects.items():
                if not name.startswith(start):
                    continue
                head, slash, _ = name[len(start) :].partition("/")
                kind, size = ("directory", 0) if slash else ("file", len(data))
                found[start + head] = {"name": start + head, "size": size, "type": kind}
            self.dircache[start] = list(found.values())
        return self.dircache[start]

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        self.trouble("ls", path)
        listed = self._listed(path) or [each for each in [self.info(path)] if each]
        return listed if detail else [each["name"] for each in listed]

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        self.trouble("info", path)
        for each in self._listed(self._parent(path)):
            if each["name"] == path:
                return each
        raise FileNotFoundError(path)

    def invalidate_cache(self, path=None):
        self.dircache.clear()

    def _open(self, path, mode="rb", block_size=None, **kwargs):
        return BucketFile(self, path, mode, block_size=self.blocksize, cache_type="none")

    def cp_file(self, path1, path2, **kwargs):
        self.trouble("copy", path1)
        self.objects[self._strip_protocol(path2)] = self.objects[self._strip_protocol(path1)]
        self.dircache.clear()

    def _rm(self, path):
        if self.objects.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)
        self.dircache.clear()


class RenamingFileSystem(BucketFileSystem):
    """A store that renames, but over nothing that is there; ``silent`` ones don't even say so."""

    protocol = "renaming"
    silent = False
    folders: ClassVar[set[str]] = set()

    def makedirs(self, path, exist_ok=False):
        self.folders.add(self._strip_protocol(path))

    def _open(self, path, mode="rb", **kwargs):
        if mode == "wb" and self._parent(path) not in self.folders:
            raise FileNotFoundError(path)
        return super()._open(path, mode, **kwargs)

    def mv(self, path1, path2, **kwargs):
        if path2 not in self.objects:
            self.objects[path2] = self.objects.pop(path1)
            self.dircache.clear()
        elif not self.silent:
            raise FileExistsError(path2)

    def cp_file(self, path1, path2, **kwargs):
        raise NotImplementedError


class WebFileSystem(BucketFileSystem):
    """A store whose paths are whole web addresses."""

    protocol = ("http", "https")

    @classmethod
    def _strip_protocol(cls, path):
        return path


for store in (BucketFileSystem, RenamingFileSystem):
    fsspec.register_implementation(store.protocol, store, clobber=True)


def fail_once(after: int, error: Exception | None = None) -> None:
    """Let the buckets fail once, after they were asked so many times."""
    error = error or TimeoutError("the store did not answer")
    BucketFileSystem.reads_left[:] = [(after, error)]


def failed() -> bool:
    """Return whether that has happened, and end it."""
    happened = not BucketFileSystem.reads_left
    BucketFileSystem.reads_left.clear()
    return happened


def forget() -> None:
    """Empty all these stores and end their trouble."""
    for each in (BucketFileSystem, RenamingFileSystem):
        each.objects.clear()
        each.failing.clear()
        each.clear_instance_cache()
        each.reads_left.clear()
    RenamingFileSystem.folders.clear()
    fsspec.filesystem("memory").store.clear()


def forget_trouble() -> None:
    """End the trouble of all these stores."""
    for each in (BucketFileSystem, RenamingFileSystem):
        each.failing.clear()
