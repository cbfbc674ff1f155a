# SPDX-License-Identifier: Apache-2.0
"""Arguments of operators and the sensor: stored for Airflow to render, checked before use.

Arguments without templates are checked when the Dag is parsed. All are checked again when the task
runs and its templates have been rendered, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Final

from vantage_orchestration import arguments
from vantage_orchestration.airflow.connection import CONN_NAME_ATTR
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.hooks.vantage import VantageHook
from vantage_orchestration.errors import ConfigurationError, translating
from vantage_orchestration.options import Options, checked, default_of, documented, flag, names_of

_SIGNS: Final = ("{{", "{%", "{#")
#: Arguments other than options, and how they are parsed.
_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "inputs": arguments.items,
    "output_path": arguments.output,
    "skill": arguments.text,
    "consumer": lambda name, value: value is None or arguments.text(name, value),
    "transaction_ids": lambda _, value: arguments.transaction_ids(value),
    CONN_NAME_ATTR: arguments.text,
    "durable": flag,
    "delete_on_kill": flag,
    "deferrable": lambda name, value: value is None or flag(name, value),
}


class ArgumentsMixin:
    """Handles the arguments of operators and the sensor.

    A subclass is an Airflow operator. It passes its arguments to :meth:`_keep`, and reads them with
    :attr:`options` and :meth:`_argument`.

    A constructor with options is declared a second time, as an overload from which editors complete
    the options. One declaration can't serve both: ``Unpack`` of a group admits no other keyword,
    but an operator must pass on those of ``BaseOperator``, which differ between releases of
    Airflow. A ``TypedDict`` with ``extra_items`` (PEP 728) would do, but mypy does not know it yet.
    """

    #: The options of the class: a group of :mod:`vantage_orchestration.options`.
    option_group: ClassVar[type | None] = None
    ui_color = "#ffe3e0"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "start_from_trigger", False):
            raise ValueError(
                f"{cls.__name__} has start_from_trigger, but it must start in a worker: what it"
                " waits for is known only then"
            )
        if cls.option_group is not None and "__init__" in vars(cls):
            cls.__doc__ = documented(cls.__doc__, cls.option_group)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Create the operator for several mapped tasks, as Airflow's manual describes."""
        _checked(cls, kwargs)
        return super().partial(**kwargs)  # type: ignore[misc]

    @classmethod
    def _pop_options(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Remove the options from keyword arguments; return them, with defaults for others."""
        return {name: kwargs.pop(name, default_of(name)) for name in _options_of(cls)}

    def _keep(self, **given: Any) -> None:
        """Store arguments as attributes, where Airflow renders them. Those without a template are
        checked."""
        for name, value in {**given, **_checked(type(self), given)}.items():
            setattr(self, name, value)

    @property
    def options(self) -> Options:
        """The checked options; templates have been rendered when a task runs."""
        given = {name: getattr(self, name) for name in _options_of(type(self))}
        if given.get("quarantine_path") is not None:
            from vantage_orchestration.airflow.storage import location_of

            # Its URL may name a connection, as those of inputs and output do.
            given["quarantine_path"] = location_of(given["quarantine_path"])
        with translating(translate):
            return Options(**given)

    def _argument(self, name: str) -> Any:
        """Return an argument that is not an option, parsed and checked."""
        with translating(translate):
            return _READERS[name](name, getattr(self, name))

    @cached_property
    def hook(self) -> VantageHook:
        """The hook; it reads nothing before its first use."""
        return VantageHook(self._argument(CONN_NAME_ATTR))

    def _skill_id(self) -> str:
        """Return the id of the skill, which may be given by name."""
        from vantage_orchestration.processing.skills import skill_id_of

        return skill_id_of(self.hook.client, self._argument("skill"))


def _options_of(cls: type[ArgumentsMixin]) -> list[str]:
    return names_of(cls.option_group) if cls.option_group is not None else []


def _checked(cls: type[ArgumentsMixin], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without templates in their final form; check the other arguments."""
    found: dict[str, Any] = {}
    rendered = set(getattr(cls, "template_fields", ()))
    options = _options_of(cls)
    with translating(translate):
        for name, value in given.items():
            if is_template(value):
                if name in rendered:
                    continue
                if isinstance(value, str) and (name in options or name in _READERS):
                    raise ConfigurationError(
                        f"The argument {name} is a template, but it can't be one: Airflow would not"
                        " render it"
                    )
            if name in options:
                found[name] = checked(name, value)
            elif isinstance(value, Iterator):  # It could be read once only.
                found[name] = list(value)
            elif name in _READERS and not (name == "skill" and value is None):
                _READERS[name](name, value)
    return found


def is_template(value: Any) -> bool:
    """Return whether a value, or a part of it, is known only when the task runs."""
    if isinstance(value, str):
        return any(sign in value for sign in _SIGNS)
    if isinstance(value, Mapping):
        return any(map(is_template, (*value, *value.values())))
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(is_template, value))
    # An XComArg or a parameter of the Dag; Airflow also calls what can be called.
    return hasattr(value, "iter_references") or callable(value)
