# SPDX-License-Identifier: Apache-2.0
"""The two lists of transactions with their filters (contract, section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pendulum

from .bodies import Parameter, read_json
from .clock import utc_text
from .problems import Problem
from .transactions import CANCELED, ENDED, PROCESSING, Transaction

STAGES = ("ManualReview", "CustomActivity", "Automatic")
LISTED_STATUSES = ("Processed", "Cancelled", "Failed")
REVIEW_STAGE_NAME = "Review"
MAX_LIMIT = 1000


class Query:
    """Members of a query; names are matched without regard to case."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]

    def one(self, name: str) -> str | None:
        """Return the value of a member that may be given once.

        Raises:
            Problem: 400, it is given more than once.
        """
        values = [value for key, value in self._pairs if key == name.lower()]
        if len(values) > 1:
            raise _wrong(name, "The value is given more than once.")
        return values[0] if values and values[0] else None

    def number(self, name: str, default: int | None, least: int, most: int) -> int | None:
        """Return a whole number within limits.

        Raises:
            Problem: 400.
        """
        text = self.one(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?\d{1,10}", text) or not least <= int(text) <= most:
            raise _wrong(name, f"The value must be a whole number from {least} to {most}.")
        return int(text)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Return one of the choices; case does not matter.

        Raises:
            Problem: 400.
        """
        text = self.one(name)
        if text is None:
            return None
        for item in choices:
            if item.lower() == text.lower():
                return item
        raise _wrong(name, f"The value must be one of {', '.join(choices)}.")

    def moment(self, name: str) -> pendulum.DateTime | None:
        """Return a date-time; without a zone it is UTC.

        Raises:
            Problem: 400.
        """
        text = self.one(name)
        if text is None:
            return None
        try:
            found = pendulum.parse(text, tz="UTC")
        except (ValueError, OverflowError) as error:
            raise _wrong(name, "The value must be a date and time.") from error
        if not isinstance(found, pendulum.DateTime):
            raise _wrong(name, "The value must be a date and time.")
        return found.in_timezone("UTC")

    def parameters(self, name: str) -> list[dict[str, str]]:
        """Return key and value filters, in either encoding.

        The manual repeats the name with a JSON object as text; the framework's own habit is
        ``Name[0].key=...&Name[0].value=...``. Which one the service wants is uncertain, so both
        are read.

        Raises:
            Problem: 400.
        """
        found: list[dict[str, str]] = []
        indexed: dict[int, dict[str, str]] = {}
        pattern = re.compile(re.escape(name.lower()) + r"\[(\d{1,4})\]\.(key|value)")
        for key, value in self._pairs:
            if key == name.lower():
                found.append(_pair(name, read_json(value, name)))
            elif match := pattern.fullmatch(key):
                indexed.setdefault(int(match[1]), {})[match[2]] = value
        return found + [indexed[place] for place in sorted(indexed)]


def _pair(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong(name, "Each value must be a JSON object.")
    pair: dict[str, str] = {}
    for member, item in value.items():
        if member.lower() not in ("key", "value") or not isinstance(item, (str, type(None))):
            raise _wrong(name, "Each value must be an object of the texts key and value.")
        if item is not None:
            pair[member.lower()] = item
    return pair


def _wrong(name: str, text: str) -> Problem:
    return Problem(400, errors={name: [text]})


@dataclass(frozen=True)
class ListFilter:
    """The filters of a list call."""

    active: bool
    stage: str | None
    stage_name: str | None
    status: str | None
    skill_id: str | None
    skill_version: int | None
    start: pendulum.DateTime | None
    end: pendulum.DateTime
    transaction_parameters: list[dict[str, str]]
    document_parameters: list[dict[str, str]]
    offset: int
    limit: int

    def fits(self, item: Transaction) -> bool:
        """Whether the filters other than stage and status let a transaction pass."""
        return (
            (self.skill_id is None or item.skill.id == self.skill_id)
            and (self.skill_version is None or item.skill.version == self.skill_version)
            and (self.start is None or item.created >= self.start)
            and item.created <= self.end
            and _has_all(item.listed_parameters(), self.transaction_parameters)
            and _has_all(item.file_parameters(), self.document_parameters)
        )

    def shows(self, item: Transaction) -> bool:
        """Whether the state of a transaction puts it on this list."""
        if self.active:
            return (
                item.status == PROCESSING
                and self.stage in (None, _stage(item))
                and self.stage_name in (None, _stage_name(item))
            )
        return item.status in ENDED and self.status in (None, _listed_status(item))


def read_filter(query: Query, now: pendulum.DateTime, *, active: bool) -> ListFilter:
    """Read the query of a list call.

    Args:
        query: The query.
        now: The present moment.
        active: Whether it is the list of running transactions.

    Raises:
        Problem: 400, a member is missing or wrong, or EndDate is not after StartDate.
    """
    limit = query.number("Limit", None, 1, MAX_LIMIT)
    if limit is None:
        raise _wrong("Limit", "The Limit field is required.")
    start, end = query.moment("StartDate"), query.moment("EndDate") or now
    if start is not None and end <= start:
        raise _wrong("EndDate", "EndDate must be after StartDate.")
    return ListFilter(
        active,
        query.choice("StageType", STAGES) if active else None,
        query.one("StageName") if active else None,
        None if active else query.choice("TransactionStatus", LISTED_STATUSES),
        query.one("SkillId"),
        query.number("SkillVersion", None, -(2**31), 2**31 - 1),
        start,
        end,
        query.parameters("TransactionParameters"),
        query.parameters("DocumentParameters"),
        query.number("Offset", 0, 0, 2**31 - 1) or 0,
        limit,
    )


def page(items: list[Transaction], filters: ListFilter) -> dict[str, Any]:
    """Return one page of a list. Members without a value are left out, as the service does."""
    shown = items[filters.offset : filters.offset + filters.limit]
    return {
        "items": [_entry(item, active=filters.active) for item in shown],
        "totalItemCount": len(items),
    }


def _entry(item: Transaction, *, active: bool) -> dict[str, Any]:
    if active:
        head: dict[str, Any] = {"stage": _stage(item)}
        if _stage_name(item) is not None:
            head["stageName"] = _stage_name(item)
    else:
        head = {"status": _listed_status(item), "pageCount": item.page_count}
    return {
        **head,
        "transactionId": item.id,
        "createTimeUtc": utc_text(item.created),
        "transactionParameters": [_parameter(p) for p in item.listed_parameters()],
        "fileParameters": [_parameter(p) for p in item.file_parameters()],
        "skillId": item.skill.id,
        "skillVersion": item.skill.version,
        "documentCount": len(item.documents),
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {"isReadOnly": True, "key": parameter.key, "value": parameter.value}


def _stage(item: Transaction) -> str:
    return "ManualReview" if item.in_review else "Automatic"


def _stage_name(item: Transaction) -> str | None:
    return REVIEW_STAGE_NAME if item.in_review else None


def _listed_status(item: Transaction) -> str:
    """The lists spell it with two l's (contract, section 4)."""
    return "Cancelled" if item.status == CANCELED else item.status


def _has_all(parameters: Iterable[Parameter], wanted: list[dict[str, str]]) -> bool:
    given = list(parameters)
    return all(
        any(
            parameter.key == pair.get("key", parameter.key)
            and parameter.value == pair.get("value", parameter.value)
            for parameter in given
        )
        for pair in wanted
    )
