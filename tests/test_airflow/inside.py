# SPDX-License-Identifier: Apache-2.0
"""What tests do with Airflow loaded. Run by ``zygote``; arguments and results are plain JSON."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging.config
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from airflow import settings
from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.executors.workloads import ExecuteTask
from airflow.models import Connection, DagRun
from airflow.models.dagbag import DBDagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.xcom import XComModel
from airflow.sdk.api.client import Client
from airflow.sdk.execution_time import supervisor
from airflow.sdk.log import configure_logging
from airflow.triggers.base import BaseTrigger, TriggerEvent
from airflow.utils import timezone
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from foreign import foreign, replace_foreign
from sqlalchemy import delete, select
from tenacity import wait_none

execution_api = InProcessExecutionAPI()


class _Refusing(httpx.BaseTransport):
    """Answers the first requests for each Variable with 503, as a server that restarts."""

    def __init__(self, inner: httpx.BaseTransport, refused: int) -> None:
        self._inner = inner
        self._refused = refused
        self._seen: Counter[tuple[str, str]] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = request.method, request.url.path
        self._seen[call] += "/variables/" in call[1]
        if 0 < self._seen[call] <= self._refused:
            return httpx.Response(503, request=request)
        return self._inner.handle_request(request)


def execution_client(refused: int = 0) -> Client:
    """Return a client of the real execution API, to which a task's supervisor talks.

    Args:
        refused: How many requests for each Variable get no answer, if any. The client repeats them
            without a pause.
    """
    if refused:
        foreign(Client.request, "retry").wait = wait_none()
    api = InProcessExecutionAPI()
    # The application is shared, the thread that serves it is not: no fork would take it along.
    replace_foreign(api, "_app", execution_api.app)
    client = Client(
        base_url=None, token="", dry_run=True, transport=_Refusing(api.transport, refused)
    )
    client.base_url = "http://in-process.invalid./"
    return client


def prepare() -> None:
    """Read the Dag files and write them into the database, as the Dag processor does."""
    import airflow.sdk.execution_time.task_runner  # noqa: F401 - loaded once, for all calls

    # The supervisor may notice the end of a task this many seconds late.
    supervisor.MIN_HEARTBEAT_INTERVAL = 0.2
    # The first request builds the application, which takes seconds; a fork takes it along.
    client = execution_client()
    client.get("health/ping")
    client.close()
    del client
    gc.collect()
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        if bag.import_errors:
            raise RuntimeError(f"import errors: {bag.import_errors}")
        sync_bag_to_db(bag, bundle.name, None)
    settings.Session.remove()
    settings.engine.dispose()


def after_fork() -> None:
    settings.engine.dispose(close=False)


# ------------------------------------------------------------- connections


def add_connection(uri: str | None = None, **columns: Any) -> None:
    """Store a connection in the database, in place of one with the same id."""
    session = settings.Session()
    session.execute(delete(Connection).where(Connection.conn_id == columns["conn_id"]))
    session.add(Connection(uri=uri, **columns) if uri else Connection(**columns))
    session.commit()


def connection_row(conn_id: str) -> dict[str, Any]:
    """Return what the database itself holds of a connection."""
    from sqlalchemy import text

    row = settings.Session().execute(
        text("SELECT * FROM connection WHERE conn_id = :conn_id"), {"conn_id": conn_id}
    )
    return dict(row.mappings().one())


def read_connection(conn_id: str) -> dict[str, Any]:
    """Return what the hook makes of a stored connection."""
    from airflow.sdk import BaseHook

    from vantage_orchestration.airflow.connection import config_of

    config = config_of(BaseHook.get_connection(conn_id))
    shown = {
        name: getattr(config.credentials, name)
        for name in ("base_url", "region", "username", "client_id", "tenant_id", "token_url")
    }
    return {
        **shown,
        "password": config.credentials.password.reveal(),
        "client_secret": config.credentials.client_secret.reveal(),
        "verify": config.http.verify,
        "timeouts": config.http.timeouts,
        "proxy": config.http.proxy.reveal(),
    }


def round_trip(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the base address of a connection before and after it was written as a URI."""
    from airflow.sdk import Connection as TaskConnection

    from vantage_orchestration.airflow.connection import config_of

    first = TaskConnection(conn_id="trip", **columns)
    second = TaskConnection.from_uri(first.get_uri(), conn_id="trip")
    third = Connection(conn_id="trip", uri=Connection(conn_id="trip", **columns).get_uri())
    configs = [config_of(item) for item in (first, second, third)]
    return {
        "addresses": [config.credentials.base_url for config in configs],
        "equal": configs[0] == configs[1] == configs[2],
    }


