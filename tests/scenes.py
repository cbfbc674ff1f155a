# SPDX-License-Identifier: Apache-2.0
"""Cases in which a running orchestrator is disturbed, each on a sandbox of its own.

In each of them documents are processed by one run, which is disturbed at some point and goes on.
What came of it is counted on the sandbox's side.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import requests
from patience import wait_until
from pdfs import make_invoice
from pypdf import PdfWriter

from vantage_orchestration.processing.ledger import FOLDER
from vantage_orchestration.sandbox import SandboxServer

#: Seconds for which the sandbox keeps a request that is to be caught: the test ends before.
FOR_EVER = 3600.0
INPUTS = 3
ONCE = {f"{number}.pdf": 1 for number in range(1, INPUTS + 1)}
TWICE = {f"{number}.pdf": 2 for number in range(1, INPUTS + 1)}


@dataclass(frozen=True)
class Case:
    """What is done in a case, and what has to come of it.

    Attributes:
        steps: What is done; its name is that of the case. It takes the scene and what all share.
        starts: How often each input is to be started.
        settings: Of the sandbox. What was started stays in work until :meth:`Scene.release`.
        extra_lines: Lines of text on the last input.
        padding: Bytes by which each input is larger.
    """

    steps: Callable[..., None]
    starts: Mapping[str, int] = field(default_factory=lambda: ONCE)
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra_lines: tuple[str, ...] = ()
    padding: int = 0

    @property
    def name(self) -> str:
        return self.steps.__name__


class Scene(ABC):
    """A run and its sandbox.

    Args:
        case: What is done.
        folder: Empty folder for inputs and output.
        seed: Of the sandbox; another one for each scene.
    """

    def __init__(self, case: Case, folder: Path, seed: int) -> None:
        self.name = case.name
        self.inputs = folder / "in"
        self.output = folder / "out"
        self.inputs.mkdir(parents=True)
        for number in range(1, INPUTS + 1):
            last = number == INPUTS
            path = make_invoice(
                self.inputs / f"{number}.pdf",
                f"INV-{number}",
                extra_lines=case.extra_lines if last else (),
            )
            if case.padding:
                pad(path, number, case.padding)
        self.sandbox = SandboxServer(
            seed=seed,
            password=f"a made-up password & more %{seed}",
            client_secret=f"a made-up secret + more {seed}",
            processing_seconds=FOR_EVER,
            processing_polls=0,
            **case.settings,
        )
        self.control = self.sandbox.control

    def begin(self) -> None:
        """Start the sandbox; the run comes later, so that faults can be made."""
        self.sandbox.start()
        self.control = self.sandbox.control

    def stop(self) -> None:
        self.sandbox.stop()

    @abstractmethod
    def log(self) -> str:
        """Return the logs of all tries of the run."""

    @abstractmethod
    def check(self) -> None:
        """Raise AssertionError if the run has failed for good."""

    # ---------------------------------------------------------------- steps

    def catch(self, operation: str, *, times: int = INPUTS, **rule: Any) -> None:
        """Let the next requests of this kind come in, and don't answer them."""
        self.control.add_fault(operation=operation, times=times, **{"delay": FOR_EVER, **rule})

    def caught(self, times: int = INPUTS) -> None:
        """Wait until these requests have come in."""
        self.until(lambda: self.control.faults()[-1]["hits"] >= times, "the requests to be caught")

    def until(self, condition: Callable[[], Any], what: str, *, ended: bool = False) -> Any:
        """Wait for a condition, and return what it gave.

        Args:
            condition: What is to become true.
            what: What is waited for.
            ended: Whether the run may have failed before.
        """

        def there() -> Any:
            if not ended:
                self.check()
            return condition()

        return wait_until(there, lambda: f"{self.name}: {what}\n{self.log()}")

    def made(self) -> None:
        """Wait until all transactions have been made, and none was started."""
        self.until(lambda: len(self.left_over()) == INPUTS, "the transactions to be made")

    def arrived(self) -> None:
        """Wait until all transactions have their file."""
        self.until(
            lambda: [len(each["files"]) for each in self.control.transactions()] == [1] * INPUTS,
            "the files to arrive",
        )

    def started(self, number: int = INPUTS) -> None:
        """Wait until so many transactions have been started."""
        self.until(
            lambda: sum(each["status"] != "New" for each in self.control.transactions()) >= number,
            f"{number} transactions to be started",
        )

    def asked(self) -> None:
        """Wait until somebody asks about the transactions from now on, more than once."""
        begin = max((entry["seq"] for entry in self.control.journal()), default=0)
        self.until(
            lambda: self.control.count("GET", "/transactions/", since=begin) >= 2,
            "somebody to ask about the transactions",
        )

    def some_downloaded(self) -> None:
        """Wait until the first bytes of a result were sent."""
        self.until(
            lambda: any(each["response_bytes"] for each in self.requests("downloadResultFile")),
            "the first bytes of a result",
        )

    def in_review(self) -> str:
        """Wait until a transaction waits for a person; return its id."""
        found = self.until(
            lambda: [each["id"] for each in self.control.transactions() if each["in_review"]],
            "a review",
        )
        return str(found[0])

    def release(self) -> None:
        """Let the service finish its work."""
        self.control.set(processing_seconds=0.0)

    # -------------------------------------------------------------- outcome

    def starts(self) -> dict[str, int]:
        """Return for each input how often the service has started a transaction with it."""
        return starts_of(self.control.journal(), self.digests())

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each input."""
        paths = sorted(self.inputs.iterdir())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

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

    def served(self) -> dict[str, bytes]:
        """Return by result file id what the sandbox serves."""
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
                        found[file["fileId"]] = session.get(url, timeout=60).content
            return found

    def manifest(self) -> dict[str, Any]:
        """Return the job's manifest."""
        found: dict[str, Any] = json.loads((self.output / "manifest.json").read_text())
        return found

    def files(self) -> dict[str, bytes]:
        """Return all files in the output folder by their paths."""
        return {
            str(path.relative_to(self.output)): path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if path.is_file()
        }

    # --------------------------------------------------------------- checks

    def check_charges(self, starts: Mapping[str, int], *, late: bool = False) -> None:
        """Check that each input was started that often, and that nothing is left over.

        Args:
            starts: How often each input is to be started.
            late: Whether the service may have been asked to start one a second time, and refused.
        """
        transactions = self.control.transactions()
        assert self.starts() == starts
        assert self.requests("launchTransaction") == []
        assert self.left_over() == []
        assert len(transactions) == INPUTS
        assert {each["status"] for each in transactions} <= {"Processed", "Processing"}
        if not late:
            assert {each["started"] for each in transactions} == {1}

    def check_results(self, *, folders_are_ids: bool = False) -> None:
        """Compare the output folder with what the service has.

        Args:
            folders_are_ids: Results were fetched by transaction id, so that the names of the inputs
                are not known.
        """
        files = self.files()
        manifest = self.manifest()
        transactions = self.control.transactions()
        named = {
            f"{entry['folder']}/{file['path']}": file
            for entry in manifest["transactions"]
            for document in entry["documents"]
            for file in document["files"]
        }
        if folders_are_ids:
            folders = [entry["folder"] for entry in manifest["transactions"]]
            assert sorted(folders) == sorted(each["id"] for each in transactions)
        else:
            sources = [
                each["name"] for entry in manifest["transactions"] for each in entry["sources"]
            ]
            assert sorted(sources) == sorted(ONCE)
        manifests = {f"{entry['folder']}/manifest.json" for entry in manifest["transactions"]}
        notes = {path for path in files if path.startswith(f"{FOLDER}/")}
        assert bool(notes) != folders_are_ids, "notes are kept by whoever sends the files"
        expected = {"manifest.json", *manifests, *named, *notes}
        # Trials of other releases run without pytest, which would show the difference.
        assert set(files) == expected, f"{sorted(set(files) ^ expected)}\n{self.log()}"
        if not transactions[0]["deleted"]:
            contents = list(self.served().values())
            assert len(contents) == INPUTS * 2
            assert sorted(files[path] for path in named) == sorted(contents)
        for path, file in named.items():
            assert len(files[path]) == file["size"]


