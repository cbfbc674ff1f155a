# SPDX-License-Identifier: Apache-2.0
"""One case of the crash matrix: a run of a Dag on a sandbox of its own, and what is left of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
from pdfs import make_invoice
from pypdf import PdfWriter
from test_airflow.live.running import Run, Running, kill, wait_until

from vantage_orchestration.sandbox import SandboxServer

#: Seconds for which the sandbox keeps a request that is to be caught: the test ends before.
FOR_EVER = 3600.0
INPUTS = 3


class Scene:
    """A run and its sandbox.

    Args:
        airflow: Airflow.
        name: Name, unique; run and connection are named so.
        folder: Empty folder for inputs and output.
        dag_id: Dag.
        settings: Of the sandbox. What was started stays in work until :meth:`release`.
        extra_lines: Lines of text on the last input.
        padding: Bytes by which each input is larger.
    """

    def __init__(
        self,
        airflow: Running,
        name: str,
        folder: Path,
        *,
        seed: int,
        dag_id: str = "crash",
        settings: Mapping[str, Any] | None = None,
        extra_lines: tuple[str, ...] = (),
        padding: int = 0,
    ) -> None:
        self.airflow = airflow
        self.name = name
        self.dag_id = dag_id
        self.inputs = folder / "in"
        self.output = folder / "out"
        self.inputs.mkdir(parents=True)
        for number in range(1, INPUTS + 1):
            last = number == INPUTS
            path = make_invoice(
                self.inputs / f"{number}.pdf",
                f"INV-{number}",
                extra_lines=extra_lines if last else (),
            )
            if padding:
                _pad(path, number, padding)
        self.sandbox = SandboxServer(
            seed=seed,
            password=f"a made-up password & more %{seed}",
            client_secret=f"a made-up secret + more {seed}",
            processing_seconds=FOR_EVER,
            processing_polls=0,
            **(settings or {}),
        )
        self.control = self.sandbox.control
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def begin(self) -> None:
        """Start the sandbox; the run comes later, so that faults can be made."""
        self.sandbox.start()
        self.control = self.sandbox.control

    def trigger(self) -> None:
        """Start the run."""
        # What is caught must not be given up before the test has killed somebody.
        self.airflow.connect(self.name, self.sandbox, read_timeout=600)
        conf = {
            "inputs": str(self.inputs / "*.pdf"),
            "output": str(self.output),
            "skill_id": self.control.skill_id("Invoice"),
            "conn_id": self.name,
        }
        self._run = self.airflow.trigger(self.dag_id, self.name, conf)

    def stop(self) -> None:
        self.sandbox.stop()

    # ---------------------------------------------------------------- steps

    def catch(self, operation: str, *, times: int = INPUTS, **rule: Any) -> None:
        """Let the next requests of this kind come in, and don't answer them."""
        self.control.add_fault(operation=operation, times=times, **{"delay": FOR_EVER, **rule})

    def caught(self, times: int = INPUTS) -> None:
        """Wait until these requests have come in."""
        self.until(lambda: self.control.faults()[-1]["hits"] >= times, "the requests to be caught")

    def until(self, condition: Callable[[], Any], what: str, *, ended: bool = False) -> None:
        """Wait for a condition.

        Args:
            condition: What is to become true.
            what: What is waited for.
            ended: Whether the task may have ended before.
        """

        def there() -> Any:
            if not ended and self.run.task(0.0).get("state") == "failed":
                raise AssertionError(f"{self.name}: the task has failed\n{self.run.log()}")
            return condition()

        wait_until(there, lambda: f"{self.name}: {what}\n{self.run.log()}")

    def started(self, number: int = INPUTS) -> None:
        """Wait until so many transactions have been started."""
        self.until(
            lambda: sum(each["status"] != "New" for each in self.control.transactions()) >= number,
            f"{number} transactions to be started",
        )

    def kill(self, *, whole: bool) -> None:
        """Kill the worker with -9, and let the next try's requests pass.

        Args:
            whole: Kill the executor's process as well, which would tell of the task's end. The
                scheduler then learns of it by the missing signs of life.
        """
        runner, supervisor = self.airflow.worker_of(self.run.when("running"))
        kill(*([supervisor, runner] if whole else [runner]))
        self.control.clear_faults()

    def deferred(self, try_number: int = 0) -> None:
        """Wait until the task is deferred, and its trigger has asked about the transactions."""
        self.run.when("deferred", try_number=try_number)
        self.asked()

    def asked(self) -> None:
        """Wait until somebody asks about the transactions from now on, more than once."""
        begin = max((entry["seq"] for entry in self.control.journal()), default=0)
        self.until(
            lambda: self.control.count("GET", "/transactions/", since=begin) >= 2,
            "the trigger to ask",
        )

    def release(self) -> None:
        """Let the service finish its work."""
        self.control.set(processing_seconds=0.0)

    def finish(self, try_number: int = 0) -> dict[str, Any]:
        """Let the service finish its work, and wait until the run has ended."""
        self.release()
        return self.end(try_number)

    def end(self, try_number: int = 0) -> dict[str, Any]:
        """Wait until the task has ended well, and its run with it."""
        task = self.run.when("success", "failed", try_number=try_number)
        assert task["state"] == "success", f"{self.name}\n{self.run.log()}"
        self.until(lambda: self.run.state == "success", "the run to end")
        return task

    # -------------------------------------------------------------- outcome

    def starts(self) -> dict[str, int]:
        """Return for each input how often the service has started a transaction with it."""
        sent = {
            (entry["transaction_id"], file["sha256"])
            for entry in self.requests("addFiles")
            for file in entry["files"]
        }
        begun = [
            entry["transaction_id"]
            for entry in self.requests("startTransaction")
            # A request that was caught after the work has no reply, but was carried out.
            if (entry["status"] or 0) // 100 == 2 or " after:" in (entry["fault"] or "")
        ]
        digests = {path.name: _sha256(path.read_bytes()) for path in self.inputs.iterdir()}
        return {
            name: sum((each, digest) in sent for each in begun)
            for name, digest in sorted(digests.items())
        }

    def left_over(self) -> list[str]:
        """Return transactions that were made and never started."""
        return [
            each["id"]
            for each in self.control.transactions()
            if each["status"] == "New" and not each["deleted"]
        ]

    def requests(self, operation: str) -> list[dict[str, Any]]:
        """Return the requests of one kind."""
        return [each for each in self.control.journal() if each["operation"] == operation]

    def served(self) -> dict[str, tuple[str, bytes]]:
        """Return by result file id what the sandbox serves: document id and content."""
        account = self.sandbox.credentials
        with requests.Session() as session:
            session.trust_env = False
            reply = session.post(
                f"{self.sandbox.url}/auth2/connect/token",
                data={
                    "grant_type": "password",
                    "scope": "openid permissions global.wildcard",
                    **{name: account[name] for name in ("username", "password", "client_id")},
                    "client_secret": account["client_secret"],
                },
                timeout=60,
            )
            session.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"
            base = f"{self.sandbox.url}/api/publicapi/v1/transactions"
            found = {}
            for each in self.control.transactions():
                if each["deleted"] or each["status"] == "New":
                    continue
                told = session.get(f"{base}/{each['id']}", timeout=60).json()
                for document in told["documents"]:
                    for file in document["resultFiles"]:
                        url = f"{base}/{each['id']}/files/{file['fileId']}/download"
                        content = session.get(url, timeout=60).content
                        found[file["fileId"]] = (document["id"], content)
            return found

    def manifest(self) -> dict[str, Any]:
        """Return the job's manifest."""
        return json.loads((self.output / "manifest.json").read_text())

    def files(self) -> dict[str, bytes]:
        """Return all files in the output folder by their paths."""
        return {
            str(path.relative_to(self.output)): path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if path.is_file()
        }


def _pad(path: Path, number: int, size: int) -> None:
    """Make a PDF larger, with what can't be compressed."""
    writer = PdfWriter(clone_from=path)
    writer.add_attachment("padding.bin", random.Random(number).randbytes(size))
    writer.write(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
