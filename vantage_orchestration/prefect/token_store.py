# SPDX-License-Identifier: Apache-2.0
"""Stores sealed tokens in Prefect Variables, for workers on several hosts."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prefect.context import SettingsContext, get_settings_context

from vantage_orchestration.token.access import SYSTEM_CLOCK, Clock
from vantage_orchestration.token.stores import FileStore, StoreError

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import VariableUpdate

__all__ = ["LONGEST_VALUE", "PREFIX", "VariableStore", "VariableStores"]

#: Prefix of the Variables' names.
PREFIX = "abbyy_vantage_token_"
#: Longest value of a Variable in characters, counted as JSON.
LONGEST_VALUE = 5000
#: Seconds to wait for the Prefect API, and for a connection to it, which Prefect's client tries
#: four times. A login takes less than Prefect's default of 60.
_PATIENCE, _CONNECT = 10.0, 2.0
#: Seconds for which an API that did not answer is not called again.
_PAUSE = 30.0
#: Statuses after which Prefect's client would wait and retry, even without end.
_PASSING = frozenset({408, 429, 502, 503})


class VariableStore:
    """Stores entries as Prefect Variables, named :data:`PREFIX` and the entry's name.

    The value is the sealed entry in base64. Prefect's limit allows tokens of up to about 3500
    characters; a longer one stays in the memory of its process.

    Prefect has no lock for this. Processes of one host use a lock file, as with the file store.
    There is no lock between hosts: two that begin at the same moment log in once each, and the
    later token is kept.

    Args:
        settings: Identifies the Prefect server. It is needed because a login runs in a separate
            thread without the run's settings.
        store_path: Folder of the lock files; empty for that of the file store.
        clock: Monotonic time.
    """

    label = "Prefect Variable"

    def __init__(
        self, settings: SettingsContext, store_path: str = "", *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        # Copies, since a context of Prefect can be entered only once.
        with settings.model_copy(), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            self._settings = get_settings_context().model_copy()
        self._host = FileStore(store_path)
        self._now = clock.steady
        self._silent_until = float("-inf")

    def load(self, name: str) -> bytes | None:
        """Return the entry; see :class:`vantage_orchestration.token.stores.TokenStore`."""
        with self._client() as client:
            variable = client.read_variable_by_name(_variable(name))
        if variable is None or not isinstance(variable.value, str):
            return None
        try:
            return base64.b64decode(variable.value, validate=True)
        except (binascii.Error, ValueError):
            return None  # Somebody else wrote it; it is replaced at the next save.

    def save(self, name: str, entry: bytes) -> None:
        """Write the entry; see :class:`vantage_orchestration.token.stores.TokenStore`."""
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate
        from prefect.exceptions import ObjectAlreadyExists

        value = base64.b64encode(entry).decode("ascii")
        length = len(value) + 2  # JSON puts it in quotes.
        if length > LONGEST_VALUE:
            raise StoreError(
                f"the sealed entry has {length} characters, and Prefect allows {LONGEST_VALUE}"
            )
        with self._client() as client:
            change = VariableUpdate(name=_variable(name), value=value)
            if _update(client, change):
                return
            try:
                client.create_variable(VariableCreate(name=_variable(name), value=value))
            except ObjectAlreadyExists:
                # Another host created it at the same moment.
                _update(client, change)

    def forget(self, name: str) -> None:
        """Remove the entry; see :class:`vantage_orchestration.token.stores.TokenStore`."""
        from prefect.exceptions import ObjectNotFound

        with self._client() as client, contextlib.suppress(ObjectNotFound):
            client.delete_variable_by_name(_variable(name))

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[bool]:
        """Hold the lock of this host; there is none between hosts.

        Yields:
            False if another process of this host held it for ``timeout`` seconds; True otherwise,
            also if the host has no place for lock files.
        """
        held = True
        with contextlib.ExitStack() as stack:
            # Whatever is wrong with the folder, the store works without it.
            with contextlib.suppress(Exception):
                held = stack.enter_context(self._host.lock(name, timeout))
            yield held

    @contextlib.contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        """Yield a client of the server; its errors become a StoreError."""
        import httpx
        from prefect.client.orchestration import get_client

        if self._now() < self._silent_until:
            raise StoreError("the Prefect API did not answer a moment ago")
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
        except StoreError:
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
        raise StoreError(trouble)


@dataclass(frozen=True)
class VariableStores:
    """Creates the store of one Prefect server.

    Equal servers and folders give equal objects with equal ``repr``, so that all blocks of a
    process share one token source.

    Args:
        server: Address of the Prefect API, without a user's name.
        store_path: Folder of the lock files; empty for that of the file store.
        settings: The settings of Prefect.
    """

    server: str
    store_path: str
    settings: SettingsContext = field(repr=False, compare=False)

    @classmethod
    def of_here(cls, store_path: str = "") -> VariableStores:
        """Return the object for the Prefect server of the calling code."""
        from prefect.settings import PREFECT_API_URL

        # Only the settings: the store outlives the run and must not keep its context in memory.
        return cls(_public(PREFECT_API_URL.value() or ""), store_path, get_settings_context())

    def __call__(self) -> VariableStore:
        """Return the store."""
        return VariableStore(self.settings, self.store_path)


def _variable(name: str) -> str:
    return PREFIX + name


def _update(client: SyncPrefectClient, change: VariableUpdate) -> bool:
    """Change a Variable; return False if it does not exist."""
    import httpx

    try:
        client.update_variable(change)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return False
    return True


def _refuse_to_wait(response: httpx.Response) -> None:
    """Raise StoreError for a status after which Prefect's client would wait and retry."""
    if response.status_code in _PASSING:
        raise StoreError(f"the Prefect API answered {response.status_code}")


def _public(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