# -------------------------------------------------------------------- hooks


def _told(error: BaseException) -> dict[str, Any]:
    from airflow.sdk.exceptions import AirflowFailException

    return {
        "classes": [kind.__name__ for kind in type(error).__mro__],
        "final": isinstance(error, AirflowFailException),
        "text": str(error),
        "shown": repr(error),
    }


def use_hook(conn_id: str) -> dict[str, Any]:
    """Ask for a token and for the skills."""
    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    try:
        hook = VantageHook(conn_id)
        token = hook.get_token()
        reply = hook.get_conn().get("/skills")
        skills = hook.client.list_skills()
    except Exception as error:
        return {"error": _told(error)}
    return {
        "token": token.reveal(),
        "shown": f"{token!r} {token} {hook!r} {hook.client!r}",
        "status": reply.status_code,
        "skills": [skill.name for skill in skills],
    }


def make_hook_without_anything() -> list[str]:
    """Make hooks for connections that do not exist; return modules loaded by that."""
    import sys

    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    VantageHook()
    VantageHook("nobody")
    VantageHook(abbyy_vantage_conn_id="nobody", logger_name="x")
    return [name for name in ("vantage_orchestration.client",) if name in sys.modules]


def copies_of_hook(conn_id: str) -> dict[str, Any]:
    """Copy and pickle a hook that was used, and use the copies."""
    import copy

    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    hook = VantageHook(conn_id)
    token = hook.get_token()
    copies = [copy.copy(hook), copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))]
    refused = False
    try:
        pickle.dumps(token)
    except TypeError:
        refused = True
    return {
        "ids": [each.abbyy_vantage_conn_id for each in copies],
        "same": [each.get_token() is token for each in copies],
        "pickled": pickle.dumps(hook).hex(),
        "token": token.reveal(),
        "token_refused": refused,
    }


def masked(conn_id: str, ask: bool = True) -> dict[str, str]:
    """Use a hook and return what Airflow makes of texts with secrets in them.

    Args:
        conn_id: Connection.
        ask: Also send a request.
    """
    from airflow.sdk._shared.secrets_masker import redact

    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    hook = VantageHook(conn_id)
    seen: list[bool] = []
    session = hook.get_conn()
    config = hook.client.config
    texts = {
        "password": config.credentials.password.reveal(),
        "client_secret": config.credentials.client_secret.reveal(),
        "proxy": config.http.proxy.reveal(),
        "nothing": "an ordinary word",
    }
    send = session.send

    def watch(request: Any, **options: Any) -> Any:
        text = request.headers["Authorization"].removeprefix("Bearer ")
        seen.append(redact(f"x {text}") == "x ***")
        return send(request, **options)

    if ask:
        session.send = watch
        assert session.get("/skills").ok
        texts["token"] = hook.get_token().reveal()
    return {
        **{name: redact(f"[{text}]") for name, text in texts.items()},
        "before_use": str(seen),
    }


def async_token(conn_id: str) -> dict[str, Any]:
    """Ask for a token in a coroutine, while another one shows that the loop goes on."""
    from airflow.sdk._shared.secrets_masker import redact

    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    async def ask() -> dict[str, Any]:
        beats = 0
        done = asyncio.Event()

        async def beat() -> None:
            nonlocal beats
            while not done.is_set():
                beats += 1
                await asyncio.sleep(0.01)

        heart = asyncio.create_task(beat())
        hooks = [VantageHook(conn_id) for _ in range(20)]
        tokens = await asyncio.gather(*(hook.aget_token() for hook in hooks))
        done.set()
        await heart
        return {
            "tokens": sorted({token.reveal() for token in tokens}),
            "masked": redact(tokens[0].reveal()),
            "beats": beats,
        }

    try:
        return asyncio.run(ask())
    except Exception as error:
        return {"error": _told(error)}


