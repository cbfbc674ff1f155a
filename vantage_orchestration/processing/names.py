# SPDX-License-Identifier: Apache-2.0
"""Names of files and folders that are valid in every store and unique.

Names come from outside: from the service, which takes them from skills, and from inputs. They may
contain path separators, control characters, or names that a system reserves.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata

#: File that describes the content of a folder.
MANIFEST = "manifest.json"
#: File that lists the landed files of a transaction, until all have landed.
LANDED = "landed.json"
#: File that lists the transactions of a job, until it is finished.
SUBMITTED = "submitted.json"
#: Folder of a job's tables.
TABLES = "tables"
#: Names in the folder of a job that no transaction and no class may have there.
OF_JOB = (MANIFEST, SUBMITTED, TABLES)
#: Class of a document that has none.
UNCLASSIFIED = "unclassified"
#: Longest name in characters and bytes (UTF-8). File systems allow 255 bytes; a temporary part
#: needs some more.
LONGEST = 120
LONGEST_BYTES = 200
_LONGEST_EXTENSION = 16

# Characters that Windows forbids, that split a URL, or that form a pattern.
_FORBIDDEN = frozenset('<>:"/\\|?*#%[]')
# Control and format characters (text that runs backwards), halves of pairs, line separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(?=\s*(\.|$))", re.IGNORECASE)


def safe_name(name: str) -> str:
    """Return a name for a file or folder that is valid in every store and leads nowhere else.

    Invalid characters become ``_``. The result has up to 120 characters and keeps the extension.
    The same name always gives the same result; a safe name is unchanged; two names may give the
    same result.
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
    """Return ``name`` with ``suffix`` before its extension, within the length limit."""
    stem, extension = _split(name)
    return _fitted(stem, suffix + extension)


class UniqueNames:
    """Provides names that differ from each other and from those that are already taken, even for
    stores that treat ``A`` and ``a`` as the same."""

    def __init__(self, *taken: str) -> None:
        self._taken = {folded(name) for name in taken}
        self._next: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Return ``name``, or ``name_2``, ``name_3`` and so on if it is taken."""
        key = folded(name)
        candidate, number = name, self._next.get(key, 2)
        while folded(candidate) in self._taken:
            candidate = suffixed(name, f"_{number}")
            number += 1
        self._next[key] = number
        self._taken.add(folded(candidate))
        return candidate


def folded(name: str) -> str:
    """Return a key that is equal for names that some store treats as the same. In a transaction no
    two files have the same."""
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
