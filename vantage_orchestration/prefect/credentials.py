# SPDX-License-Identifier: Apache-2.0
"""The Prefect block for an ABBYY Vantage credential."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

import httpx
from prefect.blocks.abstract import CredentialsBlock
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from vantage_orchestration.config import FIELDS, VantageConfig
from vantage_orchestration.errors import ConfigurationError, discreet, frameless
from vantage_orchestration.forks import ModuleLock, after_fork
from vantage_orchestration.prefect.context import run_ids
from vantage_orchestration.secret import MASK, Secret

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.state import Store
    from vantage_orchestration.token import AccessToken

log = logging.getLogger(__name__)

#: Whether pydantic is loading a stored block, as opposed to code that creates one.
_reading: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "abbyy-vantage-reading-block", default=False
)
#: Seconds after which new tasks of a run read the block again, which somebody may have edited.
_KEPT: Final = 60.0
#: What Prefect itself adds to the fields of a block.
_OF_PREFECT = frozenset(
    {"block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous"}
)
_SPECS = {spec.name: spec for spec in FIELDS}
_SECRETS = frozenset(spec.name for spec in FIELDS if spec.kind == "secret")


def _field(name: str) -> Any:
    """Return the form field of that name, as described in the common list of fields."""
    spec = _SPECS[name]
    default: Any = SecretStr(str(spec.default)) if spec.kind == "secret" else spec.default
    if spec.choices and not spec.default:
        default = ...  # The region has no default: a wrong one would be asked in silence.
    return Field(default, title=spec.label, description=spec.description)


class StoredBlock(BaseModel):
    """A block that is checked when code creates it. A stored one must load, so that it can be
    corrected, also in another version of this package. No error quotes a value, except an unknown
    region."""

    # Without this a ValidationError would print the password.
    model_config = ConfigDict(hide_input_in_errors=True)

    @frameless
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        made_here = not _reading.get()
        super().__init__(*args, **kwargs)
        if made_here:
            self._check(sorted(set(self.model_extra or {}) - _OF_PREFECT))

    def _check(self, unknown: list[str]) -> None:
        """Raise what is wrong with a block that code creates, such as fields that do not exist."""

    @model_validator(mode="wrap")
    @classmethod
    def _load(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            # In a stored block, null may stand for an empty form field.
            values = {name: value for name, value in values.items() if value is not None}
        token = _reading.set(True)
        try:
            return handler(values)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
        finally:
            _reading.reset(token)
        raise _failure(cls, [(item["loc"], _words(item, values)) for item in problems])


class VantageCredentials(StoredBlock, CredentialsBlock):
    """Logs in to ABBYY Vantage and provides an authorised client for its API.

    The fields are those of :data:`vantage_orchestration.config.FIELDS`. Values are
    checked, without network access, when a block is created in Python. A stored block is checked
    when it is used, so that it can always be loaded and corrected.

    Raises:
        ValidationError: A value is missing or wrong. The error quotes no value.

    Example:
        Load a saved block and list the skills:

        ```python
        from vantage_orchestration.prefect import VantageCredentials

        credentials = VantageCredentials.load("BLOCK_NAME")
        with credentials.get_client() as client:
            for skill in client.list_skills():
                print(skill.id, skill.name)
        ```
    """

    _block_type_name: ClassVar[str | None] = "ABBYY Vantage Credentials"
    _block_type_slug: ClassVar[str | None] = "abbyy-vantage-credentials"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.abbyy.com/vantage/developer/"
    )
    _description: ClassVar[str | None] = (
        "Logs in to ABBYY Vantage and provides an authorised client for its document processing"
        " API."
    )

    region: Literal["us", "eu", "au", "custom"] = _field("region")
    base_url: str = _field("base_url")
    tenant_id: str = _field("tenant_id")
    username: str = _field("username")
    password: SecretStr = _field("password")
    client_id: str = _field("client_id")
    client_secret: SecretStr = _field("client_secret")
    grant_type: str = _field("grant_type")
    scope: str = _field("scope")
    client_auth: Literal["form", "basic"] = _field("client_auth")
    auth_path: str = _field("auth_path")
    api_path: str = _field("api_path")
    ca_bundle: str = _field("ca_bundle")
    verify: bool = _field("verify")
    proxy: SecretStr = _field("proxy")
    connect_timeout: float = _field("connect_timeout")
    read_timeout: float = _field("read_timeout")
    result_limit: float = _field("result_limit")
    max_concurrent_requests: float = _field("max_concurrent_requests")
    max_requests_per_second: float = _field("max_requests_per_second")
    store: Literal["file", "orchestrator", "memory"] = _field("store")
    store_path: str = _field("store_path")

    _differs: bool = PrivateAttr(False)

    @model_validator(mode="before")
    @classmethod
    def _complete_region(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        region = values.get("region")
        if isinstance(region, str) and region.strip():
            return {**values, "region": region.strip().lower()}
        return {**values, "region": "custom"} if values.get("base_url") else values

    def __setattr__(self, name: str, value: Any) -> None:
        # Pydantic takes what is assigned or updated as it is, and would show a text.
        is_bare = name in _SECRETS and isinstance(value, str)
        super().__setattr__(name, SecretStr(value) if is_bare else value)
        if name in _SPECS or name == "_block_document_name":
            # The values differ from the stored ones, until Prefect has saved them.
            self._differs = name in _SPECS

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values in some fields; see pydantic."""
        copied = super().model_copy(deep=deep)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    @frameless
    def get_client(self) -> VantageClient:
        """Return a client of the ABBYY Vantage API. It is thread-safe.

        All clients of a process with the same credential share one login. If the server rejects a
        token, the client loads the saved block again from Prefect, so that a changed password or
        client secret is used without a restart.

        Returns:
            The client; a context manager that closes its connections.

        Raises:
            ConfigurationError: The block can't be used as it is. Nothing was sent.
        """
        from vantage_orchestration.client import VantageClient

        load, store = self.sources()
        return VantageClient(load, orchestrator_store=store)

    @frameless
    def get_token(self) -> AccessToken:
        """Return a valid access token, logging in if the process has none.

        Its ``repr`` shows only when it expires, and it can't be pickled: if a task returns it,
        Prefect warns that it can't serialize it, and stores nothing. ``reveal()`` returns the text
        for a header; do not store, log or return that.

        Raises:
            AuthError: No token could be obtained; a refused login is not repeated.
            ConfigurationError: The block can't be used as it is. Nothing was sent.
        """
        return self.get_client().get_token()

    async def aget_token(self) -> AccessToken:
        """Return a valid token as :meth:`get_token` does, without blocking the event loop."""
        return await self.get_client().aget_token()

    def poller_key(self) -> Hashable:
        """Return what is equal for equal blocks; those who wait with it share their requests."""
        # No digest, against which guesses of a password could be tried.
        return (self.saved_name, *(Secret(str(value)) for value in self._values().values()))

    @property
    def saved_name(self) -> str:
        """Name of a saved block; empty for one that is not saved, or was changed since."""
        name = self._block_document_name
        return "" if name is None or self._is_anonymous or self._differs else name

    def sources(self) -> tuple[Callable[[], VantageConfig], Store]:
        """Return what reads the credential afresh, and the store of its Prefect server.

        Raises:
            ConfigurationError: The block can't be used as it is.
        """
        from vantage_orchestration.prefect.variables import PrefectVariables

        return self._loader(), PrefectVariables.here()

    def _values(self) -> dict[str, Any]:
        values = {name: getattr(self, name, None) for name in _SPECS}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in values.items()
        }

    def _check(self, unknown: list[str]) -> None:
        # Not the existence of the CA bundle, which matters on the machine that runs the task.
        try:
            if unknown:
                raise ConfigurationError(
                    f"The ABBYY Vantage credential has no field {', '.join(unknown)}"
                )
            _read({**self._values(), "ca_bundle": ""})
        except ConfigurationError as error:
            text = str(error)
        else:
            return
        raise _failure(type(self), [((), text)])

    def _loader(self) -> Callable[[], VantageConfig]:
        """Return a function that gives this block's values first, and then the stored ones."""
        name = self.saved_name
        origin = f"prefect:{name}" if name else None
        # Extra values of a stored block may be misspelt fields.
        others = {} if self.model_extra is None else dict(self.model_extra)
        own: list[VantageConfig] = [_read({**others, **self._values()}, origin)]
        if not name:
            return lambda: own[0]
        first = [True]
        # Other threads than Prefect's do not know which Prefect server to use.
        context = contextvars.copy_context()

        def load() -> VantageConfig:
            if first:
                first.clear()
                return own[0]
            # Only one thread at a time can enter a context, hence the copy.
            own[0] = context.copy().run(self._stored, origin) or own[0]
            return own[0]

        return load

    @frameless
    def _stored(self, origin: str | None) -> VantageConfig | None:
        """Load the block's document again. None if the Prefect API does not answer.

        The HTTP stack calls this in any thread, even while an event loop runs in it. So it uses a
        separate blocking client: that of a run may already be closed.
        """
        name = self._block_document_name or ""
        try:
            # With settings, even empty ones, get_client does not return the run's own client.
            with get_client(sync_client=True, httpx_settings={}) as client:
                # By name: a block that was deleted and saved again has another id.
                document = client.read_block_document_by_name(name, self.get_block_type_slug())
        except ObjectNotFound:
            pass
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            log.warning(
                "The block %r could not be read again (%s); its earlier values are used",
                name,
                type(error).__name__,
            )
            return None
        else:
            return _read(document.data, origin)
        raise ConfigurationError(
            f"The block {name!r} with the ABBYY Vantage credential was deleted",
            hint="Save it again under this name",
        )


