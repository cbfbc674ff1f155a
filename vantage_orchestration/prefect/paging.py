# SPDX-License-Identifier: Apache-2.0
"""Reads what Prefect's API lists, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from vantage_orchestration.paging import Chunk, Pages

#: Objects per page.
_TOGETHER: Final = 200


def listed(read: Callable[..., Sequence[Any]], **query: Any) -> Iterator[Any]:
    """Yield all objects that a method of Prefect's client lists for a query."""

    def page(offset: int) -> Chunk[Any]:
        return Chunk(read(limit=_TOGETHER, offset=offset, **query), None, _TOGETHER)

    for found in Pages(page, lambda each: each.id):
        yield from found.items
