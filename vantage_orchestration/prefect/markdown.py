# SPDX-License-Identifier: Apache-2.0
"""Shows external text in Markdown, which Prefect's interface renders in artifacts."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 300
#: Line ends, changes of the writing direction, and invisible characters.
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]+"
)


def literal(text: object) -> str:
    """Return Markdown that shows a text as it is, as code in one line.

    Links (even bare addresses that some renderers turn into links), images, HTML and entities mean
    nothing in code. A pipe would end a table cell even there, so it becomes a broken bar. A long
    text is cut.
    """
    shown = " ".join(_UNSEEN.sub(" ", str(text)).replace("|", "¦").split())
    if len(shown) > _LONGEST:
        shown = shown[: _LONGEST - 1] + "…"
    if not shown:
        return ""
    # Longer than any in the text, and separated from one at its start or end.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{space}{shown}{space}{fence}"
