# SPDX-License-Identifier: Apache-2.0
"""Finds a skill by its id or name."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from vantage_orchestration import arguments
from vantage_orchestration.errors import (
    ConfigurationError,
    Forbidden,
    NotFound,
    VantageError,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import Skill

__all__ = ["forget_skills", "skill_id_of", "skill_of", "unknown_skill"]

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
#: Seconds for which a process caches the id of a name.
_KEPT: Final = 600.0
#: Skills named in an error.
_NAMED: Final = 5
_found: dict[tuple[str, ...], tuple[str, float]] = {}


@translated
def skill_id_of(client: VantageClient, skill: str) -> str:
    """Return the id of a skill. The result is cached for ten minutes.

    Args:
        client: Client.
        skill: Id or exact name. A UUID is used as it is, without a request. So is any other value
            if the caller may use skills but not list them.

    Raises:
        ConfigurationError: It is empty, or several skills have this name.
        NotFound: No published skill accessible to the caller has this id or name.
    """
    wanted = arguments.text("skill", skill)
    if _UUID.fullmatch(wanted):
        return wanted
    key = (*client.config.credentials.account, wanted)
    known, since = _found.get(key, ("", 0.0))
    if known and time.monotonic() - since < _KEPT:
        return known
    try:
        skills = client.list_skills()
    except Forbidden:
        return wanted
    found = _match(skills, wanted)
    _found[key] = (found, time.monotonic())
    return found


def _match(skills: Sequence[Skill], wanted: str) -> str:
    if any(each.id == wanted for each in skills):
        return wanted
    ids = [each.id for each in skills if each.name == wanted]
    if len(ids) > 1:
        raise ConfigurationError(
            f"{len(ids)} skills are called {wanted!r}", hint=f"Give one of the ids {', '.join(ids)}"
        )
    if not ids:
        raise _missing(skills, wanted)
    return ids[0]


def skill_of(client: VantageClient, skill_id: str) -> Skill:
    """Return a skill.

    Raises:
        NotFound: There is no such published skill; the error names similar ones.
        Forbidden: The caller may not read it. It may still be used.
    """
    try:
        return client.get_skill(skill_id)
    except NotFound as error:
        failure = unknown_skill(client, skill_id, error)
    raise failure


def unknown_skill(client: VantageClient, skill_id: str, error: NotFound) -> NotFound:
    """Return the error for an unknown skill, with similar ones."""
    forget_skills(skill_id)
    try:
        found = _missing(client.list_skills(), skill_id)
    except VantageError:
        return error
    return NotFound(found.what, **{**error.details(), "hint": found.hint})


def forget_skills(skill_id: str | None = None) -> None:
    """Forget cached ids of all names, or those with one id, so that the service is queried
    again."""
    for key, (found, _) in list(_found.items()):
        if skill_id in (None, found):
            _found.pop(key, None)


def _missing(skills: Sequence[Skill], wanted: str) -> NotFound:
    from difflib import get_close_matches

    # By name and by id, ignoring case; an id is shown together with its name.
    shown = {
        text.lower(): f"{each.name!r} ({each.id})"
        for each in skills
        for text in (each.name, each.id)
    }
    near = get_close_matches(wanted.lower(), shown, n=_NAMED, cutoff=0.6)
    names = list(dict.fromkeys(shown[each] for each in near))
    if names:
        hint = f"Did you mean {' or '.join(names)}? Ids and names are compared exactly"
    elif skills:
        some = ", ".join(f"{each.name!r} ({each.id})" for each in skills[:_NAMED])
        more = f" and {len(skills) - _NAMED} more" if len(skills) > _NAMED else ""
        hint = f"Published for this user are {some}{more}"
    else:
        hint = "No skill is published for this user"
    return NotFound(f"There is no published skill with the id or name {wanted!r}", hint=hint)
