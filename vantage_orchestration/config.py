# SPDX-License-Identifier: Apache-2.0
"""Converts a stored credential, from any place, into one immutable value."""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from vantage_orchestration.credentials import (
    Credentials,
    documented,
    fields_of,
    is_loopback,
    stored,
)
from vantage_orchestration.errors import ConfigurationError, discreet
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import FileStore, Store

log = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "ABBYY_VANTAGE_"
#: Value of ``proxy`` for a direct connection.
NO_PROXY = "none"
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LONGEST_BUNDLE = 16 * 1024 * 1024
_STORES = ("file", "orchestrator", "memory")
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_FLAGS = dict.fromkeys(("true", "1", "yes", "on"), True)
_FLAGS |= dict.fromkeys(("false", "0", "no", "off"), False)


def _number(label: str, description: str, default: float) -> Any:
    return stored(label, description, kind="number", default=default)


@documented
@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Connection settings.

    ``ca_bundle`` may also be a folder; a leading ``~`` is the home folder. ``proxy`` may contain a
    password. A megabyte has 1024 * 1024 bytes.

    Raises:
        ConfigurationError: ``ca_bundle`` does not exist, ``proxy`` is not an address, or a number
            is not positive.
    """

    ca_bundle: str = stored(
        "CA bundle",
        "File with the only certificate authorities to trust. By default that of"
        " REQUESTS_CA_BUNDLE, or the usual ones.",
    )
    verify: bool = stored(
        "Verify certificates",
        "Check the server's certificate. Turn this off for trials only.",
        kind="flag",
        default=True,
    )
    proxy: Secret = stored(
        "Proxy",
        "Address of an HTTP proxy, such as http://proxy.example.com:3128, or none for a direct"
        " connection. By default that of the environment.",
        kind="secret",
    )
    connect_timeout: float = _number("Connect timeout", "Seconds to connect.", 5.0)
    read_timeout: float = _number(
        "Read timeout",
        "Seconds to wait for the server's next bytes, and for a whole reply other than a file.",
        30.0,
    )
    result_limit: float = _number("Result limit", "Largest result file in megabytes.", 8192.0)
    max_concurrent_requests: float = _number(
        "Requests at once",
        "Requests that a host sends at the same time with this credential; 0 for any number.",
        0.0,
    )
    max_requests_per_second: float = _number(
        "Requests per second",
        "Requests that a host sends in a second with this credential; 0 for any number.",
        0.0,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "ca_bundle", os.path.expanduser(self.ca_bundle.strip()))
        object.__setattr__(self, "proxy", Secret(self.proxy.reveal().strip()))
        if not _is_proxy(self.proxy):
            raise ConfigurationError(
                "The proxy of the ABBYY Vantage connection is not an address",
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
        for name, whole in (("max_concurrent_requests", True), ("max_requests_per_second", False)):
            number = getattr(self, name)
            if not (math.isfinite(number) and number >= 0 and (not whole or number % 1 == 0)):
                raise ConfigurationError(
                    f"The {name} of the ABBYY Vantage connection is {number}",
                    hint=f"Give a {'whole ' if whole else ''}number, or 0 for any number",
                )

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds to connect and seconds to wait for bytes, in the form of ``requests``."""
        return (self.connect_timeout, self.read_timeout)


@dataclass(frozen=True, slots=True)
class Trust:
    """Certificates and proxy in use for a server: the connection's settings, otherwise the
    environment's."""

    #: In the form of ``requests``: False, True for the usual authorities, or the path of the
    #: trusted ones.
    verify: bool | str
    #: The environment variable with that path; otherwise empty.
    bundle_from: str
    #: Address of the proxy; empty for a direct connection.
    proxy: Secret
    #: ``the environment`` if the proxy comes from there; otherwise empty.
    proxy_from: str

    @classmethod
    def of(cls, settings: HttpSettings, url: str) -> Trust:
        """Return what is in use now, by the settings of a connection, for a server's address.

        The environment's proxy is not used for this machine itself: unencrypted http is allowed
        there and would pass through the proxy.
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
                f"The environment variable {bundle_from} names the CA bundle {verify!r}, which"
                " does not exist",
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
        """Return values that distinguish this trust from others; empty for the default.

        A token obtained under one is not used under another. Use it only in keyed hashes, since the
        proxy's address may contain a password.
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
    """Return an identifier of a CA bundle's content: a digest, or the path of a folder."""
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
    # On Linux the variables are enough. Other systems need requests, which is loaded only then.
    names = (f"{urlsplit(url).scheme}_proxy", "all_proxy")
    if sys.platform == "linux" and not any(
        os.environ.get(each) for name in names for each in (name, name.upper())
    ):
        return Secret()
    from requests.utils import get_environ_proxies, select_proxy

    return Secret(select_proxy(url, get_environ_proxies(url)) or "")


