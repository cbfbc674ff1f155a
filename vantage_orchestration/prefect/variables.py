# SPDX-License-Identifier: Apache-2.0
"""Small values that all hosts of a Prefect server share, as Prefect Variables."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from vantage_orchestration import retrying
from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.token.access import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

T = TypeVar("T")

#: Prefix of the Variables' names.
PREFIX = "abbyy_vantage_token_"
#: Longest value of a Variable in characters, counted as JSON.
LONGEST_VALUE = 5000
#: Seconds to wait for the Prefect API, and for a connection to it, which Prefect's client tries
#: four times. A server on SQLite waits up to 60 seconds for its database; a process that gives up
#: earlier logs in a second time.
_PATIENCE, _CONNECT = 65.0, 2.0
#: Seconds for which an API that did not answer is not called again.
_PAUSE = 30.0
#: Statuses that pass; after some of them Prefect's client would retry without end. A server on
#: SQLite gives 503 while its database is locked, and 500 when it has run out of connections to it.
_PASSING = frozenset({408, 429, 500, 502, 503})
#: For such statuses, also after a request that took as long as it may. A login waits meanwhile.
RETRIES = retrying.RetryPolicy(attempts=4, first_wait=0.5, max_wait=2.0, budget=_PATIENCE + 5.0)


class _ServerBusy(StateUnavailable):
    """The Prefect API answered with a status that passes."""


class PrefectVariables:
    """Stores values as Prefect Variables, named :data:`PREFIX` and the value's name.

    They are stored in base64. Prefect's limit allows tokens of up to about 3500 characters; a
    longer one stays in the memory of its process. ``settings`` identifies the Prefect server, since
    a login runs in a separate thread without the run's settings; ``server`` is the address of its
    API, without a user's name.
    """

    label = "Prefect Variable"

    def __init__(
        self, settings: SettingsContext, *, server: str = "", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._given = settings
        self._server = server
        self._now = clock.steady
        self._silent_until = float("-inf")

    @classmethod
    def here(cls) -> PrefectVariables:
        """Return the store of the Prefect server of the calling code."""
        # Only the settings: the store outlives the run and must not keep its context in memory.
        return cls(get_settings_context(), server=_public(PREFECT_API_URL.value() or ""))

    def __repr__(self) -> str:
        return f"PrefectVariables({self._server!r})"

    @cached_property
    def _settings(self) -> SettingsContext:
        # Copies, since a context of Prefect can be entered only once.
        with self._given.model_copy(), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            return get_settings_context().model_copy()

    def read(self, name: str) -> bytes | None:
        """Return a value; see :class:`vantage_orchestration.state.Store`."""
        variable = self._ask(lambda client: client.read_variable_by_name(PREFIX + name))
        if variable is None or not isinstance(variable.value, str):
            return None
        try:
            return base64.b64decode(variable.value, validate=True)
        except (binascii.Error, ValueError):
            return None  # Other code wrote it; it is replaced at the next write.

    def write(self, name: str, value: bytes) -> None:
        """Write a value; see :class:`vantage_orchestration.state.Store`."""
        text = _encoded(value)
        # If another host creates it in between, it can be changed then.
        self._ask(
            lambda client: (
                update(client, name, text)
                or _create(client, name, text)
                or update(client, name, text)
            )
        )

    def create(self, name: str, value: bytes) -> bool:
        """Write a value if there is none; see :class:`vantage_orchestration.state.Store`.

        If several hosts try at the same moment, exactly one succeeds.
        """
        text = _encoded(value)
        return self._ask(lambda client: _create(client, name, text))

    def delete(self, name: str) -> None:
        """Remove a value; see :class:`vantage_orchestration.state.Store`."""
        with contextlib.suppress(ObjectNotFound):
            self._ask(lambda client: client.delete_variable_by_name(PREFIX + name))

    def _ask(self, work: Callable[[SyncPrefectClient], T]) -> T:
        """Return what ``work`` returns; repeat it while the server can't answer at present."""

        def once() -> T:
            with self._client() as client:
                return work(client)

        return retrying.call(once, RETRIES, may_repeat=lambda error: isinstance(error, _ServerBusy))

    @contextlib.contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        """Yield a client of the server. All its errors become StateUnavailable."""
        if self._now() < self._silent_until:
            raise StateUnavailable("the Prefect API did not answer a moment ago")
        # With settings, get_client does not return the client of the run.
        settings = {
            "timeout": httpx.Timeout(_PATIENCE, connect=_CONNECT),
            "event_hooks": {"response": [_refuse_to_wait]},
        }
        try:
            with (
                self._settings.model_copy(),
                get_client(sync_client=True, httpx_settings=settings) as client,
            ):
                yield client
        except (StateUnavailable, ObjectNotFound):
            raise
        except httpx.HTTPStatusError as error:
            trouble = f"the Prefect API answered {error.response.status_code}"
        except (httpx.TransportError, OSError) as error:
            self._silent_until = self._now() + _PAUSE
            trouble = f"the Prefect API did not answer ({type(error).__name__})"
        except Exception as error:  # Its text could quote the value.
            trouble = f"the Prefect API could not be used ({type(error).__name__})"
        else:
            return
        raise StateUnavailable(trouble)


def _encoded(value: bytes) -> str:
    text = base64.b64encode(value).decode("ascii")
    length = len(text) + 2  # JSON puts it in quotes.
    if length > LONGEST_VALUE:
        raise StateUnavailable(
            f"the encrypted entry takes {length} characters, and Prefect allows {LONGEST_VALUE}"
        )
    return text


def update(client: SyncPrefectClient, name: str, text: str) -> bool:
    """Change a Variable; return whether there is one."""
    try:
        client.update_variable(VariableUpdate(name=PREFIX + name, value=text))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return False
    return True


def _create(client: SyncPrefectClient, name: str, text: str) -> bool:
    """Create a Variable; return whether there was none."""
    try:
        client.create_variable(VariableCreate(name=PREFIX + name, value=text))
    except ObjectAlreadyExists:
        return False
    return True


def _refuse_to_wait(response: httpx.Response) -> None:
    """Raise for a status after which Prefect's client would wait."""
    if response.status_code in _PASSING:
        raise _ServerBusy(
            f"the Prefect API answered {response.status_code}",
            retry_after=retrying.parse_retry_after(response.headers.get("Retry-After")),
        )


def _public(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
