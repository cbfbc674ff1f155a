# SPDX-License-Identifier: Apache-2.0
"""Text of others in Markdown, which is what Prefect's interface makes of artifacts."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["literal"]

_LONGEST: Final = 300
#: What ends a line, turns the direction of writing, or is not seen at all.
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]+"
)


def literal(text: object) -> str:
    """Return a text as Markdown that shows it as it is, as code in one line, and nothing else.

    Neither links (also addresses that some renderers turn into links by themselves), images, HTML
    nor entities mean anything in code. A pipe would end a cell of a table even there, so it becomes
    a broken bar.

    Args:
        text: Anything. It is cut where it is long.

    Returns:
        Markdown; nothing if the text is empty.
    """
    shown = " ".join(_UNSEEN.sub(" ", str(text)).replace("|", "¦").split())
    if len(shown) > _LONGEST:
        shown = shown[: _LONGEST - 1] + "…"
    if not shown:
        return ""
    # Longer than any in the text; and apart from one at its begin or end.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{space}{shown}{space}{fence}"
