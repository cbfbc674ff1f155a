# SPDX-License-Identifier: Apache-2.0
"""Reads arguments as people and orchestrators write them, before anything is sent.

Jinja renders a list as the text ``['a', 'b']`` or, with native rendering, the text ``4711`` as a
number; an XCom may be a lazy sequence, a list of lists, or None after a skipped task. Unambiguous
values are accepted; everything else is refused with a clear message.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.text import clean

#: A transaction id is a UUID (contract, section 3.2).
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BETWEEN_IDS: Final = re.compile(r"[\s,;\[\](){}'\"]+")
#: Brackets around the text of a rendered list, tuple, set or dictionary.
_BRACKETS: Final = ("[]", "()", "{}")
#: A Python object that Jinja has turned into text, such as ``LazyXComSequence([2 items])``.
_RENDERED: Final = re.compile(r"[\[({]?<?[A-Za-z_][\w.]*( object at 0x|\().*[)>][\])}]?", re.DOTALL)
_NONE: Final = "None"
#: Stands for the class of each document in the path of an output.
CLASS: Final = "{class}"
#: What looks like a placeholder in it. The signs of Jinja are two braces.
_PLACEHOLDER: Final = re.compile(r"(?<!\{)\{[^{}/]*\}(?!\})")
_AS_OBJECT: Final = (
    "Pass a task's .output, or set render_template_as_native_obj=True on the DAG, so that the"
    " argument keeps its type"
)


def items(
    name: str, value: Any, inside: Callable[[Mapping[Any, Any]], Any] | None = None
) -> list[Any]:
    """Return the items of a list argument in order, with nested lists flattened.

    The value is one item or several, in a list, tuple, set or lazy sequence of XComs. The text of a
    list of strings, as Jinja or JSON writes it, is parsed. None, also as the text ``None``, is an
    empty list: the previous task had nothing. Only line breaks at the ends of strings are removed.
    A number or other object is refused, and a dictionary, too, unless ``inside`` returns what it
    contains. An iterator is refused as well: a second reading, such as that of a retry, would find
    it empty.
    """
    if isinstance(value, str):
        found = _literal(value)
        if isinstance(found, Mapping) and inside is None:
            raise _refused(name, value, "a list is expected")
        return [value.strip("\r\n")] if found is value else items(name, found, inside)
    if value is None:
        return []
    if isinstance(value, Mapping) and inside is not None:
        return items(name, inside(value), inside)
    if _is_place(value):
        return [value]
    if isinstance(value, (bool, int, float, Mapping)) or not isinstance(value, Iterable):
        raise _refused(name, value, "a list is expected")
    check_repeatable(name, value)
    if isinstance(value, (set, frozenset)):
        # Its order differs between processes, and a later try must send the same.
        value = sorted(value, key=str)
    return [each for one in value for each in items(name, one, inside)]


def check_repeatable(name: str, value: Any) -> None:
    """Refuse an iterator, such as a generator or an open file."""
    if isinstance(value, Iterator):
        raise _refused(name, value, "it can be read only once", "Nothing was sent. Give a list")


def transaction_ids(value: Any) -> list[str]:
    """Return transaction ids, each once, in lower case: ids are compared without case.

    The value is one id or several, or results of tasks: the ``transaction_ids`` of a dictionary are
    used, or its keys if they are ids, as those of statuses. A text may contain several, separated
    by commas, spaces or line breaks, or as the text of a list or dictionary. None, an empty list
    and an empty text contain none. What is not a UUID is refused.
    """
    name = "transaction_ids"

    def inside(result: Mapping[Any, Any]) -> Any:
        if name in result:
            return result[name]
        if any(not isinstance(key, str) or not _UUID.fullmatch(key.lower()) for key in result):
            raise _refused(name, result, "transaction ids are expected")
        return list(result)

    found: dict[str, None] = {}
    for each in items(name, value, inside):
        if not isinstance(each, str):
            raise _refused(name, each, "a string with a transaction id is expected")
        if _RENDERED.fullmatch(each.strip()):
            raise _refused(name, each, "this is the text of an object", _AS_OBJECT)
        for part in filter(None, _BETWEEN_IDS.split(each)):
            if not _UUID.fullmatch(part.lower()):
                raise _refused(
                    name,
                    part,
                    "that is not a transaction id, which is a UUID",
                    "Give the result of the submitting task",
                )
            found[part.lower()] = None
    return list(found)


def text(name: str, value: Any) -> str:
    """Return a required text without surrounding spaces.

    A whole number is accepted, into which native rendering converts digits.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _refused(name, value, "a text is expected")
    found = value.strip()
    if not found:
        raise ConfigurationError(f"The {name} is empty", hint="Nothing was sent")
    if found == _NONE:
        raise _refused(name, value, "its template rendered to nothing")
    return found


