# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration skills``: lists the skills with their fields."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

from vantage_orchestration.cli import add_credential_option, load_credential
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import Forbidden, NotFound
from vantage_orchestration.models import Skill, SkillField
from vantage_orchestration.text import clean

HELP = "list the skills that a credential may use, with their fields"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_credential_option(parser)
    parser.add_argument("skill", nargs="?", help="only the skill of this id or name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 1 if there is no such skill."""
    config, orchestrator = load_credential(args.of)
    with VantageClient(config, orchestrator_store=orchestrator) as client:
        listed = client.list_skills()
        chosen = [each for each in listed if args.skill in (None, each.id, each.name)]
        skills = [_described(client, each) for each in chosen]
    if args.json:
        sys.stdout.write(json.dumps([each.to_json() for each in skills], indent=2) + "\n")
    else:
        for each in skills:
            sys.stdout.writelines(f"{line}\n" for line in _lines(each, skills))
    if args.skill is not None and not skills:
        names = ", ".join(clean(each.name) for each in listed) or "none"
        sys.stderr.write(f"There is no skill {args.skill!r}. The published skills are: {names}\n")
        return 1
    return 0


def _described(client: VantageClient, listed: Skill) -> Skill:
    try:
        return client.get_skill(listed.id)
    except (Forbidden, NotFound):  # The right to it is missing, or it was unpublished since.
        return listed


def _lines(skill: Skill, all_of_them: Iterable[Skill]) -> Iterator[str]:
    kind = clean(skill.type or "unknown type")
    yield f"{clean(skill.name)}  ({kind}, id {clean(skill.id)})"
    for field in skill.fields:
        yield from _field_lines(field, "  ")
    for key, name in skill.classes:
        yield f"  class {clean(name or key or '')}"
    names = {each.id: each.name for each in all_of_them}
    for inner in skill.skills:
        yield f"  skill {clean(names.get(inner, inner))}"


def _field_lines(field: SkillField, indent: str) -> Iterator[str]:
    kind = field.text_format if field.type == "Text" and field.text_format else field.type
    shown = f"{clean(field.name or '')}: {clean(kind or 'unknown type')}"
    yield f"{indent}{shown}{', repeated' if field.is_repeatable else ''}"
    for child in field.children:
        yield from _field_lines(child, indent + "  ")
