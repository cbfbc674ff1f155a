# SPDX-License-Identifier: Apache-2.0
"""Reads what Prefect's API lists, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from vantage_orchestration.paging import Chunk, Pages

T = TypeVar("T")

#: Objects per page, and ids in one query.
_TOGETHER: Final = 200


def listed(read: Callable[..., Sequence[Any]], **query: Any) -> Iterator[Any]:
    """Yield all objects that a method of Prefect's client lists for a query."""

    def page(offset: int) -> Chunk[Any]:
        return Chunk(read(limit=_TOGETHER, offset=offset, **query), None, _TOGETHER)

    for found in Pages(page, lambda each: each.id):
        yield from found.items


def listed_of(
    read: Callable[..., Sequence[Any]],
    ids: Sequence[T],
    query: Callable[[list[T]], Mapping[str, Any]],
) -> Iterator[Any]:
    """Yield the same for many ids, some of which each ``query`` names."""
    for place in range(0, len(ids), _TOGETHER):
        yield from listed(read, **query([*ids[place : place + _TOGETHER]]))
