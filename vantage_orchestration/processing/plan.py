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
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vantage_orchestration.errors import ConfigurationError, FileNotReady
from vantage_orchestration.limits import LONGEST_UPLOAD, MOST_FILES
from vantage_orchestration.options import Duplicates, checked
from vantage_orchestration.processing.inputs import (
    NAME_DIGITS,
    PlannedFile,
    Refused,
    Seen,
    short_digest,
    tag_of_name,
)
from vantage_orchestration.processing.manifest import SourceEntry
from vantage_orchestration.processing.names import (
    OF_JOB,
    UniqueNames,
    folded,
    safe_name,
    suffixed,
)
from vantage_orchestration.text import shortened

log = logging.getLogger(__name__)

#: Files of the same name and content to look for if one of them is missing.
_MOST_EQUAL = 20


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
    def sources(self) -> tuple[SourceEntry, ...]:
        """What its files are."""
        return tuple(each.entry for each in self.files)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the short digests, whatever their order."""
        shorts = sorted([*self.missing, *(each.short for each in self.files)])
        return hashlib.sha256("".join(shorts).encode()).hexdigest()


def plan(
    seen: Sequence[Seen],
    *,
    process_skill: bool,
    duplicates: Duplicates = "skip",
    known: Sequence[Collection[str]] = (),
) -> tuple[Unit, ...]:
    """Group files into units, each the content of one transaction.

    ``seen`` has the inputs in the order of sending, see :func:`.inputs.inspect_inputs`. The same
    inputs give the same plan; so does each group in ``known``, whatever the other inputs are. A
    Process skill accepts many files (up to 1000, and 2 GB together); other skills accept one
    (contract, section 5).

    ``known`` has the groups of :attr:`PlannedFile.short` that earlier tries have sent as one unit,
    and gives the first units: the files of a group, in its order if it has one (a tuple or list),
    otherwise in that of the inputs. The rest, such as a changed file, is packed into new units.

    Of files with equal content, ``skip`` sends one and names the others in its ``duplicates``; if
    an earlier try sent one of them, that one is kept, even under a new name. ``send`` sends each.
    With ``fail`` they are a ConfigurationError, as are inputs that can't be sent; it names all of
    them. An input that is empty, or has vanished since its folder was listed, is FileNotReady.
    """
    checked("duplicates", duplicates)
    groups = Groups(known)
    chosen = choose([each for each in seen if isinstance(each, PlannedFile)], duplicates, groups)
    refused = [
        each
        for each in seen
        if isinstance(each, Refused) and not (each.missing and groups.had(each.missing))
    ]
    if refused:
        problems = [each.reason for each in refused]
        what = "Not every input can be sent: " + shortened(problems, most=10, between="; ")
        if all(each.passing for each in refused):
            hint = "Nothing was sent. Another program may still be writing a file: try again later"
            raise FileNotReady(what, hint=hint)
        raise ConfigurationError(
            what, hint="Nothing was sent. Leave out the inputs that can't be sent"
        )
    new = [each for each in chosen if not groups.is_known(each)]
    units = [_unit(slots, index, gone) for index, slots, gone in groups.rejoined(chosen)]
    if missing := sum(len(unit.missing) for unit in units):
        log.warning("%d files that earlier tries have sent are missing or were changed", missing)
    units += map(_unit, _packed(new) if process_skill else [[file] for file in new])
    return _with_folders_of_their_own(units)


# ------------------------------------------------------------------ units


def _unit(
    slots: Sequence[PlannedFile | str], known: int | None = None, gone: str | None = None
) -> Unit:
    """Return a unit, with the name that its folder gets if no other has the same. Missing files are
    given by their ``short``, and the name of one if it is known."""
    bases = {
        tag_of_name(each.entry.stored_name): each.entry.stored_name
        for each in slots
        if isinstance(each, PlannedFile)
    }
    names, files, missing = UniqueNames(), [], []
    for each in slots:
        if isinstance(each, PlannedFile):
            files.append(each.sent_as(names.take(each.entry.stored_name)))
            continue
        missing.append(each)
        if base := bases.get(tag_in(each)):
            # The missing file had this name, so the next one gets a number, as before.
            names.take(base)
    unit = Unit("", tuple(files), tuple(missing), known)
    if len(slots) > 1:
        folder = f"batch-of-{len(slots)}-{unit.digest[:12]}"
    elif bases or gone:
        folder = safe_name(next(iter(bases.values()), gone or ""))
    else:
        folder = f"sent-earlier-{unit.digest[:12]}"
    return replace(unit, name=folder)


def _packed(files: Iterable[PlannedFile]) -> list[list[PlannedFile]]:
    """Fill one transaction after the other, in order."""
    loads: list[list[PlannedFile]] = []
    room = 0
    for file in files:
        size = file.source.size
        if not loads or len(loads[-1]) == MOST_FILES or size > room:
            loads.append([])
            room = LONGEST_UPLOAD
        loads[-1].append(file)
        room -= size
    return loads


def _with_folders_of_their_own(units: Sequence[Unit]) -> tuple[Unit, ...]:
    counts: dict[str, int] = {}
    for unit in units:
        counts[folded(unit.name)] = counts.get(folded(unit.name), 0) + 1
    names = UniqueNames(*OF_JOB)
    # Not numbers, which would depend on the order: each unit keeps its folder in every try.
    return tuple(
        replace(
            unit,
            name=names.take(
                unit.name
                if counts[folded(unit.name)] == 1
                else suffixed(unit.name, f"-{unit.digest[:12]}")
            ),
        )
        for unit in units
    )


# --------------------------------------- which files to send, and which were sent


def tag_in(short: str) -> str:
    """Return the part of ``short`` that stands for the name."""
    return short[:NAME_DIGITS]


class Groups:
    """The groups of earlier tries, see :func:`plan`. At most one input claims each of their
    files."""

    def __init__(self, known: Sequence[Collection[str]]) -> None:
        self._known = known
        self._free: dict[str, int] = {}
        self._by_content: dict[str, list[str]] = {}
        self._gone: dict[int, str] = {}
        self._claimed: dict[str, int] = {}
        for index, group in enumerate(known):
            for short in group:
                if short not in self._free:
                    self._free[short] = index
                    self._by_content.setdefault(short[NAME_DIGITS:], []).append(short)

    def claim(self, file: PlannedFile) -> PlannedFile:
        """Choose a file, as the one sent under this name or as a new one."""
        if (index := self._free.pop(file.short, None)) is not None:
            self._claimed[file.short] = index
        return file

    def sent(self, file: PlannedFile) -> PlannedFile | None:
        """Choose a file if it was sent under its name."""
        return self.claim(file) if file.short in self._free else None

    def sent_as_another(self, file: PlannedFile) -> PlannedFile | None:
        """Choose a file if its content was sent under a name that no input has now."""
        for short in self._by_content.get(file.short[NAME_DIGITS:], ()):
            if short in self._free:
                return self.claim(replace(file, short=short))
        return None

    def is_known(self, file: PlannedFile) -> bool:
        """Return whether a chosen file belongs to a group."""
        return file.short in self._claimed

    def had(self, base: str) -> bool:
        """Return, once for each, whether a file of that name was sent that is missing now."""
        numbered = (suffixed(base, f"_{number}") for number in range(2, _MOST_EQUAL + 1))
        tags = {tag_of_name(name) for name in (base, *numbered)}
        for short, index in self._free.items():
            if tag_in(short) in tags:
                del self._free[short]
                self._gone[index] = base
                return True
        return False

    def rejoined(
        self, chosen: Iterable[PlannedFile]
    ) -> Iterator[tuple[int, list[PlannedFile | str], str | None]]:
        """Yield index and files of each group that is not empty, with only ``short`` for missing
        files, and the name of a missing one if an input has that name."""
        files: dict[int | None, dict[str, PlannedFile]] = {}
        for each in chosen:
            files.setdefault(self._claimed.get(each.short), {})[each.short] = each
        for index, group in enumerate(self._known):
            if group:
                present = files.get(index, {})
                ordered = group if isinstance(group, Sequence) else [*present, *sorted(group)]
                slots = [present.get(short, short) for short in dict.fromkeys(ordered)]
                yield index, slots, self._gone.get(index)


def choose(
    files: Sequence[PlannedFile], duplicates: Duplicates, groups: Groups
) -> list[PlannedFile]:
    """Choose the files to send, or already sent, in order. Chosen files are claimed; see
    :func:`plan` for equal ones."""
    if duplicates == "send":
        return _each(files, groups)
    alike: dict[str | None, list[int]] = {}
    for number, each in enumerate(files):
        alike.setdefault(each.entry.sha256, []).append(number)
    if duplicates == "fail":
        paths = [[repr(files[n].entry.path) for n in same] for same in alike.values()]
        if equal := [" = ".join(same) for same in paths if len(same) > 1]:
            raise ConfigurationError(
                f"Some inputs have the same content: {shortened(equal, most=10, between='; ')}",
                hint="Nothing was sent. Leave out one of each, or set duplicates to skip or send",
            )
    chosen: dict[int, PlannedFile] = {}
    for same in alike.values():
        # Those that were sent already, else the first.
        those = {n: sent for n in same if (sent := groups.sent(files[n])) is not None}
        if not those:
            first = files[same[0]]
            those = {same[0]: groups.sent_as_another(first) or groups.claim(first)}
        one = next(iter(those))
        others = tuple(str(files[n].entry.path) for n in same if n not in those)
        those[one] = replace(those[one], entry=replace(those[one].entry, duplicates=others))
        chosen |= those
    return [chosen[number] for number in sorted(chosen)]


def _each(files: Iterable[PlannedFile], groups: Groups) -> list[PlannedFile]:
    """Choose every file. Equal files of the same name get numbers, which distinguish them later."""
    used: set[str] = set()
    chosen: list[PlannedFile] = []
    for each in files:
        file, number = each, 2
        while file.short in used:
            file = each.sent_as(suffixed(each.entry.stored_name, f"_{number}"))
            digest = short_digest(file.entry.stored_name, str(file.entry.sha256))
            file = replace(file, short=digest)
            number += 1
        used.add(file.short)
        chosen.append(groups.claim(file))
    return chosen