@documented
@dataclass(frozen=True, slots=True)
class VantageConfig:
    """One stored credential: login (``credentials``), connection settings (``http``) and storage of
    tokens.

    ``origin`` is its source, in the form of ``vantage-orchestration token --of``: empty for the
    environment, None if created in code. There the token store is by default ``memory``.

    Raises:
        ConfigurationError: The store is unknown.
    """

    credentials: Credentials
    http: HttpSettings = field(default_factory=HttpSettings)
    store: str = stored(
        "Token store",
        "Where a token is stored for other processes: file (on this host), orchestrator (Airflow"
        " or Prefect Variable, for several hosts), or memory (not stored).",
        in_code="memory",
        default="file",
        choices=_STORES,
    )
    store_path: str = stored(
        "Token folder", "Folder of the file store, if not the user's runtime or cache folder."
    )
    origin: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.store not in _STORES:
            raise ConfigurationError(
                f"{self.store!r} is not a store for tokens of ABBYY Vantage",
                hint=f"Choose one of {', '.join(_STORES)}",
            )

    def open_store(self, orchestrator: Store | None = None) -> Store | None:
        """Return the store of tokens; None if they stay in the process's memory.

        Args:
            orchestrator: The orchestrator's own store, if there is an orchestrator.
        """
        if self.store == "file":
            return FileStore(self.store_path)
        if self.store == "orchestrator":
            if orchestrator is not None:
                return orchestrator
            log.warning(
                "The token of ABBYY Vantage is kept in this process alone: there is no orchestrator"
                " whose store could be used"
            )
        return None

    @property
    def trust(self) -> Trust:
        """Certificates and proxy in use for the server.

        Raises:
            ConfigurationError: The environment names a CA bundle that does not exist.
        """
        return Trust.of(self.http, self.credentials.base_url)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values to mask, including a password in the proxy's address."""
        parts = list(self.credentials.secrets)
        for proxy in (self.http.proxy, _proxy_of_environment(self.credentials.base_url)):
            _, _, password = proxy.reveal().rpartition("@")[0].rpartition("//")[2].partition(":")
            if password:
                parts += [proxy, Secret(password), Secret(unquote(password))]
        return tuple(dict.fromkeys(part for part in parts if part))

    @classmethod
    @discreet
    def from_fields(cls, values: Mapping[str, Any], origin: str | None = None) -> VantageConfig:
        """Read the fields of a stored credential, :data:`FIELDS`.

        Args:
            values: Field name to value. Empty and missing values mean the default. Flags and
                numbers may be text. Unknown names are ignored, but one that resembles a field's
                name is refused as misspelt.
            origin: Source of the values.

        Returns:
            The checked configuration.

        Raises:
            ConfigurationError: A value is missing or wrong. Nothing was sent.
        """
        _check_names(values)
        read: dict[str, Any] = {"store": "file"}
        for spec in FIELDS:
            value = values.get(spec.name)
            if value is None or (isinstance(value, (str, Secret)) and not value):
                continue
            reader, problem, advice = _READERS[spec.kind]
            try:
                read[spec.name] = reader(value)
            except (KeyError, OverflowError, TypeError, ValueError):
                # The value is not quoted: it may belong to another field.
                raise ConfigurationError(
                    f"The field {spec.name} of the ABBYY Vantage credential is {problem}",
                    hint=f"Correct the connection or block{advice}",
                ) from None
        http = {name: read.pop(name) for name in HttpSettings.__slots__ if name in read}
        tokens = {name: read.pop(name) for name in ("store", "store_path") if name in read}
        return cls(Credentials(**read), HttpSettings(**http), **tokens, origin=origin)

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
        values = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
            for name, value in source.items()
            if name.startswith(ENVIRONMENT_PREFIX)
        }
        if not any(values.values()):
            raise ConfigurationError(
                "The environment has no ABBYY Vantage credential",
                hint=f"Set {ENVIRONMENT_PREFIX}REGION, {ENVIRONMENT_PREFIX}USERNAME and so on, or"
                " name an Airflow connection or a Prefect block",
            )
        return cls.from_fields(values, origin="")


#: The fields of a stored credential: the one list from which every form is built.
FIELDS = (*fields_of(Credentials), *fields_of(HttpSettings), *fields_of(VantageConfig))


def _check_names(values: Mapping[str, Any]) -> None:
    known = {spec.name: spec.name for spec in FIELDS}
    unknown = [given for given in values if given not in known]
    known |= {name.replace("_", ""): name for name in known}
    for given in unknown:
        # Other tools may store their own values beside ours.
        plain = str(given).lower().replace("-", "_")
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.8)
        if near:
            raise ConfigurationError(
                f"The ABBYY Vantage credential has no field {str(given)[:40]!r}",
                hint=f"Did you mean {known[near[0]]!r}?",
            )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


#: Advice about a value that a store has read as something other than text.
_QUOTES = (
    ": in JSON, write the value in quotes. Airflow reads digits, quotes and the like in a URI as"
    " JSON; store such a connection as JSON"
)
#: How a value of each kind is read, what a value is that can't be read, and advice.
_READERS: Mapping[str, tuple[Callable[[Any], Any], str, str]] = {
    "text": (_text, "not a string", _QUOTES),
    "secret": (
        lambda value: value if isinstance(value, Secret) else Secret(_text(value)),
        "not a string",
        _QUOTES,
    ),
    "flag": (lambda value: _FLAGS[str(value).strip().lower()], "neither true nor false", ""),
    "number": (float, "not a number", ""),
}
