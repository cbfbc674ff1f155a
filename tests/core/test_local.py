# SPDX-License-Identifier: Apache-2.0
"""Pipes, devices and links where documents and results are expected."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import begin, finish, plan
from pdfs import make_invoice

from vantage_orchestration import local
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import Options
from vantage_orchestration.processing.files import Folder, files_of
from vantage_orchestration.processing.inputs import PlannedFile, Refused, inspect_inputs
from vantage_orchestration.processing.job import job_token
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.storage import Location
from vantage_orchestration.upload import SourceFile

SECRET = b"what nobody outside may see"


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    """A folder into which others may put files."""
    folder = tmp_path / "drop"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(b"a document")
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the ones that may be read."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret.pdf").write_bytes(SECRET)
    return folder


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


# ------------------------------------------------------------------ reading


def readers() -> dict[str, Callable[[str], object]]:
    """Return every way in which the package reads a file that a user has named."""
    return {
        "open": lambda path: Location.of(path).open().close(),
        "send": SourceFile.of,
        "plan": lambda path: plan(files_of(path), process_skill=False),
        "plan without a search": lambda path: plan([path], process_skill=True),
    }


@pytest.mark.parametrize("reader", readers())
def test_what_is_no_document_is_refused_at_once(
    tmp_path: Path, drop: Path, bound: socket.socket, reader: str
) -> None:
    os.mkfifo(drop / "pipe.pdf")
    bound.bind(str(drop / "socket.pdf"))
    (drop / "folder.pdf").mkdir()
    for name, target in (("zero", "/dev/zero"), ("linked", drop / "pipe.pdf")):
        (drop / f"{name}.pdf").symlink_to(target)
    (drop / "environ.pdf").symlink_to("/proc/self/environ")
    paths = [str(drop / f"{name}.pdf") for name in ("pipe", "socket", "folder", "zero", "linked")]
    paths += [str(drop / "environ.pdf"), "/proc/self/environ", "/proc/self/maps", "/proc/kmsg"]
    paths += ["/sys/kernel/mm/transparent_hugepage/enabled", "/dev/zero", "/dev/tty", "/dev/null"]
    paths += ["/dev/stdin", "/dev/fd/0"]
    for path in filter(os.path.exists, paths):
        with pytest.raises(ConfigurationError):
            readers()[reader](path)


def test_ordinary_files_are_read_wherever_they_are(drop: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(drop)
    for path in (drop / "a.pdf", tmp_path / "way" / "a.pdf"):
        for read in readers().values():
            read(str(path))
    if os.access(local.ORDINARY, os.W_OK):
        shared = Path(local.ORDINARY, f"vantage-{os.getpid()}.pdf")
        shared.write_bytes(b"x")
        try:
            assert Location.of(shared).read_bytes() == b"x"
        finally:
            shared.unlink()


def test_a_pipe_that_takes_the_place_of_a_document_does_not_block(
    drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is swapped after it was looked at, and before it is opened."""
    path = drop / "a.pdf"
    opened = os.open

    def swapped(name: str, *args: int, **options: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, *args, **options)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ConfigurationError, match="named pipe"):
        local.open_regular(str(path))


def test_no_link_leads_out_of_a_drop_folder(drop: Path, elsewhere: Path) -> None:
    (drop / "b.pdf").symlink_to(elsewhere / "secret.pdf")
    (drop / "c.pdf").symlink_to("../elsewhere/secret.pdf")
    (drop / "sub").symlink_to(elsewhere)
    (drop / "inside.pdf").symlink_to("a.pdf")
    inputs = [
        str(drop / "*.pdf"),
        str(drop / "**" / "*.pdf"),
        str(drop / "b.pdf"),
        [str(drop / "inside.pdf"), str(drop / "c.pdf")],
        Folder(str(drop), "*.pdf"),
        Folder(str(drop), "*/secret.pdf"),
        str(drop / "*" / "*.pdf"),
    ]
    for each in inputs:
        with pytest.raises(ConfigurationError, match="a link that leads out of its folder"):
            plan(files_of(each), process_skill=True)
    # All of them are named, and the content of none was read.
    with pytest.raises(ConfigurationError) as caught:
        plan(files_of(str(drop / "*.pdf")), process_skill=True)
    assert "b.pdf" in str(caught.value)
    assert "c.pdf" in str(caught.value)
    for name in ("b.pdf", "c.pdf"):
        with pytest.raises(ConfigurationError, match="leads out"):
            SourceFile.of(drop / name).open()
    # What a link leads to in the folder itself is a document as any other.
    (unit,) = plan(files_of(str(drop / "inside.pdf")), process_skill=True)
    assert unit.sources[0].size == len(b"a document")


