# SPDX-License-Identifier: Apache-2.0
"""The words of the service, and what they mean."""

from __future__ import annotations

import ast
import copy
import json
import pickle
from pathlib import Path

import pytest

import vantage_orchestration
from vantage_orchestration.models import ListedTransaction, Transaction
from vantage_orchestration.status import MANUAL_REVIEW, Status

PACKAGE = Path(vantage_orchestration.__file__).parent


@pytest.mark.parametrize("word", ["Canceled", "Cancelled", "CANCELLED", "canceled", " cancelled "])
def test_both_spellings_in_any_case(word: str) -> None:
    assert Status(word) is Status.CANCELED
    assert Status.CANCELED.in_lists == "Cancelled"
    for kind in (Transaction, ListedTransaction):
        assert kind.read({"id": "a", "transactionId": "a", "status": word}).status == "Canceled"


def test_ends() -> None:
    ends = [each for each in Status if each.is_terminal]
    assert ends == [Status.PROCESSED, Status.FAILED, Status.CANCELED, Status.GONE]
    assert [each for each in Status if each.is_success] == [Status.PROCESSED]
    assert [each for each in ends if each.is_failure] == ends[1:]


def test_a_word_that_nobody_knows_is_no_end_and_stays_as_it_is() -> None:
    odd = Status("ProcessedWithWarnings")
    assert (odd.is_terminal, odd.is_success, odd.is_failure, odd.is_known) == (False,) * 4
    for same in (copy.deepcopy(odd), pickle.loads(pickle.dumps(odd)), Status(odd)):
        assert same == odd == "ProcessedWithWarnings"
    assert len(list(Status)) == 7, "it does not become one of them"
    with pytest.raises(ValueError, match="None"):
        Status(None)
    read = Transaction.read({"id": "a", "status": "Odd\nBearer abcdefghijklmnop"})
    assert read.status.startswith("Odd Bearer ***")
    assert "efgh" not in read.status


def test_it_is_written_as_its_word() -> None:
    assert f"{Status.GONE} {Status('Odd')!s} %s" % Status.NEW == "Gone Odd New"
    assert json.dumps({Status.GONE: Status.NEW}) == '{"Gone": "New"}'


def test_nowhere_else_is_a_status_written_out() -> None:
    words = {each.value for each in Status} | {"Cancelled", MANUAL_REVIEW}
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in PACKAGE.rglob("*.py")
        if "sandbox" not in path.parts and path.name != "status.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in words
    ]
    # Names in __all__, and a word for people.
    allowed = {"Gone", "Processing", "Unknown"}
    assert [each for each in found if each.rpartition(" ")[2] not in allowed] == []
    assert len(found) <= 3
