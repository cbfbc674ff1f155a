# SPDX-License-Identifier: Apache-2.0
"""What can be set on a sandbox, and the checks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

DEFAULT_USERNAME = "user@example.com"
# Made-up values. They hold characters that break clients which paste them unescaped into a form.
DEFAULT_PASSWORD = "sandbox-password&1+2%3=x"  # noqa: S105 - made up, and printed on purpose
DEFAULT_CLIENT_ID = "example-client"
DEFAULT_CLIENT_SECRET = "sandbox-secret+Zx81%2F&y"  # noqa: S105 - made up as well

OUTCOMES = ("Processed", "Failed", "Canceled")
#: Types of result files the sandbox can make.
RESULT_TYPES = ("Json", "FieldsJson", "OcrJson", "Text")

#: Encodings of parameter filters in list queries that a service might understand.
PARAMETER_FILTERS = ("both", "json", "indexed", "none", "misread", "refused")

#: Orders in which a service might list transactions; nothing is documented.
LIST_ORDERS = ("oldest", "newest", "mixed")

#: Settings that belong to the start of a server and can't be changed on a running one.
_FIXED = frozenset({"seed", "username", "password", "client_id", "client_secret", "tenant_id"})


class SettingsError(ValueError):
    """A setting is unknown, has the wrong type, or is out of range."""


@dataclass(frozen=True)
class SandboxSettings:
    """Settings of a sandbox. All of them have a default that suits a test.

    Args:
        seed: All ids, tokens and orders follow from it.
        username: User of the main tenant.
        password: Password of that user and of all other seeded users.
        client_id: API client of the main tenant.
        client_secret: Its secret, and that of all other seeded clients.
        tenant_id: Id of the main tenant; made from the seed when empty.
        token_lifetime: Seconds a new access token is good for.
        lockout: Wrong passwords in a row after which a user is locked; 0 means never.
        processing_polls: Looks at a started transaction (reads of it, and lists that show it)
            that still answer ``Processing``. Those that came by mail and the like don't count them.
        processing_seconds: Least time in seconds a started transaction stays ``Processing``.
        review: Demand a manual review for every transaction.
        review_skills: Demand one for transactions of these skill ids.
        review_text: Demand one when a document holds this text (case does not matter); empty
            switches this off.
        outcome: How transactions end: ``Processed``, ``Failed`` or ``Canceled``.
        outcome_error: Error text of transactions that end as ``Failed`` by the setting above.
        rule_errors: Business rule errors given to every document, each an object with
            ``errorType`` and optionally ``customMessage``, ``ruleId``, ``currentFieldId``.
        exports: Result file types per skill id, in place of the skill's own.
        delete_polls: Reads of a transaction that still succeed after its deletion.
        delete_seconds: Least time in seconds a deleted transaction stays readable.
        retention_days: Days after which a transaction is deleted whatever its state.
        max_upload_bytes: Limit for the body of a launch and for all files of a transaction.
        max_files: Limit for the number of files of a transaction.
        wrap_json: Put one more object, ``Transaction``, around ``Json`` results.
        wrap_ocr_json: Put a list around ``OcrJson`` results.
        omit_nulls: Leave members without a value out of replies in place of writing null.
        list_new: Show transactions that are ``New`` on the active list, at the stage
            ``Automatic``. The contract leaves open whether the service does.
        list_lag: Seconds the two lists lag behind: they show every transaction in the state it
            had so long ago. One that has been deleted is gone from them at once all the same.
        list_order: Order of the two lists: ``oldest`` or ``newest`` first, or ``mixed``, which
            follows nothing but the ids.
        parameter_filter: Which encoding of the two parameter filters the lists understand: a
            repeated name with JSON text (``json``), members with an index (``indexed``), either
            (``both``) or none of them (``none``); what isn't understood is left out of account.
            ``misread`` answers every call with such a filter with an empty list, ``refused``
            with status 400.
    """

    seed: int = 1
    username: str = DEFAULT_USERNAME
    password: str = field(default=DEFAULT_PASSWORD, repr=False)
    client_id: str = DEFAULT_CLIENT_ID
    client_secret: str = field(default=DEFAULT_CLIENT_SECRET, repr=False)
    tenant_id: str = ""
    token_lifetime: int = 3600
    lockout: int = 5
    processing_polls: int = 2
    processing_seconds: float = 0.0
    review: bool = False
    review_skills: tuple[str, ...] = ()
    review_text: str = "Manual review required"
    outcome: str = "Processed"
    outcome_error: str = "Processing failed: the sandbox was told so."
    rule_errors: tuple[Mapping[str, Any], ...] = ()
    exports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delete_polls: int = 1
    delete_seconds: float = 0.0
    retention_days: float = 14.0
    max_upload_bytes: int = 2 * 1024**3
    max_files: int = 1000
    wrap_json: bool = False
    wrap_ocr_json: bool = False
    omit_nulls: bool = False
    list_new: bool = False
    list_lag: float = 0.0
    list_order: str = "oldest"
    parameter_filter: str = "both"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "rule_errors":
                object.__setattr__(self, item.name, _rule_errors(value))
            elif item.name == "exports":
                object.__setattr__(self, item.name, _exports(value))
            elif item.name == "review_skills":
                object.__setattr__(self, item.name, _texts(item.name, value))
            else:
                object.__setattr__(self, item.name, _plain(item.name, value, item.default))
        if self.outcome not in OUTCOMES:
            raise SettingsError(f"outcome must be one of {', '.join(OUTCOMES)}")
        if self.parameter_filter not in PARAMETER_FILTERS:
            raise SettingsError(f"parameter_filter must be one of {', '.join(PARAMETER_FILTERS)}")
        if self.list_order not in LIST_ORDERS:
            raise SettingsError(f"list_order must be one of {', '.join(LIST_ORDERS)}")
        for name in ("username", "password", "client_id", "client_secret"):
            if not getattr(self, name):
                raise SettingsError(f"{name} must not be empty")
        for name in ("token_lifetime", "max_upload_bytes", "max_files"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1")

    def changed(self, values: Mapping[str, Any]) -> SandboxSettings:
        """Return a copy with other values.

        Raises:
            SettingsError: A name is unknown or belongs to the start of the server, or a value
                is not acceptable.
        """
        known = {item.name for item in fields(self)}
        for name in values:
            if name not in known:
                raise SettingsError(f"there is no setting {name!r}")
            if name in _FIXED:
                raise SettingsError(f"{name} can only be set when the sandbox starts")
        return replace(self, **values)

    def shown(self) -> dict[str, Any]:
        """Return the settings as JSON data, without the account."""
        return {
            item.name: getattr(self, item.name) for item in fields(self) if item.name not in _FIXED
        }


def _plain(name: str, value: Any, default: Any) -> Any:
    """Check a setting of type bool, int, float or str against the type of its default."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SettingsError(f"{name} must be true or false")
        return value
    if isinstance(default, str):
        if not isinstance(value, str):
            raise SettingsError(f"{name} must be text")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(f"{name} must be a number")
    if isinstance(default, int) and not isinstance(value, int):
        raise SettingsError(f"{name} must be a whole number")
    if value < 0 and name != "seed":
        raise SettingsError(f"{name} must not be negative")
    return float(value) if isinstance(default, float) else value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"{name} must be a list of texts")
    return tuple(value)


def _exports(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise SettingsError("exports must be an object of lists")
    exports = {str(skill): _texts("exports", types) for skill, types in value.items()}
    for types in exports.values():
        for name in types:
            if name not in RESULT_TYPES:
                raise SettingsError(f"exports: the sandbox can't make {name!r}")
    return exports


def _rule_errors(value: Any) -> tuple[dict[str, Any], ...]:
    allowed = {"errorType", "customMessage", "ruleId", "currentFieldId"}
    errors = []
    for item in value:
        if not isinstance(item, Mapping) or not item.get("errorType") or set(item) - allowed:
            raise SettingsError(f"each of rule_errors needs errorType; allowed: {sorted(allowed)}")
        errors.append(dict(item))
    return tuple(errors)
