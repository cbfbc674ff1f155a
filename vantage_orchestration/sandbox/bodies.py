# SPDX-License-Identifier: Apache-2.0
"""Reading and checking JSON request bodies (contract, section 3.2).

Member names are matched without regard to case; unknown members are refused, because the
service closes all its request objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .problems import Problem

MAX_PARAMETERS = 10
MAX_KEY, MAX_VALUE = 128, 256
_SWITCHES = ("Default", "Yes", "No")
_INT32 = 2**31

_T = TypeVar("_T")


@dataclass(frozen=True)
class Parameter:
    """A registration or skill parameter."""

    key: str
    value: str


@dataclass(frozen=True)
class FileModel:
    """What a request says about one file or document."""

    index: int | None = None
    image_options: dict[str, str] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True)
class CreateModel:
    """Body of the call that creates a transaction."""

    skill_id: str
    mobile_link: bool
    registration: tuple[Parameter, ...]
    skill: tuple[Parameter, ...]


@dataclass(frozen=True)
class UploadModel:
    """The ``Model`` part of an upload."""

    files: tuple[FileModel, ...] = ()
    registration: tuple[Parameter, ...] = ()
    skill: tuple[Parameter, ...] = ()


def read_json(text: bytes | str, where: str) -> Any:
    """Parse JSON.

    Raises:
        Problem: 400, it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(where, "The JSON value could not be converted.") from error


def read_create(value: Any) -> CreateModel:
    """Check the body of ``POST /transactions``."""
    body = _object(
        value, "body", "skillId", "generateMobileInputLink", "registrationParameters",
        "skillParameters",
    )  # fmt: skip
    link = body.get("generateMobileInputLink", False)
    if not isinstance(link, bool):
        raise _wrong("generateMobileInputLink", "The value must be true or false.")
    return CreateModel(
        _text(body.get("skillId"), "skillId"),
        link,
        _registration(body.get("registrationParameters"), "registrationParameters"),
        _skill_parameters(body.get("skillParameters")),
    )


def read_launch(value: Any) -> UploadModel:
    """Check the ``Model`` part of a launch."""
    body = _object(value, "Model", "files", "registrationParameters", "skillParameters")
    return UploadModel(
        _list(body.get("files"), "files", _file),
        _registration(body.get("registrationParameters"), "registrationParameters"),
        _skill_parameters(body.get("skillParameters")),
    )


def read_files(value: Any) -> UploadModel:
    """Check the ``Model`` part of ``POST .../files``."""
    return UploadModel(_list(_object(value, "Model", "files").get("files"), "files", _file))


def read_source_files(value: Any) -> UploadModel:
    """Check the ``Model`` part of ``POST .../sourceFiles``."""
    body = _object(value, "Model", "files")
    return UploadModel(_list(body.get("files"), "files", _source_file))


def read_document(value: Any) -> FileModel:
    """Check the body of ``POST .../documents``."""
    body = _object(value, "body", "index", "imageProcessingOptions")
    return FileModel(
        _index(body.get("index"), "index"),
        _image_options(body, "imageProcessingOptions"),
    )


def _file(value: Any, where: str) -> FileModel:
    body = _object(value, where, "index", "imageProcessingOptions", "registrationParameters")
    return FileModel(
        _index(body.get("index"), f"{where}.index"),
        _image_options(body, f"{where}.imageProcessingOptions"),
        _registration(body.get("registrationParameters"), f"{where}.registrationParameters"),
    )


def _source_file(value: Any, where: str) -> FileModel:
    body = _object(value, where, "index", "registrationParameters")
    return FileModel(
        _index(body.get("index"), f"{where}.index"),
        {},
        _registration(body.get("registrationParameters"), f"{where}.registrationParameters"),
    )


def _wrong(where: str, text: str) -> Problem:
    return Problem(400, errors={where: [text]})


def _object(value: Any, where: str, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "The value must be an object.")
    canonical = {name.lower(): name for name in names}
    body: dict[str, Any] = {}
    for name, item in value.items():
        if name.lower() not in canonical:
            raise _wrong(where, f"The member '{name[:40]}' is not known.")
        body[canonical[name.lower()]] = item
    return body


def _text(value: Any, where: str, limit: int | None = None) -> str:
    if value is None:
        raise _wrong(where, f"The {where.rpartition('.')[2]} field is required.")
    if not isinstance(value, str) or not value:
        raise _wrong(where, "The value must be a text of at least 1 character.")
    if limit is not None and len(value) > limit:
        raise _wrong(where, f"The value must have at most {limit} characters.")
    return value


def _index(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT32 <= value < _INT32:
        raise _wrong(where, "The value must be a 32-bit integer.")
    return value


def _image_options(body: dict[str, Any], where: str) -> dict[str, str]:
    if "imageProcessingOptions" not in body:
        return {}
    options = _object(body["imageProcessingOptions"], where, "autoCrop", "autoOrientation")
    for name, value in options.items():
        if value not in _SWITCHES:
            raise _wrong(f"{where}.{name}", f"The value must be one of {', '.join(_SWITCHES)}.")
    return options


def _list(value: Any, where: str, read: Callable[[Any, str], _T]) -> tuple[_T, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong(where, "The value must be a list.")
    return tuple(read(item, f"{where}[{place}]") for place, item in enumerate(value))


def _registration(value: Any, where: str) -> tuple[Parameter, ...]:
    return _parameters(value, where, MAX_KEY, MAX_VALUE)


def _skill_parameters(value: Any) -> tuple[Parameter, ...]:
    return _parameters(value, "skillParameters", None, None)


def _parameters(
    value: Any, where: str, max_key: int | None, max_value: int | None
) -> tuple[Parameter, ...]:
    def read(item: Any, place: str) -> Parameter:
        body = _object(item, place, "key", "value")
        return Parameter(
            _text(body.get("key"), f"{place}.key", max_key),
            _text(body.get("value"), f"{place}.value", max_value),
        )

    if isinstance(value, list) and len(value) > MAX_PARAMETERS:
        raise _wrong(where, f"At most {MAX_PARAMETERS} parameters are allowed.")
    return _list(value, where, read)
