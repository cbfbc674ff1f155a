# SPDX-License-Identifier: Apache-2.0
"""Files in local folders, in memory, and in stores that behave as remote ones do."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stores
from foreign import foreign
from stores import BucketFileSystem, RenamingFileSystem, WebFileSystem

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.storage import Location, is_part
from vantage_orchestration.tables.columns import Rows, columns_of


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


@pytest.fixture(params=["local", "memory", "bucket", "renaming"])
def folder(request, tmp_path) -> Location:
    """An empty folder in each kind of store."""
    return Location.of(tmp_path / "in" if request.param == "local" else f"{request.param}://in/x")


def everything(folder: Location) -> list[str]:
    return sorted(folder.sizes())


def write(location: Location, data: bytes = b"old") -> Location:
    location.write(lambda stream: stream.write(data))
    return location


# ------------------------------------------------------------------ content


def test_what_was_written_is_read(folder):
    data = os.urandom(10_000)  # More than one block.
    file = folder.child("a", "b.bin")
    assert (file.exists(), folder.exists(), folder.sizes()) == (False, False, {})
    assert file.write(lambda stream: stream.write(data)) == len(data)
    assert file.read_bytes() == data
    with file.open() as stream:
        assert (stream.read(3), stream.read()) == (data[:3], data[3:])
    assert (file.exists(), file.is_dir(), file.size(), file.name) == (True, False, 10_000, "b.bin")
    assert (file.parent.is_dir(), file.parent.name, file.parent.parent) == (True, "a", folder)
    file.write_text("Grüße\n")
    assert file.read_text() == "Grüße\n"
    assert folder.sizes() == {"a/b.bin": 8}
    file.remove()
    file.remove()
    assert not file.exists()
    assert folder.sizes() == {}
    with pytest.raises(FileNotFoundError):
        file.open().close()
    with pytest.raises(FileNotFoundError):
        file.size()


def test_until_it_is_complete_what_was_there_stays(folder):
    file = write(folder.child("a.txt"))

    def fill(stream):
        stream.write(b"new" * 3000)
        stream.flush()
        return file.read_bytes(), [entry.name for entry in folder.files("*")]

    assert file.write(fill) == (b"old", ["a.txt"])
    assert file.read_bytes() == b"new" * 3000
    assert everything(folder) == ["a.txt"]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_nothing_behind(folder, old, error):
    file = folder.child("a.txt")
    if old:
        write(file, old)

    def fill(stream):
        stream.write(b"new" * 3000)
        raise error("failed on the way")

    with pytest.raises(error, match="on the way"):
        file.write(fill)
    assert everything(folder) == (["a.txt"] if old else [])
    assert not old or file.read_bytes() == old


def test_a_local_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replace(source, target, **folders):
        done.append(target)
        rename(source, target, **folders)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = str(tmp_path / "a.txt")
    write(Location.of(path))
    assert done == [os.stat(path).st_ino, "a.txt", os.stat(tmp_path).st_ino]


@pytest.mark.parametrize("operation", ["write", "copy"])
def test_trouble_of_a_store_leaves_nothing_behind(operation):
    file = write(Location.of("bucket://in/x/a.txt"))
    BucketFileSystem.failing[operation] = OSError(f"no {operation} now")
    with pytest.raises(OSError, match=f"no {operation} now"):
        write(file, b"new" * 3000)
    assert BucketFileSystem.objects == {"in/x/a.txt": b"old"}


def test_a_stream_can_begin_again_in_every_store(folder):
    def fill(stream):
        stream.write(b"x" * 9000)
        assert stream.tell() == 9000
        stream.seek(0)
        stream.truncate()
        stream.write(b"again")
        stream.seek(0)
        return stream.read()

    file = folder.child("a.txt")
    assert file.write(fill) == b"again"
    assert file.read_bytes() == b"again"


def test_large_files_do_not_pass_through_memory(monkeypatch):
    monkeypatch.setattr("vantage_orchestration.storage._SPOOLED", 1000)
    spooled = []

    def fill(stream):
        stream.write(b"x" * 1001)
        spooled.append(foreign(stream, "_rolled"))

    Location.of("bucket://in/a").write(fill)
    assert spooled == [True]
    assert BucketFileSystem.objects == {"in/a": b"x" * 1001}


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process become longer than 1000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_a_full_disk_names_what_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("vantage_orchestration.storage._SPOOLED", 1000)
    long = Rows("long", columns_of(text="text"), tmp_path)
    long.pending = [["x" * 100_000]]
    writes = {
        "local": (lambda: write(Location.of(tmp_path / "a" / "b.bin"), bytes(100_000)), "a/b.bin"),
        "spool": (lambda: write(Location.of("bucket://in/x"), bytes(9999)), ""),
        "table": (lambda: long.settle(now=True), ".arrow"),
    }
    for name, (call, place) in writes.items():
        with full_disk(), pytest.raises(OSError, match="File too large") as caught:
            call()
        assert str(caught.value.filename).startswith(str(tmp_path)), name
        assert place in str(caught.value.filename), name


def test_small_files_go_to_remote_stores_without_a_temporary_folder(monkeypatch):
    """A container may have a read-only file system."""

    def refuse():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    assert write(Location.of("bucket://in/x"), b"x").read_bytes() == b"x"


def test_an_error_within_an_open_folder_names_the_whole_path(tmp_path, monkeypatch):
    """Files are opened by their name in a folder that is held open."""

    def refuse(name, *args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files", name)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="many open files") as caught:
        write(Location.of(tmp_path / "b.bin"))
    assert caught.value.filename == str(tmp_path / "b.bin")


@pytest.mark.parametrize("silent", [False, True])
def test_stores_that_rename_over_nothing(monkeypatch, silent):
    monkeypatch.setattr(RenamingFileSystem, "silent", silent)
    file = write(write(Location.of("renaming://in/a.txt")), b"new")
    assert RenamingFileSystem.objects == {"in/a.txt": b"new"}
    assert file.read_bytes() == b"new"


def test_names_are_no_patterns(folder):
    inner = folder.child("in [2026] *", "a?")
    names = ["x[1].txt", "x1.txt", "x*.txt", "~.txt", "#1 %41.txt"]
    for name in names:
        write(inner.child(name), name.encode())
    for name in names:
        write(inner.child(name), f"{name} again".encode())
        assert inner.child(name).read_text() == f"{name} again"
    assert [file.name for file in inner.files("x*")] == sorted(names[:3])
    inner.child("x*.txt").remove()
    assert sorted(inner.sizes()) == sorted(set(names) - {"x*.txt"})


def test_long_names_have_room_for_their_part(tmp_path):
    name = "ü" * 125 + ".json"  # As long as file systems allow: 255 bytes.
    assert len(name.encode()) == 255
    assert write(Location.of(tmp_path / name)).read_bytes() == b"old"


def test_files_get_the_usual_mode(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(Location.of(tmp_path / "file"))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")}
    assert len(modes) == 1


def test_readers_of_the_memory_store_do_not_share_a_position():
    file = write(Location.of("memory://in/a"), b"abc")
    first, second = file.open(), file.open()
    assert (first.read(1), second.read(), first.read()) == (b"a", b"abc", b"bc")


def test_a_lone_surrogate_is_written_as_json_reads_it(tmp_path):
    file = Location.of(tmp_path / "a")
    file.write_text('"\ud83d"')
    assert file.read_bytes() == b'"\\ud83d"'


# ----------------------------------------------------------- parts and kill


KILLED = """
import os, signal, sys
from vantage_orchestration.storage import Location