def test_a_folder_that_is_a_link_is_the_choice_of_who_names_it(
    tmp_path: Path, drop: Path, elsewhere: Path
) -> None:
    (tmp_path / "way").symlink_to(elsewhere)
    (drop / "sub").symlink_to(elsewhere)
    for place in ("way", "drop/sub"):
        for inputs in (str(tmp_path / place / "*.pdf"), str(tmp_path / place / "secret.pdf")):
            (file,) = files_of(inputs)
            assert file.read_bytes() == SECRET


def test_links_in_circles_end(drop: Path) -> None:
    (drop / "round").symlink_to(drop)
    (drop / "deep").mkdir()
    (drop / "deep" / "up").symlink_to("..")
    (drop / "self.pdf").symlink_to("self.pdf")
    for pattern in ("**/*.pdf", "**/**/*.pdf", "*/*/*.pdf", "**"):
        found = files_of(str(drop / pattern))
        assert {file.name for file in found} == {"a.pdf"}
        assert all(isinstance(each, PlannedFile) for each in inspect_inputs(found))


def test_a_link_that_is_changed_while_it_is_followed(
    drop: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts where the file is that was opened, and not where the link leads before or after."""
    path = drop / "b.pdf"
    path.symlink_to("a.pdf")
    opened = os.open

    def swapped(name: str, *args: int, **options: int) -> int:
        if str(name).endswith("b.pdf"):
            path.unlink()
            path.symlink_to(elsewhere / "secret.pdf")
            handle = opened(name, *args, **options)
            path.unlink()
            path.symlink_to("a.pdf")
            return handle
        return opened(name, *args, **options)

    for readlink in (os.readlink, None):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", swapped)
            if readlink is None:  # As on systems without /proc.
                patch.setattr(local.os, "readlink", _no_proc(os.readlink))
            with pytest.raises(ConfigurationError, match="leads out"):
                local.open_regular(str(path))
    assert local.open_regular(str(path)).read() == b"a document"


def _no_proc(readlink: Callable[..., str]) -> Callable[..., str]:
    def without(path: str, **options: int) -> str:
        if str(path).startswith("/proc/self/fd"):
            raise FileNotFoundError(path)
        return readlink(path, **options)

    return without


def test_empty_files_are_not_opened(drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (drop / "empty.pdf").touch()
    monkeypatch.setattr(Location, "open", lambda self: pytest.fail("it was opened"))
    (seen,) = inspect_inputs([Location.of(drop / "empty.pdf")])
    assert isinstance(seen, Refused)


# ------------------------------------------------------------------ writing


def fill(stream) -> None:
    stream.write(b"new")


@pytest.fixture(params=[True, False], ids=["held", "by path"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Also where the system can't hold folders open."""
    if request.param and not local.HELD:
        pytest.skip("folders can't be held open here")
    monkeypatch.setattr(local, "HELD", request.param)
    return request.param


@pytest.mark.usefixtures("held")
def test_nothing_is_written_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "file.json").symlink_to(elsewhere / "secret.pdf")
    (out / "new.json").symlink_to(elsewhere / "planted.json")
    (out / "1").symlink_to(elsewhere)
    (out / "deep" / "2").symlink_to(elsewhere)
    (out / "3").write_bytes(b"a file")
    folder = Location.of(out)
    for name in ("file.json", "new.json"):
        folder.child(name).write(fill)
        assert not (out / name).is_symlink()
        assert (out / name).read_bytes() == b"new"
    for path in ("1/x.json", "1/more/x.json", "deep/2/x.json", "deep/2/3/x.json", "3/x.json"):
        with pytest.raises((ConfigurationError, NotADirectoryError)):
            folder.child(path).write(fill)
        with pytest.raises((ConfigurationError, NotADirectoryError)):
            folder.child(*path.split("/")).write_text("new")
    for path in ("1/secret.pdf", "deep/2/secret.pdf"):
        with pytest.raises(ConfigurationError, match="a link or a file"):
            folder.child(path).remove()
        folder.child(path).remove_if_empty()
        with pytest.raises(ConfigurationError, match="leads out"):
            folder.child(path).read_bytes()
    assert folder.child("1").sizes() == {}
    assert set(folder.sizes()) == {"3", "file.json", "new.json"}
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {"secret.pdf": SECRET}
    folder.child("1").remove()
    folder.child("1", "x.json").write(fill)
    assert (out / "1" / "x.json").read_bytes() == b"new"
    assert [path.name for path in elsewhere.iterdir()] == ["secret.pdf"]


