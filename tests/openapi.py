# SPDX-License-Identifier: Apache-2.0
"""Checks requests and responses against ``vantage-openapi.yaml``.

``check_request`` and ``check_response`` raise :class:`ContractError` when a message does not
keep the contract. :class:`CheckedSession` does both for everything sent through it.

What the description leaves open is decided here:

* A 401 may have no body. A body of 401, 413, 429 or 5xx that is not labelled as JSON is let
  through, since front ends write such replies.
* 502 and 504 are treated like 503; 500 may come from every operation.
* JSON may be labelled ``application/json``, ``text/json`` or ``text/plain``.
* A response for which no content is declared must have an empty body.
* Members of a token form beyond those of its grant are refused, and the scope must be the one
  the contract names.
* Requests must use the names of the contract in the documented spelling.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
import uuid
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import requests
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

FILE = Path(__file__).with_name("vantage-openapi.yaml")
SCOPE = {"openid", "permissions", "global.wildcard"}
_URI = "urn:vantage-openapi"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_JSON = ("application/json", "text/json", "text/plain")
_METHODS = ("get", "post", "put", "patch", "delete")
_SERVER_ERROR = {"$ref": "#/components/responses/ServerError"}
_OPEN_BODY = {"401", "413", "429", "500", "503"}


class ContractError(AssertionError):
    """A message does not keep the contract."""


class _Checks:
    """The loaded description."""

    def __init__(self) -> None:
        self.document = yaml.load(FILE.read_text(encoding="utf-8"), Loader=_LOADER)
        resource = Resource(contents=self.document, specification=DRAFT202012)
        self.registry: Registry[Any] = Registry().with_resource(_URI, resource)
        self.formats = FormatChecker(formats=())
        self.formats.checks("uuid", ValueError)(_is_uuid)
        self.formats.checks("date-time", ValueError)(_is_moment)
        self.formats.checks("int32")(_is_int32)
        self.operations: list[tuple[re.Pattern[str], str, dict[str, Any], dict[str, Any]]] = []
        for path, item in self.document["paths"].items():
            pattern = "".join(
                f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part)
                for part in re.split(r"({\w+})", path)
            )
            for method in _METHODS:
                if method in item:
                    self.operations.append((re.compile(pattern), method, item, item[method]))
        # Fixed paths come before those with variables.
        self.operations.sort(key=lambda entry: entry[0].pattern.count("(?P<"))

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            node = found
        return node

    def validate(self, value: Any, schema: dict[str, Any], where: str) -> None:
        validator = Draft202012Validator(
            {"$id": _URI + "-check", **_absolute(schema)},
            registry=self.registry,
            format_checker=self.formats,
        )
        errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.path)))
        if errors:
            texts = [f"{'/'.join(map(str, e.path)) or '.'}: {e.message[:300]}" for e in errors[:5]]
            raise ContractError(f"{where}: {'; '.join(texts)}")

    def operation(self, method: str, url: str) -> _Operation:
        parts = urlsplit(url)
        path = parts.path.rstrip("/") or "/"
        known = False
        for pattern, name, item, operation in self.operations:
            match = pattern.fullmatch(path)
            if match and name == method.lower():
                values = {key: unquote(value) for key, value in match.groupdict().items()}
                return _Operation(self, item, operation, values, parts.query)
            known = known or match is not None
        raise ContractError(
            f"{method} {path}: the contract has no such {'method' if known else 'path'}"
        )


class _Operation:
    """One operation with the values of a certain address."""

    def __init__(
        self,
        checks: _Checks,
        item: dict[str, Any],
        operation: dict[str, Any],
        path_values: dict[str, str],
        query: str,
    ) -> None:
        self._checks = checks
        self.name: str = operation["operationId"]
        self._operation = operation
        self._path_values = path_values
        self._query = query
        self._parameters = [
            checks.resolve(p) for p in item.get("parameters", []) + operation.get("parameters", [])
        ]

    # ---- requests ----

    def check_request(self, headers: Mapping[str, str], body: bytes) -> None:
        for parameter in self._parameters:
            if parameter["in"] == "path":
                self._checks.validate(
                    self._path_values[parameter["name"]],
                    parameter["schema"],
                    f"{self.name}: path member {parameter['name']}",
                )
        self._check_query()
        self._check_accept(headers.get("Accept", "*/*"))
        if self._operation.get("security") != []:
            scheme, _, token = headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not token.strip():
                raise ContractError(f"{self.name}: no bearer token")
        self._check_body(headers, body)

    def _check_accept(self, accept: str) -> None:
        """Refuse what a gateway that checks it would answer with 406."""
        wanted = [item.partition(";")[0].strip() for item in accept.split(",")]
        for code, response in self._operation["responses"].items():
            content = self._checks.resolve(response).get("content", {})
            declared = {*content, *(_JSON if "application/json" in content else ())}
            fits = any(
                item == "*/*" or item in declared or item.replace("*", "") in declared
                for item in wanted
            )
            if code.startswith("2") and content and not fits:
                raise ContractError(
                    f"{self.name}: Accept is {accept!r}; declared: {sorted(content)}"
                )

    def _check_query(self) -> None:
        known = {p["name"]: p for p in self._parameters if p["in"] == "query"}
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(self._query, keep_blank_values=True, strict_parsing=False):
            given.setdefault(name, []).append(value)
        for name, parameter in known.items():
            where = f"{self.name}: query member {name}"
            schema = self._checks.resolve(parameter["schema"])
            values = given.pop(name, [])
            if not values:
                if parameter.get("required"):
                    raise ContractError(f"{where} is missing")
                continue
            if schema.get("type") == "array":
                for value in values:
                    self._check_text(value, schema["items"], where)
            elif len(values) > 1:
                raise ContractError(f"{where} is given more than once")
            else:
                self._check_text(values[0], parameter["schema"], where)
        if given:
            raise ContractError(f"{self.name}: unknown query members {sorted(given)}")

    def _check_text(self, text: str, schema: dict[str, Any], where: str) -> None:
        """Check a value of a query; JSON inside a text is looked into."""
        plain = self._checks.resolve(schema)
        value: Any = text
        if plain.get("type") == "integer":
            if not re.fullmatch(r"-?\d+", text):
                raise ContractError(f"{where} is not a whole number: {text!r}")
            value = int(text)
        if "contentSchema" in plain:
            self._checks.validate(_json(text, where), plain["contentSchema"], where)
        self._checks.validate(value, schema, where)

    def _check_body(self, headers: Mapping[str, str], body: bytes) -> None:
        where = f"{self.name}: request body"
        if "requestBody" not in self._operation:
            if body:
                raise ContractError(f"{where}: there must be none")
            return
        declared = self._checks.resolve(self._operation["requestBody"])
        if not body:
            if declared.get("required"):
                raise ContractError(f"{where}: it is missing")
            return
        header = headers.get("Content-Type", "")
        label = header.split(";")[0].strip().lower()
        content = declared["content"]
        if label not in content:
            raise ContractError(f"{where}: content type {label!r}; declared: {sorted(content)}")
        schema = self._checks.resolve(content[label]["schema"])
        if label == "application/x-www-form-urlencoded":
            self._check_form(headers, body, schema, where)
        elif label == "multipart/form-data":
            self._check_multipart(header, body, content[label], where)
        else:
            self._checks.validate(_json(body, where), schema, where)

    def _check_form(
        self, headers: Mapping[str, str], body: bytes, schema: dict[str, Any], where: str
    ) -> None:
        form: dict[str, str] = {}
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        except ValueError as error:
            raise ContractError(f"{where}: not form-urlencoded: {error}") from error
        for name, value in pairs:
            if name in form:
                raise ContractError(f"{where}: {name} is given twice")
            form[name] = value
        grants = [self._checks.resolve(item) for item in schema["oneOf"]]
        grant = next(
            (g for g in grants if g["properties"]["grant_type"]["const"] == form.get("grant_type")),
            None,
        )
        if grant is None:
            raise ContractError(f"{where}: grant_type {form.get('grant_type')!r}")
        unknown = set(form) - set(grant["properties"])
        if unknown:
            raise ContractError(f"{where}: unknown members {sorted(unknown)}")
        client = _basic_client(headers, where)
        if client and "client_secret" in form:
            raise ContractError(f"{where}: the client is given in the form and in the header")
        self._checks.validate({**client, **form}, grant, where)
        if "scope" in form and set(form["scope"].split()) != SCOPE:
            raise ContractError(f"{where}: scope {form['scope']!r}")

    def _check_multipart(
        self, header: str, body: bytes, content: dict[str, Any], where: str
    ) -> None:
        schema = self._checks.resolve(content["schema"])
        members: dict[str, Any] = {}
        file_names: list[str] = []
        for part in _parts(header, body, where):
            encoding = content.get("encoding", {}).get(part.name)
            if part.name not in schema["properties"] or encoding is None:
                raise ContractError(f"{where}: unknown part {part.name!r}")
            allowed = [item.strip() for item in encoding["contentType"].split(",")]
            if part.content_type and not any(_fits(part.content_type, item) for item in allowed):
                raise ContractError(f"{where}: part {part.name} is {part.content_type}")
            if part.name == "Files":
                if not part.file_name:
                    raise ContractError(f"{where}: a part Files has no file name")
                file_names.append(part.file_name)
                members.setdefault("Files", []).append("")
            elif part.file_name is not None:
                raise ContractError(f"{where}: the part {part.name} has a file name")
            elif part.name in members:
                raise ContractError(f"{where}: the part {part.name} is given twice")
            else:
                members[part.name] = _json(part.data, f"{where}: part {part.name}")
        if len(set(file_names)) != len(file_names):
            raise ContractError(f"{where}: a file name is given twice")
        self._checks.validate(members, schema, where)
        entries = (members.get("Model") or {}).get("files") or []
        if len(entries) > len(file_names):
            raise ContractError(f"{where}: Model has more entries than there are files")

    # ---- responses ----

    def check_response(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        where = f"{self.name}: {status}"
        code = "503" if status in (502, 504) else str(status)
        responses = self._operation["responses"]
        if code not in responses and code != "500":
            raise ContractError(f"{where}: this status is not declared")
        declared = self._checks.resolve(responses.get(code, _SERVER_ERROR))
        for name, item in declared.get("headers", {}).items():
            if item.get("required") and name.lower() not in {key.lower() for key in headers}:
                raise ContractError(f"{where}: the header {name} is missing")
        if status == 401 and not body:
            return
        if "content" not in declared:
            if body and code.startswith("2"):
                raise ContractError(f"{where}: the body must be empty")
            return
        label = _lower(headers).get("content-type", "").split(";")[0].strip().lower()
        content = declared["content"]
        media = content.get(label)
        if media is None and label in _JSON and "application/json" in content:
            media = content["application/json"]
        if media is None:
            if code in _OPEN_BODY:
                return
            raise ContractError(f"{where}: content type {label!r}; declared: {sorted(content)}")
        schema = self._checks.resolve(media["schema"])
        if schema.get("contentMediaType") == "application/octet-stream":
            return
        self._checks.validate(_json(body, where), media["schema"], where)


class _Part:
    """A part of a multipart body."""

    def __init__(self, head: Message, data: bytes) -> None:
        self.name = str(head.get_param("name", "", "content-disposition"))
        self.file_name = head.get_filename(None)
        self.content_type = head.get_content_type() if "Content-Type" in head else None
        self.data = data


def _parts(header: str, body: bytes, where: str) -> list[_Part]:
    message = Message()
    message["Content-Type"] = header
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str):
        raise ContractError(f"{where}: the content type has no boundary")
    mark = b"--" + boundary.encode("latin-1")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(pieces) < 3 or pieces[0].strip() or not pieces[-1].startswith(b"--"):
        raise ContractError(f"{where}: the multipart body is broken")
    parts = []
    for piece in pieces[1:-1]:
        text, gap, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not gap:
            raise ContractError(f"{where}: a part has no end of its headers")
        head = Message()
        for line in text.split(b"\r\n"):
            name, _, value = line.decode("utf-8", "replace").partition(":")
            head[name.strip()] = value.strip()
        parts.append(_Part(head, data))
    return parts


def _basic_client(headers: Mapping[str, str], where: str) -> dict[str, str]:
    header = _lower(headers).get("authorization", "")
    if not header:
        return {}
    scheme, _, text = header.partition(" ")
    try:
        client_id, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ContractError(f"{where}: the Authorization header can't be read") from error
    if scheme != "Basic" or not colon:
        raise ContractError(f"{where}: the Authorization header is not Basic")
    return {"client_id": unquote_plus(client_id), "client_secret": unquote_plus(secret)}


def _fits(content_type: str, allowed: str) -> bool:
    if allowed.endswith("/*"):
        return content_type.startswith(allowed[:-1])
    return content_type == allowed


def _json(body: bytes | str, where: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ContractError(f"{where}: this is not JSON: {body[:100]!r}") from error


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _absolute(node: Any) -> Any:
    """Make references absolute, so that they work from outside the description."""
    if isinstance(node, dict):
        return {
            key: _URI + value
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _absolute(value)
            for key, value in node.items()
        }
    return [_absolute(item) for item in node] if isinstance(node, list) else node


def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or str(uuid.UUID(value)) == value.lower()


def _is_moment(value: object) -> bool:
    if not isinstance(value, str):
        return True
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value):
        return False
    datetime.datetime.fromisoformat(value[:19])
    return True


def _is_int32(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or -(2**31) <= value < 2**31


_checks: _Checks | None = None


def loaded() -> _Checks:
    global _checks
    if _checks is None:
        _checks = _Checks()
    return _checks


def operation_of(method: str, url: str) -> str:
    """Return the operation name of the contract for a request.

    Raises:
        ContractError: The contract has no such operation.
    """
    return loaded().operation(method, url).name


def check_request(method: str, url: str, headers: Mapping[str, str], body: bytes | str) -> None:
    """Check a request.

    Args:
        method: HTTP method.
        url: Full address, or path with query.
        headers: Its headers.
        body: Its body; empty if there is none.

    Raises:
        ContractError: It does not keep the contract.
    """
    data = body.encode() if isinstance(body, str) else body
    known = {name.title(): value for name, value in headers.items()}
    loaded().operation(method, url).check_request(known, data)


def check_response(
    method: str, url: str, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Check a response.

    Args:
        method: HTTP method of the request.
        url: Full address of the request, or path with query.
        status: HTTP status.
        headers: Headers of the response.
        body: Its body.

    Raises:
        ContractError: It does not keep the contract.
    """
    loaded().operation(method, url).check_response(status, headers, body)


def check_value(value: Any, schema: str) -> None:
    """Check data against a named schema of the description, such as ``FieldsJsonFile``.

    Raises:
        ContractError: It does not fit.
    """
    loaded().validate(value, {"$ref": f"#/components/schemas/{schema}"}, schema)


class CheckedSession(requests.Session):
    """A session that checks every response, and every request unless told otherwise.

    Args:
        requests_too: Check requests as well; off for tests that send wrong ones on purpose.
    """

    def __init__(self, *, requests_too: bool = True) -> None:
        super().__init__()
        self.requests_too = requests_too
        self.trust_env = False

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request and check both sides."""
        method, url = str(request.method), str(request.url)
        if self.requests_too:
            body = request.body or b""
            if not isinstance(body, (bytes, str)):
                raise TypeError("only requests with a body in memory can be checked")
            check_request(method, url, request.headers, body)
        reply = super().send(request, **options)
        if not options.get("stream"):
            check_response(method, url, reply.status_code, reply.headers, reply.content)
        return reply
