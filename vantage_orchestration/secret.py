# SPDX-License-Identifier: Apache-2.0
"""A string that hides its value, and the base of the values that hold one."""

from __future__ import annotations

import hmac
from typing import NoReturn, TypeVar, final

C = TypeVar("C")

MASK = "**********"


def refuse_pickling(self: object, protocol: object = None) -> NoReturn:
    """Replace ``__reduce__`` and ``__reduce_ex__`` of an object with a secret.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"{type(self).__name__} contains a secret of ABBYY Vantage and can't be pickled. Send the"
        " connection id or the block's name, and load the credentials where they are used."
    )


class Confidential:
    """Base of immutable values with a secret: pickling is refused, a copy is the value itself."""

    __slots__ = ()

    def __copy__(self: C) -> C:
        return self

    def __deepcopy__(self: C, memo: object) -> C:
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a value of the type {type(self).__name__} can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a value of the type {type(self).__name__} can't be changed")

    __reduce__ = refuse_pickling
    __reduce_ex__ = refuse_pickling


@final
class Secret(Confidential):
    """A password, client secret, token or link that contains a token.

    ``repr``, ``str``, ``format`` and ``vars`` show a mask, and pickling is refused. Only
    :meth:`reveal` returns the text, so every use can be found by that name.

    Args:
        value: The text, or another Secret.
    """

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str | Secret = "") -> None:
        object.__setattr__(self, "_value", value.reveal() if isinstance(value, Secret) else value)

    def unbroken(self) -> Secret:
        """Return it without line breaks at its ends, which files and commands add."""
        return Secret(self._value.strip("\r\n"))

    def reveal(self) -> str:
        """Return the text itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self._value else "Secret('')"

    def __str__(self) -> str:
        return MASK if self._value else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        own, others = (each.reveal().encode("utf-8", "surrogatepass") for each in (self, other))
        return hmac.compare_digest(own, others)

    def __hash__(self) -> int:
        return hash((Secret, self._value))
