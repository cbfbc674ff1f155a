# SPDX-License-Identifier: Apache-2.0
"""Small values that all hosts of an Airflow share, as Airflow Variables."""

from __future__ import annotations

import base64
import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from vantage_orchestration.airflow.compat import AIRFLOW
from vantage_orchestration.airflow.supervisor import supervisor
from vantage_orchestration.errors import StateUnavailable
from vantage_orchestration.parallel import in_background

T = TypeVar("T")

#: Prefix of each Variable's key. Airflow masks a Variable whose key contains "token".
KEY_PREFIX: Final = "abbyy_vantage_token_"
_DESCRIPTION: Final = (
    "ABBYY Vantage: an encrypted access token, or the time of a refused login. Created by"
    " vantage-orchestration, which creates a new one if this is deleted."
)
#: Seconds to wait for Airflow's answer. By default a supervisor asks the API server five times, for
#: 5 seconds each, with pauses of up to 15 seconds; a host that gives up earlier logs in by itself.
PATIENCE: Final = 45.0
#: Seconds in which a host sets a Variable that it has just found missing: usually, and at most.
_SETTLED: Final = 1.0
_LONGEST: Final = 30.0
#: Seconds for which Airflow is not called again after it gave no answer.
_PAUSE: Final = 300.0


class AirflowVariables:
    """A :class:`vantage_orchestration.state.Store` of Airflow Variables, for tasks, triggers and
    Airflow's own servers.

    Tasks and triggers access the Variables through their supervisor; the API server and commands
    such as ``airflow connections test`` use the database.
    """

    label = "Airflow Variable"

    def __init__(self) -> None:
        self._pause_until = 0.0

    def __repr__(self) -> str:
        return "AirflowVariables()"

    def read(self, name: str) -> bytes | None:
        """See :class:`.Store`."""
        text = self._ask(_get, name)
        if text is None:
            return None
        try:
            return base64.b64decode(text, validate=True)
        except (TypeError, ValueError):
            return None  # It was edited; it is replaced at the next write.

    def write(self, name: str, value: bytes) -> None:
        """See :class:`.Store`."""
        text = base64.b64encode(value).decode("ascii")
        self._ask(lambda key: _variable().set(key, text, description=_DESCRIPTION), name)

    def create(self, name: str, value: bytes) -> bool:
        """See :class:`.Store`.

        Airflow can set a Variable, but not create it exclusively. So it is read again after the
        time that another host may take to set it too: the last writer has created it. That time is
        longer than a request, so two hosts can both succeed only if one hangs between its two
        requests.
        """
        begun = time.monotonic()
        if self.read(name) is not None:
            return False
        self.write(name, value)
        time.sleep(min(max(_SETTLED, 3 * (time.monotonic() - begun)), _LONGEST))
        return self.read(name) == value

    def delete(self, name: str) -> None:
        """See :class:`.Store`."""
        self._ask(lambda key: _variable().delete(key), name)

    def _ask(self, function: Callable[[str], T], name: str) -> T:
        """Query Airflow with the key of a Variable, and wait up to PATIENCE seconds.

        Requests of a task or trigger may need the event loop. A coroutine that blocks it to get a
        token would otherwise wait for ever.
        """
        if time.monotonic() < self._pause_until:
            raise StateUnavailable("Airflow gave no answer a while ago")
        answer = in_background(lambda: function(KEY_PREFIX + name), "abbyy-vantage-variable")
        # Not by a TimeoutError, which the function itself may raise as well.
        concurrent.futures.wait([answer], PATIENCE)
        if not answer.done():
            self._pause_until = time.monotonic() + _PAUSE
            raise StateUnavailable(f"Airflow gave no answer within {PATIENCE:.0f} s")
        from airflow.sdk.exceptions import AirflowRuntimeError

        try:
            return answer.result()
        except AirflowRuntimeError as error:  # Its text may contain anything.
            trouble = error.error.error.value
        raise StateUnavailable(f"Airflow answered {trouble}")


def _get(key: str) -> str | None:
    """Return a Variable; None only if there is none.

    Airflow's own ``Variable.get`` also takes each failure for a missing Variable. It asks every
    secrets backend first, and none of these has a value that was written by this class.
    """
    comms = supervisor()
    if comms is None:
        from airflow.secrets.metastore import MetastoreBackend

        value: str | None = MetastoreBackend().get_variable(key)
        return value
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import GetVariable, VariableResult

    found = comms.send(GetVariable(key=key))
    if isinstance(found, VariableResult):
        return found.value
    if found.error != ErrorType.VARIABLE_NOT_FOUND:
        raise AirflowRuntimeError(found)
    if AIRFLOW >= (3, 3):
        # The API server says the same if it can't read its database. Then this fails.
        from airflow.sdk.execution_time.comms import GetVariableKeys

        comms.send(GetVariableKeys(prefix=key, limit=1))
    return None


def _variable() -> Any:
    if supervisor() is not None:
        from airflow.sdk import Variable

        return Variable
    # The class of airflow.sdk can't write here, and reads the database only in some processes.
    from airflow.models import Variable

    return Variable
