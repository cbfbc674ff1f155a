# SPDX-License-Identifier: Apache-2.0
"""The two lists of transactions with their filters (contract, section 3.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pendulum

from .bodies import Parameter, read_json
from .clock import utc_text
from .problems import Problem
from .settings import SandboxSettings
from .transactions import CANCELED, ENDED, IN_REVIEW, NEW, PROCESSING, Transaction

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

    def parameters(self, name: str, understood: str) -> list[dict[str, str]] | None:
        """Return key and value filters.

        The manual repeats the name with a JSON object as text; the framework's own habit is
        ``Name[0].key=...&Name[0].value=...``. Which one the service wants is uncertain, so what
        is read can be set.

        Args:
            name: Name of the filter.
            understood: One of ``PARAMETER_FILTERS``.

        Returns:
            The filters; None if there are some and they are misread, so that nothing fits.

        Raises:
            Problem: 400.
        """
        found: list[dict[str, str]] = []
        indexed: dict[int, dict[str, str]] = {}
        pattern = re.compile(re.escape(name.lower()) + r"\[(\d{1,4})\]\.(key|value)")
        for key, value in self._pairs:
            match = pattern.fullmatch(key)
            if key != name.lower() and match is None:
                continue
            if understood == "misread":
                return None
            if understood == "refused":
                raise _wrong(name, "The value is not valid.")
            if match is None and understood in ("both", "json"):
                found.append(_pair(name, read_json(value, name)))
            elif match is not None and understood in ("both", "indexed"):
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
    transaction_parameters: list[dict[str, str]] | None
    document_parameters: list[dict[str, str]] | None
    offset: int
    limit: int
    list_new: bool
    order: str

    def fits(self, item: Transaction) -> bool:
        """Whether the filters other than stage and status let a transaction pass."""
        return (
            (self.start is None or item.created >= self.start)
            and item.created <= self.end
            and (self.skill_id is None or item.skill.id == self.skill_id)
            and (self.skill_version is None or item.skill.version == self.skill_version)
            and _has_all(item.listed_parameters, self.transaction_parameters)
            and _has_all(item.file_parameters, self.document_parameters)
        )

    def shows(self, phase: str) -> bool:
        """Whether the phase of a transaction puts it on this list."""
        if self.active:
            return (
                (phase in (PROCESSING, IN_REVIEW) or (phase == NEW and self.list_new))
                and self.stage in (None, _stage(phase))
                and self.stage_name in (None, _stage_name(phase))
            )
        return phase in ENDED and self.status in (None, _listed_status(phase))


def read_filter(
    query: Query, now: pendulum.DateTime, settings: SandboxSettings, *, active: bool
) -> ListFilter:
    """Read the query of a list call.

    Args:
        query: The query.
        now: The present moment.
        settings: Settings of the sandbox.
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
        query.parameters("TransactionParameters", settings.parameter_filter),
        query.parameters("DocumentParameters", settings.parameter_filter),
        query.number("Offset", 0, 0, 2**31 - 1) or 0,
        limit,
        settings.list_new,
        settings.list_order,
    )


def page(items: Iterable[Transaction], filters: ListFilter, at: float) -> str:
    """Return one page of a list as JSON text.

    Members without a value are left out, as the service does.

    Args:
        items: The transactions that fit the filters other than stage and status.
        filters: The filters.
        at: The moment of the clock whose state is shown.
    """
    found = [
        (item, phase)
        for item in items
        if (phase := item.phase(at)) is not None and filters.shows(phase)
    ]
    if filters.order == "mixed":
        found.sort(key=lambda pair: pair[0].id)
    else:
        found.sort(key=lambda pair: pair[0].created_at, reverse=filters.order == "newest")
    shown = found[filters.offset : filters.offset + filters.limit]
    entries = ",".join(_entry_text(item, phase) for item, phase in shown)
    return f'{{"items":[{entries}],"totalItemCount":{len(found)}}}'


def _entry_text(item: Transaction, phase: str) -> str:
    """Return the entry as JSON text, which is kept: a list of a thousand is asked for often."""
    text = item.entries.get(phase)
    if text is None:
        text = json.dumps(_entry(item, phase), ensure_ascii=False)
        if item.status != NEW:
            item.entries[phase] = text
    return text


def _entry(item: Transaction, phase: str) -> dict[str, Any]:
    if phase in ENDED:
        head: dict[str, Any] = {"status": _listed_status(phase), "pageCount": item.page_count}
    else:
        head = {"stage": _stage(phase)}
        if _stage_name(phase) is not None:
            head["stageName"] = _stage_name(phase)
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


def _stage(phase: str) -> str:
    return "ManualReview" if phase == IN_REVIEW else "Automatic"


def _stage_name(phase: str) -> str | None:
    return REVIEW_STAGE_NAME if phase == IN_REVIEW else None


def _listed_status(phase: str) -> str:
    """The lists spell it with two l's (contract, section 4)."""
    return "Cancelled" if phase == CANCELED else phase


def _has_all(
    parameters: Callable[[], list[Parameter]], wanted: list[dict[str, str]] | None
) -> bool:
    if not wanted:
        return wanted is not None
    given = parameters()
    return all(
        any(
            parameter.key == pair.get("key", parameter.key)
            and parameter.value == pair.get("value", parameter.value)
            for parameter in given
        )
        for pair in wanted
    )
