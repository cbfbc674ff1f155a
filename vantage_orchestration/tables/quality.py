# SPDX-License-Identifier: Apache-2.0
"""Finds what is wrong with a document: uncertain or missing fields, broken rules.

What a person verified in a manual review counts as certain, whatever its confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vantage_orchestration.arguments import plain
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.tables.reading import (
    Content,
    Entry,
    confidence_of,
    is_group,
    members,
    values_by_name,
)


class Finding(NamedTuple):
    """Something wrong with a document."""

    #: Path of the field, such as ``Items[2].Amount``; empty for the whole document.
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class QualityRules:
    """The requirements for a document.

    Args:
        min_confidence: Lowest confidence of every field, 0 to 100; or a mapping of field names to
            that, such as ``{"Total": 90, "Items.Amount": 80}``, which ignores all other fields. A
            value without a confidence, as a rule computes, passes unless its field is named.
        required_fields: Names of fields that must have a value. A column of a table, such as
            ``Items.Amount``, needs a value in each row.
        rule_errors: Whether broken business rules count.

    Raises:
        ConfigurationError: A value is invalid.
    """

    min_confidence: float | Mapping[str, float] | None = None
    required_fields: Sequence[str] = ()
    rule_errors: bool = False

    def __post_init__(self) -> None:
        given = self.min_confidence
        for limit in map(plain, given.values() if isinstance(given, Mapping) else (given,)):
            if limit is not None and (
                isinstance(limit, bool)
                or not isinstance(limit, (int, float))
                or not 0 <= limit <= 100
            ):
                raise ConfigurationError(f"min_confidence is {limit!r}; give a number, 0 to 100")
        fields = self.required_fields
        if isinstance(fields, str) or not all(isinstance(f, str) and f for f in fields):
            raise ConfigurationError(
                "required_fields must be a list of field names, such as ['Total', 'Items.Amount']"
            )

    def __bool__(self) -> bool:
        return self.min_confidence is not None or bool(self.required_fields) or self.rule_errors

    def findings(
        self, content: Content | None, problems: Sequence[str], rules: Sequence[str]
    ) -> list[Finding]:
        """Return what is wrong with a document.

        It has no content if no file with fields is readable; ``problems`` say why. ``rules`` are
        the messages of the broken rules.
        """
        found = [Finding("", problem) for problem in problems] if self else []
        if self.rule_errors:
            found += [Finding("", f"A business rule is broken: {rule}") for rule in rules]
        entries = content.entries if content is not None else ()
        if self.min_confidence is not None:
            uncertain = list(self._uncertain(entries))
            known = bool(uncertain) or isinstance(self.min_confidence, Mapping) or _known(entries)
            if content is not None and not (content.has_confidences and known):
                found.append(Finding("", "No Json says how certain the fields are"))
            found += uncertain
        for name in self.required_fields:
            missing = _missing(entries, name.split("."), "")
            found += [Finding(path, "The field has no value") for path in missing]
        return found

    def _uncertain(self, entries: Sequence[Entry]) -> Iterator[Finding]:
        given = self.min_confidence
        for path, field, item in _values(entries, "", ""):
            limit = given.get(field) if isinstance(given, Mapping) else given
            if limit is None or item.get("isVerified") is True:
                continue
            confidence = confidence_of(item)
            stated = (item.get("Annotation") or {}).get("Confidence") is not None
            if confidence is not None and confidence < limit:
                yield Finding(path, f"The confidence is {confidence}, below {limit:g}")
            elif confidence is None and (
                stated or (given is not limit and _has_value(item.get("Value")))
            ):
                yield Finding(path, f"The confidence is unknown, not {limit:g} or more")


def _known(entries: Sequence[Entry]) -> bool:
    """Return whether any value has a confidence or was verified, if there are values."""
    items = [item for _, _, item in _values(entries, "", "") if _has_value(item.get("Value"))]
    return not items or any(
        confidence_of(each) is not None or each.get("isVerified") is True for each in items
    )


def field_names(entries: Sequence[Entry], field: str = "") -> set[str]:
    """Return the names of all fields, such as ``Items.Amount``, whether they have a value."""
    found: set[str] = set()
    for name, items in values_by_name(entries).items():
        its = f"{field}.{name}" if field else name
        inner = (item.get("Value") for item in items)
        found |= {its}.union(*(field_names(members(v), its) for v in inner if is_group(v)))
    return found


def _values(
    entries: Sequence[Entry], path: str, field: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield path, field and item of each single value."""
    for name, items in values_by_name(entries).items():
        for number, item in enumerate(items, 1):
            position = f"[{number}]" if len(items) > 1 else ""
            here = f"{path}.{name}{position}" if path else f"{name}{position}"
            its = f"{field}.{name}" if field else name
            value = item.get("Value")
            if is_group(value):
                yield from _values(members(value), here, its)
            else:
                yield here, its, item


def _missing(entries: Sequence[Entry], parts: Sequence[str], path: str) -> Iterator[str]:
    """Yield the paths at which a field has no value. A name may contain dots itself."""
    known = values_by_name(entries)
    count = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), len(parts))
    name, rest = ".".join(parts[:count]), parts[count:]
    here = f"{path}.{name}" if path else name
    items = known.get(name, ())
    if not rest:
        if not any(_has_value(item.get("Value")) for item in items):
            yield here
        return
    groups = [item.get("Value") for item in items]
    if not groups:
        yield ".".join((here, *rest))
    for number, group in enumerate(groups, 1):
        position = f"[{number}]" if len(groups) > 1 else ""
        inner = members(group) if isinstance(group, Mapping) else ()
        yield from _missing(inner, rest, here + position)


def _has_value(value: Any) -> bool:
    if is_group(value):
        return any(_has_value(item.get("Value")) for _, _, item in _values(members(value), "", ""))
    return value is not None and str(value).strip() != ""
