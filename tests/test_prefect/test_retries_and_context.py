# SPDX-License-Identifier: Apache-2.0
"""The retry condition and the task key, as far as they need no Prefect server."""

from __future__ import annotations

import inspect

import pytest
from prefect import task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from vantage_orchestration.errors import (
    ConfigurationError,
    CredentialsRejected,
    ServiceUnavailable,
    TransactionFailed,
    WaitTimeout,
)
from vantage_orchestration.prefect import retry_if_it_helps, task_key


@task
def nothing() -> None:
    """Stands for any task."""


def _caused_by(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("the step failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (CredentialsRejected("x"), False),
        (ConfigurationError("x"), False),
        (TransactionFailed("x"), False),
        (WaitTimeout("x"), True),
        (ServiceUnavailable("x"), True),
        (ValueError("x"), True),
        (KeyError("x"), True),
        (_caused_by(CredentialsRejected("x")), False),
        (_caused_by(ServiceUnavailable("x")), True),
        (_caused_by(ValueError("x")), True),
        (Failed(data=CredentialsRejected("x")), False),
        (Failed(data=ServiceUnavailable("x")), True),
        (Failed(message="no error is known"), True),
    ],
)
def test_only_what_can_pass_is_tried_again(failure: object, again: bool) -> None:
    run = TaskRun(task_key="k", dynamic_key="0")
    assert retry_if_it_helps(nothing, run, Failed(data=failure)) is again


def test_prefect_calls_plain_functions_only() -> None:
    # Its engine asks inspect.isfunction and would take anything else for "do not retry".
    assert inspect.isfunction(retry_if_it_helps)


def test_a_key_needs_a_run() -> None:
    with pytest.raises(ConfigurationError, match="No Prefect flow or task is running"):
        task_key("a.pdf")