@pytest.mark.usefixtures("held")
def test_an_output_folder_may_be_a_link_itself(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "out").symlink_to(elsewhere)
    folder = Location.of(tmp_path / "out")
    folder.child("a", "b.json").write(fill)
    assert (elsewhere / "a" / "b.json").read_bytes() == b"new"
    folder.child("a", "b.json").remove()
    folder.child("a", "b.json").remove()
    folder.child("a").remove_if_empty()
    folder.child("none", "b.json").remove()
    assert [path.name for path in elsewhere.iterdir()] == ["secret.pdf"]


def test_a_name_that_was_planted_for_a_part_is_not_written_through(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".known.part").symlink_to(elsewhere / "secret.pdf")
    monkeypatch.setattr(local, "part_of", lambda name: ".known.part")
    with pytest.raises(FileExistsError):
        Location.of(out).child("a.json").write(fill)
    assert (elsewhere / "secret.pdf").read_bytes() == SECRET
    assert (out / ".known.part").is_symlink()


def test_a_folder_that_is_swapped_while_results_are_written(
    tmp_path: Path, elsewhere: Path
) -> None:
    out = tmp_path / "out"

    def swap(stream) -> None:
        stream.write(b"new")
        (out / "1").rename(out / "old")
        (out / "1").symlink_to(elsewhere)

    Location.of(out).child("1", "x.json").write(swap)
    assert [path.name for path in elsewhere.iterdir()] == ["secret.pdf"]
    assert (out / "old" / "x.json").read_bytes() == b"new"


# ----------------------------------------------------------------- together


def test_a_job_neither_reads_nor_writes_through_planted_links(
    client, sandbox, tmp_path: Path, elsewhere: Path
) -> None:
    sandbox.control.set(processing_polls=0)
    invoice = make_invoice(tmp_path / "a.pdf", "INV-1")
    settings = (sandbox.control.skill_id("Invoice"), Options())
    out, token = tmp_path / "out", job_token("task", "-1")
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    (out / "sub").mkdir(parents=True)
    for name in ("manifest.json", "submitted.json"):
        (out / name).symlink_to(elsewhere / name)
        (out / "sub" / name).symlink_to(elsewhere / "secret.pdf")
    files, output = [Location.of(invoice)], Location.of(out)

    def run() -> Manifest:
        begin(client, files, output, TaskKey("task"), *settings, token=token, origin="o")
        return finish(client, output, *settings, token=token)

    (entry,) = run().transactions
    assert not (out / "manifest.json").is_symlink()
    # The folders of the transaction, and of its first document.
    for planted in (out / entry.folder, out / entry.folder / "1"):
        kept = planted.with_name("kept")
        planted.rename(kept)
        planted.symlink_to(elsewhere)
        with pytest.raises(ConfigurationError, match="is a link"):
            run()
        planted.unlink()
        kept.rename(planted)
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_downloads_are_not_written_through_links(
    client, sandbox, tmp_path: Path, elsewhere: Path
) -> None:
    sandbox.control.set(processing_polls=0)
    skill = sandbox.control.skill_id("Invoice")
    invoice = make_invoice(tmp_path / "a.pdf", "INV-1")
    done = client.get_transaction(client.launch_transaction(skill, [invoice]))
    file = done.documents[0].result_files[0]
    target = tmp_path / "out.json"
    target.symlink_to(elsewhere / "secret.pdf")
    size = client.download_result(done.id, file.id, target)
    assert not target.is_symlink()
    assert target.stat().st_size == size
    assert (elsewhere / "secret.pdf").read_bytes() == SECRET
