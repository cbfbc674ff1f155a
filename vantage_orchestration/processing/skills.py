# SPDX-License-Identifier: Apache-2.0
"""Finds a skill by its id or name."""

from __future__ import annotations

import logging
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from vantage_orchestration import arguments
from vantage_orchestration.errors import (
    ConfigurationError,
    Forbidden,
    NotFound,
    ServiceUnavailable,
    VantageError,
    translated,
)
from vantage_orchestration.models import Skill
from vantage_orchestration.processing.host_notes import HostNote, forget_about
from vantage_orchestration.text import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vantage_orchestration.client import VantageClient

log = logging.getLogger(__name__)

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@translated
def skill_id_of(client: VantageClient, skill: str) -> str:
    """Return the id of a skill, given by id or exact name. A host asks once in ten minutes for the
    same.

    A UUID is used as it is, without a request. So is any other value if the caller may use skills
    but not list them.
    """
    wanted = arguments.text("skill", skill)
    if _UUID.fullmatch(wanted):
        return wanted
    try:
        note = HostNote(client, "id", wanted)
        return str(note.once(lambda: _match(client.list_skills(), wanted)))
    except Forbidden:
        return wanted


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
    """Return a skill. A host asks once in ten minutes for the same. It may be Forbidden to read,
    and still be used."""
    try:
        note = HostNote(client, "skill", skill_id)
        return Skill.read(note.once(lambda: client.get_skill(skill_id).to_json()))
    except NotFound as error:
        failure = unknown_skill(client, skill_id, error)
    raise failure


def names_of_skills(client: VantageClient, ids: Iterable[str]) -> dict[str, str]:
    """Return the names of skills by id, as far as they can be read."""
    found = {}
    for each in ids:
        try:
            found[each] = skill_of(client, each).name
        except VantageError as error:
            log.warning("The name of the skill %s is unknown: %s", each, error)
    return found


def unknown_skill(client: VantageClient, skill_id: str, error: NotFound) -> VantageError:
    """Return the error for a skill that the service does not know, with those that come near.

    If it lists the skill, a gateway in front of it may have answered: a later try can help.
    """
    forget_about(client, skill_id)
    try:
        skills = client.list_skills()
    except VantageError as failure:
        return failure if failure.retryable else error
    if any(each.id == skill_id for each in skills):
        hint = "A gateway may have answered in its place, or the skill is just being published"
        return ServiceUnavailable(error.what, **{**error.details(), "hint": hint})
    missing = _missing(skills, skill_id)
    return NotFound(missing.what, **{**error.details(), "hint": missing.hint})


def _missing(skills: Sequence[Skill], wanted: str) -> NotFound:
    # By name and by id, ignoring case; an id is shown together with its name.
    shown = {
        text.lower(): f"{each.name!r} ({each.id})"
        for each in skills
        for text in (each.name, each.id)
    }
    near = get_close_matches(wanted.lower(), shown, n=5, cutoff=0.6)
    names = list(dict.fromkeys(shown[each] for each in near))
    if names:
        hint = f"Did you mean {' or '.join(names)}? Ids and names are compared exactly"
    elif skills:
        some = shortened(skills, lambda each: f"{each.name!r} ({each.id})")
        hint = f"Published for this user are {some}"
    else:
        hint = "No skill is published for this user"
    return NotFound(f"There is no published skill with the id or name {wanted!r}", hint=hint)
