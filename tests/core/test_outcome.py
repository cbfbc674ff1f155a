# SPDX-License-Identifier: Apache-2.0
"""What the end of a wait means, and skills by their ids and names."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.conftest import config_of
from jobs import begin, submit_files
from pdfs import make_invoice

from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import (
    ConfigurationError,
    NotFound,
    TransactionCanceled,
    TransactionFailed,
)
from vantage_orchestration.options import Options
from vantage_orchestration.processing import TaskKey, process_document
from vantage_orchestration.processing.host_notes import forget_all
from vantage_orchestration.processing.outcome import check_outcome
from vantage_orchestration.processing.skills import (
    skill_id_of,
    skill_of,
    unknown_skill,
)
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.status import Status
from vantage_orchestration.storage import Location
from vantage_orchestration.waiting.machine import Outcome


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ({"a": "Processed", "b": "Failed", "c": "Canceled"}, TransactionFailed),
        ({"a": "Gone"}, TransactionFailed),
        ({"a": "Processed", "c": "Canceled"}, TransactionCanceled),
    ],
)
def test_failures_come_first(statuses: dict[str, str], kind: type[Exception]) -> None:
    words = {name: Status(word) for name, word in statuses.items()}
    with pytest.raises(kind) as caught:
        check_outcome(Outcome(words, ("d",), "time is over"), on_review="fail")
    assert str(caught.value).count("transaction ") == 1, "each is named once"


def test_a_missing_transaction_may_be_at_another_server() -> None:
    for words, said in (
        ({"a": "Gone"}, "do not exist"),
        ({"a": "Gone", "b": "Failed"}, "failed or"),
    ):
        outcome = Outcome({name: Status(word) for name, word in words.items()})
        with pytest.raises(
            TransactionFailed, match=f"transactions {said}.*another server"
        ) as caught:
            check_outcome(outcome)
        assert "transaction a does not exist" in str(caught.value)
    with pytest.raises(TransactionFailed) as caught:
        check_outcome(Outcome({"b": Status.FAILED}))
    assert "exist" not in str(caught.value)


def test_skills_by_id_and_by_exact_name(sandbox: SandboxServer) -> None:
    uuid = sandbox.control.skill_id("Invoice")
    with VantageClient(config_of(sandbox)) as client:
        assert skill_id_of(client, uuid) == uuid
        assert sandbox.control.count("GET", "/skills") == 0
        assert skill_id_of(client, " Invoice ") == uuid
        assert skill_id_of(client, "Receipt") == sandbox.control.skill_id("Receipt")
        asked = sandbox.control.count("GET", "/skills")
        # The process remembers, also for another client of the account.
        with VantageClient(config_of(sandbox)) as other:
            assert skill_id_of(other, "Invoice") == uuid
        assert sandbox.control.count("GET", "/skills") == asked
        with pytest.raises(NotFound, match=f"'invoice'.*Did you mean 'Invoice' .{uuid}"):
            skill_id_of(client, "invoice")
        with pytest.raises(NotFound, match="Published for this user are '"):
            skill_id_of(client, "zzz")
        for wrong in (None, "", "None", 4.5, ["Invoice"]):
            with pytest.raises(ConfigurationError, match="skill"):
                skill_id_of(client, wrong)


@pytest.mark.parametrize(
    "damaged", [b"[" * 100_000, b'{"at": 1%s, "data": 0}' % (b"0" * 400), b"[]", b"{}", b"\xff"]
)
def test_a_note_of_a_host_that_is_damaged_is_no_note(
    sandbox: SandboxServer, tmp_path: Path, damaged: bytes
) -> None:
    store = str(tmp_path / "notes")
    with VantageClient(config_of(sandbox, store_path=store)) as client:
        uuid = skill_id_of(client, "Invoice")
        (note,) = Path(store).glob("*.entry")
        note.write_bytes(damaged)
        forget_all()
        assert skill_id_of(client, "Invoice") == uuid
        assert note.read_bytes() != damaged


def test_the_processes_of_a_host_ask_once_for_a_skill(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    uuid = sandbox.control.skill_id("Invoice")

    def process(account: str) -> None:
        forget_all()  # What another process would not know either.
        with VantageClient(config_of(sandbox, username=account)) as client:
            assert skill_id_of(client, "Invoice") == uuid
            assert skill_of(client, uuid).type == "Document"

    before = sandbox.control.count("GET", "/skills")
    main = sandbox.credentials["username"]
    for _ in range(3):
        process(main)
    assert sandbox.control.count("GET", "/skills") - before == 2
    # A name that has another id now, since the skill was made anew, is asked for again.
    with VantageClient(config_of(sandbox)) as client:
        unknown_skill(client, uuid, NotFound("gone"))
    asked = sandbox.control.count("GET", "/skills")
    process(main)
    assert sandbox.control.count("GET", "/skills") - asked == 2


def test_an_unknown_id_is_answered_with_those_that_come_near(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    known = sandbox.control.skill_id("Invoice")
    wrong = known[:-1] + ("0" if known[-1] != "0" else "1")
    file = make_invoice(tmp_path / "a.pdf", "INV-1")
    with VantageClient(config_of(sandbox)) as client:
        with pytest.raises(NotFound, match=f"Did you mean 'Invoice' .{known}"):
            submit_files(client, [Location.of(file)], TaskKey("t"), wrong, Options())
        with pytest.raises(NotFound, match=f"Did you mean 'Invoice' .{known}"):
            process_document(client, file, wrong, TaskKey("t"))


def test_who_may_not_list_skills_may_use_one_by_its_id(sandbox: SandboxServer) -> None:
    sandbox.control.add_fault(operation="listSkills", status=403, times=0)
    with VantageClient(config_of(sandbox)) as client:
        assert skill_id_of(client, "Receipt") == "Receipt"


def test_a_classification_skill_is_not_asked_for_files(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    skill = sandbox.control.skill_id("Document type")
    files, output = [Location.of(make_invoice(tmp_path / "a.pdf", "INV-1"))], tmp_path / "out"
    with VantageClient(config_of(sandbox)) as client, pytest.raises(ConfigurationError) as caught:
        begin(
            client,
            files,
            Location.of(output),
            TaskKey("t"),
            skill,
            Options.of(result_types=["FieldsJson"]),
            token="t.",
        )
    assert "'Document type' is a Classification skill" in str(caught.value)
    assert sandbox.control.transactions() == []


def test_numbers_among_the_parameters_of_one_document_become_text(
    sandbox: SandboxServer, tmp_path: Path
) -> None:
    sandbox.control.set(processing_polls=0)
    file = make_invoice(tmp_path / "a.pdf", "INV-1")
    given = {"registration_parameters": {"Batch": 42}}
    with VantageClient(config_of(sandbox)) as client:
        found = process_document(client, file, "Invoice", TaskKey("t"), **given)
        sent = client.get_registration_parameters(found.transaction_id)
        with pytest.raises(ConfigurationError, match="skill_parameters"):
            process_document(client, file, "Invoice", TaskKey("u"), skill_parameters={"Note": None})
    assert sent["Batch"] == "42"
    assert len(sandbox.control.transactions()) == 1
