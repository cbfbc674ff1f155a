# SPDX-License-Identifier: Apache-2.0
"""Members that other projects keep private, where a test needs what has no public name."""

from __future__ import annotations

from typing import Any


def foreign(owner: Any, name: str) -> Any:
    """Return a private member of an object of another project."""
    return getattr(owner, name)


def replace_foreign(owner: Any, name: str, value: Any) -> None:
    """Replace a private member of an object of another project."""
    setattr(owner, name, value)