def rotate(conn_id: str, columns: dict[str, Any], first: str, go: str) -> dict[str, Any]:
    """Use one hook before and after its connection was changed."""
    from vantage_orchestration.airflow.hooks.vantage import VantageHook

    hook = VantageHook(conn_id)
    before = hook.get_token()
    skills = len(hook.client.list_skills())
    Path(first).touch()
    while not Path(go).exists():
        time.sleep(0.02)
    add_connection(**columns)
    again = len(hook.client.list_skills())
    return {
        "skills": [skills, again],
        "tokens": [before.reveal(), hook.get_token().reveal()],
        "password": hook.client.config.credentials.password.reveal(),
    }


def mask_in_process(text: str) -> dict[str, Any]:
    """Mask a text as a task of ``dag.test()`` does, whose supervisor is its own process."""
    import structlog
    from airflow.sdk._shared.secrets_masker import redact

    from vantage_orchestration.airflow.supervisor import mask
    from vantage_orchestration.secret import Secret

    with structlog.testing.capture_logs() as logs:
        comms = supervisor.InProcessSupervisorComms(supervisor=None)
        with supervisor.set_supervisor_comms(comms):
            mask(Secret(f"{text}-1"))
            asyncio.run(asyncio.to_thread(mask, Secret(f"{text}-2")))
            # What Airflow's own function does there, for comparison.
            from airflow.sdk.log import mask_secret

            mask_secret("another made-up text")
    return {"logs": repr(logs), "redacted": [redact(f"{text}-{number}") for number in (1, 2)]}


class _InProcess:
    """Answers requests as the supervisor of ``dag.test()`` does, slowly."""

    def __init__(self) -> None:
        self.line = supervisor.InProcessSupervisorComms(supervisor=self)  # type: ignore[arg-type]
        self.kept: dict[str, Any] = {}

    def _handle_request(self, msg: Any, log: Any, req_id: int) -> None:
        time.sleep(0.02)  # Others would begin in this time.
        self.line.messages.append(getattr(self, f"_{type(msg).__name__}", lambda _: None)(msg))

    def _GetConnection(self, msg: Any) -> Any:
        from airflow.sdk.execution_time.comms import ConnectionResult

        extra = json.dumps({"region": "eu", "client_id": "c", "client_secret": "s" * 20})
        names = {"host": None, "schema": None, "port": None, "login": f"user-of-{msg.conn_id}"}
        more = {"conn_type": "abbyy_vantage", "password": "made up", "extra": extra}
        return ConnectionResult(conn_id=msg.conn_id, **names, **more)

    def _GetVariable(self, msg: Any) -> Any:
        from airflow.sdk.execution_time.comms import VariableResult

        return VariableResult(key=msg.key, value=self.kept.get(msg.key))

    def _GetTaskStateStore(self, msg: Any) -> Any:
        from airflow.sdk.execution_time.comms import TaskStateStoreResult

        return TaskStateStoreResult(value=self.kept[msg.key])

    def _PutVariable(self, msg: Any) -> None:
        self.kept[msg.key] = msg.value

    _SetXCom = _SetTaskStateStore = _PutVariable


