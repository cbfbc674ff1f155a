# SPDX-License-Identifier: Apache-2.0
"""Finds a skill by its id or its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vantage_orchestration.errors import ConfigurationError, NotFound, translated

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient

__all__ = ["skill_id_of"]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@translated
def skill_id_of(client: VantageClient, skill: str) -> str:
    """Return the id of a skill.

    Args:
        client: Client.
        skill: Id, or exact name. An id that is a UUID is taken as it is, without a request.

    Raises:
        ConfigurationError: It is empty, or several skills have this name.
        NotFound: No published skill that the caller may use has this id or name.
    """
    wanted = skill.strip() if isinstance(skill, str) else ""
    if not wanted:
        raise ConfigurationError("The skill is empty", hint="Give its id or its exact name")
    if _UUID.fullmatch(wanted):
        return wanted
    skills = client.list_skills()
    if any(each.id == wanted for each in skills):
        return wanted
    ids = [each.id for each in skills if each.name == wanted]
    if len(ids) > 1:
        raise ConfigurationError(
            f"{len(ids)} skills are called {wanted!r}", hint=f"Give one of the ids {', '.join(ids)}"
        )
    if not ids:
        raise NotFound(
            f"There is no published skill with the id or name {wanted!r}",
            hint="Names are compared exactly. Is it published, and may this user use it?",
        )
    return ids[0]
