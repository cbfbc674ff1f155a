# SPDX-License-Identifier: Apache-2.0
"""Send real documents through Apache Airflow and Prefect, on the sandbox of this package.

Starts everything itself (the sandbox, an Airflow database, a Prefect server), runs the DAG of
``dags/`` and the flow of ``flows/`` as they are, and shows what came back. Ends every process that
it started, also on Ctrl-C. Nothing is kept but the results and logs in ``build/demo``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import requests
from rich import box
from rich.console import Console
from rich.table import Table

from vantage_orchestration.processing.manifest import Manifest
from vantage_orchestration.sandbox import SandboxControl
from vantage_orchestration.text import counted

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ROOT / "demo" / "documents"
BUILD = ROOT / "build" / "demo"
BIN = Path(sys.executable).parent
#: Seconds after which a step is given up; a first start on a slow machine takes a while.
PATIENCE = 300.0
SKILL = "Invoice"
#: Columns that are shown, and their headings.
DOCUMENT_COLUMNS = {
    "source_name": "Document",
    "Invoice Number": "Number",
    "Invoice Date": "Date",
    "Supplier": "Supplier",
    "Total": "Total",
    "Currency": "",
}
ITEM_COLUMNS = {
    "document": "Document",
    "position": "No",
    "Description": "Description",
    "Quantity": "Quantity",
    "Unit Price": "Unit price",
    "Amount": "Amount",
}
#: Columns that may be broken into lines.
LONG = {"source_name", "document", "Supplier", "Description"}

console = Console()


class DemoError(Exception):
    """A step did not work."""


class Ended(BaseException):
    """The demo was asked to end."""


class Processes:
    """Starts processes, each in a group of its own, and ends the whole groups."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``build/demo/NAME.log``."""
        with (BUILD / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def end_all(self) -> None:
        """End what still runs: politely first, and for certain after 10 seconds."""
        # A group may outlive its first process, so each is asked, also those that have ended.
        for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for process in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            end = time.monotonic() + seconds
            while any(map(self._alive, self._running)) and time.monotonic() < end:
                time.sleep(0.05)
            self._running = [process for process in self._running if self._alive(process)]

    @staticmethod
    def _alive(process: subprocess.Popen[bytes]) -> bool:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


@dataclass
class Outcome:
    """What one orchestrator brought back."""

    name: str
    manifest: Manifest
    logins: int
    started: int


class Demo:
    """The demo, step by step."""

    def __init__(self, processes: Processes, work: Path) -> None:
        self.processes = processes
        self.work = work
        self.files = sorted(DOCUMENTS.glob("*.pdf"))
        self.env = {
            **os.environ,
            "HOME": str(work),  # What the orchestrators keep below it is this run's alone.
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "AIRFLOW_HOME": str(work / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PREFECT_HOME": str(work / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "DLT_DATA_DIR": str(work / "dlt"),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        # A user's own settings must not lead the demo to another server.
        for name in list(self.env):
            if name.startswith(("AIRFLOW_CONN_", "ABBYY_VANTAGE_", "PREFECT_API_", "XDG_")):
                del self.env[name]
        self.control = SandboxControl("")

    def run(self) -> list[Outcome]:
        """Do everything and return what came back."""
        self.start_sandbox()
        # It takes its time to come up, and Airflow has work to do meanwhile.
        server = self.start_prefect_server()
        return [self.run_airflow(), self.run_prefect(server)]

    def start_sandbox(self) -> None:
        ready = self.work / "sandbox.json"
        command = [str(BIN / "vantage-orchestration"), "sandbox", "--port", "0", "--quiet"]
        process = self.processes.start("sandbox", [*command, "--ready-file", str(ready)], self.env)
        self.wait("sandbox", process, ready.exists)
        self.control = SandboxControl(json.loads(ready.read_text())["url"])
        console.print(f"[bold]Sandbox[/]  stands in for ABBYY Vantage at {self.control.url}")

    # -- Airflow

    def run_airflow(self) -> Outcome:
        self.say("Airflow", "makes its database")
        self.call("airflow", "airflow", "db", "migrate")
        self.say("Airflow", "stores the connection abbyy_vantage_default in it")
        account = self.control.credentials()
        secret_file = self.work / "connections.json"
        connection = {
            "conn_type": "abbyy_vantage",
            "login": account["username"],
            "password": account["password"],
            "host": self.control.url,
            "extra": {
                "region": "custom",
                "client_id": account["client_id"],
                "client_secret": account["client_secret"],
            },
        }
        with private(secret_file) as stream:
            json.dump({"abbyy_vantage_default": connection}, stream)
        self.call("airflow", "airflow", "connections", "import", str(secret_file))
        secret_file.unlink()
        output = BUILD / "airflow"
        self.env |= {
            "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "False",  # Nothing but this one process runs.
            "ABBYY_VANTAGE_DAGS_INPUTS": str(DOCUMENTS),
            "ABBYY_VANTAGE_DAGS_OUTPUTS": str(output),
            "ABBYY_VANTAGE_DAGS_ASIDE": str(BUILD / "airflow-aside"),
        }
        return self.documents(
            "Airflow",
            "runs the DAG abbyy_vantage_nightly",
            output,
            [str(BIN / "airflow"), "dags", "test", "abbyy_vantage_nightly"],
        )

    # -- Prefect

    def start_prefect_server(self) -> subprocess.Popen[bytes]:
        port = str(free_port())
        self.env |= {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": port,
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        }
        command = [str(BIN / "prefect"), "server", "start", "--no-ui"]
        return self.processes.start("prefect-server", command, self.env)

    def run_prefect(self, server: subprocess.Popen[bytes]) -> Outcome:
        self.say("Prefect", "starts its server")

        def healthy() -> bool:
            with contextlib.suppress(requests.RequestException):
                url = f"{self.env['PREFECT_API_URL']}/health"
                return requests.get(url, timeout=2, proxies={"http": ""}).ok
            return False

        self.wait("prefect-server", server, healthy)
        self.say("Prefect", "saves the block abbyy-vantage in it")
        account = {
            key: self.control.credentials()[key]
            for key in ("username", "password", "client_id", "client_secret")
        }
        secret_file = self.work / "block.json"
        with private(secret_file) as stream:
            json.dump({"base_url": self.control.url, **account}, stream)
        code = (
            "import json, sys\n"
            "from vantage_orchestration.prefect import VantageCredentials\n"
            "fields = json.load(open(sys.argv[1]))\n"
            "VantageCredentials(region='custom', **fields).save('abbyy-vantage', overwrite=True)\n"
        )
        self.call("prefect", "python", "-c", code, str(secret_file))
        secret_file.unlink()
        output = BUILD / "prefect"
        command = [sys.executable, str(ROOT / "flows" / "abbyy_vantage_nightly.py")]
        command += [str(DOCUMENTS), str(output), str(BUILD / "prefect-aside")]
        return self.documents("Prefect", "runs the flow abbyy-vantage-nightly", output, command)

    # -- what both need

    def documents(self, name: str, what: str, output: Path, command: list[str]) -> Outcome:
        """Run the command that sends the documents, and show how far they are."""
        self.say(name, what)
        known = {item["id"] for item in self.control.transactions()}
        logins = self.logins()
        # Each has a token store of its own; with one for both, the second would need no login.
        env = {
            **self.env,
            "XDG_CACHE_HOME": str(self.work / f"cache-{name.lower()}"),
            "DESTINATION__DUCKDB__CREDENTIALS": str(BUILD / f"{name.lower()}.duckdb"),
        }
        process = self.processes.start(name.lower(), command, env)
        shown = ""
        status = console.status("") if console.is_terminal else contextlib.nullcontext()
        with status as spinner:
            while True:
                ended = process.poll() is not None
                own = [i for i in self.control.transactions() if i["id"] not in known]
                count = sum(item["status"] == "Processed" for item in own)
                text = f"{name}: {len(own)} of {len(self.files)} sent, {count} processed"
                if text != shown and own:
                    shown = text
                    if spinner is not None:
                        spinner.update(text)
                    else:
                        console.print(f"         {text}")
                if ended:
                    break
                time.sleep(0.2)
        self.check(name.lower(), process.returncode)
        found = sorted(output.glob("*/manifest.json"))
        if len(found) != 1:
            raise DemoError(f"{name} has written no results; see build/demo/{name.lower()}.log")
        manifest = Manifest.open(found[0])
        started = sum(item["started"] for item in own)
        return Outcome(name, manifest, self.logins() - logins, started)

    def logins(self) -> int:
        return self.control.count(method="POST", path_regex=r"/connect/token$")

    def call(self, log: str, program: str, *arguments: str) -> None:
        """Run a program to its end."""
        process = self.processes.start(log, [str(BIN / program), *arguments], self.env)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{program} did not end; see build/demo/{log}.log") from None
        self.check(log, code)

    def wait(self, log: str, process: subprocess.Popen[bytes], ready: Any) -> None:
        """Wait until a server is ready."""
        end = time.monotonic() + PATIENCE
        while not ready():
            if process.poll() is not None:
                self.check(log, process.returncode or 1)
            if time.monotonic() > end:
                raise DemoError(f"{log} did not start; see build/demo/{log}.log")
            time.sleep(0.1)

    def check(self, log: str, code: int) -> None:
        if code:
            lines = (BUILD / f"{log}.log").read_text(errors="replace").splitlines()
            tail = "\n".join(lines[-25:])
            raise DemoError(f"{tail}\n\n{log} ended with status {code}; see build/demo/{log}.log")

    def say(self, name: str, what: str) -> None:
        console.print(f"[bold]{name:<8}[/] {what}")

    # -- the end

    def show(self, outcomes: list[Outcome]) -> bool:
        """Print rows and line items, as read back from the Parquet files.

        Returns:
            Whether each document came back once, as it was sent.
        """
        good = True
        for outcome in outcomes:
            rows = list(outcome.manifest.rows(skill=SKILL))
            files = {row["transaction_id"]: row["source_name"] for row in rows}
            items = [
                {"document": files[row["transaction_id"]], **row}
                for row in outcome.manifest.rows("documents.Items", skill=SKILL)
            ]
            console.print(_table(f"{outcome.name}: documents", DOCUMENT_COLUMNS, rows))
            console.print(_table(f"{outcome.name}: line items", ITEM_COLUMNS, items))
            good &= self.complete(outcome, rows) and len(items) == 2 * len(rows)
        for outcome in outcomes:
            counts = outcome.manifest.counts
            console.print(
                f"{outcome.name}: {counts['documents']} documents, {counts['pages']} pages,"
                f" {outcome.started} transactions started,"
                f" {counted(outcome.logins, 'login', 'logins')};"
                f" loaded into build/demo/{outcome.name.lower()}.duckdb."
            )
        console.print("Results and logs are in build/demo.")
        return good

    def complete(self, outcome: Outcome, rows: list[dict[str, Any]]) -> bool:
        """Return whether each document came back once, with the fields of that very file."""
        sent = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files}
        seen = {
            row["transaction_id"]: row["value"]
            for row in outcome.manifest.rows("documents.Source SHA-256", skill=SKILL)
        }
        back = {row["source_name"]: seen[row["transaction_id"]] for row in rows}
        same = all(row["source_sha256"] == seen[row["transaction_id"]] for row in rows)
        return same and back == sent and len(rows) == len(sent) == outcome.started


def _table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name, heading in columns.items():
        right = rows and isinstance(rows[0].get(name), (int, Decimal))
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=name not in LONG, overflow="fold"
        )
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in columns))
    return table


def _cell(name: str, value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:,.0f}" if name == "Quantity" else f"{value:,.2f}"
    return "" if value is None else str(value)


@contextlib.contextmanager
def private(path: Path) -> Iterator[Any]:
    """Open a new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        yield stream


def free_port() -> int:
    """Return a port on which nobody listens, and that the system gives to nobody meanwhile."""
    while True:
        port = 16_000 + secrets.randbelow(16_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def main() -> int:
    """Run the demo.

    Returns:
        0 if every document came back as it was sent, 1 if not, 130 after Ctrl-C.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    processes = Processes()
    work = Path(tempfile.mkdtemp(prefix="vantage-orchestration-demo-"))
    try:
        demo = Demo(processes, work)
        good = demo.show(demo.run())
    except DemoError as error:
        console.print("[bold red]The demo did not work:[/]")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except Ended:
        console.print("Ended; stopping what was started.")
        return 130
    else:
        if not good:
            console.print("[bold red]A document is missing, doubled or mixed up.[/]")
        return 0 if good else 1
    finally:
        # The end must not be cut short by another Ctrl-C.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        processes.end_all()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