def ask_in_process(kind: str, threads: int) -> dict[str, Any]:
    """Ask Airflow in many threads of a task of ``dag.test()``; return what each has got."""
    from types import SimpleNamespace

    import fsspec
    from airflow.sdk import BaseHook
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor
    from fsspec.asyn import AsyncFileSystem

    from vantage_orchestration.airflow.context import TaskState
    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.airflow.links import record_transactions
    from vantage_orchestration.airflow.variables import AirflowVariables
    from vantage_orchestration.parallel import in_parallel
    from vantage_orchestration.storage import Location

    class Lazy(fsspec.AbstractFileSystem):
        def info(self, path: str, **_: Any) -> dict[str, Any]:
            login = BaseHook.get_connection(path.strip("/")).login
            return {"name": path, "type": "file", "size": len(login or "")}

    class LazyLoop(AsyncFileSystem):
        async def _info(self, path: str, **_: Any) -> dict[str, Any]:
            return Lazy().info(path)

    def connection(number: int) -> Any:
        return VantageHook(f"vantage_{number}").client.config.credentials.username

    def variable(number: int) -> Any:
        store = AirflowVariables()
        store.write(f"v{number}", b"of-%d" % number)
        return (store.read(f"v{number}") or b"").decode()

    def state(number: int) -> Any:
        from uuid import UUID

        store = TaskState(TaskStateStoreAccessor(UUID(int=number), scope=None))  # type: ignore[arg-type]
        store.write(f"s{number}", b'"of-%d"' % number)
        return json.loads(store.read(f"s{number}") or b"null")

    def xcom(number: int) -> Any:
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id=f"t{number}", map_index=-1)
        record_transactions({"ti": ti}, [])  # type: ignore[typeddict-item]
        return hasattr(task_runner, "SUPERVISOR_COMMS")

    def store(number: int) -> Any:
        return Location(Lazy(), f"vantage_{number}").size()

    def store_with_loop(number: int) -> Any:
        # Its loop is one thread, so others ask for themselves meanwhile.
        return Location((LazyLoop if number % 2 else Lazy)(), f"vantage_{number}").size()

    kinds = (connection, variable, state, xcom, store, store_with_loop)
    (ask,) = (each for each in kinds if each.__name__ == kind)
    answers = _InProcess()
    with supervisor.set_supervisor_comms(answers.line):  # type: ignore[arg-type]
        VantageHook("vantage_0").client  # noqa: B018 - as each task begins
        found = in_parallel(ask, range(threads), threads)
        there = hasattr(task_runner, "SUPERVISOR_COMMS")
    left = hasattr(task_runner, "SUPERVISOR_COMMS")
    return {"found": found, "there": there, "left": left}


def try_connection(conn_id: str) -> list[Any]:
    """Call ``test_connection`` as Airflow's servers do."""
    from airflow.sdk import BaseHook

    return list(BaseHook.get_connection(conn_id).test_connection())


def final_errors() -> list[dict[str, Any]]:
    """Translate every class of error and return what became of it."""
    import copy

    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from vantage_orchestration import errors
    from vantage_orchestration.airflow.errors import translate

    found = []
    for name, kind in vars(errors).items():
        if not (isinstance(kind, type) and issubclass(kind, errors.VantageError)):
            continue
        error = kind("It failed", hint="Do it", status=418, transaction_id="t-1", host="h")
        after = translate(error)
        copies = [copy.copy(after), pickle.loads(pickle.dumps(after)), after.copy()]
        found.append(
            {
                "name": name,
                "retryable": kind.retryable,
                "same": after is error,
                "final": isinstance(after, AirflowFailException),
                "airflow": isinstance(after, AirflowException),
                "kind": isinstance(after, kind),
                "again": translate(after) is after,
                "text": str(after) == str(error),
                "details": after.details() == error.details(),
                "copies": [type(each) is kind for each in copies],
                "copied": [str(each) == str(error) for each in copies],
                "name_shown": f"{type(after).__module__}.{type(after).__qualname__}",
                "one_class": type(translate(kind("Other"))) is type(after),
            }
        )
    return found


# ------------------------------------------------------------- token store


def stored_variables() -> dict[str, dict[str, Any]]:
    """Return key, value (decrypted) and description of the tokens' Variables."""
    from airflow.models import Variable

    rows = settings.Session().scalars(
        select(Variable).where(Variable.key.startswith("abbyy_vantage_token_"))
    )
    return {row.key: {"value": row.get_val(), "description": row.description} for row in rows}


def set_variable(key: str, value: str) -> None:
    """Set a Variable, as somebody does by hand."""
    from airflow.models import Variable

    Variable.set(key, value)


