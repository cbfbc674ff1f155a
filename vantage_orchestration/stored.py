# SPDX-License-Identifier: Apache-2.0
"""Values that this package keeps as JSON: manifests, notes of a task and of a download."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from vantage_orchestration.state import checked, read_json
from vantage_orchestration.text import MISFIT

if TYPE_CHECKING:
    from vantage_orchestration.storage import Location

S = TypeVar("S", bound="Stored")
F = TypeVar("F", bound="StoredFile")


class Member(NamedTuple):
    """How a field is kept, as far as its name and type do not say it.

    Attributes:
        name: Name of its member.
        read: Converts the member, or raises ValueError.
        needed: Whether it must be there although the field has a default.
        sparse: Whether it is left out while it is empty.
    """

    name: str = ""
    read: Callable[[Any], Any] | None = None
    needed: bool = False
    sparse: bool = False


class Stored:
    """Base of frozen dataclasses that are kept as JSON objects.

    Each field is a member with its name and type, unless :class:`Member` in its annotation says
    otherwise. Fields that do not count in comparisons are not kept.
    """

    __slots__ = ()
    #: Version of the form. A reader refuses others. A part of a versioned value has none.
    version: ClassVar[int | None] = None
    #: Properties that are written too, for people.
    shown: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data = {} if self.version is None else {"version": self.version}
        data |= {name: plain(getattr(self, name)) for name in self.shown}
        for attribute, how in _members(cast(Any, type(self))):
            value = getattr(self, attribute)
            if value or not how.sparse:
                data[how.name] = plain(value)
        return data

    @classmethod
    def read(cls: type[S], data: Any) -> S:
        """Read the result of :meth:`to_json`.

        Raises:
            ValueError: It is something else, or of another version.
        """
        if cls.version is not None:
            data = checked(data, cls.version)
        elif not isinstance(data, dict):
            raise ValueError("an object is expected")
        values = {}
        for attribute, (name, read, needed, _) in _members(cast(Any, cls)):
            if name in data:
                values[attribute] = cast(Any, read)(data[name])
            elif needed:
                raise ValueError(f"the member {name} is missing")
        # Another version of the package may know more of a versioned value.
        if cls.version is None and len(values) < len(data):
            raise ValueError(f"a {cls.__name__} has an unknown member")
        return cls(**values)


class StoredFile(Stored):
    """A value that is the content of a file."""

    __slots__ = ()
    #: Name of the file.
    file: ClassVar[str]

    @classmethod
    def read(cls: type[F], data: Any) -> F:
        """See :meth:`Stored.read`."""
        try:
            return super().read(data)
        except MISFIT as error:
            raise ValueError(f"this is not a {cls.file}: {error}") from error

    def write(self, folder: Location, name: str = "") -> Location:
        """Write it into a folder, perhaps under another name; return its location."""
        location = folder.child(name or self.file)
        location.write_text(_in_lines(self.to_json()))
        return location

    @classmethod
    def load(cls: type[F], folder: Location, name: str = "") -> F | None:
        """Read the file of a folder; None if there is none.

        Raises:
            StateUnavailable: It can't be read now.
            StateDamaged: It is something else, or of another version.
        """
        return read_json(folder.child(name or cls.file), cls.read)


def plain(value: Any) -> Any:
    """Return a value as JSON data."""
    if value is None or type(value) in (str, int, float, bool):  # Nearly always.
        return value
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return cast(Any, value).in_timezone("UTC").to_iso8601_string()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return value


@functools.cache
def _members(kind: type) -> tuple[tuple[str, Member], ...]:
    # pendulum is loaded only when it is needed.
    hints = get_type_hints(kind, localns={"DateTime": datetime}, include_extras=True)
    found = []
    for each in fields(cast(Any, kind)):
        if each.compare:
            hint = hints[each.name]
            ours = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Member)]
            how = ours[0] if ours else Member()
            required = each.default is MISSING and each.default_factory is MISSING
            how = how._replace(
                name=how.name or each.name,
                read=how.read or _reader(hint.__origin__ if ours else hint),
                needed=how.needed or required,
            )
            found.append((each.name, how))
    return tuple(found)


def _reader(hint: Any) -> Callable[[Any], Any]:
    """Return what reads a value of a type."""
    origin, of = get_origin(hint), get_args(hint)
    if type(None) in of:
        some = _reader(of[0])
        return lambda data: None if data is None else some(data)
    if origin is tuple:
        item = _reader(of[0])
        return lambda data: tuple(item(each) for each in _checked(data, list))
    if hasattr(hint, "read"):
        return cast(Any, hint).read  # type: ignore[no-any-return]
    if hint is datetime:
        return _instant
    return functools.partial(_checked, kind=(int, float) if hint is float else origin or hint)


def _checked(data: Any, kind: Any) -> Any:
    if isinstance(data, kind):
        return data
    raise ValueError(f"{getattr(kind, '__name__', 'a number')} is expected")


def _instant(data: Any) -> datetime:
    import pendulum

    instant = pendulum.parse(_checked(data, str), tz="UTC")
    if not isinstance(instant, pendulum.DateTime):
        raise ValueError("a date with time is expected")
    return instant


def _in_lines(data: Mapping[str, Any]) -> str:
    """Return JSON data with a line for each member, and for each entry of a list: people can read
    it, and it is written many times faster than an indented text."""

    def text(value: Any) -> str:
        if isinstance(value, list) and value:
            entries = ",\n    ".join(json.dumps(each, ensure_ascii=False) for each in value)
            return f"[\n    {entries}\n  ]"
        return json.dumps(value, ensure_ascii=False)

    members = ",\n  ".join(f"{json.dumps(name)}: {text(value)}" for name, value in data.items())
    return f"{{\n  {members}\n}}\n"
