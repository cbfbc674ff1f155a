# SPDX-License-Identifier: Apache-2.0
"""Turns input files into units: what becomes one ABBYY Vantage transaction each.

A document that is sent twice is charged twice, so two things matter here.

* Files with equal content are found before anything is sent.
* A later try plans again, when files may have appeared, changed, been renamed or gone. Which files
  went into one transaction is not up to what lies in a folder now, but to what earlier tries have
  noted: each of their groups becomes a unit again, whatever else there is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Literal

from vantage_orchestration.errors import ConfigurationError, FileChanged
from vantage_orchestration.processing.names import MANIFEST, UniqueNames, folded, safe_name, suffixed
from vantage_orchestration.storage import Location, Place
from vantage_orchestration.upload import (
    LONGEST_UPLOAD,
    LONGEST_VALUE,
    MOST_FILES,
    SourceFile,
    parameters,
    stored_name,
)

__all__ = ["Duplicates", "PlannedFile", "Unit", "plan"]

log = logging.getLogger(__name__)

Duplicates = Literal["skip", "send", "fail"]

_CHUNK = 1024 * 1024
#: Files that are read at the same time.
_READERS = 8
#: Files that an error names; more are counted.
_NAMED = 10
#: Files of the same name and content that are looked for when one of them is gone.
_MOST_EQUAL = 20
#: Hex digits of a short digest: some for the name, the rest for the content.
_NAME_DIGITS, _CONTENT_DIGITS = 4, 12


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to send.

    Attributes:
        name: Name in the service: needs no replacement there, and no other file in the unit has it.
        original_name: Name of the input.
        path: Path or URL of the input.
        size: Size in bytes.
        sha256: Hex digest of the content.
        short: 16 hex digits by which a later try recognises the file: 4 of the SHA-256 of its
            name (without case), then 12 of the SHA-256 of its content. No other file in the plan has the same.
        source: The file to send, with name, path and your own registration parameters.
        duplicates: Paths of inputs with equal content, which are not sent.
    """

    name: str
    original_name: str
    path: str
    size: int
    sha256: str
    short: str
    source: SourceFile = field(compare=False)
    duplicates: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what describes the file, without its content, as JSON data."""
        return {
            "name": self.name,
            "original_name": self.original_name,
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "short": self.short,
            "duplicates": list(self.duplicates),
        }

    @classmethod
    def from_json(cls, data: Any) -> PlannedFile:
        """Read what :meth:`to_json` returned. The content can't be had from it."""
        name, size = str(data["name"]), int(data["size"])

        def unavailable() -> BinaryIO:
            raise ConfigurationError(f"The content of {name!r} is not kept after it was sent")

        return cls(
            name,
            str(data["original_name"]),
            str(data["path"]),
            size,
            str(data["sha256"]),
            str(data["short"]),
            SourceFile(name, size, unavailable),
            tuple(str(path) for path in data["duplicates"]),
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """What becomes one transaction, or became one in an earlier try.

    Attributes:
        name: Name of a folder for its results: fit for every store, and unlike that of any other
            unit of the plan, also where case does not matter. For one file its name, for several
            their number and a digest. Units of one file whose names are the same get a digest too.
        files: The files, in the order in which they are sent. Empty if all files of a known group
            are gone.
        missing: ``short`` of files that an earlier try sent with this unit and that are no longer
            among the inputs, or were changed. If its transaction was started, nothing of them is
            needed any more: wait for it and collect. If it was never started it can't be
            completed: give it up and plan again without its group.
        known: Index of the group in ``known`` that this unit goes on with; None for a new unit.
            That is what leads back to its transaction. A key computed from names and contents
            does too, but only while nothing is missing or renamed.
    """

    name: str
    files: tuple[PlannedFile, ...]
    missing: tuple[str, ...] = ()
    known: int | None = None

    @property
    def size(self) -> int:
        """Size of the files together, in bytes."""
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data, without the contents of the files."""
        return {
            "name": self.name,
            "files": [file.to_json() for file in self.files],
            "missing": list(self.missing),
        }

    @classmethod
    def from_json(cls, data: Any) -> Unit:
        """Read what :meth:`to_json` returned: enough to collect results, but not to send.

        Raises:
            ValueError: It is something else.
        """
        try:
            files = tuple(PlannedFile.from_json(file) for file in data["files"])
            return cls(str(data["name"]), files, tuple(str(each) for each in data["missing"]))
        except (KeyError, TypeError) as error:
            raise ValueError("this is no unit") from error


def plan(
    inputs: Iterable[Place | SourceFile],
    *,
    process_skill: bool,
    duplicates: Duplicates = "skip",
    known: Sequence[Collection[str]] = (),
) -> tuple[Unit, ...]:
    """Group files into units, each the content of one transaction.

    Each file is read once, in pieces, several at a time where the store allows it. The same inputs
    give the same plan; so does each group in ``known``, whatever the other inputs are.

    Args:
        inputs: Files, in the order in which they are to be sent.
        process_skill: Whether the skill takes many files (up to 1000, and 2 GB together); all
            others take one (contract, section 5).
        duplicates: What to do with files of equal content, anywhere in the plan. ``skip`` sends
            one and names the others in its ``duplicates``; a file that was sent by an earlier try
            stays the one, also under a new name. ``send`` sends each. ``fail`` sends none.
        known: Groups of :attr:`PlannedFile.short` that earlier tries have sent as one unit. Files
            that belong to a group are put into that unit again: in the group's order if it has one
            (a tuple or list), else in that of the inputs. The rest is packed into new units. A file
            that was changed belongs to no group.

    Returns:
        The units: first one for each group in ``known`` (but empty ones), then the new ones. None
        at all if there are no inputs and no groups.

    Raises:
        ConfigurationError: An input is missing (and no earlier try has sent a file of its name),
            empty, a folder, larger than 2 GB or has too many parameters; or there are equal files
            and ``duplicates`` is ``fail``. All such inputs are named. Nothing was sent.
        FileChanged: A file was changed while it was read.
        OSError: A file can't be read now.
    """
    if duplicates not in ("skip", "send", "fail"):
        raise ConfigurationError("The argument duplicates is 'skip', 'send' or 'fail'")
    seen = _look_at_all(list(inputs))
    found = [each for each in seen if isinstance(each, _Found)]
    groups = _Groups(known)
    if duplicates == "send":
        chosen = _each(found, groups)
    else:
        alike = _alike(found)
        if duplicates == "fail":
            _refuse_equal(alike)
        chosen = _one_of_each(alike, groups)
        place = {id(each): number for number, each in enumerate(found)}
        chosen.sort(key=lambda each: place[id(each.found)])
    problems = [each.reason for each in seen if isinstance(each, _Refused)]
    problems += [
        f"there is no file {each.path!r}"
        for each in seen
        if isinstance(each, _Gone) and not groups.had(each.base)
    ]
    if problems:
        raise ConfigurationError(
            f"Not every input can be sent: {_listed(problems)}",
            hint="Nothing was sent. A file may still be being written; try later",
        )
    new = [each for each in chosen if each.group is None]
    loads = groups.loads(chosen)
    loads += [_Load(files) for files in (_packed(new) if process_skill else [[f] for f in new])]
    names = _folder_names(loads)
    return tuple(load.unit(name) for load, name in zip(loads, names, strict=True))


# ------------------------------------------------------- looking at inputs


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that can be sent."""

    original: str
    path: str
    base: str  # Its name in the service, before it is made unlike others.
    sha256: str
    source: SourceFile


@dataclass(frozen=True, slots=True)
class _Gone:
    """An input that isn't there."""

    path: str
    base: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """An input that can't be sent."""

    reason: str


_Seen = _Found | _Gone | _Refused


def _look_at_all(inputs: Sequence[Place | SourceFile]) -> list[_Seen]:
    sources = [each if isinstance(each, SourceFile) else Location.of(each) for each in inputs]
    alone = any(isinstance(each, Location) and not each.concurrent for each in sources)
    with ThreadPoolExecutor(1 if alone else _READERS, "abbyy-vantage-plan") as pool:
        return list(pool.map(_look_at, sources))


def _look_at(source: SourceFile | Location) -> _Seen:
    if isinstance(source, SourceFile):
        given = source.registration_parameters.get("SourceFilePath")
        return _checked(source, _printable(given or source.name), {})
    path, name = _printable(source.url), source.name
    info = source.info()
    if info is None:
        return _Gone(path, _service_name(name))
    if info.get("type") == "directory":
        return _Refused(f"{path!r} is a folder; name its files, for example with a pattern")
    size = info.get("size")
    source = SourceFile(name, -1 if size is None else int(size), source.open)
    return _checked(source, path, {"SourceFilePath": _fitted(path)})


def _checked(source: SourceFile, path: str, details: Mapping[str, str]) -> _Seen:
    if source.size > LONGEST_UPLOAD:
        return _Refused(f"{path!r} has {source.size} bytes; ABBYY Vantage takes {LONGEST_UPLOAD}")
    with source.open() as stream:
        size, sha256 = _digest(stream)
    if source.size not in (-1, size):
        raise FileChanged(
            f"The file {path!r} was changed while it was read",
            hint="Nothing was sent. Wait until it is complete; the next try sends it",
        )
    if size == 0:
        return _Refused(f"{path!r} is empty")
    if size > LONGEST_UPLOAD:
        return _Refused(f"{path!r} has more than the {LONGEST_UPLOAD} bytes of ABBYY Vantage")
    original = _printable(source.name)
    together = {"SourceFileName": _fitted(original), **details, **source.registration_parameters}
    try:
        parameters(together)
    except ConfigurationError as error:
        return _Refused(f"{path!r}: {error.what}")
    source = replace(source, size=size, registration_parameters=together)
    return _Found(original, path, _service_name(source.name), sha256, source)


def _digest(stream: BinaryIO) -> tuple[int, str]:
    """Return size and hex SHA-256; stop where it is too large anyway."""
    digest, size = hashlib.sha256(), 0
    while size <= LONGEST_UPLOAD and (chunk := stream.read(_CHUNK)):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _printable(text: str) -> str:
    """Replace what can't be written as UTF-8: parts of names that the system couldn't decode."""
    return text.encode("utf-8", "replace").decode()


def _service_name(name: str) -> str:
    """Return the name that the service shows, without what can't be sent in a header."""
    text = stored_name(_printable(name))
    return "".join("_" if ord(char) < 32 or char in '"\x7f' else char for char in text) or "_"


def _fitted(text: str) -> str:
    """Shorten a value to what a registration parameter takes; the end says more."""
    return text if len(text) <= LONGEST_VALUE else "…" + text[1 - LONGEST_VALUE :]


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return "; ".join(texts[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


# ------------------------------------------------- what is sent, and what was


@dataclass(slots=True)
class _Chosen:
    """A file to send, and the known group that it belongs to."""

    found: _Found
    base: str
    short: str
    group: int | None
    duplicates: list[str] = field(default_factory=list)


def _name_tag(base: str) -> str:
    return hashlib.sha256(folded(base).encode()).hexdigest()[:_NAME_DIGITS]


def _short(base: str, sha256: str) -> str:
    return _name_tag(base) + sha256[:_CONTENT_DIGITS]


class _Groups:
    """The groups of earlier tries. Each of their files is claimed by one input at the most."""

    def __init__(self, known: Sequence[Collection[str]]) -> None:
        self._known = known
        self._free: dict[str, int] = {}
        self._by_content: dict[str, list[str]] = {}
        self._gone: dict[int, str] = {}
        for index, group in enumerate(known):
            for short in group:
                if short not in self._free:
                    self._free[short] = index
                    self._by_content.setdefault(short[_NAME_DIGITS:], []).append(short)

    def claim(self, found: _Found, base: str) -> _Chosen:
        """Choose a file, as the one that was sent under this name or else as a new one."""
        short = _short(base, found.sha256)
        return _Chosen(found, base, short, self._free.pop(short, None))

    def sent(self, found: _Found) -> _Chosen | None:
        """Choose a file if it was sent under its name."""
        known = _short(found.base, found.sha256) in self._free
        return self.claim(found, found.base) if known else None

    def sent_as_another(self, found: _Found) -> _Chosen | None:
        """Choose a file if its content was sent under a name that no input has now."""
        for short in self._by_content.get(found.sha256[:_CONTENT_DIGITS], ()):
            if short in self._free:
                return _Chosen(found, found.base, short, self._free.pop(short))
        return None

    def had(self, base: str) -> bool:
        """Tell, once for each, whether a file of that name was sent that is not there now."""
        numbered = (suffixed(base, f"_{number}") for number in range(2, _MOST_EQUAL + 1))
        tags = {_name_tag(name) for name in (base, *numbered)}
        for short, index in self._free.items():
            if short[:_NAME_DIGITS] in tags:
                del self._free[short]
                self._gone[index] = base
                return True
        return False

    def loads(self, chosen: Iterable[_Chosen]) -> list[_Load]:
        """Return a unit for each group, with those of the files that belong to it."""
        files: dict[int | None, dict[str, _Chosen]] = {}
        for each in chosen:
            files.setdefault(each.group, {})[each.short] = each
        loads = []
        for index, group in enumerate(self._known):
            if not group:
                continue
            present = files.get(index, {})
            ordered = group if isinstance(group, Sequence) else [*present, *sorted(group)]
            slots = [present.get(short, short) for short in dict.fromkeys(ordered)]
            loads.append(_Load(slots, index, self._gone.get(index)))
            if missing := loads[-1].missing:
                log.warning(
                    "Of %d files that an earlier try sent together, %d are gone or were changed",
                    len(slots),
                    len(missing),
                )
        return loads


def _each(found: Iterable[_Found], groups: _Groups) -> list[_Chosen]:
    """Choose every file. Equal ones of the same name get numbers, which tell them apart later."""
    used: set[tuple[str, str]] = set()
    chosen: list[_Chosen] = []
    for each in found:
        base, number = each.base, 2
        while (folded(base), each.sha256) in used:
            base = suffixed(each.base, f"_{number}")
            number += 1
        used.add((folded(base), each.sha256))
        chosen.append(groups.claim(each, base))
    return chosen


def _alike(found: Sequence[_Found]) -> list[list[_Found]]:
    """Return the files by content, in the order of the first of each."""
    by_content: dict[str, list[_Found]] = {}
    for each in found:
        by_content.setdefault(each.sha256, []).append(each)
    return list(by_content.values())


def _refuse_equal(alike: Iterable[Sequence[_Found]]) -> None:
    equal = [" = ".join(repr(each.path) for each in same) for same in alike if len(same) > 1]
    if equal:
        raise ConfigurationError(
            f"Some inputs have the same content: {_listed(equal)}",
            hint="Nothing was sent. Leave one of each out, or say what to do with duplicates",
        )


def _one_of_each(alike: Iterable[Sequence[_Found]], groups: _Groups) -> list[_Chosen]:
    """Choose one file of each content: those that were sent already, else the first."""
    chosen: list[_Chosen] = []
    for same in alike:
        those = [sent for each in same if (sent := groups.sent(each)) is not None]
        if not those:
            one = groups.sent_as_another(same[0]) or groups.claim(same[0], same[0].base)
            those = [one]
        taken = {id(each.found) for each in those}
        those[0].duplicates += [each.path for each in same if id(each) not in taken]
        chosen += those
    return chosen


# ------------------------------------------------------------------ units


@dataclass(slots=True)
class _Load:
    """A unit without a name: its files, and the short digests of those that are missing."""

    slots: Sequence[_Chosen | str]
    known: int | None = None
    gone: str | None = None

    @property
    def files(self) -> list[_Chosen]:
        return [each for each in self.slots if isinstance(each, _Chosen)]

    @property
    def missing(self) -> list[str]:
        return [each for each in self.slots if isinstance(each, str)]

    @property
    def digest(self) -> str:
        shorts = sorted([*self.missing, *(each.short for each in self.files)])
        return hashlib.sha256("".join(shorts).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The name of its folder, if no other unit has the same."""
        if len(self.slots) > 1:
            return f"batch-of-{len(self.slots)}-{self.digest[:12]}"
        if self.files:
            return safe_name(self.files[0].base)
        return safe_name(self.gone) if self.gone else f"sent-earlier-{self.digest[:12]}"

    def unit(self, folder: str) -> Unit:
        bases = {_name_tag(each.base): each.base for each in self.files}
        names, planned = UniqueNames(), []
        for each in self.slots:
            if isinstance(each, _Chosen):
                planned.append(_planned(each, names.take(each.base)))
            elif base := bases.get(each[:_NAME_DIGITS]):
                names.take(base)  # The missing file was sent under it; the next one was not.
        return Unit(folder, tuple(planned), tuple(self.missing), self.known)


def _planned(chosen: _Chosen, name: str) -> PlannedFile:
    found = chosen.found
    return PlannedFile(
        name,
        found.original,
        found.path,
        found.source.size,
        found.sha256,
        chosen.short,
        replace(found.source, name=name),
        tuple(chosen.duplicates),
    )


def _packed(files: Iterable[_Chosen]) -> list[list[_Chosen]]:
    """Fill one transaction after the other, in order."""
    loads: list[list[_Chosen]] = []
    room = 0
    for file in files:
        size = file.found.source.size
        if not loads or len(loads[-1]) == MOST_FILES or size > room:
            loads.append([])
            room = LONGEST_UPLOAD
        loads[-1].append(file)
        room -= size
    return loads


def _folder_names(loads: Sequence[_Load]) -> list[str]:
    wanted = [load.folder for load in loads]
    counts: dict[str, int] = {}
    for name in wanted:
        counts[folded(name)] = counts.get(folded(name), 0) + 1
    names = UniqueNames(MANIFEST)
    # Not by numbers, which would depend on the order: each keeps its folder in every try.
    return [
        names.take(name if counts[folded(name)] == 1 else suffixed(name, f"-{load.digest[:12]}"))
        for load, name in zip(loads, wanted, strict=True)
    ]
