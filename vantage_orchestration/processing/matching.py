# SPDX-License-Identifier: Apache-2.0
"""Chooses the files to send: recognises files that earlier tries have sent, and finds equal
files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.inputs import Found, listed
from vantage_orchestration.processing.names import suffixed

__all__ = ["Chosen", "Duplicates", "Groups", "choose", "tag_in", "tag_of_name"]

Duplicates = Literal["skip", "send", "fail"]

#: Files of the same name and content to look for if one of them is missing.
_MOST_EQUAL = 20
#: Hex digits of a short digest: those of the name, then those of the content.
_NAME_DIGITS, _CONTENT_DIGITS = 4, 12


@dataclass(slots=True)
class Chosen:
    """A file to send, or one that was sent.

    Attributes:
        found: The file.
        base: Its name in the service, before it is made unique in its unit.
        short: Short digest by which it is recognised.
        group: Index of its known group; None if it is new.
        duplicates: Paths of files with equal content that are not sent.
    """

    found: Found
    base: str
    short: str
    group: int | None
    duplicates: list[str] = field(default_factory=list)


def tag_of_name(base: str) -> str:
    """Return the part of ``short`` for a name."""
    return hashlib.sha256(base.encode()).hexdigest()[:_NAME_DIGITS]


def tag_in(short: str) -> str:
    """Return the part of ``short`` that stands for the name."""
    return short[:_NAME_DIGITS]


def _short(base: str, sha256: str) -> str:
    return tag_of_name(base) + sha256[:_CONTENT_DIGITS]


class Groups:
    """The groups of earlier tries. At most one input claims each of their files.

    Args:
        known: Groups of ``short``; see :func:`vantage_orchestration.processing.plan.plan`.
    """

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

    def claim(self, found: Found, base: str) -> Chosen:
        """Choose a file, as the one sent under this name or as a new one."""
        short = _short(base, found.sha256)
        return Chosen(found, base, short, self._free.pop(short, None))

    def sent(self, found: Found) -> Chosen | None:
        """Choose a file if it was sent under its name."""
        known = _short(found.base, found.sha256) in self._free
        return self.claim(found, found.base) if known else None

    def sent_as_another(self, found: Found) -> Chosen | None:
        """Choose a file if its content was sent under a name that no input has now."""
        for short in self._by_content.get(found.sha256[:_CONTENT_DIGITS], ()):
            if short in self._free:
                return Chosen(found, found.base, short, self._free.pop(short))
        return None

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
        self, chosen: Iterable[Chosen]
    ) -> Iterator[tuple[int, list[Chosen | str], str | None]]:
        """Yield each group that is not empty.

        Yields:
            Its index; its files in order, with only ``short`` for missing ones; and the name of a
            missing file, if an input has that name.
        """
        files: dict[int | None, dict[str, Chosen]] = {}
        for each in chosen:
            files.setdefault(each.group, {})[each.short] = each
        for index, group in enumerate(self._known):
            if group:
                present = files.get(index, {})
                ordered = group if isinstance(group, Sequence) else [*present, *sorted(group)]
                slots = [present.get(short, short) for short in dict.fromkeys(ordered)]
                yield index, slots, self._gone.get(index)


def choose(found: Sequence[Found], duplicates: Duplicates, groups: Groups) -> list[Chosen]:
    """Choose the files to send, or already sent, in order.

    Args:
        found: Files that can be sent.
        duplicates: What to do with files of equal content: ``skip``, ``send`` or ``fail``.
        groups: Files sent by earlier tries; chosen files are claimed.

    Raises:
        ConfigurationError: There are equal files, and ``duplicates`` is ``fail``.
    """
    if duplicates == "send":
        return _each(found, groups)
    alike = _alike(found)
    if duplicates == "fail":
        _refuse_equal(alike)
    chosen = _one_of_each(alike, groups)
    place = {id(each): number for number, each in enumerate(found)}
    return sorted(chosen, key=lambda each: place[id(each.found)])


def _each(found: Iterable[Found], groups: Groups) -> list[Chosen]:
    """Choose every file. Equal files of the same name get numbers, which distinguish them later."""
    used: set[tuple[str, str]] = set()
    chosen: list[Chosen] = []
    for each in found:
        base, number = each.base, 2
        while (base, each.sha256) in used:
            base = suffixed(each.base, f"_{number}")
            number += 1
        used.add((base, each.sha256))
        chosen.append(groups.claim(each, base))
    return chosen


def _alike(found: Sequence[Found]) -> list[list[Found]]:
    """Group the files by content, in the order of the first of each group."""
    by_content: dict[str, list[Found]] = {}
    for each in found:
        by_content.setdefault(each.sha256, []).append(each)
    return list(by_content.values())


def _refuse_equal(alike: Iterable[Sequence[Found]]) -> None:
    equal = [" = ".join(repr(each.path) for each in same) for same in alike if len(same) > 1]
    if equal:
        raise ConfigurationError(
            f"Some inputs have the same content: {listed(equal)}",
            hint="Nothing was sent. Leave out one of each, or set duplicates to skip or send",
        )


def _one_of_each(alike: Iterable[Sequence[Found]], groups: Groups) -> list[Chosen]:
    """Choose one file of each content: one that was already sent, otherwise the first."""
    chosen: list[Chosen] = []
    for same in alike:
        those = [sent for each in same if (sent := groups.sent(each)) is not None]
        if not those:
            one = groups.sent_as_another(same[0]) or groups.claim(same[0], same[0].base)
            those = [one]
        taken = {id(each.found) for each in those}
        those[0].duplicates += [each.path for each in same if id(each) not in taken]
        chosen += those
    return chosen