def use_store(name: str) -> dict[str, Any]:
    """Use the store directly, in a process that has a database and no supervisor."""
    from vantage_orchestration.airflow.variables import AirflowVariables

    first, second = AirflowVariables(), AirflowVariables()
    found: dict[str, Any] = {"before": first.read(name)}
    first.write(name, b"\x00one")
    found["one"] = (second.read(name) or b"").hex()
    found["created"] = [second.create(name, b"\x00not this")]
    second.write(name, b"\x00two")
    found["two"] = (first.read(name) or b"").hex()
    first.delete(name)
    first.delete(name)
    found["after"] = second.read(name)
    found["created"] += [first.create(name, b"\x00mine"), second.create(name, b"\x00other")]
    first.delete(name)
    return found


def race(conn_id: str, folder: str, processes: int, hosts: bool = False) -> list[str]:
    """Ask for a token in several processes at the same moment; return what each has got.

    With ``hosts`` each of them has a cache folder of its own, as processes of several hosts have.
    """
    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.errors import VantageError

    begin, go = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                os.close(go)
                after_fork()
                if hosts:
                    os.environ["XDG_CACHE_HOME"] = f"{folder}-host-{number}"
                os.read(begin, 1)  # Ends when the parent closes the other end.
                try:
                    token = VantageHook(conn_id).get_token().reveal()
                except VantageError as error:
                    token = type(error).__name__
                Path(folder, str(number)).write_text(token)
            finally:
                os._exit(0)
        children.append(child)
    os.close(go)
    for child in children:
        os.waitpid(child, 0)
    return [path.read_text() for path in Path(folder).iterdir()]


class TokenTrigger(BaseTrigger):
    """Asks for a token, properly or by blocking the event loop."""

    def __init__(self, conn_id: str, blocking: bool) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.blocking = blocking

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "inside.TokenTrigger", {"conn_id": self.conn_id, "blocking": self.blocking}

    async def run(self) -> Any:
        from vantage_orchestration.airflow.hooks.vantage import VantageHook

        hook = VantageHook(self.conn_id)
        token = hook.get_token() if self.blocking else await hook.aget_token()
        yield TriggerEvent(repr(token))


def run_trigger(conn_id: str, blocking: bool = False, patience: float = 10.0) -> dict[str, Any]:
    """Run one trigger in a real triggerer's process, under its real supervisor.

    Args:
        conn_id: Connection.
        blocking: Ask in the way that blocks the event loop.
        patience: Seconds that the store waits for Airflow's answers.
    """
    from airflow.executors.workloads import RunTrigger
    from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
    from airflow.models.trigger import Trigger

    from vantage_orchestration.airflow import variables

    variables.PATIENCE = patience

    class Supervisor(TriggerRunnerSupervisor):
        def make_client(self) -> Client:
            return execution_client()

    triggerer = Supervisor.start(capacity=1)
    kwargs = Trigger.encrypt_kwargs({"conn_id": conn_id, "blocking": blocking})
    triggerer.creating_triggers.append(
        RunTrigger(id=1, classpath="inside.TokenTrigger", encrypted_kwargs=kwargs)
    )
    try:
        while triggerer.is_alive() and not (triggerer.events or triggerer.failed_triggers):
            foreign(triggerer, "_service_subprocess")(0.2)
        return {
            "events": [entry.event.payload for entry in triggerer.events],
            "failures": [error for _, error in triggerer.failed_triggers],
        }
    finally:
        triggerer.kill(escalation_delay=2.0, force=True)


