# SPDX-License-Identifier: Apache-2.0
"""Names of files and folders that every store takes, and that differ from each other.

Names come from outside: from the service, which takes them from skills, and from inputs. They may
hold path separators, control characters, or names that a system keeps for itself.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata

__all__ = ["LANDED", "MANIFEST", "SUBMITTED", "UniqueNames", "folded", "safe_name", "suffixed"]

#: Name of the file that says what is in a folder.
MANIFEST = "manifest.json"
#: Name of the file that says which files of a transaction have landed, until all have.
LANDED = "landed.json"
#: Name of the file that says what a job has begun, until it is finished.
SUBMITTED = "submitted.json"
#: Characters and bytes (UTF-8) of a name. File systems take 255 bytes; a part needs some more.
LONGEST = 120
LONGEST_BYTES = 200
_LONGEST_EXTENSION = 16

# What Windows forbids, what splits an URL, and what a pattern would be made of.
_FORBIDDEN = frozenset('<>:"/\\|?*#%[]')
# Control and format characters (text that runs backwards), halves of pairs, line separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(?=\s*(\.|$))", re.IGNORECASE)


def safe_name(name: str) -> str:
    """Return a name for a file or folder that every store takes and that leads nowhere else.

    What can't stay becomes ``_``. It is up to 120 characters long and keeps its extension. The
    same name always gives the same; a safe name gives itself; two names may give the same.
    """
    text = "".join(
        "_" if char in _FORBIDDEN or unicodedata.category(char) in _UNPRINTABLE else char
        for char in unicodedata.normalize("NFC", name)
    )
    text = _trimmed(text)
    if _DEVICE.match(text):
        text = f"_{text}"
    stem, extension = _split(text)
    return _trimmed(_fitted(stem, extension))


def suffixed(name: str, suffix: str) -> str:
    """Return ``name`` with ``suffix`` before its extension, not longer than a name may be."""
    stem, extension = _split(name)
    return _fitted(stem, suffix + extension)


class UniqueNames:
    """Gives names that differ, also for stores that take ``A`` and ``a`` for the same.

    Args:
        taken: Names that are not to be given.
    """

    def __init__(self, *taken: str) -> None:
        self._taken = {folded(name) for name in taken}
        self._next: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Return ``name``, or ``name_2``, ``name_3`` and so on if it was taken before."""
        key = folded(name)
        candidate, number = name, self._next.get(key, 2)
        while folded(candidate) in self._taken:
            candidate = suffixed(name, f"_{number}")
            number += 1
        self._next[key] = number
        self._taken.add(folded(candidate))
        return candidate


def folded(name: str) -> str:
    """Return what is equal for names that some store takes for the same."""
    return unicodedata.normalize("NFC", name.casefold())


def _trimmed(text: str) -> str:
    text = text.strip().rstrip(". ")
    hidden = len(text) - len(text.lstrip("."))
    return "_" * hidden + text[hidden:] or "_"


def _split(name: str) -> tuple[str, str]:
    stem, extension = posixpath.splitext(name)
    return (stem, extension) if len(extension) <= _LONGEST_EXTENSION else (name, "")


def _fitted(stem: str, tail: str) -> str:
    stem = stem[: LONGEST - len(tail)]
    room = LONGEST_BYTES - len(tail.encode("utf-8", "surrogatepass"))
    stem = stem.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
    return stem + tail
