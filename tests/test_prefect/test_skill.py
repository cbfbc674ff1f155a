# SPDX-License-Identifier: Apache-2.0
"""The skill block and its transaction. Those marked slow use a real Prefect server."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from leaks import find_leaks
from pdfs import make_invoice
from prefect import flow
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from vantage_orchestration.errors import (
    ConfigurationError,
    NotFound,
    ReviewNeeded,
    TransactionFailed,
    VantageError,
    WaitTimeout,
)
from vantage_orchestration.prefect import VantageCredentials, VantageSkill, VantageTransaction
from vantage_orchestration.sandbox import SandboxServer

QUICK = {"poke_interval": 1.0, "max_poke_interval": 1.0}


class TestConventions(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return VantageSkill

    # No picture at an address of our own, and none of somebody else's.
    test_has_a_valid_image = None


@pytest.fixture
def skill(sandbox: SandboxServer, account: dict[str, Any]) -> VantageSkill:
    sandbox.control.set(processing_polls=0)
    return VantageSkill(credentials=VantageCredentials(**account), skill="Invoice", **QUICK)


@pytest.fixture
def invoice(tmp_path: Path) -> Path:
    return make_invoice(tmp_path / "a b.pdf", "INV-1")


def started(sandbox: SandboxServer) -> list[str]:
    return [each["id"] for each in sandbox.control.transactions() if each["started"]]


def test_shapes_of_prefect() -> None:
    assert issubclass(VantageSkill, JobBlock)
    assert issubclass(VantageTransaction, JobRun)


def test_trigger_wait_fetch(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path, tmp_path: Path
) -> None:
    transaction = skill.trigger(invoice)
    (row,) = transaction.wait_for_completion().fetch_result()
    assert row["transaction_id"] == transaction.transaction_id
    assert row["fields"]["Invoice Number"] == "INV-1"
    result = transaction.download_results(tmp_path / "out")
    assert (result["transactions"], result["documents"]) == (1, 1)
    assert Path(result["manifest"]).is_file()
    assert (tmp_path / "out" / transaction.transaction_id / "1").is_dir()
    # Whoever has the id alone can go on as well.
    again = skill.transaction(transaction.transaction_id)
    assert again.wait_for_completion().fetch_result() == [row]
    assert started(sandbox) == [transaction.transaction_id]
    assert sandbox.control.count("POST", "connect/token") == 1


def test_parameters_go_along(skill: VantageSkill, sandbox: SandboxServer, invoice: Path) -> None:
    asks = skill.model_copy(
        update={
            "skill": sandbox.control.skill_id("Invoice"),
            "registration_parameters": {"case": "77"},
        }
    )
    transaction = asks.trigger(str(invoice))
    with asks.credentials.get_client() as client:
        sent = client.get_registration_parameters(transaction.transaction_id)
    assert sent["case"] == "77"
    # An id that is a UUID is taken as it is.
    assert sandbox.control.count("GET", "/skills$") == 0


@pytest.mark.parametrize(
    ("changes", "documents", "kind", "text"),
    [
        ({"skill": "invoice"}, ["a b.pdf"], NotFound, "no published skill .* 'invoice'"),
        ({"skill": " "}, ["a b.pdf"], ConfigurationError, "skill is empty"),
        ({}, ["missing.pdf"], ConfigurationError, "There is no file"),
        ({}, ["a b.pdf", "c.pdf"], ConfigurationError, "need 2 transactions, not 1"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(
    skill: VantageSkill,
    sandbox: SandboxServer,
    invoice: Path,
    changes: dict[str, Any],
    documents: list[str],
    kind: type[VantageError],
    text: str,
) -> None:
    make_invoice(invoice.with_name("c.pdf"), "INV-2")
    with pytest.raises(kind, match=text):
        skill.model_copy(update=changes).trigger([invoice.with_name(each) for each in documents])
    assert sandbox.control.transactions() == []


def test_process_skill_takes_several_files(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path
) -> None:
    make_invoice(invoice.with_name("c.pdf"), "INV-2")
    process = next(each for each in sandbox.control.skills() if each["type"] == "Process")
    several = skill.model_copy(update={"skill": process["name"]})
    rows = several.trigger(str(invoice.with_name("*.pdf"))).wait_for_completion().fetch_result()
    assert {row["fields"]["Invoice Number"] for row in rows} == {"INV-1", "INV-2"}
    assert len(started(sandbox)) == 1


@pytest.mark.parametrize("wait", ["wait_for_completion", "await_for_completion"])
def test_ends_of_the_waiting(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path, wait: str
) -> None:
    def end(**changes: Any) -> Any:
        transaction = skill.model_copy(update=changes).trigger(invoice)
        waiting = getattr(transaction, wait)()
        return asyncio.run(waiting) if asyncio.iscoroutine(waiting) else waiting

    sandbox.control.set(outcome="Failed")
    with pytest.raises(TransactionFailed):
        end()
    sandbox.control.set(outcome="Processed", review=True)
    with pytest.raises(ReviewNeeded):
        end(on_review="fail")
    with pytest.raises(WaitTimeout, match="manual review"):
        end(review_timeout=0.0)
    sandbox.control.set(review=False, processing_polls=1000)
    with pytest.raises(WaitTimeout):
        end(timeout=0.0)
    assert len(started(sandbox)) == 4
    with pytest.raises(ConfigurationError, match="wait_for_completion first"):
        skill.transaction(started(sandbox)[-1]).fetch_result()


async def _while_held(
    sandbox: SandboxServer, operation: str, work: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    """Run a coroutine whose request the server holds, and see that others run meanwhile."""
    sandbox.control.add_fault(operation=operation, delay=1.5)
    running = asyncio.ensure_future(work())
    while sandbox.control.faults()[-1]["hits"] == 0:
        assert not running.done(), "the event loop did nothing else until this had ended"
        await asyncio.sleep(0.01)
    assert not running.done()
    return await running


def test_async_paths_do_not_block_the_loop(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        def held(operation: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
            return _while_held(sandbox, operation, work)

        transaction = await held("startTransaction", lambda: skill.atrigger(invoice))
        await held("getTransaction", transaction.await_for_completion)
        (row,) = await held("getTransaction", transaction.afetch_result)
        assert row["fields"]["Invoice Number"] == "INV-1"
        folder = tmp_path / "out"
        result = await held("getTransaction", lambda: transaction.adownload_results(folder))
        assert result["transactions"] == 1

    asyncio.run(main())


def test_coroutines_share_their_looks(
    skill: VantageSkill, sandbox: SandboxServer, tmp_path: Path
) -> None:
    files = [make_invoice(tmp_path / f"{n}.pdf", f"INV-{n}") for n in range(20)]
    sandbox.control.set(processing_polls=2)

    async def main() -> list[str]:
        transactions = await asyncio.gather(*map(skill.atrigger, files))
        before = sandbox.control.count("GET", "/transactions")
        await asyncio.gather(*(each.await_for_completion() for each in transactions))
        looks = sandbox.control.count("GET", "/transactions") - before
        # 20 that look for themselves would ask three times each.
        assert looks < 50
        rows = await asyncio.gather(*(each.afetch_result() for each in transactions))
        return [row["fields"]["Invoice Number"] for (row,) in rows]

    assert asyncio.run(main()) == [f"INV-{n}" for n in range(20)]


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_blocks_travel_without_token(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path, module: Any
) -> None:
    transaction = skill.trigger(invoice)
    tokens = sandbox.control.issued_secrets()
    for copied in (module.loads(module.dumps(skill)), copy.deepcopy(skill), copy.copy(skill)):
        assert copied == skill
        assert copied.transaction(transaction.transaction_id).wait_for_completion()
    assert tokens
    assert find_leaks(tokens, {"pickle": module.dumps(skill), "copy": copy.deepcopy(skill)}) == []
    for copied in (copy.copy(transaction), copy.deepcopy(transaction)):
        assert copied.fetch_result() == transaction.fetch_result()
    secrets = [*tokens, skill.credentials.password.get_secret_value()]
    assert find_leaks(secrets, {"repr": repr(transaction), "block": repr(skill)}) == []


def test_transaction_with_secrets_is_not_pickled(skill: VantageSkill) -> None:
    with pytest.raises(ConfigurationError, match="Save the block"):
        pickle.dumps(skill.transaction("0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"))


def test_old_and_new_documents_load(account: dict[str, Any]) -> None:
    block = VantageSkill.model_validate({"credentials": account, "skill": "Invoice"})
    assert (block.timeout, block.on_review, block.result_types) == (3600.0, "wait", ())
    # A later version may have saved more.
    assert VantageSkill.model_validate({**block.model_dump(), "of_later": 1}).skill == "Invoice"


def test_documents_with_other_values_load_or_name_the_field(account: dict[str, Any]) -> None:
    good = {"credentials": account, "skill": "Invoice"}
    fields = [name for name in VantageSkill.model_fields if name not in good]
    block = VantageSkill.model_validate({**good, **dict.fromkeys(fields)})
    assert block.model_dump() == VantageSkill.model_validate(good).model_dump()
    wrong = {"result_types": ["FieldJson"], "on_review": "return", "delete_after": "perhaps"}
    for name in fields:
        with pytest.raises(ValidationError, match=name):
            VantageSkill.model_validate({**good, name: wrong.get(name, object())})
    loaded = VantageSkill.model_validate(
        {**good, "result_types": "fieldsjson", "timeout": timedelta(minutes=1)}
    )
    assert (loaded.result_types, loaded.timeout) == (("FieldsJson",), 60.0)
    assert VantageSkill.model_validate(loaded.model_dump(mode="json")).timeout == 60.0


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ({"timeout": "90.5", "poke_interval": "PT1M30S"}, (90.5, 90.0)),
        ({"parallel": "4", "review_timeout": "P2D"}, (4, 172_800.0)),
        ({"delete_after": "false", "day_first": "true"}, (False, True)),
        ({"min_confidence": "0.5", "tables": "csv"}, (0.5, "csv")),
        ({"result_types": "Json, Pdf", "required_fields": "Total"}, (("Json", "Pdf"), ("Total",))),
    ],
)
def test_options_may_be_texts(
    account: dict[str, Any], texts: dict[str, str], values: tuple[Any, ...]
) -> None:
    """Variables and environments give nothing else; Python and stored documents take both."""
    good = {"credentials": account, "skill": "Invoice", **texts}
    for block in (VantageSkill.model_validate(good), VantageSkill(**good)):
        assert tuple(getattr(block, name) for name in texts) == values


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": "a minute"}, {"timeout": "nan"}, {"parallel": "1.5"}, {"delete_after": "maybe"}],
)
def test_texts_that_are_no_value_are_refused(
    account: dict[str, Any], wrong: dict[str, str]
) -> None:
    good = {"credentials": account, "skill": "Invoice", **wrong}
    for make in (VantageSkill.model_validate, lambda values: VantageSkill(**values)):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            make(good)


def test_mistakes_in_python_are_refused(account: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no field time_out"):
        VantageSkill(credentials=VantageCredentials(**account), skill="Invoice", time_out=3)
    with pytest.raises(ValidationError) as caught:
        VantageSkill(credentials={**account, "region": "nowhere"}, skill="Invoice")
    shown = {"text": str(caught.value), "errors": repr(caught.value.errors())}
    assert find_leaks([account["password"], account["client_secret"]], shown) == []


def test_masked_password_is_refused(
    skill: VantageSkill, sandbox: SandboxServer, invoice: Path, account: dict[str, Any]
) -> None:
    data = {"credentials": {**account, "password": "********"}, "skill": "Invoice"}
    masked = VantageSkill.model_validate(data)
    with pytest.raises(ConfigurationError, match="mask"):
        masked.trigger(invoice)
    assert sandbox.control.count("POST", "connect/token") == 0


# ---------------------------------------------------------------- with a server


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
class TestSaved:
    def test_credentials_are_referred_to(
        self, sandbox: SandboxServer, save_block: Callable[..., str], invoice: Path
    ) -> None:
        sandbox.control.set(processing_polls=0)
        name = save_block(password="of last year")
        VantageSkill(
            credentials=VantageCredentials.load(name),
            skill="Invoice",
            registration_parameters={"a": "b"},
            **QUICK,
        ).save(name)
        new = sandbox.credentials["password"]
        VantageCredentials(**{**VantageCredentials.load(name).model_dump(), "password": new}).save(
            name, overwrite=True
        )
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(name, "abbyy-vantage-skill")
        assert "credentials" in document.block_document_references
        assert "password" not in str(document.data.get("credentials", {}).get("$ref", ""))
        skill = VantageSkill.load(name)
        assert skill.registration_parameters == {"a": "b"}
        transaction = skill.trigger(invoice)

        data = pickle.dumps(transaction)
        secrets = [*sandbox.control.issued_secrets(), new, sandbox.credentials["client_secret"]]
        assert find_leaks(secrets, {"pickle": data}) == []
        assert len(pickle.loads(data).wait_for_completion().fetch_result()) == 1

    def test_retried_flow_goes_on_with_its_transaction(
        self, sandbox: SandboxServer, save_block: Callable[..., str], invoice: Path
    ) -> None:
        sandbox.control.set(processing_polls=0)
        credentials = VantageCredentials.load(save_block())
        skill = VantageSkill(credentials=credentials, skill="Invoice", **QUICK)
        seen: list[str] = []

        @flow(retries=1)
        def above() -> list[dict[str, Any]]:
            transaction = skill.trigger(invoice)
            seen.append(transaction.transaction_id)
            if len(seen) == 1:
                raise RuntimeError("once more")
            return transaction.wait_for_completion().fetch_result()

        assert len(above()) == 1
        assert seen[0] == seen[1]
        assert started(sandbox) == seen[:1]
        # It was in the notes, so no list was searched.
        assert sandbox.control.count("GET", "/transactions/(active|completed)") == 0

        @flow
        async def beside() -> str:
            transaction = await skill.atrigger(invoice)
            await transaction.await_for_completion()
            return transaction.transaction_id

        # Another run is another order.
        assert asyncio.run(beside()) not in seen
