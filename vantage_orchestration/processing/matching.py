# SPDX-License-Identifier: Apache-2.0
"""Chooses the files to send: recognises files that earlier tries have sent, and finds equal
files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.inputs import (
    NAME_DIGITS,
    PlannedFile,
    short_digest,
    tag_of_name,
)
from vantage_orchestration.processing.names import suffixed
from vantage_orchestration.text import shortened

if TYPE_CHECKING:
    from vantage_orchestration.options import Duplicates

#: Files of the same name and content to look for if one of them is missing.
_MOST_EQUAL = 20


def tag_in(short: str) -> str:
    """Return the part of ``short`` that stands for the name."""
    return short[:NAME_DIGITS]


class Groups:
    """The groups of earlier tries, see :func:`.plan.plan`. At most one input claims each of their
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
    :func:`.plan.plan` for equal ones."""
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
