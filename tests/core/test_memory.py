# SPDX-License-Identifier: Apache-2.0
"""A gigabyte goes up and comes down without filling the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

GIGABYTE = 1024**3
MOST = 64 * 1024**2

WORKER = """
    import json, os, sys
    from vantage_orchestration.client import VantageClient
    from vantage_orchestration.models import TransactionDocument

    def peak():
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    path, skill, target = sys.argv[1:]
    client = VantageClient.from_env()
    # Once with a small file, so that everything is loaded before the measurement.
    small = client.create_transaction(skill).id
    client.add_files(small, [os.path.realpath(sys.executable)])  # Links may lead out of a folder.
    before = peak()
    transaction = client.create_transaction(skill).id
    client.add_files(transaction, [path])
    up = peak()
    document = client.list_documents(transaction)[0]
    client.download_source_file(transaction, document.id, document.source_files[0].id, target)
    print(json.dumps({"before": before, "up": up, "down": peak(), "transaction": transaction}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_a_gigabyte_streams_both_ways(sandbox, tmp_path):
    big, target = tmp_path / "big.pdf", tmp_path / "copy.pdf"
    with big.open("wb") as stream:
        stream.truncate(GIGABYTE)
        stream.seek(GIGABYTE // 2)
        stream.write(b"not only zeros")
    account = {f"ABBYY_VANTAGE_{k.upper()}": v for k, v in sandbox.credentials.items()}
    account |= {"ABBYY_VANTAGE_TENANT_ID": "", "ABBYY_VANTAGE_BASE_URL": sandbox.url}
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(WORKER),
                str(big),
                sandbox.control.skill_id("Invoice"),
                str(target),
            ],
            env={**os.environ, **account},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen = json.loads(done.stdout)
        (file,) = sandbox.control.transaction(seen["transaction"])["files"]
        assert file["size"] == GIGABYTE
        assert file["sha256"] == digest(big) == digest(target)
        assert seen["up"] - seen["before"] < MOST
        assert seen["down"] - seen["before"] < MOST
    finally:
        big.unlink()
        target.unlink(missing_ok=True)


def digest(path: Path) -> str:
    import hashlib

    value = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1024 * 1024):
            value.update(chunk)
    return value.hexdigest()
