# SPDX-License-Identifier: Apache-2.0
"""The provider's metadata for Airflow. Imports neither Airflow nor anything heavy.

Airflow builds the connection form from this alone (``GET /ui/connections/hook_meta``), without
importing the hook.
"""

from __future__ import annotations

from typing import Any, TypeVar

from vantage_orchestration.airflow.connection import (
    COLUMNS,
    CONN_TYPE,
    HOOK_NAME,
)
from vantage_orchestration.config import FIELDS
from vantage_orchestration.credentials import Field
from vantage_orchestration.host import airflow_version

HookClass = TypeVar("HookClass", bound=type)

_PACKAGE = "vantage_orchestration.airflow"
_HOOK_MODULE = f"{_PACKAGE}.hooks.vantage"
_NAME = "ABBYY Vantage"
_TYPES = {"text": "string", "secret": "string", "flag": "boolean", "number": "number"}
_PLACEHOLDERS = {
    "username": "user@example.com",
    "base_url": "https://vantage.example.com, or empty for a region",
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, the entry point ``apache_airflow_provider``."""
    return {
        "package-name": "vantage-orchestration",
        "name": _NAME,
        "description": "ABBYY Vantage document processing: connection type, tokens, API client.",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://docs.abbyy.com/vantage/",
                "how-to-guide": ["/docs/airflow.md"],
                "logo": "/integration-logos/abbyy-vantage.svg",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": _NAME, "python-modules": [_HOOK_MODULE]}],
        "operators": _modules("operators.vantage"),
        "sensors": _modules("sensors.vantage"),
        "triggers": _modules("triggers.transactions", "triggers.completed"),
        "extra-links": [f"{_PACKAGE}.links.VantageTransactionLink"],
        "config": {
            "abbyy_vantage": {
                "description": "Settings of ABBYY Vantage.",
                "options": {
                    "state_path": {
                        "description": "Folder in which tasks record the transactions that they"
                        " have started, so that a later try does not pay for them again: a path"
                        " that all workers share, or a URL of any store that ObjectStoragePath"
                        " supports. Used by tasks without an output folder. Files older than 15"
                        " days can be removed.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@bucket/abbyy-vantage-state",
                        "default": "",
                    }
                },
            }
        },
        "connection-types": [
            {
                "connection-type": CONN_TYPE,
                "hook-class-name": f"{_hook_module()}.VantageHook",
                "hook-name": HOOK_NAME,
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port"],
                    "relabeling": {
                        COLUMNS[spec.name]: spec.label for spec in FIELDS if spec.name in COLUMNS
                    },
                    "placeholders": {COLUMNS[name]: text for name, text in _PLACEHOLDERS.items()},
                },
                "conn-fields": {
                    spec.name: _form_field(spec) for spec in FIELDS if spec.name not in COLUMNS
                },
            }
        ],
    }


def _hook_module() -> str:
    try:
        airflow_version()
    except ModuleNotFoundError:
        pass
    except ImportError:
        return f"{_PACKAGE}.too_old"
    return _HOOK_MODULE


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.{name}" for name in names]}]


def _form_field(spec: Field) -> dict[str, Any]:
    # Airflow's form treats a field as optional if null is one of its types. Otherwise it requires
    # the field, and marks the collapsed section that contains it.
    kind = _TYPES[spec.kind]
    schema: dict[str, Any] = {"type": kind if spec.needed else [kind, "null"]}
    if spec.choices:
        schema["enum"] = list(spec.choices)
    if spec.kind == "secret":
        schema["format"] = "password"
    if spec.kind == "number":
        schema["minimum"] = 0
    if spec.default != "":
        schema["default"] = spec.default
    return {"label": spec.label, "description": spec.description, "schema": schema}


def with_form(hook: HookClass) -> HookClass:
    """Add the methods that Airflow 3.0 and 3.1 call to a hook class, which must be its own.

    They read the form from the hook class. It may go with 3.2. Airflow 3.0 asks only if wtforms is
    installed, as it is with the FAB provider.
    """
    if airflow_version() < (3, 2):
        hook.get_connection_form_widgets = staticmethod(  # type: ignore[attr-defined]
            lambda: {spec.name: _widget(spec) for spec in FIELDS if spec.name not in COLUMNS}
        )
        hook.get_ui_field_behaviour = staticmethod(_behaviour)  # type: ignore[attr-defined]
    return hook


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
