# SPDX-License-Identifier: Apache-2.0
"""Groups input files into units, each of which becomes one ABBYY Vantage transaction.

A document that is sent twice is charged twice. So two rules apply:

* Files with equal content are found before anything is sent.
* A later try plans again, when files may have appeared, changed, been renamed or disappeared. Not
  the present content of a folder but the notes of earlier tries determine which files belong to one
  transaction: each of their groups becomes a unit again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from vantage_orchestration.errors import ConfigurationError, FileNotReady
from vantage_orchestration.limits import LONGEST_UPLOAD, MOST_FILES
from vantage_orchestration.processing.inputs import Found, Gone, Refused, inspect_inputs, listed
from vantage_orchestration.processing.matching import (
    Chosen,
    Duplicates,
    Groups,
    choose,
    tag_in,
    tag_of_name,
)
from vantage_orchestration.processing.names import (
    MANIFEST,
    SUBMITTED,
    UniqueNames,
    folded,
    safe_name,
    suffixed,
)
from vantage_orchestration.storage import AnyPath
from vantage_orchestration.upload import SourceFile

__all__ = ["Duplicates", "PlannedFile", "Unit", "plan"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to send.

    Attributes:
        name: Name in the service: needs no replacement there, and is unique in the unit.
        original_name: Name of the input.
        path: Path or URL of the input.
        size: Size in bytes.
        sha256: Hex digest of the content.
        short: 16 hex digits by which a later try recognises the file: 4 of the SHA-256 of its name,
            then 12 of the SHA-256 of its content. No other file in the plan has the same.
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
        """Return the description of the file, without its content, as JSON data."""
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
        """Read the result of :meth:`to_json`. The content is not available from it."""
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
    """The files of one transaction, new or of an earlier try.

    Attributes:
        name: Name of a folder for its results: valid in every store, and unique in the plan even if
            case is ignored. For one file it is its name, for several their number and a digest.
            Units of one file with the same name get a digest too.
        files: The files, in the order of sending. Empty if all files of a known group are missing.
        missing: ``short`` of files that an earlier try sent with this unit and that are no longer
            among the inputs, or were changed. If its transaction was started, they are not needed:
            wait for it and collect. If it was never started, it can't be completed: give it up and
            plan again without its group.
        known: Index of its group in ``known``; None for a new unit. The group leads back to its
            transaction. A key computed from names and contents does too, but only while no file is
            missing or renamed.
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
        """Read the result of :meth:`to_json`: enough to collect results, but not to send.

        Raises:
            ValueError: It is not such data.
        """
        try:
            files = tuple(PlannedFile.from_json(file) for file in data["files"])
            return cls(str(data["name"]), files, tuple(str(each) for each in data["missing"]))
        except (KeyError, TypeError) as error:
            raise ValueError("this is not a unit") from error


def plan(
    inputs: Iterable[AnyPath | SourceFile],
    *,
    process_skill: bool,
    duplicates: Duplicates = "skip",
    known: Sequence[Collection[str]] = (),
) -> tuple[Unit, ...]:
    """Group files into units, each the content of one transaction.

    Each file is read once, in pieces, several at a time if the store allows it. The same inputs
    give the same plan; so does each group in ``known``, whatever the other inputs are.

    Args:
        inputs: Files, in the order of sending.
        process_skill: Whether the skill accepts many files (up to 1000, and 2 GB together); other
            skills accept one (contract, section 5).
        duplicates: What to do with files of equal content, anywhere in the plan. ``skip`` sends one
            and names the others in its ``duplicates``; if an earlier try sent one of them, that one
            is kept, even under a new name. ``send`` sends each. ``fail`` sends none.
        known: Groups of :attr:`PlannedFile.short` that earlier tries have sent as one unit. Files
            of a group form that unit again: in the group's order if it has one (a tuple or list),
            otherwise in that of the inputs. The rest is packed into new units. A changed file
            belongs to no group.

    Returns:
        The units: first one for each non-empty group in ``known``, then the new ones. Empty if
        there are no inputs and no groups.

    Raises:
        ConfigurationError: An input is missing (and no earlier try has sent a file of its name), a
            folder, larger than 2 GB or has too many parameters; or there are equal files and
            ``duplicates`` is ``fail``. All such inputs are named. Nothing was sent.
        FileNotReady: An input is empty, or has vanished since its folder was listed. Nothing was
            sent.
        FileChanged: A file changed while it was read.
        OSError: A file can't be read at present.
    """
    if duplicates not in ("skip", "send", "fail"):
        raise ConfigurationError("The argument duplicates must be 'skip', 'send' or 'fail'")
    seen = inspect_inputs(list(inputs))
    groups = Groups(known)
    chosen = choose([each for each in seen if isinstance(each, Found)], duplicates, groups)
    refused = [each for each in seen if isinstance(each, Refused)]
    gone = [each for each in seen if isinstance(each, Gone) and not groups.had(each.base)]
    problems = [each.reason for each in refused]
    problems += [f"there is no file {each.path!r}" for each in gone]
    if problems:
        what = f"Not every input can be sent: {listed(problems)}"
        if all(each.passing for each in refused) and all(each.vanished for each in gone):
            raise FileNotReady(
                what,
                hint=(
                    "Nothing was sent. Another program may still be writing a file: try again later"
                ),
            )
        raise ConfigurationError(
            what, hint=("Nothing was sent. Leave out the inputs that can't be sent")
        )
    new = [each for each in chosen if each.group is None]
    loads = [_Load(slots, index, gone) for index, slots, gone in groups.rejoined(chosen)]
    if missing := sum(len(load.missing) for load in loads):
        log.warning("%d files that earlier tries have sent are missing or were changed", missing)
    loads += [_Load(files) for files in (_packed(new) if process_skill else [[f] for f in new])]
    names = _folder_names(loads)
    return tuple(load.unit(name) for load, name in zip(loads, names, strict=True))


# ------------------------------------------------------------------ units


@dataclass(slots=True)
class _Load:
    """A unit without a name: its files, and the short digests of missing ones."""

    slots: Sequence[Chosen | str]
    known: int | None = None
    gone: str | None = None

    @property
    def files(self) -> list[Chosen]:
        return [each for each in self.slots if isinstance(each, Chosen)]

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
        bases = {tag_of_name(each.base): each.base for each in self.files}
        names, planned = UniqueNames(), []
        for each in self.slots:
            if isinstance(each, Chosen):
                planned.append(_planned(each, names.take(each.base)))
            elif base := bases.get(tag_in(each)):
                # The missing file had this name, so the next one gets a number, as before.
                names.take(base)
        return Unit(folder, tuple(planned), tuple(self.missing), self.known)


def _planned(chosen: Chosen, name: str) -> PlannedFile:
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


def _packed(files: Iterable[Chosen]) -> list[list[Chosen]]:
    """Fill one transaction after the other, in order."""
    loads: list[list[Chosen]] = []
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
    names = UniqueNames(MANIFEST, SUBMITTED)
    # Not numbers, which would depend on the order: each unit keeps its folder in every try.
    return [
        names.take(name if counts[folded(name)] == 1 else suffixed(name, f"-{load.digest[:12]}"))
        for load, name in zip(loads, wanted, strict=True)
    ]
