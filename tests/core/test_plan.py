# SPDX-License-Identifier: Apache-2.0
"""From files to units: names, equal files, limits, and what a later try makes of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import threading
import zipfile
from collections import Counter

import pytest
import stores
from jobs import plan

from vantage_orchestration.errors import ConfigurationError, FileChanged
from vantage_orchestration.processing import inputs as inputs_module
from vantage_orchestration.processing import plan as module
from vantage_orchestration.processing.names import safe_name
from vantage_orchestration.storage import Location
from vantage_orchestration.upload import LONGEST_UPLOAD, SourceFile, check_files, stored_name


@pytest.fixture(autouse=True)
def _empty_stores():
    stores.forget()
    yield
    stores.forget()


def put(folder: str, **files: bytes | str) -> list[Location]:
    """Write files, ``a__pdf="content"``, and return where they are."""
    made = []
    for name, content in files.items():
        location = Location.of(f"{folder}/{name.replace('__', '.')}")
        data = content if isinstance(content, bytes) else content.encode()
        location.write(lambda stream, data=data: stream.write(data))
        made.append(location)
    return made


def file(name: str, content: str | bytes = "", path: str | None = None) -> SourceFile:
    data = content.encode() if isinstance(content, str) else content
    parameters = {"SourceFilePath": path} if path else None
    return SourceFile.of(data or name.encode(), name=name, registration_parameters=parameters)


def groups(units) -> list[tuple[str, ...]]:
    return [tuple(each.short for each in unit.files) for unit in units]


def names(units) -> list[list[str]]:
    return [[each.stored_name for each in unit.sources] for unit in units]


def identity(unit) -> tuple:
    return unit.name, [
        (each.entry.stored_name, each.entry.sha256, each.short) for each in unit.files
    ]


# ------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["local", "memory", "bucket", "zip"])
def test_files_of_every_store(kind, tmp_path):
    folder = {"local": str(tmp_path), "zip": str(tmp_path)}.get(kind, f"{kind}://in")
    inputs = put(folder, b__pdf=b"x" * 5000, a__pdf="a")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            for each in inputs:
                archive.write(each.path, each.name)
        inputs = [Location.of(f"zip://{n}::{tmp_path / 'in.zip'}") for n in ("b.pdf", "a.pdf")]
    units = plan(inputs, process_skill=False)
    assert [unit.name for unit in units] == ["b.pdf", "a.pdf"]
    (planned,) = units[0].files
    assert (planned.entry.stored_name, planned.entry.name, planned.entry.size) == (
        "b.pdf",
        "b.pdf",
        5000,
    )
    assert planned.entry.path == inputs[0].url
    assert planned.entry.sha256 == hashlib.sha256(b"x" * 5000).hexdigest()
    assert (len(planned.short), planned.source.size) == (16, 5000)
    with planned.source.open() as stream:
        assert stream.read() == b"x" * 5000
    assert planned.source.name == "b.pdf"
    assert planned.source.registration_parameters == {
        "SourceFileName": "b.pdf",
        "SourceFilePath": inputs[0].url,
    }
    assert (units[0].missing, units[0].known) == ((), None)


@pytest.mark.parametrize("kind", ["local", "memory", "bucket"])
def test_planned_files_arrive_as_they_are(kind, client, sandbox, tmp_path):
    folder = str(tmp_path) if kind == "local" else f"{kind}://in"
    inputs = put(folder, **{"in (1)__pdf": b"x" * 5000, "in [1]__pdf": b"y" * 5000})
    (unit,) = plan(inputs, process_skill=True)
    transaction = client.create_transaction("workspace.default.processing").id
    client.add_files(transaction, [each.source for each in unit.files])
    seen = client.get_transaction(transaction).source_files
    assert [each.name for each in seen] == ["in _1_.pdf", "in _1__2.pdf"] == names([unit])[0]
    documents = sandbox.control.transaction(transaction)["documents"]
    arrived = [each for document in documents for each in document["files"]]
    assert [each["sha256"] for each in arrived] == [each.sha256 for each in unit.sources]
    sent = arrived[0]["parameters"]
    assert (sent["SourceFileName"], sent["SourceFilePath"]) == ("in (1).pdf", inputs[0].url)


def test_paths_urls_and_bytes_are_taken(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"a")
    put("memory://in", b__pdf="b")
    given = [tmp_path / "a.pdf", "memory://in/b.pdf", file("c.pdf")]
    units = plan((each for each in given), process_skill=False)
    assert [unit.name for unit in units] == ["a.pdf", "b.pdf", "c.pdf"]
    assert units[2].sources[0].path == "c.pdf"
    assert units[2].files[0].source.registration_parameters == {"SourceFileName": "c.pdf"}
    assert plan([], process_skill=True) == ()


def test_names_are_what_the_service_shows_and_unique_in_their_unit():
    given = ["invoice (2).pdf", "invoice [2].pdf", "INVOICE _2_.pdf", 'a"b\n.pdf', " é\ud800.pdf"]
    inputs = [file("x", str(n)) for n in range(len(given))]
    inputs = [module.replace(each, name=name) for each, name in zip(inputs, given, strict=True)]
    (unit,) = plan(inputs, process_skill=True)
    assert names([unit]) == [
        [
            "invoice _2_.pdf",
            "invoice _2__2.pdf",
            "INVOICE _2__3.pdf",
            "a_b_.pdf",
            "é_.pdf",
        ]
    ]
    assert all(stored_name(each.stored_name) == each.stored_name for each in unit.sources)
    check_files([each.source for each in unit.files])
    assert [each.name for each in unit.sources] == [*given[:4], " é?.pdf"]
    json.dumps([each.source.metadata(0) for each in unit.files], ensure_ascii=False).encode()
    alone = plan(inputs[:3], process_skill=False)
    assert names(alone) == [["invoice _2_.pdf"], ["invoice _2_.pdf"], ["INVOICE _2_.pdf"]]


def test_own_parameters_are_kept_and_long_ones_fitted(tmp_path):
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "a.pdf").write_bytes(b"a")
    ((unit,), (other,)) = (
        plan([deep / "a.pdf"], process_skill=False),
        plan(
            [
                SourceFile.of(
                    b"b",
                    name="b.pdf",
                    registration_parameters={"Box": "7", "SourceFileName": "mine"},
                    auto_crop="No",
                )
            ],
            process_skill=False,
        ),
    )
    sent = unit.files[0].source.registration_parameters["SourceFilePath"]
    assert len(sent) == 256
    assert sent == "…" + str(deep / "a.pdf")[-255:]
    assert unit.sources[0].path == str(deep / "a.pdf")
    source = other.files[0].source
    assert source.registration_parameters == {"Box": "7", "SourceFileName": "mine"}
    assert source.auto_crop == "No"


def test_each_file_is_read_once_and_closed():
    opened = []

    class Stream(io.BytesIO):
        def close(self):
            opened[-1] = "closed"
            super().close()

    def opener():
        opened.append("open")
        return Stream(b"abc")

    plan([SourceFile("a.pdf", 3, opener)], process_skill=True)
    assert opened == ["closed"]


def test_the_service_is_asked_while_files_are_read():
    meeting = threading.Barrier(2)

    def opener():
        meeting.wait(60)
        return io.BytesIO(b"abc")

    def ask():
        meeting.wait(60)
        return "the skill"

    sources = [SourceFile("a.pdf", 3, opener), file("b.pdf", "b")]
    answer, seen = inputs_module.inspect_beside(ask, sources)
    assert (answer, [each.entry.name for each in seen]) == ("the skill", ["a.pdf", "b.pdf"])


@pytest.mark.parametrize("kind", ["bucket", "memory"])
def test_a_store_that_takes_one_at_a_time_gets_one(kind, monkeypatch):
    inputs = put(f"{kind}://in", **{f"{n}__pdf": f"{n}" for n in range(4)})
    together = threading.Barrier(2)
    met = []
    opened = Location.open

    def slowly(self):
        # Two that are open at the same time meet; one alone goes on after a while.
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(together.wait(30 if kind == "memory" else 0.05))
        return opened(self)

    monkeypatch.setattr(Location, "open", slowly)
    assert len(plan(inputs, process_skill=False)) == 4
    assert bool(met) == (kind == "memory")


# ----------------------------------------------------------------- refused


def test_every_bad_input_is_named(tmp_path):
    (tmp_path / "empty.pdf").touch()
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "large.pdf", "wb") as sparse:
        sparse.truncate(LONGEST_UPLOAD + 1)
    (tmp_path / "good.pdf").write_bytes(b"good")
    many = SourceFile.of(
        b"x", name="many.pdf", registration_parameters={str(n): "x" for n in range(10)}
    )
    given = [tmp_path / f"{name}.pdf" for name in ("good", "empty", "none", "large")]
    with pytest.raises(ConfigurationError) as caught:
        plan([*given, tmp_path / "folder", many], process_skill=True)
    text = str(caught.value)
    for name in (
        "empty.pdf' is empty",
        "no file '",
        "none.pdf'",
        "large.pdf' has 2147483649 bytes",
    ):
        assert name in text
    for name in ("folder' is a folder", "'many.pdf': 11 parameters"):
        assert name in text
    assert "good.pdf" not in text
    with pytest.raises(ConfigurationError, match="and 5 more"):
        plan([tmp_path / f"{n}.pdf" for n in range(15)], process_skill=True)
    with pytest.raises(ConfigurationError, match="duplicates"):
        plan([tmp_path / "good.pdf"], process_skill=True, duplicates="ask")


def test_large_files_are_not_read_to_their_end(monkeypatch):
    monkeypatch.setattr(inputs_module, "LONGEST_UPLOAD", 3 * 1024 * 1024)
    read = []

    class Large(io.RawIOBase):
        def read(self, size=-1):
            read.append(size)
            return b"x" * size if len(read) < 10 else b""

    put("memory://in", a__pdf="a")
    location = Location.of("memory://in/a.pdf")
    monkeypatch.setattr(type(location), "open", lambda self: Large())
    monkeypatch.setattr(type(location), "info", lambda self: {"type": "file", "size": None})
    with pytest.raises(ConfigurationError, match=r"more than the 3145728 bytes"):
        plan([location], process_skill=True)
    assert len(read) == 4


@pytest.mark.parametrize("size", [2, 4])
def test_a_file_that_changes_while_it_is_read_is_for_a_later_try(size):
    changing = SourceFile("a.pdf", size, lambda: io.BytesIO(b"abc"))
    with pytest.raises(FileChanged, match=r"'a.pdf' changed") as caught:
        plan([changing], process_skill=False)
    assert caught.value.retryable


def test_trouble_of_a_store_is_not_a_missing_file():
    inputs = put("bucket://in", a__pdf="a")
    stores.BucketFileSystem.failing["info"] = TimeoutError("not now")
    with pytest.raises(TimeoutError):
        plan(inputs, process_skill=False)


# ------------------------------------------------------------------ packing


def test_a_process_skill_takes_up_to_1000_files_in_order():
    inputs = [file(f"{n}.pdf") for n in range(2001)]
    units = plan(inputs, process_skill=True)
    assert [len(unit.files) for unit in units] == [1000, 1000, 1]
    assert [name for unit in names(units) for name in unit] == [f"{n}.pdf" for n in range(2001)]
    assert [unit.name[:14] for unit in units] == ["batch-of-1000-", "batch-of-1000-", "2000.pdf"]
    assert len({unit.name for unit in units}) == 3
    alone = plan(inputs, process_skill=False)
    assert [len(unit.files) for unit in alone] == [1] * 2001


def test_a_transaction_takes_2_gb(monkeypatch):
    for each in (module, inputs_module):
        monkeypatch.setattr(each, "LONGEST_UPLOAD", 10)
    inputs = [file(f"{n}.pdf", f"{n}" * size) for n, size in enumerate([4, 6, 1, 10, 3, 3])]
    units = plan(inputs, process_skill=True)
    assert [sum(each.source.size for each in unit.files) for unit in units] == [10, 1, 10, 6]
    with pytest.raises(ConfigurationError, match="11 bytes"):
        plan([file("a.pdf", "x" * 11)], process_skill=True)


# -------------------------------------------------------------- equal files


@pytest.mark.parametrize("process_skill", [True, False])
def test_equal_files(process_skill, tmp_path):
    first = put(str(tmp_path / "1"), a__pdf="same", b__pdf="other", c__pdf="same")
    second = put("memory://in", a__pdf="same")
    inputs = [*first, *second]
    units = plan(inputs, process_skill=process_skill)
    sent = [each for unit in units for each in unit.sources]
    assert [each.path for each in sent] == [first[0].url, first[1].url]
    assert sent[0].duplicates == (first[2].url, second[0].url)
    assert sent[1].duplicates == ()
    units = plan(inputs, process_skill=process_skill, duplicates="send")
    sent = [each for unit in units for each in unit.sources]
    assert [each.path for each in sent] == [each.url for each in inputs]
    assert [each.stored_name for each in sent] == ["a.pdf", "b.pdf", "c.pdf", "a_2.pdf"]
    assert [each.duplicates for each in sent] == [()] * 4
    assert len({each.short for unit in units for each in unit.files}) == 4
    with pytest.raises(ConfigurationError, match="same content") as caught:
        plan(inputs, process_skill=process_skill, duplicates="fail")
    for each in (first[0], first[2], second[0]):
        assert each.url in str(caught.value)
    assert first[1].url not in str(caught.value)
    assert len(plan(first[:2], process_skill=False, duplicates="fail")) == 2


# ------------------------------------------------------------- folder names


def test_folders_are_named_after_their_files():
    inputs = [
        file("a.pdf", "1", "/in/1/a.pdf"),
        file("A.pdf", "2"),
        file("b.pdf"),
        file("manifest.json"),
        file("Submitted.json"),
        file("x" * 300 + ".pdf"),
        file("..pdf."),
    ]
    units = plan(inputs, process_skill=False)
    folders = [unit.name for unit in units]
    assert folders[2:] == [
        "b.pdf",
        "manifest_2.json",
        "Submitted_2.json",
        "x" * 116 + ".pdf",
        "__pdf",
    ]
    assert [name[:2] for name in folders[:2]] == ["a-", "A-"]
    assert all(safe_name(name) == name for name in folders)
    backwards = {
        unit.sources[0].path: unit.name for unit in plan(inputs[::-1], process_skill=False)
    }
    assert [backwards[unit.sources[0].path] for unit in units] == folders
    (batch,) = plan(inputs[:3], process_skill=True)
    (same,) = plan(inputs[2::-1], process_skill=True)
    assert batch.name == same.name
    assert batch.name.startswith("batch-of-3-")


# ------------------------------------------------------------- later tries


def test_files_that_appear_change_no_earlier_unit():
    first = [file("b.pdf", "b", "/in/b.pdf"), file("b.pdf", "c", "/in/c/b.pdf")]
    known = groups(plan(first, process_skill=True))
    (old,) = plan(first, process_skill=True)
    more = [file("b.pdf", "a", "/in/a/b.pdf"), *first, file("b.pdf", "d", "/in/d/b.pdf")]
    again, new = plan(more, process_skill=True, known=known)
    assert identity(again) == identity(old)
    assert (again.known, again.missing) == (0, ())
    assert (new.known, names([new])) == (None, [["b.pdf", "b_2.pdf"]])


def test_an_equal_file_that_appears_first_does_not_take_the_place_of_the_one_sent():
    sent = file("b.pdf", "same")
    known = groups(plan([sent], process_skill=False))
    for given in ([file("a.pdf", "same"), sent], [sent, file("a.pdf", "same")]):
        (unit,) = plan(given, process_skill=False, known=known)
        assert (unit.known, unit.missing) == (0, ())
        assert (names([unit]), unit.sources[0].duplicates) == ([["b.pdf"]], ("a.pdf",))


def test_files_that_were_sent_do_not_change_the_order_of_the_new_ones():
    """The one that is sent of equal files is not always the first: its place counts."""
    sent = [file("z.pdf", "1"), file("y.pdf", "2")]
    unordered = [frozenset(groups(plan(sent, process_skill=True))[0])]
    given = [file("a.pdf", "2"), *sent]
    (unit,) = plan(given, process_skill=True, known=unordered)
    assert names([unit]) == [["z.pdf", "y.pdf"]]
    assert unit.sources[1].duplicates == ("a.pdf",)


def test_a_file_that_was_sent_and_renamed_is_not_sent_again():
    known = groups(plan([file("a.pdf", "same")], process_skill=False))
    (unit,) = plan([file("b.pdf", "same")], process_skill=False, known=known)
    assert (unit.known, unit.missing, groups([unit])) == (0, (), known)
    assert unit.sources[0].stored_name == "b.pdf"
    sent, new = plan([file("b.pdf", "same")], process_skill=False, known=known, duplicates="send")
    assert (sent.known, sent.files, sent.missing) == (0, (), known[0])
    assert (new.known, names([new])) == (None, [["b.pdf"]])


def test_a_file_that_was_moved_is_the_same():
    known = groups(plan([file("a.pdf", "a", "/in/a.pdf")], process_skill=False))
    (unit,) = plan([file("a.pdf", "a", "/done/a.pdf")], process_skill=False, known=known)
    assert (unit.known, unit.missing, unit.sources[0].path) == (0, (), "/done/a.pdf")


def test_a_file_that_was_changed_is_another_one(caplog):
    inputs = [file("a.pdf", "1"), file("b.pdf", "2")]
    (first,) = plan(inputs, process_skill=True)
    old, new = plan([file("a.pdf", "3"), inputs[1]], process_skill=True, known=groups([first]))
    assert (old.known, old.missing) == (0, (first.files[0].short,))
    assert [(each.stored_name, each.sha256) for each in old.sources] == [
        (first.sources[1].stored_name, first.sources[1].sha256)
    ]
    assert (new.known, names([new])) == (None, [["a.pdf"]])
    assert "1 files that earlier tries have sent are missing or were changed" in caplog.text


def test_inputs_that_have_gone_since_they_were_sent_do_not_block(tmp_path):
    paths = [tmp_path / f"{name}.pdf" for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    for process_skill in (True, False):
        units = plan(paths[:2], process_skill=process_skill)
        known = groups(units)
        paths[0].unlink()
        again = plan(paths, process_skill=process_skill, known=known)
        missing = {short for unit in again for short in unit.missing}
        assert missing == {units[0].files[0].short}
        assert [unit.name for unit in again[:-1]] == [unit.name for unit in units]
        assert [unit.known for unit in again] == [*range(len(units)), None]
        assert names(again)[-1] == ["c.pdf"]
        # What was not sent before, and what was sent once but is asked for twice, does block.
        for given in ([*paths, tmp_path / "d.pdf"], [paths[0], *paths]):
            with pytest.raises(ConfigurationError, match="there is no file"):
                plan(given, process_skill=process_skill, known=known)
        paths[0].write_text(paths[0].name)
    (unit,) = plan([], process_skill=False, known=known[:1])
    assert (unit.files, unit.missing) == ((), known[0])
    assert unit.name.startswith("sent-earlier-")


def test_equal_files_that_were_all_sent_stay_so():
    inputs = [file("a.pdf", "same", f"/in/{n}/a.pdf") for n in range(3)]
    units = plan(inputs, process_skill=False, duplicates="send")
    known = groups(units)
    assert len(set(known)) == 3
    again = plan(inputs[::-1], process_skill=False, duplicates="send", known=known)
    assert [unit.known for unit in again] == [0, 1, 2]
    assert [identity(unit) for unit in again] == [identity(unit) for unit in units]
    more = plan([*inputs, inputs[0]], process_skill=False, duplicates="send", known=known)
    assert [unit.known for unit in more] == [0, 1, 2, None]
    assert names(more)[3] == ["a_4.pdf"]


def test_empty_groups_are_passed_over():
    known = [(), *groups(plan([file("a.pdf")], process_skill=False)), frozenset()]
    (unit,) = plan([file("a.pdf")], process_skill=False, known=known)
    assert unit.known == 1


def test_a_group_keeps_its_order_if_it_has_one():
    inputs = [file(f"{name}.pdf") for name in "abc"]
    (first,) = plan(inputs, process_skill=True)
    (again,) = plan(inputs[::-1], process_skill=True, known=groups([first]))
    assert identity(again) == identity(first)
    unordered = [frozenset(groups([first])[0])]
    (again,) = plan(inputs[::-1], process_skill=True, known=unordered)
    assert names([again]) == [["c.pdf", "b.pdf", "a.pdf"]]
    assert (again.known, again.name) == (0, first.name)
    (again,) = plan(inputs[1:], process_skill=True, known=unordered)
    assert (names([again]), len(again.missing)) == ([["b.pdf", "c.pdf"]], 1)


def test_a_file_keeps_its_name_in_the_service_when_the_one_before_it_is_gone():
    inputs = [file("a.pdf", str(n)) for n in range(3)]
    (first,) = plan(inputs, process_skill=True)
    (again,) = plan(inputs[1:], process_skill=True, known=groups([first]))
    assert names([first, again]) == [["a.pdf", "a_2.pdf", "a_3.pdf"], ["a_2.pdf", "a_3.pdf"]]


def random_inputs(chance: random.Random, count: int, folder: str = "/in") -> list[SourceFile]:
    stems = ["a", "A", "b", "b_2", "b (2)", "manifest"]
    return [
        file(f"{chance.choice(stems)}.pdf", chance.choice("123456789"), f"{folder}/{n}")
        for n in range(count)
    ]


@pytest.mark.parametrize("duplicates", ["skip", "send"])
@pytest.mark.parametrize("process_skill", [True, False])
def test_whatever_happens_between_two_tries(duplicates, process_skill, monkeypatch):
    monkeypatch.setattr(module, "MOST_FILES", 3)
    how = {"process_skill": process_skill, "duplicates": duplicates}
    for seed in range(150):
        chance = random.Random(seed)
        inputs = random_inputs(chance, chance.randrange(1, 9))
        first = plan(inputs, **how)
        check(inputs, first, (), duplicates)
        noted = chance.sample(first, chance.randrange(len(first) + 1))
        known = groups(noted)
        assert plan(inputs, **how, known=known) == plan(inputs, **how, known=known)
        added = [*inputs]
        for new in random_inputs(chance, 3, "/new"):
            added.insert(chance.randrange(len(added) + 1), new)
        again = plan(added, **how, known=known)
        check(added, again, known, duplicates)
        for unit, old in zip(again, noted, strict=False):
            contents = [(each.stored_name, each.sha256) for each in unit.sources]
            assert unit.missing == ()
            assert contents == [(each.stored_name, each.sha256) for each in old.sources], seed
        changed = [each for each in added if chance.random() < 0.7]
        check(changed, plan(changed, **how, known=known), known, duplicates)


def check(inputs, units, known, duplicates) -> None:
    """Hold a plan against what every plan must be."""
    sent = [each for unit in units for each in unit.sources]
    paths = Counter(path for each in sent for path in (each.path, *each.duplicates))
    assert paths == Counter(each.registration_parameters["SourceFilePath"] for each in inputs)
    for each in inputs:
        path = each.registration_parameters["SourceFilePath"]
        (found,) = (file for file in sent if path in (file.path, *file.duplicates))
        assert found.sha256 == hashlib.sha256(each.open().read()).hexdigest()
    assert [unit.known for unit in units[: len(known)]] == list(range(len(known)))
    for unit, group in zip(units, known, strict=False):
        assert sorted([*unit.missing, *groups([unit])[0]]) == sorted(group)
        assert [short for short in group if short not in unit.missing] == list(groups([unit])[0])
    new = units[len(known) :]
    assert all(unit.known is None and unit.files and not unit.missing for unit in new)
    shorts = [each.short for unit in units for each in unit.files]
    assert len(set(shorts)) == len(shorts)
    assert not set().union(*known) & {each.short for unit in new for each in unit.files}
    if duplicates == "skip":
        contents = {short[4:] for group in known for short in group}
        assert not contents & {each.sha256[:12] for unit in new for each in unit.sources}
    folders = [unit.name.casefold() for unit in units]
    assert len(set(folders)) == len(folders)
    order = {each.registration_parameters["SourceFilePath"]: n for n, each in enumerate(inputs)}
    for unit in units:
        assert safe_name(unit.name) == unit.name
        inside = [each.stored_name.casefold() for each in unit.sources]
        assert len(set(inside)) == len(inside)
    for unit in new:
        places = [order[each.path] for each in unit.sources]
        assert places == sorted(places)
