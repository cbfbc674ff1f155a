# SPDX-License-Identifier: Apache-2.0
"""The connection form for Airflow below 3.2, which reads it from the hook class.

From 3.2 on, the form comes from the provider's metadata alone: with 3.2 as the lowest version this
module may go. Airflow 3.0 asks only if wtforms is installed, as it is with the FAB provider.
"""

from __future__ import annotations

from typing import Any, TypeVar

from vantage_orchestration.airflow.compat import FORM_IS_METADATA
from vantage_orchestration.airflow.connection import COLUMNS
from vantage_orchestration.airflow.provider import get_provider_info
from vantage_orchestration.config import FIELDS
from vantage_orchestration.credentials import Field

HookClass = TypeVar("HookClass", bound=type)


def with_form(hook: HookClass) -> HookClass:
    """Add the methods that Airflow 3.0 and 3.1 call to a hook class, which must be its own."""
    if not FORM_IS_METADATA:
        hook.get_connection_form_widgets = staticmethod(_widgets)  # type: ignore[attr-defined]
        hook.get_ui_field_behaviour = staticmethod(_behaviour)  # type: ignore[attr-defined]
    return hook


def _widgets() -> dict[str, Any]:
    return {spec.name: _widget(spec) for spec in FIELDS if spec.name not in COLUMNS}


def _behaviour() -> dict[str, Any]:
    (kind,) = get_provider_info()["connection-types"]
    return {name.replace("-", "_"): value for name, value in kind["ui-field-behaviour"].items()}


def _widget(spec: Field) -> Any:
    # The API server replaces these classes with stand-ins meanwhile.
    from wtforms import BooleanField, IntegerField, PasswordField, StringField
    from wtforms.validators import Optional, any_of

    kinds = {"text": StringField, "secret": PasswordField, "flag": BooleanField}
    return kinds.get(spec.kind, IntegerField)(
        spec.label,
        validators=[Optional(), *([any_of(list(spec.choices))] if spec.choices else [])],
        description=spec.description,
        default=None if spec.default == "" else spec.default,
    )
