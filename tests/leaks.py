# SPDX-License-Identifier: Apache-2.0
"""Searches files, databases, texts and objects for secrets, in each form in which they may show."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import sqlite3
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[bytes]:
    """Return the forms in which a secret may show: plain, encoded, escaped, base64."""
    if len(secret) < 6:
        raise ValueError("a secret this short is found everywhere: use a longer one in tests")
    raw = secret.encode()
    found = {
        raw,
        quote(secret, safe="").encode(),
        quote_plus(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
        repr(secret)[1:-1].encode(),
        raw.hex().encode(),
        secret.encode("utf-16-le"),
    }
    # Base64 of the secret at each of the three places in a longer text.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        begin = 4 if shift else 0
        core = encoded[begin:-4]
        if len(core) >= 8:
            found.add(core)
    return found


def as_bytes(thing: Any) -> bytes:
    """Return what a reader could get out of an object: its text, repr, dict, pickle, traceback."""
    if isinstance(thing, bytes):
        return thing
    if isinstance(thing, str):
        return thing.encode("utf-8", "surrogatepass")
    parts = [repr(thing), str(thing), f"{thing!s:>1}"]
    if hasattr(thing, "__dict__"):
        parts.append(repr(vars(thing)))
    if isinstance(thing, BaseException):
        shown = traceback.TracebackException.from_exception(thing, capture_locals=True)
        parts += list(shown.format())
        for inner in (thing.__cause__, thing.__context__):
            if inner is not None:
                parts.append(as_bytes(inner).decode("utf-8", "replace"))
    data = "\n".join(parts).encode("utf-8", "surrogatepass")
    with contextlib.suppress(Exception):  # What can't be pickled can't leak so.
        data += pickle.dumps(thing)
    return data


def database_bytes(path: Path) -> bytes:
    """Return the content of a SQLite database as text, row by row."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        lines = list(connection.iterdump())
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def find_leaks(secrets: Iterable[str], places: dict[str, Any]) -> list[str]:
    """Return the names of the places in which a secret shows.

    Args:
        secrets: Secrets, of 6 characters or more.
        places: Name to object, text, bytes, or Path (a file, or a folder with all below it; files
            whose name ends in .db are also read as SQLite databases).
    """
    needles = {form for secret in secrets for form in forms(secret)}
    if not needles:
        raise ValueError("there is nothing to search for")
    found = []
    for name, place in places.items():
        contents: list[tuple[str, bytes]] = []
        if isinstance(place, Path):
            files = [place] if place.is_file() else sorted(p for p in place.rglob("*"))
            for file in files:
                if file.is_file():
                    contents.append((f"{name}: {file.name}", file.read_bytes()))
                    if file.suffix == ".db":
                        contents.append((f"{name}: {file.name} (rows)", database_bytes(file)))
        else:
            contents.append((name, as_bytes(place)))
        found += [where for where, data in contents if _shows(data, needles)]
    return found


#: What shows a mask in place of its content.
OPAQUE = ("Secret", "AccessToken", "SecretStr", "Credentials")


def find_leaks_in_frames(secrets: Iterable[str], error: BaseException) -> list[str]:
    """Return the local variables of the package's frames, and the errors, in which a secret shows.

    All tracebacks of an error, its causes and contexts are looked at. So is what a variable leads
    to: members of containers and attributes of objects, at any depth.
    """
    needles = {form for secret in secrets for form in forms(secret)}
    found, errors = [], [error]
    for each in errors:
        errors += [e for e in (each.__cause__, each.__context__) if e not in (None, *errors)]
        if any(_shows(text, needles) for text in _texts((str(each), each.args, vars(each)))):
            found.append(type(each).__name__)
        for frame, line in traceback.walk_tb(each.__traceback__):
            file = frame.f_code.co_filename
            if "vantage_orchestration/" not in file:
                continue
            found += [
                f"{Path(file).name}:{line} {name}"
                for name, value in frame.f_locals.items()
                if any(_shows(text, needles) for text in _texts(value))
            ]
    return found


def _texts(value: Any) -> Iterator[bytes]:
    """Yield all texts that can be reached from an object."""
    seen: set[int] = set()
    kept = [value]  # Alive, so that no two have the same id.
    for each in kept:
        if id(each) in seen or isinstance(each, (ModuleType, FunctionType, type)):
            continue
        seen.add(id(each))
        if isinstance(each, str):
            yield each.encode("utf-8", "surrogatepass")
        elif isinstance(each, (bytes, bytearray)):
            yield bytes(each)
        elif type(each).__name__ in OPAQUE:
            yield repr(each).encode()
        else:
            with contextlib.suppress(Exception):  # Not every mapping allows it.
                if isinstance(each, (list, tuple, set, frozenset, deque)):
                    kept += each
                elif isinstance(each, Mapping):
                    kept += each.items()
            kept += vars(each).values() if hasattr(each, "__dict__") else ()
            with contextlib.suppress(Exception):
                yield repr(each).encode("utf-8", "surrogatepass")


def _shows(data: bytes, needles: Iterable[bytes]) -> bool:
    # Base64 may be cut into lines, also within a JSON string: Prefect keeps pickles so.
    joined = data.replace(b"\\n", b"").replace(b"\n", b"")
    return any(needle in data or needle in joined for needle in needles)
