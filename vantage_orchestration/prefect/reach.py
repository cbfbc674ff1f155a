# SPDX-License-Identifier: Apache-2.0
"""Limits what a deployment's parameters can access.

A flow takes paths and the name of a block, so anyone who may run its deployment could have any file
of the worker sent, with any block. The environment of the worker limits that, for the flows of
:mod:`vantage_orchestration.prefect.flows` and for other flows that use :class:`Reach`:

* ``ABBYY_VANTAGE_FLOWS_BLOCKS``: names of credentials blocks, separated by commas; ``*`` for all
* ``ABBYY_VANTAGE_FLOWS_INPUTS``: folder, a path or URL, that contains all inputs
* ``ABBYY_VANTAGE_FLOWS_OUTPUTS``: folder, a path or URL, that contains all results
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from vantage_orchestration import local
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.files import Folder

_PREFIX: Final = "ABBYY_VANTAGE_FLOWS_"
_HINT: Final = "The worker's environment, or the flow's file, limits what runs can access"


@dataclass(frozen=True, slots=True)
class Reach:
    """What a run can access.

    Attributes:
        blocks: Names of credentials blocks; ``*`` for all.
        inputs: Folder that must contain the inputs; None for any place.
        outputs: Folder that must contain the results; None for any place.
    """

    blocks: str = "*"
    inputs: str | None = None
    outputs: str | None = None

    @classmethod
    def from_env(
        cls, blocks: str = "*", inputs: str | None = None, outputs: str | None = None
    ) -> Reach:
        """Read the limits from the environment; the arguments are the defaults."""
        return cls(
            os.environ.get(f"{_PREFIX}BLOCKS", blocks),
            os.environ.get(f"{_PREFIX}INPUTS", inputs),
            os.environ.get(f"{_PREFIX}OUTPUTS", outputs),
        )

    def check(self, credentials: str, inputs: Any = (), output: Any = None) -> None:
        """Refuse arguments outside the limits, before anything is read or sent.

        Args:
            credentials: Name of a block.
            inputs: Path, glob or URL, a :class:`.Folder`, or several.
            output: Path or URL of a folder that is written to, or several; None is ignored.

        Raises:
            ConfigurationError: One of them is outside the limits.
        """
        names = {name.strip() for name in self.blocks.split(",")}
        if not names & {"*", credentials}:
            raise ConfigurationError(f"The block {credentials!r} can't be used here", hint=_HINT)
        if isinstance(inputs, (str, os.PathLike, Folder)) or not isinstance(inputs, Iterable):
            inputs = [inputs]
        for each in inputs:
            _check(self.inputs, each.place if isinstance(each, Folder) else each)
        for each in output if isinstance(output, (list, tuple)) else [output]:
            if each is not None:
                _check(self.outputs, each)


def _check(root: str | None, place: Any) -> None:
    if root is None:
        return
    path = os.fsdecode(os.fspath(place))
    if "://" in root:
        inside = f"{path}/".startswith(f"{root.rstrip('/')}/")
        inside = inside and ".." not in path.split("/") and "::" not in path
    else:
        path = path.removeprefix("file://")
        inside = "://" not in path and "::" not in path
        inside = inside and local.is_below(os.path.realpath(path), os.path.realpath(root))
    if not inside:
        raise ConfigurationError(f"{path!r} is not below the folder {root!r}", hint=_HINT)