def fill(stream):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

Location.of(sys.argv[1]).write(fill)
"""


def test_a_killed_write_leaves_a_part_and_no_file(tmp_path):
    target = tmp_path / "a.txt"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], timeout=60, check=False)
    assert done.returncode == -9
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == b"half"
    assert is_part(part.name)
    for name in (".a.txt.part", "a.0123456789abcdef.part", ".a.0123456789abcdeg.part", ".a.part"):
        assert not is_part(name)


def test_empty_folders_can_go(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    Location.of(tmp_path / "a").remove_if_empty()
    assert (tmp_path / "a" / "b").is_dir()
    Location.of(tmp_path / "a" / "b").remove_if_empty()
    assert list((tmp_path / "a").iterdir()) == []


# ------------------------------------------------------------ what is there


TREE = [
    "b.pdf",
    "a.pdf",
    "A.PDF",
    "c.txt",
    ".hidden.pdf",
    ".a.pdf.0123456789abcdef.part",
    "one/a.pdf",
    "one/two/a.pdf",
    "one/two/b1.pdf",
    ".dot/a.pdf",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["A.PDF", "a.pdf", "b.pdf", "c.txt"]),
        ("*.pdf", ["A.PDF", "a.pdf", "b.pdf"]),
        ("[ab].pdf", ["a.pdf", "b.pdf"]),
        ("a.pdf", ["a.pdf"]),
        ("none.pdf", []),
        ("a.pdf/x", []),
        ("*/*.pdf", ["one/a.pdf"]),
        ("one/two/b?.pdf", ["one/two/b1.pdf"]),
        ("one/**", ["one/a.pdf", "one/two/a.pdf", "one/two/b1.pdf"]),
        ("**/a.pdf", ["a.pdf", "one/a.pdf", "one/two/a.pdf"]),
        ("**/two/**/*.pdf", ["one/two/a.pdf", "one/two/b1.pdf"]),
        (".*.pdf", [".hidden.pdf"]),
        (".dot/*", [".dot/a.pdf"]),
        ("*.part", []),
    ],
)
def test_patterns(folder, pattern, expected):
    for path in TREE:
        write(folder.child(path))
    found = [file.path[len(folder.path) + 1 :] for file in folder.files(pattern)]
    assert found == expected
    assert Location(folder.fs, folder.path + "/none").files(pattern) == []


class Prefixes(BucketFileSystem):
    """Lists keys of all depths at once. Lists what has no name as the folder itself, as S3 does."""

    protocol = "s3"

    def find(self, path, **kwargs):
        self.trouble("find", path)
        start = f"{path.rstrip('/')}/"
        found = {each: {"size": 1} for each in self.objects if each.startswith(start)}
        return found if kwargs.get("detail") else list(found)


@pytest.mark.parametrize("pattern", ["**", "**/a.pdf", "**/two/**/*.pdf", "one/**", "o*/**/[ab]*"])
def test_an_object_store_lists_once_what_fits_at_any_depth(monkeypatch, pattern):
    """By folders it would take a request for each."""
    of_folders = Location.of("bucket://in/x")
    for path in [*TREE, *(f"one/{number}/a.pdf" for number in range(5)), "[a]/two/a.pdf"]:
        BucketFileSystem.objects[f"in/x/{path}"] = b"a"
    expected = [file.path for file in of_folders.files(pattern)]
    asked: list[str] = []
    monkeypatch.setattr(Prefixes, "trouble", lambda self, what, path: asked.append(what))
    folder = Location(Prefixes(), "in/x")
    found = folder.files(pattern)
    assert [file.path for file in found] == expected
    assert expected
    assert {file.root for file in found} == {folder.path}
    assert asked == ["find"]


@pytest.mark.parametrize("key", ["x//a.pdf", "x/one//two/a.pdf", "x/one/two//.//A.PDF"])
def test_a_key_that_a_pattern_can_not_find_is_named(key):
    folder = Location(Prefixes(), "in/x")
    for path in (f"in/{key}", "in/x/b.pdf", "in/x/other/c.pdf"):
        BucketFileSystem.objects[path] = b"a"
    for pattern in ("**/*.pdf", "**", "*/**/*.pdf") if "one" in key else ("**/*.pdf", "**"):
        with pytest.raises(ConfigurationError, match="can't find s3://in/x") as caught:
            folder.files(pattern)
        assert key in str(caught.value)
    assert [file.name for file in folder.files("other/**")] == ["c.pdf"]
    assert [file.name for file in folder.files("**/?.tif")] == []
    assert Location.of(folder).files("*.pdf")[-1].name == "b.pdf"


def test_folders_may_be_nested_more_deeply_than_pythons_stack(tmp_path):
    """Others may have made them in a folder of inputs."""
    deep, depth = "a/" * 1200, 1200
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=handle)
        above, handle = handle, os.open("a", os.O_RDONLY, dir_fd=handle)
        os.close(above)
    os.close(os.open("x.pdf", os.O_CREAT, dir_fd=handle))
    BucketFileSystem.objects[f"in/x/{deep}x.pdf"] = b"a"
    try:
        for folder in (
            Location.of(tmp_path),
            Location.of("bucket://in/x"),
            Location(Prefixes(), "in/x"),
        ):
            (found,) = folder.files("**/*.pdf")
            assert found.path == f"{folder.path}/{deep}x.pdf"
            assert folder.files("**/b/**") == []
            assert list(folder.sizes()) == [f"{deep}x.pdf"]
    finally:  # pytest removes folders by recursion.
        os.unlink("x.pdf", dir_fd=handle)
        for _ in range(depth):
            above = os.open("..", os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = above
            os.rmdir("a", dir_fd=handle)
        os.close(handle)


def test_patterns_that_lead_elsewhere_are_refused(folder):
    for pattern in ("", "/", "/etc/*", "../*", "a/../../*"):
        with pytest.raises(ConfigurationError, match="pattern"):
            folder.files(pattern)


def test_links_count_as_what_they_lead_to(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "a.pdf").write_bytes(b"a")
    (real / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(real)
    (tmp_path / "file.pdf").symlink_to(real / "a.pdf")
    (tmp_path / "gone.pdf").symlink_to(real / "none")
    os.mkfifo(tmp_path / "pipe.pdf")
    folder = Location.of(tmp_path)
    assert [file.name for file in folder.files("*.pdf")] == ["file.pdf"]
    assert len(folder.files("*/a.pdf")) == 2
    assert len(folder.files("**/a.pdf")) == 1


def test_a_store_that_can_not_be_asked_is_not_an_empty_one():
    file = write(Location.of("bucket://in/x/a.txt"))
    BucketFileSystem.failing["info"] = PermissionError("not now")
    for ask in (file.exists, file.is_dir, file.size, file.info):
        with pytest.raises(PermissionError):
            ask()
    BucketFileSystem.failing["ls"] = PermissionError("not now")
    for pattern in ("*", "**", "*/a"):
        with pytest.raises(PermissionError):
            file.parent.files(pattern)
    # The folder is there, so it was one of its files that went away while it was listed.
    BucketFileSystem.failing.clear()
    BucketFileSystem.failing["ls"] = FileNotFoundError("gone meanwhile")
    with pytest.raises(OSError, match="changes while it is listed") as caught:
        file.parent.files("*")
    assert not isinstance(caught.value, FileNotFoundError), "it would count as an empty folder"
    BucketFileSystem.failing.clear()
    stores.fail_once(0, FileNotFoundError("gone meanwhile"))
    assert file.parent.files("*") == [file]
    assert file.parent.parent.child("none").files("*") == []


def test_what_others_have_changed_is_seen(folder):
    file = write(folder.child("a"))
    if isinstance(folder.fs, BucketFileSystem):
        assert folder.fs.ls(folder.path)
        folder.fs.objects[f"{folder.path}/b"] = b"by another process"
        del folder.fs.objects[f"{folder.path}/a"]
        assert [each["name"] for each in folder.fs.ls(folder.path)] == [file.path], "it is cached"
    else:
        write(folder.child("b"), b"by another process")
        file.remove()
    assert (file.exists(), folder.child("b").size()) == (False, 18)
    assert everything(folder) == ["b"]
    assert [each.name for each in folder.files()] == ["b"]


def test_a_file_is_no_folder(folder):
    file = write(folder.child("a"))
    assert file.files("*") == []
    assert file.sizes() == {}
    assert not file.child("b").exists()


# ------------------------------------------------------------------- names


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "a b.txt")
    for place in (path, tmp_path / "a b.txt", "a b.txt", Path("a b.txt"), f"file://{path}"):
        location = Location.of(place)
        assert (location.path, location.url, str(location)) == (path, path, path)
        assert Location.of(location) is location
        assert location.concurrent
    assert Location.of(f"/{path}") == Location.of(path)
    for url in ("bucket://in/x/a.txt", "memory:///in/a.txt", "renaming://in/a", "bucket://in/a::b"):
        assert Location.of(url).url == url
        assert Location.of(Location.of(url).url) == Location.of(url)
    assert Location.of("memory://in/a.txt").path == "/in/a.txt"
    assert Location.of("memory://in").concurrent
    assert not Location.of("bucket://in").concurrent
    assert repr(Location.of("bucket://in/a")) == "Location('bucket://in/a')"


def test_colons_in_a_name_do_not_lead_to_another_file(tmp_path, monkeypatch):
    (tmp_path / "Scan 10").write_bytes(b"another")
    path = str(tmp_path / "Scan 10::15.pdf")
    Path(path).write_bytes(b"this")
    monkeypatch.chdir(tmp_path)
    for place in (path, Path(path), f"file://{path}", "Scan 10::15.pdf"):
        assert Location.of(place).path == path
        assert Location.of(place).read_bytes() == b"this"
    chain = Location.of(f"simplecache::file://{path.partition('::')[0]}")
    assert chain.read_bytes() == b"another"


def test_path_objects_keep_their_store(tmp_path):
    class Placed:
        def __init__(self, fs, path):
            self.fs, self.path = fs, path

    fs = BucketFileSystem(skip_instance_cache=True)
    location = Location.of(Placed(fs, "in/a.txt/"))
    assert location.fs is fs
    assert location.path == "in/a.txt"
    upath = pytest.importorskip("upath").UPath
    assert Location.of(upath(tmp_path) / "a").url == str(tmp_path / "a")
    assert Location.of(upath("memory://in/a")) == Location.of("memory://in/a")


def test_options_go_to_the_store():
    made = Location.of("bucket://in/a", use_listings_cache=False)
    assert made.fs.storage_options == {"use_listings_cache": False}


def test_places_that_can_not_be_opened_are_refused_without_their_secrets():
    for place in (
        *("", " ", 7, None),
        "nosuch://user:made-up-secret@host/x",
        "simplecache::nosuch://user:made-up-secret@host/x",
        "nosuch::https://user:made-up-secret@host/x?sig=made-up-secret",
    ):
        with pytest.raises(ConfigurationError) as caught:
            Location.of(place)
        assert "made-up-secret" not in str(caught.value)
    assert "nosuch" in str(caught.value)


def test_web_addresses_show_no_secret():
    address = "https://user:made-up-secret@example.com/in/a%20b.pdf?sig=made-up-secret#x"
    location = Location(WebFileSystem(), address)
    assert location.url == "https://example.com/in/a%20b.pdf"
    assert location.name == "a b.pdf"
    assert "made-up-secret" not in repr(location)
    assert location.path == address, "it can still be opened"


def test_the_host_of_a_store_is_part_of_its_url(monkeypatch):
    location = Location.of("memory://in/a")
    monkeypatch.setattr(location.fs, "host", "files.example.com", raising=False)
    assert location.url == "memory://files.example.com/in/a"
    monkeypatch.setattr(location.fs, "port", 2222, raising=False)
    assert location.url == "memory://files.example.com:2222/in/a"


def test_children_stay_below(folder):
    assert folder.child("a", "b/c").path == f"{folder.path}/a/b/c"
    for parts in ([], [""], ["/etc"], ["a//b"], [".."], ["a", "../.."], ["."], ["a\0b"], ["a/"]):
        with pytest.raises(ConfigurationError, match="relative path"):
            folder.child(*parts)
    assert Location.of("/").child("a").path == "/a"
    assert Location.of("memory://").child("a").path == "/a"


def test_files_in_an_archive_can_be_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.txt", "from the archive")
    location = Location.of(f"zip://in::{tmp_path / 'a.zip'}")
    (file,) = location.files("*.txt")
    assert (file.name, file.size(), file.read_text()) == ("a.txt", 16, "from the archive")
    assert not file.concurrent
    assert isinstance(file.open(), io.IOBase)


def test_a_folder_that_cannot_be_listed_is_not_empty():
    folder = Location.of("bucket://out")
    folder.child("1/a.json").write_text("a")
    assert folder.sizes() == {"1/a.json": 1}
    # The second listing is that of the folder below.
    for after in (0, 1):
        stores.fail_once(after)
        with pytest.raises(TimeoutError):
            folder.sizes()
    assert Location.of("bucket://nothing").sizes() == {}
