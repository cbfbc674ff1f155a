# SPDX-License-Identifier: Apache-2.0
"""A skill as a Prefect job block: ``trigger``, then ``wait_for_completion``, ``fetch_result``."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_type_hints

from anyio.to_thread import run_sync
from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import Field, HttpUrl, create_model
from typing_extensions import Self

from vantage_orchestration import arguments
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import Block, Options, names_of
from vantage_orchestration.prefect.credentials import (
    StoredBlock,
    VantageCredentials,
    load_credentials,
)
from vantage_orchestration.prefect.forms import block_field
from vantage_orchestration.prefect.job import Caller, Reporter
from vantage_orchestration.processing.outcome import check_outcome, final_result
from vantage_orchestration.processing.routing import output_of
from vantage_orchestration.processing.skills import skill_id_of
from vantage_orchestration.processing.summary import summary
from vantage_orchestration.results import fetch_fields
from vantage_orchestration.status import Status
from vantage_orchestration.waiting.poller import SharedPoller
from vantage_orchestration.waiting.rules import WaitRules

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.waiting.machine import Outcome


class _Form(StoredBlock):
    credentials: VantageCredentials = Field(
        ..., title="Credentials", description="The ABBYY Vantage Credentials block to log in with."
    )
    skill: str = Field(
        ..., title="Skill", description="Id or exact name of a published ABBYY Vantage skill."
    )
    on_review: Literal["wait", "fail"] = Field(
        "wait",
        title="On review",
        description="Whether to wait when a person has to review the document, or to fail.",
    )


if TYPE_CHECKING:
    _OptionsForm = _Form
else:
    _TYPES = get_type_hints(Options)
    _OptionsForm = create_model(
        "_OptionsForm",
        __base__=_Form,
        **{name: block_field(name, _TYPES[name]) for name in names_of(Block)},
    )


class VantageSkill(_OptionsForm, JobBlock):  # type: ignore[type-arg]
    """Processes documents with an ABBYY Vantage skill.

    Example:
        Load a saved block and process a document:

        ```python
        from vantage_orchestration.prefect import VantageSkill

        skill = VantageSkill.load("BLOCK_NAME")
        transaction = skill.trigger("invoice.pdf")
        transaction.wait_for_completion()
        for row in transaction.fetch_result():
            print(row["fields"])
        ```
    """

    _block_type_name: ClassVar[str | None] = "ABBYY Vantage Skill"
    _block_type_slug: ClassVar[str | None] = "abbyy-vantage-skill"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.abbyy.com/vantage/developer/"
    )
    _description: ClassVar[str | None] = "Processes documents with an ABBYY Vantage skill."

    def _check(self, unknown: list[str]) -> None:
        if unknown:
            raise ConfigurationError(f"A VantageSkill has no field {', '.join(unknown)}")

    def trigger(self, inputs: Any) -> VantageTransaction:  # type: ignore[override]
        """Send a document, or continue with the transaction that an earlier try created for it.

        Within one flow run the same document is sent once for the same skill and parameters,
        however often the flow or its task is retried. Outside runs each call sends it again.

        Args:
            inputs: Path or URL of a file. A Process skill also accepts several, which become one
                transaction.

        Returns:
            The transaction, started.

        Raises:
            ConfigurationError: The file, the skill or a parameter is invalid. Nothing was sent.
            VantageError: A request failed. The next try continues.
        """
        from vantage_orchestration.processing.job import submit_files

        with self.credentials.get_client() as client:
            caller = Caller.of_run(client, inputs, self.skill, self._options())
            files = caller.files(inputs)
            if not files:
                raise ConfigurationError("There are no inputs to send")
            (submitted,) = submit_files(caller.work, files, most=1)
            Reporter(client, caller.work.skill_id, self.logger.info).started([submitted])
        return self.transaction(submitted.transaction_id)

    async def atrigger(self, inputs: Any) -> VantageTransaction:
        """Send a document as :meth:`trigger` does, without blocking the event loop."""
        return await run_sync(lambda: self.trigger(inputs))

    def transaction(self, transaction_id: str) -> VantageTransaction:
        """Return a transaction that was started before, so as to wait for it with this block's
        limits.

        Args:
            transaction_id: Its id.
        """
        return VantageTransaction(transaction_id, self.credentials, self.skill, self._options())

    def _options(self) -> Options:
        given = {name: getattr(self, name) for name in names_of(Block)}
        return Options(**given, on_review=self.on_review)


class VantageTransaction(JobRun[list[dict[str, Any]]]):
    """A transaction in ABBYY Vantage. It holds the id and the credentials block, not the document.

    A pickle contains the name of the saved credentials block and no secret. A transaction with an
    unsaved block can't be pickled.

    Args:
        transaction_id: Its id.
        credentials: The credentials block, or the name of a saved one.
        skill: Id or exact name of its skill, if known: polling then takes fewer requests.
        options: Limits of the wait, and options for results.

    Raises:
        ConfigurationError: The id is not a transaction id.
    """

    def __init__(
        self,
        transaction_id: str,
        credentials: VantageCredentials | str,
        skill: str | None = None,
        options: Options | None = None,
    ) -> None:
        ids = arguments.transaction_ids(transaction_id)
        if len(ids) != 1:
            raise ConfigurationError(f"One transaction is expected, not {len(ids)}")
        self.transaction_id = ids[0]
        self._credentials = credentials
        self._skill = skill
        self._options = options or Options()

    def __repr__(self) -> str:
        return f"VantageTransaction({self.transaction_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        block = self._credentials
        name = block if isinstance(block, str) else block.saved_name
        if not name:
            raise ConfigurationError(
                "A VantageTransaction whose credentials block is not saved can't be pickled",
                hint="Save the block, or pass the transaction_id and use VantageSkill.transaction",
            )
        return {**vars(self), "_credentials": name}

    def __copy__(self, memo: object = None) -> VantageTransaction:
        return self  # Nothing in it ever changes.

    __deepcopy__ = __copy__

    def wait_for_completion(self) -> Self:  # type: ignore[override]
        """Wait until the transaction was processed. It blocks; temporary failures are waited out.

        Returns:
            Itself.

        Raises:
            TransactionFailed: It ended as Failed, or was deleted.
            TransactionCanceled: It was cancelled.
            ReviewNeeded: A person must review it, and the block is set not to wait for that.
            WaitTimeout: A limit was reached. The transaction keeps running; you can wait for it
                again.
        """
        with self._client() as client:
            skill_id = self._skill_id(client)
            reporter = Reporter(client, skill_id, self.logger.info)
            outcome = reporter.wait([self.transaction_id], WaitRules.of(self._options))
            self._conclude(reporter, outcome, client)
        return self

    async def await_for_completion(self) -> Self:
        """Wait as :meth:`wait_for_completion` does, without blocking the event loop.

        All waits of an event loop with the same block share their requests.
        """
        credentials = await run_sync(lambda: load_credentials(self._credentials))
        context = contextvars.copy_context()

        def connect() -> VantageClient:
            return context.copy().run(credentials.get_client)

        client = await run_sync(connect)
        skill_id = await run_sync(lambda: self._skill_id(client))
        reporter = Reporter(client, skill_id, self.logger.info)

        poller = SharedPoller.of(("prefect", credentials.poller_key()), connect)
        try:
            rules = WaitRules.of(self._options)
            outcome = await reporter.wait_in_loop(poller, [self.transaction_id], rules)
            await run_sync(lambda: self._conclude(reporter, outcome, client))
        finally:
            client.close()
        return self

    def fetch_result(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the fields of each document in it.

        Returns:
            One plain dictionary for each document: ``transaction_id``, ``document_id``, ``class``,
            ``fields``, ``rule_errors``.

        Raises:
            ConfigurationError: It was not processed yet.
            NotFound: It was deleted.
        """
        with self._client() as client:
            transaction = client.get_transaction(self.transaction_id)
            if transaction.status is not Status.PROCESSED:
                raise ConfigurationError(
                    f"The transaction is {transaction.status} and has no results",
                    hint="Call wait_for_completion first",
                    transaction_id=self.transaction_id,
                )
            documents = fetch_fields(client, transaction)
        return [document.row(self.transaction_id) for document in documents]

    async def afetch_result(self) -> list[dict[str, Any]]:
        """Return the fields as :meth:`fetch_result` does, without blocking the event loop."""
        return await run_sync(self.fetch_result)

    def download_results(self, output_path: Any) -> dict[str, Any]:
        """Download its result files into a folder.

        Args:
            output_path: Path or URL of the folder. The transaction gets a subfolder named by its
                id; ``manifest.json`` lists the files.

        Returns:
            ``manifest`` (its URL) and numbers, as the task ``download_results`` returns.

        Raises:
            TransactionFailed: It failed, or was deleted.
            WaitTimeout: It has not ended yet.
        """
        from vantage_orchestration.processing.job import download

        output = output_of(output_path)
        ids = [self.transaction_id]
        with self._client() as client:
            manifest = download(client, ids, output, self._options)
        self.logger.info(summary(manifest, output.folder.url))
        return final_result(manifest, output.folder, self._options)

    async def adownload_results(self, output_path: Any) -> dict[str, Any]:
        """Download its files as :meth:`download_results` does, without blocking the event loop."""
        return await run_sync(lambda: self.download_results(output_path))

    def _client(self) -> VantageClient:
        return load_credentials(self._credentials).get_client()

    def _skill_id(self, client: VantageClient) -> str | None:
        return None if self._skill is None else skill_id_of(client, self._skill)

    def _conclude(self, reporter: Reporter, outcome: Outcome, client: VantageClient) -> None:
        reporter.ended(outcome)
        check_outcome(outcome, on_review=self._options.on_review, client=client)