def place(name: str, value: Any) -> Any:
    """Return a path, URL or path object; line breaks at the ends of a string are removed."""
    if isinstance(value, str):
        value = value.strip("\r\n")
        usable = value.strip() not in ("", _NONE)
    else:
        usable = _is_place(value)
    if not usable:
        raise _refused(name, value, "a path or URL is expected")
    return value


def output(name: str, value: Any) -> Any:
    """Return what names a folder for results, as :func:`place` does. A placeholder other than
    ``{class}`` is refused."""
    found = place(name, value)
    for each in _PLACEHOLDER.findall(str(found)):
        if each != CLASS:
            raise ConfigurationError(
                f"The {name} {str(found)!r} has the placeholder {each}",
                hint=f"Nothing was sent. The only one is {CLASS}, the class of each document",
            )
    return found


def pairs(name: str, value: Any) -> dict[str, str]:
    """Return parameters as strings, from a mapping or its text as Jinja or JSON writes it.

    None is an empty mapping. Numbers become text, dates ISO 8601 text, and true and false ``Yes``
    and ``No``, which is how ABBYY Vantage writes them in skill parameters (contract, section 3.2).
    None and other objects as values are refused.
    """
    found = _literal(value) if isinstance(value, str) else value
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise _refused(name, value, "a dictionary of texts is expected")
    return {_plain(name, key, key): _plain(name, key, item) for key, item in found.items()}


def plain(value: Any) -> Any:
    """Return a single number, or true or false, of numpy or pandas as Python's own; anything else,
    and a duration, as it is."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    is_single = kind in ("b", "i", "u", "f") and getattr(value, "shape", None) == ()
    return value.item() if is_single else value


def _plain(name: str, key: Any, value: Any) -> str:
    value = plain(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (int, Decimal)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise _refused(f"{name}[{str(key)!r}]", value, "a text is expected")


def _literal(value: str) -> Any:
    """Return the list or mapping of strings that a text contains, or the text itself."""
    shown = value.strip()
    if shown == _NONE:
        return None
    if not any(shown.startswith(first) and shown.endswith(last) for first, last in _BRACKETS):
        return value
    found: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(shown)
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if isinstance(found, Mapping):
        return found
    # A name such as [2026] is not a list of strings and stays as it is.
    is_list = isinstance(found, (list, tuple, set)) and _of_texts(found)
    return found if is_list else value


def _of_texts(found: Iterable[Any]) -> bool:
    return all(
        isinstance(each, str)
        or each is None
        or (isinstance(each, (list, tuple, set)) and _of_texts(each))
        for each in found
    )


def _is_place(value: Any) -> bool:
    """Return whether a value is a path, a path object with a store, a file to send or a folder."""
    return isinstance(value, (os.PathLike, bytes)) or any(
        hasattr(value, name) for name in ("fs", "open", "pattern")
    )


def _refused(
    name: str, value: Any, what: str, hint: str = "Nothing was sent"
) -> ConfigurationError:
    plain = isinstance(value, (str, bool, int, float, type(None)))
    shown = clean(repr(value))[:100] if plain else f"an object of the type {type(value).__name__}"
    return ConfigurationError(f"The argument {name} is {shown}; {what}", hint=hint)
