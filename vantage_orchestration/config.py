# SPDX-License-Identifier: Apache-2.0
"""Reads a stored credential, wherever it is stored, into one immutable value."""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from vantage_orchestration.credential_fields import DEFAULT_STORE, FIELDS, STORES
from vantage_orchestration.credentials import Credentials, is_loopback
from vantage_orchestration.errors import ConfigurationError, discreet
from vantage_orchestration.secret import Secret

__all__ = ["ENVIRONMENT_PREFIX", "HttpSettings", "TokenSettings", "Trust", "VantageConfig"]

ENVIRONMENT_PREFIX = "ABBYY_VANTAGE_"
#: Value of ``proxy`` for a direct connection.
NO_PROXY = "none"
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LONGEST_BUNDLE = 16 * 1024 * 1024
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How connections are made.

    Args:
        verify: Check the server's certificate.
        ca_bundle: File or folder of certificate authorities, the only ones that are trusted then;
            empty for the environment's or the usual ones. A ``~`` at its begin is the home folder.
        proxy: Address of an HTTP proxy; empty for the environment's; ``none`` for a direct
            connection whatever the environment says. May hold a password.
        connect_timeout: Seconds to make a connection.
        read_timeout: Seconds to wait for the server's next bytes, and for the whole of a reply
            that is no file.
        result_limit: Megabytes (of 1024 * 1024 bytes) that a result file may have, unpacked.

    Raises:
        ConfigurationError: ``ca_bundle`` is not there, ``proxy`` is no address, or a number is
            not above 0.
    """

    verify: bool = True
    ca_bundle: str = ""
    proxy: Secret = field(default_factory=Secret)
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    result_limit: float = 8192.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ca_bundle", os.path.expanduser(self.ca_bundle.strip()))
        object.__setattr__(self, "proxy", Secret(self.proxy.reveal().strip()))
        if not _is_proxy(self.proxy):
            raise ConfigurationError(
                "The proxy of the ABBYY Vantage connection is no address",
                hint=f"Give an address such as http://proxy.example.com:3128, or {NO_PROXY}",
            )
        if self.ca_bundle and not os.path.exists(self.ca_bundle):
            raise ConfigurationError(
                f"The CA bundle {self.ca_bundle!r} of the ABBYY Vantage connection does not exist",
                hint="Give the path of a PEM file on the machine that runs the task",
            )
        for name in ("connect_timeout", "read_timeout", "result_limit"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise ConfigurationError(
                    f"The {name} of the ABBYY Vantage connection is {number}",
                    hint="Give a number above 0",
                )

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds to connect and seconds to wait for bytes, as ``requests`` takes them."""
        return (self.connect_timeout, self.read_timeout)


@dataclass(frozen=True, slots=True)
class Trust:
    """What is in force on the way to a server: the connection's settings, and where it has none the
    environment's.

    Args:
        verify: As ``requests`` takes it: False, True for the usual authorities, or the path of
            those to trust.
        bundle_from: The variable of the environment that names the path; else empty.
        proxy: Address of the proxy; empty for a direct connection.
        proxy_from: ``the environment`` if the proxy comes from there; else empty.
    """

    verify: bool | str
    bundle_from: str
    proxy: Secret
    proxy_from: str

    @classmethod
    def of(cls, settings: HttpSettings, url: str) -> Trust:
        """Return what is in force now.

        The environment's proxy is not used for this machine itself: http in the clear is allowed
        for it, and would pass by the proxy.

        Args:
            settings: The connection's.
            url: Address of the server.

        Raises:
            ConfigurationError: The environment names a CA bundle that is not there.
        """
        parts = urlsplit(url)
        verify: bool | str = (settings.ca_bundle or True) if settings.verify else False
        bundle_from = ""
        if verify is True and parts.scheme == "https":
            for name in _BUNDLE_VARIABLES:
                if path := os.environ.get(name):
                    bundle_from, verify = name, path
                    break
        if bundle_from and not os.path.exists(str(verify)):
            raise ConfigurationError(
                f"{bundle_from} of the environment names the CA bundle {verify!r}, which does not"
                " exist",
                hint="Correct the variable, or set the CA bundle of the connection",
            )
        proxy, proxy_from = settings.proxy, ""
        if not proxy and not is_loopback(parts.hostname):
            proxy = _proxy_of_environment(url)
            proxy_from = "the environment" if proxy else ""
        if proxy.reveal().lower() == NO_PROXY:
            proxy = Secret()
        return cls(verify, bundle_from, proxy, proxy_from)

    def identity(self) -> tuple[str, ...]:
        """Return what tells this apart from other kinds of trust; empty for the usual kind.

        What was obtained under one kind is not used under another. Only for keyed hashes, since
        the proxy's address may hold a password.
        """
        if self.verify is True and not self.proxy:
            return ()
        return (
            _content_of(self.verify) if isinstance(self.verify, str) else str(self.verify),
            self.proxy.reveal(),
        )


