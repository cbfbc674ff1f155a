# SPDX-License-Identifier: Apache-2.0
"""Which ended transactions a consumer fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration.processing.keys import KEY_PARAMETER
from vantage_orchestration.status import ENDED

if TYPE_CHECKING:
    from collections.abc import Collection

    from pendulum import DateTime

    from vantage_orchestration.models import ListedTransaction

__all__ = ["CompletedFilter", "sent_through_api"]


@dataclass(frozen=True, slots=True)
class CompletedFilter:
    """Which ended transactions to fetch.

    Args:
        statuses: Final statuses: ``Processed``, ``Failed``, ``Canceled``.
        include_api: Whether to include transactions that were sent through the API.
        since: Only transactions created since then.
    """

    statuses: frozenset[str]
    include_api: bool
    since: DateTime | None = None

    @classmethod
    def of(
        cls, statuses: Collection[str], include_api: bool, since: str | None = None
    ) -> CompletedFilter:
        """Create a filter from arguments; ``since`` is ISO 8601 text.

        Raises:
            ValueError: An argument is invalid.
        """
        if isinstance(statuses, str) or not statuses or not set(statuses) <= ENDED:
            raise ValueError(f"statuses is {statuses!r}; give some of {', '.join(sorted(ENDED))}")
        return cls(frozenset(statuses), include_api, _instant(since))

    def fits(self, item: ListedTransaction) -> bool:
        """Return whether a transaction passes the filter."""
        if item.status not in self.statuses:
            return False
        if self.since is not None and (item.created_at is None or item.created_at < self.since):
            return False
        return self.include_api or not sent_through_api(item)

    def to_json(self) -> dict[str, Any]:
        """Return the filter as JSON."""
        return {
            "statuses": sorted(self.statuses),
            "include_api": self.include_api,
            "since": self.since.to_iso8601_string() if self.since else None,
        }

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> CompletedFilter:
        """Read the result of :meth:`to_json`."""
        return cls.of(state["statuses"], bool(state["include_api"]), state["since"])


def sent_through_api(item: ListedTransaction) -> bool:
    """Return whether a program sent it through the API, and so probably waits for it."""
    return item.parameters.get("App") == "PublicAPI" or KEY_PARAMETER in item.parameters


def _instant(text: str | None) -> DateTime | None:
    if text is None:
        return None
    import pendulum

    try:
        found = pendulum.parse(text, tz="UTC")
    except ValueError:
        found = None
    if not isinstance(found, pendulum.DateTime):
        raise ValueError(f"since is {text!r}; give a date and time such as 2026-03-01T00:00:00Z")
    return found
