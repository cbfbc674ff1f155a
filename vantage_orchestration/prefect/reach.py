# SPDX-License-Identifier: Apache-2.0
"""What those who may run a deployment can reach by its parameters.

A flow takes paths and the name of a block, so whoever may run its deployment could have any file of
the worker sent, through any block. The environment of the worker limits that, for the flows of
:mod:`vantage_orchestration.prefect.flows` and for flows that use :class:`Reach` themselves:

* ``ABBYY_VANTAGE_FLOWS_BLOCKS``: names of credentials blocks, with commas between; ``*`` for all
* ``ABBYY_VANTAGE_FLOWS_INPUTS``: folder, a path or URL, below which inputs are
* ``ABBYY_VANTAGE_FLOWS_OUTPUTS``: folder, a path or URL, below which results go
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from vantage_orchestration import local
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.processing.files import Folder

__all__ = ["Reach"]

_PREFIX: Final = "ABBYY_VANTAGE_FLOWS_"
_HINT: Final = "The worker's environment, or the flow's file, sets what runs can reach"


@dataclass(frozen=True, slots=True)
class Reach:
    """What a run can reach.

    Attributes:
        blocks: Names of credentials blocks; ``*`` for all.
        inputs: Folder below which inputs are; None for any place.
        outputs: Folder below which results go; None for any place.
    """

    blocks: str = "*"
    inputs: str | None = None
    outputs: str | None = None

    @classmethod
    def from_env(
        cls, blocks: str = "*", inputs: str | None = None, outputs: str | None = None
    ) -> Reach:
        """Read it from the environment; the arguments are for what is not set there."""
        return cls(
            os.environ.get(f"{_PREFIX}BLOCKS", blocks),
            os.environ.get(f"{_PREFIX}INPUTS", inputs),
            os.environ.get(f"{_PREFIX}OUTPUTS", outputs),
        )

    def check(self, credentials: str, inputs: Any = (), output: Any = None) -> None:
        """Refuse what is out of reach, before anything is read or sent.

        Args:
            credentials: Name of a block.
            inputs: Path, glob or URL, a :class:`.Folder`, or several.
            output: Path or URL.

        Raises:
            ConfigurationError: One of them is out of reach.
        """
        names = {name.strip() for name in self.blocks.split(",")}
        if not names & {"*", credentials}:
            raise ConfigurationError(f"The block {credentials!r} can't be used here", hint=_HINT)
        if isinstance(inputs, (str, os.PathLike, Folder)) or not isinstance(inputs, Iterable):
            inputs = [inputs]
        for each in inputs:
            _check(self.inputs, each.place if isinstance(each, Folder) else each)
        if output is not None:
            _check(self.outputs, output)


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