@functools.lru_cache(maxsize=16)
def _digest_of(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read(_LONGEST_BUNDLE)).hexdigest()


def _content_of(path: str) -> str:
    """Return what names the content of a CA bundle: a digest, or the path of a folder."""
    try:
        found = os.stat(path)
        return _digest_of(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return path


def _is_proxy(proxy: Secret) -> bool:
    if not proxy or proxy.reveal().lower() == NO_PROXY:
        return True
    try:
        parts = urlsplit(proxy.reveal() if "://" in proxy.reveal() else f"http://{proxy.reveal()}")
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and parts.scheme in _PROXY_SCHEMES and not _BLANK.search(proxy.reveal())


def _proxy_of_environment(url: str) -> Secret:
    # Only Linux has nothing but variables. Asking requests loads it, so it is asked when needed.
    names = (f"{urlsplit(url).scheme}_proxy", "all_proxy")
    if sys.platform == "linux" and not any(
        os.environ.get(each) for name in names for each in (name, name.upper())
    ):
        return Secret()
    from requests.utils import get_environ_proxies, select_proxy

    return Secret(select_proxy(url, get_environ_proxies(url)) or "")


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How tokens are kept.

    Args:
        store: ``file``, ``orchestrator`` or ``memory``.
        store_path: Folder of the file store; empty for the user's runtime or cache folder.

    Raises:
        ConfigurationError: There is no such store.
    """

    store: str = "memory"
    store_path: str = ""

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

    @property
    def trust(self) -> Trust:
        """What is in force now on the way to the server.

        Raises:
            ConfigurationError: The environment names a CA bundle that is not there.
        """
        return Trust.of(self.http, self.credentials.base_url)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The parts that must not be shown, the password in the proxy's address among them."""
        parts = list(self.credentials.secrets)
        for proxy in (self.http.proxy, _proxy_of_environment(self.credentials.base_url)):
            _, _, password = proxy.reveal().rpartition("@")[0].rpartition("//")[2].partition(":")
            if password:
                parts += [proxy, Secret(password), Secret(unquote(password))]
        return tuple(dict.fromkeys(part for part in parts if part))

    @classmethod
    @discreet
    def from_fields(cls, values: Mapping[str, Any], origin: str | None = None) -> VantageConfig:
        """Read the fields of :data:`vantage_orchestration.credential_fields.FIELDS`.

        Args:
            values: Field name to value. Empty and missing values mean the default. Flags and
                numbers may be text. Members of other names are left alone, but one whose name
                comes near that of a field is refused: it is misspelt.
            origin: Where they were read from.

        Returns:
            The checked configuration.

        Raises:
            ConfigurationError: A value is missing or wrong. Nothing was sent.
        """
        _check_names(values)
        read: dict[str, Any] = {"store": DEFAULT_STORE}
        for spec in FIELDS:
            value = values.get(spec.name)
            if value is None or (isinstance(value, (str, Secret)) and not value):
                continue
            if spec.kind == "secret":
                read[spec.name] = _secret(spec.name, value)
            elif spec.kind == "flag":
                read[spec.name] = _flag(spec.name, value)
            elif spec.kind == "number":
                read[spec.name] = _number(spec.name, value)
            elif isinstance(value, str):
                read[spec.name] = value
            else:
                raise _wrong(spec.name, "no text")
        http = {name: read.pop(name) for name in HttpSettings.__slots__ if name in read}
        tokens = {name: read.pop(name) for name in TokenSettings.__slots__ if name in read}
        return cls(Credentials(**read), HttpSettings(**http), TokenSettings(**tokens), origin)

    @classmethod
    @discreet
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
                name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
                for name, value in source.items()
                if name.startswith(ENVIRONMENT_PREFIX)
            },
            origin="",
        )


def _check_names(values: Mapping[str, Any]) -> None:
    known = {spec.name: spec.name for spec in FIELDS}
    known |= {name.replace("_", ""): name for name in known}
    for given in values:
        # Others may keep something of their own beside ours.
        plain = str(given).lower().replace("-", "_")
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.8)
        if given not in known.values() and near:
            raise ConfigurationError(
                f"The ABBYY Vantage credential has no field {str(given)[:40]!r}",
                hint=f"Did you mean {known[near[0]]!r}?",
            )


def _wrong(name: str, what: str, hint: str = "Correct the connection or block") -> Exception:
    # The value itself is not quoted: it may have slipped in from the field beside.
    return ConfigurationError(
        f"The field {name} of the ABBYY Vantage credential is {what}", hint=hint
    )


def _secret(name: str, value: Any) -> Secret:
    if isinstance(value, (str, Secret)):
        return Secret(value).unbroken()
    raise _wrong(name, "no text")


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _wrong(name, "neither true nor false")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _wrong(name, "no number")
