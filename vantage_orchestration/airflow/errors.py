# SPDX-License-Identifier: Apache-2.0
"""Marks errors that no retry can cure, so that Airflow does not retry the task.

A task with five retries and a wrong password would log in six times and lock the account.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from vantage_orchestration.airflow.compat import AirflowFailException
from vantage_orchestration.errors import VantageError


def translate(error: VantageError) -> Exception:
    """Return the exception to raise in a task for an error of this package.

    That is the error itself if a retry can help or if it was translated before. Otherwise it is an
    equal error that is also an ``AirflowFailException``: Airflow fails the task at once, and
    ``except CredentialsRejected`` still catches it. Its pickle and copies have only the class of
    this package.
    """
    if error.retryable or isinstance(error, AirflowFailException):
        return error
    final = _final_class(type(error))(error.what, **error.details())
    return cast(Exception, final)


class _Final(VantageError):
    """The additions of a final error to its class."""

    _kind: ClassVar[type[VantageError]]

    def copy(self) -> VantageError:
        return self._kind(self.what, **self.details())

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is created at run time, so another process could not import it.
        return self.copy().__reduce__()


_final_classes: dict[type[VantageError], type[VantageError]] = {}


def _final_class(kind: type[VantageError]) -> type[VantageError]:
    if kind not in _final_classes:
        # Named like its base class, which a reader of a log can look up.
        _final_classes[kind] = type(
            kind.__name__,
            (_Final, kind, AirflowFailException),
            {
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
                "__doc__": kind.__doc__,
                "_kind": kind,
            },
        )
    return _final_classes[kind]
