# SPDX-License-Identifier: Apache-2.0
"""A skill as a Prefect job block: ``trigger``, then ``wait_for_completion``, ``fetch_result``."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import ConfigDict, Field, HttpUrl, ModelWrapValidatorHandler, model_validator
from typing_extensions import Self

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.prefect.credentials import (
    VantageCredentials,
    load_credentials,
    name_of_block,
    reading_block,
)
from vantage_orchestration.processing.outcome import (
    REVIEW_TIMEOUT,
    TIMEOUT,
    Outcome,
    check_outcome,
)

if TYPE_CHECKING:
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.prefect.job import Telling
    from vantage_orchestration.watching import Pace

__all__ = ["VantageSkill", "VantageTransaction"]

T = TypeVar("T")


class VantageSkill(JobBlock):  # type: ignore[type-arg]
    """Processes documents by an ABBYY Vantage skill.

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
    _description: ClassVar[str | None] = "Processes documents by an ABBYY Vantage skill."

    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: VantageCredentials = Field(
        ..., title="Credentials", description="The ABBYY Vantage Credentials block to log in with."
    )
    skill: str = Field(
        ..., title="Skill", description="Id or exact name of a published ABBYY Vantage skill."
    )
    registration_parameters: dict[str, str] = Field(
        default_factory=dict,
        title="Registration parameters",
        description="Names and texts of your own, up to 9, that each transaction carries, such as"
        ' {"batch": "42"}.',
    )
    skill_parameters: dict[str, str] = Field(
        default_factory=dict,
        title="Skill parameters",
        description="Names and texts, up to 10, that win over the defaults of the skill, such as"
        ' {"Note": "urgent"}.',
    )
    result_types: list[str] = Field(
        default_factory=list,
        title="Result types",
        description='Types of result files to download, such as ["FieldsJson"]; empty for all.',
    )
    timeout: float = Field(
        TIMEOUT,
        title="Timeout",
        description="Seconds that ABBYY Vantage may take. An hour by default.",
    )
    review_timeout: float = Field(
        REVIEW_TIMEOUT,
        title="Review timeout",
        description="Seconds that people may take, from when a manual review is needed. A week by"
        " default.",
    )
    on_review: Literal["wait", "fail"] = Field(
        "wait",
        title="On review",
        description="Whether to wait when a person has to review the document, or to fail.",
    )
    poke_interval: float = Field(
        10.0,
        title="Poke interval",
        description="Seconds between two looks at the beginning; they grow. 1 at the least.",
    )
    max_poke_interval: float = Field(
        60.0,
        title="Longest poke interval",
        description="Seconds between two looks at the most.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        made_here = not reading_block.get()
        super().__init__(*args, **kwargs)
        unknown = set(self.model_extra or {}) - _OF_PREFECT
        if made_here and unknown:
            raise ConfigurationError(f"A VantageSkill has no field {', '.join(sorted(unknown))}")

    @model_validator(mode="wrap")
    @classmethod
    def _note_reading(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Note that pydantic reads a stored block, which may be of another version."""
        token = reading_block.set(True)
        try:
            return handler(values)
        finally:
            reading_block.reset(token)

    def trigger(self, documents: Any) -> VantageTransaction:  # type: ignore[override]
        """Send a document, or go on with the transaction that an earlier try has made of it.

        Within one flow run the same document is sent once for the same skill and parameters,
        however often the flow or its task is tried again. Outside of runs each call sends it anew.

        Args:
            documents: Path or URL of a file. A Process skill also takes several, which become
                one transaction.

        Returns:
            The transaction, started.

        Raises:
            ConfigurationError: The file, the skill or a parameter is not acceptable. Nothing was
                sent.
            VantageError: A request failed. The next try goes on.
        """
        from vantage_orchestration.prefect.job import Asker, Telling
        from vantage_orchestration.processing.job import JobSettings, submit_files
        from vantage_orchestration.processing.skills import skill_id_of

        with self.credentials.get_client() as client:
            skill_id = skill_id_of(client, self.skill)
            asker = Asker.of_run(
                client,
                documents,
                skill_id,
                registration_parameters=self.registration_parameters,
                skill_parameters=self.skill_parameters,
            )
            settings = JobSettings(
                skill_id,
                registration_parameters=self.registration_parameters,
                skill_parameters=self.skill_parameters,
                origin=asker.origin,
            )
            (submitted,) = submit_files(
                client,
                asker.files(documents),
                asker.key,
                settings,
                ledger=asker.ledger,
                most=1,
                resend_failed=asker.resend_failed,
            )
            ids = [submitted.transaction_id]
            Telling(client, skill_id, self.logger.info).started(ids, new=not submitted.resumed)
        return self.transaction(ids[0], skill_id=skill_id)

    async def atrigger(self, documents: Any) -> VantageTransaction:
        """Send a document as :meth:`trigger` does, without blocking the event loop."""
        return await _in_thread(lambda: self.trigger(documents))

    def transaction(
        self, transaction_id: str, *, skill_id: str | None = None
    ) -> VantageTransaction:
        """Return a transaction that was started before, to wait for it with this block's limits.

        Args:
            transaction_id: Its id.
            skill_id: Id of its skill, if known: looking takes fewer requests.
        """
        return VantageTransaction(
            transaction_id,
            self.credentials,
            skill_id=skill_id,
            result_types=self.result_types or None,
            timeout=self.timeout,
            review_timeout=self.review_timeout,
            on_review=self.on_review,
            poke_interval=self.poke_interval,
            max_poke_interval=self.max_poke_interval,
        )


_OF_PREFECT = frozenset(
    {"block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous"}
)


class VantageTransaction(JobRun[list[dict[str, Any]]]):
    """A transaction in ABBYY Vantage. It holds the id, and how to log in; nothing of the document.

    A pickle of it names the saved credentials block, and holds no secret. One whose block is not
    saved can't be pickled.

    Args:
        transaction_id: Its id.
        credentials: The credentials block, or the name of a saved one.
        skill_id: Id of its skill, if known: looking takes fewer requests.
        result_types: Types of result files to download; all by default.
        timeout: Seconds that the service may take.
        review_timeout: Seconds that people may take.
        on_review: ``wait`` for a person's review, or ``fail``.
        poke_interval: Seconds between two looks at the beginning; they grow.
        max_poke_interval: Seconds between two looks at the most.
    """

    def __init__(
        self,
        transaction_id: str,
        credentials: VantageCredentials | str,
        *,
        skill_id: str | None = None,
        result_types: list[str] | None = None,
        timeout: float = TIMEOUT,
        review_timeout: float = REVIEW_TIMEOUT,
        on_review: str = "wait",
        poke_interval: float = 10.0,
        max_poke_interval: float = 60.0,
    ) -> None:
        self.transaction_id = transaction_id
        self._credentials = credentials
        self._skill_id = skill_id
        self._result_types = result_types
        self._limits: dict[str, Any] = {
            "timeout": timeout,
            "review_timeout": review_timeout,
            "on_review": on_review,
        }
        self._intervals = poke_interval, max_poke_interval

    def __repr__(self) -> str:
        return f"VantageTransaction({self.transaction_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        name = name_of_block(self._credentials)
        if not name:
            raise ConfigurationError(
                "A VantageTransaction whose credentials block is not saved can't be pickled",
                hint="Save the block, or pass transaction_id on and use VantageSkill.transaction",
            )
        return {**vars(self), "_credentials": name}

    def __copy__(self) -> VantageTransaction:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> VantageTransaction:
        return self.__copy__()  # Nothing in it ever changes.

    def wait_for_completion(self) -> Self:  # type: ignore[override]
        """Wait until the transaction was processed. Blocks; passing trouble is waited out.

        Returns:
            Itself.

        Raises:
            TransactionFailed: It ended as Failed, or was deleted.
            TransactionCanceled: It was cancelled.
            ReviewNeeded: A person has to review it, and it was not to be waited for that.
            WaitTimeout: A limit was reached. It goes on, and can be waited for again.
        """
        from vantage_orchestration.prefect.job import Telling
        from vantage_orchestration.processing.waiting import wait_for_outcome

        with self._client() as client:
            telling = Telling(client, self._skill_id, self.logger.info)
            outcome = wait_for_outcome(
                client,
                [self.transaction_id],
                **self._limits,
                pace=self._pace(),
                skill_id=self._skill_id,
                on_change=telling.changed,
                on_needed=telling.needs_person,
            )
            self._conclude(telling, outcome, client)
        return self

    async def await_for_completion(self) -> Self:
        """Wait as :meth:`wait_for_completion` does, without blocking the event loop.

        All coroutines of an event loop that wait with the same block share their requests.
        """
        from vantage_orchestration.prefect.job import Telling
        from vantage_orchestration.processing.waiting import await_outcome
        from vantage_orchestration.watching import SharedPoller

        credentials = await _in_thread(lambda: load_credentials(self._credentials))
        context = contextvars.copy_context()

        def connect() -> VantageClient:
            return context.copy().run(credentials.get_client)

        client = await _in_thread(connect)
        telling = Telling(client, self._skill_id, self.logger.info)

        async def tell(ids: Sequence[str]) -> None:
            await _in_thread(lambda: telling.needs_person(ids))

        poller = SharedPoller.of(("prefect", credentials.poller_key()), connect)
        try:
            outcome = await await_outcome(
                poller,
                [self.transaction_id],
                **self._limits,
                pace=self._pace(),
                skill_id=self._skill_id,
                on_change=telling.changed,
                on_needed=tell,
            )
            await _in_thread(lambda: self._conclude(telling, outcome, client))
        finally:
            client.close()
        return self

    def fetch_result(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the fields of each document in it.

        Returns:
            One plain dictionary for each document: ``transaction_id``, ``document_id``, ``class``,
            ``fields``, ``business_rule_errors``.

        Raises:
            ConfigurationError: It was not processed (yet).
            NotFound: It was deleted.
        """
        from vantage_orchestration.results import fetch_fields

        with self._client() as client:
            transaction = client.get_transaction(self.transaction_id)
            if transaction.status != "Processed":
                raise ConfigurationError(
                    f"The transaction is {transaction.status} and has no results",
                    hint="Call wait_for_completion first",
                    transaction_id=self.transaction_id,
                )
            documents = fetch_fields(client, transaction)
        return [document.row(self.transaction_id) for document in documents]

    async def afetch_result(self) -> list[dict[str, Any]]:
        """Return the fields as :meth:`fetch_result` does, without blocking the event loop."""
        return await _in_thread(self.fetch_result)

    def download_results(self, output_path: Any) -> dict[str, Any]:
        """Bring its result files into a folder.

        Args:
            output_path: Path or URL of the folder. The transaction gets a folder in it, named by
                its id; ``manifest.json`` tells what is where.

        Returns:
            ``manifest`` (its URL) and numbers, as the task ``download_results`` does.

        Raises:
            TransactionFailed: It failed, or was deleted.
            WaitTimeout: It has not ended yet.
        """
        from vantage_orchestration.processing.job import download
        from vantage_orchestration.processing.outcome import result_of
        from vantage_orchestration.storage import Location

        output = Location.of(output_path)
        with self._client() as client:
            manifest = download(
                client, [self.transaction_id], output, result_types=self._result_types
            )
        check_outcome(Outcome.of(manifest), on_review="fail")
        return result_of(manifest, output)

    async def adownload_results(self, output_path: Any) -> dict[str, Any]:
        """Bring its files as :meth:`download_results` does, without blocking the event loop."""
        return await _in_thread(lambda: self.download_results(output_path))

    def _client(self) -> VantageClient:
        return load_credentials(self._credentials).get_client()

    def _pace(self) -> Pace:
        from vantage_orchestration.watching import Pace

        return Pace.between(*self._intervals)

    def _conclude(self, telling: Telling, outcome: Outcome, client: VantageClient) -> None:
        telling.ended(outcome)
        check_outcome(outcome, on_review=self._limits["on_review"], client=client)


async def _in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread that knows the run it belongs to."""
    import anyio.to_thread

    return await anyio.to_thread.run_sync(work)
