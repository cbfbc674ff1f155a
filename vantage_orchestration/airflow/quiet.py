# SPDX-License-Identifier: Apache-2.0
"""Keeps a warning about this package's connection type out of Airflow's logs.

Airflow warns about the underscore in a connection type whenever it writes a connection as a URI,
and its servers do that at each lookup. The URI itself is correct: Airflow replaces the underscore
with a hyphen. So the warning is useless and fills the triggerer's log.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from vantage_orchestration.airflow.compat import change_method
from vantage_orchestration.airflow.connection import CONN_TYPE

#: A logger that writes nothing. By a filter, since Airflow enables loggers when it configures them.
_NOBODY = logging.getLogger(f"{__name__}.nobody")
_NOBODY.addFilter(lambda record: False)


def quieten() -> None:
    """Keep the warning out of this process's logs; warnings about other types stay."""
    # Below 3.2, where workers and triggers write connections as URIs too.
    logging.getLogger("airflow.sdk.definitions.connection").addFilter(_is_another)
    # In servers. Other processes have not loaded it, and must not load it for this.
    kind: Any = getattr(sys.modules.get("airflow.models.connection"), "Connection", None)

    # From 3.1 on, its logger takes no filters.
    def quietly(get_uri: Any, connection: Any) -> Any:
        if connection.conn_type != CONN_TYPE:
            return get_uri(connection)
        own = vars(connection)
        log, own["_log"] = own.get("_log"), _NOBODY
        try:
            return get_uri(connection)
        finally:
            own["_log"] = log

    change_method(kind, "get_uri", quietly)


def _is_another(record: logging.LogRecord) -> bool:
    return record.args != (CONN_TYPE,)