def load_credentials(credentials: VantageCredentials | str) -> VantageCredentials:
    """Return a credentials block. Given a name, it calls the Prefect API and blocks.

    What is neither a block nor the name of one is a ConfigurationError; if the Prefect API gives no
    usable answer it is an httpx.HTTPError.
    """
    if isinstance(credentials, VantageCredentials):
        return credentials
    if not isinstance(credentials, str):
        # Anything else would be retried. It may hold secrets, so only its type is shown.
        raise ConfigurationError(
            f"The credentials are an object of the type {type(credentials).__name__}",
            hint="Give an ABBYY Vantage Credentials block, or the name of a saved one; .map() takes"
            " a block as unmapped(block)",
        )
    try:
        # Without _sync it would return a coroutine in a thread where an event loop runs.
        block = VantageCredentials.load(credentials, _sync=True)  # type: ignore[call-arg]
    except json.JSONDecodeError:
        # Raised below, since that error holds what was received.
        what = f"The Prefect API's answer about the block {credentials!r} is not JSON"
        failure: Exception = httpx.DecodingError(f"{what}; a proxy may have answered")
    except ValueError as error:
        failure = ConfigurationError(
            f"The block {credentials!r} could not be read from Prefect ({type(error).__name__})",
            hint="Look at PREFECT_API_URL and at the name, under which an ABBYY Vantage Credentials"
            " block must be saved there",
        )
    else:
        return cast(VantageCredentials, block)
    raise failure