class _Api(_InProcess):
    """Answers as the supervisor of ``dag.test()`` does, by the real API server."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def _handle_request(self, msg: Any, log: Any, req_id: int) -> None:
        from airflow.sdk.execution_time import comms, request_handlers

        # As a supervisor sends a task what its client has raised.
        found: Any = None
        for kind in ("GetConnection", "GetVariable", "GetVariableKeys", "PutVariable"):
            if isinstance(msg, getattr(comms, kind)):
                name = "".join(f"_{each.lower()}" if each.isupper() else each for each in kind)
                found, _ = getattr(request_handlers, f"handle{name}")(self._client, msg)
        self.line.messages.append(found)


def refused_twice(conn_id: str, trouble: str) -> list[str]:
    """Log in with a wrong password, and again while Airflow's Variables can't be read.

    Args:
        conn_id: Connection.
        trouble: What can't be read: ``api``, whose server answers 503, or ``table``.
    """
    from sqlalchemy import text

    from vantage_orchestration.airflow.hooks.vantage import VantageHook
    from vantage_orchestration.errors import CredentialsRejected

    def log_in() -> str:
        try:
            return repr(VantageHook(conn_id).get_token())
        except CredentialsRejected as error:
            return str(error)

    def rename(old: str, new: str) -> None:
        session = settings.Session()
        session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
        session.commit()

    foreign(Client.request, "retry").wait = wait_none()
    client = execution_client()
    with supervisor.set_supervisor_comms(_Api(client).line):  # type: ignore[arg-type]
        told = [log_in()]
    if trouble == "api":
        client = execution_client(refused=1_000)
    else:
        rename("variable", "variable_away")
    try:
        with supervisor.set_supervisor_comms(_Api(client).line):  # type: ignore[arg-type]
            return [*told, log_in()]
    finally:
        if trouble != "api":
            rename("variable_away", "variable")


def longest_request() -> float:
    """Return the seconds that a supervisor may take for a request, by Airflow's own settings."""
    from airflow.sdk.api import client

    waits = [min(client.API_RETRY_WAIT_MAX, 2.0**each) for each in range(client.API_RETRIES - 1)]
    return client.API_RETRIES * client.API_TIMEOUT + sum(waits)


@contextlib.contextmanager
def keeping_variables() -> Iterator[None]:
    """Let the database refuse to delete Variables."""
    from sqlalchemy import text

    session = settings.Session()
    refuse = "BEGIN SELECT RAISE(ABORT, 'made-up text of the database'); END"
    session.execute(text(f"CREATE TRIGGER kept BEFORE DELETE ON variable {refuse}"))
    session.commit()
    try:
        yield
    finally:
        session.execute(text("DROP TRIGGER kept"))
        session.commit()


def loaded_credential(name: str, forget: bool = False, kept: bool = False) -> dict[str, Any]:
    """Read a connection and what is stored for it, as the command ``token`` does.

    Args:
        name: Id of the connection.
        forget: Remove what is stored first.
        kept: The database refuses that.
    """
    from vantage_orchestration.airflow.stored_connection import load_config
    from vantage_orchestration.errors import ConfigurationError, StateUnavailable
    from vantage_orchestration.token.access import SYSTEM_CLOCK
    from vantage_orchestration.token.cache import TokenCache

    try:
        config, orchestrator = load_config(name)
    except ConfigurationError as error:
        return {"error": str(error), "context": str(error.__context__)}
    store = config.open_store(orchestrator)
    cache = TokenCache(store, config.credentials, SYSTEM_CLOCK)
    if forget:
        try:
            with keeping_variables() if kept else contextlib.nullcontext():
                cache.forget()
        except StateUnavailable as error:
            return {"error": str(error)}
    return {
        "username": config.credentials.username,
        "label": store.label,
        "found": type(cache.load(0.0)).__name__,
    }


# --------------------------------------------------------------------- runs


