# SPDX-License-Identifier: Apache-2.0
"""Documents of each class in their own folder, and all else where a later try looks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stores
from jobs import begin, download, finish, until_ended
from pdfs import make_invoice, make_pdf

from vantage_orchestration import storage
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import Options
from vantage_orchestration.processing.files import files_of
from vantage_orchestration.processing.keys import TaskKey
from vantage_orchestration.processing.ledger import FOLDER
from vantage_orchestration.processing.manifest import DocumentEntry, Manifest
from vantage_orchestration.processing.names import LANDED
from vantage_orchestration.processing.routing import class_folder, fixed_part, output_of
from vantage_orchestration.storage import Location

PROCESS = "workspace.default.processing"


class Killed(BaseException):
    pass


@pytest.fixture
def folder(tmp_path: Path, sandbox: Any) -> Path:
    sandbox.control.set(processing_polls=0)
    folder = tmp_path / "in"
    folder.mkdir()
    make_invoice(folder / "a.pdf", "INV-1")
    make_pdf(folder / "b.pdf", ["Receipt", "Receipt Number: R-1", "Total: 5.00"])
    make_pdf(folder / "c.pdf", ["A letter"])
    return folder


@pytest.fixture(params=["local", "memory", "bucket", "renaming"])
def output(request: Any, tmp_path: Path) -> Iterator[str]:
    stores.forget()
    kind = request.param
    yield str(tmp_path / "out") if kind == "local" else f"{kind}://results/out"
    stores.forget()


def run(
    client: VantageClient, folder: Path, output: str, skill: str = PROCESS, **settings: Any
) -> Manifest:
    chosen, (place, by_class) = Options(**settings), output_of(output)
    files = files_of(f"{folder}/*.pdf", output=place)
    job = begin(client, files, place, TaskKey("task"), skill, chosen, token="t.-1")
    until_ended(client, job.transaction_ids)
    return finish(client, place, skill, chosen, token="t.-1", by_class=by_class)


def landed(manifest: Manifest, place: Location) -> dict[str, set[str]]:
    """Return the folder of each class to the names of the folders in it; all files are there."""
    found: dict[str, set[str]] = {}
    for entry in manifest.transactions:
        for document in entry.documents:
            there = document.place(place.child(entry.folder))
            for file in document.files:
                assert there.child(file.path).size() == file.size
            assert document.folder is not None
            name, _, of_transaction = document.folder.rpartition("/")
            found.setdefault(name, set()).add(of_transaction)
    return found


def test_documents_of_a_class_land_in_its_folder(
    client: VantageClient, folder: Path, output: str, sandbox: Any
) -> None:
    manifest = run(client, folder, f"{output}/{{class}}", tables="jsonl")
    place, (entry,) = Location.of(output), manifest.transactions
    assert landed(manifest, place) == {
        each: {entry.folder} for each in ("Invoice", "Receipt", "Other")
    }
    assert {path.partition("/")[0] for path in place.sizes()} == {
        *("Invoice", "Receipt", "Other", "manifest.json", "tables"),
        *(entry.folder, FOLDER),
    }
    assert set(place.child(entry.folder).sizes()) == {"manifest.json"}
    assert Manifest.open(output) == manifest
    numbers = [row["Invoice Number"] for row in Manifest.open(output).rows(skill="Invoice")]
    assert numbers == ["INV-1", None]  # The letter, too, was read as an invoice.
    downloads = sandbox.control.count("GET", "/download$")
    assert run(client, folder, f"{output}/{{class}}", tables="jsonl") == manifest
    assert sandbox.control.count("GET", "/download$") == downloads
    assert sandbox.control.count("POST", "/start$") == 1


def test_a_class_that_is_named_like_the_folder_of_tables_keeps_its_results(
    client: VantageClient, folder: Path, output: str, sandbox: Any
) -> None:
    place, skill = Location.of(output), sandbox.control.skill_id("Invoice")
    files, key = files_of(f"{folder}/*.pdf"), TaskKey("task")
    for tables in ("jsonl", "csv"):
        options = Options(tables=tables)
        job = begin(client, files, place, key, skill, options, token="t.-1")
        until_ended(client, job.transaction_ids)
        manifest = finish(client, place, skill, options, token="t.-1", by_class="tables")
        assert landed(manifest, place) == {"tables_2": {"a.pdf", "b.pdf", "c.pdf"}}
        assert len(list(Manifest.open(output).rows())) == 3
    assert sandbox.control.count("POST", "/start$") == 3
    assert class_folder("{class}", "tables") == "tables_2"


def test_documents_without_a_class_are_unclassified(
    client: VantageClient, folder: Path, output: str, sandbox: Any
) -> None:
    invoice = sandbox.control.skill_id("Invoice")
    manifest = run(client, folder, f"{output}/of-{{class}}/here", invoice)
    place = Location.of(output)
    assert landed(manifest, place) == {"of-unclassified/here": {"a.pdf", "b.pdf", "c.pdf"}}
    ids = [each.transaction_id for each in manifest.transactions]
    other = output_of(f"{output}2/{{class}}")
    fetched = download(client, ids, other.folder, Options(), by_class=other.by_class)
    assert landed(fetched, other.folder) == {"unclassified": set(ids)}


def test_a_try_that_was_killed_at_any_write_goes_on(
    client: VantageClient, folder: Path, output: str, sandbox: Any, monkeypatch: Any
) -> None:
    real, step = storage.Location.write, 0

    def killing(at: int) -> Callable[..., Any]:
        left = [at]

        def write(self: Location, fill: Callable[[Any], Any]) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(self, fill)

        return write

    while True:
        place = f"{output}/{step}"
        with monkeypatch.context() as patch:
            patch.setattr(storage.Location, "write", killing(step))
            try:
                run(client, folder, f"{place}/{{class}}", parallel=1)
                break
            except Killed:
                pass
        before = sandbox.control.count("GET", "/download$")
        manifest = run(client, folder, f"{place}/{{class}}", parallel=1)
        found = landed(manifest, Location.of(place))
        assert set(found) == {"Invoice", "Receipt", "Other"}
        names = Location.of(place).sizes()
        assert not [each for each in names if LANDED in each or each.endswith(".part")]
        assert sandbox.control.count("GET", "/download$") - before <= 6
        step += 1
    assert step > 8


def test_other_folders_of_an_earlier_try_are_emptied(
    client: VantageClient, folder: Path, output: str
) -> None:
    place = Location.of(output)

    def folders(path: str) -> set[str]:
        run(client, folder, path)
        entries = Manifest.open(output).transactions
        assert len(entries) == 1
        return {each.partition("/")[0] for each in place.sizes()} - {
            "manifest.json",
            entries[0].folder,
            FOLDER,
        }

    assert folders(f"{output}/{{class}}") == {"Invoice", "Receipt", "Other"}
    assert folders(f"{output}/a {{class}}") == {"a Invoice", "a Receipt", "a Other"}
    assert folders(output) == set()
    assert folders(f"{output}/{{class}}") == {"Invoice", "Receipt", "Other"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/{class}", "no folder before"),
        ("memory://{class}/x", "no folder before"),
        ("bucket://{class}", "no folder before"),
        ("/out/{class}/../x", "leads out of it"),
        ("/out/{skill}", r"the placeholder \{skill\}"),
        ("/out/{Class}", r"the placeholder \{Class\}"),
        ("/out/{}", r"the placeholder \{\}"),
        ("/out/{class}/{name}", r"the placeholder \{name\}"),
    ],
)
def test_paths_that_lose_what_a_later_try_needs_are_refused(path: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        output_of(path)


def test_names_of_classes_lead_nowhere_else() -> None:
    place = output_of("memory://out/x/{class}/y/")
    assert (place.folder.path, place.by_class) == ("/out/x", "{class}/y")
    assert output_of("memory://out").by_class is None
    assert fixed_part("s3://bucket/out/of {class}/y") == "s3://bucket/out"
    assert class_folder("{class}", "../../etc") == "___.._etc"
    assert class_folder("{class}", None) == "unclassified"
    assert class_folder("{class}", "a/b") == "a_b"
    assert class_folder("{class}", "Manifest.json") == "Manifest_2.json"
    assert class_folder("x/{class}", "manifest.json") == "x/manifest.json"
    data = DocumentEntry("d", None, (), (), folder="Invoice/a.pdf").to_json()
    assert DocumentEntry.read(data).folder == "Invoice/a.pdf"
    for wrong in ("/etc", "../x", "a/../../x", "a//b", "a/", "", "..", 5):
        with pytest.raises(ValueError, match="leads elsewhere"):
            DocumentEntry.read({**data, "folder": wrong})
