# SPDX-License-Identifier: Apache-2.0
"""Operators: documents in, results out, and the single steps of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, overload

from airflow.sdk import BaseOperator

from vantage_orchestration.airflow.arguments import ArgumentsMixin, is_template
from vantage_orchestration.airflow.assets import datasets, emit
from vantage_orchestration.airflow.compat import AirflowSkipException
from vantage_orchestration.airflow.connection import CONN_NAME_ATTR, DEFAULT_CONN_ID
from vantage_orchestration.airflow.context import check_place, check_stores, key_of, scope_of
from vantage_orchestration.airflow.errors import translate
from vantage_orchestration.airflow.links import (
    VantageTransactionLink,
    record_of_job,
    record_transactions,
)
from vantage_orchestration.airflow.storage import location_of, output_of
from vantage_orchestration.airflow.supervisor import KILLED, state_of_task
from vantage_orchestration.airflow.waiting import WaitingMixin, check_outcome
from vantage_orchestration.errors import ConfigurationError, translating
from vantage_orchestration.options import (
    Collecting,
    Completed,
    Processing,
    Sending,
    takes,
    template_fields_of,
)
from vantage_orchestration.parallel import in_background
from vantage_orchestration.processing.names import MANIFEST
from vantage_orchestration.processing.outcome import check_quality, outcome_of, result_of
from vantage_orchestration.processing.summary import (
    files_by_id,
    summary,
    summary_of_start,
)

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context
    from typing_extensions import Unpack

    from vantage_orchestration.processing.manifest import Manifest
    from vantage_orchestration.processing.submit import Work
    from vantage_orchestration.storage import Location
    from vantage_orchestration.waiting.machine import Outcome

#: Seconds that ``on_kill`` may take; the supervisor gives a task a few before it is killed.
_DELETE_SECONDS = 4.0


def _templated(group: type) -> tuple[str, ...]:
    return (CONN_NAME_ATTR, *template_fields_of(group))


class _VantageOperator(ArgumentsMixin, BaseOperator):
    """Base of the operators."""

    operator_extra_links = (VantageTransactionLink(),)
    _lineage: tuple[list[str], str] | None = None

    def __init__(self, *, abbyy_vantage_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        options = self._pop_options(kwargs)
        super().__init__(**kwargs)
        self._keep(abbyy_vantage_conn_id=abbyy_vantage_conn_id, **options)

    def get_openlineage_facets_on_complete(
        self, task_instance: Any
    ) -> OperatorLineage[Any, Any] | None:
        """Return inputs and outputs for Airflow's OpenLineage provider, if it is installed."""
        return datasets(*self._lineage) if self._lineage is not None else None

    def _skip(self, context: Context, why: str) -> NoReturn:
        # For the link, which Airflow asks for at the end: it would log a missing XCom as an error.
        record_transactions(context, ())
        raise AirflowSkipException(why)

    def _report(self, context: Context, manifest: Manifest, output: Location) -> None:
        """Report the results on the task's page and in the log."""
        record_transactions(context, record_of_job(manifest, output.url))
        self.log.info("%s", summary(manifest, output.url))

    def _land(
        self,
        context: Context,
        manifest: Manifest,
        output: Location,
        on_review: str,
        timed_out: str | None = None,
    ) -> dict[str, Any]:
        """Report the results of the task's own transactions, check and return them."""
        self._report(context, manifest, output)
        outcome, on_failed = outcome_of(manifest, timed_out), self.options.on_failed
        check_outcome(outcome, on_review=on_review, on_failed=on_failed)
        result = result_of(manifest, output.child(MANIFEST))
        return self._conclude(context, manifest, output, result)

    def _conclude(
        self, context: Context, manifest: Manifest, output: Location, result: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the task's result, and emit it with the events of the task's asset outlets. Raise
        if documents are not good enough, and the task is set to fail in that case."""
        emit(context, output.url, result)
        sources = [source for entry in manifest.transactions for source in entry.sources]
        read = [source.path for source in sources if source.path is not None]
        self._lineage = read, output.url
        with translating(translate):
            check_quality(manifest, result["manifest"], self.options)
        return result


class _SendingOperator(_VantageOperator):
    """Base of the two operators that send files."""

    durable: bool

    def _work(
        self, context: Context, output: Location | None = None, state_path: Any = None
    ) -> Work:
        """Return the work of the task: the same in each try, different for other registration
        parameters. A durable task without a place for notes is refused."""
        from vantage_orchestration.processing.submit import open_work

        # Without the map index: if a file is added to those that a task is mapped over and the run
        # is cleared, the indexes of all following files change. Each transaction's key contains
        # names and contents of its files instead.
        part = json.dumps(dict(self.options.registration_parameters), sort_keys=True)
        key = key_of(context, part, state_path)
        if not self.durable:
            key = replace(key, since=None, stores=())
        elif output is None:
            check_stores(key.stores)
        return open_work(
            self.hook.client,
            self._skill_id(),
            key,
            self.options,
            self._argument("inputs"),
            position=str(context["ti"].map_index),
            output=output,
            noted=self.durable,
        )

    def _inputs(
        self, context: Context, work: Work, output: Location | None = None
    ) -> list[Location]:
        """Return the files; those that an earlier try has sent may be missing. If there are none,
        and nothing was sent before, the task is skipped."""
        from vantage_orchestration.processing.files import files_of

        inputs, on_empty = self._argument("inputs"), self.options.on_empty
        with translating(translate):
            sent = bool(work.ledger.load())
            files = files_of(
                inputs, location_of, sent_before=sent, on_empty=on_empty, output=output
            )
        if not files and not sent:
            self._skip(context, "There are no inputs, so there is nothing to do")
        return files

    def _check_work(self, parts: Sequence[Any]) -> None:
        if not parts:  # All files disappeared before they were sent.
            raise translate(ConfigurationError("All inputs have disappeared"))


class VantageProcessDocumentsOperator(WaitingMixin, _SendingOperator):
    """Processes documents: files in, a folder with results and a manifest out.

    Each file is sent once, however often the task is retried, cleared or killed: a later try
    continues with the transactions that it finds. While ABBYY Vantage works, or a person reviews,
    the task is deferred and takes no worker slot.

    Args:
        inputs: Path, glob or URL of any store that Airflow's ``ObjectStoragePath`` supports, or
            several (templated). A Process skill gets up to 1000 files in a transaction; other
            skills get one transaction per file, since they treat a transaction as one document. If
            the list is empty the task is skipped.
        output_path: Folder for the results, a path or URL (templated). It belongs to this task
            instance alone: for mapped tasks include ``{{ ti.map_index }}``. ``{class}`` at its end
            gives each class of documents a folder of its own.
        skill: Id or exact name of the skill (templated).
        abbyy_vantage_conn_id: Connection (templated).
        durable: With False each try sends, and pays for, everything again.
        delete_on_kill: Delete the transactions if somebody ends the task. Pages stay charged.
            Before Airflow 3.3 it needs ``deferrable=False``.
        deferrable: Wait in the triggerer, which is the default; see
            :func:`vantage_orchestration.airflow.waiting.deferrable_by_default`.
        review_notifiers: Called with the context when a person is needed, like
            ``on_failure_callback``; one or several notifiers or functions.

    Returns:
        ``manifest`` (its URI) and numbers: ``transactions``, ``documents``, ``files``, ``pages``,
        ``rule_errors``, ``duplicates``, ``in_review``, ``pending``, ``failed``.

    Raises:
        ConfigurationError: An input or argument is invalid. Nothing was sent.
        TransactionFailed: Documents could not be processed; the results of the others have landed.
        WaitTimeout: A limit was reached. A retry continues.
    """

    option_group = Processing
    template_fields = ("inputs", "output_path", "skill", *_templated(Processing))
    #: What ``on_kill`` needs of the running try.
    _running: tuple[Any, Work] | None = None

    if TYPE_CHECKING:  # See ArgumentsMixin.

        @overload
        def __init__(
            self,
            *,
            inputs: Any,
            output_path: Any,
            skill: str,
            abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
            durable: bool = True,
            delete_on_kill: bool = False,
            deferrable: bool | None = None,
            review_notifiers: Sequence[Any] = (),
            **options: Unpack[Processing],
        ) -> None: ...

        @overload
        def __init__(self, *, inputs: Any, output_path: Any, skill: str, **kwargs: Any) -> None: ...

    @takes(Processing)
    def __init__(
        self,
        *,
        inputs: Any,
        output_path: Any,
        skill: str,
        durable: bool = True,
        delete_on_kill: bool = False,
        deferrable: bool | None = None,
        review_notifiers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(inputs=inputs, output_path=output_path, skill=skill, durable=durable)
        self._keep(delete_on_kill=delete_on_kill, deferrable=deferrable)
        self.review_notifiers = review_notifiers
        self._check_kill()

    def execute(self, context: Context) -> dict[str, Any]:
        """Start the transactions, then wait for them."""
        from vantage_orchestration.processing.files import check_output
        from vantage_orchestration.processing.job import begin

        output, _ = output_of(self._argument("output_path"))
        with translating(translate):
            check_output(output)
        # Failed transactions are reported at the end, and only then sent again by a retry.
        work = replace(self._work(context, output), resend_failed=False)
        inputs = self._inputs(context, work, output)
        job = begin(work, inputs, output, token=self._token(context))
        self._check_work(job.parts)
        record_transactions(context, job.transaction_ids)
        files = files_by_id(job.parts)
        result: dict[str, Any] = self._wait(context, job.transaction_ids, files)
        return result

    def _work(
        self, context: Context, output: Location | None = None, state_path: Any = None
    ) -> Work:
        work = super()._work(context, output, state_path)
        self._running = context["ti"], work
        return work

    def _ahead(self, context: Context) -> Callable[..., object]:
        from vantage_orchestration.processing.job import fetch_ahead

        output = output_of(self._argument("output_path"))
        return fetch_ahead(self.hook.client, output, self.options, token=self._token(context))

    def _ended(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        from vantage_orchestration.processing.job import finish

        output = output_of(self._argument("output_path"))
        work = self._work(context, output.folder)
        manifest = finish(work, output, token=self._token(context), outcome=outcome)
        on_review, limit = self.options.on_review, outcome.timed_out
        return self._land(context, manifest, output.folder, on_review, limit)

    def _notes(self, context: Context) -> tuple[str, str] | None:
        path, running = self._argument("output_path"), self._running
        if running is not None and running[0] is context["ti"]:
            work = running[1]
        else:  # It waits again after its trigger has fired.
            work = self._work(context, output_of(path).folder)
        return None if work.ledger.name is None else (str(path), work.ledger.name)

    def on_kill(self) -> None:
        """Delete the transactions, if ``delete_on_kill`` is set and somebody ended the task."""
        if not self.delete_on_kill or self._running is None:
            return
        task, work = self._running

        def delete() -> list[Exception]:
            if state_of_task(task) not in KILLED:
                return []
            from vantage_orchestration.processing.deleting import undo_transactions

            noted = work.ledger.load().values()
            own = [entry for entry in noted if entry.origin == work.origin]
            ids = {each for entry in own for each in entry.transaction_ids}
            return list(undo_transactions(self.hook.client, ids, [work.ledger]).values())

        # Airflow calls this in a signal handler, which may have interrupted the very code that
        # calls the supervisor. A separate thread can be abandoned.
        try:
            failures = in_background(delete, "abbyy-vantage-delete").result(_DELETE_SECONDS)
        except Exception as error:
            failures = [error]
        for each in failures:
            self.log.warning("A transaction was not deleted: %s", type(each).__name__)

    def _token(self, context: Context) -> str:
        from vantage_orchestration.processing.job import job_token

        task = context["ti"]
        return job_token(json.dumps([task.dag_id, task.run_id, task.task_id]), str(task.map_index))


class VantageSubmitOperator(_SendingOperator):
    """Starts transactions without waiting for them: see :class:`VantageTransactionsSensor`.

    Args:
        inputs: As for :class:`VantageProcessDocumentsOperator`, like all following arguments.
        skill: Id or exact name of the skill (templated).
        abbyy_vantage_conn_id: Connection (templated).
        durable: With False each try sends everything again.
        state_path: Folder in which later tries find the started transactions, a path or URL that
            all workers can access (templated). By default that of ``[abbyy_vantage] state_path`` in
            airflow.cfg. Without it the task state store of Airflow 3.3 and later is used; before
            3.3 a durable task is refused.

    Returns:
        The ids of the transactions, in the order of the inputs; small enough for an XCom.
    """

    option_group = Sending
    template_fields = ("inputs", "skill", "state_path", *_templated(Sending))

    if TYPE_CHECKING:  # See ArgumentsMixin.

        @overload
        def __init__(
            self,
            *,
            inputs: Any,
            skill: str,
            abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
            durable: bool = True,
            state_path: Any = None,
            **options: Unpack[Sending],
        ) -> None: ...

        @overload
        def __init__(self, *, inputs: Any, skill: str, **kwargs: Any) -> None: ...

    @takes(Sending)
    def __init__(
        self,
        *,
        inputs: Any,
        skill: str,
        durable: bool = True,
        state_path: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._keep(inputs=inputs, skill=skill, durable=durable)
        self.state_path = state_path
        if durable:
            check_place(state_path)

    def execute(self, context: Context) -> list[str]:
        """Start the transactions."""
        from vantage_orchestration.processing.job import submit_files

        work = self._work(context, state_path=self.state_path)
        submitted = submit_files(work, self._inputs(context, work))
        self._check_work(submitted)
        ids = [part.transaction_id for part in submitted]
        record_transactions(context, ids)
        self.log.info("%s", summary_of_start(submitted))
        return ids


class VantageDownloadResultsOperator(_VantageOperator):
    """Downloads the results of processed transactions into a folder.

    Args:
        transaction_ids: One or several, or what :class:`VantageSubmitOperator` or a sensor returned
            (templated). If there are none the task is skipped.
        output_path: Folder for the results, a path or URL (templated). Each transaction gets a
            subfolder named by its id; ``manifest.json`` lists the files.
        abbyy_vantage_conn_id: Connection (templated).

    Returns:
        The same as :class:`VantageProcessDocumentsOperator`.

    Raises:
        TransactionFailed: One of them failed; the results of the others have landed.
        WaitTimeout: One has not ended yet. Put a :class:`VantageTransactionsSensor` before this
            task.
    """

    option_group = Collecting
    template_fields = ("transaction_ids", "output_path", *_templated(Collecting))

    if TYPE_CHECKING:  # See ArgumentsMixin.

        @overload
        def __init__(
            self,
            *,
            transaction_ids: Any,
            output_path: Any,
            abbyy_vantage_conn_id: str = DEFAULT_CONN_ID,
            **options: Unpack[Collecting],
        ) -> None: ...

        @overload
        def __init__(self, *, transaction_ids: Any, output_path: Any, **kwargs: Any) -> None: ...

    @takes(Collecting)
    def __init__(self, *, transaction_ids: Any, output_path: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep(transaction_ids=transaction_ids, output_path=output_path)

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch the results."""
        from vantage_orchestration.processing.job import download

        options, ids = self.options, self._argument("transaction_ids")
        output = output_of(self._argument("output_path"))
        if not ids:
            self._skip(context, "There are no transactions, so there is nothing to fetch")
        record_transactions(context, ids)
        manifest = download(self.hook.client, ids, output, options)
        return self._land(context, manifest, output.folder, "fail")


class VantageFetchCompletedOperator(_VantageOperator):
    """Fetches transactions that ended in ABBYY Vantage, whatever their origin, each once.

    For Dags that :class:`.triggers.completed.VantageTransactionCompletedTrigger` or a schedule
    starts. It does not matter which event started a run, or whether one was missed: a run fetches
    all ended transactions that match the arguments and that no earlier run of this task has
    fetched. A transaction is recorded when its results have landed. A later try of a run continues,
    and returns all that the run has fetched. If nothing is due, the task is skipped.

    Allow one active run of the Dag at a time (``max_active_runs=1``). If there are two, the later
    one is skipped.

    Args:
        output_path: Folder for the results of all runs of this task alone, a path or URL
            (templated). Each transaction gets a subfolder named by its id; each run writes a
            ``manifest-...json``, and its tables into a subfolder of ``tables/``.
        skill: Id or exact name of the skill; None for all accessible skills.
        state_path: Folder for the record of fetched transactions, a path or URL (templated). It
            must be the same in each run and in the trigger. By default ``output_path``.
        abbyy_vantage_conn_id: Connection (templated).
        consumer: Name under which this task records what it has fetched, by default Dag and task.
            Each name gets all transactions.

    Returns:
        The same as :class:`VantageProcessDocumentsOperator`.

    Raises:
        AirflowSkipException: Nothing is due.
        TransactionFailed: A transaction was deleted before its results were fetched.
        VantageError: Results could not be fetched; all others have landed.
    """

    skill: str | None
    consumer: str | None
    option_group = Completed
    template_fields = ("output_path", "state_path", *_templated(Completed))

    @takes(Completed)
    def __init__(
        self,
        *,
        output_path: Any,
        skill: str | None = None,
        state_path: Any = None,
        consumer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if state_path is None and is_template(output_path):
            raise ValueError("output_path is a template; give a state_path that is not")
        self._keep(output_path=output_path, skill=skill, consumer=consumer)
        self.state_path = output_path if state_path is None else state_path

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch what is due."""
        from vantage_orchestration.completed.fetching import fetch_due
        from vantage_orchestration.completed.inbox import consumer_of

        options, client, task = self.options, self.hook.client, context["ti"]
        output, state = output_of(self._argument("output_path")), output_of(self.state_path).folder
        name = self.consumer or f"{task.dag_id}.{task.task_id}"
        fetched = fetch_due(
            client,
            consumer_of(client, state, self.skill, name, options),
            output,
            run=scope_of(task),
            label=task.run_id,
            options=options,
        )
        if fetched.place is None:
            self._skip(context, "Nothing new has ended in ABBYY Vantage")
        self._report(context, fetched.manifest, output.folder)
        return self._conclude(context, fetched.manifest, output.folder, fetched.result)


class VantageDeleteTransactionsOperator(_VantageOperator):
    """Deletes transactions in ABBYY Vantage, with their files and results.

    The service deletes them within minutes. Charged pages stay charged.

    Args:
        transaction_ids: One or several, or what :class:`VantageSubmitOperator` or a sensor returned
            (templated). An empty list is not an error, so the task may follow a skipped one.
        abbyy_vantage_conn_id: Connection (templated).

    Returns:
        The number of transactions. A missing one counts as deleted.

    Raises:
        VantageError: Some were not deleted; the error names them. All others were.
    """

    template_fields = ("transaction_ids", CONN_NAME_ATTR)

    def __init__(self, *, transaction_ids: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep(transaction_ids=transaction_ids)

    def execute(self, context: Context) -> int:
        """Delete them."""
        from vantage_orchestration.processing.deleting import check_deleted, delete_transactions

        ids = self._argument("transaction_ids")
        record_transactions(context, ids)
        with translating(translate):
            check_deleted(delete_transactions(self.hook.client, ids) if ids else {}, len(ids))
        self.log.info("Deleted %d transactions", len(ids))
        return len(ids)
