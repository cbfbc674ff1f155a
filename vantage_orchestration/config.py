# SPDX-License-Identifier: Apache-2.0
"""Reads a stored credential, wherever it is stored, into one immutable value."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vantage_orchestration.credentials import Credentials
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.fields import DEFAULT_STORE, FIELDS, STORES
from vantage_orchestration.secret import Secret

__all__ = ["ENVIRONMENT_PREFIX", "HttpSettings", "TokenSettings", "VantageConfig"]

ENVIRONMENT_PREFIX = "ABBYY_VANTAGE_"
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How connections are made.

    Args:
        verify: Check the server's certificate.
        ca_bundle: File or folder of certificate authorities; empty for the usual ones.
        proxy: Address of an HTTP proxy; empty for the environment's. May hold a password.
        connect_timeout: Seconds to make a connection.
        read_timeout: Seconds to wait for the server's next bytes.

    Raises:
        ConfigurationError: ``ca_bundle`` is not there, or a timeout is not above 0.
    """

    verify: bool = True
    ca_bundle: str = ""
    proxy: Secret = field(default_factory=Secret)
    connect_timeout: float = 5.0
    read_timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.ca_bundle and not os.path.exists(self.ca_bundle):
            raise ConfigurationError(
                f"The CA bundle {self.ca_bundle!r} of the ABBYY Vantage connection does not exist",
                hint="Give the path of a PEM file on the machine that runs the task",
            )
        for name in ("connect_timeout", "read_timeout"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigurationError(
                    f"The {name} of the ABBYY Vantage connection is {seconds}",
                    hint="Give a number of seconds above 0",
                )

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds to connect and seconds to wait for bytes, as ``requests`` takes them."""
        return (self.connect_timeout, self.read_timeout)


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How tokens are kept.

    Args:
        store: ``file``, ``orchestrator`` or ``memory``.
        store_path: Folder of the file store; empty for the user's runtime or cache folder.
        discovery: Take the token endpoint from the OpenID discovery document.
        background_renewal: Renew before anybody waits.

    Raises:
        ConfigurationError: There is no such store.
    """

    store: str = "memory"
    store_path: str = ""
    discovery: bool = False
    background_renewal: bool = False

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise ConfigurationError(
                f"{self.store!r} is no store for tokens of ABBYY Vantage",
                hint=f"Choose one of {', '.join(STORES)}",
            )


@dataclass(frozen=True, slots=True)
class VantageConfig:
    """All that one stored credential says: who logs in, how connections are made, and how tokens
    are kept.

    Args:
        credentials: Who logs in.
        http: How connections are made.
        tokens: How tokens are kept.
        origin: Where it was read from, as ``vantage-orchestration token --of`` takes it: empty for
            the environment, None for one that code has made.
    """

    credentials: Credentials
    http: HttpSettings = field(default_factory=HttpSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    origin: str | None = field(default=None, compare=False)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any], origin: str | None = None) -> VantageConfig:
        """Read the fields of :data:`vantage_orchestration.fields.FIELDS`.

        Args:
            values: Field name to value. Empty and missing values mean the default. Flags and
                numbers may be text. Members of other names are left alone.
            origin: Where they were read from.

        Returns:
            The checked configuration.

        Raises:
            ConfigurationError: A value is missing or wrong. Nothing was sent.
        """
        read: dict[str, Any] = {"store": DEFAULT_STORE}
        for spec in FIELDS:
            value = values.get(spec.name)
            if value is None or (isinstance(value, (str, Secret)) and not value):
                continue
            if spec.kind == "secret":
                read[spec.name] = _secret(spec.name, value)
            elif spec.kind == "flag":
                read[spec.name] = _flag(spec.name, value)
            elif spec.kind == "seconds":
                read[spec.name] = _seconds(spec.name, value)
            elif isinstance(value, str):
                read[spec.name] = value
            else:
                raise _wrong(spec.name, "no text")
        http = {name: read.pop(name) for name in HttpSettings.__slots__ if name in read}
        tokens = {name: read.pop(name) for name in TokenSettings.__slots__ if name in read}
        return cls(Credentials(**read), HttpSettings(**http), TokenSettings(**tokens), origin)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> VantageConfig:
        """Read ``ABBYY_VANTAGE_REGION``, ``ABBYY_VANTAGE_USERNAME`` and so on.

        Args:
            environ: The environment; ``os.environ`` by default.

        Raises:
            ConfigurationError: A value is missing or wrong. Nothing was sent.
        """
        source = os.environ if environ is None else environ
        return cls.from_fields(
            {
                spec.name: value
                for spec in FIELDS
                if (value := source.get(ENVIRONMENT_PREFIX + spec.name.upper())) is not None
            },
            origin="",
        )


def _wrong(name: str, what: str, hint: str = "Correct the connection or block") -> Exception:
    # The value itself is not quoted: it may have slipped in from the field beside.
    return ConfigurationError(
        f"The field {name} of the ABBYY Vantage credential is {what}", hint=hint
    )


def _secret(name: str, value: Any) -> Secret:
    if isinstance(value, (str, Secret)):
        return Secret(value)
    raise _wrong(name, "no text")


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _wrong(name, "neither true nor false")


def _seconds(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    raise _wrong(name, "no number of seconds")
