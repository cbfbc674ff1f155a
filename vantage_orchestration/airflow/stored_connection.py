# SPDX-License-Identifier: Apache-2.0
"""Loads an Airflow Connection by its id, for commands and for Airflow's servers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vantage_orchestration.airflow.connection import HOOK_NAME, config_of
from vantage_orchestration.airflow.variables import AirflowVariables
from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from vantage_orchestration.config import VantageConfig
    from vantage_orchestration.state import Store


def load_config(name: str, team_name: str | None = None) -> tuple[VantageConfig, Store]:
    """Load a connection as Airflow's servers do, with Airflow's own token store."""
    from vantage_orchestration.airflow.compat import AirflowNotFoundException, server_connection

    # Suppressed, so that no exception of Airflow is shown along with the package's. Not stored in a
    # variable, so that no traceback shows it.
    with contextlib.suppress(AirflowNotFoundException):
        return config_of(server_connection(name, team_name)), AirflowVariables()
    raise ConfigurationError(
        f"Airflow has no connection {name!r}, or can't read it at present",
        hint=f"Give the id of a connection of the type {HOOK_NAME}; AIRFLOW_HOME and Airflow's"
        " settings must be those of its servers",
    )
