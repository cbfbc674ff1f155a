# SPDX-License-Identifier: Apache-2.0
"""Which ended transactions a consumer fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage_orchestration.options import Options
from vantage_orchestration.processing.keys import KEY_PARAMETER

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.models import ListedTransaction


@dataclass(frozen=True, slots=True)
class CompletedFilter:
    """Which ended transactions to fetch; see :class:`vantage_orchestration.options.Options`."""

    statuses: frozenset[str]
    include_api: bool
    since: DateTime | None = None

    @classmethod
    def of(cls, options: Options) -> CompletedFilter:
        """Return the filter that the options of a task ask for."""
        return cls(frozenset(options.statuses), options.include_api, options.since)

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
        return cls.of(Options.of(**{name: state[name] for name in cls.__dataclass_fields__}))


def sent_through_api(item: ListedTransaction) -> bool:
    """Return whether a program sent it through the API, and so probably waits for it."""
    return item.parameters.get("App") == "PublicAPI" or KEY_PARAMETER in item.parameters