SceneT = TypeVar("SceneT", bound=Scene)


class Matrix(Generic[SceneT]):
    """All cases, in work at the same time.

    Args:
        scenes: Scenes by name, whose sandboxes have been started.
        cases: Cases by name.
        shared: Given to the steps of each case.
    """

    def __init__(
        self, scenes: Mapping[str, SceneT], cases: Mapping[str, Case], shared: Any
    ) -> None:
        self.scenes = scenes
        self.shared = shared
        self.pool = ThreadPoolExecutor(len(scenes))
        self.running: dict[str, Future[None]] = {
            name: self.pool.submit(cases[name].steps, scene, shared)
            for name, scene in scenes.items()
        }

    def done(self, name: str) -> SceneT:
        """Return a scene when its case has been gone through; raise what went wrong."""
        self.running[name].result()
        return self.scenes[name]

    def all_done(self) -> None:
        """Wait for the end of all cases, good or bad."""
        for future in self.running.values():
            future.exception()

    def close(self) -> None:
        """Wait for what has been begun, and begin nothing more."""
        self.pool.shutdown(cancel_futures=True)


def starts_of(journal: Iterable[Mapping[str, Any]], digests: Mapping[str, str]) -> dict[str, int]:
    """Return how often a sandbox has started a transaction with each of these files.

    Args:
        journal: Requests that the sandbox has seen.
        digests: SHA-256 of each file by its name.
    """
    sent = {
        (entry["transaction_id"], file["sha256"])
        for entry in journal
        if entry["operation"] == "addFiles"
        for file in entry["files"]
    }
    begun = [
        entry["transaction_id"]
        for entry in journal
        if entry["operation"] == "startTransaction"
        # A request that was caught after the work has no reply, but was carried out.
        and ((entry["status"] or 0) // 100 == 2 or " after:" in (entry["fault"] or ""))
    ]
    return {name: sum((each, digest) in sent for each in begun) for name, digest in digests.items()}


def secrets_of(scenes: Iterable[Scene]) -> set[str]:
    """Return passwords, client secrets, tokens and review links of all sandboxes."""
    found: set[str] = set()
    issued: set[str] = set()
    for scene in scenes:
        account = scene.sandbox.credentials
        found |= {account["password"], account["client_secret"]}
        issued |= set(scene.control.issued_secrets())
    assert [each for each in issued if each.startswith("eyJ")], "no token was issued"
    assert [each for each in issued if not each.startswith("eyJ")], "no review link was issued"
    return found | issued


def pad(path: Path, number: int, size: int) -> None:
    """Make a PDF larger, with what can't be compressed."""
    writer = PdfWriter(clone_from=path)
    writer.add_attachment("padding.bin", random.Random(number).randbytes(size))
    writer.write(path)
