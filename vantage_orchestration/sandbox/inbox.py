# SPDX-License-Identifier: Apache-2.0
"""Transactions that come in by mail, scanner or phone in place of the API.

They belong to the main tenant and are started at once. Only time counts for their processing
(``processing_seconds`` by the sandbox's clock), not how often they are read. They differ from
transactions of the API in two things: they have no ``App``, and their files have
another ``SourceType``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from . import bodies
from .problems import Problem
from .state import SandboxState
from .transactions import PUBLIC_API
from .uploads import Upload, UploadedFile, stored_name

_MOST = 100_000
_MEMBERS = frozenset({"skill", "files", "source", "parameters", "count"})
_MAIL = "Mail"


def small_pdf() -> bytes:
    """Return a PDF of one page with one line of text; the same bytes each time."""
    text = b"BT /F1 12 Tf 72 720 Td (INVOICE Invoice Number: INV-1) Tj ET"
    parts = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    )
    body = bytearray(b"%PDF-1.4\n")
    table = b"0000000000 65535 f \n"
    for number, part in enumerate(parts, 1):
        table += b"%010d 00000 n \n" % len(body)
        body += b"%d 0 obj%sendobj\n" % (number, part)
    start = len(body)
    count = len(parts) + 1
    body += b"xref\n0 %d\n%strailer<</Size %d/Root 1 0 R>>\n" % (count, table, count)
    return bytes(body + b"startxref\n%d\n%%%%EOF\n" % start)


def receive(state: SandboxState, order: Mapping[str, Any]) -> list[str]:
    """Let transactions come in.

    Args:
        state: State of the sandbox.
        order: ``skill`` (id or name), ``files`` (objects of ``name`` and ``content``, which is
            base64; a small PDF if left out), ``source`` (``Mail``), ``parameters`` (an object of
            registration parameters) and ``count`` (1): how many times.

    Returns:
        The ids of the transactions, in the order they came in.

    Raises:
        ValueError: A member is wrong.
        TypeError: A member is of the wrong type.
        Problem: The skill can't be used, or does not take these files.
    """
    unknown = set(order) - _MEMBERS
    if unknown:
        raise ValueError(f"not known: {', '.join(sorted(unknown))}")
    count, source = order.get("count", 1), order.get("source", _MAIL)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
        raise ValueError(f"count must be a whole number from 1 to {_MOST}")
    if not isinstance(source, str) or not source or source == PUBLIC_API:
        raise ValueError(f"source must be a text other than {PUBLIC_API}")
    skill_id = _skill_id(state, str(order.get("skill", "")))
    files = _files(order)
    parameters = [
        {"key": key, "value": value} for key, value in (order.get("parameters") or {}).items()
    ]
    model = bodies.read_launch({"registrationParameters": parameters})
    tenant = state.accounts.shown()["tenant_id"]
    made = []
    for _ in range(count):
        upload = _stored(state, files)
        try:
            made.append(state.transactions.launch(tenant, skill_id, model, upload, source).id)
        except Problem:
            upload.discard()
            raise
    return made


_OTHERS = frozenset({"skill", "count", "ended", "seconds", "parameters", "source"})


def add_others(state: SandboxState, order: Mapping[str, Any]) -> None:
    """Add transactions of other people that are in the lists, and have no files.

    Args:
        state: State of the sandbox.
        order: ``skill`` (id or name), ``count``, ``ended`` (true), ``seconds`` (0; time over which
            they were made), ``parameters`` (an object) and ``source`` (``Mail``).

    Raises:
        ValueError: A member is wrong.
        TypeError: A member is of the wrong type.
        Problem: The skill can't be used.
    """
    unknown = set(order) - _OTHERS
    if unknown:
        raise ValueError(f"not known: {', '.join(sorted(unknown))}")
    count = order.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
        raise ValueError(f"count must be a whole number from 1 to {_MOST}")
    pairs = (order.get("parameters") or {}).items()
    model = bodies.read_launch(
        {"registrationParameters": [{"key": key, "value": value} for key, value in pairs]}
    )
    state.transactions.add_others(
        state.accounts.shown()["tenant_id"],
        _skill_id(state, str(order.get("skill", ""))),
        count,
        ended=bool(order.get("ended", True)),
        seconds=float(order.get("seconds", 0.0)),
        parameters=model.registration,
        source=str(order.get("source", _MAIL)),
    )


def _skill_id(state: SandboxState, wanted: str) -> str:
    found = next((item for item in state.skills if wanted in (item.id, item.name)), None)
    return found.id if found is not None else wanted


def _files(order: Mapping[str, Any]) -> list[tuple[str, bytes, str]]:
    """Return name, content and hash of each file."""
    given = order.get("files")
    if given is None:
        pairs = [("scan.pdf", small_pdf())]
    else:
        try:
            pairs = [
                (str(item["name"]), base64.b64decode(item["content"], validate=True))
                for item in given
            ]
        except (KeyError, binascii.Error) as error:
            raise ValueError("each of files needs a name and a content in base64") from error
    return [(stored_name(name), data, hashlib.sha256(data).hexdigest()) for name, data in pairs]


def _stored(state: SandboxState, files: list[tuple[str, bytes, str]]) -> Upload:
    upload = Upload()
    for name, data, sha256 in files:
        path = state.folder / state.ids.new("upload")
        path.write_bytes(data)
        upload.files.append(UploadedFile(name, path, len(data), sha256))
        upload.total += len(data)
    return upload
