# SPDX-License-Identifier: Apache-2.0
"""The key by which a later try finds a transaction.

The service has no idempotency keys, and a document that is sent twice is charged twice. So each
transaction carries a key of this package as a registration parameter. It is derived from the task
and its work, never from the number of the try, so that each try computes the same key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.limits import MOST_PARAMETERS
from vantage_orchestration.upload import parameters

if TYPE_CHECKING:
    from pendulum import DateTime

    from vantage_orchestration.processing.ledger import LedgerStore

#: Registration parameter with our key.
KEY_PARAMETER = "orchestration.key"


@dataclass(frozen=True, slots=True)
class TaskKey:
    """Identifies a task across its tries.

    Args:
        scope: Identifies the task within its run: ids of pipeline, run and task. The same in each
            try, and different for any two tasks.
        since: When the run began, if an earlier try may have created a transaction; None on the
            first try, which need not search the service's lists.
        stores: Places for the task's notes, see :mod:`.ledger`.
    """

    scope: str
    since: DateTime | None = None
    stores: tuple[LedgerStore, ...] = field(default=(), compare=False, repr=False)


def digest_of(value: Any) -> str:
    """Return a digest of JSON data, the same in each try: 32 hex digits. Other values count by
    their text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def unit_key(
    scope: str,
    skill_id: str,
    files: Iterable[tuple[str, str]],
    skill_parameters: Mapping[str, str] | None = None,
) -> str:
    """Return the key of one transaction, made from the scope of the task, the skill and the name
    and hex SHA-256 of each file: a changed file is another document.

    Skill parameters are part of it, since they change the results. Registration parameters do not,
    and may contain a time or a number of the try.
    """
    digest = hashlib.sha256()
    settings = [text for pair in sorted((skill_parameters or {}).items()) for text in pair]
    contents = [text for pair in files for text in pair]
    counts = [str(len(settings)), str(len(contents))]
    for part in (scope, skill_id, *counts, *settings, *contents):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def keyed(registration_parameters: Mapping[str, str] | None, key: str) -> dict[str, str]:
    """Return registration parameters including our key, or refuse them: more than 9, one that
    breaks a limit or has the key's name."""
    if registration_parameters and KEY_PARAMETER in registration_parameters:
        raise ConfigurationError(
            f"The registration parameter {KEY_PARAMETER} is set by this package"
        )
    given = registration_parameters or {}
    if len(given) >= MOST_PARAMETERS:
        raise ConfigurationError(
            f"{len(given)} registration parameters were given; {MOST_PARAMETERS - 1} are allowed,"
            " besides the one by which this package finds its transactions"
        )
    together = {**given, KEY_PARAMETER: key}
    parameters(together)
    return together