def load_config(name: str) -> tuple[VantageConfig, Store]:
    """Return the credential of a saved block, and the token store of its server.

    Commands call it by an entry point, for ``--of prefect:NAME``. A block that can't be read or
    used is a ConfigurationError.
    """
    try:
        load, store = load_credentials(name).sources()
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        trouble = type(error).__name__
    else:
        return load(), store
    raise ConfigurationError(
        f"The block {name!r} could not be read from Prefect ({trouble})",
        hint="Look at the block's name and at PREFECT_API_URL",
    )


@dataclass
class _Shared:
    """A client and the number of tasks that use it."""

    since: float
    users: int = 0
    client: VantageClient | None = None
    making: threading.Lock = field(default_factory=threading.Lock)


#: Clients of tasks of a flow run that overlap. Mapped tasks would otherwise each read the block
#: from Prefect and open connections of their own.
shared: dict[Hashable, _Shared] = {}
_lock = ModuleLock()
# A thread of the parent may be making one of these clients.
after_fork(shared.clear)


@contextmanager
def client_of(credentials: VantageCredentials | str) -> Iterator[VantageClient]:
    """Yield a client; it is closed when the last of the tasks that share it has ended."""
    run, _ = run_ids()
    if run is None:
        with load_credentials(credentials).get_client() as client:
            yield client
        return
    named = isinstance(credentials, str)
    key = (run, credentials if named else load_credentials(credentials).poller_key())
    now = time.monotonic()
    with _lock:
        found = shared.get(key)
        if found is None or now - found.since > _KEPT:
            found = shared[key] = _Shared(now)
        found.users += 1
    try:
        with found.making:
            if found.client is None:
                found.client = load_credentials(credentials).get_client()
        yield found.client
    finally:
        with _lock:
            found.users -= 1
            last = not found.users
            if last and shared.get(key) is found:
                del shared[key]
        if last and found.client is not None:
            found.client.close()


@discreet
def _read(values: dict[str, Any], origin: str | None = None) -> VantageConfig:
    for name in _SECRETS & values.keys():
        text = values[name]
        if isinstance(text, str) and text and not text.strip("*"):
            # Prefect's mask and pydantic's differ in length.
            values = {**values, name: MASK}
    return VantageConfig.from_fields(values, origin)


def _words(problem: ErrorDetails, values: Any) -> str:
    """Return what is wrong; for the region in the package's own words."""
    if problem["loc"] == ("region",) and isinstance(values, dict):
        region = values.get("region")
        try:
            _read({"region": region if isinstance(region, str) else ""})
        except ConfigurationError as error:
            return str(error)
    return problem["msg"]


def _failure(cls: type, problems: list[tuple[tuple[int | str, ...], str]]) -> ValidationError:
    return ValidationError.from_exception_data(
        cls.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("abbyy_vantage", "{text}", {"text": text}),
                loc=loc,
                input=None,
            )
            for loc, text in problems
        ],
        hide_input=True,
    )
