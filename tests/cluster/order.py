# SPDX-License-Identifier: Apache-2.0
"""Documents that have to be paid for once: their sandbox, their places, and what came of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from engines import Bucket
from patience import wait_until
from pdfs import make_invoice
from scenes import FOR_EVER, pad, starts_of

from vantage_orchestration.sandbox import SandboxServer

#: Folders of most orders.
PARTS = 8
#: More bytes than are on their way before a server has begun to read.
PADDING = 3_000_000
#: Seconds that each file takes at least, so that there is time to kill somebody meanwhile.
UPLOAD = 8.0
#: Seconds that an engine is gone.
OUTAGE = 12


class Order:
    """Invoices in folders of a bucket, each folder for one task, and a service of their own.

    What was started stays in work until :meth:`release`.

    Args:
        name: Of this order; the folder in the bucket.
        bucket: Where inputs and results lie.
        parts: Number of folders.
        each: Invoices in each folder.
        padding: Bytes by which each invoice is larger.
        settings: Of the sandbox.
    """

    def __init__(
        self,
        name: str,
        bucket: Bucket,
        parts: int,
        each: int,
        padding: int = 0,
        **settings: Any,
    ) -> None:
        self.name = name
        self.bucket = bucket
        self.parts = parts
        self.count = parts * each
        self.digests: dict[str, str] = {}
        seed = int.from_bytes(name.encode()[:6], "big")
        with tempfile.TemporaryDirectory() as folder:
            for part in range(parts):
                for number in range(each):
                    path = Path(folder) / f"{part}-{number}.pdf"
                    make_invoice(path, f"INV-{path.stem}")
                    if padding:
                        pad(path, part * each + number, padding)
                    self.digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                    bucket.put(path, f"{name}/in/{part}/{path.name}")
        options = {"seed": seed, "processing_seconds": FOR_EVER, "processing_polls": 0}
        self.sandbox = SandboxServer(**{**options, **settings}).start()
        self.control = self.sandbox.control

    def stop(self) -> None:
        self.sandbox.stop()

    def release(self) -> None:
        """Let the service finish its work."""
        self.control.set(processing_seconds=0.0)

    def journal(self, operation: str) -> list[dict[str, Any]]:
        """Return the requests of one kind."""
        return [each for each in self.control.journal() if each["operation"] == operation]

    def logins(self) -> int:
        """Return the number of requests for a token."""
        return self.control.count("POST", "/connect/token$")

    def started(self) -> int:
        """Return how many transactions have been started."""
        return sum(each["status"] != "New" for each in self.control.transactions())

    def uploading(self) -> set[str]:
        """Return the parts of which a file is just being sent."""
        parts = {
            each["id"]: each["registration_parameters"].get("part")
            for each in self.control.transactions()
        }
        sent = [each for each in self.journal("addFiles") if not each["finished"]]
        return {str(parts.get(each["path"].split("/")[-2])) for each in sent}

    def cut(self, parts: set[str]) -> int:
        """Return how many files of these parts a host that is dead has left behind, not started.

        What it was sending then may have arrived whole, or not: both count, once it is over.
        """
        self.wait(lambda: not self.uploading() & parts, "the uploads of the dead host to end")
        left = [
            each
            for each in self.control.transactions()
            if each["status"] == "New" and each["registration_parameters"].get("part") in parts
        ]
        assert left, "the host had sent and started all its files before it was killed"
        return len(left)

    def wait(self, condition: Callable[[], Any], what: str, patience: float = 300) -> Any:
        """Wait for a condition; what became of the order is told if it does not come."""
        return wait_until(condition, lambda: f"{self.name}: {what}; {self.told()}", patience)

    def told(self) -> str:
        """Return in a line what the service has seen."""
        transactions = self.control.transactions()
        states = sorted({each["status"] for each in transactions})
        counts = {each: sum(one["status"] == each for one in transactions) for each in states}
        return f"{len(transactions)} transactions {counts}, {self.logins()} logins"

    def check(self) -> str:
        """Check that each document was charged once and that all results are there.

        Returns:
            What was seen, in a line.
        """
        starts = starts_of(self.control.journal(), self.digests)
        wrong = {name: number for name, number in starts.items() if number != 1}
        assert not wrong, f"started not once: {wrong}"
        assert not self.journal("launchTransaction")
        transactions = self.control.transactions()
        empty = sum(each["status"] == "New" and not each["deleted"] for each in transactions)
        landed: set[str] = set()
        for part in range(self.parts):
            landed |= self._landed(part)
        assert landed == set(self.digests), f"missing: {set(self.digests) - landed}"
        return (
            f"{self.count} of {self.count} documents charged once and landed; "
            f"{empty} empty transactions left; {self.logins()} logins"
        )

    def _landed(self, part: int) -> set[str]:
        """Return the documents of which a folder has the right results."""
        base = f"{self.name}/out/{part}"
        found = set()
        for entry in json.loads(self.bucket.read(f"{base}/manifest.json"))["transactions"]:
            [source] = [each["name"] for each in entry["sources"]]
            files = [file for document in entry["documents"] for file in document["files"]]
            contents = [
                self.bucket.read(f"{base}/{entry['folder']}/{file['path']}") for file in files
            ]
            for file, content in zip(files, contents, strict=True):
                assert hashlib.sha256(content).hexdigest() == file["sha256"], file
            # The sandbox writes into the fields what it was sent.
            assert any(self.digests[source].encode() in content for content in contents), source
            found.add(source)
        return found


class Cluster(Protocol):
    """An orchestrator on several hosts."""

    bucket: Bucket

    def connect(self, name: str, sandbox: SandboxServer, **changes: Any) -> object:
        """Store a connection or a block for a sandbox."""


@contextlib.contextmanager
def ordered(
    cluster: Cluster, name: str, each: int, padding: int = 0, *, parts: int = PARTS, **account: Any
) -> Iterator[Order]:
    """Make an order, and a connection or a block of the same name."""
    order = Order(name, cluster.bucket, parts, each, padding)
    try:
        cluster.connect(name, order.sandbox, **account)
        yield order
    finally:
        order.stop()


def wrong_passwords(cluster: Cluster, attempt: Callable[[Order], int]) -> str:
    """Log in with a wrong password, with each store that hosts can have.

    Args:
        cluster: An orchestrator.
        attempt: Runs an order, waits until all of it has failed, and returns the number of hosts.
    """
    seen = []
    for store in ("file", "orchestrator"):
        with ordered(cluster, f"wrong-{store}", 1, password="wrong", store=store) as order:
            hosts = attempt(order)
            assert not order.control.transactions()
            told = f"store `{store}`, requests for a token: {order.logins()}, on {hosts} hosts"
            assert order.logins() <= (hosts if store == "file" else 1), told
            seen.append(told)
    return "; ".join(seen)
