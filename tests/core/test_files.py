# SPDX-License-Identifier: Apache-2.0
"""Which files are meant by inputs, in each kind of store; results are never among them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import stores
from core.conftest import config_of
from jobs import begin, download, finish, plan, submit_files
from pdfs import make_invoice
from stores import RenamingFileSystem

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import Options
from vantage_orchestration.processing.files import Folder, check_output, files_of
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location

MANIFEST = b'{"version": 1, "transactions": []}'


@pytest.fixture(params=["local", "memory", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    stores.forget()
    return {
        "local": str(tmp_path),
        "memory": "memory://bucket/in",
        "bucket": "bucket://bucket/in",
    }[request.param]


def put(root: str, *names: str, content: bytes = b"x") -> None:
    for name in names:
        Location.of(f"{root}/{name}").write(lambda stream: stream.write(content))


def found(root: str, pattern: str, **options: object) -> list[str]:
    start = Location.of(root).url.rstrip("/") + "/"
    files = files_of(f"{root}/{pattern}", **options)  # type: ignore[arg-type]
    return [file.url.removeprefix(start) for file in files]


def test_suffixes_fit_whatever_their_case(root: str) -> None:
    put(root, "a.pdf", "SCAN.PDF", "b.Pdf", "pdf", "c.pdf.txt", "C.TIF", "x/D.PDF")
    assert sorted(found(root, "*.pdf")) == ["SCAN.PDF", "a.pdf", "b.Pdf"]
    assert sorted(found(root, "**/*.pdf")) == ["SCAN.PDF", "a.pdf", "b.Pdf", "x/D.PDF"]
    assert found(root, "*.tif") == ["C.TIF"]
    # All before the suffix is taken as it is written.
    assert found(root, "scan*.pdf", on_empty="skip") == []
    assert found(root, "*.[p]df") == ["a.pdf"]


def test_a_folder_that_is_there_wins_over_its_pattern(root: str) -> None:
    put(root, "in [2026]/a.pdf", "in 2/b.pdf", "what?/c.pdf", "whats/d.pdf", "x [1].pdf", "x 1.pdf")
    assert found(root, "in [2026]/*.pdf") == ["in [2026]/a.pdf"]
    assert found(root, "in [2026]/**/*.pdf") == ["in [2026]/a.pdf"]
    assert found(root, "what?/*.pdf") == ["what?/c.pdf"]
    assert found(root, "x [1].pdf") == ["x [1].pdf"]
    # Where there is none it is a pattern, and a bare star is one in any case.
    assert found(root, "what[s]/*.pdf") == ["whats/d.pdf"]
    assert sorted(found(root, "*/*.pdf")) == [
        "in 2/b.pdf",
        "in [2026]/a.pdf",
        "what?/c.pdf",
        "whats/d.pdf",
    ]


def test_the_output_below_the_inputs_is_left_out(root: str) -> None:
    put(root, "a.pdf", "out/a.pdf/1/a.pdf", "out/extra.pdf", "outer/b.pdf")
    output = Location.of(f"{root}/out")
    assert found(root, "**/*.pdf", output=output) == ["a.pdf", "outer/b.pdf"]
    assert found(root, "*/*.pdf", output=output) == ["outer/b.pdf"]
    for inputs in (f"{root}/out/*.pdf", f"{root}/out/extra.pdf", Folder(f"{root}/out", "*.pdf")):
        with pytest.raises(ConfigurationError, match="is in the output folder"):
            files_of(inputs, output=output)
    # What is in the folder itself is an input of another job.
    with pytest.raises(ConfigurationError, match="is in the output folder"):
        files_of(f"{root}/**", output=Location.of(root))


def test_results_of_other_jobs_are_left_out(root: str) -> None:
    put(root, "a.pdf", "old/a.pdf/1/a.pdf", "notes/b.pdf", "plain/c.pdf", "foreign/d.pdf")
    put(root, "old/manifest.json", "running/submitted.json", content=MANIFEST)
    put(root, "deep/manifest.json", content=b"[" * 100_000)
    put(root, "deep/e.pdf")
    put(root, "foreign/manifest.json", content=b'{"of": "another program"}')
    put(root, "running/x.pdf", "notes/.abbyy-vantage/n.json")
    assert found(root, "**/*.pdf") == ["a.pdf", "deep/e.pdf", "foreign/d.pdf", "plain/c.pdf"]
    assert found(root, "*/*.pdf") == ["deep/e.pdf", "foreign/d.pdf", "plain/c.pdf"]
    # Who asks for the results of a job by the name of its folder gets them.
    assert found(root, "old/**/*.pdf") == ["old/a.pdf/1/a.pdf"]


def test_the_output_is_known_by_each_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(str(tmp_path), "in/a.pdf", "in/out/b.pdf", "in/out/c.pdf")
    os.symlink(tmp_path / "in", tmp_path / "link")
    os.symlink(tmp_path / "in" / "out", tmp_path / "in" / "other")
    monkeypatch.chdir(tmp_path / "in")
    for name in ("out", "../link/out", f"file://{tmp_path}/in/out", f"{tmp_path}/link/out/"):
        output = Location.of(name)
        for inputs in ("**/*.pdf", f"{tmp_path}/in/*/*.pdf", "../link/**/*.pdf", "*.pdf"):
            names = [file.name for file in files_of(inputs, on_empty="skip", output=output)]
            assert set(names) <= {"a.pdf"}, (name, inputs)
        with pytest.raises(ConfigurationError, match="is in the output folder"):
            files_of(f"{tmp_path}/in/other/*.pdf", output=output)


def test_lines_and_lists_of_paths(root: str) -> None:
    put(root, "a.pdf", "b, c.pdf")
    one, two = f"{root}/a.pdf", f"{root}/b, c.pdf"
    for inputs in (f"{one}\n{two}\n", [one, two], str([one, two]), (one, [two])):
        assert [file.name for file in files_of(inputs)] == ["a.pdf", "b, c.pdf"]
    assert files_of([]) == files_of(None) == files_of("[]") == []
    with pytest.raises(ConfigurationError, match="one per line"):
        files_of(f"{one},{two}")


def test_a_text_of_many_lines_is_longer_than_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"invoice {number}.pdf" for number in range(300)]
    put(str(tmp_path), *names)
    monkeypatch.chdir(tmp_path)
    for start in ("", f"{tmp_path}/"):
        files = files_of("\n".join(start + name for name in names))
        assert [file.name for file in files] == names
    with pytest.raises(ConfigurationError, match="There is no file"):
        files_of("x" * 300)


def test_a_local_file_has_one_path_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(str(tmp_path), "a.pdf")
    monkeypatch.chdir(tmp_path)
    starts = ("", "./", ".//", f"{tmp_path}//", f"{tmp_path}/./", f"file://{tmp_path}/no/../")
    inputs = [f"{start}{name}" for start in starts for name in ("a.pdf", "*.pdf")]
    assert [file.path for file in files_of(inputs)] == [str(tmp_path / "a.pdf")]


def test_a_pattern_leads_nowhere_up(root: str) -> None:
    put(root, "a.pdf", "x/b.pdf", "in [2026]/c.pdf")
    for inputs in ("*/../*.pdf", "x/**/../../*.pdf", "x*/../a.pdf"):
        with pytest.raises(ConfigurationError, match="leads up again"):
            files_of(f"{root}/{inputs}", on_empty="skip")
    if "://" not in root:
        assert found(root, "x/../*.pdf") == found(root, "in [2026]/../*.pdf") == ["a.pdf"]
        lines = files_of(f"{root}/*.pdf\n{root}/x/../x/*.pdf")
        assert [file.name for file in lines] == ["a.pdf", "b.pdf"]
        with pytest.raises(ConfigurationError, match="leads up again"):
            check_output(Location.of(f"{root}/*/../out"))


def test_a_pattern_that_fits_nothing(root: str) -> None:
    put(root, "a.txt")
    with pytest.raises(ConfigurationError, match="No file matches"):
        files_of(f"{root}/*.pdf")
    assert files_of(f"{root}/*.pdf", on_empty="skip") == []


@pytest.mark.parametrize("place", ["memory://out//x", "memory://out/x//y/z"])
def test_an_output_in_a_folder_without_a_name_is_refused(place):
    with pytest.raises(ConfigurationError, match="has a folder without a name"):
        check_output(Location.of(place))
    check_output(Location.of("memory://out/x/"))
    # Where folders are folders, two slashes are as good as one.
    check_output(Location(RenamingFileSystem(), "out//x"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("file", "is a file"), ("file/out", "can't be created"), ("file/a/b", "created")],
)
def test_an_output_that_can_not_be_one_is_refused_before_anything_is_sent(
    sandbox: SandboxServer, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "file").write_text("here")
    inputs = [Location.of(make_invoice(tmp_path / "a.pdf", "INV-1"))]
    output, skill = Location.of(tmp_path / name), sandbox.control.skill_id("Invoice")
    with VantageClient(config_of(sandbox)) as client:
        for attempt in (
            lambda: begin(client, inputs, output, TaskKey("t"), skill, Options(), token="t."),
            lambda: download(client, [skill], output, Options()),
        ):
            with pytest.raises(ConfigurationError, match=text) as caught:
                attempt()
            assert not caught.value.retryable
    assert sandbox.control.count("POST", "/transactions") == 0


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(Location.of(tmp_path / "a" / "b"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may write everywhere.
    with pytest.raises(ConfigurationError, match="read-only for this user"):
        check_output(Location.of(tmp_path / "a" / "b"))


def test_a_second_run_sends_no_results(sandbox: SandboxServer, tmp_path: Path) -> None:
    sandbox.control.set(processing_polls=0)
    folder, skill = tmp_path / "documents", sandbox.control.skill_id("Invoice")
    folder.mkdir()
    for number in (1, 2):
        make_invoice(folder / f"{number}.pdf", f"INV-{number}")
    with VantageClient(config_of(sandbox)) as client:
        for run in ("1", "2"):
            output = Location.of(folder / "out" / run)
            files = files_of(f"{folder}/**", output=output)
            assert [file.name for file in files] == ["1.pdf", "2.pdf"]
            begin(client, files, output, TaskKey(run), skill, Options(), token=f"{run}.")
            finish(client, output, skill, Options(), token=f"{run}.")
    assert len(sandbox.control.transactions()) == 4


def test_more_files_than_the_limit_are_not_sent(sandbox: SandboxServer, tmp_path: Path) -> None:
    files = [Location.of(make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}")) for n in (1, 2)]
    skill = sandbox.control.skill_id("Invoice")
    with VantageClient(config_of(sandbox)) as client:
        with pytest.raises(ConfigurationError, match="There are 2 files, and max_files is 1"):
            submit_files(client, files, TaskKey("t"), skill, Options.of(max_files=1))
        assert sandbox.control.transactions() == []
        assert len(submit_files(client, files, TaskKey("t"), skill, Options.of(max_files=2))) == 2


def test_files_that_differ_in_what_is_not_shown_of_them_are_all_there() -> None:
    """The query of an address may hold a secret, and a bucket's account is no part of its URL."""
    stores.forget()
    web, one, other = stores.WebFileSystem(), *map(account, ("one", "other"))
    start = "https://example.com/download"
    contents = {f"{start}?id=1": b"1", f"{start}?id=2": b"22", "bucket/a.pdf": b"333"}
    stores.BucketFileSystem.objects.update(contents)
    given = [Location(web, f"{start}?id={number}") for number in (1, 2, 1)]
    given += [Location(one, "bucket/a.pdf"), Location(other, "bucket/a.pdf")]
    assert len({each.url for each in given}) == 2
    files = files_of(given)
    assert files == [given[0], given[1], given[3], given[4]]
    units = plan(files, process_skill=False)
    assert [unit.sources[0].size for unit in units] == [1, 2, 3]
    assert len(units[2].sources[0].duplicates) == 1
    stores.forget()


def account(name: str) -> stores.BucketFileSystem:
    return stores.BucketFileSystem(account=name)
