# SPDX-License-Identifier: Apache-2.0
"""The hook: provides an authorised client of ABBYY Vantage for an Airflow Connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from vantage_orchestration import arguments
from vantage_orchestration.airflow.compat import AirflowNotFoundException, BaseHook
from vantage_orchestration.airflow.connection import (
    CONN_NAME_ATTR,
    CONN_TYPE,
    DEFAULT_CONN_ID,
    HOOK_NAME,
    config_of,
)
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.provider import with_form
from vantage_orchestration.airflow.supervisor import (
    let_threads_ask,
    let_threads_of_triggerer_ask,
    mask,
)
from vantage_orchestration.airflow.testing import refuse_elsewhere
from vantage_orchestration.airflow.variables import AirflowVariables
from vantage_orchestration.errors import AuthError, Forbidden, VantageError, translating
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret

if TYPE_CHECKING:
    import requests

    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.token import AccessToken


@with_form
class VantageHook(BaseHook):
    """Connects a task to ABBYY Vantage.

    Args:
        abbyy_vantage_conn_id: Id of a connection of the type ``abbyy_vantage``.
        logger_name: Name of the logger, as for every hook.

    Creating a hook reads and sends nothing. The connection is loaded when the hook is first used,
    and again after the server has rejected a token, so that a changed password is used. Password,
    client secret, proxy and every token are masked in the task's log.

    Errors that no retry can cure, above all a refused login, fail the task at once: see
    :func:`vantage_orchestration.airflow.errors.translate`.
    """

    conn_name_attr = CONN_NAME_ATTR
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(
        self, abbyy_vantage_conn_id: str = DEFAULT_CONN_ID, *, logger_name: str | None = None
    ) -> None:
        super().__init__(logger_name=logger_name)
        self.abbyy_vantage_conn_id = abbyy_vantage_conn_id
        self._client: VantageClient | None = None

    @property
    def client(self) -> VantageClient:
        """The typed client of the API. Use it in tasks, not in coroutines.

        Raises:
            AirflowNotFoundException: There is no such connection, or it can't be read now.
            ConfigurationError: The connection can't be used. Nothing was sent.
        """
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def get_conn(self) -> requests.Session:
        """Return an authorised ``requests.Session``.

        Relative paths are resolved below the API's address: ``get_conn().get("/skills")``. The
        token is sent only to the configured server and renewed once if the server rejects it.

        Raises:
            AirflowNotFoundException: There is no such connection, or it can't be read now.
            ConfigurationError: The connection can't be used. Nothing was sent.
        """
        return self.client.session

    def get_token(self) -> AccessToken:
        """Return a valid access token, logging in if the process has none.

        Returns:
            The token as an object. Its ``repr`` shows only when it expires, and it can't be
            pickled, so that it does not get into a log or an XCom by mistake.
            ``get_token().reveal()`` returns the text for the ``Authorization`` header of another
            client.

        Raises:
            AuthError: The login was refused (the task then fails without retries) or failed.
        """
        return self.client.get_token()

    async def aget_token(self) -> AccessToken:
        """Return a valid access token as :meth:`get_token` does, for triggers and async tasks.

        The event loop is not blocked, and the token is masked before this returns.

        Raises:
            AirflowNotFoundException: There is no such connection, or it can't be read now.
            AuthError: The login was refused or failed.
        """
        let_threads_of_triggerer_ask()
        return await asyncio.to_thread(self.get_token)

    def test_connection(self) -> tuple[bool, str]:
        """Log in and list the skills, for the button *Test* and ``airflow connections test``.

        Returns:
            Whether the login works, and a message. Only an unavailable login endpoint is retried.
        """
        once = RetryPolicy(attempts=1, first_wait=0.0, max_wait=0.0, budget=30.0)
        try:
            refuse_elsewhere(self._load_config())
            with self.new_client(retries=once) as client:
                return self._try_out(client)
        except (VantageError, AirflowNotFoundException) as error:
            return False, str(error)
        except Exception as error:
            return False, f"The test ended with {type(error).__name__}."

    @staticmethod
    def _try_out(client: VantageClient) -> tuple[bool, str]:
        token = client.get_token()
        text = (
            f"Logged in to ABBYY Vantage at {client.config.credentials.host};"
            f" the token is valid until {token.expires_at.to_datetime_string()} UTC."
        )
        try:
            skills = client.list_skills()
        except Forbidden as error:
            return True, f"{text} It may not list skills: {error}"
        except AuthError:
            raise
        except VantageError as error:
            return False, f"{text} However, the API does not work: {error}"
        return True, f"{text} It may use {len(skills)} skills."

    def new_client(self, **options: Any) -> VantageClient:
        """Return a separate client, for callers that close it or need other retries.

        Args:
            options: Further arguments of :class:`vantage_orchestration.client.VantageClient`.
        """
        from vantage_orchestration.client import VantageClient

        let_threads_ask()
        return VantageClient(
            self._load_config,
            on_token=lambda token: mask(Secret(token)),
            translate=translate,
            orchestrator_store=AirflowVariables(),
            **options,
        )

    def _load_config(self) -> VantageConfig:
        """Load the connection; Airflow keeps no copy of it in workers and triggerers."""
        with translating(translate):
            conn_id = arguments.text(CONN_NAME_ATTR, self.abbyy_vantage_conn_id)
        # Not stored in a variable, so that no traceback shows the connection. Airflow reports one
        # that does not exist and a secrets backend or API server that does not answer by the same
        # error, so the task is retried.
        config = config_of(self.get_connection(conn_id))
        for secret in config.secrets:
            # Airflow masks passwords itself, but the extra only if it is read as JSON.
            mask(secret)
        return config

    def __getstate__(self) -> dict[str, Any]:
        # Operators are copied with their attributes; a copy creates its own client.
        return {**self.__dict__, "_client": None}
