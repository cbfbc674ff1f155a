# SPDX-License-Identifier: Apache-2.0
"""The login as one immutable value, checked when it is created.

Each field is declared once, with what a form shows. The Airflow connection form, the Prefect block,
the environment variables and :meth:`.VantageConfig.from_fields` follow these declarations.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar, final
from urllib.parse import quote, urlsplit

from vantage_orchestration.errors import ConfigurationError, discreet
from vantage_orchestration.secret import MASK, Confidential, Secret

T = TypeVar("T")

#: Base address per region [OAS25]. A tenant exists in one region only.
REGIONS: Final = {
    "us": "https://vantage-us.abbyy.com",
    "eu": "https://vantage-eu.abbyy.com",
    "au": "https://vantage-au.abbyy.com",
}
#: Paths and scope of contract section 2.1. According to the vendor, all may change.
DEFAULT_AUTH_PATH: Final = "/auth2/connect/token"
DEFAULT_TENANT_AUTH_PATH: Final = "/auth2/{tenantId}/connect/token"
DEFAULT_API_PATH: Final = "/api/publicapi/v1"
DEFAULT_SCOPE: Final = "openid permissions global.wildcard"
#: Ways to send the API client to the token endpoint.
_CLIENT_AUTHS: Final = ("form", "basic")

_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f\\]")
_TENANT = "{tenantId}"


class Field(NamedTuple):
    """One field of a stored credential.

    Attributes:
        name: Its name in the connection's extra, in the block and, in capitals and after
            ``ABBYY_VANTAGE_``, in the environment.
        label: Its label in a form.
        description: Help for the form, as sentences.
        kind: How its value is parsed.
        default: Its value if none is given.
        choices: The values of a dropdown.
        needed: Whether every credential needs it.
    """

    name: str
    label: str
    description: str
    kind: Literal["text", "secret", "flag", "number"] = "text"
    default: str | bool | float = ""
    choices: tuple[str, ...] = ()
    needed: bool = False


def stored(label: str, description: str, *, in_code: Any = None, **more: Any) -> Any:
    """Declare a field of a dataclass that is a :class:`Field` of a stored credential.

    ``in_code`` is its default for code that creates a value, if that is another one.
    """
    default = more.get("default", "") if in_code is None else in_code
    if more.get("kind") == "secret":
        default = Secret()
    metadata = {"label": label, "description": description, **more}
    return dataclasses.field(default=default, metadata=metadata)


def fields_of(kind: Any) -> tuple[Field, ...]:
    """Return the fields that a dataclass declares by :func:`stored`."""
    declared = dataclasses.fields(kind)
    return tuple(Field(each.name, **each.metadata) for each in declared if each.metadata)


def documented(cls: type[T]) -> type[T]:
    """Add the descriptions of its fields to the docstring of a dataclass."""
    own = [f"    {each.name}: {each.description}" for each in fields_of(cls)]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *own])
    return cls


def _made_discreetly(cls: type[T]) -> type[T]:
    cls.__init__ = discreet(cls.__init__)  # type: ignore[method-assign]
    return cls


@final
@_made_discreetly
@documented
@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Credentials(Confidential):
    """Who logs in, where and how (contract, sections 1 and 2).

    With a base URL the region is ``custom`` or empty. The base URL may end with
    ``/api/publicapi/v1``. Only https is accepted, except for this machine itself; without a scheme,
    https is assumed. With a tenant id, the token path names the tenant.
    ``auth_path`` and ``api_path`` are below the base URL; the former may contain ``{tenantId}``.
    Surrounding spaces are removed from all values, but from secrets only line breaks.

    Raises:
        ConfigurationError: A value is missing or wrong. Nothing was sent.

    The object shows neither password nor client secret in any form, and can't be pickled.
    """

    region: str = stored(
        "Region",
        "Region of the tenant: us, eu or au. Choose custom for an address of your own, and give the"
        " base URL.",
        choices=(*REGIONS, "custom"),
        needed=True,
    )
    base_url: str = stored(
        "Base URL",
        "Address of a private cloud, such as https://vantage.example.com. Only with region custom.",
    )
    tenant_id: str = stored(
        "Tenant ID", "Needed if the user's e-mail address belongs to more than one tenant."
    )
    username: str = stored(
        "Username",
        "E-mail address of the ABBYY Vantage user. Needed with the grant type password.",
    )
    password: Secret = stored(
        "Password", "Password of that user. Needed with the grant type password.", kind="secret"
    )
    client_id: str = stored(
        "Client ID",
        "Id of the API client, from the tenant's administrator. Always needed.",
        needed=True,
    )
    client_secret: Secret = stored(
        "Client secret",
        "Secret of the API client. Always needed. It expires, by default six months after its"
        " creation.",
        kind="secret",
        needed=True,
    )
    grant_type: str = stored(
        "Grant type",
        "OAuth 2.0 grant: password for a user, or client_credentials for services and for tenants"
        " with single sign-on.",
        default="password",
    )
    scope: str = stored(
        "Scope",
        "OAuth 2.0 scope. Change it only if the vendor's documentation does.",
        default=DEFAULT_SCOPE,
    )
    client_auth: str = stored(
        "Client authentication",
        "How client ID and secret are sent: form (in the request's body, as ABBYY documents it)"
        " or basic (HTTP Basic), for a token endpoint of your own that accepts nothing else.",
        default="form",
        choices=_CLIENT_AUTHS,
    )
    auth_path: str = stored(
        "Authentication path",
        "Path of the token endpoint, if not the documented /auth2/connect/token or"
        " /auth2/{tenantId}/connect/token.",
    )
    api_path: str = stored("API path", "Path of the processing API.", default=DEFAULT_API_PATH)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, Secret):
                value = Secret(value).unbroken()
            else:
                value = " ".join(value.split()) if each.name == "scope" else value.strip()
            object.__setattr__(self, each.name, value or each.default)
        region, api_path = self.region.lower(), _path("api_path", self.api_path)
        for name, value in (
            ("region", region),
            ("base_url", _base_url(region, self.base_url, api_path)),
            ("client_auth", self.client_auth.lower()),
            ("auth_path", _auth_path(self.auth_path, self.tenant_id)),
            ("api_path", api_path),
        ):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        needed = ["client_id", "client_secret"]
        if self.grant_type == "password":
            needed = ["username", "password", *needed]
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ConfigurationError(
                f"The ABBYY Vantage credential has no {', '.join(missing)}",
                hint=f"The grant type {self.grant_type!r} needs {', '.join(needed)}",
            )
        if self.client_auth not in _CLIENT_AUTHS:
            raise ConfigurationError(
                f"The client_auth {self.client_auth!r} of the ABBYY Vantage credential is unknown",
                hint=f"Choose {' or '.join(_CLIENT_AUTHS)}",
            )
        for name in (each.name for each in dataclasses.fields(self)):
            if not _is_text(getattr(self, name)):
                raise ConfigurationError(
                    f"The {name} of the ABBYY Vantage credential can't be sent as text",
                    hint="Give a string; in the environment it must be UTF-8",
                )
        for name in ("password", "client_secret"):
            if getattr(self, name).reveal() == MASK:
                raise ConfigurationError(
                    f"The {name} of the ABBYY Vantage credential is {MASK}: it was saved from a"
                    " masked display",
                    hint=f"Enter the real {name} and save it again",
                )

    @property
    def token_url(self) -> str:
        """Address of the token endpoint."""
        return self.base_url + self.token_path

    @property
    def token_path(self) -> str:
        """Path of the token endpoint, below the base address."""
        return self.auth_path.replace(_TENANT, quote(self.tenant_id, safe=""))

    @property
    def api_url(self) -> str:
        """Address of the processing API, without a slash at its end."""
        return self.base_url + self.api_path

    @property
    def host(self) -> str:
        """Host (and port) of the base address, for messages."""
        return urlsplit(self.base_url).netloc

    @property
    def place(self) -> tuple[str, str]:
        """Server and tenant id, which may be empty. A transaction belongs to one of these."""
        return (self.api_url, self.tenant_id)

    @property
    def account(self) -> tuple[str, str, str, str]:
        """Account and server. What is remembered of the service belongs to one of these."""
        return (*self.place, self.username, self.client_id)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values to mask."""
        return (self.password, self.client_secret)

    def check_place(self, place: Sequence[str] | None) -> None:
        """Refuse another server or tenant than the one where work has begun, if that is known: its
        transactions would look deleted here, and be sent and charged again."""
        if place is None:
            return
        url, tenant = place
        moved = tenant and self.tenant_id and tenant.lower() != self.tenant_id.lower()
        if moved or url != self.api_url:
            raise ConfigurationError(
                "The ABBYY Vantage credential was changed to another"
                f" {'tenant' if moved else 'server'} while it was in use",
                hint="Running work can't continue there. Set it back and retry, or start new work."
                " Use a separate connection or block for each server and tenant",
                host=urlsplit(url).netloc,
            )

    def identity(self) -> tuple[str, ...]:
        """Return all values that determine the token, including the secrets.

        Use them only for keyed hashes and comparison; never show them.
        """
        return (
            self.token_url,
            self.api_url,
            self.grant_type,
            self.scope,
            self.client_auth,
            self.client_id,
            self.client_secret.reveal(),
            self.username,
            self.password.reveal(),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        return self.identity() == other.identity()

    def __hash__(self) -> int:
        return hash(self.identity())

    def __repr__(self) -> str:
        return (
            f"Credentials(token_url={self.token_url!r}, grant_type={self.grant_type!r},"
            f" username={self.username!r}, client_id={self.client_id!r},"
            f" password={str(self.password)!r}, client_secret={str(self.client_secret)!r})"
        )


def _is_text(value: str | Secret) -> bool:
    text = value.reveal() if isinstance(value, Secret) else value
    try:
        text.encode()
    except (AttributeError, UnicodeError):
        return False
    return True


def is_loopback(host: str | None) -> bool:
    """Return whether ``host`` is this machine itself: ``localhost`` or a loopback address."""
    if host is None:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_region(region: str) -> None:
    names = {"united states": "us", "usa": "us", "north america": "us", "europe": "eu"}
    names |= {"western europe": "eu", "australia": "au"}
    names |= {name: name for name in (*REGIONS, "custom")}
    near = difflib.get_close_matches(region, names, n=1)
    choices = "Choose us, eu or au (a tenant exists in one of them only), or custom with a base URL"
    raise ConfigurationError(
        f"{region[:40]!r} is not a region of ABBYY Vantage"
        if region
        else "The ABBYY Vantage credential has no region",
        hint=f"Did you mean {names[near[0]]}? {choices}" if near and region else choices,
    )


def with_scheme(address: str, port: int | None = None) -> str:
    """Return an address with its scheme; https is assumed if it has none.

    Raises:
        ConfigurationError: It has no scheme and names this machine, where http is as likely.
    """
    assumed = f"https://{address}"
    try:
        host, shown = urlsplit(assumed).hostname, urlsplit(assumed).netloc
    except ValueError:
        return assumed
    if is_loopback(host) and "@" not in address:
        shown += f":{port}" if port is not None else ""
        raise ConfigurationError(
            f"The base URL of ABBYY Vantage names this machine ({shown}) without a scheme",
            hint=f"Did you mean http://{shown}? Write that, or https://{shown}; for other hosts"
            " https is assumed",
        )
    return assumed


def _base_url(region: str, base_url: str, api_path: str) -> str:
    if region not in ("", "custom", *REGIONS) or (not base_url and region not in REGIONS):
        _refuse_region("" if region == "custom" else region)
    if not base_url:
        return REGIONS[region]
    if region in REGIONS and base_url.rstrip("/") != REGIONS[region]:
        raise ConfigurationError(
            f"The ABBYY Vantage credential has both region {region!r} and a base URL",
            hint="Keep one of them: a base URL goes with region custom",
        )
    if "://" not in base_url:
        base_url = with_scheme(base_url)
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    problem = None
    if not host or _UNSAFE.search(base_url):
        problem = "is not a valid address"
    elif parts.username is not None or parts.password is not None:
        problem = "contains a user name or password"
    elif parts.query or parts.fragment or base_url.endswith(("?", "#")):
        problem = "contains a query or fragment"
    elif parts.scheme not in ("https", "http"):
        problem = "is not an https address"
    elif parts.scheme == "http" and not is_loopback(host):
        problem = "is not https: passwords and tokens would be sent unencrypted"
    if problem:
        # The address is not quoted: it may contain a password.
        raise ConfigurationError(
            f"The base URL of ABBYY Vantage {problem}",
            hint="Give an address such as https://vantage.example.com; http is for this machine"
            " (127.0.0.1) only",
        )
    path = parts.path.rstrip("/")
    _refuse_deprecated(path)
    for ending in (api_path, DEFAULT_API_PATH):
        if path.lower().endswith(ending.lower()):
            path = path[: -len(ending)].rstrip("/")
            break
    name = f"[{host}]" if host and ":" in host else host
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{path}"


def _path(name: str, path: str) -> str:
    path = path.strip().rstrip("/")
    if not path.startswith("/"):
        path = f"/{path}"
    if _UNSAFE.search(path) or "?" in path or "#" in path or "//" in path or ".." in path:
        raise ConfigurationError(
            f"The {name} of the ABBYY Vantage credential is not a path",
            hint="Give a path below the base URL, such as "
            + (DEFAULT_AUTH_PATH if name == "auth_path" else DEFAULT_API_PATH),
        )
    return path


def _auth_path(path: str, tenant_id: str) -> str:
    if not path:
        return DEFAULT_TENANT_AUTH_PATH if tenant_id else DEFAULT_AUTH_PATH
    path = _path("auth_path", path)
    _refuse_deprecated(path)
    if _TENANT in path and not tenant_id:
        raise ConfigurationError(
            f"The authentication path contains {_TENANT}, but there is no tenant id",
            hint="Set the tenant id",
        )
    return path


def _refuse_deprecated(path: str) -> None:
    if re.search(r"(^|/)auth(/|$)", path, re.IGNORECASE):
        raise ConfigurationError(
            "The /auth/ paths of ABBYY Vantage are deprecated",
            hint=f"Use {DEFAULT_AUTH_PATH}, or {DEFAULT_TENANT_AUTH_PATH} with a tenant id",
        )
