# SPDX-License-Identifier: Apache-2.0
"""Arguments as fields of Prefect's forms, checked when a flow is called or a block is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import checked, default_of, words_of
from vantage_orchestration.prefect.credentials import VantageCredentials


def _text_of(value: Any) -> Any:
    """Return a path object or a saved block as text: Prefect stores a flow's arguments as JSON."""
    if isinstance(value, VantageCredentials):
        if value.saved_name:
            return value.saved_name
        raise ConfigurationError(
            "The credentials block is not saved, or was changed since",
            hint="Save it and give its name: Prefect stores the arguments of flows",
        )
    return str(value) if isinstance(value, os.PathLike) or hasattr(value, "fs") else value


def _texts_of(value: Any) -> Any:
    # Refuses an iterator, of which Prefect has stored the items by now: none are left to process.
    given = arguments.items("inputs", value)
    return value if isinstance(value, str) else [_text_of(each) for each in given]


#: A path or URL, and the name of a block, as arguments of flows.
Text = Annotated[str, BeforeValidator(_text_of)]
#: One or several paths, globs or URLs.
Texts = Annotated[str | list[str], BeforeValidator(_texts_of)]


#: Types that a form shows in place of others.
_SHOWN: Final = {Any: str | None, Mapping[str, str]: Mapping[str, Any]}


def form(name: str, kind: Any) -> Any:
    """Return the annotation of an option of that type: its form field and how it is parsed."""
    shown = _SHOWN.get(kind, kind)
    asked = shown | None if default_of(name) is None else shown
    return Annotated[asked, BeforeValidator(partial(_read, name, kind))]


def _read(name: str, kind: Any, value: Any) -> Any:
    """Check a value. Texts become numbers, durations and the like, as for all flows of Prefect:
    Variables and environments give nothing else, and JSON has no durations."""
    if isinstance(value, str):
        with suppress(ValidationError):
            value = TypeAdapter(kind | timedelta if kind is float else kind).validate_python(value)
    return _text_of(checked(name, value))


def block_field(name: str, kind: Any) -> tuple[Any, Any]:
    """Return annotation and field of an option of a block, where null stands for the default."""

    def read(value: Any) -> Any:
        return _read(name, kind, default_of(name) if value is None else value)

    default = checked(name, default_of(name))
    words = words_of(name).replace("``", "")
    title = name.replace("_", " ").capitalize()
    field = Field(default, title=title, description=words)
    return Annotated[_SHOWN.get(kind, kind), BeforeValidator(read)], field