def start_run(dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
    """Make a run, as *Trigger* does."""
    dag = SerializedDagModel.get_dag(dag_id)
    dag.create_dagrun(
        run_id=run_id,
        run_after=timezone.utcnow(),
        conf=conf,
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.QUEUED,
    )


def work(dag_id: str, run_id: str, retries: bool = False, refused: int = 0) -> dict[str, Any]:
    """Run all tasks that can run: scheduler and executor in one, with the real supervisor.

    Args:
        dag_id: Dag.
        run_id: Run.
        retries: Let the wait before each retry pass at once; else stop at it.
        refused: See :func:`execution_client`.
    """
    # As the program that runs one task in a container of its own does: stdout is masked as well.
    configure_logging(output=sys.stdout.buffer, json_output=True)
    session = settings.Session()
    client = execution_client(refused)
    idle = 0
    while True:
        session.expire_all()
        run = _run(session, dag_id, run_id)
        run.dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session=session)
        if run.state == DagRunState.QUEUED:
            run.state = DagRunState.RUNNING
            run.start_date = run.start_date or timezone.utcnow()
        if retries:
            for task in run.get_task_instances(session=session):
                if task.state == TaskInstanceState.UP_FOR_RETRY and task.end_date:
                    task.end_date -= timedelta(days=1)
        ready, _ = run.update_state(session=session)
        run.schedule_tis(ready, session=session)
        session.commit()
        session.expire_all()
        tasks = run.get_task_instances(state=[TaskInstanceState.SCHEDULED], session=session)
        # Twice, since the first look may only have found that others can't run any more.
        idle = 0 if tasks else idle + 1
        if idle == 2:
            return report(dag_id, run_id)
        for task in sorted(tasks, key=lambda item: (item.task_id, item.map_index)):
            task.state = TaskInstanceState.QUEUED
            session.commit()
            workload = ExecuteTask.make(task)
            code = supervisor.supervise_task(
                ti=workload.ti,
                bundle_info=workload.bundle_info,
                dag_rel_path=workload.dag_rel_path,
                token="",
                client=client,
                log_path=workload.log_path,
                subprocess_logs_to_stdout=True,
            )
            if code:
                # Its process was killed. The scheduler is told by the executor and does this.
                session.refresh(task)
                task.task = run.dag.get_task(task.task_id)
                task.handle_failure(error=f"exit code {code}", session=session)
                session.commit()


def run(dag_id: str, run_id: str, conf: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Make a run and work on it."""
    start_run(dag_id, run_id, conf)
    return work(dag_id, run_id, **options)


def clear(dag_id: str, run_id: str, task_ids: list[str] | None = None) -> None:
    """Clear a run or tasks of it, as *Clear* does."""
    from airflow.models.taskinstance import clear_task_instances

    session = settings.Session()
    tasks = [
        task
        for task in _run(session, dag_id, run_id).get_task_instances(session=session)
        if task_ids is None or task.task_id in task_ids
    ]
    clear_task_instances(tasks, session)
    session.commit()


def report(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return the state of a run and of its tasks."""
    session = settings.Session()
    session.expire_all()
    run = _run(session, dag_id, run_id)
    return {
        "state": str(run.state),
        "run_after": run.run_after.isoformat(),
        "start_date": run.start_date.isoformat() if run.start_date else None,
        "tasks": {
            f"{task.task_id}[{task.map_index}]": [str(task.state), task.try_number]
            for task in run.get_task_instances(session=session)
        },
        "names": sorted(
            task.rendered_map_index or ""
            for task in run.get_task_instances(session=session)
            if task.map_index >= 0
        ),
    }


def xcom(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
    """Return what a task has returned."""
    value = settings.Session().scalar(
        select(XComModel.value).where(
            XComModel.dag_id == dag_id,
            XComModel.run_id == run_id,
            XComModel.task_id == task_id,
            XComModel.map_index == map_index,
            XComModel.key == "return_value",
        )
    )
    return json.loads(value) if isinstance(value, str) else value


def rendered(dag_id: str, run_id: str) -> list[Any]:
    """Return the rendered template fields of all tasks of a run."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Fields

    query = select(Fields.rendered_fields).where(Fields.dag_id == dag_id, Fields.run_id == run_id)
    return list(settings.Session().scalars(query))


def _run(session: Any, dag_id: str, run_id: str) -> DagRun:
    return session.scalars(
        select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    ).one()


# ---------------------------------------------------------------------- API


def call_api(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send authenticated requests to the real API server's application."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    with TestClient(create_app(), base_url="http://testserver") as client:
        token = client.get("/auth/token").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        replies = []
        for call in calls:
            reply = client.request(call["method"], call["path"], json=call.get("json"))
            replies.append({"status": reply.status_code, "json": reply.json()})
        return replies


def uris_of(conn_types: list[str]) -> list[str]:
    """Write connections of these types as URIs, as Airflow's servers do at each lookup."""
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    # As the servers do after that.
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    return [Connection(conn_id="a", conn_type=each).get_uri() for each in conn_types]
